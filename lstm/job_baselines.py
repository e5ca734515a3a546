"""What forecasts how jobs end without a network: shares, two rules of thumb, logistic regression and boosting.

All are fitted to the jobs of the training part whose end is known when it is over, as the network is; the numbers that the last two
read are the network's own, of which History sees to it that they are known at submission. Their settings are those with the
least loss on the validation part, of models that are fitted to what comes before it.
"""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int, Int64
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from common.errors import InputError
from lstm.data.job_events import NAMES, Log
from lstm.data.job_history import History
from lstm.data.job_windows import SPLITS, Part, Steps, facts_of, known_jobs, scaled
from lstm.job_scores import Forecasts, loss_of

LEAST = 20  # jobs of the training part that a name must occur in
MOST = 300_000  # jobs that a model is fitted to: of more, evenly chosen ones
BLOCK = 100_000  # jobs whose numbers are held at a time
WEIGHT = 1.0  # of the training part's shares beside the jobs that a user has seen end
STRENGTHS = ((0.001,), (0.0001,), (0.01,), (0.1,))  # C of the regression, the inverse of the penalty
# Of the boosting: learning rate, leaves, rounds at most; on the validation part every number of rounds up to it is looked at.
BOOSTINGS = ((0.1, 16, 100), (0.1, 6, 100), (0.03, 16, 250), (0.03, 6, 250))
ROUNDS = 300  # of the regression's solver


def baselines(
    log: Log,
    parts: Mapping[str, Part],
    split: str,
    names: Sequence[str],
    *,
    seed: int = 0,
    strengths: Sequence[tuple[float]] = STRENGTHS,
    boostings: Sequence[tuple[float, int, int]] = BOOSTINGS,
) -> dict[str, Forecasts]:
    """{method: forecasts} for the jobs of a split that have a label, in order of submission; `running` is 0 [m, 1, K]. Deterministic.

    The learned two are left out where the training part, or what comes before the validation part, has one class alone. Raises
    InputError for an unknown split, one without a labelled job, and a training part in which no job has ended.
    """
    if split not in parts:
        raise InputError(
            f"split {split!r}: of this log there are {', '.join(name for name in SPLITS if name in parts)}"
        )
    part = parts[split]._replace(until=np.inf) if split == "test" else parts[split]
    jobs = known_jobs(log, part, f"the {split} part")
    known = known_jobs(log, parts["train"])
    shares = np.bincount(log.jobs.label[known], minlength=len(names)) / max(len(known), 1)
    found = {
        "majority": np.tile(shares, (len(jobs), 1)),
        "user's most frequent": most_frequent(log, jobs, shares),
        "last ended job": last_ended(log, jobs, known, names, shares),
    }
    kinds = {
        "logistic regression": Kind(sparse_features, regression, strengths),
        "gradient boosting": Kind(dense_features, partial(boosting, seed=seed), boostings),
    }
    for name, kind in kinds.items():
        result = learned(log, parts, jobs, kind, len(names))
        if result is not None:
            found[name], setting = result
            print(f"{name}: {', '.join(f'{value:g}' for value in setting)}", file=sys.stderr, flush=True)
    label, nothing = log.jobs.label[jobs].astype(np.int32), np.zeros((len(jobs), 1, len(names)), np.float32)
    return {name: Forecasts(jobs.astype(np.int32), label, p.astype(np.float32), nothing) for name, p in found.items()}


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
    """As the last job of the same user and program that had ended, else of the user, else `shares`. How likely that is, and what
    else, is told by how often it was so for the `known` jobs, by that job's class; at least half, or it were another rule."""
    found = np.tile(shares, (len(jobs), 1))
    where = History(names, lambda word: -1).submitted_names()
    classes, label = np.arange(len(names)), log.jobs.label[known]
    for kind in ("user", "user and program"):  # the better one last: it overwrites
        columns = [where.index((kind, f"last {name}")) for name in names]
        last, before = log.submitted[jobs[:, None], columns], log.submitted[known[:, None], columns]
        follow = np.zeros((len(names), len(names)))
        np.add.at(follow, (before.argmax(1), label), before.any(1))
        follow = (follow + shares + 1e-6) / (follow + shares + 1e-6).sum(1, keepdims=True)
        sure, other = np.maximum(np.diagonal(follow), 0.5), np.where(np.eye(len(names), dtype=bool), 0, follow)
        follow = other * ((1 - sure) / other.sum(1))[:, None]
        follow[classes, classes] = sure
        found[last.any(1)] = follow[last.argmax(1)[last.any(1)]]
    return found


# Learned ------------------------------------------------------------------------------------------------------------------

Setting = tuple[float, ...]


