"""Scores of forecasts of how jobs end: a metric that keeps each job's answer, numbers from it on the host, and how sure they are.

Jobs whose label is not known count nothing, everywhere. "Ends badly" is a class of `bad`, the risk the sum of the probabilities
of those classes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped
from sklearn.metrics import average_precision_score, precision_recall_curve

from common import config as configs
from common.errors import InputError
from common.metrics import Calibration
from lstm.scores import Answers, auroc, confusion, ratios

BINS = 15  # of confidence
LEAST = 1e-12  # a probability below it counts as this much
PRECISION = 0.9  # at which the share of bad jobs that are found is told


class Forecasts(NamedTuple):
    """What was answered to each job: id its number in the log (-1: padding), label -1 where unknown, probabilities of the classes at
    submission, and running, the same given that it still runs `edges[b]` seconds after its start (edges[0] = 0). Scores of
    any kind are exact after merging."""

    id: Int[Array, " rows"]
    label: Int[Array, " rows"]
    probabilities: Float[Array, "rows classes"]
    running: Float[Array, "rows bins classes"]

    def merge(self, other: "Forecasts") -> "Forecasts":
        parts = [[np.asarray(field)[np.asarray(a.id) >= 0] for field in a] for a in (self, other)]
        return Forecasts(*(np.concatenate(pair) for pair in zip(*parts, strict=True)))


def rows_of(forecasts: Forecasts, rows: Shaped[np.ndarray, " m"]) -> Forecasts:
    """Some rows, on the host, by number or by a mask."""
    return Forecasts(*(np.asarray(field)[rows] for field in forecasts))


def is_known(forecasts: Forecasts) -> Bool[np.ndarray, " rows"]:
    """Rows that are no padding and have a label."""
    return (np.asarray(forecasts.id) >= 0) & (np.asarray(forecasts.label) >= 0)


def bad_classes(names: Sequence[str], bad: Sequence[str]) -> list[int]:
    """Places of the classes of `bad`. Raises InputError for one that is none of `names`."""
    for name in bad:
        if name not in names:
            raise InputError(f"config.task.bad={list(bad)}: no class {name!r}; {configs.nearest(name, names)}")
    return [list(names).index(name) for name in bad]


# Scores -------------------------------------------------------------------------------------------------------------------


def scores(forecasts: Forecasts, names: Sequence[str], bad: Sequence[str]) -> dict[str, float]:
    """Of the probabilities at submission; a score that is not defined, as of a class that no job has, is left out.

    loss, nats; accuracy; f1/macro, the mean over the classes that label or prediction has; f1/NAME; auroc/NAME and auprc/NAME
    (average precision) of each class against the rest, auroc/bad and auprc/bad of the risk; brier, the mean over jobs of the
    squared differences summed over classes (Brier 1950: 0 to 2); calibration_error of the likeliest class, and
    calibration_error/bad of the risk; examples.
    """
    known = rows_of(forecasts, is_known(forecasts))
    label, probabilities = known.label, known.probabilities.astype(np.float64)
    if not len(label):
        return {"examples": 0.0}
    matrix = confusion(Answers(known.id, label, probabilities))
    f1 = ratios(matrix)["f1"]
    truth = np.eye(len(names))[label]
    found = {
        "loss": loss_of(probabilities, label),
        "accuracy": float(np.trace(matrix) / matrix.sum()),
        "f1/macro": float(np.nanmean(f1)),
        **{f"f1/{name}": float(value) for name, value in zip(names, f1, strict=True)},
    }
    for place, name in enumerate(names):
        found |= ranking(label == place, probabilities[:, place], name)
    likeliest = probabilities.argmax(1)
    found["brier"] = float(((probabilities - truth) ** 2).sum(1).mean())
    found["calibration_error"] = calibration(probabilities.max(1), label == likeliest).error()
    if bad:
        risk, ended = risk_of(known, names, bad), np.isin(label, bad_classes(names, bad))
        found |= ranking(ended, risk, "bad")
        found["calibration_error/bad"] = calibration(risk, ended).error()
    found["examples"] = float(len(label))
    return {name: value for name, value in found.items() if np.isfinite(value)}


def loss_of(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
    """Nats; a probability counts as LEAST at least."""
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(own, LEAST)).mean())


def risk_of(forecasts: Forecasts, names: Sequence[str], bad: Sequence[str]) -> Float[np.ndarray, " rows"]:
    """Float64: at submission, that each job ends badly."""
    return np.asarray(forecasts.probabilities, np.float64)[:, bad_classes(names, bad)].sum(1)


def ranking(truth: Bool[np.ndarray, " n"], chance: Float[np.ndarray, " n"], name: str) -> dict[str, float]:
    """auroc/NAME and auprc/NAME; none where all jobs are of one kind."""
    if truth.all() or not truth.any():
        return {}
    precision = float(average_precision_score(truth, chance))
    return {f"auroc/{name}": auroc(truth.astype(np.int64), chance), f"auprc/{name}": precision}


def calibration(sure: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"], bins: int = BINS) -> Calibration:
    """Answers by how sure they are, in equal bins."""
    place = np.clip((sure * bins).astype(np.int64), 0, bins - 1)
    return Calibration(*(np.bincount(place, weight, bins).astype(np.float64) for weight in (None, sure, right)))


def running_scores(
    forecasts: Forecasts,
    run_seconds: Float[np.ndarray, " rows"],
    edges: Float[np.ndarray, " bins"],
    names: Sequence[str],
    bad: Sequence[str],
) -> dict[float, dict[str, float]]:
    """{edge, seconds: scores of the jobs that ran at least so long, by what is said of them at that moment}.

    run_seconds: how long the job of each row ran. jobs, how many; bad, the share that ends badly; auroc of the risk; recall, the
    greatest share of them that is found where 9 of 10 that are named end badly (0: nowhere so). The last two are left out
    where all end alike, bad where there is no job.
    """
    known, classes = is_known(forecasts), bad_classes(names, bad)
    ended = np.isin(np.asarray(forecasts.label), classes)
    risks = np.asarray(forecasts.running, np.float64)[:, :, classes].sum(-1)
    table = {}
    for place, edge in enumerate(np.asarray(edges).tolist()):
        rows = known & (np.asarray(run_seconds) >= edge)
        truth, risk = ended[rows], risks[rows, place]
        found = {"jobs": float(len(truth))}
        if len(truth):
            found["bad"] = float(truth.mean())
        if truth.any() and not truth.all():
            precision, recall, _ = precision_recall_curve(truth, risk)
            found["auroc"] = auroc(truth.astype(np.int64), risk)
            found["recall"] = float(recall[precision >= PRECISION].max())
        table[edge] = found
    return table


# How sure -----------------------------------------------------------------------------------------------------------------

Score = str | Callable[[Forecasts], float]  # a name of MATRIX_SCORES, or any score


def accuracy_of(matrices: Float[np.ndarray, "n k k"]) -> Float[np.ndarray, " n"]:
    """Of confusion matrices; NaN of an empty one."""
    with np.errstate(invalid="ignore"):
        return np.trace(matrices, axis1=1, axis2=2) / matrices.sum((1, 2))


def macro_f1_of(matrices: Float[np.ndarray, "n k k"]) -> Float[np.ndarray, " n"]:
    """Of confusion matrices: the mean over the classes that label or prediction has; NaN of an empty one."""
    right, counts = np.diagonal(matrices, axis1=1, axis2=2), matrices.sum(1) + matrices.sum(2)
    f1 = np.divide(2 * right, counts, out=np.zeros(counts.shape), where=counts > 0)
    with np.errstate(invalid="ignore"):
        return f1.sum(1) / (counts > 0).sum(1)


MATRIX_SCORES = {"accuracy": accuracy_of, "f1/macro": macro_f1_of}


def interval(
    forecasts: Forecasts,
    groups: Shaped[np.ndarray, " rows"],
    score: Score,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Between which values a score lies in `level` of the draws of the bootstrap over whole groups: jobs of one user, or of one
    week, are alike, so that as many groups as there are are drawn with replacement, each with all of its jobs.

    groups: the group of each row, any value. score: a name of MATRIX_SCORES, which is fast, or a function of Forecasts. Draws in
    which the score is not defined are left out; NaN where there is no other.
    """
    values = drawn([forecasts], groups, score, draws, seed)[:, 0]
    return quantiles(values, level)


