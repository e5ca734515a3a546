"""What forecasts how jobs end without a network: shares, two rules of thumb, logistic regression and boosting.

All are fitted to the jobs of the training part whose end is known when it is over, as the network is; the numbers that the last two
read are the network's own, of which History sees to it that they are known at submission. Their settings are those with the
least loss on the validation part, of models that are fitted to what comes before it.
"""

import itertools
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from common.errors import InputError
from lstm.data.job_events import Log
from lstm.data.job_history import History
from lstm.data.job_windows import SPLITS, Part, Steps, facts_of, scaled
from lstm.job_scores import Forecasts, loss_of

LEAST = 20  # jobs of the training part that a name must occur in
MOST = 300_000  # jobs that a model is fitted to: of more, evenly chosen ones
BLOCK = 100_000  # jobs whose numbers are held at a time
WEIGHT = 1.0  # of the training part's shares beside the jobs that a user has seen end
STRENGTHS = ((0.01,), (0.001,), (0.1,), (1.0,))  # C of the regression, the inverse of the penalty
RATES = {0.03: 300, 0.1: 100}  # of the boosting: learning rate -> rounds at most
LEAVES = (6, 16)


def baselines(
    log: Log,
    parts: Mapping[str, Part],
    split: str,
    names: Sequence[str],
    *,
    seed: int = 0,
    rates: Mapping[float, int] = RATES,
    leaves: Sequence[int] = LEAVES,
) -> dict[str, Forecasts]:
    """{method: forecasts} for the jobs of a split that have a label, in order of submission; `running` is 0 [m, 1, K]. Deterministic.

    The learned two are left out where the training part, or what comes before the validation part, has one class alone. Raises
    InputError for an unknown split, one without a labelled job, and a training part in which no job has ended.
    """
    if split not in parts:
        raise InputError(f"split {split!r}: of this log there are {', '.join(name for name in SPLITS if name in parts)}")
    jobs = np.arange(parts[split].first, parts[split].last)
    jobs = jobs[log.jobs.label[jobs] >= 0]
    if not len(jobs):
        raise InputError(f"config.data.parts: no job of the {split} part has ended with a known class; give it more")
    known = known_jobs(log, parts["train"])
    shares = np.bincount(log.jobs.label[known], minlength=len(names)) / max(len(known), 1)
    found = {
        "majority": np.tile(shares, (len(jobs), 1)),
        "user's most frequent": most_frequent(log, jobs, shares),
        "last ended job": last_ended(log, jobs, known, names, shares),
    }
    grid = [(rate, count, most) for (rate, most), count in itertools.product(rates.items(), leaves)]
    found |= learned(log, parts, jobs, len(names), "logistic regression", STRENGTHS, sparse_features, regression)
    found |= learned(log, parts, jobs, len(names), "gradient boosting", grid, dense_features, partial(boosting, seed=seed))
    label, nothing = log.jobs.label[jobs].astype(np.int32), np.zeros((len(jobs), 1, len(names)), np.float32)
    return {name: Forecasts(jobs.astype(np.int32), label, p.astype(np.float32), nothing) for name, p in found.items()}


def known_jobs(log: Log, part: Part) -> Int64[np.ndarray, " n"]:
    """The jobs of a part whose class is known when the part is over. Raises InputError where there is none."""
    jobs = np.arange(part.first, part.last)
    found = jobs[(log.jobs.label[jobs] >= 0) & (log.jobs.end[jobs] <= part.until)]
    if not len(found):
        raise InputError("config.data.parts: no job of a part has ended in it with a known class; give it more")
    return found


# Rules --------------------------------------------------------------------------------------------------------------------


