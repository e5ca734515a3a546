"""Augmentation: resampling against SciPy, exact flips and turns, image and label in step, keys that decide everything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from common import keys
from common.errors import InputError
from unet.augment import affine, augment, bicubic, gaussian, mirror, positions, power, resample

KEY = jax.random.key(7)
SPATIAL = {"flip": True, "turn": True, "rotate": 30.0, "scale": 0.3, "shift": 4.0, "elastic": 3.0}
GREY = {"contrast": 0.5, "brightness": 0.4, "gamma": 0.5, "blur": 1.2, "noise": 0.1}


def example(seed=0, shape=(24, 24), bands=2):
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 3, 255], shape).astype(np.int32)
    return jnp.asarray(rng.normal(size=(*shape, bands)).astype(np.float32)), jnp.asarray(label)


def many(count=64, **options):
    """`count` draws of one example."""
    image, label = example()
    run = jax.jit(jax.vmap(lambda key: augment(key, image, label, **options)))
    return *map(np.asarray, run(keys.rows(KEY, count))), np.asarray(image), np.asarray(label)


@pytest.mark.parametrize("shape", [(16, 16), (9, 14), (1, 5)])
def test_resampling_equals_scipy(shape):
    image, label = example(1, shape)
    source = np.random.default_rng(2).uniform(-30, 40, (2, 11, 13)).astype(np.float32)
    got, got_label = resample(image, label, jnp.asarray(source))
    for band in range(2):
        # SciPy calls mirroring about the edge pixels 'mirror'; it has no mirror for one pixel.
        want = ndimage.map_coordinates(
            np.asarray(image[..., band], np.float64), fold(source, shape), order=1, mode="nearest"
        )
        np.testing.assert_allclose(got[..., band], want, atol=2e-5)
    want = ndimage.map_coordinates(np.asarray(label), np.floor(fold(source, shape) + 0.5), order=0, mode="nearest")
    np.testing.assert_array_equal(got_label, want)


def fold(source, shape):
    return np.stack([np.asarray(mirror(jnp.asarray(s), n)) for s, n in zip(source, shape, strict=True)])


def test_mirroring_equals_scipy():
    line = np.random.default_rng(0).normal(size=9)
    place = np.linspace(-40, 40, 301).astype(np.float32)
    folded = np.asarray(mirror(jnp.asarray(place), 9))
    want = ndimage.map_coordinates(line, [place], order=1, mode="mirror")
    np.testing.assert_allclose(np.interp(folded, np.arange(9), line), want, atol=1e-5)
    np.testing.assert_array_equal(mirror(jnp.arange(9.0), 9), np.arange(9))


def test_affine_equals_scipy():
    image, label = example(3, (20, 26), bands=1)
    angle, factor = 0.4, 1.3
    matrix = affine(jnp.float32(angle), jnp.float32(factor))
    got, _ = resample(image, label, positions(matrix, label.shape))
    inverse = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / factor
    centre = (np.array(label.shape) - 1) / 2
    want = ndimage.affine_transform(
        np.asarray(image[..., 0], np.float64), inverse, centre - inverse @ centre, order=1, mode="mirror"
    )
    np.testing.assert_allclose(got[..., 0], want, atol=1e-4)


def test_identity_when_all_is_off():
    image, label = example()
    for options in ({}, {**SPATIAL, **GREY, "flip": False, "turn": False, "gamma": 0.0, "probability": 0.0}):
        got, got_label = augment(KEY, image, label, **options)
        np.testing.assert_allclose(got, image, atol=1e-6)
        np.testing.assert_array_equal(got_label, label)
    got, _ = augment(KEY, image, label, gamma=0.5, probability=0.0)
    np.testing.assert_allclose(got, image, atol=1e-5)


def test_flips_and_turns_are_the_group_of_the_square():
    image, label = example()
    eight = [np.rot90(side, k) for side in (np.asarray(label), np.asarray(label)[:, ::-1]) for k in range(4)]
    for options, members in (
        ({"flip": True, "turn": True}, range(8)),
        ({"turn": True}, range(4)),
        ({"flip": True}, (0, 2, 4, 6)),
        ({"flip_horizontal": True}, (0, 4)),
    ):
        images, labels, _, _ = many(**options)
        places = [next(i for i in range(8) if (eight[i] == one).all()) for one in np.asarray(labels)]
        assert set(places) == set(members)
        sides = [np.rot90(side, k) for side in (np.asarray(image), np.asarray(image)[:, ::-1]) for k in range(4)]
        for one, place in zip(np.asarray(images), places, strict=True):
            np.testing.assert_array_equal(one, sides[place])


@pytest.mark.parametrize("options", [{"turn": True}, {"rotate": 30.0}, SPATIAL])
def test_labels_stay_class_indices(options):
    _, labels, _, label = many(16, **options)
    assert labels.dtype == label.dtype
    assert set(np.unique(labels)) <= set(np.unique(label))
    assert len({one.tobytes() for one in np.asarray(labels)}) > 1


def test_image_and_label_move_together():
    rows, columns = np.indices((64, 64))
    label = jnp.asarray((rows // 16 + columns // 16) % 2, jnp.int32)
    image = label[..., None].astype(jnp.float32)
    run = jax.jit(jax.vmap(lambda key: augment(key, image, label, **SPATIAL)))
    images, labels = run(keys.rows(KEY, 16))
    seen = np.asarray(images[..., 0] > 0.5)
    # Nearest and bilinear-then-threshold differ only on the rim of a checker, by less than a pixel.
    differ = seen != np.asarray(labels, bool)
    assert differ.mean() < 0.02
    for one, wrong in zip(np.asarray(labels, bool), differ, strict=True):
        rim = ndimage.binary_dilation(one) & ~ndimage.binary_erosion(one, border_value=1)
        assert not (wrong & ~rim).any()
    moved = np.asarray(labels) != np.asarray(label)
    assert moved.reshape(16, -1).any(1).all()


def test_grey_values_leave_the_label_alone():
    images, labels, image, label = many(4, **GREY)
    assert (np.asarray(labels) == np.asarray(label)).all()
    assert not np.allclose(images, image, atol=0.05)


def test_elastic_field_has_the_papers_spread_and_goes_through_its_nodes():
    nodes = 10 * jax.random.normal(KEY, (2000, 2, 3, 3))
    field = jax.vmap(lambda n: bicubic(n, (21, 33)))(nodes)
    at_nodes = field[:, :, ::10, ::16]
    np.testing.assert_allclose(at_nodes, nodes, atol=1e-4)
    np.testing.assert_allclose(np.std(at_nodes, 0), 10, rtol=0.1)


def test_elastic_moves_by_sigma():
    # A ramp read at displaced places shows the displacement, wherever it stays inside the frame.
    ramp = jnp.broadcast_to(jnp.arange(101.0)[None, :, None], (101, 101, 1))
    run = jax.jit(jax.vmap(lambda key: augment(key, ramp, jnp.zeros((101, 101), jnp.int32), elastic=4.0)[0]))
    middle = np.asarray(run(keys.rows(KEY, 400)))[:, 50, 50, 0] - 50
    assert np.std(middle) == pytest.approx(4, rel=0.15)
    assert abs(middle.mean()) < 1


def cubic(t):
    """Keys 1981, equation 15, with a = -1/2, one number at a time."""
    t = abs(t)
    if t < 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0


@pytest.mark.parametrize("grid", [2, 3, 5])
def test_bicubic_equals_the_sum_over_all_nodes(grid):
    rng = np.random.default_rng(0)
    nodes, shape = rng.normal(size=(2, grid, grid)), (13, 9)
    padded = np.pad(nodes, ((0, 0), (2, 2), (2, 2)), mode="edge")
    want = np.zeros((2, *shape))
    for i, y in enumerate(np.linspace(0, grid - 1, shape[0])):
        for j, x in enumerate(np.linspace(0, grid - 1, shape[1])):
            weights = np.outer([cubic(y - n) for n in range(-2, grid + 2)], [cubic(x - n) for n in range(-2, grid + 2)])
            want[:, i, j] = (weights * padded).sum((1, 2))
    np.testing.assert_allclose(bicubic(jnp.asarray(nodes, jnp.float32), shape), want, atol=1e-5)


def test_bicubic_is_smooth_where_bilinear_is_not():
    nodes = jnp.broadcast_to(jnp.array([0.0, 1.0, 0.0]), (2, 3, 3))
    slope = np.diff(np.asarray(bicubic(nodes, (3, 201)))[0, 0])
    assert abs(np.diff(slope)).max() < 1e-3  # no kink at the node


@pytest.mark.parametrize(("name", "bound"), [("rotate", 30.0), ("scale", 0.5), ("shift", 5.0)])
def test_spatial_ranges_are_filled_and_kept(name, bound):
    """Coordinates as image: what the middle of the result shows is where it came from."""
    rows, columns = np.indices((65, 65)).astype(np.float32) - 32
    image, label = jnp.asarray(np.stack([rows, columns], -1)), jnp.zeros((65, 65), jnp.int32)
    run = jax.jit(jax.vmap(lambda key: augment(key, image, label, **{name: bound})[0]))
    got = np.asarray(run(keys.rows(KEY, 300)))
    down = got[:, 42, 32] - got[:, 32, 32]  # the source of a step of ten rows
    if name == "shift":
        values = got[:, 32, 32]
    elif name == "rotate":
        values = np.rad2deg(np.arctan2(down[:, 1], down[:, 0]))
    else:
        values, bound = np.log(10 / np.linalg.norm(down, axis=-1)), np.log(1.5)
    assert np.abs(values).max() <= bound * 1.001 + 1e-4
    assert values.max() > 0.9 * bound
    assert values.min() < -0.9 * bound
    assert np.std(values) == pytest.approx(bound / np.sqrt(3), rel=0.15)


def test_grey_value_options_do_what_they_say():
    images, _, image, _ = many(300, brightness=0.4)
    offsets = np.asarray(images - image[None])
    assert np.ptp(offsets, axis=(1, 2, 3)).max() < 1e-5  # one offset for all pixels and channels
    assert 0.36 < np.abs(offsets).max() <= 0.4001
    images, _, image, _ = many(300, contrast=0.5)
    np.testing.assert_allclose(np.mean(images, (1, 2)), np.tile(np.mean(image, (0, 1)), (300, 1)), atol=1e-5)
    factors = np.std(images, (1, 2)) / np.std(image, (0, 1))
    assert 1 / 1.5001 <= factors.min() < 0.72
    assert 1.4 < factors.max() <= 1.5001
    images, _, image, _ = many(300, noise=0.3)
    spread = np.std(images - image[None], (1, 2, 3))
    assert np.abs(np.mean(images - image[None])) < 0.01
    assert spread.min() < 0.05 and 0.27 < spread.max() < 0.33
    images, _, image, _ = many(16, gamma=0.5)
    for bound in (np.min, np.max):
        np.testing.assert_allclose(bound(images, (1, 2)), np.tile(bound(image, (0, 1)), (16, 1)), atol=1e-5)


def test_gamma_equals_numpy():
    image, _ = example()
    x = np.asarray(image, np.float64)
    low, span = x.min((0, 1)), np.ptp(x, axis=(0, 1))
    np.testing.assert_allclose(power(image, jnp.float32(1.7)), low + span * ((x - low) / span) ** 1.7, atol=1e-5)
    np.testing.assert_array_equal(power(jnp.full((3, 3, 1), -2.0), jnp.float32(1.7)), np.full((3, 3, 1), -2.0))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_blur_equals_scipy(sigma):
    image, _ = example(5, (18, 11))
    want = ndimage.gaussian_filter(np.asarray(image, np.float64), sigma, mode="mirror", radius=6, axes=(0, 1))
    np.testing.assert_allclose(gaussian(image, jnp.float32(sigma), 6), want, atol=1e-5)
    np.testing.assert_array_equal(gaussian(image, jnp.float32(0), 6), image)


def test_probability_is_the_share_that_changes():
    for options in ({"rotate": 20.0}, {"elastic": 4.0}, {"noise": 0.2}):
        images, _, image, _ = many(300, probability=0.25, **options)
        changed = (np.abs(np.asarray(images - image[None])) > 1e-6).any((1, 2, 3))
        assert 0.15 < changed.mean() < 0.36


def test_options_draw_from_streams_of_their_own():
    image, label = example()
    alone = augment(KEY, image, label, flip=True, rotate=20.0)[1]
    np.testing.assert_array_equal(augment(KEY, image, label, flip=True, rotate=20.0, **GREY)[1], alone)


def test_a_key_decides_all_whatever_the_batch_and_devices():
    options = {**SPATIAL, **GREY}
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(8, 16, 16, 1)).astype(np.float32))
    labels = jnp.asarray(rng.integers(0, 3, (8, 16, 16)).astype(np.int32))
    row_keys = keys.rows(KEY, 8)
    run = jax.jit(jax.vmap(lambda k, x, y: augment(k, x, y, **options)))
    whole, whole_labels = run(row_keys, images, labels)
    single = jax.jit(lambda k, x, y: augment(k, x, y, **options))
    for i in (0, 5):
        one, one_label = single(row_keys[i], images[i], labels[i])
        np.testing.assert_allclose(whole[i], one, atol=1e-5)
        np.testing.assert_array_equal(whole_labels[i], one_label)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    split, split_labels = run(*jax.device_put((row_keys, images, labels), rows))
    assert len(split.sharding.device_set) == 8
    np.testing.assert_allclose(split, whole, atol=1e-6)
    np.testing.assert_array_equal(split_labels, whole_labels)
    assert not np.allclose(whole[0], whole[1])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rotate": -1.0}, "augment.rotate=-1.0"),
        ({"noise": float("nan")}, "augment.noise=nan"),
        ({"probability": 1.5}, "augment.probability=1.5"),
        ({"elastic_grid": 1}, "at least 2 nodes"),
    ],
)
def test_bad_options_are_named(options, says):
    with pytest.raises(InputError, match=says):
        augment(KEY, *example(), **options)


def test_shapes_must_fit():
    with pytest.raises(InputError, match="24x20 is not square"):
        augment(KEY, *example(shape=(24, 20)), turn=True)
    image, label = example(shape=(24, 20))
    got, _ = augment(KEY, image, label, flip=True, rotate=10.0)
    assert got.shape == image.shape
