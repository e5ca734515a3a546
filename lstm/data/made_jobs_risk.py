"""How a job of a made log may end, and how likely that is given all that is known when it is submitted.

A job has one of six endings. Its set-up is hidden and either fine or broken; a broken one fails (BROKEN_FAILS) within
minutes. A job with a fine set-up runs out of memory, is cancelled by its user, meets a fault of a node, reaches its time
limit, or completes: each has a chance that follows from fields and parameters that are known, and a run time of a law that
is known. Run times are whole seconds.

The set-up of a pair (user, program) is a Markov chain of two states which moves once between two moments at which the
pair submits; jobs submitted at once share it. What is known of it is filtered exactly. A job that has ended weighs a state
by the chance of its status and run time in that state; one that runs, by the chance to run for so long; one that has not
started, or was cancelled since its predecessor did not complete, says nothing. Pairs share nothing that is hidden, and the
jobs on a path of predecessors are of different pairs, so their chances multiply. Nothing is approximated.
"""

import math
from collections.abc import Hashable, Mapping
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

COMPLETED, FAILED, CANCELLED = CLASSES = ("completed", "failed", "cancelled")
BROKEN_FAILS = (0.01, 0.93)  # chance that a job fails by its input: set-up fine, broken
BROKEN_MEAN = 90.0  # s, until bad input is noticed
FIRST_BROKEN = 0.2  # chance that the first set-up of a pair is broken
FAULTS = 2e-4  # of nodes, for each processor and hour

QUANTILE = NormalDist().inv_cdf


class Risk(NamedTuple):
    """How a job may end once it starts, its set-up being fine: chances of the endings, laws of the run times in s."""

    dies: float  # memory or a node's fault: fails at any time up to `middle`
    cancelled: float  # by its user: at any time up to `middle`
    late: float  # fails at the time limit
    completes: float  # after a lognormal time that is cut off at the limit
    limit: int
    middle: int
    log_run: float
    spread: float


class Placed(NamedTuple):
    """A job in the made world. `ran` is False where it was cancelled since its predecessor `before` did not complete;
    `moved`: the set-up of its pair may have changed since the pair's job before this one."""

    id: str
    pair: Hashable
    start: float
    end: float
    status: str
    ran: bool
    moved: bool
    risk: Risk
    before: "Placed | None"


class Belief(NamedTuple):
    """What is known of a pair's set-up: P(broken) at the last job before the pending ones, given those that have ended;
    rates at which it breaks and is mended from one moment of submission to the next."""

    broken: float
    breaks: float
    mends: float
    pending: tuple[Placed, ...] = ()


def risk_of(
    *,
    processors: float,
    limit: int,
    memory: float,
    need: float,
    need_spread: float,
    log_run: float,
    spread: float,
    cancels: float,
) -> Risk:
    """The risk of a job that asks for `processors`, `limit` s and `memory`; its program needs a lognormal amount of memory
    around `need`, and a lognormal time around exp(log_run) s; its user cancels a share of `cancels`."""
    short = below(math.log(need / memory) / need_spread)
    middle = max(1, min(int(math.exp(log_run)), limit))
    fault = -math.expm1(-FAULTS * processors * middle / 3600)
    late = below((log_run - math.log(limit)) / spread)
    goes_on = (1 - short) * (1 - cancels)  # memory first, then the user, then the nodes, then the limit
    return Risk(
        dies=short + goes_on * fault,
        cancelled=(1 - short) * cancels,
        late=goes_on * (1 - fault) * late,
        completes=goes_on * (1 - fault) * (1 - late),
        limit=limit,
        middle=middle,
        log_run=log_run,
        spread=spread,
    )


def below(x: float) -> float:
    """Chance that a standard normal number is below x."""
    return 0.5 * math.erfc(-x * math.sqrt(0.5))


# Run times ----------------------------------------------------------------------------------------------------------------


