"""The split of scenes: blocks, the guard about what is held out, crops that never touch it, tiles that count every pixel once."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy import ndimage

from common.errors import InputError
from unet.images import IGNORE
from unet.landcover.blocks import GUARD, TEST, TRAIN, VALIDATION, Blocks
from unet.landcover.geo import rasterio
from unet.landcover.scene import array_scene
from unet.landcover.sources import Crops, Tiles

HALF = {"validation": 0.1, "test": 0.2}


def scene(height=90, width=70, *, left=300_000.0, top=4_000_000.0, pixel=30.0, name="scene", seed=0):
    """Labels of three classes, the rarest with one pixel in a hundred; band 0 numbers the pixels."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, (height, width), p=[0.6, 0.39, 0.01]).astype(np.uint8)
    image = np.stack([np.arange(height * width).reshape(height, width)] * 3, -1).astype(np.float32)
    transform = rasterio().transform.from_origin(left, top, pixel, pixel)
    return array_scene(name, image, labels, crs="EPSG:32612", transform=transform)


def blocks_of(*scenes, block=10, guard=0, fractions=HALF, seed=0):
    return Blocks(scenes, block=block, guard=guard, fractions=fractions, seed=seed)


def test_blocks_have_their_shares_and_their_shape():
    blocks = blocks_of(scene())
    parts = blocks.parts(0, 0, 0, 90, 70)
    cells = parts.reshape(9, 10, 7, 10).swapaxes(1, 2).reshape(63, 100)
    assert (cells == cells[:, :1]).all()
    assert [int((cells[:, 0] == part).sum()) for part in (TEST, VALIDATION, TRAIN)] == [13, 6, 44]


@pytest.mark.parametrize("guard", [1, 4, 10])
def test_guard_is_what_lies_near_a_held_out_block(guard):
    blocks = blocks_of(scene(), guard=guard)
    plain = blocks.lookup(0, np.arange(90), np.arange(70))
    held = np.isin(plain, (TEST, VALIDATION))
    distance = ndimage.distance_transform_cdt(~held, "chessboard")
    expected = np.where((plain == TRAIN) & (distance <= guard), GUARD, plain)
    np.testing.assert_array_equal(blocks.parts(0, 0, 0, 90, 70), expected)


def test_any_window_agrees_with_the_whole():
    blocks = blocks_of(scene(), guard=3)
    whole = blocks.parts(0, -20, -20, 130, 110)
    np.testing.assert_array_equal(blocks.parts(0, 7, -5, 31, 40), whole[27:58, 15:55])


def test_scenes_that_overlap_agree_on_every_spot():
    first, second = scene(), scene(60, 60, left=300_000 + 25 * 30, top=4_000_000 - 40 * 30, name="second")
    blocks = blocks_of(first, second, guard=2)
    np.testing.assert_array_equal(blocks.parts(0, 40, 25, 50, 45), blocks.parts(1, 0, 0, 50, 45))


def test_crops_hold_no_held_out_pixel_and_every_class():
    data = scene()
    blocks = blocks_of(data, guard=9)
    crops = Crops([data], blocks, size=(8, 8), rare=0.5, classes=3)
    held = np.isin(blocks.parts(0, 0, 0, 90, 70), (TEST, VALIDATION)).reshape(-1)
    training = (blocks.parts(0, 0, 0, 90, 70) == TRAIN).reshape(-1)
    assert crops.survey.counts.sum() == training.sum()
    seen = []
    for draw in range(300):
        rng = np.random.default_rng(draw)
        example = crops.draw(crops[draw % len(crops)], rng)
        pixels = example["image"][..., 0].astype(int)
        assert example["image"].shape == (8, 8, 3) and example["label"].dtype == np.int32
        assert not held[pixels].any()
        np.testing.assert_array_equal(example["label"] != IGNORE, training[pixels])
        assert (example["label"] != IGNORE).any()
        seen.append((example["label"] == 2).any())
    assert np.mean(seen) > 0.5 / 3  # half of the crops begin with a class, a third of those with the rare one


@pytest.mark.parametrize("tile, out, overlap", [(32, 32, 4), (32, 16, 0)])
def test_tiles_count_every_pixel_of_their_part_once(tile, out, overlap):
    data = scene()
    blocks = blocks_of(data, guard=3)
    tiles = Tiles([data], blocks, "test", tile=tile, out=out, overlap=overlap, align=1)
    margin = (tile - out) // 2
    counted = []
    for row in map(tiles.__getitem__, range(len(tiles))):
        inner = row["image"][margin : margin + out, margin : margin + out, 0].astype(int)
        counted += inner[row["label"] != IGNORE].tolist()
    expected = np.flatnonzero(blocks.parts(0, 0, 0, 90, 70) == TEST)
    assert sorted(counted) == expected.tolist()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"guard": 11}, "config.data.guard=11: from 0 to config.data.block=10"),
        ({"fractions": {"tests": 0.2}}, "config.data.fractions: tests=0.2"),
        ({"fractions": {"test": 0.6, "validation": 0.5}}, "nothing is left for training"),
    ],
)
def test_wrong_splits_are_named(options, message):
    with pytest.raises(InputError, match=message):
        blocks_of(scene(), **options)


def test_another_seed_is_another_split():
    splits = [blocks_of(scene(), seed=seed).parts(0, 0, 0, 90, 70) for seed in range(3)]
    assert all((a != b).any() for a, b in itertools.combinations(splits, 2))


def test_one_crs_in_two_spellings_is_one_lattice():
    first, second = scene(), scene(name="second")
    crs = rasterio().crs.CRS
    other = dataclasses.replace(second, crs=crs.from_wkt(crs.from_epsg(32612).to_wkt(version="WKT2_2019")))
    blocks = blocks_of(first, other, guard=2)
    np.testing.assert_array_equal(blocks.parts(0, 0, 0, 90, 70), blocks.parts(1, 0, 0, 90, 70))
    assert len(blocks.tables) == 1


def test_a_guard_wider_than_a_block_of_a_coarser_scene_is_refused():
    fine, coarse = scene(pixel=10.0), scene(pixel=30.0, name="coarse")
    with pytest.raises(InputError, match="coarse: config.data.guard=8 of its pixels is wider than a block, 7 of them"):
        blocks_of(fine, coarse, block=20, guard=8)


@pytest.mark.parametrize("side", [8, 14, 600])
def test_each_cell_of_crops_holds_a_pixel_for_training(side):
    one = scene(side * 2 + 30, side + 20)
    crops = Crops([one], blocks_of(one, block=side, guard=0), size=(side, side), rare=0.0, classes=3)
    for cell in crops.cells:
        assert len(crops.training(*cell.tolist(), side, side)[0])
    rng = np.random.default_rng(0)
    assert (crops.draw(crops[0], rng)["label"] != IGNORE).any()
