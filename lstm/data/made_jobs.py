"""A made log of a scheduler whose true risk is known: users, their programs, workflows, and how jobs end.

The world. Users work in sessions, most of them by day and on weekdays; some join late. A user owns a few programs, of which
some are shared with others and some are first used late. In a session a user submits, minutes apart: single jobs, sweeps
(several jobs of one program at once), workflows (prepare -> some simulations -> merge -> plot, each a program of its own;
each job but the first waits for one other), and jobs that wait for one of an earlier submission. The machine
lets a job wait for a lognormal time that grows with the number of jobs that have not ended. A job that waits for another
starts when that one has completed and its own wait is over; where that one does not complete, it is cancelled at that
moment and never starts. How a job ends once it starts, and its true chances, are in `made_jobs_risk`.

What users ask for does not depend on how jobs end: the log's fields tell of the hidden set-ups by statuses and times alone.
Users, groups, programs, queues and partitions are named by numbers, and memory is asked for by the processor, as in the
Standard Workload Format.
"""

import bisect
import contextlib
import heapq
import itertools
import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from common.errors import InputError
from lstm.data.jobs import Job
from lstm.data.made_jobs_risk import (
    CANCELLED,
    CLASSES,
    COMPLETED,
    FAILED,
    FIRST_BROKEN,
    Belief,
    Placed,
    Risk,
    chances_of,
    risk_of,
    set_up,
    submitted,
)

BEGIN = 1_704_067_200  # Monday, 1 January 2024, 0:00
DAY = 86_400  # s
# Users.
GROUPS = 8
LATE_USERS, JOIN_DAYS = 0.4, 45.0  # share of users who are not there from the first day; mean time until they join
WEEKDAY, WEEKEND = 0.65, 0.12  # chance of a session on a day, for a user of mean activity
SESSION_BATCHES = (2.0, 7.0)  # mean number of submissions in a session, from user to user
PAUSE, PAUSE_SPREAD = 720.0, 1.0  # s between two submissions of a session: lognormal
WORKFLOWS = (0.04, 0.28)  # share of a user's submissions
FOLLOWS, SWEEPS = 0.1, 0.12  # the same: a job that waits for an earlier one, several jobs of a program
FAVOURITE, KEPT = 0.7, 0.5  # shares of the others: of a session's main program, those that may be waited for
WIDEST = 6  # jobs in a sweep, and of the second step of a workflow
CANCELS = (1.0, 32.0)  # beta law of the share of jobs that a user cancels
BREAKS, MENDS = (0.01, 0.045), (0.06, 0.22)  # rates of a set-up from one submission to the next: from user to user
# Programs.
SHARED, SHARED_USE = 12, 0.4  # number of programs that anybody may use; share of a user's programs that is among them
PROGRAMS = (4, 7)  # of a user, both ends included
FIRST_PROGRAMS, OPENS_EVERY = 3, 8  # that a user begins with; sessions until one more is used
PROCESSORS = (1, 2, 4, 8, 16, 32, 64, 128)
RUN, RUN_SPREAD, RUN_RANGE = 1500.0, 1.1, (120.0, 20_000.0)  # s, the median run time from program to program: lognormal
JOB_SPREAD = (0.15, 0.5)  # of the logarithm of the run time, from job to job of a program
SCALING, MEMORY_SCALING = 0.7, 0.5  # how run time and memory of a processor fall with the number of processors: powers
NEED, NEED_SPREAD, NEED_JOB_SPREAD = 1500.0, 0.8, 0.12  # MB for a processor, from program to program, from job to job
# What is asked for, over what is needed: logarithms of it.
MEMORY_MARGIN, MEMORY_MARGIN_SPREAD, MEMORY_STEP = 0.5, 0.35, 64  # memory is asked for in steps, MB
LIMIT_MARGIN, LIMIT_MARGIN_SPREAD = 0.9, 0.45
LIMITS = tuple(900 * quarters for quarters in (1, 2, 4, 8, 12, 16, 24, 32, 48, 96))  # s: 15 minutes to one day
# Waiting.
WAIT, WAIT_SPREAD, WAIT_MOST = 90.0, 1.3, 43_200.0  # s on an empty machine: lognormal
CROWD = 0.5  # unended jobs for each user at which the wait is four times as long

ALONE, FOLLOWING = -1, -2  # instead of a place: a job that waits for none, for the last of an earlier batch
Steps = list[tuple[int, int]]  # of a batch's jobs: the place of the user's program, that of the job that it waits for