def outcome(risk: Risk, broken: bool, mode: float, time: float) -> tuple[str, int]:
    """(status, run time in s) of a job that starts, of two numbers that are uniform in [0, 1)."""
    fails = BROKEN_FAILS[broken]
    if mode < fails:
        cut = -math.expm1(-risk.limit / BROKEN_MEAN)
        return FAILED, max(1, math.ceil(-BROKEN_MEAN * math.log1p(-time * cut)))
    mode = (mode - fails) / (1 - fails)
    if mode < risk.dies:
        return FAILED, 1 + int(time * risk.middle)
    if mode < risk.dies + risk.cancelled:
        return CANCELLED, 1 + int(time * risk.middle)
    if mode < risk.dies + risk.cancelled + risk.late:
        return FAILED, risk.limit
    within = below((math.log(risk.limit) - risk.log_run) / risk.spread)
    run = math.exp(risk.log_run + risk.spread * QUANTILE(max(time * within, 1e-300)))
    return COMPLETED, min(math.ceil(run), risk.limit)


def broken_lasts(risk: Risk, seconds: float) -> float:
    """Chance that a job which fails by its input runs for more than so many seconds."""
    end = math.exp(-risk.limit / BROKEN_MEAN)
    return max(0.0, (math.exp(-seconds / BROKEN_MEAN) - end) / (1 - end))


def middle_lasts(risk: Risk, seconds: float) -> float:
    """The same for a job that dies or is cancelled."""
    return max(0.0, 1 - seconds / risk.middle)


def complete_lasts(risk: Risk, seconds: float) -> float:
    """The same for a job that completes."""
    if seconds <= 0:
        return 1.0
    within = below((math.log(risk.limit) - risk.log_run) / risk.spread)
    return max(0.0, 1 - below((math.log(seconds) - risk.log_run) / risk.spread) / within)


# What is known ------------------------------------------------------------------------------------------------------------


def alive(risk: Risk, seconds: float) -> tuple[float, float]:
    """Chance to run for more than so many seconds where the input is bad, and where it is not."""
    good = (risk.dies + risk.cancelled) * middle_lasts(risk, seconds) + risk.late * (seconds < risk.limit)
    return broken_lasts(risk, seconds), good + risk.completes * complete_lasts(risk, seconds)


def evidence(job: Placed, now: float) -> tuple[float, float]:
    """What a job says of its set-up by now: likelihood where it is fine, where it is broken."""
    if not job.ran:
        return 1.0, 1.0
    if job.end > now:
        bad, good = alive(job.risk, now - job.start) if now > job.start else (1.0, 1.0)
    elif job.status == FAILED:
        risk, seconds = job.risk, job.end - job.start
        bad = broken_lasts(risk, seconds - 1) - broken_lasts(risk, seconds)
        good = risk.dies * (middle_lasts(risk, seconds - 1) - middle_lasts(risk, seconds))
        good += risk.late * (seconds == risk.limit)
    else:
        bad, good = 0.0, 1.0  # times a chance that is the same in both states
    fine, broken = (fails * bad + (1 - fails) * good for fails in BROKEN_FAILS)
    return fine, broken


def will_complete(job: Placed, now: float) -> tuple[float, float]:
    """Chance that a job which has not ended completes, given that and its set-up: fine, broken."""
    seconds = max(0.0, now - job.start)
    bad, good = alive(job.risk, seconds)
    completes = job.risk.completes * complete_lasts(job.risk, seconds)
    fine, broken = ((1 - fails) * completes / (fails * bad + (1 - fails) * good) for fails in BROKEN_FAILS)
    return fine, broken


def step(fine: float, bad: float, belief: Belief) -> tuple[float, float]:
    """Weights of the two states at the next moment of submission."""
    return fine * (1 - belief.breaks) + bad * belief.mends, fine * belief.breaks + bad * (1 - belief.mends)


def settled(belief: Belief, now: float) -> Belief:
    """The same knowledge, the pending jobs in front that have ended being worked into `broken`."""
    ended = next((i for i, job in enumerate(belief.pending) if job.end > now), len(belief.pending))
    broken, _ = filtered(belief._replace(pending=belief.pending[:ended]), now)
    return belief._replace(broken=broken, pending=belief.pending[ended:])


