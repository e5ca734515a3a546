"""Several runs trained together in one program, each with a run folder, decisions and an end of its own.

A run of the stack that has ended keeps its slot, where nothing is kept of what it computes, until at most half of the
slots are alive: then the rest moves into a smaller stack, which is compiled anew.
"""

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from common import data, stacked
from common.checkpoint import Checkpoints
from common.errors import STOPPED, InputError
from common.evaluate import split_metrics
from common.log import Clock, Log, command_line, write_run_json
from common.loop import (
    Host,
    add_to_window,
    check_finite,
    note_best,
    note_trigger,
    out_of_patience,
    prepare_folder,
    write_train_line,
)
from common.metrics import Mean
from common.plan import Plan, make_plan
from common.processes import Signals
from common.stacked import groups
from common.state import TrainState, abstract_state
from common.step import NEVER
from common.task import Task

FAILED = 1


@dataclasses.dataclass(eq=False)
class Member:
    """One of the runs, on the host. step: steps done; state: there, None before the first. code: None while it goes on."""

    plan: Plan
    workdir: Path
    checkpoints: Checkpoints
    log: Log
    host: Host
    step: int
    state: TrainState | None
    code: int | None = None


@dataclasses.dataclass(eq=False)
class Stack:
    """Members that train in one program, a slot each. before: minutes of each until here; pending: metrics not yet read."""

    members: list[Member]
    clock: Clock
    batches: data.Batches | stacked.SideBySide
    before: list[float]
    say: Callable[[str], None]
    pending: tuple | None = None

    @property
    def plan(self) -> Plan:
        return self.members[0].plan

    def alive(self) -> list[tuple[int, Member]]:
        """Those that have not ended, with their slots."""
        return [(slot, member) for slot, member in enumerate(self.members) if member.code is None]


def train_together(
    configs: Sequence[ConfigDict],
    make_task: Callable[[ConfigDict], Task],
    workdirs: Sequence[Path],
    *,
    quiet: bool = False,
    deadline: float = math.inf,
) -> list[int]:
    """Trains the runs of one of `groups` to their ends, on the first device, each from its newest checkpoint where it has one.

    A run that has come further than others waits for them. make_task is called once, for all. Every folder becomes that of
    a run trained alone. deadline: as of `loop.train`. Returns each run's exit code: 0 done; 1 its loss was not finite, said
    in a line that begins with "error: FOLDER: "; 75 stopped by a signal or the deadline after saving. Raises InputError for
    bad input, and where the runs do not fit in one program.
    """
    if len(groups(configs)) != 1:
        raise InputError(f"{len(configs)} runs do not fit in one program; train those of a group of `groups` together")
    if jax.process_count() > 1:
        raise InputError(f"runs train together in one process, not in {jax.process_count()}; leave out --together")
    task = make_task(configs[0])
    if task.train_batch is None:  # all runs read the same examples: they are decoded once
        source = data.cached(task.train_source("train"), configs[0].data.get("cache_mb", 1024))
        task = task._replace(train_source=lambda split: source)
    examples = len(task.train_source("train"))
    say = lambda text: None if quiet else print(text, file=sys.stderr, flush=True)
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(Signals())
        members = []
        for config, workdir in zip(configs, workdirs, strict=True):
            members.append(open_run(stack, config, task, workdir, examples, len(configs)))
        names = stacked.differing([member.plan.config.optimizer for member in members])
        while going := [member for member in members if member.code is None]:
            step = min(member.step for member in going)
            until = min((m.step for m in going if m.step > step), default=going[0].plan.steps)
            if run_stack([m for m in going if m.step == step], until, names, examples, signals, deadline, say):
                break
        for member in members:
            if member.code is None:
                member.code = STOPPED
                say(f"{member.workdir}: stopped at step {member.step} of {member.plan.steps}, saved")
    return [member.code for member in members]


