"""Lines of logs of jobs: what each format's lines mean; their values are in job_values.py.

A reader of lines gives the fields of a `lstm.data.jobs.Job` in their order, or None for a line without a job: an empty one, or
a header, from which it learns. What cannot be read raises BadLine.
"""

import csv
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from common.errors import InputError
from lstm.data.job_values import (
    NOTHING,
    BadHeader,
    BadLine,
    JobStep,
    clock,
    decimal,
    in_time,
    known,
    memory,
    number,
    state,
    time_limit,
    waits_for,
    zone,
)

Lines = Callable[[str], tuple | None]

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
    are field 2 alone: hours of the day are off by a constant. Of a job that has ended an unknown wait counts as 0, as does an
    unknown run time; one that has not ended has then not started either. Processors are those requested (field 8), never those
    allocated. Memory: KB a processor, in MB.
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
        if math.isnan(end) and math.isnan(wait):
            start = math.nan
        status, *names = ["" if text == "-1" else text for text in fields[10:17]]
        processors, limit = known(values[7], "the number of processors"), known(values[8], "the time limit")
        return (fields[0], submit, start, end, status, processors, limit, known(values[9], "the memory") / 1024, *names)

    return parse


SACCT = "JobID Submit Start End State ReqCPUS Timelimit ReqMem User Group/GID/Account JobName QOS Partition Dependency"


def sacct_lines(name: str) -> Lines:
    """`sacct --parsable2`: a header, then fields parted by '|'. Needs JobID, Submit, State and User; reads the other columns of
    SACCT where they are. A job that has not ended has no end and no status; one that ended without a start (cancelled while it
    waited) ran for no time. name: of what is read, for messages."""
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
        if "[" in job:  # 12_[1-9%2]: each will come by its own id
            raise JobStep("waiting parts of job arrays, left out")
        if not job or submit.lower() in NOTHING:
            raise BadLine("no JobID, or no Submit", line)
        status = state(status)
        times = time(submit, "Submit"), time(start, "Start"), time(end, "End") if status else math.nan
        if math.isnan(times[1]):  # ended, and never started
            times = times[0], times[2], times[2]
        numbers = number(processors, "ReqCPUS"), time_limit(limit), memory(asked)
        return (job, *times, status, *numbers, *names, waits_for(after))

    return parse


def csv_lines(wanted: Mapping[str, str], needed: Iterable[str], name: str) -> Lines:
    """A table, its fields parted by tabs where the header has any, else by commas; a row is one line.

    wanted: {field of a job, 'wait' or 'run': its column}, in the order of Job, wait and run last; needed: those that must be
    there. Times are seconds, or ISO 8601 (see `clock`). Where start is unknown it is submit + wait, where end is it is start +
    run, both in seconds, an unknown start taken as submit; in a table that tells starts, a job with
    an end and neither start nor run ran for no time. Other numbers as they stand: the limit in seconds,
    memory in MB. A job without an id is called by its row.
    """
    cure = "name the columns of this table in config.data.columns"
    header, delimiter, width, at, time, tells_starts, rows = "", ",", 0, {}, clock(), False, 0

    def parse(line: str) -> tuple | None:
        nonlocal header, delimiter, width, at, tells_starts, rows
        line = line.rstrip("\r\n")
        if not line.strip() or line == header:
            return None
        if not header:
            delimiter = "\t" if "\t" in line else ","
            fields = csv_row(line, delimiter)
            at = columns_at(fields, {field: (column,) for field, column in wanted.items()}, needed, name, cure)
            header, width = line, len(fields)
            tells_starts = min(at["start"], at["wait"]) < width
            return None
        rows += 1
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
        elif math.isnan(start) and tells_starts:
            start = end
        numbers = map(number, numbers, ("processors", "time_limit", "memory"))
        return (
            job or f"row {rows}",
            submit,
            start,
            end,
            status,
            *numbers,
            user,
            group,
            program,
            queue,
            partition,
            after,
        )

    return parse
