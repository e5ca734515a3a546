"""Trains one run of a sweep, or a group of them in one program; the launchers start this, with the run's log as stderr.

    python -m experiments.sweep.worker WORKDIR/runs/NAME [WORKDIR/runs/OTHER ... --together]

Holds the lock of each run while it trains. Exit status: that of training; 76 where another process has the run.
"""

import argparse
import contextlib
import ctypes
import io
import os
import runpy
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError
from experiments.sweep import book as sweep_book
from experiments.sweep import runs as sweep_runs


def main(argv: list[str]) -> int:
    arguments = argparse.ArgumentParser(prog="python -m experiments.sweep.worker", description=__doc__.splitlines()[0])
    arguments.add_argument("folders", nargs="+", type=Path)
    arguments.add_argument("--together", action="store_true", help="all of them in one program")
    arguments.add_argument("--parent", type=int, default=0, help="the launcher: where it dies, this saves and stops")
    flags = arguments.parse_args(argv)
    if len(flags.folders) > 1 and not flags.together:
        arguments.error("several runs need --together")
    signal.signal(signal.SIGTERM, stop)  # before and after training, which has handlers of its own
    # SLURM sends SIGUSR2, to every process of a job, before the job's time is over: the same as SIGTERM.
    signal.signal(signal.SIGUSR2, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    if flags.parent:
        follow(flags.parent)
    with contextlib.ExitStack() as locks:
        claimed = [folder for folder in flags.folders if locks.enter_context(sweep_runs.claim(folder))]
        if not claimed:
            return sweep_runs.HELD
        to_do = [folder for folder in claimed if sweep_runs.may_start(folder)]
        if not to_do:
            return sweep_runs.FINISHED
        return train_group(to_do) if flags.together else train_run(to_do[0])


def stop(number, frame) -> None:
    raise SystemExit(sweep_runs.STOPPED)


def follow(parent: int) -> None:
    """Asks the kernel (Linux) for a SIGTERM when the launcher dies: no run goes on that nobody looks after."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        set_parent_death_signal = 1
        libc.prctl(set_parent_death_signal, int(signal.SIGTERM))
        if os.getppid() != parent:  # it died before that
            raise SystemExit(sweep_runs.STOPPED)


def train_run(folder: Path) -> int:
    """One run, as `python -m experiments.train` would do it: in this process, so that its lock lives as long as it."""
    module, words = sweep_book.command_of(folder)
    with started([folder]) as codes:
        print(f"start: python -m {' '.join([module, *words])}", file=sys.stderr, flush=True)
        codes[0] = run_module(module, words)
    return codes[0]


def run_module(module: str, words: Sequence[str]) -> int:
    """`python -m module words`, in this process. Returns its exit code."""
    sys.argv = [module, *words]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def train_group(folders: Sequence[Path]) -> int:
    """Runs that differ in numbers only, in one program (common/together.py)."""
    from experiments import launch  # noqa: F401, I001  sets the process up before jax is imported
    from common.pays import warning
    from common.together import train_together
    from experiments.tasks import make_task

    configs = [sweep_book.config_of(folder) for folder in folders]
    if line := warning(configs[0], make_task, len(configs)):
        print(f"warning: {line}", file=sys.stderr, flush=True)
    heard = io.StringIO()
    with started(folders) as codes:
        try:
            with contextlib.redirect_stderr(heard):
                codes[:] = train_together(configs, make_task, list(folders), quiet=True)
        except InputError as error:
            heard.write("".join(f"error: {folder}: {error}\n" for folder in folders))
        finally:
            tell(folders, heard.getvalue())
    return sweep_runs.worst(codes)


def tell(folders: Sequence[Path], text: str) -> None:
    """Each run's lines ('error: FOLDER: why') into its own log, all others into this process's."""
    for line in text.splitlines():
        owners = [folder for folder in folders if line.startswith(f"error: {folder}: ")]
        for folder in owners:
            with (folder / "log.txt").open("a") as log:
                log.write(f"error: {line.removeprefix(f'error: {folder}: ')}\n")
        if not owners:
            print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def started(folders: Sequence[Path]):
    """Notes a start of each run, and its end with what the block wrote into the list of exit codes (failed, if nothing)."""
    codes = [sweep_runs.FAILED] * len(folders)
    for folder in folders:
        sweep_runs.begin(folder)
    began = time.perf_counter()
    try:
        yield codes
    except SystemExit as ended:
        codes[:] = [ended.code if isinstance(ended.code, int) else sweep_runs.FAILED] * len(folders)
        raise
    finally:
        for folder, code in zip(folders, codes, strict=True):
            sweep_runs.end(folder, code, time.perf_counter() - began)


if __name__ == "__main__":
    # Not launch.run: it brings jax, and what is finished or held by another process is to be told quickly.
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        sys.exit(f"error: {error}")
