"""What is done on a job's risk, and what carries the risk: node-hours that are saved and lost by moving jobs, numbers only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64

from common.errors import InputError
from lstm.data.job_events import Log
from lstm.job_scores import Forecasts, bad_classes, calibration, is_known, risk_of, rows_of, scores

THRESHOLDS = np.linspace(0, 1, 101)
SHOWN = 60  # jobs of a history, at most
EARLIER = 10  # forecast jobs of the same user before it, at least, where there is such a case
EXTREME = 0.05  # of the jobs of a sort: those whose risk is far from right, of which the largest is shown
BINS = 10  # of a reliability curve
OWN = ("time", "request")  # the kinds of numbers that tell of the job alone, not of earlier ones

Batch = Mapping[str, Any]
Answer = Callable[[Callable[[Batch], Batch]], Forecasts]


class Decision(NamedTuple):
    """What becomes of a set of jobs for each threshold: node-hours, and numbers of jobs. net = saved - lost."""

    threshold: Float64[np.ndarray, " t"]
    saved: Float64[np.ndarray, " t"]
    lost: Float64[np.ndarray, " t"]
    net: Float64[np.ndarray, " t"]
    moved: Int64[np.ndarray, " t"]
    moved_in_vain: Int64[np.ndarray, " t"]


def decide(
    risk_at_edges: Float[np.ndarray, "n bins"],
    run: Float[np.ndarray, " n"],
    bad: Bool[np.ndarray, " n"],
    processors: Float[np.ndarray, " n"],
    edges: Float[np.ndarray, " bins"],
    thresholds: Float[np.ndarray, " t"],
    move_hours: float,
    per_node: float,
) -> Decision:
    """Each job is stopped or moved at the first edge, in seconds since its start, that its run reaches and at which its risk is at
    least the threshold. The first edge is 0: every job is looked at when it is submitted.

    saved: of jobs that end badly, the hours from then to their end. lost: of the others, the hours up to then, which are used
    once more elsewhere; and `move_hours` for each job that is moved. Hours are those of all nodes of a job. run: seconds.
    Raises InputError for a cost below 0 and for a node without processors.
    """
    if not 0 <= move_hours < np.inf:
        raise InputError(f"config.task.move_hours={move_hours}: hours that a move costs; at least 0")
    if not 0 < per_node < np.inf:
        raise InputError(f"config.task.per_node={per_node}: processors of a node; more than 0")
    run, edges, bad = (
        np.asarray(run, np.float64)[:, None],
        np.asarray(edges, np.float64),
        np.asarray(bad, bool)[:, None],
    )
    nodes = np.asarray(processors, np.float64)[:, None] / per_node
    highest = np.maximum.accumulate(np.where(run >= edges, risk_at_edges, -np.inf), axis=1)
    never = np.zeros((len(run), 1))
    saved = np.hstack([np.where(bad, np.maximum(run - edges, 0) / 3600, 0) * nodes, never])
    lost = np.hstack([(np.where(bad, 0, edges / 3600) + move_hours) * nodes, never])
    rows = np.arange(len(run))
    found = []
    for threshold in thresholds:
        edge = (highest < threshold).sum(1)  # the number of edges: never
        moved = edge < len(edges)
        found.append((saved[rows, edge].sum(), lost[rows, edge].sum(), moved.sum(), (moved & ~bad[:, 0]).sum()))
    table = np.array(found, np.float64).reshape(-1, 4)
    hours, counts = table[:, :2].T, table[:, 2:].astype(np.int64).T
    return Decision(np.asarray(thresholds, np.float64), *hours, hours[0] - hours[1], *counts)


def best_threshold(decision: Decision) -> float:
    """The threshold with the largest net, of equal ones the highest; infinite (no job is moved) where no net is above 0."""
    place = len(decision.net) - 1 - int(decision.net[::-1].argmax())
    return float(decision.threshold[place]) if decision.net[place] > 0 else np.inf


# Jobs of a split ----------------------------------------------------------------------------------------------------------


class Ends(NamedTuple):
    """The jobs of a split whose end is known; how many have none, and of how many the size is not known.

    job: number in the log; risk [n, bins]: at submission, then at the other edges if the job still runs; run in seconds;
    processors, 1 where they are not known; label: class.
    """

    job: Int[np.ndarray, " n"]
    risk: Float64[np.ndarray, "n bins"]
    run: Float64[np.ndarray, " n"]
    bad: Bool[np.ndarray, " n"]
    processors: Float64[np.ndarray, " n"]
    label: Int[np.ndarray, " n"]
    unknown: int
    unsized: int


def ends_of(log: Log, forecasts: Forecasts, names: Sequence[str], bad: Sequence[str]) -> Ends:
    """names: of the classes; bad: those of them that are bad."""
    classes = bad_classes(names, bad)
    known = is_known(forecasts)
    known[known] = np.isfinite(log.jobs.run[np.asarray(forecasts.id)[known]])
    chosen = rows_of(forecasts, known)
    running = np.asarray(chosen.running, np.float64)[..., classes].sum(-1)
    risk = np.hstack([risk_of(chosen, names, bad)[:, None], running[:, 1:]])
    job, is_bad = chosen.id, np.isin(chosen.label, classes)
    unknown = int(((np.asarray(forecasts.id) >= 0) & ~known).sum())
    unsized = int((~(log.jobs.processors[job] > 0)).sum())
    return Ends(job, risk, log.jobs.run[job], is_bad, sizes_of(log)[job], chosen.label, unknown, unsized)


def sizes_of(log: Log) -> Float64[np.ndarray, " n"]:
    """Processors of each job; 1 where the log never told."""
    asked = np.asarray(log.jobs.processors, np.float64)
    return np.where(asked > 0, asked, 1.0)


def decision_of(
    ends: Ends, edges: np.ndarray, thresholds: np.ndarray, options: Mapping, at_submission=False
) -> Decision:
    """`decide` on jobs with known ends. options: move_hours, per_node. at_submission: risks of later moments are not looked at."""
    bins = 1 if at_submission else len(edges)
    jobs = ends.risk[:, :bins], ends.run, ends.bad, ends.processors
    return decide(*jobs, np.asarray(edges)[:bins], thresholds, options["move_hours"], options["per_node"])


def reliability(ends: Ends) -> list[tuple[float, float, float]]:
    """Of each of BINS equal bins of the risk at submission that has jobs: mean risk, share that ended badly, share of the jobs."""
    count, sure, right = (np.asarray(x) for x in calibration(ends.risk[:, 0], ends.bad, BINS))
    bins = np.flatnonzero(count)
    return [(float(sure[i] / count[i]), float(right[i] / count[i]), float(count[i] / count.sum())) for i in bins]


# What carries the risk ----------------------------------------------------------------------------------------------------


class Inputs(NamedTuple):
    """Some of what a model reads: columns of "numbers"; all of "names"; all of "ended"."""

    numbers: list[int]
    names: bool = False
    ended: bool = False


def inputs_of(kinds: Sequence[str]) -> dict[str, Inputs]:
    """By name: each kind of numbers (kinds: that of each column), then "names", "ended" (the ends in the stream) and "past":
    all numbers but those of the job itself, and the ends."""
    found = {kind: Inputs([i for i, k in enumerate(kinds) if k == kind]) for kind in dict.fromkeys(kinds)}
    past = [i for i, kind in enumerate(kinds) if kind not in OWN]
    return {**found, "names": Inputs([], names=True), "ended": Inputs([], ended=True), "past": Inputs(past, ended=True)}


def permuted(batch: Batch, inputs: Inputs) -> Batch:
    """The batch with these inputs of each event taken from another event of its sort in the batch, drawn from its jobs."""
    rng = np.random.default_rng(int(np.asarray(batch["job"], np.int64).sum()))
    valid, submitted = (np.asarray(batch[name], bool) for name in ("valid", "submitted"))
    changed = dict(batch)
    for name, where, columns in (
        ("numbers", valid & submitted, inputs.numbers),
        ("names", valid, slice(None) if inputs.names else []),
        ("ended", valid & ~submitted, slice(None) if inputs.ended else []),
    ):
        values = np.array(batch[name])
        rows = values[where]
        rows[:, columns] = rows[rng.permutation(len(rows))][:, columns]
        values[where] = rows
        changed[name] = values
    return changed


def without(batch: Batch, inputs: Inputs, jobs: Sequence[int]) -> Batch:
    """The batch with these inputs set to 0 (numbers: their mean in training; names: unseen) where some jobs are submitted; of the
    ends, all in the rows that hold such a job."""
    here = np.isin(batch["job"], jobs) & np.asarray(batch["submitted"], bool) & np.asarray(batch["valid"], bool)
    changed = dict(batch)
    numbers = np.array(batch["numbers"])
    for column in inputs.numbers:
        numbers[..., column][here] = 0
    changed["numbers"] = numbers
    if inputs.names:
        changed["names"] = np.where(here[..., None], 0, batch["names"])
    if inputs.ended:
        changed["ended"] = np.where(here.any(-1)[..., None, None], 0, batch["ended"])
    return changed


def importances(
    answer: Answer, kinds: Sequence[str], names: Sequence[str], bad: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Of each of `inputs_of`: `lstm.job_scores.scores` with these inputs permuted."""
    return {
        name: scores(answer(lambda batch, inputs=inputs: permuted(batch, inputs)), names, bad)
        for name, inputs in inputs_of(kinds).items()
    }


