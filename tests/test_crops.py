"""Random crops."""

import numpy as np
import pytest

from common.errors import InputError
from unet.crops import mirrored, random_crop


def numbered(height, width, label=None):
    """An image whose pixel values are their own places, so that a crop says where it came from."""
    place = np.arange(height * width, dtype=np.float32).reshape(height, width)
    return {"image": place[..., None], "label": np.zeros((height, width), np.int32) if label is None else label}


def test_crops_are_windows_and_reach_everywhere():
    example, rng = numbered(9, 12), np.random.default_rng(0)
    corners = set()
    for _ in range(400):
        cut = random_crop(example, rng, (4, 5), foreground=0.0)
        top, left = divmod(int(cut["image"][0, 0, 0]), 12)
        assert np.array_equal(cut["image"], example["image"][top : top + 4, left : left + 5])
        assert cut["label"].shape == (4, 5) and cut["label"].dtype == np.int32
        corners.add((top, left))
    assert corners == {(y, x) for y in range(6) for x in range(8)}


def test_the_same_generator_gives_the_same_crop():
    example = numbered(20, 20)
    cuts = [random_crop(example, np.random.default_rng(5), (6, 6)) for _ in range(2)]
    assert np.array_equal(cuts[0]["image"], cuts[1]["image"])


def test_foreground_crops_are_centred_and_classes_drawn_evenly():
    label = np.zeros((64, 64), np.int32)
    label[:32, :] = 1  # 2048 pixels
    label[50, 40] = 2  # one pixel
    label[60:, :] = 255
    rng, centres = np.random.default_rng(0), []
    for _ in range(400):
        cut = random_crop(numbered(64, 64, label), rng, (9, 9), foreground=1.0)
        centres.append(cut["label"][4, 4])
    share = np.mean(np.array(centres) == 2)
    assert 0.4 < share < 0.6  # half of the draws for the class with one pixel
    hits = [(random_crop(numbered(64, 64, label), rng, (9, 9), 0.0)["label"] == 2).any() for _ in range(400)]
    assert np.mean(hits) < 0.1


def test_share_of_foreground_crops():
    label = np.zeros((100, 100), np.int32)
    label[70, 70] = 1
    rng = np.random.default_rng(0)
    seen = np.mean(
        [(random_crop(numbered(100, 100, label), rng, (5, 5), 0.33)["label"] == 1).any() for _ in range(1000)]
    )
    assert 0.28 < seen < 0.38


def test_without_foreground_any_window_is_drawn():
    for value in (0, 255):
        label = np.full((10, 10), value, np.int32)
        assert random_crop(numbered(10, 10, label), np.random.default_rng(0), (4, 4), 1.0)["label"].shape == (4, 4)


def test_background_may_be_another_class():
    label = np.zeros((32, 32), np.int32)
    label[10:, :] = 3
    cut = random_crop(numbered(32, 32, label), np.random.default_rng(0), (3, 3), 1.0, background=3)
    assert cut["label"][1, 1] == 0


def test_margin_reaches_over_the_border_mirrored():
    example, rng = numbered(8, 8), np.random.default_rng(1)
    padded = np.pad(example["image"], ((6, 6), (6, 6), (0, 0)), mode="reflect")
    for _ in range(30):
        cut = random_crop(example, rng, (16, 18), 0.0, margin=6)  # 4 x 6 of it inside
        top, left = divmod(int(cut["image"][6, 6, 0]), 8)
        assert 0 <= top <= 4 and 0 <= left <= 2
        assert np.array_equal(cut["image"], padded[top : top + 16, left : left + 18])


@pytest.mark.parametrize("side", [1, 2, 3, 7])
def test_mirrored_agrees_with_numpy(side):
    wide = np.pad(np.arange(side), 20, mode="reflect") if side > 1 else np.zeros(41, int)
    assert np.array_equal(mirrored(np.arange(-20, side + 20), side), wide)


def test_a_crop_larger_than_the_image_is_refused():
    with pytest.raises(InputError, match=r"config.data.crop=\[16, 4\].*larger than an image of 10x12; use a smaller"):
        random_crop(numbered(10, 12), np.random.default_rng(0), (16, 4))
    assert random_crop(numbered(10, 12), np.random.default_rng(0), (10, 12))["image"].shape == (10, 12, 1)
