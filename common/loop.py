"""Training: what happens, in order."""

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
from ml_collections import ConfigDict

from common import config as configs
from common import data, processes
from common import mesh as meshes
from common.checkpoint import Checkpoints
from common.errors import STOPPED, InputError
from common.evaluate import evaluate
from common.files import write_text
from common.log import Clock, Log, command_line, write_run_json
from common.plan import Loop, Plan, make_plan
from common.processes import Signals, doing
from common.run import read_facts, write_facts
from common.state import TrainState, abstract_state, create_state
from common.step import NEVER, make_eval_step, make_pmap_train_step, make_train_step
from common.task import Task


@dataclasses.dataclass
class Host:
    """What the host has decided: saved beside the state.

    worse: evaluations since the best one. scores: of each evaluation, where their course decides when averaging begins;
    averaging_from: the step at which it did. window: sums of the metrics since the last log line.
    """

    minutes: float = 0.0
    best: float | None = None
    best_step: int | None = None
    worse: int = 0
    scores: list[float] = dataclasses.field(default_factory=list)
    averaging_from: int | None = None
    window: dict[str, list] = dataclasses.field(default_factory=dict)


def same_run(workdir: Path, old: ConfigDict, config: ConfigDict) -> None:
    """Raises InputError that shows the difference where the folder holds a run of another config."""
    changes = configs.difference(old, config)
    if changes:
        raise InputError(
            f"--workdir {workdir}: holds a run of another config ({'; '.join(changes)}); use another folder"
        )
    if old.loop.duration != config.loop.duration:
        print(f"loop.duration: {old.loop.duration!r} before, {config.loop.duration!r} now", file=sys.stderr)


def prepare_folder(workdir: Path, config: ConfigDict) -> None:
    """Makes the run folder, or checks that it is this config's. Raises InputError that shows the difference; also where
    another process has another config than the first one, and where the folder cannot be written."""
    first = configs.from_json(processes.text_of_first(configs.to_json(config)))
    changes = configs.difference(first, config, free=configs.READING)
    if changes:
        raise InputError(
            f"another config than that of process 0 ({'; '.join(changes)}); start all with the same command"
        )
    if not processes.is_first():
        return processes.barrier("the run folder")
    path = workdir / "config.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if path.exists():
            same_run(workdir, configs.from_json(path.read_text()), config)
        write_text(path, configs.to_json(config))
    except OSError as error:
        raise InputError(f"--workdir {workdir}: cannot be written ({error.strerror}); choose another folder") from error
    return processes.barrier("the run folder")


def train(
    config: ConfigDict,
    task: Task,
    workdir: Path,
    *,
    initial: Callable | None = None,
    quiet: bool = False,
    deadline: float = math.inf,
) -> int:
    """Trains to the end of config.loop.duration, from the newest checkpoint of `workdir` where there is one.

    initial: takes a fresh state and returns the one to start from (--init_from). deadline: when to save and stop, in the
    seconds of time.monotonic. Returns 0, or 75 where a signal or the deadline stopped it after saving. Raises InputError
    for bad input, and for a loss that is not finite.
    """
    plan = make_plan(config, task)
    if not quiet:
        processes.introduce(plan.mesh.shape)
    prepare_folder(workdir, config)
    if task.facts is not None and processes.is_first() and read_facts(workdir) is None:
        write_facts(workdir, task.facts())
    with Checkpoints(workdir / "checkpoints", plan.loop.keep) as checkpoints, Signals() as signals:
        state, host = first_state(plan, checkpoints, initial)
        start = int(state.step)
        log = Log(workdir, start=start, steps=plan.steps, quiet=quiet)
        write_run_json(workdir, seed=config.seed, command=command_line(), steps=plan.steps)
        try:
            return run_steps(plan, state, host, checkpoints, log, signals, deadline)
        finally:
            log.close()


def first_state(plan: Plan, checkpoints: Checkpoints, initial: Callable | None) -> tuple[TrainState, Host]:
    """The state to start from: this run's newest good checkpoint, else another run's parameters, else a fresh one."""
    step = checkpoints.latest()
    if step is not None:
        state = checkpoints.restore(step, abstract_state(plan.make, plan.abstract_batch, plan.mesh))
        return state, Host(**checkpoints.manifest(step)["host"])
    state = create_state(plan.make, plan.abstract_batch, plan.mesh)
    return (initial(state) if initial else state), Host()


