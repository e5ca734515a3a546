"""Trains many runs of one config: python -m experiments.sweep --sweep configs/sweeps/brain_rates.py --workdir runs/rates

The same command goes on after a kill, a crash or Ctrl-C, skips what is finished, and takes runs that the sweep file has
got since. Several of it may share one folder. docs/sweeps.md tells more.
"""

from experiments import launch

# isort: split
import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError
from common.gpus import find_gpus
from common.sweeps import Sweep, load_sweep
from experiments.arguments import parse_with_config, parser, seconds
from experiments.sweep.book import Book, config_of, open_book, train_words
from experiments.sweep.local import Source, launch_local, list_source
from experiments.sweep.runs import FAILED, FINISHED, STOPPED, TO_DO, Run, alone, status
from experiments.sweep.slots import find_cores, make_slots
from experiments.sweep.table import Screen, show_table, write_csv


def main(argv: list[str], module: str = "") -> int:
    """`module`: what trains a run, as `python -m MODULE --config ... --workdir ... --quiet`; empty: experiments.train."""
    flags, sweep, overrides = parse(argv)
    book = open_book(sweep, flags.workdir, overrides, module, write=not (flags.dry_run or flags.status))
    if flags.dry_run:
        return dry_run(book)
    if book.left_out and not flags.status:
        print(f"{len(book.left_out)} runs of this folder are not in the sweep file: kept, not started", file=sys.stderr)
    if flags.status:
        if not (flags.workdir / "sweep.json").exists():
            raise InputError(f"--workdir {flags.workdir}: no sweep here yet; without --status it is started")
        return finish(book, Screen(book, queued=queue_of(book)))
    if flags.launcher == "slurm":
        return to_slurm(book, flags)
    slots = make_slots(flags.processes, flags.threads, find_gpus(os.environ), find_cores())
    screen = Screen(book, len(slots))
    stopped = launch_local(source_of(book, flags), slots, screen)
    code = finish(book, screen)
    return STOPPED if stopped else code


def to_slurm(book: Book, flags: argparse.Namespace) -> int:
    from experiments.sweep import slurm as sweep_slurm

    count = sweep_slurm.launch(book, flags, [] if book.study else units_of(book, flags))
    print(f"{count} jobs submitted; the same command with --status shows how they are", file=sys.stderr)
    if not flags.wait:
        return FINISHED
    screen = Screen(book, flags.parallel, queue_of(book))
    return finish(book, screen) if sweep_slurm.wait(screen, book.workdir) else STOPPED


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, Sweep, dict[str, str]]:
    """The flags, the sweep, and the overrides of all its runs."""
    arguments = make_arguments()
    flags, rest = arguments.parse_known_args(argv)
    if any(word.partition("=")[0] == "--config" for word in rest):
        arguments.error("--config: the sweep file names the config (Sweep.base)")
    sweep = load_sweep(flags.sweep)
    if sweep.study and (flags.together is not None or flags.retry):
        arguments.error("--together and --retry are for lists of runs; this sweep is a study")
    overrides = parser("experiments.sweep", "")
    overrides.usage = arguments.format_usage().removeprefix("usage: ")
    given, _ = parse_with_config(overrides, ["--config", sweep.base, *rest])
    flags.given = given.overrides
    if flags.together is not None and flags.together < 0:
        arguments.error(f"--together {flags.together}: at most how many, from 1 on; 0 or none: as many as fit")
    return flags, sweep, dict(word.removeprefix("--config.").split("=", 1) for word in given.overrides)