def moves(
    answer: Answer, kinds: Sequence[str], names: Sequence[str], bad: Sequence[str], jobs: Sequence[int]
) -> dict[str, Float64[np.ndarray, " jobs"]]:
    """Of each of `inputs_of`: the risk of these jobs at submission without the inputs (see `without`); NaN where a job is not
    answered."""
    found = {}
    for name, inputs in inputs_of(kinds).items():
        told = answer(lambda batch, inputs=inputs: without(batch, inputs, jobs))
        risks = dict(zip(np.asarray(told.id).tolist(), risk_of(told, names, bad).tolist(), strict=True))
        found[name] = np.array([risks.get(int(job), np.nan) for job in jobs])
    return found


# Jobs to look at ------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A job to be looked at, and the history of its user up to its submission. title: what it is an example of; job: its number
    in the log. Of the last jobs of the user, in order, the last of which is the job itself: number, was: class where it had
    ended by then, else -1; became: class, -1 where unknown; risk at submission, NaN where it was not forecast."""

    title: str
    job: int
    number: Int[np.ndarray, " m"]
    was: Int[np.ndarray, " m"]
    became: Int[np.ndarray, " m"]
    risk: Float64[np.ndarray, " m"]


def cases_of(log: Log, ends: Ends, forecasts: Forecasts, names: Sequence[str], bad: Sequence[str]) -> list[Case]:
    """One that ended badly with a high risk, one that did unforeseen, one false alarm; of different users where that can be. Of
    the jobs of a sort with the most extreme risks it is the one that used the most hours."""
    ids = np.asarray(forecasts.id)
    risk = np.full(len(log), np.nan)
    risk[ids[ids >= 0]] = risk_of(forecasts, names, bad)[ids >= 0]
    user = np.asarray(log.jobs.codes[:, 0])
    order = np.argsort(user, kind="stable")  # the jobs of each user, in their order
    begin = np.searchsorted(user[order], np.arange(user.max() + 1))
    place = np.empty(len(log), np.int64)
    place[order] = np.arange(len(log))
    forecast = np.concatenate([[0], np.cumsum(np.isfinite(risk[order]))])
    earlier = forecast[place] - forecast[begin[user]]  # forecast jobs of the same user before each job
    found: list[Case] = []
    for title, sort, sign in (
        ("Ended badly, with a high risk", ends.bad, -1),
        ("Ended badly, unforeseen", ends.bad, 1),
        ("A false alarm", ~ends.bad, -1),
    ):
        taken = [case.job for case in found]
        job = extreme(ends, sort & ~np.isin(ends.job, taken), sign, earlier, user, user[taken])
        if job is not None:
            own = order[begin[user[job]] : place[job] + 1][-SHOWN:]
            ended = (log.jobs.label[own] >= 0) & (log.jobs.end[own] <= log.jobs.submit[job]) & (own != job)
            label = np.asarray(log.jobs.label[own])
            found.append(Case(title, job, own, np.where(ended, label, -1), label, risk[own]))
    return found


def extreme(
    ends: Ends,
    sort: Bool[np.ndarray, " n"],
    sign: int,
    earlier: Int64[np.ndarray, " log"],
    user: Int[np.ndarray, " log"],
    users: Int[np.ndarray, " m"],
) -> int | None:
    """The number of one job of a sort; None without one. sign: -1 where its risk shall be high. earlier, user: of each job of the
    log; users: those that it should not be of."""
    rows = np.flatnonzero(sort)
    for better in (lambda jobs: earlier[jobs] >= EARLIER, lambda jobs: ~np.isin(user[jobs], users)):
        wanted = better(ends.job[rows])
        rows = rows[wanted] if wanted.any() else rows
    if not len(rows):
        return None
    rows = rows[np.argsort(sign * ends.risk[rows, 0], kind="stable")][: max(int(EXTREME * len(rows)), 1)]
    return int(ends.job[rows[np.argmax((ends.run * ends.processors)[rows])]])
