"""Brain slices: labels, contrasts, blocks and guards, and that intensity does not give the classes away."""

import numpy as np
import pytest

from common.errors import InputError
from unet import brain
from unet.brain import brain_source, volumes


def test_volumes_are_whole_slices_of_tissue():
    image, label = volumes(2)
    assert image.shape == label.shape == (160, 96, 80)
    assert image.dtype == np.float32 and image.min() >= 0 and image.max() <= 1
    medians = [np.median(image[label == c]) for c in range(4)]
    assert medians[0] == 0 and medians[3] < medians[1] < medians[2]  # T1: fluid, grey, white
    border = np.ones(label.shape[1:], bool)
    border[2:-2, 2:-2] = False
    assert (label[:, border] == 0).all()  # nothing is cut off
    shares = np.bincount(label[24:136].reshape(-1), minlength=4) / label[24:136].size
    assert shares.min() > 0.02
    with pytest.raises(ValueError, match="read-only"):
        image[0] = 1


@pytest.fixture(scope="module")
def splits():
    return {name: brain_source(name, downsample=2, draws=3) for name in ("train", "validation", "test")}


def test_no_slice_and_no_neighbour_is_in_two_splits(splits):
    slices = {name: set(source.slices) for name, source in splits.items()}
    for name in ("validation", "test"):
        near = {z + d for z in slices[name] for d in range(-3, 4)}
        assert len(slices[name]) >= 8 and not near & slices["train"]
    assert not slices["validation"] & slices["test"] and len(slices["train"]) > 50


def test_an_example(splits):
    source = splits["train"]
    assert len(source) == 3 * len(source.slices)
    for index in (0, len(source) - 1):
        example = source[index]
        assert example["image"].shape == (96, 80, 1) and example["image"].dtype == np.float32
        assert abs(example["image"].mean()) < 1e-4 and abs(example["image"].std() - 1) < 1e-4
        assert example["label"].shape == source.size(index) and example["label"].dtype == np.int32
        assert set(np.unique(example["label"])) <= {0, 1, 2, 3}
    again = len(source.slices)
    assert np.array_equal(source[0]["label"], source[again]["label"])  # the same slice
    assert not np.allclose(source[0]["image"], source[again]["image"], atol=0.1)  # in another contrast
    assert source.name(again) == f"slice-{source.slices[0]:03d}-1"
    with pytest.raises(IndexError):
        source[len(source)]


def test_examples_depend_on_seed_and_index_alone(splits):
    same = brain_source("train", downsample=2, draws=3)
    other = brain_source("train", downsample=2, draws=3, seed=1)
    assert np.array_equal(same[7]["image"], splits["train"][7]["image"])
    assert not np.array_equal(other[7]["image"], splits["train"][7]["image"])


def test_held_out_contrasts_are_fixed(splits):
    other = brain_source("test", downsample=2, draws=9, seed=5)
    assert len(other) == len(splits["test"])
    assert all(np.array_equal(other[i]["image"], splits["test"][i]["image"]) for i in (0, 5))


def test_contrast_curves_have_every_order_of_tissues_and_keep_them_apart():
    orders = set()
    for seed in range(60):
        x, y = brain.contrast_curve(np.random.default_rng(seed))
        fluid, grey, white = np.interp(brain.LEVELS[1:4], x, y)
        levels = np.sort([fluid, grey, white])
        assert y[0] == 0 and 0.05 < y.max() < 1.3 and np.diff(levels).min() > 0.09 and levels[0] > 0.15
        assert np.abs(np.diff(y)).max() < 0.05  # smooth
        orders.add(tuple(np.argsort([fluid, grey, white]).tolist()))
    assert len(orders) == len(brain.CONTRASTS)


def test_bias_field_is_smooth_and_of_the_strength_asked_for():
    field = brain.bias_field(np.random.default_rng(0), (96, 80), 0.2)
    assert field.shape == (96, 80) and field.min() > 0 and abs(np.log(field).std() - 0.2) < 1e-6
    assert np.abs(np.diff(field, axis=0)).max() < 0.05


def test_wrong_options():
    for wrong, message in (
        ({"split": "tset"}, "known: train, validation, test"),
        ({"split": "train", "downsample": 3}, "downsample=3"),
        ({"split": "train", "first": 56, "last": 60}, "no slice of 56 to 60 is left for train"),
        ({"split": "test", "blocks": {"test": ((40, 50),), "validation": ((52, 56),)}}, "lies within 3 slices"),
    ):
        with pytest.raises(InputError, match=message):
            brain_source(**wrong)
