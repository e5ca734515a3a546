"""What classifies sequences without a recurrent net: the most frequent class; words, or summaries of a series, weighed by
logistic regression.

All are fitted to the same training part as the network; how strongly they are regularised is chosen on the validation part.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lstm.data.labelled import Labelled
from lstm.data.reviews import words
from lstm.scores import Answers, scores

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)  # C: the inverse of the penalty


def majority(train: Labelled, held_out: Labelled, names: Sequence[str]) -> dict[str, float]:
    """Scores of the training part's class frequencies as everybody's probabilities."""
    chances = np.bincount(train.labels, minlength=len(names)) / len(train.labels)
    return scored(np.tile(chances, (len(held_out.labels), 1)), held_out.labels, names)


def scored(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], names: Sequence[str]
) -> dict[str, float]:
    """Loss and `lstm.scores.scores`, as for the network."""
    own = np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)
    return {"loss": float(-np.log(own).mean()), **scores(Answers(np.arange(len(labels)), labels, probabilities), names)}


def best_regression(
    train,
    train_labels: Int[np.ndarray, " n"],
    validation,
    validation_labels: Int[np.ndarray, " m"] | None,
    scaled: bool,
):
    """Logistic regression with the C of STRENGTHS that is best on the validation part (without one: C = 1)."""

    def fitted(strength: float):
        model = LogisticRegression(C=strength, max_iter=500)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the largest C: stopped early is a penalty too
            return (make_pipeline(StandardScaler(), model) if scaled else model).fit(train, train_labels)

    if validation is None:
        return fitted(1.0)
    return max(map(fitted, STRENGTHS), key=lambda m: m.score(validation, validation_labels))


def spread_out(model, features, classes: int) -> Float[np.ndarray, "n k"]:
    """Probabilities of all classes; those that the training part does not hold have 0."""
    found = np.zeros((features.shape[0], classes))
    found[:, model.classes_] = model.predict_proba(features)
    return found


def tfidf(
    train: Labelled, validation: Labelled | None, held_out: Labelled, names: Sequence[str], grams: int = 2
) -> dict[str, float]:
    """Scores of words and runs of up to `grams` words, weighed by tf-idf (1 + log of the count; those in one text alone left
    out; rows of length 1), and logistic regression. Whole texts, nothing cut."""
    least = 2 if len(train.items) > 100 else 1
    weigh = TfidfVectorizer(analyzer=lambda text: word_runs(text, grams), min_df=least, sublinear_tf=True)
    features = weigh.fit_transform(train.items)
    others = (None, None) if validation is None else (weigh.transform(validation.items), validation.labels)
    model = best_regression(features, train.labels, *others, scaled=False)
    return scored(spread_out(model, weigh.transform(held_out.items), len(names)), held_out.labels, names)


def word_runs(text: str, longest: int) -> list[str]:
    found = words(text)
    return [" ".join(found[i : i + n]) for n in range(1, longest + 1) for i in range(len(found) - n + 1)]


def summary(series: Float[np.ndarray, "T C"]) -> Float[np.ndarray, " f"]:
    """Of each channel mean, deviation, least, greatest, first and last value, and the mean size of a step; the length."""
    x = np.asarray(series, np.float64)
    step = np.abs(np.diff(x, axis=0)).mean(0) if len(x) > 1 else np.zeros(x.shape[1])
    return np.concatenate([x.mean(0), x.std(0), x.min(0), x.max(0), x[0], x[-1], step, [len(x)]])


def summaries(
    train: Labelled, validation: Labelled | None, held_out: Labelled, names: Sequence[str]
) -> dict[str, float]:
    """Scores of logistic regression on `summary`, standardised."""
    table = lambda part: np.stack([summary(x) for x in part.items])
    others = (None, None) if validation is None else (table(validation), validation.labels)
    model = best_regression(table(train), train.labels, *others, scaled=True)
    return scored(spread_out(model, table(held_out), len(names)), held_out.labels, names)


def baselines(
    train: Labelled, validation: Labelled | None, held_out: Labelled, names: Sequence[str], *, texts: bool
) -> dict[str, dict[str, float]]:
    """{method: scores} on `held_out`; deterministic."""
    found = {"majority": majority(train, held_out, names)}
    if texts:
        return {**found, "TF-IDF, logistic regression": tfidf(train, validation, held_out, names)}
    return {**found, "summaries, logistic regression": summaries(train, validation, held_out, names)}
