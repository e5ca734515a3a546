"""Scores of forecasts of jobs: against scikit-learn, hand-made cases, and a slow plain bootstrap."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from common.errors import InputError
from lstm.job_scores import (
    Forecasts,
    accuracy_of,
    bad_classes,
    calibration,
    decided,
    interval,
    macro_f1_of,
    offsets,
    paired,
    running_scores,
    scores,
    shifted,
)

NAMES, BAD = ["completed", "failed", "cancelled"], ["failed", "cancelled"]


def forecasts(seed=0, rows=400, classes=3, bins=2, unknown=0.0, skill=1.0):
    """Rows whose likeliest class is right more often than not."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, rows).astype(np.int32)
    logits = rng.normal(size=(rows, classes)) + skill * np.eye(classes)[label]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    label[rng.random(rows) < unknown] = -1
    running = np.repeat(probabilities[:, None], bins, 1).astype(np.float32)
    return Forecasts(np.arange(rows, dtype=np.int32), label, probabilities.astype(np.float32), running)


def certain(labels, answers, classes=3):
    """One-hot answers."""
    rows = len(labels)
    p = np.eye(classes, dtype=np.float32)[np.asarray(answers)]
    return Forecasts(np.arange(rows, dtype=np.int32), np.asarray(labels, np.int32), p, p[:, None])


# Scores -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_sklearn(seed):
    found = forecasts(seed)
    p = found.probabilities.astype(np.float64)
    label, p = found.label, p / p.sum(1, keepdims=True)
    got = scores(found, NAMES, BAD)
    assert got["loss"] == pytest.approx(sk.log_loss(label, p, labels=range(3)), rel=1e-5)
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(label, p.argmax(1)))
    assert got["f1/macro"] == pytest.approx(sk.f1_score(label, p.argmax(1), average="macro"))
    for k, name in enumerate(NAMES):
        assert got[f"f1/{name}"] == pytest.approx(sk.f1_score(label == k, p.argmax(1) == k))
        assert got[f"auroc/{name}"] == pytest.approx(sk.roc_auc_score(label == k, p[:, k]))
        assert got[f"auprc/{name}"] == pytest.approx(sk.average_precision_score(label == k, p[:, k]))
    assert got["auroc/bad"] == pytest.approx(sk.roc_auc_score(label > 0, p[:, 1] + p[:, 2]))
    assert got["auprc/bad"] == pytest.approx(sk.average_precision_score(label > 0, p[:, 1] + p[:, 2]))
    # Of two classes the squared differences are alike: their sum is twice what scikit-learn calls the Brier score.
    two = forecasts(seed, classes=2)
    assert scores(two, ["a", "b"], ["b"])["brier"] == pytest.approx(
        2 * sk.brier_score_loss(two.label, two.probabilities[:, 1].astype(np.float64))
    )
    assert got["examples"] == 400
    assert set(got) == {
        *("loss", "accuracy", "brier", "calibration_error", "calibration_error/bad", "examples", "f1/macro"),
        *(f"{kind}/{name}" for kind in ("auroc", "auprc") for name in [*NAMES, "bad"]),
        *(f"f1/{name}" for name in NAMES),
    }


def test_scores_by_hand():
    p = np.array([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7], [0.9, 0.1, 0.0]], np.float32)
    found = Forecasts(np.arange(4), np.array([0, 1, 0, -1]), p, p[:, None])
    got = scores(found, NAMES, BAD)
    assert got["loss"] == pytest.approx(-np.log([0.5, 0.7, 0.1]).mean(), rel=1e-6)
    assert got["brier"] == pytest.approx(np.mean([0.25 + 0.09 + 0.04, 0.04 + 0.09 + 0.01, 0.81 + 0.04 + 0.49]))
    assert got["accuracy"] == pytest.approx(2 / 3)
    # 0.5 lies in one bin and is right; both of 0.7 lie in another, where one is.
    assert got["calibration_error"] == pytest.approx((0.5 + abs(1.4 - 1)) / 3, rel=1e-6)
    # Risks 0.5, 0.8 and 0.9 in three bins; the second ends badly.
    assert got["calibration_error/bad"] == pytest.approx((0.5 + 0.2 + 0.9) / 3, rel=1e-6)
    assert got["auroc/bad"] == 0.5
    assert got["examples"] == 3


