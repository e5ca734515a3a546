"""A live feed of jobs: lines as they come, the chances of each job at once, the state of each stream kept between them."""

import contextlib
import csv
import heapq
import io
import itertools
import math
import os
import re
import select
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from common.errors import STOPPED, InputError
from common.files import find_inputs, plan_outputs
from common.processes import Signals
from lstm.data import job_store
from lstm.data.job_events import AGAIN, NAMES, in_order
from lstm.data.job_history import Event, History
from lstm.data.job_values import BadHeader, BadLine, JobStep
from lstm.data.job_windows import places_of, scaled
from lstm.data.jobs import LONGEST, LOOKS, Faults, Format, Job, open_format, read_jobs
from lstm.job_scores import bad_classes
from lstm.tasks.jobs_data import Data

SIZES = (1, 8, 64, 512)  # rows of a step: as few shapes are compiled
WAIT = 0.5  # seconds between two looks for a signal
LATE = "submitted before what had been told; later ends were known when it was answered"
LINES = 512  # that are scored together, at most, where they are there already
SAVE = 100_000  # lines after which the state is committed


class Answer(NamedTuple):
    """The chances of a job's classes, `elapsed` seconds after its start (0: at its submission)."""

    id: str
    elapsed: float
    chances: Float[np.ndarray, " k"]


