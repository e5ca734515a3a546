"""A whole log as arrays on disk: the numbers of every submission and of every end, in the order of the streams.

A log is read once, in order; what a History makes of it goes to files without a name, which are mapped into memory and gone
when the process is. So the memory that a log of ten million jobs takes is that of the open jobs, of names, and of a few
numbers a job.
"""

import heapq
import itertools
import math
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64

from common.errors import InputError
from lstm.data.job_history import Event, History
from lstm.data.jobs import Faults, Job

NAMES = ("user", "group", "program", "queue", "partition")  # the fields of a job that are embedded
ID = "S48"  # the start of a job's id
LATE = "submitted before jobs that were read long before it"
AGAIN = "told again, taken as one job (the same id and time of submission)"


class Columns(NamedTuple):
    """What a log says of each job, in order of submission: times in seconds, NaN where unknown; label -1 where no class is known
    or the job has not ended; processors as asked for (0: never told); codes of NAMES into `Log.names`."""

    id: np.ndarray
    submit: Float64[np.ndarray, " n"]
    start: Float64[np.ndarray, " n"]
    end: Float64[np.ndarray, " n"]
    label: Int32[np.ndarray, " n"]
    processors: Float32[np.ndarray, " n"]
    codes: Int32[np.ndarray, "n 5"]

    @property
    def run(self) -> Float64[np.ndarray, " n"]:
        """Seconds from start to end; NaN where the job has not ended."""
        return np.maximum(self.end - np.where(np.isnan(self.start), self.submit, self.start), 0)


class Log(NamedTuple):
    """A log, encoded.

    submitted [n, F], ended [n, E]: the numbers of `History.submitted_names` and `ended_names` of each job. events: 2 * job + 1 where
    it is submitted, 2 * job where it ends, stream after stream, by time in each. begins: the first event of each stream,
    and the end of the last. names: of each of NAMES, the log's names in the order of their codes.
    """

    jobs: Columns
    submitted: Float32[np.ndarray, "n f"]
    ended: Float32[np.ndarray, "n e"]
    events: Int64[np.ndarray, " m"]
    begins: Int64[np.ndarray, " streams+1"]
    names: dict[str, list[str]]

    def __len__(self) -> int:
        return len(self.jobs.submit)

    def times(self, events: Int64[np.ndarray, "*s"]) -> Float64[np.ndarray, "*s"]:
        """When events happen."""
        return np.where(events % 2 == 1, self.jobs.submit[events // 2], self.jobs.end[events // 2])


def in_order(jobs: Iterable[Job], window: int = 200_000, faults: Faults | None = None) -> Iterator[Job]:
    """Jobs by their time of submission, those of one moment as they came, as far as `window` jobs can tell; one that comes
    later still is counted and left where it is told, at the time of the job before it. Of jobs with the same id and time of
    submission (a log that is made of several, each as of its day) the last that was read counts, and stands where the first did.
    """
    waiting: list[tuple[float, int, Job]] = []
    known: dict[tuple[str, float], int] = {}  # of those that wait: where they stand
    told: dict[int, Job] = {}  # what was told of them again
    latest = -math.inf
    for place, job in enumerate(itertools.chain(jobs, itertools.repeat(None))):
        if job is not None:
            before = known.setdefault((job.id, job.submit), place) if job.id else place
            if before != place:
                told[before] = job
                if faults is not None:
                    faults.add(AGAIN, f"job {job.id}")
                continue
            heapq.heappush(waiting, (job.submit, place, job))
            if len(waiting) <= window:
                continue
        if not waiting:
            return
        time, place, first = heapq.heappop(waiting)
        known.pop((first.id, first.submit), None)
        first = told.pop(place, first)
        if time < latest:
            if faults is None:
                raise InputError(f"job {first.id}: {LATE}; sort the log by time of submission")
            faults.add(LATE, f"job {first.id}")
            first = first._replace(submit=latest)
        latest = first.submit
        yield first


class Rows:
    """A table in a file without a name, written by number of row, then mapped into memory; rows that were not written are 0."""

    def __init__(self, folder: str, dtype: Any, width: int):
        self.file = tempfile.TemporaryFile(dir=folder or None)  # noqa: SIM115  (it lives as long as the map of it)
        self.dtype, self.width = dtype, width

    def write(self, row: int, values: Any) -> None:
        text = np.asarray(values, self.dtype).tobytes()
        os.pwrite(self.file.fileno(), text, row * len(text))

    def mapped(self, rows: int) -> np.ndarray:
        """[rows, width], or [rows] for width 1."""
        os.ftruncate(self.file.fileno(), rows * self.width * np.dtype(self.dtype).itemsize)
        shape = (rows,) if self.width == 1 else (rows, self.width)
        return np.memmap(self.file, self.dtype, "r", shape=shape)


def encode(jobs: Iterable[Job], history: History, folder: str = "") -> Log:
    """The log of `jobs`, which come in order of submission. folder: where the unnamed files go; '': where the system keeps such.

    Raises InputError for a log without a job, or in which none has ended with a known class, and where the disk is full.
    """
    try:
        return encoded(jobs, history, folder)
    except OSError as error:
        where = folder or tempfile.gettempdir()
        raise InputError(f"config.data.scratch={where!r}: {error.strerror}; name a folder with room") from None


def encoded(jobs: Iterable[Job], history: History, folder: str) -> Log:
    submitted = Rows(folder, np.float32, len(history.submitted_names()))
    ended = Rows(folder, np.float32, len(history.ended_names()))
    ids, of_names = Rows(folder, ID, 1), Rows(folder, np.int32, len(NAMES))
    codes: dict[str, dict[str, int]] = {name: {} for name in NAMES}
    streams: dict[str, int] = {}
    submit, start, end, labels, asked = array("d"), array("d"), array("d"), array("i"), array("f")
    events, stream_of = array("q"), array("i")

    def note(event: Event) -> None:
        events.append(2 * event.number + event.submitted)
        stream_of.append(streams.setdefault(event.stream, len(streams)))
        (submitted if event.submitted else ended).write(event.number, event.numbers)

    for job in jobs:
        for event in history.ended_until(job.submit):
            note(event)
        event = history.submit(job)
        note(event)
        ids.write(event.number, job.id.encode())
        of_names.write(event.number, [codes[f].setdefault(getattr(job, f), len(codes[f])) for f in NAMES])
        for column, value in ((submit, job.submit), (start, job.start), (end, job.end)):
            column.append(value)
        labels.append(history.open[event.number].label if not math.isnan(job.end) else -1)
        asked.append(history.open[event.number].processors)
    for event in history.ended_until(math.inf):
        note(event)
    if labels and all(map(math.isnan, end)):
        raise InputError("no job of the log has an end; a table tells it by config.data.columns.end or run")
    if not labels or max(labels) < 0:
        raise InputError("the log has no job that ended with a known class; see config.data.statuses")
    count, of_stream = len(labels), np.frombuffer(stream_of, np.int32)
    columns = Columns(ids.mapped(count), *map(np.asarray, (submit, start, end, labels, asked)), of_names.mapped(count))
    return Log(
        columns,
        submitted.mapped(count),
        ended.mapped(count),
        np.frombuffer(events, np.int64)[np.argsort(of_stream, kind="stable")],
        np.concatenate([[0], np.cumsum(np.bincount(of_stream))]),
        {name: list(found) for name, found in codes.items()},
    )