def test_what_is_not_defined_is_left_out():
    got = scores(certain([0, 0, 1], [0, 0, 0]), NAMES, BAD)
    assert "f1/cancelled" not in got  # neither label nor prediction has it
    assert "auroc/cancelled" not in got
    assert got["f1/failed"] == 0
    assert got["f1/macro"] == pytest.approx(0.4)
    assert np.isfinite(got["loss"])  # 0 was given to what happened
    assert not any(np.isnan(value) for value in got.values())
    alike = scores(certain([1, 1], [1, 1]), NAMES, BAD)
    assert not [name for name in alike if name.startswith("au")]
    assert scores(certain([-1], [0]), NAMES, BAD) == {"examples": 0}
    assert not [name for name in scores(forecasts(), NAMES, []) if name.endswith("/bad")]


def test_padding_and_unknown_labels_count_nothing():
    whole = forecasts(1, unknown=0.3)
    known = Forecasts(*(field[whole.label >= 0] for field in whole))
    assert scores(whole, NAMES, BAD) == scores(known, NAMES, BAD)
    padded = whole._replace(id=np.where(np.arange(400) < 300, whole.id, -1))
    assert scores(padded, NAMES, BAD) == scores(Forecasts(*(field[:300] for field in whole)), NAMES, BAD)


def test_merging_drops_padding():
    whole = forecasts(2)
    parts = [Forecasts(*(jnp.asarray(field[a:b]) for field in whole)) for a, b in ((0, 100), (100, 250), (250, 400))]
    pad = parts[0]._replace(id=jnp.full(100, -1, jnp.int32))
    merged = pad.merge(parts[0]).merge(parts[1]).merge(pad).merge(parts[2])
    for got, want in zip(merged, whole, strict=True):
        np.testing.assert_array_equal(got, want)
        assert got.dtype == want.dtype


def test_calibration_bins():
    sure, right = np.array([0.0, 0.05, 0.95, 1.0]), np.array([False, True, True, True])
    got = calibration(sure, right)
    assert got.count.tolist() == [2, *[0] * 12, 0, 2]
    assert got.sure[-1] == pytest.approx(1.95)
    assert got.right.tolist() == [1, *[0] * 13, 2]


def test_class_that_is_none():
    with pytest.raises(InputError, match=r"config.task.bad=.*'faild'.*did you mean 'failed'"):
        bad_classes(NAMES, ["faild"])
    assert bad_classes(NAMES, ["cancelled", "failed"]) == [2, 1]


# While it runs ------------------------------------------------------------------------------------------------------------


def test_running_by_hand():
    risk = np.array([[0.1, 0.9], [0.2, 0.3], [0.8, 0.8], [0.6, 0.2], [0.5, 0.5]], np.float32)
    running = np.stack([1 - risk, risk, 0 * risk], -1)
    label = np.array([1, 0, 2, 0, -1], np.int32)
    found = Forecasts(np.arange(5), label, running[:, 0], running)
    table = running_scores(found, np.array([60.0, 70, 10, 59.9, 999]), np.array([0.0, 60.0]), NAMES, BAD)
    assert list(table) == [0, 60]
    # At the start the bad have 0.1 and 0.8, the others 0.2 and 0.6: two of four pairs are right; one bad is above all others.
    assert table[0] == {"jobs": 4, "bad": 0.5, "auroc": 0.5, "recall": 0.5}
    assert table[60] == {"jobs": 2, "bad": 0.5, "auroc": 1, "recall": 1}


def test_running_where_all_end_alike_and_where_there_is_no_job():
    found = certain([0, 0, 1], [0, 0, 1])
    found = found._replace(running=np.repeat(found.running, 3, 1))
    table = running_scores(found, np.array([5.0, 5, 1]), np.array([0.0, 2, 9]), NAMES, BAD)
    assert table[0]["auroc"] == 1
    assert table[2] == {"jobs": 2, "bad": 0}
    assert table[9] == {"jobs": 0}
    assert running_scores(found, np.array([5.0, np.nan, 1]), np.array([0.0, 2]), NAMES, BAD)[0]["jobs"] == 2


