"""What a log's jobs are like: when they come, how large, how long, whose, and how they end. Numbers only.

Hours are processor-hours; a job of unknown size counts as one processor, a job that has not ended as none.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

from common.chart import short
from lstm.data.job_events import NAMES, Log
from lstm.data.job_history import DAY, MONDAY, WEEK
from lstm.job_decision import sizes_of

BUSIEST = 20  # users and programs that are told
SECONDS = {  # where the last one of these ends, in words
    "less than 10 s": 10,
    "10 s to 1 min": 60,
    "1 to 10 min": 600,
    "10 min to 1 h": 3600,
    "1 to 4 h": 14_400,
    "4 to 12 h": 43_200,
    "12 to 24 h": 86_400,
    "1 day and more": np.inf,
}


class Groups(NamedTuple):
    """Jobs in groups: each one's name, number of jobs, hours, and the shares of the classes among its jobs that ended with a
    known one; NaN where none did."""

    names: list[str]
    jobs: Int64[np.ndarray, " n"]
    hours: Float64[np.ndarray, " n"]
    classes: Float64[np.ndarray, "n k"]


class Workload(NamedTuple):
    """Of a log. first, last: submissions, in seconds since 1970. hours: of all jobs. arrivals: jobs of each weekday, from Monday,
    and hour of the day. by_hour: of the day. sizes, runs, waits: by processors and seconds; waits None where the log tells
    of none. users, programs: the BUSIEST by jobs, None where the log names none. user_count, program_count: of all.
    half: of how few users half of the bad ends are (0 without bad ends)."""

    jobs: int
    unknown: int
    first: float
    last: float
    hours: float
    arrivals: Int64[np.ndarray, "7 24"]
    by_hour: Groups
    sizes: Groups
    runs: Groups
    waits: Groups | None
    users: Groups | None
    user_count: int
    half: int
    programs: Groups | None
    program_count: int


def workload_of(log: Log, classes: int, bad: Sequence[int]) -> Workload:
    """classes: how many there are. bad: those that are bad."""
    jobs = log.jobs
    hour = (jobs.submit % DAY // 3600).astype(np.int64)
    weekday = ((jobs.submit - MONDAY) % WEEK // DAY).astype(np.int64)
    hours = hours_of(log)
    counted = lambda place, names: groups_of(place, names, hours, jobs.label, classes)
    waits = jobs.start - jobs.submit
    named = {name: jobs.codes[:, NAMES.index(name)] for name in ("user", "program")}
    found = {name: busiest(named[name], log.names[name], hours, jobs.label, classes) for name in named}
    told = {name: [place for place, text in enumerate(log.names[name]) if text] for name in named}
    of_users = np.bincount(named["user"][np.isin(jobs.label, bad)], minlength=len(log.names["user"]))[told["user"]]
    return Workload(
        len(log),
        int((jobs.label < 0).sum()),
        float(jobs.submit.min()),
        float(jobs.submit.max()),
        float(hours.sum()),
        np.bincount(weekday * 24 + hour, minlength=168).reshape(7, 24),
        counted(hour, [f"{h}" for h in range(24)]),
        filled(counted(*in_sizes(np.asarray(jobs.processors)))),
        filled(counted(*in_seconds(jobs.run))),
        filled(counted(*in_seconds(waits))) if (waits > 0).any() else None,  # SWF: an unknown wait is read as 0
        found["user"],
        len(told["user"]),
        fewest(of_users),
        found["program"],
        len(told["program"]),
    )


def hours_of(log: Log) -> Float64[np.ndarray, " n"]:
    """Processor-hours of each job; 0 where it has not ended."""
    return np.nan_to_num(log.jobs.run) / 3600 * sizes_of(log)


def groups_of(
    place: Int[np.ndarray, " jobs"],
    names: Sequence[str],
    hours: Float64[np.ndarray, " jobs"],
    label: Int[np.ndarray, " jobs"],
    classes: int,
) -> Groups:
    """place: of each job's group among `names`; those of other places are left out."""
    size = len(names)
    inside = (place >= 0) & (place < size)
    place, hours, label = place[inside].astype(np.int64), hours[inside], label[inside]
    known = label >= 0
    table = np.bincount(place[known] * classes + label[known], minlength=size * classes).reshape(size, classes)
    ended = table.sum(1, keepdims=True)
    shares = np.where(ended > 0, table / np.maximum(ended, 1), np.nan)
    return Groups(list(names), np.bincount(place, minlength=size), np.bincount(place, hours, minlength=size), shares)


def chosen(groups: Groups, rows: Int[np.ndarray, " m"] | Bool[np.ndarray, " n"]) -> Groups:
    """Some of the groups, in this order."""
    names, *others = groups
    return Groups(np.array(names, object)[rows].tolist(), *(x[rows] for x in others))


def filled(groups: Groups) -> Groups:
    return chosen(groups, groups.jobs > 0)


def busiest(code, names: Sequence[str], hours, label, classes: int) -> Groups | None:
    """The BUSIEST of the groups by name; None where the log gives none."""
    if not any(names):
        return None
    groups = groups_of(code, names, hours, label, classes)
    return chosen(groups, np.argsort(-groups.jobs, kind="stable")[:BUSIEST])


def fewest(counts: Int[np.ndarray, " n"]) -> int:
    """How many of the largest counts are half of the sum, at least; 0 for a sum of 0."""
    ordered = np.sort(counts)[::-1]
    return int(np.searchsorted(np.cumsum(ordered), ordered.sum() / 2) + 1) if ordered.sum() else 0


def in_sizes(processors: np.ndarray) -> tuple[Int[np.ndarray, " n"], list[str]]:
    """By powers of two: 1, 2, 3 to 4, 5 to 8, ...; last those that the log never told."""
    steps = np.ceil(np.log2(np.maximum(processors, 1))).astype(np.int64)
    most = int(steps.max(initial=0))
    span = lambda k: short(2**k) if k < 2 else f"{short(2 ** (k - 1) + 1)} to {short(2**k)}"
    return np.where(processors > 0, steps, most + 1), [*map(span, range(most + 1)), "not known"]


def in_seconds(seconds: np.ndarray) -> tuple[Int[np.ndarray, " n"], list[str]]:
    """By SECONDS; last those that are not known."""
    place = np.searchsorted(list(SECONDS.values()), seconds, side="right")
    return np.where(np.isnan(seconds), len(SECONDS), place), [*SECONDS, "not known"]
