"""Scores: against scikit-learn, scikit-image, brute force over pairs, and hand-made cases."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import adapted_rand_error, variation_of_information
from sklearn import metrics as sk

from common.errors import InputError
from common.metrics import Calibration
from unet.scores import IGNORE, calibration, cells, collapsed, confusions, pair_sums, rand_fscore, scores, thinned


def maps(seed, shape=(4, 9, 7), classes=4):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, shape).astype(np.int32)
    prediction = np.where(rng.random(shape) < 0.6, label, rng.integers(0, classes, shape)).astype(np.int32)
    label[rng.random(shape) < 0.1] = IGNORE
    return label, prediction


@pytest.mark.parametrize("classes", [2, 4, 11])
def test_confusions_equal_sklearn(classes):
    label, prediction = maps(classes, classes=classes)
    got = confusions(jnp.asarray(label), jnp.asarray(prediction), classes)
    assert got.dtype == jnp.int32
    for b in range(len(label)):
        seen = label[b] != IGNORE
        want = sk.confusion_matrix(label[b][seen], prediction[b][seen], labels=np.arange(classes))
        np.testing.assert_array_equal(got[b], want)


def test_scores_equal_sklearn():
    label, prediction = maps(0)
    names = ["bg", "a", "b", "c"]
    got = scores(np.asarray(confusions(jnp.asarray(label), jnp.asarray(prediction), 4)), names)
    seen = label != IGNORE
    y, p = label[seen], prediction[seen]
    for i, name in enumerate(names):
        one = {"labels": [i], "average": "macro"}
        assert got[f"dice/{name}"] == pytest.approx(sk.f1_score(y, p, **one))
        assert got[f"iou/{name}"] == pytest.approx(sk.jaccard_score(y, p, **one))
        assert got[f"precision/{name}"] == pytest.approx(sk.precision_score(y, p, **one))
        assert got[f"recall/{name}"] == pytest.approx(sk.recall_score(y, p, **one))
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(y, p))
    assert got["f1/macro"] == pytest.approx(sk.f1_score(y, p, average="macro"))
    assert got["dice/foreground"] == pytest.approx(sk.f1_score(y, p, labels=[1, 2, 3], average="macro"))
    assert got["iou/mean"] == pytest.approx(sk.jaccard_score(y, p, average="macro"))
    assert got["iou/foreground"] == pytest.approx(sk.jaccard_score(y, p, labels=[1, 2, 3], average="macro"))
    each = [(a[a != IGNORE], b[a != IGNORE]) for a, b in zip(label, prediction, strict=True)]
    assert got["iou_per_image/mean"] == pytest.approx(
        np.mean([sk.jaccard_score(a, b, average="macro") for a, b in each])
    )
    want = np.mean([sk.f1_score(a, b, labels=[1, 2, 3], average="macro") for a, b in each])
    assert got["dice_per_image/foreground"] == pytest.approx(want)
    assert got["images"] == 4


def test_background_does_not_hide_a_lost_foreground():
    got = scores(np.array([[[990, 0], [10, 0]]]), ["background", "cell"])
    assert got["accuracy"] == 0.99
    assert got["dice/foreground"] == 0 == got["dice_per_image/foreground"]
    assert got["dice/background"] > 0.99
    assert "precision/cell" not in got  # never predicted: 0 / 0
    assert got["recall/cell"] == 0


def test_absent_classes_are_left_out():
    matrices = np.array([[[5, 1, 0], [2, 4, 0], [0, 0, 0]], [[9, 0, 0], [0, 0, 0], [0, 0, 0]]])
    got = scores(matrices, ["bg", "a", "b"])
    assert not {"dice/b", "iou/b", "precision/b", "recall/b"} & set(got)
    assert got["dice/foreground"] == got["dice/a"] == pytest.approx(8 / 11)
    # The second image has no foreground at all: its Dice is undefined, not 1.
    assert got["dice_per_image/foreground"] == pytest.approx(8 / 11)
    assert got["iou_per_image/mean"] == pytest.approx(((5 / 8 + 4 / 7) / 2 + 1) / 2)
    assert not any(np.isnan(v) for v in got.values())
    assert scores(np.zeros((0, 2, 2), int), ["a", "b"]) == {"images": 0}


def test_no_background():
    got = scores(np.array([[[5, 1], [2, 4]]]), ["a", "b"], background=None)
    assert got["dice/foreground"] == got["f1/macro"]


def test_class_names_must_fit():
    for names in (["a"], ["a", "a"]):
        with pytest.raises(InputError):
            scores(np.zeros((1, 2, 2), int), names)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 1000), min_size=3, max_size=3), min_size=3, max_size=3))
def test_identities(rows):
    matrix = np.array(rows)
    got = scores(matrix[None], ["x", "y", "z"], background=None)
    if not matrix.sum():
        return
    hit, wrong = np.trace(matrix), matrix.sum() - np.trace(matrix)
    micro = hit / (hit + 2 * wrong)
    assert micro == pytest.approx(got["accuracy"] / (2 - got["accuracy"]))
    for name in "xyz":
        if f"iou/{name}" in got:
            assert got[f"dice/{name}"] == pytest.approx(2 * got[f"iou/{name}"] / (1 + got[f"iou/{name}"]))
    perfect = scores(np.diag(matrix.sum(1))[None], ["x", "y", "z"])
    assert {v for k, v in perfect.items() if k != "images"} == {1.0}


def test_large_counts_do_not_overflow():
    got = scores(np.full((3, 2, 2), 2**31 - 1, np.int32), ["a", "b"])
    assert got["accuracy"] == 0.5
    assert got["dice/b"] == 0.5


def test_collapsed():
    assert collapsed(np.array([[900, 0], [100, 0]])) == 0
    assert collapsed(np.array([[0, 900], [0, 100]])) == 1
    assert collapsed(np.array([[900, 0], [98, 2]])) is None  # a little of the other is predicted
    assert collapsed(np.array([[1000, 0], [0, 0]])) is None  # there is nothing else to predict
    assert collapsed(np.zeros((2, 2), int)) is None


def segments(seed, shape=(13, 11)):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 5, shape), rng.integers(0, 4, shape)


def lone(proposed):
    """Each 0 a segment of its own."""
    proposed = proposed.copy()
    proposed[proposed == 0] = 1000 + np.arange(np.sum(proposed == 0))
    return proposed


@pytest.mark.parametrize("seed", range(4))
def test_pair_sums_equal_brute_force(seed):
    true, proposed = segments(seed, (6, 5))
    (both, mine, theirs), _ = pair_sums(true, proposed)
    t, p = true[true > 0], lone(proposed)[true > 0]
    pairs = list(itertools.product(range(t.size), repeat=2))
    assert mine == pytest.approx(np.mean([p[i] == p[j] for i, j in pairs]))
    assert theirs == pytest.approx(np.mean([t[i] == t[j] for i, j in pairs]))
    assert both == pytest.approx(np.mean([p[i] == p[j] and t[i] == t[j] for i, j in pairs]))


@pytest.mark.parametrize("seed", range(4))
def test_pair_sums_equal_skimage(seed):
    true, proposed = segments(seed)
    (both, mine, theirs), (h_both, h_mine, h_theirs) = pair_sums(true, proposed)
    seen, n = true > 0, np.sum(true > 0)
    # scikit-image counts pairs of different pixels, n (n - 1) of them; ours (the challenge's) are with repetition, n^2.
    error, precision, recall = adapted_rand_error(true, lone(proposed), ignore_labels=(0,))
    a, b, c = (x * n * n - n for x in (both, mine, theirs))
    assert 1 - 2 * a / (b + c) == pytest.approx(error, abs=1e-12)
    # Which of the two it calls precision is not what its page says, so the pair is compared without order.
    assert sorted([a / b, a / c]) == pytest.approx(sorted([precision, recall]), abs=1e-12)
    split = variation_of_information(true[seen], lone(proposed)[seen])
    np.testing.assert_allclose(
        sorted(split), sorted([(h_both - h_mine) / np.log(2), (h_both - h_theirs) / np.log(2)]), atol=1e-12
    )


def stripes():
    """Two cells parted by a membrane of three pixels, [20, 21]."""
    interior = np.ones((20, 21), bool)
    interior[:, 9:12] = False
    return interior


def test_thinning_keeps_cells_apart_and_leaves_one_pixel():
    interior = stripes()
    found = thinned(interior)
    assert found.max() == 2
    np.testing.assert_array_equal((found == 0).sum(1), 1)  # also at the frame's edge
    assert (found[:, 10] == 0).all()
    diagonal = np.abs(np.subtract.outer(np.arange(30), np.arange(30)))
    for width in (0, 1, 2, 5):  # a diagonal membrane, one pixel wide and wider
        found = thinned(diagonal > width)
        assert found.max() == 2
        assert cells(found > 0).max() == 2
    assert thinned(np.zeros((4, 4), bool)).max() == 0
    assert thinned(np.ones((4, 4), bool)).min() == 1


def test_perfect_prediction_scores_one():
    rng = np.random.default_rng(0)
    walls = np.stack([stripes(), stripes().T.reshape(20, 21), rng.random((20, 21)) > 0.3])
    got = rand_fscore(cells(walls), walls.astype(np.float32))
    for name in ("rand_fscore", "rand_split", "rand_merge", "info_fscore"):
        assert got[name] == pytest.approx(1, abs=1e-12)
    assert got["pixel_error"] == 0


def test_border_width_does_not_count_but_merging_does():
    truth = cells(stripes())
    wide = stripes()
    wide[:, 7:14] = False
    assert rand_fscore(truth, wide.astype(np.float32))["rand_fscore"] == pytest.approx(1)
    hole = stripes().astype(np.float32)
    hole[10, 9:12] = 0.45  # a weak gap: merged below this threshold only
    assert rand_fscore(truth, hole)["rand_fscore"] == pytest.approx(1)
    assert rand_fscore(truth, hole)["rand_threshold"] >= 0.5
    merged = rand_fscore(truth, hole, (0.3,))
    # One segment over two equal cells: sum p^2 = sum t^2 = 1/2, sum s^2 = 1.
    assert merged["rand_merge"] == pytest.approx(0.5)
    assert merged["rand_split"] == pytest.approx(1)
    assert merged["rand_fscore"] == pytest.approx(2 / 3)
    assert merged["info_fscore"] == pytest.approx(0)
    assert merged["pixel_error"] == 0


def test_split_cell_lowers_the_split_score():
    truth = np.ones((21, 20), np.int32)
    proposal = np.ones((21, 20), np.float32)
    proposal[10] = 0
    got = rand_fscore(truth, proposal)
    assert got["rand_split"] == pytest.approx((2 * (200 / 420) ** 2 + 20 / 420**2) / 1)
    assert got["rand_merge"] == pytest.approx(1)


def test_rand_fscore_refuses():
    with pytest.raises(InputError, match="at least one cell"):
        rand_fscore(np.zeros((4, 4), int), np.ones((4, 4), np.float32))
    with pytest.raises(InputError, match="one shape"):
        rand_fscore(np.ones((4, 4), int), np.ones((1, 4, 5), np.float32))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_calibration_counts_each_labelled_pixel_once(seed):
    label, _ = maps(seed)
    logits = np.random.default_rng(seed).normal(0, 3, (*label.shape, 4)).astype(np.float32)
    found = calibration(jnp.asarray(label), jnp.asarray(logits))
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    known = label != IGNORE
    sure, right = p.max(-1)[known], (p.argmax(-1) == label)[known]
    edges = np.minimum((sure * 20).astype(int), 19)
    for name, weights in (("count", None), ("sure", sure), ("right", right)):
        np.testing.assert_allclose(getattr(found, name), np.bincount(edges, weights, 20), rtol=1e-5, atol=1e-4)


def test_calibration_error_by_hand():
    # 10 pixels at 0.9 of which 6 are right, 30 at 0.5 of which 18 are: (10 * 0.3 + 30 * 0.1) / 40.
    first = Calibration(np.array([10.0, 0]), np.array([9.0, 0]), np.array([6.0, 0]))
    second = Calibration(np.array([0.0, 30]), np.array([0.0, 15]), np.array([0.0, 18]))
    assert first.merge(second).error() == pytest.approx(0.15)
    assert np.isnan(Calibration(*np.zeros((3, 2))).error())
