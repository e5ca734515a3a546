"""Lines of logs of jobs: what each format's lines and values mean.

A reader of lines gives the fields of a `lstm.data.jobs.Job` in their order, or None for a line without a job: an empty one, or
a header, from which it learns. Words like 'None' or 'Unknown' are NaN, as is -1. What cannot be read raises BadLine.
"""

import csv
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from common.errors import InputError

NOTHING = frozenset(("", "-", "nan", "none", "null", "na", "n/a", "unknown"))
Lines = Callable[[str], tuple | None]
LATEST = 1e11  # seconds, year 5138: what lies beyond is in milliseconds, or damaged
TOO_MUCH = 1e18
EPOCH = datetime(1970, 1, 1)


class BadLine(ValueError):
    """A malformed line. reason: what is wrong, in words that many lines share; detail: the text that is wrong."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail[:60]!r}" if detail else reason)
        self.reason = reason


class BadHeader(BadLine):
    """A header line that cannot be used. No job is lost by it, but times may be another clock's."""


class JobStep(BadLine):
    """A line that is a step of a job, not a job: nothing is wrong with it."""


# Values -------------------------------------------------------------------------------------------------------------------


def decimal(text: str, what: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in text:  # float reads 1_000
        raise BadLine(f"{what} is not a number", text)
    return value


def known(value: float, what: str) -> float:
    """The number, NaN for -1. Raises BadLine for what is negative otherwise."""
    if 0 <= value < TOO_MUCH:
        return float(value)
    if value == -1:
        return math.nan
    raise BadLine(f"{what} is negative, or too large; unknown is -1", f"{value}")


def number(text: str, what: str) -> float:
    text = text.strip()
    return math.nan if text.lower() in NOTHING else known(decimal(text, what), what)


def in_time(value: float, what: str) -> float:
    """Seconds since 1970 that are a time of this age."""
    if value < LATEST:
        return value
    raise BadLine(f"{what} is after the year 5138; times are in seconds", f"{value:.0f}")


def clock() -> Callable[[str, str], float]:
    """A reader (text, what it is) -> seconds since 1970. The first time it reads decides: numbers of seconds, or ISO 8601 as
    the machine's clock showed it (an offset like +01:00 is that clock's, and is dropped); all others must be like it."""
    read = None

    def seconds(text: str, what: str) -> float:
        return in_time(number(text, what), what)

    def date(text: str, what: str) -> float:
        try:
            value = (datetime.fromisoformat(text).replace(tzinfo=None) - EPOCH).total_seconds()
        except ValueError:
            raise BadLine(f"{what} is not a time like 2024-05-31T23:59:59", text) from None
        if value < 0:
            raise BadLine(f"{what} is before 1970", text)
        return value

    def time(text: str, what: str) -> float:
        nonlocal read
        text = text.strip()
        if text.lower() in NOTHING:
            return math.nan
        if read is not None:
            return read(text, what)
        reader = seconds if re.fullmatch(r"-?\d+(\.\d*)?(e\+?\d+)?", text, re.IGNORECASE) else date
        value = reader(text, what)
        if not math.isnan(value):
            read = reader
        return value

    return time


def zone(text: str) -> Callable[[float], float] | None:
    """By how many seconds the clocks of a time zone differ from UTC in a quarter of an hour, counted since 1970 (they change at
    quarters); None where no zone is called so."""
    try:
        place = ZoneInfo(text)
    except (KeyError, ValueError, OSError):  # unknown, no name of a zone, a folder of them
        return None

    @lru_cache(1024)
    def shift(quarter: float) -> float:
        offset = datetime.fromtimestamp(quarter * 900, UTC).astimezone(place).utcoffset()
        return offset.total_seconds() if offset is not None else 0.0

    return shift


LIMIT = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)")
NO_LIMIT = ("unlimited", "partition_limit")


def time_limit(text: str) -> float:
    """Seconds of Slurm's [DD-]HH:MM:SS; NaN where there is no limit, or it is the partition's."""
    text = text.strip()
    if text.lower() in NOTHING or text.lower() in NO_LIMIT:
        return math.nan
    match = LIMIT.fullmatch(text)
    if match is None:
        raise BadLine("the time limit is not [DD-]HH:MM:SS", text)
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return 86400.0 * days + 3600 * hours + 60 * minutes + seconds


MEMORY = re.compile(r"(\d+(?:\.\d+)?)([KMGTP]?)[nc]?")
MEGABYTES = {"K": 1 / 1024, "": 1.0, "M": 1.0, "G": 1024.0, "T": 1024.0**2, "P": 1024.0**3}


