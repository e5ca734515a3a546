"""The made landscape: any window is a piece of the whole, all NLCD classes are in it, and a pixel alone does not tell its class."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier

from common.errors import InputError
from unet.landcover.legend import NLCD_CONUS
from unet.landcover.made import made_scene, made_window, write_made
from unet.landcover.noise import gradient_noise, layer_of, upsample
from unet.tiling import read_tile


@pytest.fixture(scope="module")
def whole():
    return made_window(3, -150, -90, 400, 420)


@settings(max_examples=25, deadline=None)
@given(row=st.integers(0, 399), col=st.integers(0, 419), height=st.integers(1, 130), width=st.integers(1, 130))
@example(149, 89, 1, 1)
@example(0, 0, 3, 420)
def test_any_window_is_a_piece_of_the_whole(whole, row, col, height, width):
    height, width = min(height, 400 - row), min(width, 420 - col)
    image, codes = made_window(3, row - 150, col - 90, height, width)
    window = np.s_[row : row + height, col : col + width]
    np.testing.assert_array_equal(codes, whole[1][window])
    np.testing.assert_array_equal(image, whole[0][window])


def test_far_away_too():
    image, codes = made_window(3, 19_000, 19_500, 300, 200)
    part, part_codes = made_window(3, 19_101, 19_533, 60, 70)
    np.testing.assert_array_equal(part, image[101:161, 33:103])
    np.testing.assert_array_equal(part_codes, codes[101:161, 33:103])


def test_bands_and_seeds():
    image, codes = made_scene(5, 90, 80)
    assert image.shape == (90, 80, 6) and image.dtype == np.uint16 and codes.dtype == np.uint8
    few, _ = made_scene(5, 90, 80, bands=2)
    np.testing.assert_array_equal(few, image[..., :2])
    for other in (6, 5 + 2**32, -5):
        assert (made_scene(other, 90, 80)[0] != image).mean() > 0.5
    with pytest.raises(InputError, match="7 bands"):
        made_scene(5, 90, 80, bands=7)


def test_every_class_is_there_and_known():
    _, codes = made_scene(0, 1200, 1200, bands=1)
    found, counts = np.unique(codes, return_counts=True)
    assert set(found) == set(NLCD_CONUS.codes) - {12}
    assert (counts / codes.size).max() < 0.4
    joined = (codes[1:] == codes[:-1]).mean()
    assert joined > 0.93  # patches, not salt and pepper


def test_the_sensor_sees_plants_and_water():
    """Reflectance as Landsat writes it: plausible, water dark in the near infrared, crops and forests green."""
    image, codes = made_scene(1, 500, 500)
    reflectance = image * 2.75e-5 - 0.2
    assert reflectance.min() > -0.02 and reflectance.max() < 0.7
    red, nir = reflectance[..., 2], reflectance[..., 3]
    ndvi = (nir - red) / (nir + red)
    assert ndvi[codes == 11].mean() < 0 < 0.6 < ndvi[codes == 41].mean()
    assert ndvi[codes == 42].mean() > ndvi[codes == 52].mean() > 0.2


def test_a_pixel_alone_does_not_tell_its_class():
    """A forest of trees agrees more with the codes when it sees the means of windows as well: place and texture count."""
    image, codes = made_scene(2, 600, 900)
    padded = np.pad(image.astype(np.float64), [(7, 7), (7, 7), (0, 0)], "reflect")
    sums = np.pad(padded.cumsum(0).cumsum(1), [(1, 0), (1, 0), (0, 0)])
    means = (sums[15:, 15:] - sums[:-15, 15:] - sums[15:, :-15] + sums[:-15, :-15]) / 225
    rng = np.random.default_rng(0)
    train, test = (np.stack([rng.integers(0, 600, 4000), rng.integers(a, a + 430, 4000)]) for a in (0, 470))
    scores = []
    for features in (image, np.concatenate([image, means], -1)):
        forest = RandomForestClassifier(40, random_state=0, n_jobs=1).fit(features[*train], codes[*train])
        scores.append(forest.score(features[*test], codes[*test]))
    assert 0.4 < scores[0] < 0.85 and scores[1] > scores[0] + 0.03


def test_noise_is_smooth_and_linear_between_nodes():
    y, x = np.meshgrid(np.arange(200) / 4.0, np.arange(160) / 4.0, indexing="ij")
    noise = gradient_noise(y, x, 10, layer_of(0, 0))
    assert 0.2 < noise.std() < 0.6 and abs(noise.mean()) < 0.1 and np.abs(np.diff(noise, axis=0)).max() < 0.15
    nodes = noise[:20, :30]
    got = upsample(nodes, 4, 3, 5, 60, 90)
    row, col = (np.arange(3, 63) / 4)[:, None], (np.arange(5, 95) / 4)[None]
    i, j = np.floor(row).astype(int), np.floor(col).astype(int)
    a, b = row - i, col - j
    top, bottom = nodes[i, j] * (1 - b) + nodes[i, j + 1] * b, nodes[i + 1, j] * (1 - b) + nodes[i + 1, j + 1] * b
    np.testing.assert_allclose(got, top * (1 - a) + bottom * a, atol=1e-6)


def test_files_hold_the_scene(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    paths = tmp_path / "image.tif", tmp_path / "codes.tif"
    write_made(*paths, 4, 700, 530)
    image, codes = made_scene(4, 700, 530)
    with rasterio.open(paths[0]) as file:
        np.testing.assert_array_equal(file.read().transpose(1, 2, 0), image)
        assert file.profile["tiled"] and file.crs.to_epsg() == 32615 and file.descriptions[3] == "nir"
        transform = file.transform
    with rasterio.open(paths[1]) as file:
        np.testing.assert_array_equal(file.read(1), codes)
        assert file.nodata == 0 and file.transform == transform
    assert sorted(x.name for x in tmp_path.iterdir()) == ["codes.tif", "image.tif"]
    np.testing.assert_array_equal(read_tile(codes, 500, 500, 30, 30), made_window(4, 500, 500, 30, 30)[1])


def test_no_file_where_none_can_be(tmp_path):
    pytest.importorskip("rasterio")
    with pytest.raises(InputError, match="cannot be written"):
        write_made(tmp_path / "absent" / "image.tif", tmp_path / "codes.tif", 0, 40, 40)
    assert not list(tmp_path.iterdir())
