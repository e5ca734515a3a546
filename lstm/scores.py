"""Scores of classification: a metric that keeps each example's answer, and numbers from it on the host."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int
from scipy.stats import rankdata


class Answers(NamedTuple):
    """What was answered to each example; rows with `id` -1 are padding. Scores of any kind are exact after merging."""

    id: Int[Array, " rows"]
    label: Int[Array, " rows"]
    probabilities: Float[Array, "rows classes"]

    def merge(self, other: "Answers") -> "Answers":
        parts = [[np.asarray(field)[np.asarray(a.id) >= 0] for field in a] for a in (self, other)]
        return Answers(*(np.concatenate(pair) for pair in zip(*parts, strict=True)))


def confusion(answers: Answers) -> Int[np.ndarray, "k k"]:
    """Examples of each (label, prediction)."""
    real = np.asarray(answers.id) >= 0
    probabilities = np.asarray(answers.probabilities)[real]
    classes = probabilities.shape[-1]
    code = np.asarray(answers.label)[real] * classes + probabilities.argmax(-1)
    return np.bincount(code, minlength=classes * classes).reshape(classes, classes)


def ratios(matrix: Int[np.ndarray, "k k"]) -> dict[str, Float[np.ndarray, " k"]]:
    """precision, recall and f1 of each class; NaN where neither label nor prediction (or not the one asked for) has it."""
    right = np.diagonal(matrix).astype(np.float64)
    labelled, predicted = matrix.sum(1), matrix.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "precision": right / predicted,
            "recall": right / labelled,
            "f1": 2 * right / (labelled + predicted),
        }


def auroc(positive: Int[np.ndarray, " n"], probability: Float[np.ndarray, " n"]) -> float:
    """The chance that an example of class 1 gets a higher probability than one of class 0, ties half (Mann & Whitney
    1947); NaN where one of the classes has no example."""
    ranks = rankdata(np.asarray(probability, np.float64))
    ones, zeros = int((positive == 1).sum()), int((positive == 0).sum())
    if not ones or not zeros:
        return float("nan")
    return float((ranks[positive == 1].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def scores(answers: Answers, names: Sequence[str]) -> dict[str, float]:
    """accuracy; f1/macro, the mean over the classes that label or prediction has; f1/NAME, precision/NAME, recall/NAME of each
    class; auroc where there are two; examples."""
    matrix = confusion(answers)
    table = ratios(matrix)
    f1 = table["f1"][np.isfinite(table["f1"])]
    found = {
        "accuracy": float(np.trace(matrix) / max(matrix.sum(), 1)),
        "f1/macro": float(f1.mean()) if len(f1) else float("nan"),
    }
    if len(names) == 2:
        real = np.asarray(answers.id) >= 0
        found["auroc"] = auroc(np.asarray(answers.label)[real], np.asarray(answers.probabilities)[real, 1])
    for kind in ("f1", "precision", "recall"):
        found |= {f"{kind}/{name}": float(value) for name, value in zip(names, table[kind], strict=True)}
    return {**found, "examples": float(matrix.sum())}


def collapsed(matrix: Int[np.ndarray, "k k"], share: float = 0.999) -> int | None:
    """The class that is predicted (nearly) everywhere although other classes are labelled too; else None."""
    predicted, labelled, total = matrix.sum(0), matrix.sum(1), matrix.sum()
    top = int(predicted.argmax())
    return top if predicted[top] >= share * total and labelled[top] < share * total else None