class Feed:
    """What is known of the machine and each stream, and the model that answers.

    apply: the model; carry: its state of one stream, fresh. model: its name. state: an SQLite file in which users and streams
    beyond the `near` most recently seen are kept, and everything at `save`; '': in memory alone. running: also answer when a
    running job outlives a bin of run time. Raises InputError for a state that is none, or another model's.
    """

    def __init__(
        self,
        apply: Callable,
        carry: Any,
        data: Data,
        edges: np.ndarray,
        *,
        model: str = "",
        state: str | Path = "",
        near: int = 50_000,
        running: bool = False,
    ):
        self.apply, self.facts, self.edges, self.model, self.running = apply, data.facts(), edges, model, running
        self.faults = data.faults
        self.store = job_store.open_store(state or ":memory:")
        users = job_store.Spilling(self.store, "users", near, job_store.pack_user, job_store.unpack_user)
        unpack = lambda text: np.frombuffer(text, np.float32)
        self.carries = job_store.Spilling(self.store, "carries", near, np.ndarray.tobytes, unpack)
        self.history: History = data.history(users)
        self.places = {name: places_of(self.facts.names[name]) for name in NAMES}
        leaves, self.shape = jax.tree.flatten(jax.device_get(carry))
        self.ends = np.cumsum([leaf.shape[-1] for leaf in leaves])  # of the parts of a stream's state, side by side
        self.clock, self.lines = -math.inf, 0
        self.watched: dict[int, np.ndarray] = {}  # of open jobs: chances given that they outlive each bin
        self.edge_times: list[tuple[float, int, int]] = []
        self.restore(state)

    # State ----------------------------------------------------------------------------------------------------------------

    def restore(self, state: str | Path) -> None:
        """Goes on where the state was saved."""
        found = job_store.get(self.store, "feed")
        if found is None:
            return
        if found["model"] != self.model:
            raise InputError(
                f"--state {state}: is of another model ({found['model']}); name another file, or remove it"
            )
        job_store.unpack_machine(self.history, found["machine"])
        self.clock, self.lines = found["clock"], found["lines"]
        self.edge_times = [tuple(entry) for entry in found["edge_times"]]
        self.watched = {number: np.array(rows, np.float32) for number, rows in found["watched"]}

    def save(self) -> None:
        """Commits everything to the file."""
        self.history.users.flush()
        self.carries.flush()
        watched = [[number, rows.tolist()] for number, rows in self.watched.items()]
        feed = {"model": self.model, "machine": job_store.pack_machine(self.history), "clock": self.clock}
        more = {"lines": self.lines, "edge_times": self.edge_times, "watched": watched}
        job_store.put(self.store, "feed", feed | more)
        self.store.commit()

    # Jobs -----------------------------------------------------------------------------------------------------------------

    def tell(self, jobs: Sequence[Job]) -> list[Answer]:
        """Jobs as their lines came: a new one is submitted; of one that is open more is told, its start or its end. The answers,
        in order."""
        events: list[Event] = []
        asked: list[tuple[str, int, int, Any]] = []  # id, number, bin, chances where they are known
        for job in jobs:
            number = self.history.numbers.get(job.id)
            known = None if number is None else self.history.open[number].job
            more = known is not None and known.submit == job.submit
            if (known is not None and repr(job) == repr(known)) or self.history.has_ended(job):  # repr: NaN is not NaN
                self.faults.add(AGAIN, f"job {job.id}")
                continue
            if job.submit < self.clock and not more:
                self.faults.add(LATE, f"job {job.id}")
            if more:
                self.history.tell(number, job)
                self.pass_time(
                    max((t for t in (job.start, job.end) if not math.isnan(t)), default=-math.inf), events, asked
                )
            else:
                self.pass_time(job.submit, events, asked)
                event = self.history.submit(job)
                number = event.number
                events.append(event)
                asked.append((job.id, number, 0, None))
            if self.running and not math.isnan(job.start) and not (more and known.start == job.start):
                heapq.heappush(self.edge_times, (job.start + self.edges[1], number, 1))
        scored = self.score(events)
        rows_of = lambda number, rows: scored.get(number) if rows is None else rows
        found = [
            Answer(name, float(self.edges[place]), rows_of(number, rows)[place])
            for name, number, place, rows in asked
            if rows_of(number, rows) is not None  # a job of the time before --running
        ]
        if self.running:
            self.watched |= {number: rows for number, rows in scored.items() if number in self.history.open}
        return found

    def pass_time(self, now: float, events: list[Event], asked: list[tuple[str, int, int, Any]]) -> None:
        """Adds the ends up to `now`, and the jobs that have outlived a bin."""
        self.clock = max(self.clock, now)
        for event in self.history.ended_until(self.clock):
            events.append(event)
            self.watched.pop(event.number, None)
        while self.running and self.edge_times and self.edge_times[0][0] <= self.clock:
            time, number, place = heapq.heappop(self.edge_times)
            start = time - self.edges[place]
            if number in self.history.open and abs(self.history.open[number].job.start - start) < 1e-3:  # told last
                asked.append((self.history.open[number].job.id, number, place, self.watched.get(number)))
                if place + 1 < len(self.edges):
                    heapq.heappush(self.edge_times, (start + self.edges[place + 1], number, place + 1))

    def score(self, events: Sequence[Event]) -> dict[int, Float[np.ndarray, "bins k"]]:
        """Events through the model, those of one stream one after the other; the chances of the submissions among them, by number."""
        waiting: dict[str, list[Event]] = {}
        for event in events:
            waiting.setdefault(event.stream, []).append(event)
        found: dict[int, np.ndarray] = {}
        for turn in itertools.zip_longest(*waiting.values()):
            now = [event for event in turn if event is not None]
            for first in range(0, len(now), SIZES[-1]):
                some = now[first : first + SIZES[-1]]
                for event, rows in zip(some, self.step(some), strict=True):
                    if event.submitted:
                        found[event.number] = rows
        return found

    def step(self, events: Sequence[Event]) -> Float[np.ndarray, "n bins k"]:
        """One event of each of some streams."""
        size = next(size for size in SIZES if size >= len(events))
        facts, width = self.facts, int(self.ends[-1]) if len(self.ends) else 0
        numbers = np.zeros((size, 1, len(facts.submitted[0])), np.float32)
        ended = np.zeros((size, 1, len(facts.ended[0])), np.float32)
        names, submitted = np.zeros((size, 1, len(NAMES)), np.int32), np.zeros((size, 1), bool)
        carry, fresh = np.zeros((size, width), np.float32), np.zeros(width, np.float32)
        for row, event in enumerate(events):
            (numbers if event.submitted else ended)[row, 0] = event.numbers
            names[row, 0] = [self.places[name].get(getattr(event.job, name), 0) for name in NAMES]
            submitted[row] = event.submitted
            carry[row] = self.carries.get(event.stream, fresh)
        valid = np.arange(size)[:, None] < len(events)
        parts = np.split(carry, self.ends[:-1], axis=1) if width else []
        result = self.apply(
            {
                "numbers": scaled(numbers, facts.submitted) * submitted[..., None],
                "ended": scaled(ended, facts.ended) * (~submitted & valid)[..., None],
                "names": names,
                "submitted": submitted,
                "valid": valid,
                "carry": jax.tree.unflatten(self.shape, parts),
            }
        )
        result = jax.device_get({name: result[name] for name in ("running", "carry")})
        if width:
            carry = np.concatenate(jax.tree.leaves(result["carry"]), axis=1)
            for row, event in enumerate(events):
                self.carries[event.stream] = carry[row].copy()  # a view would keep the whole step
        return result["running"][: len(events), 0]


# Lines --------------------------------------------------------------------------------------------------------------------


def read_lines(file: int, stopped: Callable[[], bool]) -> Iterator[list[str]]:
    """Lines of a file descriptor as they come, those that are there together, at most LINES; to its end, or until stopped()."""
    rest = b""
    while not stopped():
        if not select.select([file], [], [], WAIT)[0]:
            continue
        block = os.read(file, 1 << 16)
        if not block:
            if rest:
                yield [rest.decode("utf-8", "replace")]
            return
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > LONGEST:  # no line of a log
            lines, rest = [*lines, rest], b""
        for first in range(0, len(lines), LINES):
            yield [line.decode("utf-8", "replace") for line in lines[first : first + LINES]]


def open_lines(data: Data, first: str) -> Format:
    """The format of a feed whose first line is `first`: that of the training log, whose header stands in for one it lacks."""
    form = open_format(data.kind(), data.reads["columns"])
    if form.kind == "swf":
        own = first.startswith(";")
    else:
        column = "JobID" if form.kind == "sacct" else (data.reads["columns"] or {}).get("submit") or "submit"
        own = column in (field.strip(' "') for field in re.split(r"[|,\t]", first.strip()))
    for line in [] if own else data.header():
        with contextlib.suppress(BadHeader):  # training has said so
            form.parse(line)
    return form


