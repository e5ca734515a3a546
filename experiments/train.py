"""Trains the model of a config: python -m experiments.train --config configs/unet_brain.py --workdir runs/brain"""

from experiments import launch

# isort: split
import dataclasses
import json
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from common import loop
from common.checkpoint import Checkpoints
from common.config import to_json
from common.errors import InputError
from common.log import command_line, read_lines
from common.processes import is_first
from common.record import write_result
from common.run import load_run, read_facts, write_facts
from common.state import TrainState, transplant
from common.step import divide
from experiments.arguments import add_processes, join_processes, parse_with_config, parser, seconds
from experiments.evaluate import evaluate_run
from experiments.tasks import make_task


def main(argv: list[str]) -> int:
    arguments = parser("experiments.train", "Trains the model of a config; a folder that has a checkpoint is resumed.")
    arguments.add_argument("--workdir", required=True, type=Path, help="the run folder")
    arguments.add_argument("--init_from", type=Path, metavar="RUN", help="start from the parameters of another run")
    arguments.add_argument(
        "--allow_missing", action="store_true", help="with --init_from: what does not fit starts fresh"
    )
    arguments.add_argument("--record", metavar="NAME", help="write experiments/results/NAME.json")
    arguments.add_argument("--seeds", default="", metavar="0,1,2", help="with --record: train WORKDIR/seed-0 and so on")
    arguments.add_argument(
        "--time_limit", type=seconds, metavar="TIME", help="save and exit 75 after MINUTES, HH:MM:SS or D-HH:MM:SS"
    )
    arguments.add_argument("--quiet", action="store_true", help="no progress on the screen")
    add_processes(arguments)
    flags, config = parse_with_config(arguments, argv)
    if flags.seeds and not flags.record:
        arguments.error("--seeds needs --record NAME")
    if flags.allow_missing and not flags.init_from:
        arguments.error("--allow_missing needs --init_from RUN")
    try:
        seeds = [int(s) for s in flags.seeds.split(",")] if flags.seeds else [config.seed]
    except ValueError:
        arguments.error(f"--seeds {flags.seeds}: expected numbers, like 0,1,2")
    join_processes(flags)

    scored = []
    for seed in seeds:
        with config.unlocked():
            config.seed = seed
        workdir = flags.workdir / f"seed-{seed}" if flags.seeds else flags.workdir
        code = train_one(config, workdir, flags)
        if code:
            return code
        scored.append((workdir, evaluate_run(load_run(workdir), config.loop.score_split)))
    if flags.record and is_first():
        record(flags.record, config, seeds, scored, overrides=flags.overrides)
    return 0


def train_one(config, workdir: Path, flags) -> int:
    """Checks the data, trains. Returns the exit code."""
    task = make_task(config, read_facts(workdir))
    findings = task.check()
    if findings:
        more = f" (and {len(findings) - 1} more: python -m experiments.check_data)" if len(findings) > 1 else ""
        raise InputError(f"{findings[0]}{more}")
    initial = initial_from(flags.init_from, flags.allow_missing) if flags.init_from else None
    deadline = launch.STARTED + flags.time_limit if flags.time_limit else math.inf
    code = loop.train(config, task, workdir, initial=initial, quiet=flags.quiet, deadline=deadline)
    if code == 0 and task.finish is not None:
        run = load_run(workdir)
        found = run.task.finish(run.apply)
        if is_first():
            write_facts(workdir, found)
    if not flags.quiet and code == 0 and is_first():
        print(f"done: {workdir}; its page: python -m experiments.report --workdir {workdir}", file=sys.stderr)
    return code


def initial_from(source: Path, allow_missing: bool):
    """A function that puts the parameters of the run `source` into a fresh state (fine-tuning)."""
    run = load_run(source)

    def initial(state: TrainState) -> TrainState:
        params, missing = transplant(run.params, state.params)
        if missing and not allow_missing:
            raise InputError(
                f"--init_from {source}: {missing[0]} ({len(missing)} in all do not fit); --allow_missing starts them fresh"
            )
        for line in missing:
            print(f"starts fresh: {line}", file=sys.stderr)
        statistics, _ = transplant(divide(run.model_state)[0], divide(state.model_state)[0])
        return dataclasses.replace(
            state,
            params=params,
            model_state={**state.model_state, **statistics},  # a carry belongs to the streams of the other run
            ema=jax.tree.map(jnp.copy, params) if state.ema else state.ema,  # the step takes each buffer over once
        )

    return initial


def minutes_of(workdir: Path) -> float:
    """That a run trained, all its starts together."""
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.manifest(checkpoints.newest())["host"]["minutes"]


def record(
    name: str, config, seeds: list[int], scored: list[tuple[Path, dict[str, float]]], *, overrides=(), **more
) -> None:
    """Writes experiments/results/NAME.json: scores of all seeds, minutes, the curve of the first, and what `more` adds."""
    path = Path("experiments/results") / f"{name}.json"
    write_result(
        path,
        name=name,
        config=json.loads(to_json(config)),
        overrides=overrides,
        command=" ".join(command_line()),
        minutes=sum(minutes_of(workdir) for workdir, _ in scored),
        seeds=seeds,
        scores={score: [s[score] for _, s in scored if score in s] for score in scored[0][1]},
        selected_on=f"{config.loop.best} of {config.loop.eval_split}",
        curve=thinned(read_lines(scored[0][0] / "metrics.jsonl")),
        **more,
    )
    print(f"recorded: {path}", file=sys.stderr)


def thinned(lines: list[dict], most: int = 100) -> list[dict]:
    """At most about `most` lines of each split, evenly taken, the last one among them."""
    kept = []
    for split in dict.fromkeys(line["split"] for line in lines):
        own = [line for line in lines if line["split"] == split]
        every = -(-len(own) // most)
        kept += [line for i, line in enumerate(own) if (len(own) - 1 - i) % every == 0]
    return sorted(kept, key=lambda line: line["step"])


if __name__ == "__main__":
    launch.run(main)