def recall_at(truth, risk, least):
    """Every threshold, one by one."""
    best = 0.0
    for threshold in risk:
        named = risk >= threshold
        if truth[named].mean() >= least:
            best = max(best, (truth & named).sum() / truth.sum())
    return best


@pytest.mark.parametrize("seed", range(4))
def test_recall_equals_brute_force(seed):
    found = forecasts(seed, rows=60, bins=1, skill=2.0)
    truth, risk = found.label > 0, found.running[:, 0, 1:].astype(np.float64).sum(1)
    got = running_scores(found, np.ones(60), np.zeros(1), NAMES, BAD)[0]
    assert got["recall"] == pytest.approx(recall_at(truth, risk, 0.9))
    assert got["auroc"] == pytest.approx(sk.roc_auc_score(truth, risk))


# How sure -----------------------------------------------------------------------------------------------------------------


def slow_draws(several, groups, score, draws, seed):
    """The bootstrap written out: lists of groups, and of their rows."""
    names, rng = np.unique(groups), np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        chosen = rng.integers(len(names), size=len(names))
        rows = [row for g in chosen for row in np.flatnonzero(groups == names[g])]
        found.append([score(Forecasts(*(field[rows] for field in f))) for f in several])
    return np.array(found)


def accuracy(f):
    return sk.accuracy_score(f.label, f.probabilities.argmax(1))


def macro_f1(f):
    return sk.f1_score(f.label, f.probabilities.argmax(1), average="macro")


def auroc(f):
    return sk.roc_auc_score(f.label > 0, f.probabilities[:, 1:].sum(1))


@pytest.mark.parametrize(("name", "score"), [("accuracy", accuracy), ("f1/macro", macro_f1), (auroc, auroc)])
def test_bootstrap_equals_a_plain_loop(name, score):
    one, other = forecasts(3), forecasts(4)
    other = other._replace(label=one.label)
    groups = np.random.default_rng(5).integers(0, 12, 400)
    slow = slow_draws([one, other], groups, score, 40, seed=7)
    assert interval(one, groups, name, 40, 7, 0.9) == pytest.approx(tuple(np.quantile(slow[:, 0], [0.05, 0.95])))
    difference = slow[:, 0] - slow[:, 1]
    got = paired(one, other, groups, name, 40, 7, 0.9)
    assert got.value == pytest.approx(score(one) - score(other))
    assert (got.low, got.high) == pytest.approx(tuple(np.quantile(difference, [0.05, 0.95])))
    assert got.above == (difference > 0).mean()


def test_groups_are_drawn_whole():
    """Jobs of a group are alike: as many as there are tell no more than one would."""
    label = np.repeat([0, 1, 0, 1, 0, 1, 0, 1], 100)
    groups = np.repeat([f"user {k}" for k in range(8)], 100)
    found = certain(label, np.zeros(800, int))
    low, high = interval(found, groups, "accuracy")
    assert (low, high) == (0.125, 0.875)  # of 8 fair coins
    low, high = interval(found, np.arange(800), "accuracy")
    assert 0.45 < low < 0.5 < high < 0.55


def test_interval_covers():
    """In about 95 of 100 worlds the truth lies in it; of groups that differ."""
    covered = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(60), 5)
        right = rng.random(300) < rng.beta(3, 1, 60)[groups]  # 0.75 in the mean
        low, high = interval(certain(np.zeros(300, int), np.where(right, 0, 1)), groups, "accuracy", 200, seed)
        covered += low <= 0.75 <= high
    assert 105 <= covered < 120


