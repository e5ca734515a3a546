"""Values in the lines of logs of jobs: numbers, times, limits, memory, states. What cannot be read raises BadLine.

Words like 'None' or 'Unknown' are NaN, as is -1.
"""

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

NOTHING = frozenset(("", "-", "nan", "none", "null", "na", "n/a", "unknown"))
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
    """A line that is a step of a job or a waiting part of an array, not a job: nothing is wrong with it."""


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
