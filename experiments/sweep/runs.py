"""The runs of a sweep, as their folders tell: who has one, how often it was started, how it ended, how good it is.

    WORKDIR/sweep.json                   base config, overrides of all runs, the list of runs (or the study)
    WORKDIR/runs/NAME/                   an ordinary run folder, and beside its files:
    WORKDIR/runs/NAME/sweep-run.json     its overrides and its starts; a start that ended has its exit code
    WORKDIR/runs/NAME/log.txt            what it said
    WORKDIR/runs/NAME/.lock              locked by the process that trains it

The lock is the operating system's (flock): the kernel lets go of it when a process dies, however it dies, and it holds
between machines that share a folder by NFS version 4. Only who holds it writes sweep-run.json.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import STOPPED, InputError
from common.files import write_text

FINISHED, FAILED, HELD = 0, 1, 76  # exit codes of a worker; HELD: another process has the run
TO_DO = ("waiting", "killed", "stopped")
PATIENCE = 2.0  # seconds: whoever only looks at a lock holds it for an instant


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep: its name, its folder and what it changes in the base config."""

    name: str
    folder: Path
    overrides: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class State:
    """How a run is. status: waiting, queued, running, killed, stopped, failed, pruned or finished.

    score: the best so far, reached at best_step; error: what a failed one said last.
    """

    status: str
    starts: int = 0
    seconds: float = 0.0
    step: int = 0
    steps: int = 0
    score: float | None = None
    best_step: int | None = None
    error: str = ""


@contextlib.contextmanager
def claim(folder: Path, patience: float = PATIENCE) -> Iterator[bool]:
    """Holds the lock of a folder inside the block; gives False where another process has it for longer than `patience`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        end = time.monotonic() + patience
        while not (held := take(file)) and time.monotonic() < end:
            time.sleep(0.02)
        yield held


@contextlib.contextmanager
def alone(workdir: Path) -> Iterator[None]:
    """Inside, no other launcher of this sweep changes what they share. Raises InputError where one does for a minute."""
    with claim(workdir, patience=60) as held:
        if not held:
            raise InputError(f"--workdir {workdir}: another process keeps its list locked; try again")
        yield


def take(file) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(folder: Path) -> bool:
    """Whether a living process has the run."""
    path = folder / ".lock"
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def read_mark(folder: Path) -> dict[str, Any]:
    """sweep-run.json. Raises InputError where it is not JSON."""
    path = folder / "sweep-run.json"
    try:
        return json.loads(path.read_text()) if path.exists() else {"overrides": {}, "starts": []}
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON ({error}); the file is damaged") from None


def write_mark(folder: Path, mark: Mapping[str, Any]) -> None:
    write_text(folder / "sweep-run.json", json.dumps(mark, indent=1) + "\n")


def begin(folder: Path) -> None:
    """Notes a start. To be called by who holds the lock."""
    mark = read_mark(folder)
    start = {"began": now(), "host": socket.gethostname(), "pid": os.getpid()}
    write_mark(folder, {**mark, "starts": [*mark["starts"], start]})


def end(folder: Path, code: int, seconds: float) -> None:
    """Notes how the last start ended. To be called by who holds the lock."""
    mark = read_mark(folder)
    mark["starts"][-1] |= {"ended": now(), "code": code, "seconds": round(seconds, 2)}
    write_mark(folder, mark)


def note_pruned(folder: Path) -> None:
    """Marks a run that was stopped because others are better: it is not started again."""
    with claim(folder) as held:
        if held:  # else another launcher has just taken it up, and will come to the same end
            write_mark(folder, {**read_mark(folder), "pruned": True})


def may_start(folder: Path) -> bool:
    """Whether there is something left to do. To be asked by who holds the lock."""
    mark = read_mark(folder)
    return not mark.get("pruned") and not (mark["starts"] and mark["starts"][-1].get("code") == FINISHED)


def worst(codes: Sequence[int]) -> int:
    """One exit code for several runs: failed before stopped before finished."""
    failed = any(code not in (FINISHED, STOPPED) for code in codes)
    return FAILED if failed else STOPPED if STOPPED in codes else FINISHED


def startable(retry: bool) -> tuple[str, ...]:
    """The statuses of runs that a launcher starts; retry: failed ones among them."""
    return (*TO_DO, "failed") if retry else TO_DO


def worker_command(runs: Sequence[Run]) -> list[str]:
    """What trains them, in one process."""
    together = ["--together"] if len(runs) > 1 else []
    return [sys.executable, "-m", "experiments.sweep.worker", *(str(run.folder) for run in runs), *together]


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def status(folder: Path) -> str:
    """One of State's, without 'queued'."""
    mark = read_mark(folder)
    if mark.get("pruned"):
        return "pruned"
    code = mark["starts"][-1].get("code") if mark["starts"] else None
    if code == FINISHED:
        return "finished"
    # The lock comes before what the last start left: a new one holds it a moment before it writes.
    if is_held(folder):
        return "running"
    if code is None:
        mark = read_mark(folder)  # it may have ended between the two looks
        code = mark["starts"][-1].get("code") if mark["starts"] else None
    if code is None:
        return "killed" if mark["starts"] else "waiting"
    return {FINISHED: "finished", STOPPED: "stopped"}.get(code, "failed")


def state(folder: Path, metric: str, split: str) -> State:
    """All that the folder tells. metric: 'max NAME' or 'min NAME' of the lines of `split`."""
    mark = read_mark(folder)
    lines = read_metrics(folder)
    score, best_step = best(lines, metric, split)
    about = folder / "run.json"
    found = status(folder)
    return State(
        status=found,
        starts=len(mark["starts"]),
        seconds=sum(start.get("seconds", 0.0) for start in mark["starts"]),
        step=max([line["step"] for line in lines[-1:]] + saved_steps(folder), default=0),
        steps=json.loads(about.read_text()).get("steps", 0) if about.exists() else 0,
        score=score,
        best_step=best_step,
        error=last_words(folder) if found == "failed" else "",
    )


def saved_steps(folder: Path) -> list[int]:
    """Steps of the run's checkpoints: a run that was stopped has saved more than it has logged."""
    return [int(path.stem) for path in (folder / "checkpoints").glob("[0-9]*.json")]


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    from common.log import read_lines  # brings jax: a worker sets its process up first

    return read_lines(folder / "metrics.jsonl")


def scores(lines: list[dict[str, Any]], metric: str, split: str) -> dict[int, float]:
    """{step: score} of the evaluations of `split`; null was not finite and is left out."""
    name = metric.split()[1]
    return {line["step"]: line[name] for line in lines if line["split"] == split and line.get(name) is not None}


def best(lines: list[dict[str, Any]], metric: str, split: str) -> tuple[float | None, int | None]:
    """The best score and its step."""
    found = scores(lines, metric, split)
    if not found:
        return None, None
    step = (max if metric.startswith("max ") else min)(found, key=found.get)
    return found[step], step


def last_words(folder: Path) -> str:
    """The line of a run's log that says why it failed: the last 'error: ...', else its last line."""
    path = folder / "log.txt"
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()] if path.exists() else []
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1]