def run_steps(
    plan: Plan,
    state: TrainState,
    host: Host,
    checkpoints: Checkpoints,
    log: Log,
    signals: Signals,
    deadline: float = math.inf,
) -> int:
    """The loop itself."""
    config, every, last = plan.config, plan.every, plan.steps
    make_step = make_pmap_train_step if plan.loop.driver == "pmap" else make_train_step
    step_fn = make_step(plan.task, plan.optimizer, plan.mesh, seed=config.seed)
    eval_step = make_eval_step(plan.task, plan.mesh)
    start = int(state.step)
    if start >= last or out_of_patience(plan.loop, host):
        log.say(f"already done: step {start} of {last}")
        return 0
    if start:
        log.say(f"goes on at step {start} of {last}")
    processes.stall_after(plan.loop.stall)
    batches = open_batches(plan, start)
    clock = Clock(start, host.minutes)
    trigger = averaging_trigger(plan, host)
    latest = Latest(plan, host, checkpoints, log, clock, batches)

    try:
        for step in range(start + 1, last + 1):
            doing(f"reading the batch of step {step}")
            batch = meshes.put(plan.mesh, next(batches), plan.task.spatial)
            doing(f"in step {step}")
            state, metrics = step_fn(state, batch, *trigger)
            latest.read()
            latest.step, latest.metrics = step, metrics
            clock.first_step(metrics, batches)
            log.tick(step)
            better = False
            if step % every["eval"] == 0 or step == last:
                latest.read()
                with clock.pause():
                    better = score(plan, eval_step, state, host, log, step)
                    trigger = averaging_trigger(plan, host)
            if time.monotonic() > deadline:
                signals.stop()
            stopped = signals.stop_now()
            stop = stopped or out_of_patience(plan.loop, host)
            if better or stop or step % every["save"] == 0 or step == last:
                latest.read()  # before a state is kept, its losses are known to be finite
                with clock.pause():
                    doing(f"saving step {step}")
                    host.minutes = clock.minutes()
                    checkpoints.save(step, state, dataclasses.asdict(host))
            else:
                checkpoints.poll()
            if stop:
                break
        checkpoints.finish()
        processes.barrier("the end of training")
    finally:
        batches.close()
        processes.stall_after(0)  # what comes now (scores of whole images, another run's data) takes its time
    if stopped and step < last:
        why = "the time limit" if time.monotonic() > deadline else "a signal"
        log.say(f"stopped by {why} at step {step} of {last}, saved; the same command goes on", always=True)
        return STOPPED
    if stop and not stopped:
        log.say(f"no better {plan.loop.best.split()[1]} for {host.worse} evaluations: ended at step {step}")
    log.say(clock.report())
    return 0


@dataclasses.dataclass
class Latest:
    """The metrics of the step that runs: read while the next one does, so that the device never waits for the log."""

    plan: Plan
    host: Host
    checkpoints: Checkpoints
    log: Log
    clock: Clock
    batches: data.Batches
    step: int = 0
    metrics: dict | None = None

    def read(self) -> None:
        """Adds them to the window; writes a log line where one is due. Raises InputError where they are not finite."""
        if self.metrics is None:
            return
        metrics, self.metrics = self.metrics, None
        add_to_window(self.host.window, jax.device_get(metrics))
        check_finite(self.step, metrics, self.checkpoints)
        if self.step % self.plan.every["log"] == 0 or self.step == self.plan.steps:
            times = self.clock.window(self.step, self.plan.config.data.batch_size, self.batches)
            write_train_line(self.log, self.step, self.host, times)


