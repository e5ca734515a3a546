"""Logs of batch schedulers, read as a stream of jobs: Standard Workload Format, `sacct --parsable2`, any CSV."""

import gzip
import io
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from common import config as configs
from common.errors import InputError
from lstm.data.job_formats import csv_lines, sacct_lines, swf_lines
from lstm.data.job_values import BadHeader, BadLine, JobStep
from lstm.data.labelled import kind_of


class Job(NamedTuple):
    """One job of a log. Times are seconds since 1970-01-01 in the machine's local time; a number that the log does not
    give is NaN, a name ''.

    Known when it is submitted: id, submit, processors (requested), time_limit (s), memory (requested, MB), user, group,
    program, queue, partition, and after: the id of the job that it waits for. Known later: start, end (NaN: it has not
    ended), and status, the log's own word for how it ended ('': not ended).
    """

    id: str
    submit: float
    start: float
    end: float
    status: str
    processors: float
    time_limit: float
    memory: float
    user: str
    group: str
    program: str
    queue: str
    partition: str
    after: str


# Formats ------------------------------------------------------------------------------------------------------------------

KINDS = ("swf", "sacct", "csv")
COLUMNS = (*Job._fields, "wait", "run")  # what a column of a CSV log may hold; wait and run in seconds


class Format(NamedTuple):
    """How lines of a log become jobs, given one by one in their order, from a file or a feed.

    parse(line): its Job; None for an empty line and for a header line, from which it learns how to read those that follow.
    Raises BadLine for a malformed line, its JobStep for a step of a job, its BadHeader for a header line that is of no use;
    InputError for a header without the columns that are needed.
    """

    kind: str
    parse: Callable[[str], Job | None]


def open_format(kind: str, columns: Mapping[str, str] | None = None, name: str = "standard input") -> Format:
    """A format before its first line. kind: one of KINDS. columns, of CSV: {field of a Job, 'wait' or 'run': name of its
    column}, '' for none; {} or None: each field has the column of its own name. name: of what is read, for messages."""
    if kind not in KINDS:
        raise InputError(f"{name}: {kind!r} is no kind of log; {configs.nearest(kind, KINDS)}")
    if kind == "csv":
        named = {key: column for key, column in (columns or {}).items() if column}
        for key in named:
            if key not in COLUMNS:
                raise InputError(f"config.data.columns.{key}: no field of a job; {configs.nearest(key, COLUMNS)}")
        if named and "submit" not in named:
            raise InputError("config.data.columns.submit: not set; name the column of submit times")
        wanted = {key: named.get(key, "" if named else key) for key in COLUMNS}
        read = csv_lines(wanted, {"submit", *named}, name)
    else:
        read = swf_lines() if kind == "swf" else sacct_lines(name)

    def parse(line: str) -> Job | None:
        fields = read(line)
        return None if fields is None else Job._make(fields)

    return Format(kind, parse)


def kind_of_path(path: str | Path) -> str:
    """The kind of a log by its ending, else by its first line, which is read. Raises InputError where it is none of KINDS."""
    path = Path(path)
    ending = kind_of(path)
    if ending == ".swf":
        return "swf"
    if ending in (".csv", ".tsv", ".tab"):
        return "csv"
    first = next(lines_of(path), None)
    if first is None:
        raise InputError(f"{path}: the file is empty; name a log of jobs")
    if "JobID" in first.rstrip().split("|"):
        return "sacct"
    cure = ".swf is the Standard Workload Format, .csv and .tsv are tables, `sacct --parsable2` begins with JobID|...|State"
    raise InputError(f"{path}: not known as a log of jobs; {cure}; each may be in gzip (.gz)")


# Files --------------------------------------------------------------------------------------------------------------------

LONGEST = 1 << 20  # bytes of a line; beyond it a file is no log, and would have to be held whole
TRIED = 1000  # lines after which a file that is mostly malformed is given up
OUT_OF_ORDER = "submitted before the job above, to be sorted"
EARLY_END = "ended before it was submitted"
LOOKS = {
    "swf": "18 numbers a line",
    "sacct": "the fields of the first line, parted by '|'",
    "csv": "the columns of the first line; check config.data.columns",
}
NO_CLASS = "status of no class, taken as not ended (config.data.statuses)"