def memory(text: str) -> float:
    """MB of Slurm's ReqMem, as it stands: of the whole job, or a node's (4Gn) or a processor's (2Gc) in older logs."""
    text = text.strip()
    if text.lower() in NOTHING:
        return math.nan
    match = MEMORY.fullmatch(text)
    if match is None:
        raise BadLine("the memory is not like 4000M, 4Gn or 2Gc", text)
    return float(match[1]) * MEGABYTES[match[2]]


NOT_ENDED = re.compile(
    "PENDING|RUNNING|SUSPENDED|RE(QUEUED|QUEUE_FED|QUEUE_HOLD|SIZING|SV_DEL_HOLD)|COMPLETING|CONFIGURING|SIGNALING|"
    "SPECIAL_EXIT|STAGE_OUT|STOPPED|POWER_UP_NODE|EXPEDITING|UPDATE_DB"
)


def state(text: str) -> str:
    """Slurm's word for how a job ended, without ' by UID'; '' where it has not."""
    word = text.partition(" ")[0]
    return "" if NOT_ENDED.fullmatch(word) else word


def waits_for(text: str) -> str:
    """The first job of a dependency like 'afterok:123(unfulfilled),afterany:7'; '' without one."""
    match = re.search(r"after\w*:(\d+(?:_\d+)?)", text)
    return match[1] if match else ""


# Columns ------------------------------------------------------------------------------------------------------------------


def csv_row(line: str, delimiter: str) -> list[str]:
    """The fields of one line; between tabs a quote is a character like any other."""
    try:
        if delimiter == "\t":
            return next(csv.reader((line,), delimiter="\t", quoting=csv.QUOTE_NONE))
        return next(csv.reader((line,), strict=True))
    except csv.Error as error:
        raise BadLine("not a row of a table", str(error)) from None


def columns_at(
    header: Sequence[str], wanted: Mapping[str, Iterable[str]], needed: Iterable[str], place: str, cure: str
) -> dict[str, int]:
    """{field: where its column stands}, for each of `wanted`: the first of its names that is in the header; where none is,
    len(header), one past the end of a row. Raises InputError where one of the `needed` fields has no column."""
    names = [name.strip() for name in header]
    found = {}
    for field, columns in wanted.items():
        column = next((name for name in columns if name and name in names), None)
        if column is None and field in needed:
            shown = ", ".join(names[:30]) if len(names) > 1 else f"one column, {names[0][:60]!r}"
            raise InputError(f"{place}: no column {' or '.join(map(repr, columns))}; it has {shown}; {cure}")
        if column is not None and names.count(column) > 1:
            raise InputError(f"{place}: {names.count(column)} columns are called {column!r}; rename all but one")
        found[field] = len(names) if column is None else names.index(column)
    return found


# Lines --------------------------------------------------------------------------------------------------------------------

ENDED = frozenset(("0", "1", "3", "4", "5"))  # of the status words of SWF: the job has ended