def open_run(
    stack: contextlib.ExitStack, config: ConfigDict, task: Task, workdir: Path, examples: int, runs: int
) -> Member:
    """A run at its newest checkpoint, its folder open until `stack` closes."""
    workdir = Path(workdir)
    plan = make_plan(stacked.on_one_device(config), task, examples=examples)
    prepare_folder(workdir, config)
    checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", plan.loop.keep))
    step, state, host = checkpoints.latest() or 0, None, Host()
    if step:
        state = checkpoints.restore(step, abstract_state(plan.make, plan.abstract_batch, plan.mesh))
        host = Host(**checkpoints.manifest(step)["host"])
    log = Log(workdir, start=step, steps=plan.steps, quiet=True)
    stack.callback(log.close)
    write_run_json(workdir, seed=config.seed, command=command_line(), steps=plan.steps, together=runs)
    done = step >= plan.steps or out_of_patience(plan.loop, host)
    return Member(plan, workdir, checkpoints, log, host, step, state, 0 if done else None)


def run_stack(
    members: list[Member],
    until: int,
    names: Sequence[str],
    examples: int,
    signals: Signals,
    deadline: float,
    say: Callable[[str], None],
) -> bool:
    """Trains members that are at one step: to step `until`, a signal, or where at most half of them are left. True where a
    signal (or the deadline) stopped them, after saving.

    names: of the numbers in which they differ. As in `loop.run_steps`, metrics are read while the next step runs.
    """
    plan, start, count = members[0].plan, members[0].step, len(members)
    seeds = list(dict.fromkeys(member.plan.config.seed for member in members))
    step_fn = stacked.make_steps(plan, examples, same_seed=len(seeds) == 1)
    eval_fn = stacked.make_evaluations(plan, count)
    constants = step_arguments(members, seeds, names)
    states, trigger = first_states(members), triggers(members)
    batches = stacked.open_batches(plan, seeds, start)
    stack = Stack(members, Clock(start, 0.0), batches, [member.host.minutes for member in members], say)
    try:
        for step in range(start + 1, until + 1):
            states, metrics = step_fn(states, stacked.put(plan, next(batches)), *constants, trigger)
            read_pending(stack)
            stack.pending = (step, metrics)
            stack.clock.first_step(metrics, batches)
            better = []
            if step % plan.every["eval"] == 0 or step == plan.steps:
                read_pending(stack)
                with stack.clock.pause():
                    better = score(stack, eval_fn, states, step)
                    trigger = triggers(members)
            if time.monotonic() > deadline:
                signals.stop()
            stop = signals.stop_now()
            save_those_due(stack, states, step, better, stop)
            if stop or len(stack.alive()) <= count // 2:
                break
        read_pending(stack)
    finally:
        batches.close()
    for slot, member in stack.alive():
        charge(stack, slot)
        member.step, member.state = step, stacked.pick(states, slot)
    for member in members:
        member.checkpoints.finish()
    if 0 < len(stack.alive()) < count and not stop:
        say(f"step {step}: {len(stack.alive())} of {count} runs are left; compiled anew for them")
    return stop


def step_arguments(members: list[Member], seeds: list[int], names: Sequence[str]) -> tuple:
    """What the step gets beside states and batch, the same at every step: places, seeds, numbers (`stacked.make_steps`)."""
    own = [member.plan.config.seed for member in members]
    places = np.array([seeds.index(seed) for seed in own], np.int32) if 1 < len(seeds) < len(own) else None
    seed = np.array(own if len(seeds) > 1 else own[0], np.int32)
    numbers = stacked.numbers_of([member.plan for member in members], names)
    return stacked.put(members[0].plan, (places, seed, numbers))


def first_states(members: list[Member]) -> TrainState:
    """The stack to start from: fresh, or of what the members have."""
    if members[0].step == 0:
        return stacked.fresh(members[0].plan, [member.plan.config.seed for member in members])
    states = stacked.stack([member.state for member in members])
    for member in members:
        member.state = None
    return states


