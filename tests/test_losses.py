"""Losses: values against NumPy in float64, gradients of ignored pixels, and sums that merge."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from unet.losses import IGNORE, LOSSES, balanced_weights, segmentation_loss

NAMES = sorted(LOSSES)


def example(seed=0, shape=(3, 5, 4), classes=3, ignored=0.2):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(*shape, classes)).astype(np.float32) * 2
    label = rng.integers(0, classes, shape).astype(np.int32)
    label[rng.random(shape) < ignored] = IGNORE
    return jnp.asarray(logits), jnp.asarray(label)


def reference(
    logits, label, name, class_weights=None, place=None, gamma=2.0, alpha=0.5, beta=0.5, smooth=1.0, first=1, eps=0.0
):
    """The definitions, one pixel at a time, in float64."""
    logits, label = np.asarray(logits, np.float64), np.asarray(label)
    classes = logits.shape[-1]
    class_weights = [1.0] * classes if class_weights is None else class_weights
    total = count = 0.0
    for b in range(len(label)):
        hit, mine, theirs, image_weight = np.zeros(classes), np.zeros(classes), np.zeros(classes), 0.0
        for i, j in itertools.product(*map(range, label.shape[1:])):
            y = label[b, i, j]
            if y == IGNORE:
                continue
            p = np.exp(logits[b, i, j]) / np.exp(logits[b, i, j]).sum()
            where = 1.0 if place is None else float(place[b, i, j])
            w = where * class_weights[y]
            image_weight += w
            if name == "cross_entropy":
                total += w * ((1 - eps) * -np.log(p[y]) + eps * np.mean(-np.log(p)))
            if name == "reverse_cross_entropy":  # log 0 := -4
                total += w * -sum(p[k] * (0.0 if k == y else -4.0) for k in range(classes))
            if name == "focal":
                total += w * (1 - p[y]) ** gamma * -np.log(p[y])
            hit[y] += where * p[y]
            mine += where * p
            theirs[y] += where
        if name == "dice":
            total += image_weight * (1 - np.mean(((2 * hit + smooth) / (mine + theirs + smooth))[first:]))
        if name == "tversky":
            below = hit + alpha * (mine - hit) + beta * (theirs - hit) + smooth
            total += image_weight * (1 - np.mean(((hit + smooth) / below)[first:]))
        count += image_weight
    return total, count


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("class_weights", [(), (0.5, 2.0, 1.5)])
@pytest.mark.parametrize("mapped", [False, True])
def test_value_equals_the_definition(name, class_weights, mapped):
    logits, label = example()
    place = np.random.default_rng(1).random(label.shape).astype(np.float32) + 0.1 if mapped else None
    got = segmentation_loss(
        logits, label, None if place is None else jnp.asarray(place), name=name, class_weights=class_weights
    )
    np.testing.assert_allclose(got, reference(logits, label, name, class_weights or None, place), rtol=2e-6)


@pytest.mark.parametrize(
    ("name", "options", "plain"),
    [
        ("focal", {"gamma": 0.5}, {"gamma": 0.5}),
        ("focal", {"gamma": 0.0}, {"gamma": 0.0}),
        ("tversky", {"alpha": 0.3, "beta": 0.7}, {"alpha": 0.3, "beta": 0.7}),
        ("dice", {"smooth": 0.0, "dice_background": True}, {"smooth": 0.0, "first": 0}),
        ("tversky", {"dice_background": True}, {"first": 0}),
        ("cross_entropy", {"label_smoothing": 0.1}, {"eps": 0.1}),
    ],
)
def test_each_option_has_its_effect(name, options, plain):
    logits, label = example(seed=2)
    got = segmentation_loss(logits, label, name=name, **options)
    np.testing.assert_allclose(got, reference(logits, label, name, **plain), rtol=2e-6)
    if options != {"gamma": 0.0}:
        assert abs(got[0] - segmentation_loss(logits, label, name=name)[0]) > 1e-3


def test_names_add_up():
    logits, label = example()
    parts = [segmentation_loss(logits, label, name=n)[0] for n in ("cross_entropy", "dice")]
    total, count = segmentation_loss(logits, label, name="cross_entropy + dice")
    np.testing.assert_allclose(total, sum(parts), rtol=1e-6)
    assert count == np.sum(np.asarray(label) != IGNORE)


def test_known_values():
    label = jnp.array([[[0, 1], [1, 1]]])
    sure = 50 * jax.nn.one_hot(label, 2)
    even = jnp.zeros((1, 2, 2, 2))
    for name in NAMES:
        assert segmentation_loss(sure, label, name=name)[0] == pytest.approx(0, abs=1e-5)
    assert segmentation_loss(even, label)[0] / 4 == pytest.approx(np.log(2), rel=1e-6)
    # p = 1/2 on four pixels, three of them true: Dice = 2 * 1.5 / (2 + 3), Tversky's 1.5 / (1.5 + a 0.5 + b 1.5).
    assert segmentation_loss(even, label, name="dice", smooth=0.0)[0] / 4 == pytest.approx(1 - 0.6, rel=1e-6)
    tversky = segmentation_loss(even, label, name="tversky", smooth=0.0, alpha=1.0, beta=0.0)[0] / 4
    assert tversky == pytest.approx(1 - 0.75, rel=1e-6)


@pytest.mark.parametrize("name", [*NAMES, "cross_entropy+dice+focal+tversky"])
def test_ignored_pixel_has_zero_gradient(name):
    logits, label = example(seed=3)
    label = label.at[2].set(IGNORE)  # a whole image, too
    ignored = np.asarray(label) == IGNORE
    wild = logits.at[2, 0, 0].set(jnp.array([jnp.inf, jnp.nan, -jnp.inf]))

    def mean(logits):
        total, count = segmentation_loss(logits, label, name=name, label_smoothing=0.1)
        return total / count

    gradient = np.asarray(jax.grad(mean)(wild))
    assert np.isfinite(gradient).all()
    assert (gradient[ignored] == 0).all()
    assert (np.abs(gradient[~ignored]).sum(-1) > 0).all()
    assert mean(wild) == mean(logits)
    assert jnp.isnan(mean(logits.at[0].set(jnp.nan)))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_count_is_zero_not_nan(name):
    logits, label = example()
    total, count = segmentation_loss(logits, jnp.full_like(label, IGNORE), name=name, smooth=0.0)
    assert (float(total), float(count)) == (0, 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradient_is_finite_at_extreme_logits(name, gamma):
    logits, label = example(seed=4)
    gradient = jax.grad(lambda x: segmentation_loss(x, label, name=name, gamma=gamma, smooth=0.0)[0])(logits * 1e4)
    assert np.isfinite(gradient).all()


def test_sums_merge_over_micro_batches():
    logits, label = example(seed=5, shape=(4, 6, 6))
    options = {"name": "cross_entropy+dice+focal+tversky", "class_weights": (1.0, 3.0, 0.5)}
    whole = np.array(segmentation_loss(logits, label, **options))
    parts = [np.array(segmentation_loss(logits[i : i + 1], label[i : i + 1], **options)) for i in range(4)]
    np.testing.assert_allclose(whole, np.sum(parts, 0), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_float32_from_bfloat16_and_keeps_float64(name):
    logits, label = example()
    low = segmentation_loss(logits.astype(jnp.bfloat16), label, name=name)
    assert {x.dtype for x in low} == {jnp.dtype("float32")}
    np.testing.assert_allclose(low, reference(logits.astype(jnp.bfloat16).astype(jnp.float32), label, name), rtol=2e-6)
    with jax.enable_x64(True):
        got = segmentation_loss(jnp.asarray(np.asarray(logits), jnp.float64), label, name=name)
        assert {x.dtype for x in got} == {jnp.dtype("float64")}
        np.testing.assert_allclose(got, reference(logits, label, name), rtol=1e-12)


def test_false_positives_cost_where_the_class_is_absent():
    label = jnp.zeros((1, 4, 4), jnp.int32)
    slope = jax.grad(lambda x: segmentation_loss(x, label, name="dice")[0])(jnp.zeros((1, 4, 4, 2)))
    assert (slope[..., 1] > 0).all()


def test_label_out_of_range_is_nan_not_silence():
    logits, label = example()
    for name in NAMES:
        assert jnp.isnan(segmentation_loss(logits, label.at[0, 0, 0].set(3), name=name)[0])
        assert jnp.isnan(segmentation_loss(logits, label.at[0, 0, 0].set(-1), name=name)[0])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "dise"}, "did you mean 'dice'"),
        ({"name": "cross_entropy+"}, "is not a loss"),
        ({"class_weights": (1.0, 2.0)}, "2 numbers for 3 classes"),
        ({"class_weights": (1.0, -2.0, 1.0)}, "0 or more"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"smooth": -1.0}, "smooth=-1.0"),
        ({"gamma": float("nan")}, "gamma=nan"),
    ],
)
def test_bad_options_are_named(options, says):
    with pytest.raises(InputError, match=says) as error:
        segmentation_loss(*example(), **options)
    assert "\n" not in str(error.value)


def test_dice_without_foreground_is_refused():
    with pytest.raises(InputError, match="no class but background"):
        segmentation_loss(*example(classes=1), name="dice")


def test_balanced_weights():
    # Frequencies 0.8, 0.15, 0.05; the median is 0.15. A class that never occurs has 1.
    np.testing.assert_allclose(balanced_weights(np.array([80, 15, 0, 5])), [0.15 / 0.8, 1, 1, 3])
    # Per image: class 1 is only in the second, of 50 pixels. Frequencies 130/150 and 20/50.
    median = (130 / 150 + 0.4) / 2
    np.testing.assert_allclose(balanced_weights(np.array([[100, 0], [30, 20]])), [median / (130 / 150), median / 0.4])
    with pytest.raises(InputError, match="ignore"):
        balanced_weights(np.zeros(3, int))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=8))
def test_balanced_weights_do_not_depend_on_scale(counts):
    counts = np.array(counts)
    weights = np.array(balanced_weights(counts))
    np.testing.assert_allclose(weights, balanced_weights(counts * 7), rtol=1e-12)
    np.testing.assert_allclose(weights * counts, (weights * counts)[0], rtol=1e-9)  # every class weighs the same in all


def test_effective_number_of_cui():
    """(1 - b) / (1 - b^n), n in a million, written with powers; the mean is 1, and equal counts weigh alike."""
    counts = np.array([100, 9_900, 90_000, 0])
    weights = np.array(balanced_weights(counts, "effective_number", beta=0.999))
    expected = (1 - 0.999) / (1 - 0.999 ** np.array([1_000.0, 99_000.0, 900_000.0]))
    np.testing.assert_allclose(weights[:3], expected / expected.mean(), rtol=1e-9)
    assert weights[3] == 1
    np.testing.assert_allclose(balanced_weights(np.array([7, 7]), "effective_number"), 1)
    np.testing.assert_allclose(balanced_weights(counts[:3], "effective_number", beta=0.0), 1)


@pytest.mark.parametrize(
    "how, beta, message", [("median", 0.9, "median_frequency"), ("effective_number", 1.0, "beta=1.0")]
)
def test_wrong_class_weights_are_named(how, beta, message):
    with pytest.raises(InputError, match=message):
        balanced_weights(np.array([1, 2]), how, beta=beta)


def test_a_cap_bounds_the_weights_and_keeps_their_mean():
    counts = np.array([1, 0, 2_000, 9_000, 500_000])
    for how in ("median_frequency", "effective_number"):
        free, capped = (np.array(balanced_weights(counts, how, cap=cap)) for cap in (0, 5))
        seen = counts > 0
        assert free[seen].max() / free[seen].min() > 1000
        assert capped[seen].max() / capped[seen].min() == pytest.approx(5) and capped[1] == 1
        assert capped[seen].mean() == pytest.approx(1)
        low = free[seen] < 5 * free[seen].min()  # those under the cap keep their ratios
        np.testing.assert_allclose(*(w[seen][low] / w[seen][low][0] for w in (free, capped)))
    with pytest.raises(InputError, match="balance_cap=0.5"):
        balanced_weights(counts, cap=0.5)
    mild = np.array([900, 1000, 1100])
    assert balanced_weights(mild, cap=5) == balanced_weights(mild)
