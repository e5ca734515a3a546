"""What a sweep shows: a live table while it runs, lines where the screen is a file, a table at the end, runs.csv."""

import csv
import dataclasses
import io
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from common.files import write_text
from experiments.sweep.book import Book, all_runs
from experiments.sweep.runs import TO_DO, Run, State, state

SETTLED = ("finished", "pruned", "failed")
ORDER = ("finished", "running", "queued", "waiting", "stopped", "killed", "failed", "pruned")
SHOWN = 30  # runs in the table at the end


class Screen:
    """The state of every run, and the live table of them (plain lines where stderr is no terminal)."""

    def __init__(self, book: Book, slots: int = 1, queued: Callable[[], set[str]] = set):
        """queued: gives the names of runs that wait in a batch system."""
        self.book, self.slots, self.queued = book, slots, queued
        self.states: dict[str, State] = {}
        self.places: dict[str, str] = {}
        self.began: dict[str, float] = {}
        self.console = Console(stderr=True)
        self.live = Live(console=self.console, auto_refresh=False, transient=True) if self.console.is_terminal else None
        self.refresh()

    def __enter__(self) -> "Screen":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_) -> None:
        if self.live:
            self.live.stop()

    def refresh(self) -> None:
        queued = self.queued()
        for run in all_runs(self.book):
            if run.name not in self.states or self.states[run.name].status not in SETTLED:
                self.states[run.name] = seen(self.book, run, queued)
        if self.live:
            self.live.update(self.render(), refresh=True)

    def started(self, runs: Sequence[Run], place: str) -> None:
        for run in runs:
            self.places[run.name], self.began[run.name] = place, time.monotonic()
            self.states[run.name] = seen(self.book, run)
        if not self.live:
            self.say(f"started   {', '.join(run.name for run in runs)}  on {place}")

    def ended(self, run: Run) -> None:
        self.places.pop(run.name, None)
        self.states[run.name] = now = seen(self.book, run)
        counts = self.counts()
        done = f"({counts['finished'] + counts['pruned']}/{len(self.states)})"
        error = f"  {now.error}" if now.error else ""
        if not self.live or error:
            score = "" if now.score is None else f"{self.book.metric.split()[1]} {score_text(now.score)}  "
            self.say(f"{now.status:<9} {run.name}  {score}{done}{error}")

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def counts(self) -> Counter:
        return Counter(state.status for state in self.states.values())

    def render(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("running", "where", "step", self.book.metric.split()[1], "minutes"):
            table.add_column(name, justify="left" if name in ("running", "where") else "right")
        for name, now in self.states.items():
            if now.status == "running" or name in self.places:
                minutes = f"{(time.monotonic() - self.began[name]) / 60:.1f}" if name in self.began else ""
                step = f"{now.step}/{now.steps or '?'}"
                table.add_row(Text(name), self.places.get(name, ""), step, score_text(now.score), minutes)
        return Group(Text(headline(self.book, self.states, self.slots)), table)


def seen(book: Book, run: Run, queued: set[str] = frozenset()) -> State:
    found = state(run.folder, book.metric, book.split)
    if run.name in queued and found.status in TO_DO:
        found = dataclasses.replace(found, status="queued")
    return found


def counts_text(counts: Counter) -> str:
    """'3 finished, 1 failed'."""
    return ", ".join(f"{counts[name]} {name}" for name in ORDER if counts[name])


def counted(count: int, noun: str) -> str:
    """'1 run', '2 runs', '3 processes'."""
    return f"{count} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def headline(book: Book, states: Mapping[str, State], slots: int = 0) -> str:
    """Counts, the best so far, and about how long it still takes where runs go on in `slots` places."""
    counts = Counter(state.status for state in states.values())
    total = book.study.trials if book.study else len(states)
    parts = [f"{counted(total, 'trial' if book.study else 'run')}: {counts_text(counts)}"]
    if top := ranked(book, states)[:1]:
        parts.append(f"best {book.metric.split()[1]} {score_text(states[top[0]].score)} ({top[0]})")
    seconds = [s.seconds for s in states.values() if s.status == "finished"]
    left = total - sum(counts[name] for name in SETTLED)
    if slots and seconds and left:
        parts.append(f"about {statistics.mean(seconds) * left / slots / 60:.0f} minutes left")
    return "; ".join(parts)


def ranked(book: Book, states: Mapping[str, State]) -> list[str]:
    """Names of the finished runs that have a score, the best first."""
    names = [name for name, s in states.items() if s.status == "finished" and s.score is not None]
    return sorted(names, key=lambda name: states[name].score, reverse=book.metric.startswith("max "))


def score_text(score: float | None) -> str:
    return "" if score is None else f"{score:.4f}"


def in_order(book: Book, states: Mapping[str, State]) -> list[str]:
    """All names: the best finished run first, then the rest by status."""
    first = ranked(book, states)
    return first + sorted((n for n in states if n not in set(first)), key=lambda n: ORDER.index(states[n].status))


def show_table(book: Book, states: Mapping[str, State]) -> None:
    """The table at the end, on stdout; a long one is cut, runs.csv has all."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    table = Table(title=headline(book, states), title_justify="left")
    runs = {run.name: run for run in all_runs(book)}
    keys = list(book.study.space) if book.study else []  # the names of other runs tell their values
    left_out = {run.name for run in book.left_out}
    names = in_order(book, states)
    rows = [row(states[name]) for name in names]
    for name in ("run", *(key.rpartition(".")[2] for key in keys), "status"):
        table.add_column(name, no_wrap=name == "status", overflow="fold")
    for name in (book.metric.split()[1], "at step", "steps", "starts", "minutes"):
        table.add_column(name, justify="right")
    if failed := any(cells[-1] for cells in rows):
        table.add_column("error")
    for name, cells in list(zip(names, rows, strict=True))[:SHOWN]:
        values = [value_text(runs[name].overrides.get(key, "")) for key in keys]
        note = " (not in the sweep file)" if name in left_out else ""
        table.add_row(*map(Text, [name + note, *values, *cells[: None if failed else -1]]))
    console.print(table)
    if len(names) > SHOWN:
        console.print(f"and {len(names) - SHOWN} more: {book.workdir / 'runs.csv'}", markup=False, highlight=False)


def value_text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def row(s: State) -> list[str]:
    steps = f"{s.step}/{s.steps}" if s.steps else ""
    at = "" if s.best_step is None else str(s.best_step)
    return [s.status, score_text(s.score), at, steps, str(s.starts), f"{s.seconds / 60:.1f}", s.error]


def write_csv(book: Book, states: Mapping[str, State]) -> None:
    """WORKDIR/runs.csv: every run, a column for each key that was swept."""
    runs = {run.name: run.overrides for run in all_runs(book)}
    keys = list(dict.fromkeys(key for overrides in runs.values() for key in overrides))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["run", "status", book.metric.split()[1], "best_step", "step", "steps", "starts", "seconds", *keys, "error"]
    )
    for name in in_order(book, states):
        s = states[name]
        given = [runs[name].get(key, "") for key in keys]
        table.writerow(
            [name, s.status, s.score, s.best_step, s.step, s.steps, s.starts, round(s.seconds, 1), *given, s.error]
        )
    write_text(book.workdir / "runs.csv", text.getvalue())