class Made(NamedTuple):
    """A job with all that is known of it in the end, and the true chances of CLASSES when it was submitted."""

    job: Job
    chances: Float64[np.ndarray, "3"] | None


class Program(NamedTuple):
    number: int
    processors: int  # its typical number: place in PROCESSORS
    log_run: float  # logarithm of the median run time (s) on that many
    spread: float
    need: float  # MB for each of that many processors


class User(NamedTuple):
    number: int
    joins: int  # day
    activity: float
    hour: float  # at which sessions begin
    batches: float  # mean number in a session
    workflows: float
    cancels: float
    breaks: float
    mends: float
    programs: tuple[Program, ...]


class Planned(NamedTuple):
    """What a user asks for, and the luck of the job: a normal number for its wait, three in [0, 1) for its end."""

    program: Program
    processors: int
    limit: int
    memory: int
    after: int  # see Steps
    risk: Risk
    wait: float
    mode: float
    run: float
    set_up: float


class Batch(NamedTuple):
    """What a user submits at once. kept: the next job that follows an earlier batch follows the last of this one. Luck of each
    job: normal numbers for what it asks for and its wait, uniform ones for its size and its end."""

    time: int
    user: User
    kept: bool
    steps: Steps
    normal: Float64[np.ndarray, "jobs 3"]
    uniform: Float64[np.ndarray, "jobs 4"]


# Users and programs -------------------------------------------------------------------------------------------------------


def program_of(rng: np.random.Generator, number: int) -> Program:
    log_run = math.log(min(max(RUN * math.exp(RUN_SPREAD * rng.standard_normal()), RUN_RANGE[0]), RUN_RANGE[1]))
    need = NEED * math.exp(NEED_SPREAD * rng.standard_normal())
    return Program(number, int(rng.integers(len(PROCESSORS))), log_run, float(rng.uniform(*JOB_SPREAD)), need)


def user_of(rng: np.random.Generator, number: int, shared: Sequence[Program]) -> User:
    own = itertools.count(1 + SHARED + number * PROGRAMS[1])  # its programs' numbers
    order = rng.permutation(len(shared))[: int(rng.integers(PROGRAMS[0], PROGRAMS[1] + 1))]
    return User(
        number=number,
        joins=int(rng.exponential(JOIN_DAYS)) if rng.random() < LATE_USERS else 0,
        activity=math.exp(0.4 * rng.standard_normal()),
        hour=9 + 3 * float(rng.exponential()),
        batches=float(rng.uniform(*SESSION_BATCHES)),
        workflows=float(rng.uniform(*WORKFLOWS)),
        cancels=float(rng.beta(*CANCELS)),
        breaks=float(rng.uniform(*BREAKS)),
        mends=float(rng.uniform(*MENDS)),
        programs=tuple(shared[i] if rng.random() < SHARED_USE else program_of(rng, next(own)) for i in order),
    )


