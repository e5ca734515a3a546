"""Predicts files: python -m experiments.predict --workdir runs/brain --input scans/ photo.png --output predictions

A run of jobs also answers a live feed: tail -f accounting.swf | python -m experiments.predict --workdir runs/jobs --input -
"""

from experiments import launch

# isort: split
import argparse
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.run import Run, load_run
from experiments.arguments import parser


def main(argv: list[str]) -> int:
    arguments = parser("experiments.predict", "Predicts files, and folders of them, with a run's best checkpoint.")
    arguments.add_argument("--workdir", required=True, type=Path, help="the run folder")
    arguments.add_argument(
        "--input", required=True, nargs="+", metavar="PATH", help="files, or folders of them; -: a feed"
    )
    arguments.add_argument("--output", type=Path, help="the folder to write to; made if it is missing")
    arguments.add_argument("--probabilities", action="store_true", help="also write the probabilities, as NAME.npy")
    maps = arguments.add_argument_group("land-cover maps")
    maps.add_argument(
        "--shard", type=shard, metavar="I/N", help="predict the I-th of N shares of each map; then once without"
    )
    maps.add_argument("--confidence", action="store_true", help="also write the largest probability, in percent")
    maps.add_argument(
        "--sieve", type=int, metavar="N", help="minimum mapping unit: smaller regions are merged (pixels)"
    )
    feed = arguments.add_argument_group("jobs")
    feed.add_argument(
        "--state", type=Path, metavar="FILE", help="of --input -: keeps it (default: WORKDIR/live.sqlite)"
    )
    feed.add_argument("--near", type=int, metavar="N", help="users that --input - holds in memory (default: 50000)")
    feed.add_argument("--running", action="store_true", help="also answer each time a running job outlives a bin")
    flags = arguments.parse_args(argv)
    live = flags.input == ["-"]
    if live == (flags.output is not None):
        arguments.error("--input - answers on standard output: no --output" if live else "--output FOLDER is missing")
    run = load_run(flags.workdir)
    if live:
        return follow(run, flags)
    if run.task.predict_files is None:
        raise InputError(f"--workdir {flags.workdir}: its task, {run.config.task.name!r}, does not predict files")
    more = options(flags, run.task.predict_files, run.config.task.name)
    if "model" in inspect.signature(run.task.predict_files).parameters:  # a map that goes on must not mix two models
        more["model"] = f"{flags.workdir.resolve()}, step {run.step}"
    written = run.task.predict_files(run.apply, flags.input, flags.output, probabilities=flags.probabilities, **more)
    for path in written:
        print(path)
    return 0


def follow(run: Run, flags: argparse.Namespace) -> int:
    """Answers standard input, line by line."""
    if run.task.live is None:
        raise InputError(f"--input -: the task of this run, {run.config.task.name!r}, answers no feed; name files")
    how = {"state": flags.state or flags.workdir / "live.sqlite", "running": flags.running}
    how |= {"near": flags.near} if flags.near else {}
    model = f"{flags.workdir.resolve()}, step {run.step}"
    return run.task.live(run.apply, sys.stdin.fileno(), sys.stdout, sys.stderr, model=model, **how)


def shard(text: str) -> tuple[int, int]:
    """'2/3' -> (2, 3). For argparse: raises its ArgumentTypeError."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: expected I/N with I from 1 to N, like 2/3")
    return int(found[1]), int(found[2])


def options(flags: argparse.Namespace, predict_files: Any, task: str) -> dict[str, Any]:
    """The flags that were given of those that not every task knows. Raises InputError for one that this one does not."""
    given = {name: getattr(flags, name, None) for name in ("shard", "confidence", "sieve", "state", "near", "running")}
    given = {name: value for name, value in given.items() if value is not None and value is not False}
    for name in given:
        if name not in inspect.signature(predict_files).parameters:
            raise InputError(f"--{name}: the task of this run, {task!r}, knows no such option; leave it out")
    return given


if __name__ == "__main__":
    launch.run(main)