def test_pairs_in_another_order_with_padding_and_unknown():
    one, other = forecasts(6, unknown=0.2), forecasts(8)
    other = other._replace(label=one.label)
    groups = np.random.default_rng(9).integers(0, 9, 400)
    want = paired(one, other, groups, "accuracy", 50)
    order = np.random.default_rng(10).permutation(400)
    mixed = Forecasts(*(field[order] for field in other))
    assert paired(one, mixed.merge(mixed._replace(id=np.full(400, -1))), groups, "accuracy", 50) == want
    assert paired(Forecasts(*(field[order] for field in one)), other, groups[order], "accuracy", 50) == want
    assert paired(one, one, groups, "f1/macro", 50) == (0, 0, 0, 0)
    with pytest.raises(ValueError, match="different jobs"):
        paired(one, Forecasts(*(field[:200] for field in other)), groups, "accuracy")


def test_draws_without_a_score_are_left_out():
    found = certain([0, 1], [0, 1])
    only = lambda f: auroc(f) if len(np.unique(f.label)) == 2 else float("nan")
    assert interval(found, np.arange(2), only, 30) == (1, 1)
    assert np.isnan(interval(certain([0], [0]), np.arange(1), lambda f: float("nan"), 5)).all()
    assert np.isnan(interval(certain([-1], [0]), np.arange(1), "accuracy", 5)).all()
    assert interval(found, np.arange(2), "accuracy", 30) == interval(found, np.arange(2), "accuracy", 30)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 50), min_size=3, max_size=3), min_size=3, max_size=3))
def test_scores_of_matrices(rows):
    matrix = np.array(rows, float)
    pairs = [(i, j) for i in range(3) for j in range(3) for _ in range(rows[i][j])]
    if not pairs:
        assert np.isnan(accuracy_of(matrix[None])).all() and np.isnan(macro_f1_of(matrix[None])).all()
        return
    label, answer = np.array(pairs).T
    assert accuracy_of(np.stack([matrix, matrix])) == pytest.approx([sk.accuracy_score(label, answer)] * 2)
    assert macro_f1_of(matrix[None])[0] == pytest.approx(sk.f1_score(label, answer, average="macro"))


# What to decide -----------------------------------------------------------------------------------------------------------


def rare(seed, rows=4000):
    """Honest probabilities of classes of 95, 3 and 2 in a hundred."""
    rng = np.random.default_rng(seed)
    logits = np.log([0.95, 0.03, 0.02]) + 1.3 * rng.normal(size=(rows, 3))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return p, (rng.random((rows, 1)) > p.cumsum(1)).sum(1)


def macro(labels, answers):
    return sk.f1_score(labels, answers, average="macro", labels=[0, 1, 2])


def test_offsets_find_rare_classes():
    p, labels = rare(0)
    found = offsets(p, labels)
    assert macro(labels, decided(p, found)) > macro(labels, p.argmax(1)) + 0.05
    assert found[1] > found[0] and found[2] > found[0]
    later, truth = rare(1)
    assert macro(truth, decided(later, found)) > macro(truth, later.argmax(1)) + 0.03
    np.testing.assert_array_equal(found, offsets(p, labels))
    # Nothing on a coarse grid around 0 is better.
    grid = np.arange(-4, 4.1, 1.0)
    best = max(macro(labels, decided(p, np.array([0, a, b]))) for a in grid for b in grid)
    assert macro(labels, decided(p, found)) > best - 0.01


def test_offsets_stay_where_nothing_gains():
    found = certain([0, 1, 2, -1], [0, 1, 2, 0])
    assert offsets(found.probabilities, found.label).tolist() == [0, 0, 0]
    assert offsets(np.full((2, 3), 1 / 3), np.array([-1, -1])).tolist() == [0, 0, 0]


def test_decided_and_shifted_by_hand():
    p = np.array([[0.6, 0.4, 0.0], [0.3, 0.3, 0.4]])
    assert decided(p, np.zeros(3)).tolist() == [0, 2]
    assert decided(p, np.log([1, 2, 1])).tolist() == [1, 1]
    got = shifted(p, np.log([1, 2, 1]))
    np.testing.assert_allclose(got, [[0.6 / 1.4, 0.8 / 1.4, 0], [0.3 / 1.3, 0.6 / 1.3, 0.4 / 1.3]], atol=1e-9)
    q, labels = rare(2, rows=500)
    chosen = offsets(q, labels)
    np.testing.assert_array_equal(shifted(q, chosen).argmax(1), decided(q, chosen))