def swf_clock() -> tuple[Callable[[str], None], Callable[[float, str], float]]:
    """learn(header line), and local(seconds since the log began, what they are) -> seconds since 1970, local time."""
    header: dict[str, str] = {}
    origin, shift = 0.0, lambda _: 0.0

    def learn(line: str) -> None:
        nonlocal origin, shift
        match = re.match(r"\s*;\s*(UnixStartTime|TimeZoneString|TimeZone)\s*:\s*(\S+)", line)
        if match is None:
            return
        key, value = match.groups()
        usable = zone(value) if key == "TimeZoneString" else re.fullmatch(r"[+-]?\d{1,10}", value)
        if usable is None or (key, value) == ("UnixStartTime", "-1"):
            raise BadHeader(f"the header's {key} is not known here, times are read without it", value)
        header[key] = value
        if "UnixStartTime" in header:
            origin, seconds = float(header["UnixStartTime"]), float(header.get("TimeZone", 0))
            shift = zone(header.get("TimeZoneString", "")) or (lambda _: seconds)

    def local(seconds: float, what: str) -> float:
        seconds += origin
        return in_time(seconds, what) + shift(seconds // 900)

    return learn, local


def swf_lines() -> Lines:
    """The Standard Workload Format 2.2 (Feitelson): 18 numbers a line, -1 where unknown; header lines begin with ';'.

    Times are UnixStartTime + field 2, each shifted to the zone of TimeZoneString, else by TimeZone; without UnixStartTime they
    are field 2 alone: hours of the day are off by a constant. An unknown wait counts as 0, as does an unknown run time of a
    job that has ended. Processors are those requested (field 8), never those allocated. Memory: KB a processor, in MB.
    """
    learn, local = swf_clock()

    def parse(line: str) -> tuple | None:
        fields = line.split()
        if not fields or fields[0][0] == ";":
            learn(line)
            return None
        if len(fields) != 18:
            raise BadLine("not 18 fields", line.strip())
        try:
            values = [*map(int, fields)]  # three times faster than float
        except ValueError:
            values = [decimal(text, "a field") for text in fields]
            fields = ["-1" if value == -1 else text for value, text in zip(values, fields, strict=True)]
        if "_" in line:  # int reads 1_000
            raise BadLine("a field is not a number", line.strip())
        if values[0] == -1 or values[1] == -1:
            raise BadLine("no job number, or no submit time", line.strip())
        since = known(values[1], "the submit time")
        wait, run = known(values[2], "the wait"), known(values[3], "the run time")
        submit = start = local(since, "the submit time")
        if wait > 0:
            since += wait
            start = max(submit, local(since, "the start"))  # clocks are put back once a year
        end = start if run == 0 or fields[10] in ENDED else math.nan
        if run > 0:
            end = max(start, local(since + run, "the end"))
        status, *names = ["" if text == "-1" else text for text in fields[10:17]]
        processors, limit = known(values[7], "the number of processors"), known(values[8], "the time limit")
        return (fields[0], submit, start, end, status, processors, limit, known(values[9], "the memory") / 1024, *names)

    return parse


SACCT = "JobID Submit Start End State ReqCPUS Timelimit ReqMem User Group/GID/Account JobName QOS Partition Dependency"


def sacct_lines(name: str) -> Lines:
    """`sacct --parsable2`: a header, then fields parted by '|'. Needs JobID, Submit, State and User; reads the other columns of
    SACCT where they are. A job that has not ended has no end and no status. name: of what is read, for messages."""
    wanted = {column: column.split("/") for column in SACCT.split()}
    cure = "write it by: sacct --parsable2 --allocations --format=JobID,Submit,Start,End,State,User,ReqCPUS,Timelimit"
    header, at, time = "", {}, clock()

    def parse(line: str) -> tuple | None:
        nonlocal header, at
        line = line.rstrip("\r\n")
        if not line.strip() or line == header:
            return None
        fields = line.split("|")
        if not header:
            at = columns_at(fields, wanted, ("JobID", "Submit", "State", "User"), name, cure)
            header = line
            return None
        if len(fields) != header.count("|") + 1:
            raise BadLine(f"not the {header.count('|') + 1} fields of the header", line)
        fields.append("")  # what has no column
        job, submit, start, end, status, processors, limit, asked, *names, after = (
            fields[place].strip() for place in at.values()
        )
        if "." in job:
            raise JobStep("steps of jobs, left out")
        if not job or submit.lower() in NOTHING:
            raise BadLine("no JobID, or no Submit", line)
        status = state(status)
        times = time(submit, "Submit"), time(start, "Start"), time(end, "End") if status else math.nan
        numbers = number(processors, "ReqCPUS"), time_limit(limit), memory(asked)
        return (job, *times, status, *numbers, *names, waits_for(after))

    return parse


def csv_lines(wanted: Mapping[str, str], needed: Iterable[str], name: str) -> Lines:
    """A table, its fields parted by tabs where the header has any, else by commas; a row is one line.

    wanted: {field of a job, 'wait' or 'run': its column}, in the order of Job, wait and run last; needed: those that must be
    there. Times are seconds, or ISO 8601 (see `clock`). Where start is unknown it is submit + wait, where end is it is start +
    run, both in seconds, an unknown start taken as submit. Other numbers as they stand: the limit in seconds, memory in MB.
    """
    cure = "name the columns of this table in config.data.columns"
    header, delimiter, width, at, time = "", ",", 0, {}, clock()

    def parse(line: str) -> tuple | None:
        nonlocal header, delimiter, width, at
        line = line.rstrip("\r\n")
        if not line.strip() or line == header:
            return None
        if not header:
            delimiter = "\t" if "\t" in line else ","
            fields = csv_row(line, delimiter)
            at = columns_at(fields, {field: (column,) for field, column in wanted.items()}, needed, name, cure)
            header, width = line, len(fields)
            return None
        fields = csv_row(line, delimiter)
        if len(fields) != width:
            raise BadLine(f"not the {width} fields of the header", line)
        fields.append("")  # what has no column
        job, submitted, start, end, status, *numbers, user, group, program, queue, partition, after, wait, run = (
            fields[place].strip() for place in at.values()
        )
        submit, start, end = time(submitted, "submit"), time(start, "start"), time(end, "end")
        if math.isnan(submit):
            raise BadLine("no submit time", line)
        if math.isnan(start):
            start = submit + number(wait, "wait")
        if math.isnan(end):
            end = (submit if math.isnan(start) else start) + number(run, "run")
        numbers = map(number, numbers, ("processors", "time_limit", "memory"))
        return (job, submit, start, end, status, *numbers, user, group, program, queue, partition, after)

    return parse
