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
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError
from common.gpus import find_gpus
from common.sweeps import Sweep, load_sweep
from experiments.arguments import parse_with_config, parser, seconds
from experiments.sweep.book import Book, open_book, run_config, train_words
from experiments.sweep.local import Source, launch_local, list_source
from experiments.sweep.runs import FAILED, FINISHED, STOPPED, TO_DO, Run, alone, startable, status
from experiments.sweep.slots import Slot, find_cores, make_slots
from experiments.sweep.table import Screen, counted, counts_text, show_table, write_csv

LOCAL_FLAGS = ("processes", "threads")
SLURM_FLAGS = ("partition", "time", "gpus", "cpus", "parallel", "slurm", "wait")
HOUR, PARALLEL = 3600, 32  # defaults of --time and --parallel


def main(argv: list[str], module: str = "") -> int:
    """`module`: what trains a run, as `python -m MODULE --config ... --workdir ... --quiet`; empty: experiments.train."""
    flags, sweep, overrides = parse(argv)
    book = open_book(sweep, flags.workdir, overrides, module, write=not (flags.dry_run or flags.status))
    if flags.dry_run:
        return dry_run(book, flags)
    if book.left_out and not flags.status:
        print(
            f"not in the sweep file: {counted(len(book.left_out), 'run')} of this folder; kept, not started",
            file=sys.stderr,
        )
    if flags.status:
        if not (flags.workdir / "sweep.json").exists():
            raise InputError(f"--workdir {flags.workdir}: no sweep here yet; without --status it is started")
        return finish(book, Screen(book, queued=queue_of(book)))
    if flags.launcher == "slurm":
        return to_slurm(book, flags)
    slots = slots_of(flags)
    screen = Screen(book, len(slots))
    stopped = launch_local(source_of(book, flags), slots, screen)
    code = finish(book, screen)
    return STOPPED if stopped else code


def to_slurm(book: Book, flags: argparse.Namespace) -> int:
    from experiments.sweep import slurm as sweep_slurm

    said = sweep_slurm.launch(book, flags, [] if book.study else units_of(book, flags))
    print(f"{said}; the same command with --status shows how they are", file=sys.stderr)
    if not flags.wait:
        return FINISHED
    screen = Screen(book, flags.parallel, queue_of(book))
    return finish(book, screen) if sweep_slurm.wait(screen, book.workdir) else STOPPED


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, Sweep, dict[str, str]]:
    """The flags, the sweep, and the overrides of all its runs."""
    arguments = make_arguments()
    flags, rest = arguments.parse_known_args(argv)
    misplaced = SLURM_FLAGS if flags.launcher == "local" else LOCAL_FLAGS
    if wrong := [f"--{name}" for name in misplaced if getattr(flags, name)]:
        other, instead = (
            ("slurm", "") if flags.launcher == "local" else ("local", "; a job has --cpus, and --parallel of them")
        )
        arguments.error(f"{', '.join(wrong)} need{'s' * (len(wrong) == 1)} --launcher {other}{instead}")
    flags.time = HOUR if flags.time is None else flags.time
    flags.parallel = PARALLEL if flags.parallel is None else flags.parallel
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
    arguments.add_argument("--dry_run", action="store_true", help="print what would be started, and do nothing")
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
        "--time",
        type=seconds,
        help="of a job, like 90 (minutes) or 12:00:00; default: 1 hour; a longer run is requeued",
    )
    slurm.add_argument("--gpus", type=int, default=0, help="of a job")
    slurm.add_argument("--cpus", type=int, default=0, help="of a job")
    slurm.add_argument(
        "--parallel", type=int, metavar="N", help=f"jobs at once; of a study: how many there are; default: {PARALLEL}"
    )
    slurm.add_argument(
        "--slurm", action="append", default=[], metavar="KEY=VALUE", help="any option of sbatch, like account=me"
    )
    slurm.add_argument("--wait", action="store_true", help="show the table until all jobs have ended")
    arguments.epilog = "Any key of the config can be set for all runs: --config.section.key=VALUE"
    return arguments