def score(plan: Plan, eval_step: Callable, state: TrainState, host: Host, log: Log, step: int) -> bool:
    """Evaluates, logs, warns; true where this is the best score so far."""
    scores, alarms = evaluate(plan, eval_step, state, plan.loop.eval_split)
    better = note_best(plan.loop, host, scores, step)
    log.write(step, plan.loop.eval_split, scores, note=summary(scores, plan.loop) + ("  (best)" if better else ""))
    for line in alarms:
        log.say(f"warning: {line}")
    if plan.optimizer.average_after and note_trigger(plan, host, scores, step):
        log.say(f"step {step}: averaging of the parameters begins; scores are those of the mean from here on")
    return better


def note_trigger(plan: Plan, host: Host, scores: dict[str, float], step: int) -> bool:
    """Decides whether averaging begins here: where the score is worse than the best of the evaluations more than
    `average_after` before this one (Merity et al. 2018, algorithm 1). True where it does."""
    if host.averaging_from is not None:
        return False
    direction, name = plan.loop.best.split()
    sign = 1 if direction == "min" else -1
    before = host.scores[: -plan.optimizer.average_after]
    begins = any(sign * scores[name] > sign * value for value in before)
    host.scores.append(scores[name])
    if begins:
        host.averaging_from, host.scores = step, []
    return begins


def averaging_trigger(plan: Plan, host: Host) -> tuple:
    """The further argument of the step: where averaging began, as an array on the devices; none where nothing averages."""
    if not plan.optimizer.average_after:
        return ()
    return (meshes.put_whole(plan.mesh, NEVER if host.averaging_from is None else host.averaging_from),)


def out_of_patience(loop: Loop, host: Host) -> bool:
    return 0 < loop.patience <= host.worse


def open_batches(plan: Plan, start: int):
    """This process's rows of the batches from step `start` on."""
    section = plan.config.data
    place = {
        "seed": plan.config.seed,
        "batch_size": section.batch_size,
        "process": jax.process_index(),
        "processes": jax.process_count(),
        "start": start,
        "threads": section.get("threads", 2),
    }
    if plan.task.train_batch is not None:
        return data.batches_by_step(plan.task.train_batch, **place)
    source = data.cached(plan.task.train_source("train"), section.get("cache_mb", 1024))
    return data.batches(source, crop=plan.task.crop, **place)


def add_to_window(window: dict[str, list], metrics) -> None:
    """Adds a step's sums to those since the last log line; plain floats, so that they are saved exactly as they are."""
    for name, mean in metrics.items():
        total, count = window.get(name, (0.0, 0.0))
        window[name] = [total + float(mean.total), count + float(mean.count)]


def write_train_line(log: Log, step: int, host: Host, times: dict[str, float]) -> None:
    scores = {name: total / count if count else math.nan for name, (total, count) in host.window.items()}
    host.window.clear()
    note = f"loss {scores['loss']:.4f}  {times['examples_per_second']:.1f} examples/s"
    log.write(step, "train", {**scores, **times}, note=note)


def check_finite(step: int, metrics, checkpoints: Checkpoints) -> None:
    for name in ("loss", "grad_norm"):
        if not math.isfinite(float(metrics[name].total)):
            raise InputError(
                f"the {name.replace('_', ' ')} at step {step} is {float(metrics[name].total)}; the checkpoints before it are kept. "
                "Usual causes: a learning rate that is too high (config.optimizer.learning_rate; try a tenth, with "
                "config.optimizer.warmup='5%' and config.optimizer.clip=1.0), or extreme values in the data (experiments.check_data)"
            )


def note_best(loop: Loop, host: Host, scores: dict[str, float], step: int) -> bool:
    """Keeps account of the best score; true where this one is it."""
    direction, name = loop.best.split()
    if name not in scores:
        raise InputError(f"config.loop.best={loop.best!r}: no such score; {configs.nearest(name, scores)}")
    value = scores[name]
    better = math.isfinite(value) and (
        host.best is None or (value > host.best if direction == "max" else value < host.best)
    )
    if better:
        host.best, host.best_step, host.worse = value, step, 0
    else:
        host.worse += 1
    return better


def summary(scores: dict[str, float], loop: Loop) -> str:
    name = loop.best.split()[1]
    shown = dict.fromkeys(["loss", name])
    return f"{loop.eval_split}  " + "  ".join(f"{n} {scores[n]:.4f}" for n in shown if n in scores)