def most_frequent(
    log: Log, jobs: Int64[np.ndarray, " m"], shares: Float64[np.ndarray, " k"]
) -> Float64[np.ndarray, "m k"]:
    """The shares of the classes among the jobs of the same user that had ended by a job's submission, and `shares` as WEIGHT
    jobs more."""
    columns, user = log.jobs, log.jobs.codes[:, 0]
    ended = np.flatnonzero((columns.label >= 0) & np.isfinite(columns.end))
    who = np.concatenate([user[ended], user[jobs]])
    when = np.concatenate([np.maximum(columns.end[ended], columns.submit[ended]), columns.submit[jobs]])
    # At one moment jobs submitted before have ended; the job itself, which may end when it is submitted, has not.
    order = np.lexsort((np.concatenate([2 * ended + 1, 2 * jobs]), when, who))
    counts = np.zeros((len(who) + 1, len(shares)), np.int64)  # before each place of the order
    seen = order < len(ended)
    counts[1:][seen, columns.label[ended[order[seen]]]] = 1
    counts = counts.cumsum(0)
    before = np.searchsorted(who[order], user[jobs])  # where the user begins
    place = np.empty(len(who), np.int64)
    place[order] = np.arange(len(who))
    own = counts[place[len(ended) :]] - counts[before]
    return (own + WEIGHT * shares) / (own.sum(1, keepdims=True) + WEIGHT)


def last_ended(
    log: Log,
    jobs: Int64[np.ndarray, " m"],
    known: Int64[np.ndarray, " n"],
    names: Sequence[str],
    shares: Float64[np.ndarray, " k"],
) -> Float64[np.ndarray, "m k"]:
    """As the last job of the same user and program that had ended, else of the user, else `shares`: how likely that is, is told by
    how often it was so for the `known` jobs (at least half, or it were another rule)."""
    found = np.tile(shares, (len(jobs), 1))
    others = np.where(np.eye(len(names), dtype=bool), 0, shares)
    left = others.sum(1, keepdims=True)
    others = np.where(left > 0, others / np.maximum(left, 1e-12), (1 - np.eye(len(names))) / max(len(names) - 1, 1))
    where = History(names, lambda word: -1).submitted_names()
    for kind in ("user", "user and program"):  # the better one last: it overwrites
        columns = [where.index((kind, f"last {name}")) for name in names]
        last, before = log.submitted[jobs][:, columns], log.submitted[known][:, columns]
        told = before.any(1)
        hits = (before.argmax(1) == log.jobs.label[known])[told]
        sure = max(hits.mean(), 0.5) if len(hits) else 0.5
        has = last.any(1)
        place = last.argmax(1)[has]
        found[has] = sure * np.eye(len(names))[place] + (1 - sure) * others[place]
    return found


# Learned ------------------------------------------------------------------------------------------------------------------

Setting = tuple[float, ...]


def learned(
    log: Log,
    parts: Mapping[str, Part],
    jobs: Int64[np.ndarray, " m"],
    classes: int,
    name: str,
    settings: Sequence[Setting],
    features: Callable[[Steps, Int64[np.ndarray, " n"]], Any],
    fit: Callable[[Any, Int[np.ndarray, " n"], Setting], Any],
) -> dict[str, Float64[np.ndarray, "m k"]]:
    """{name: probabilities of `jobs`} of a kind of model, or {}; without a validation part, with the first setting."""

    def fitted(part: Part, setting: Setting) -> Callable | None:
        """What gives features and probabilities of any jobs, by a model of this part; None where it has one class alone."""
        some = known_jobs(log, part)
        some = some[:: -(-len(some) // MOST)]
        labels = log.jobs.label[some]
        if len(np.unique(labels)) < 2:
            return None
        steps = Steps(log, facts_of(log, part, LEAST), np.zeros(1))
        return partial(model_answers, fit(features(steps, some), labels, setting), steps, features, classes)

    chosen, predict, before = settings[0], None, parts["train"]
    if "validation" in parts:
        held_out = parts["validation"]
        before = Part(0, held_out.first, float(log.jobs.submit[held_out.first]))
        labelled = known_jobs(log, held_out)
        labelled = labelled[:: -(-len(labelled) // MOST)]
        least = np.inf
        for setting in settings:
            answers = fitted(before, setting)
            if answers is None:
                return {}
            loss, used = answers(labelled, best_round=log.jobs.label[labelled])
            if loss < least:
                least, chosen, predict = loss, used, answers