def filtered(belief: Belief, now: float, asked: Placed | None = None) -> tuple[float, float]:
    """(P(broken) at the last pending job, chance that the pending job `asked` completes), given all that is known now.

    The second is the likelihood of all that is known and of this job's completion over that of all that is known: the
    jobs after it tell of its set-up, too. It is 1 where no job is asked for.
    """
    fine, bad = 1 - belief.broken, belief.broken
    fine_too, bad_too = fine, bad  # the job asked for completes as well
    for job in belief.pending:
        if job.moved:
            fine, bad = step(fine, bad, belief)
            fine_too, bad_too = step(fine_too, bad_too, belief)
        says_fine, says_bad = evidence(job, now)
        scale = 1 / (fine * says_fine + bad * says_bad)
        fine, bad = fine * says_fine * scale, bad * says_bad * scale
        fine_too, bad_too = fine_too * says_fine * scale, bad_too * says_bad * scale
        if job is asked:
            if_fine, if_bad = will_complete(job, now)
            fine_too, bad_too = fine_too * if_fine, bad_too * if_bad
    return bad, fine_too + bad_too


def completion(job: Placed | None, beliefs: Mapping[Hashable, Belief], now: float) -> float:
    """Chance that a job completes given all that is known now, and so do those that it waits for; no job: 1."""
    if job is None:
        return 1.0
    if job.end <= now:
        return float(job.status == COMPLETED)
    own = filtered(beliefs[job.pair], now, job)[1]
    return own * completion(job.before, beliefs, now)


def class_chances(risk: Risk, broken: float, starts: float) -> Float64[np.ndarray, "3"]:
    """Chances of CLASSES for a job whose set-up is broken with this chance, and which starts with the chance `starts`."""
    fails = (1 - broken) * BROKEN_FAILS[0] + broken * BROKEN_FAILS[1]
    completed = starts * (1 - fails) * risk.completes
    cancelled = 1 - starts + starts * (1 - fails) * risk.cancelled
    failed = starts * (fails + (1 - fails) * (risk.dies + risk.late))
    return np.array([completed, failed, cancelled])


# Jobs are submitted -------------------------------------------------------------------------------------------------------


def set_up(last: tuple[bool, int] | None, time: int, fresh: Belief, luck: float) -> bool:
    """Whether a pair's set-up is broken now. last: the same at its last job, and when that was submitted; fresh: what is known
    of a pair without jobs; luck: a uniform number, one for each moment at which the pair submits."""
    if last is None:
        return luck < fresh.broken
    broken, before = last
    if before == time:
        return broken
    return luck >= fresh.mends if broken else luck < fresh.breaks


def submitted(
    name: str,
    pair: Hashable,
    ready: float,
    now: float,
    *,
    broken: bool,
    moved: bool,
    before: Placed | None,
    risk: Risk,
    luck: tuple[float, float],
) -> Placed:
    """A job with its times and its end. ready: when its wait in the queue is over; luck: see `outcome`."""
    if before is not None and before.status != COMPLETED:
        end = max(now, before.end)
        return Placed(name, pair, end, end, CANCELLED, False, moved, risk, before)
    start = max(ready, before.end) if before is not None else ready
    status, seconds = outcome(risk, broken, *luck)
    return Placed(name, pair, start, start + seconds, status, True, moved, risk, before)


def chances_of(job: Placed, fresh: Belief, beliefs: dict[Hashable, Belief], now: float) -> Float64[np.ndarray, "3"]:
    """The chances of CLASSES of a job that is submitted now, which joins the pending ones of its pair in `beliefs`.

    fresh: what is known of a pair without jobs.
    """
    belief = settled(beliefs.get(job.pair, fresh), now)
    bad, _ = filtered(belief, now)
    bad = step(1 - bad, bad, belief)[1] if job.moved else bad
    starts = completion(job.before, beliefs, now)
    beliefs[job.pair] = belief._replace(pending=(*belief.pending, job))
    return class_chances(job.risk, bad, starts)
