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
        near = {z + d for z in slices[name] for d in range(-2, 3)}
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


@pytest.mark.parametrize(("kind", "rising"), [("t1", "fgw"), ("t2", "wgf"), ("flair", "fwg"), ("pd", "wfg")])
def test_contrast_curves_put_the_tissues_in_order_and_keep_them_apart(kind, rising):
    for seed in range(40):
        x, y = brain.contrast_curve(kind, np.random.default_rng(seed))
        level = dict(zip("fgw", np.interp(brain.LEVELS[1:4], x, y), strict=True))
        ordered = [level[tissue] for tissue in rising]
        assert np.diff(ordered).min() > brain.GAP - 0.01 and ordered[0] > brain.GAP - 0.01 and ordered[-1] < 0.94
        assert y[0] == 0 and y.min() >= 0 and y.max() < 1.15 and np.abs(np.diff(y)).max() < 0.05  # smooth


def test_every_split_has_as_many_slices_of_each_contrast(monkeypatch):
    kinds = []
    monkeypatch.setattr(brain, "degrade", lambda image, kind, rng, **_: kinds.append(kind) or image[..., None])
    for split in ("validation", "test"):
        source = brain_source(split, downsample=2)
        kinds.clear()
        pairs = {(source.name(i)[:9], (source.read(i), kinds[-1])[1]) for i in range(len(source))}
        assert len(pairs) == len(source) == 4 * len(source.slices)


def test_bias_field_is_smooth_and_of_the_strength_asked_for():
    field = brain.bias_field(np.random.default_rng(0), (96, 80), 0.2)
    assert field.shape == (96, 80) and field.min() > 0 and abs(np.log(field).std() - 0.2) < 1e-6
    assert np.abs(np.diff(field, axis=0)).max() < 0.05


def test_wrong_options():
    for wrong, message in (
        ({"split": "tset"}, "known: train, validation, test"),
        ({"split": "train", "downsample": 3}, "downsample=3"),
        ({"split": "train", "first": 56, "last": 60}, "no slice of 56 to 60 is left for train"),
        ({"split": "test", "blocks": {"test": ((40, 50),), "validation": ((51, 56),)}}, "lies within 2 slices"),
    ):
        with pytest.raises(InputError, match=message):
            brain_source(**wrong)