def triggers(members: list[Member]):
    """Where averaging began in each run."""
    begun = [NEVER if m.host.averaging_from is None else m.host.averaging_from for m in members]
    return stacked.put(members[0].plan, np.array(begun, np.int32))


def read_pending(stack: Stack) -> None:
    """Reads the metrics of the step before; a run whose loss is not finite ends with a line."""
    if stack.pending is None:
        return
    (step, metrics), stack.pending = stack.pending, None
    table = jax.tree.map(lambda x: x.tolist(), jax.device_get(metrics))
    for slot, member in stack.alive():
        own = {name: Mean(mean.total[slot], mean.count[slot]) for name, mean in table.items()}
        add_to_window(member.host.window, own)
        try:
            check_finite(step, own, member.checkpoints)
        except InputError as error:
            member.code = FAILED
            print(f"error: {member.workdir}: {error}", file=sys.stderr, flush=True)
    if step % stack.plan.every["log"] == 0 or step == stack.plan.steps:
        times = stack.clock.window(step, stack.plan.config.data.batch_size, stack.batches)
        losses = [total / count for total, count in (m.host.window["loss"] for _, m in stack.alive()) if count]
        rate = f"{times['examples_per_second']:.1f} examples/s each"
        stack.say(f"step {step}/{stack.plan.steps}  {len(stack.alive())} runs  loss {spread(losses)}  {rate}")
        for _, member in stack.alive():
            write_train_line(member.log, step, member.host, times)


def spread(values: Sequence[float]) -> str:
    return f"{min(values):.4f} to {max(values):.4f}" if values else "of none"


def score(stack: Stack, eval_fn: Callable, states: TrainState, step: int) -> list[Member]:
    """Evaluates all runs, logs, warns; returns those whose score is their best so far."""
    plan, better = stack.plan, []
    split, best = plan.loop.eval_split, plan.loop.best.split()[1]
    metrics = split_metrics(plan, eval_fn, states.eval_params, states.model_state, split)
    found = []
    for slot, member in stack.alive():
        own = stacked.of_slot(metrics, slot)
        scores = {name: float(value) for name, value in plan.task.scores(own).items()}
        if note_best(plan.loop, member.host, scores, step):
            better.append(member)
        member.log.write(step, split, scores)
        found.append(scores[best])
        for line in plan.task.alarms(own):
            stack.say(f"warning: {member.workdir}: {line}")
        if plan.optimizer.average_after and note_trigger(plan, member.host, scores, step):
            stack.say(f"{member.workdir}: step {step}: averaging of the parameters begins")
    stack.say(f"step {step}/{plan.steps}  {split}  {best} {spread(found)}  ({len(better)} at their best)")
    return better


def save_those_due(stack: Stack, states: TrainState, step: int, better: list[Member], stop: bool) -> None:
    """Saves runs that are at their best, at their end or due; ends those that are at their end."""
    plan = stack.plan
    last = step == plan.steps
    every = last or stop or step % plan.every["save"] == 0
    due = lambda member: every or member in better or out_of_patience(plan.loop, member.host)
    if any(due(member) for _, member in stack.alive()):
        read_pending(stack)  # before a state is kept, its losses are known to be finite
    for slot, member in stack.alive():
        if not due(member):
            member.checkpoints.poll()
            continue
        with stack.clock.pause():
            charge(stack, slot)
            member.checkpoints.save(step, stacked.pick(states, slot), dataclasses.asdict(member.host))
        if last or out_of_patience(plan.loop, member.host):
            member.code = 0
            why = "" if last else f"no better {plan.loop.best.split()[1]} for {member.host.worse} evaluations: "
            stack.say(f"{member.workdir}: {why}ended at step {step}")


def charge(stack: Stack, slot: int) -> None:
    """The run's share of the time so far: minutes of runs that train together add up to those of the clock."""
    stack.members[slot].host.minutes = stack.before[slot] + stack.clock.minutes() / len(stack.members)
