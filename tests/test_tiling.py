"""Tiling: every pixel once, mirrored as NumPy does, and tiled == whole wherever the network allows it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from common.errors import InputError
from unet.model import UNet, output_size
from unet.tiling import IGNORE, Tiles, mirror, plan, predict_rows, predict_tiled, read_tile

NHWC = ("NHWC", "HWIO", "NHWC")


@settings(max_examples=300, deadline=None)
@given(
    length=st.integers(1, 400),
    tile=st.integers(1, 90),
    margin=st.integers(0, 20),
    overlap=st.integers(0, 20),
    align=st.sampled_from([1, 2, 4, 8]),
)
def test_every_pixel_is_kept_once(length, tile, margin, overlap, align):
    out = tile - 2 * margin
    if out < align or (margin == 0 and tile - 2 * overlap < align):
        with pytest.raises(InputError):
            plan(length, tile, out, overlap, align)
        return
    spans = plan(length, tile, out, overlap, align)
    kept = np.concatenate([np.arange(s.keep_start, s.keep_stop) for s in spans])
    np.testing.assert_array_equal(kept, np.arange(length))
    for s in spans:
        assert s.keep_start < s.keep_stop
        assert s.start_in + margin <= s.keep_start and s.keep_stop <= s.start_in + margin + out
        if margin:
            assert (s.start_in + margin) % align == 0
    if margin == 0 and length >= tile:
        assert all(s.start_in >= 0 and s.start_in + tile <= length for s in spans)
        assert all(s.keep_start == 0 or s.keep_start - s.start_in >= overlap for s in spans)
        assert all(s.keep_stop == length or s.start_in + tile - s.keep_stop >= overlap for s in spans)
        assert all(s.start_in % align == 0 for s in spans[:-1])


def test_plan_takes_no_more_tiles_than_needed():
    assert plan(512, 572, 388) == [(-92, 0, 388), (32, 388, 512)]
    assert plan(512, 572, 388, align=16) == [(-92, 0, 384), (36, 384, 512)]
    assert plan(100, 64, 64, 8) == [(0, 0, 50), (36, 50, 100)]
    assert plan(64, 64, 64, 8) == [(0, 0, 64)]
    assert plan(40, 64, 64, 8) == [(-12, 0, 40)]


@pytest.mark.parametrize(("length", "tile_in", "tile_out"), [(10, 8, 5), (10, 8, 10), (0, 8, 8), (10, 8, 0)])
def test_impossible_tiles_are_refused(length, tile_in, tile_out):
    with pytest.raises(InputError):
        plan(length, tile_in, tile_out)


@settings(max_examples=100, deadline=None)
@given(length=st.integers(1, 9), before=st.integers(0, 40), after=st.integers(0, 40))
def test_mirror_is_numpy_reflect(length, before, after):
    expected = np.pad(np.arange(length), (before, after), mode="reflect")
    np.testing.assert_array_equal(mirror(-before, before + length + after, length), expected)


def test_read_tile_is_a_window_of_the_padded_image():
    image = np.random.default_rng(0).normal(size=(7, 5, 2)).astype(np.float32)
    padded = np.pad(image, ((20, 20), (20, 20), (0, 0)), mode="reflect")
    for y, x in [(-20, -20), (-3, 2), (0, 0), (5, -11), (13, 11)]:
        np.testing.assert_array_equal(read_tile(image, y, x, 6, 9), padded[20 + y : 26 + y, 20 + x : 29 + x])
    np.testing.assert_array_equal(read_tile(image[..., 0], -2, -2, 4, 4), padded[18:22, 18:22, 0])


def weights(bands=2, classes=3, side=5, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(side, side, bands, classes)), jnp.float32) / side


def convolution(padding):
    w = weights()
    return jax.jit(lambda x: jax.nn.softmax(lax.conv_general_dilated(x, w, (1, 1), padding, dimension_numbers=NHWC)))


def pooled(x):
    """A small 'valid' net with one 2x2 pooling: equivariant to even shifts alone. Side n (even) -> n - 8."""

    def conv(v, seed, out):
        return lax.conv_general_dilated(v, weights(v.shape[-1], out, 3, seed), (1, 1), "VALID", dimension_numbers=NHWC)

    x = jax.nn.relu(conv(x, 1, 4))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = jax.nn.relu(conv(x, 2, 4))
    x = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
    return jax.nn.softmax(conv(x, 3, 3))


@pytest.mark.parametrize("shape", [(31, 45, 2), (3, 70, 2), (12, 12, 2), (1, 1, 2)])
def test_valid_tiled_is_whole(shape):
    image = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    apply = convolution("VALID")
    whole = apply(np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect" if min(shape[:2]) > 1 else "edge")[None])[0]
    tiled = predict_tiled(apply, image, tile=16, out=12, batch_size=4)
    np.testing.assert_allclose(tiled, whole, atol=1e-5)
    assert tiled.dtype == np.float32


@pytest.mark.parametrize(("tile", "shape"), [(24, (50, 61)), (22, (50, 33)), (26, (40, 41))])
def test_valid_with_pooling_is_whole_when_aligned(tile, shape):
    image = np.random.default_rng(2).normal(size=(*shape, 2)).astype(np.float32)
    height, width = (n + n % 2 for n in shape)
    whole = pooled(read_tile(image, -4, -4, height + 8, width + 8)[None])[0]
    assert whole.shape[:2] == (height, width)
    tiled = predict_tiled(jax.jit(pooled), image, tile=tile, out=tile - 8, batch_size=3, align=2)
    np.testing.assert_allclose(tiled, whole[: shape[0], : shape[1]], atol=1e-5)


def test_the_paper_family_is_whole_when_aligned():
    net = UNet(depth=2, width=2, padding="valid", norm="none", bands=1, classes=3)
    tile, side, shape = 76, 108, (50, 63)
    out, margin = output_size(tile, 2, "valid"), (tile - output_size(tile, 2, "valid")) // 2
    assert out < min(shape) and output_size(side, 2, "valid") >= max(shape)
    image = np.random.default_rng(7).normal(size=(*shape, 1)).astype(np.float32)
    variables = net.init(jax.random.key(0), jnp.zeros((1, tile, tile, 1)))
    apply = jax.jit(lambda x: jax.nn.softmax(net.apply(variables, x)))
    whole = apply(read_tile(image, -margin, -margin, side, side)[None])[0, : shape[0], : shape[1]]
    tiled = predict_tiled(apply, image, tile=tile, out=out, batch_size=2, align=4)
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_same_tiled_is_whole_when_the_overlap_covers_the_receptive_field():
    image = np.random.default_rng(3).normal(size=(37, 50, 2)).astype(np.float32)
    apply = convolution("SAME")
    whole = np.asarray(apply(image[None])[0])
    np.testing.assert_allclose(predict_tiled(apply, image, tile=16, out=16, overlap=2, batch_size=3), whole, atol=1e-5)
    seams = np.abs(predict_tiled(apply, image, tile=16, out=16, overlap=0, batch_size=3) - whole)
    assert seams.max() > 1e-3  # without context there are seams: the test above is not empty


def test_same_small_image_is_mirrored():
    image = np.random.default_rng(4).normal(size=(9, 20, 2)).astype(np.float32)
    apply = convolution("SAME")
    mirrored = np.pad(image, ((2, 2), (0, 0), (0, 0)), mode="reflect")
    tiled = predict_tiled(apply, image, tile=16, out=16, overlap=2, batch_size=2)
    np.testing.assert_allclose(tiled, np.asarray(apply(mirrored[None]))[0, 2:-2], atol=1e-5)


def test_one_shape_is_compiled_and_strips_come_in_order():
    traced = []

    @jax.jit
    def apply(x):
        traced.append(x.shape)
        return jnp.concatenate([x, 1 - x], -1)

    for shape in [(40, 33), (16, 16), (5, 90)]:
        image = np.random.default_rng(5).uniform(size=(*shape, 1)).astype(np.float32)
        strips = list(predict_rows(apply, image, tile=16, out=16, overlap=3, batch_size=4))
        starts = np.cumsum([0, *(len(strip) for _, strip in strips)])
        assert [y for y, _ in strips] == list(starts[:-1]) and starts[-1] == shape[0]
        np.testing.assert_array_equal(np.concatenate([s for _, s in strips])[..., :1], image)
    assert traced == [(4, 16, 16, 1)]


class Made:
    """Images of several sizes that count how often each is decoded."""

    def __init__(self, sizes):
        rng = np.random.default_rng(6)
        self.images = [rng.normal(size=(*s, 2)).astype(np.float32) for s in sizes]
        self.labels = [rng.choice([0, 1, 2, IGNORE], size=s).astype(np.uint8) for s in sizes]
        self.decoded, self.lock = [0] * len(sizes), threading.Lock()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        with self.lock:
            self.decoded[index] += 1
        return {"image": self.images[index], "label": self.labels[index]}

    def size(self, index):
        return self.labels[index].shape


def confusion(label, prediction):
    counts = np.zeros((3, 3), np.int64)
    np.add.at(counts, (label[label != IGNORE], prediction[label != IGNORE]), 1)
    return counts


@pytest.mark.parametrize(("out", "overlap", "padding"), [(12, 0, "VALID"), (16, 2, "SAME")])
def test_tiles_count_every_labelled_pixel_once(out, overlap, padding):
    source = Made([(16, 16), (30, 41), (7, 19), (1, 50)])
    tiles = Tiles(source, tile=16, out=out, overlap=overlap)
    apply = convolution(padding)
    counts = np.zeros((len(source), 3, 3), np.int64)
    for i in range(len(tiles)):
        row = tiles[i]
        assert row["image"].shape == (16, 16, 2) and row["image"].dtype == np.float32
        assert row["label"].shape == (out, out) and row["label"].dtype == np.int32
        counts[row["image_id"]] += confusion(row["label"], np.argmax(apply(row["image"][None])[0], -1))
    for i in range(len(source)):
        whole = predict_tiled(apply, source.images[i], tile=16, out=out, overlap=overlap, batch_size=2)
        np.testing.assert_array_equal(counts[i], confusion(source.labels[i], whole.argmax(-1)))


def test_tiles_decode_each_image_once():
    source = Made([(64, 64)] * 6)
    tiles = Tiles(source, tile=16, out=16, overlap=2)
    images = [int(tiles[i]["image_id"]) for i in range(len(tiles))]
    assert images == sorted(images) and source.decoded == [1] * 6


def test_threads_that_want_one_image_decode_it_once():
    source = Made([(64, 64)])
    tiles = Tiles(source, tile=16, out=16, overlap=2)
    gate, decode = threading.Barrier(4), source.__getitem__
    slow = type("Slow", (), {"__getitem__": lambda _, i: (time.sleep(0.05), decode(i))[1]})()
    tiles.source = slow

    def read(i):
        gate.wait()
        return tiles[i]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))
    assert source.decoded == [1]