class Difference(NamedTuple):
    """value: one score less the other; low, high: see `interval`; above: the share of the draws in which it is above 0."""

    value: float
    low: float
    high: float
    above: float


def paired(
    one: Forecasts,
    other: Forecasts,
    groups: Shaped[np.ndarray, " rows"],
    score: Score,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """How much better `one` is than `other` on the same jobs, in any order; groups: of the rows of `one`. See `interval`.

    Raises ValueError where they are not about the same jobs.
    """
    known = [is_known(one), is_known(other)]
    pair, groups = [rows_of(f, k) for f, k in zip((one, other), known, strict=True)], np.asarray(groups)[known[0]]
    orders = [np.argsort(f.id, kind="stable") for f in pair]
    pair, groups = [rows_of(f, order) for f, order in zip(pair, orders, strict=True)], groups[orders[0]]
    if not np.array_equal(pair[0].id, pair[1].id) or not np.array_equal(pair[0].label, pair[1].label):
        raise ValueError("forecasts of different jobs, or with different labels, cannot be compared in pairs")
    values = np.subtract(*drawn(pair, groups, score, draws, seed).T)
    whole = np.subtract(*(score_of(f, score) for f in pair))
    defined = values[np.isfinite(values)]
    above = float((defined > 0).mean()) if len(defined) else float("nan")
    return Difference(float(whole), *quantiles(values, level), above)


def quantiles(values: Float[np.ndarray, " draws"], level: float) -> tuple[float, float]:
    defined = values[np.isfinite(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def score_of(forecasts: Forecasts, score: Score) -> float:
    """A score of the rows that are known."""
    known = rows_of(forecasts, is_known(forecasts))
    if callable(score):
        return float(score(known))
    return float(MATRIX_SCORES[score](confusion(Answers(*known[:3]))[None].astype(np.float64))[0])


def drawn(
    several: Sequence[Forecasts], groups: Shaped[np.ndarray, " rows"], score: Score, draws: int, seed: int
) -> Float[np.ndarray, "draws several"]:
    """The scores of several forecasts of the same rows in the same draws of groups."""
    known = is_known(several[0])
    several = [rows_of(f, known) for f in several]
    _, place = np.unique(np.asarray(groups)[known], return_inverse=True)
    count = int(place.max()) + 1 if len(place) else 0
    rng = np.random.default_rng(seed)
    times = (np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(draws if count else 0))
    found = np.full((draws, len(several)), np.nan)
    if callable(score):
        for row, weight in enumerate(times):
            rows = np.repeat(np.arange(len(place)), weight[place])
            found[row] = [score(rows_of(f, rows)) for f in several]
    else:
        # Confusions add: those of a draw are a weighted sum of those of the groups.
        tables = np.stack([group_confusions(f, place, count) for f in several])
        matrices = [np.tensordot(tables, weight, (1, 0)) for weight in times]
        for column in range(len(several) if matrices else 0):
            found[:, column] = MATRIX_SCORES[score](np.stack([one[column] for one in matrices]))
    return found


def group_confusions(
    forecasts: Forecasts, place: Int[np.ndarray, " rows"], count: int
) -> Float[np.ndarray, "groups k k"]:
    classes = forecasts.probabilities.shape[1]
    code = (place * classes + forecasts.label) * classes + forecasts.probabilities.argmax(1)
    return np.bincount(code, minlength=count * classes**2).reshape(count, classes, classes).astype(np.float64)


# What to decide -----------------------------------------------------------------------------------------------------------


def decided(probabilities: Float[np.ndarray, "n k"], offsets: Float[np.ndarray, " k"]) -> Int[np.ndarray, " n"]:
    """The class of the greatest log probability + offset."""
    return (np.log(np.maximum(probabilities, LEAST, dtype=np.float64)) + offsets).argmax(1)


def shifted(probabilities: Float[np.ndarray, "n k"], offsets: Float[np.ndarray, " k"]) -> Float[np.ndarray, "n k"]:
    """Probabilities of which the greatest is what is `decided`, for scores that take such; they no longer say how likely it is."""
    weighed = np.maximum(probabilities, LEAST, dtype=np.float64) * np.exp(offsets - np.max(offsets))
    return weighed / weighed.sum(1, keepdims=True)


def offsets(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, " k"]:
    """Offsets with which what is `decided` has the greatest macro F1 on these jobs: for classes of very different size, of which
    the rare ones are else never named. Found one class at a time over a grid, first coarse, then fine; 0 where nothing gains."""
    chosen, classes = labels >= 0, probabilities.shape[1]
    logs, labels = np.log(np.maximum(probabilities[chosen], LEAST, dtype=np.float64)), labels[chosen]

    def quality(shift: Float[np.ndarray, " k"]) -> float:
        matrix = np.bincount(labels * classes + (logs + shift).argmax(1), minlength=classes**2)
        return float(macro_f1_of(matrix.reshape(1, classes, classes).astype(np.float64))[0])

    best, found = np.zeros(classes), quality(np.zeros(classes))
    for step in (1.0, 0.25):
        better = True
        while better:
            better = False
            for place in range(classes):
                moves = step * np.array([1, -1, 2, -2, 3, -3, 4, -4])  # the nearest first: it wins a tie
                tried = best + moves[:, None] * (np.arange(classes) == place)
                values = np.array([quality(shift) for shift in tried])
                if values.max() > found + 1e-9:
                    best, found, better = tried[values.argmax()], values.max(), True
    return best