def dry_run(book: Book, flags: argparse.Namespace) -> int:
    """What would be started, in the groups that share a process; what would not; and how many that are."""
    if book.study:
        for key, draw in book.study.space.items():
            print(f"{key}: {draw}")
        middle = {key: draw.at(0.5) for key, draw in book.study.space.items()}
        show_run(book, Run("trial-00000", book.workdir / "runs" / "trial-00000", middle), "example")
        workers = min(book.study.trials, flags.parallel) if flags.launcher == "slurm" else book.study.trials
        print(f"{counted(book.study.trials, 'trial')} in all; {places_of(flags, workers)}")
        return 0
    queued = queue_of(book)() if flags.launcher == "slurm" else set()
    units = [unit for unit in units_of(book, flags) if not queued & {run.name for run in unit}]
    to_start = {run.name for unit in units for run in unit}
    others = {run.name: status(run.folder) for run in book.runs if run.name not in to_start}
    others = {name: "queued" if name in queued and found in TO_DO else found for name, found in others.items()}
    for name, found in others.items():
        print(f"{found:<9} {name}")
    for unit in units:
        if len(unit) > 1:
            print(f"{len(unit)} runs in one program:")
        for run in unit:
            show_run(book, run, status(run.folder))
    counts = Counter(others.values())
    parts = [*filter(None, [counts_text(counts)]), f"{len(to_start)} to start"]
    places = f"; {places_of(flags, len(units))}" if units else ""
    print(f"{counted(len(book.runs), 'run')}: {', '.join(parts)}{places}")
    return 0


def show_run(book: Book, run: Run, found: str) -> None:
    words = ["python", "-m", book.module, *train_words(book.base, run.folder, book.common, run.overrides)]
    print(f"{found:<9} {run.name}\n    {shlex.join(words)}")


def places_of(flags: argparse.Namespace, units: int) -> str:
    """'2 processes of 4 cores', or '8 jobs, at most 2 at once'."""
    if flags.launcher == "slurm":
        return f"{counted(units, 'job')}, at most {flags.parallel} at once"
    slots = slots_of(flags)
    names = list(dict.fromkeys(slot.name for slot in slots[:units]))
    return f"{counted(min(units, len(slots)), 'process')} {'on' if slots[0].gpu else 'of'} {', '.join(names)}"


def slots_of(flags: argparse.Namespace) -> list[Slot]:
    return make_slots(flags.processes, flags.threads, find_gpus(os.environ), find_cores())


def source_of(book: Book, flags: argparse.Namespace) -> Source:
    if book.study:
        from experiments.sweep.study import study_source

        return study_source(book)
    return list_source(units_of(book, flags), flags.retry)


def units_of(book: Book, flags: argparse.Namespace) -> list[list[Run]]:
    """The runs that each process trains: one, or with --together those that can share a program."""
    to_do = [run for run in book.runs if status(run.folder) in startable(flags.retry)]
    if flags.together is None:
        return [[run] for run in to_do]
    from common.together import groups

    units = []
    for places in groups([run_config(book, run) for run in to_do]):
        most = flags.together or len(places)
        units += [[to_do[place] for place in places[i : i + most]] for i in range(0, len(places), most)]
    if flags.launcher == "local" and not find_gpus(os.environ):  # a GPU is the workers'; their logs have the line, too
        warn_where_it_does_not_pay(book, max(units, key=len, default=[]))
    return units


def warn_where_it_does_not_pay(book: Book, unit: Sequence[Run]) -> None:
    from common.pays import warning
    from experiments.tasks import make_task

    if len(unit) > 1 and (line := warning(run_config(book, unit[0]), make_task, len(unit))):
        print(f"warning: {line}", file=sys.stderr)


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
    under_way = [f"{counted(counts[name], 'run')} {name}" for name in ("running", "queued") if counts[name]]
    left = sum(counts[name] for name in TO_DO)
    if left:
        under_way.append(f"{counted(left, 'run')} left: the same command goes on")
    if under_way:
        print(", ".join(under_way), file=sys.stderr)
        return STOPPED
    return FAILED if counts["failed"] else FINISHED


if __name__ == "__main__":
    launch.run(main)