def batches_of(seed: int, number: int, shared: Sequence[Program]) -> Iterator[Batch]:
    """All that a user ever submits, in order of time; it has no end."""
    rng = np.random.default_rng((seed, 1, number))
    user = user_of(rng, number, shared)
    day, time = user.joins, 0
    for session in itertools.count():
        day += 1 if session else 0
        while rng.random() > user.activity * (WEEKDAY if day % 7 < 5 else WEEKEND):
            day += 1
        time = max(time, BEGIN + day * DAY + int(3600 * (user.hour + rng.standard_normal())))
        plans = session_of(rng, user, min(FIRST_PROGRAMS + session // OPENS_EVERY, len(user.programs)))
        count = sum(len(steps) for steps, _ in plans)
        normal, uniform = rng.standard_normal((count, 3)), rng.random((count, 4))
        pauses = (PAUSE * np.exp(PAUSE_SPREAD * rng.standard_normal(len(plans)))).astype(int).tolist()
        begin = 0
        for (steps, kept), pause in zip(plans, pauses, strict=True):
            end = begin + len(steps)
            yield Batch(time, user, kept, steps, normal[begin:end], uniform[begin:end])
            begin, time = end, time + 1 + pause


def session_of(rng: np.random.Generator, user: User, programs: int) -> list[tuple[Steps, bool]]:
    """What a user submits in a session, of the first so many programs: the steps of each batch, and whether the next job that
    waits for an earlier batch waits for the last of this one. No path of jobs holds a program twice."""
    favourite, path = int(rng.integers(programs)), range(programs)  # path: the programs up to the job to wait for
    plans = []
    for kind, which, length, width in rng.random((int(rng.geometric(1 / user.batches)), 4)).tolist():
        wide = 2 + int(width * (WIDEST - 1))
        others = [place for place in range(programs) if place not in path]
        kept = True
        if kind < user.workflows:
            stages = 2 + int(length * (min(4, programs) - 1))
            first = int(which * (programs - stages + 1))
            path = range(first, first + stages)
            steps = [(first, ALONE), *[(first + 1, 0)] * (wide - 1)]
            steps += [(first + stage, wide + stage - 3) for stage in range(2, stages)]
        elif kind < user.workflows + FOLLOWS and others:
            program = others[int(which * len(others))]
            path = (*path, program)
            steps = [(program, FOLLOWING)]
        else:
            program = favourite if which < FAVOURITE else int((which - FAVOURITE) / (1 - FAVOURITE) * programs)
            steps = [(program, ALONE)] * (wide if kind > 1 - SWEEPS else 1)
            kept = length < KEPT
            path = (program,) if kept else path
        plans.append((steps, kept))
    return plans


def asked(batch: Batch) -> list[Planned]:
    """The jobs of a batch: what they ask for, which follows from their program and chance, and their luck."""
    user, jobs = batch.user, []
    rows = zip(batch.steps, batch.normal.tolist(), batch.uniform.tolist(), strict=True)
    for (place, after), (z_memory, z_limit, z_wait), (size, *luck) in rows:
        program = user.programs[place]
        wanted = program.processors + (size > 0.75) - (size < 0.25)  # twice as many, half as many, or as ever
        processors = PROCESSORS[min(max(wanted, 0), len(PROCESSORS) - 1)]
        smaller = math.log(PROCESSORS[program.processors] / processors)
        need, log_run = program.need * math.exp(MEMORY_SCALING * smaller), program.log_run + SCALING * smaller
        memory = need * math.exp(MEMORY_MARGIN + MEMORY_MARGIN_SPREAD * z_memory)
        memory = MEMORY_STEP * math.ceil(memory / MEMORY_STEP)
        limit = math.exp(log_run + LIMIT_MARGIN + LIMIT_MARGIN_SPREAD * z_limit)
        limit = LIMITS[min(bisect.bisect_left(LIMITS, limit), len(LIMITS) - 1)]
        risk = risk_of(
            processors=processors,
            limit=limit,
            memory=memory,
            need=need,
            need_spread=NEED_JOB_SPREAD,
            log_run=log_run,
            spread=program.spread,
            cancels=user.cancels,
        )
        jobs.append(Planned(program, processors, limit, memory, after, risk, z_wait, *luck))
    return jobs


# The machine --------------------------------------------------------------------------------------------------------------


def made_jobs(seed: int = 0, users: int = 40, jobs: int = 20_000, *, chances: bool = True) -> Iterator[Made]:
    """The first `jobs` jobs of a made log, in order of submission; a shorter log is the beginning of a longer one.

    chances: work out the true chances, else they are None; the jobs are the same. Chances of CLASSES are given all that is
    known when a job is submitted: its fields, the parameters of the world, and what is known by then (what ends at that
    second is known) of all jobs before it: their fields, whether they have started and ended, when, and how. Memory grows
    with users and with jobs that have not ended. Raises InputError for numbers that make no log.
    """
    for name, value, least in (("seed", seed, 0), ("users", users, 1), ("jobs", jobs, 0)):
        if value < least:
            raise InputError(f"a made log with {name}={value}; expected {least} or more")
    return itertools.islice(world(seed, users, chances), jobs)


def world(seed: int, users: int, chances: bool) -> Iterator[Made]:
    """A log without an end."""
    rng = np.random.default_rng((seed, 0))
    shared = [program_of(rng, 1 + number) for number in range(SHARED)]
    ends: list[float] = []  # of unended jobs
    setups: dict[Hashable, tuple[bool, int]] = {}  # pair -> is its set-up broken, at which moment of submission
    beliefs: dict[Hashable, Belief] = {}
    kept: dict[int, Placed] = {}  # user -> the job that may be followed
    names = map(str, itertools.count(1))
    for batch in merged([batches_of(seed, number, shared) for number in range(users)]):
        user, now, placed = batch.user, float(batch.time), []
        fresh = Belief(FIRST_BROKEN, user.breaks, user.mends)
        while ends and ends[0] <= now:
            heapq.heappop(ends)
        for planned in asked(batch):
            before = placed[planned.after] if planned.after >= 0 else None
            before = kept[user.number] if planned.after == FOLLOWING else before
            pair = (user.number, planned.program.number)
            last = setups.get(pair)
            broken = set_up(last, batch.time, fresh, planned.set_up)
            setups[pair] = (broken, batch.time)
            job = submitted(
                next(names),
                pair,
                now + wait_of(planned, len(ends) / users),
                now,
                broken=broken,
                moved=last is not None and last[1] != batch.time,
                before=before,
                risk=planned.risk,
                luck=(planned.mode, planned.run),
            )
            placed.append(job)
            heapq.heappush(ends, job.end)
            yield Made(record(job, planned, batch), chances_of(job, fresh, beliefs, now) if chances else None)
        if batch.kept:
            kept[user.number] = placed[-1]


def merged(streams: Sequence[Iterator[Batch]]) -> Iterator[Batch]:
    """The batches of all users in order of time, then user; each user's next one is held. Streams have no end."""
    held, users = [next(stream) for stream in streams], len(streams)
    heap = [batch.time * users + number for number, batch in enumerate(held)]  # plain numbers: quick to compare
    heapq.heapify(heap)
    while True:
        number = heap[0] % users
        yield held[number]
        held[number] = batch = next(streams[number])
        heapq.heapreplace(heap, batch.time * users + number)


def wait_of(planned: Planned, crowd: float) -> int:
    """Seconds in the queue; crowd: unended jobs for each user."""
    return int(min(WAIT * (1 + crowd / CROWD) ** 2 * math.exp(WAIT_SPREAD * planned.wait), WAIT_MOST))


def record(job: Placed, planned: Planned, batch: Batch) -> Job:
    return Job(
        id=job.id,
        submit=float(batch.time),
        start=job.start,
        end=job.end,
        status=job.status,
        processors=float(planned.processors),
        time_limit=float(planned.limit),
        memory=float(planned.memory),
        user=str(batch.user.number + 1),
        group=str(1 + batch.user.number % GROUPS),
        program=str(planned.program.number),
        queue="1" if planned.limit <= 3600 else "2",
        partition="1" if planned.processors <= 16 else "2",
        after=job.before.id if job.before else "",
    )


# Standard Workload Format -------------------------------------------------------------------------------------------------

SWF_STATUS = {COMPLETED: "1", FAILED: "0", CANCELLED: "5", "": ""}
SWF_HEADER = f"""; Version: 2.2
; Computer: made, no real machine
; UnixStartTime: {BEGIN}
; TimeZone: 0
; TimeZoneString: UTC
"""


def swf_line(job: Job) -> str:
    """A job as a line of Standard Workload Format, without its end; times count from BEGIN, what is not known is -1.

    Raises InputError for what the format cannot hold: other statuses than CLASSES, fractions, names that are no numbers.
    """
    if job.status not in SWF_STATUS:
        raise InputError(f"job {job.id}: status {job.status!r}; a made log knows {', '.join(CLASSES)}, or '' for none")
    wait, run = job.start - job.submit, job.end - job.start
    times = (job.submit - BEGIN, wait, run, job.processors if run > 0 else math.nan, math.nan, math.nan)
    asked = (job.processors, job.time_limit, job.memory * 1024)
    names = (job.user, job.group, job.program, job.queue, job.partition, job.after)
    texts = [whole(x, job) for x in (job.id, *times, *asked, SWF_STATUS[job.status], *names)]
    return " ".join([*texts, "-1"])


def whole(value: float | str, job: Job) -> str:
    """A number of the format; -1 for NaN and ''."""
    if value == "" or value != value:
        return "-1"
    number = value if isinstance(value, str) else f"{value:.0f}"
    if not (number.isascii() and number.isdecimal() and float(number) == float(value)):
        raise InputError(f"job {job.id}: {value!r} cannot stand in a .swf file; it holds whole numbers from 0 on")
    return number


def write_swf(path: Path, jobs: Iterable[Job]) -> None:
    """Writes a log as a file of Standard Workload Format, job by job; it is whole or not there. Raises InputError where it
    cannot be written, or holds a job that cannot (see `swf_line`)."""
    aside = path.with_name(f".{path.name}")
    try:
        with aside.open("w", encoding="ascii", newline="\n") as file:
            file.write(SWF_HEADER)
            file.writelines(f"{swf_line(job)}\n" for job in jobs)
        aside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error}); choose another folder, or make room") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()