class Kind(NamedTuple):
    """A kind of model: features(steps, jobs), a row each; fit(features, labels, setting), a classifier of scikit-learn; settings to
    choose from, of which the first is taken where there is no validation part."""

    features: Callable[[Steps, np.ndarray], Any]
    fit: Callable[[Any, np.ndarray, Setting], Any]
    settings: Sequence[Setting]


class Model(NamedTuple):
    """A fitted classifier, and how it reads jobs."""

    steps: Steps
    features: Callable[[Steps, np.ndarray], Any]
    classifier: Any


def learned(
    log: Log, parts: Mapping[str, Part], jobs: Int64[np.ndarray, " m"], kind: Kind, classes: int
) -> tuple[Float64[np.ndarray, "m k"], Setting] | None:
    """Probabilities of `jobs`, and the setting; None where there is one class alone to learn from."""
    setting = kind.settings[0]
    if "validation" in parts:
        held_out = parts["validation"]
        before = Part(0, held_out.first, float(log.jobs.submit[held_out.first]))
        labelled = thinned(known_jobs(log, held_out))
        tried = []
        for each in kind.settings:
            model = fitted(log, before, kind, each)
            if model is None:
                return None
            tried.append(judged(model, each, labelled, log.jobs.label[labelled], classes))
        setting = min(tried)[1]
    model = fitted(log, parts["train"], kind, setting)
    return None if model is None else (answers(model, jobs, classes), setting)


def thinned(jobs: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
    return jobs[:: -(-len(jobs) // MOST)]


def fitted(log: Log, part: Part, kind: Kind, setting: Setting) -> Model | None:
    """A model of the jobs of a part that have ended in it; None where all ended alike."""
    jobs = thinned(known_jobs(log, part))
    labels = log.jobs.label[jobs]
    if len(np.unique(labels)) < 2:
        return None
    steps = Steps(log, facts_of(log, part, LEAST), np.zeros(1))
    return Model(steps, kind.features, kind.fit(kind.features(steps, jobs), labels, setting))


def answers(model: Model, jobs: Int64[np.ndarray, " m"], classes: int) -> Float64[np.ndarray, "m k"]:
    """Probabilities; a class that the model has not seen has 0."""
    found = np.zeros((len(jobs), classes))
    for begin in range(0, len(jobs), BLOCK):
        rows = model.features(model.steps, jobs[begin : begin + BLOCK])
        found[begin : begin + BLOCK, model.classifier.classes_] = model.classifier.predict_proba(rows)
    return found


def judged(
    model: Model, setting: Setting, jobs: Int64[np.ndarray, " m"], labels: Int[np.ndarray, " m"], classes: int
) -> tuple[float, Setting]:
    """(least loss, setting); of boosting with the number of rounds that has it."""
    if not hasattr(model.classifier, "staged_predict_proba"):
        return loss_of(answers(model, jobs, classes), labels), setting
    spread = np.zeros((len(jobs), classes))
    losses = []
    for found in model.classifier.staged_predict_proba(model.features(model.steps, jobs)):
        spread[:, model.classifier.classes_] = found
        losses.append(loss_of(spread, labels))
    return min(losses), (*setting[:-1], int(np.argmin(losses)) + 1)


def dense_features(steps: Steps, jobs: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n f"]:
    """The numbers of submissions, and the codes of names; those that are rare, or new, have one code."""
    return np.concatenate([np.asarray(steps.log.submitted[jobs]), steps.names(jobs).astype(np.float32)], 1)


def sparse_features(steps: Steps, jobs: Int64[np.ndarray, " n"]) -> sparse.csr_matrix:
    """The numbers of submissions, standardised, and a column for each name that is not rare."""
    codes = steps.names(jobs)
    columns = [np.arange(1, len(steps.facts.names[name]) + 1) for name in NAMES]
    hot = [sparse.csr_matrix(codes[:, i, None] == values) for i, values in enumerate(columns) if len(values)]
    return sparse.hstack([sparse.csr_matrix(scaled(steps.log.submitted[jobs], steps.facts.submitted)), *hot], "csr")


def regression(x: sparse.csr_matrix, labels: Int[np.ndarray, " n"], setting: Setting) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the largest C: stopped early is a penalty too
        return LogisticRegression(C=setting[0], max_iter=ROUNDS).fit(x, labels)


def boosting(
    x: Float32[np.ndarray, "n f"], labels: Int[np.ndarray, " n"], setting: Setting, seed: int
) -> HistGradientBoostingClassifier:
    rate, leaves, rounds = setting
    # Early stopping would hold out jobs beside those that are trained on; rounds are chosen on the validation part instead.
    options = {"learning_rate": rate, "max_leaf_nodes": int(leaves), "max_iter": int(rounds)}
    return HistGradientBoostingClassifier(early_stopping=False, random_state=seed, **options).fit(x, labels)