@dataclass
class Faults:
    """What was strange in logs that were read. counts: reason -> how often; examples: reason -> its first places; lines: those
    that should have held a job; malformed: those of them that were left out for it."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    lines: int = 0
    malformed: int = 0

    def add(self, reason: str, example: str) -> None:
        self.counts[reason] += 1
        first = self.examples.setdefault(reason, [])
        if len(first) < 3 and example not in first:
            first.append(example)

    def report(self) -> list[str]:
        """A line for each reason, the most frequent first; none where all is well."""
        whole = (
            [f"{self.malformed:,} of {self.lines:,} lines are malformed and were left out"] if self.malformed else []
        )
        return whole + [
            f"{n:,} x {reason}: {', '.join(self.examples[reason])}" for reason, n in self.counts.most_common()
        ]


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, or of one in gzip (NAME.gz), one at a time. Raises InputError for one that is missing,
    damaged, not UTF-8, or has a line that is longer than LONGEST."""
    line = 0
    try:
        with path.open("rb") as raw:
            file = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
            for line, data in enumerate(iter(partial(file.readline, LONGEST), b""), 1):
                if len(data) == LONGEST:
                    raise InputError(f"{path}:{line}: a line of more than {LONGEST:,} bytes; not a log of jobs")
                yield data.decode("utf-8-sig" if line == 1 else "utf-8")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a whole gzip file ({error}); fetch it again, or drop the ending .gz") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a log of jobs") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}:{line}: not UTF-8; convert it: iconv -f latin1 -t utf-8 {path.name}") from None


def read_jobs(
    path: str | Path,
    kind: str = "",
    columns: Mapping[str, str] | None = None,
    block: int = 65536,
    faults: Faults | None = None,
) -> Iterator[list[Job]]:
    """The jobs of a log, as they stand in it, in lists of `block` (the last: what is left); no more is held at a time.

    kind: one of KINDS; '': by `kind_of_path`. columns: see `open_format`. faults: takes malformed lines, which are left out,
    steps of jobs, and jobs whose times are out of order; without it the first malformed line raises InputError. So does a
    log with more malformed lines than others among its first TRIED, or without any job.
    """
    path = Path(path)
    kind = kind or kind_of_path(path)
    jobs = jobs_of(path, open_format(kind, columns, str(path)), faults)
    while some := list(islice(jobs, block)):
        yield some


def jobs_of(path: Path, form: Format, faults: Faults | None) -> Iterator[Job]:
    """The jobs of a file, one by one; see `read_jobs`."""
    strict, faults = faults is None, Faults() if faults is None else faults
    lines, malformed, latest, first = 0, 0, -math.inf, ""
    for number, line in enumerate(lines_of(path), 1):
        try:
            job = form.parse(line)
        except BadLine as error:
            faults.add(error.reason, f"{path}:{number}")
            if strict and not isinstance(error, JobStep):
                raise InputError(f"{path}:{number}: {error}; mend the line, or remove it") from None
            if isinstance(error, BadHeader):
                continue
            if not isinstance(error, JobStep):
                first = first or f"line {number}: {error}"
                malformed += 1
                faults.malformed += 1
        else:
            if job is None:
                continue
            if job.submit < latest:
                faults.add(OUT_OF_ORDER, f"{path}:{number}")
            latest = job.submit
            if job.end < latest:
                faults.add(EARLY_END, f"{path}:{number}")
            yield job
        lines += 1
        faults.lines += 1
        if lines == TRIED:
            check_form(path, form.kind, lines, malformed, first)
    if lines < TRIED:
        check_form(path, form.kind, lines, malformed, first)
    if latest == -math.inf:
        raise InputError(f"{path}: no job in it; name a log with jobs")


def check_form(path: Path, kind: str, lines: int, malformed: int, first: str) -> None:
    """Raises InputError where more than half of `lines` are malformed."""
    if 2 * malformed > lines:
        count = f"{malformed:,} of the first {lines:,} lines are malformed"
        raise InputError(f"{path}: not a {kind} log ({first}); {count}; expected {LOOKS[kind]}")


# Classes ------------------------------------------------------------------------------------------------------------------

STATUSES: dict[str, dict[str, str]] = {  # kind of log -> its word for how a job ended -> class; '': it has not ended
    "swf": {"1": "completed", "0": "failed", "5": "cancelled", "2": "", "3": "completed", "4": "failed"},
    "sacct": {
        "COMPLETED": "completed",
        **dict.fromkeys(("FAILED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE"), "failed"),
        **dict.fromkeys(("LAUNCH_FAILED", "RECONFIG_FAIL"), "failed"),
        **dict.fromkeys(("CANCELLED", "PREEMPTED", "REVOKED"), "cancelled"),
    },
    "csv": {name: name for name in ("completed", "failed", "cancelled")},
}


def class_of(word: str, statuses: Mapping[str, str], class_names: Sequence[str], faults: Faults | None = None) -> int:
    """The index of a status's class; -1 where the job has not ended: its word is '', or stands for ''.

    A word that is not in `statuses` counts as not ended and goes to `faults`; without them it raises InputError, as does a
    class that is none of `class_names`.
    """
    name = statuses.get(word)
    if name is None and word:
        if faults is None:
            raise InputError(f"status {word!r} is not in config.data.statuses; {configs.nearest(word, statuses)}")
        faults.add(NO_CLASS, repr(word))
    if not name:
        return -1
    if name not in class_names:
        cure = f"config.task.class_names is {list(class_names)}; a status that is to be left out maps to ''"
        raise InputError(f"config.data.statuses.{word}={name!r}: no such class; {cure}")
    return class_names.index(name)