def make_arguments() -> argparse.ArgumentParser:
    arguments = parser("experiments.sweep", __doc__.splitlines()[0])
    arguments.add_argument(
        "--sweep", required=True, metavar="FILE[:VARIANT]", help="like configs/sweeps/brain_rates.py"
    )
    arguments.add_argument(
        "--workdir", required=True, type=Path, help="holds runs/NAME for each run, runs.csv, report.html"
    )
    arguments.add_argument("--launcher", choices=("local", "slurm"), default="local")
    arguments.add_argument("--dry_run", action="store_true", help="print each run's name and command, and do nothing")
    arguments.add_argument("--status", action="store_true", help="show the table, write the report, start nothing")
    arguments.add_argument("--retry", action="store_true", help="start failed runs again, too")
    arguments.add_argument(
        "--together",
        nargs="?",
        type=int,
        const=0,
        metavar="MOST",
        help="train runs that differ in numbers only in one program, at most MOST of them",
    )
    local = arguments.add_argument_group("local")
    local.add_argument(
        "--processes", type=int, default=0, metavar="N", help="at once; default: one for each GPU, or every 4 cores"
    )
    local.add_argument("--threads", type=int, default=0, metavar="N", help="CPU cores of each process")
    slurm = arguments.add_argument_group("slurm")
    slurm.add_argument("--partition", default="")
    slurm.add_argument(
        "--time", type=seconds, default=3600, help="of a job, like 90 (minutes) or 12:00:00; a longer run is requeued"
    )
    slurm.add_argument("--gpus", type=int, default=0, help="of a job")
    slurm.add_argument("--cpus", type=int, default=0, help="of a job")
    slurm.add_argument(
        "--parallel", type=int, default=32, metavar="N", help="jobs at once; of a study: how many there are"
    )
    slurm.add_argument(
        "--slurm", action="append", default=[], metavar="KEY=VALUE", help="any option of sbatch, like account=me"
    )
    slurm.add_argument("--wait", action="store_true", help="show the table until all jobs have ended")
    arguments.epilog = "Any key of the config can be set for all runs: --config.section.key=VALUE"
    return arguments


def dry_run(book: Book) -> int:
    runs = book.runs
    if book.study:
        for key, draw in book.study.space.items():
            print(f"{key}: {draw}")
        middle = {key: draw.at(0.5) for key, draw in book.study.space.items()}
        runs = [Run("trial-00000 (an example)", book.workdir / "runs" / "trial-00000", middle)]
    for run in runs:
        print(run.name)
        print(
            f"    {shlex.join(['python', '-m', book.module, *train_words(book.base, run.folder, book.common, run.overrides)])}"
        )
    return 0


def source_of(book: Book, flags: argparse.Namespace) -> Source:
    if book.study:
        from experiments.sweep.study import study_source

        return study_source(book)
    return list_source(units_of(book, flags), flags.retry)


def units_of(book: Book, flags: argparse.Namespace) -> list[list[Run]]:
    """The runs that each process trains: one, or with --together those that can share a program."""
    allowed = (*TO_DO, "failed") if flags.retry else TO_DO
    to_do = [run for run in book.runs if status(run.folder) in allowed]
    if flags.together is None:
        return [[run] for run in to_do]
    from common.together import groups

    units = []
    for places in groups([config_of(run.folder) for run in to_do]):
        most = flags.together or len(places)
        units += [[to_do[place] for place in places[i : i + most]] for i in range(0, len(places), most)]
    if flags.launcher == "local" and not find_gpus(
        os.environ
    ):  # a GPU is for the workers; their logs have the line too
        from common.pays import warning
        from experiments.tasks import make_task

        largest = max(units, key=len, default=[])
        if len(largest) > 1 and (line := warning(config_of(largest[0].folder), make_task, len(largest))):
            print(f"warning: {line}", file=sys.stderr)
    return units


def queue_of(book: Book):
    """A function that gives the names of the runs in SLURM's queue, where some were put there."""
    if not (book.workdir / "slurm").is_dir():
        return set
    from experiments.sweep import slurm as sweep_slurm

    return lambda: sweep_slurm.queued(book.workdir)


def finish(book: Book, screen: Screen) -> int:
    """The table, runs.csv and the page. Returns 0; 1 where runs failed, 75 where something is left to do."""
    from experiments.sweep.page import write_page

    screen.refresh()
    show_table(book, screen.states)
    if screen.states:
        with alone(book.workdir):  # another launcher may be about to write the same files
            write_csv(book, screen.states)
            print(f"report: {write_page(book, screen.states)}")
    counts = screen.counts()
    left = sum(counts[name] for name in (*TO_DO, "running", "queued"))
    if left:
        print(f"{left} runs are left: the same command goes on", file=sys.stderr)
        return STOPPED
    return FAILED if counts["failed"] else FINISHED


if __name__ == "__main__":
    launch.run(main)