def head(options: Mapping[str, Any]) -> list[str]:
    return ["job", "elapsed", *options["class_names"], "risk"]


def row_of(answer: Answer, bad: Sequence[int]) -> list[str]:
    """A row under `head`. bad: the classes whose chances are the risk."""
    return [answer.id, f"{answer.elapsed:g}", *(f"{x:.5f}" for x in [*answer.chances, answer.chances[bad].sum()])]


def open_table(file: io.TextIOBase, options: Mapping[str, Any]) -> Callable[[Sequence[Answer]], None]:
    """Writes the head of a CSV table; what writes answers below it."""
    bad, table = bad_classes(options["class_names"], options["bad"]), csv.writer(file, lineterminator="\n")
    table.writerow(head(options))
    return lambda answers: table.writerows(row_of(answer, bad) for answer in answers)


def follow(
    feed: Feed, data: Data, options: Mapping[str, Any], file: int, out: io.TextIOBase, errors: io.TextIOBase
) -> int:
    """Answers a feed until it ends or a signal comes, then saves and closes its store. Returns 0, or 75 for a signal.

    A line that cannot be read gets one in `errors`, with its number; the feed goes on.
    """
    form, counts = None, Counter()
    if not feed.lines:
        print(
            "note: a new state, in which no user has a past; feed the log of the training first",
            file=errors,
            flush=True,
        )

    def read(lines: Sequence[str]) -> Iterator[Job]:
        nonlocal form
        for line in lines:
            feed.lines += 1
            if form is None:
                line = line.removeprefix("\ufeff")
                form = open_lines(data, line)
            try:
                job = form.parse(line)
            except JobStep:
                counts["steps"] += 1
            except BadLine as error:
                counts["bad"] += 1
                print(f"line {feed.lines}: {error}", file=errors, flush=True)
            else:
                counts["jobs"] += job is not None
                yield from [job] if job else []

    with Signals() as signals, contextlib.closing(feed.store):
        try:
            answer(feed, (list(read(lines)) for lines in read_lines(file, signals.stop_now)), out, options)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # or the interpreter tries again as it ends
            feed.save()
            raise InputError("standard output: its reader has gone; the state is saved") from None
        except sqlite3.Error as error:
            raise InputError(
                f"--state: {error}; it is as of its last save: make room, start again from there"
            ) from None
        stopped = signals.stop_now()
    if counts["bad"] and not counts["jobs"]:
        raise InputError(
            f"standard input: none of its lines is a job, {counts['bad']:,} are malformed; {LOOKS[form.kind]} are expected"
        )
    said = {"bad": "malformed lines, left out", "steps": "steps and waiting arrays of jobs, passed over"}
    for line in [*data.faults.report(), *(f"{counts[kind]:,} {what}" for kind, what in said.items() if counts[kind])]:
        print(f"warning: {line}", file=errors)
    return STOPPED if stopped else 0


def answer(feed: Feed, blocks: Iterable[list[Job]], out: io.TextIOBase, options: Mapping[str, Any]) -> None:
    """Answers jobs as they come, and saves now and then and at the end."""
    write, saved = open_table(out, options), feed.lines
    out.flush()
    for jobs in blocks:
        write(feed.tell(jobs))
        out.flush()
        if feed.lines - saved >= SAVE:
            feed.save()
            saved = feed.lines
    feed.save()


# Files --------------------------------------------------------------------------------------------------------------------

ENDINGS = (".swf", ".csv", ".tsv", ".txt", ".sacct", ".gz")


def predict_files(
    feed: Callable[[], Feed], data: Data, options: Mapping[str, Any], paths: Sequence[str | Path], output: Path
) -> list[Path]:
    """Writes OUTPUT/NAME.csv for each log among `paths`, as a live feed would answer its lines from a fresh state."""
    targets = plan_outputs(find_inputs(paths, ENDINGS, "logs"), output, ".csv", lambda path: is_ours(path, options))
    output.mkdir(parents=True, exist_ok=True)
    for target, path in targets.items():
        faults, own = Faults(), feed()
        blocks = read_jobs(path, data.reads["kind"], data.reads["columns"], faults=faults)
        jobs = in_order(itertools.chain.from_iterable(blocks), faults=faults)
        aside = target.with_name(f".{target.name}")
        with aside.open("w", encoding="utf-8", newline="") as file:
            write = open_table(file, options)
            while some := list(itertools.islice(jobs, LINES)):
                write(own.tell(some))
        aside.replace(target)
        for line in faults.report():
            print(f"warning: {path}: {line}", file=sys.stderr)
    for line in data.faults.report():
        print(f"warning: {line}", file=sys.stderr)
    return list(targets)


def is_ours(path: Path, options: Mapping[str, Any]) -> bool:
    first = io.StringIO()
    open_table(first, options)
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        return file.readline() == first.getvalue()
