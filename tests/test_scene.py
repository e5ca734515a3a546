"""Scenes: windows, scaling, indices, masks and warped labels against NumPy; real files."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scene_files import ABC, PLACE, PLAIN, UTM, draw, write
from unet.images import IGNORE
from unet.landcover.geo import HANDLES, OPEN_FILES
from unet.landcover.legend import NLCD, NODATA, ZION8, LandClass, make_legend
from unet.landcover.scene import array_scene, open_scene

rasterio = pytest.importorskip("rasterio")
from rasterio.transform import Affine  # noqa: E402
from rasterio.warp import transform as transform_points  # noqa: E402

# Windows


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    start=st.tuples(st.integers(-20, 20), st.integers(-20, 20)),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_any_window_is_that_of_the_mirrored_array(shape, start, size):
    image = draw(0, *shape, 2).astype(np.float32)
    labels = draw(1, *shape, dtype=np.uint8, high=4)
    valid = draw(2, *shape, high=5) > 1
    valid[0, 0] = labels[0, 0] = 1
    scene = array_scene("a", image, labels, crs=None, transform=None, valid=valid, rgb=(0, 0, 0))
    around = [(50, 50), (50, 50)]
    window = tuple(slice(50 + a, 50 + a + n) for a, n in zip(start, size, strict=True))
    got, good = scene.read(*start, *size)
    np.testing.assert_array_equal(good, np.pad(valid, around, "reflect")[window])
    whole = np.pad(np.where(valid[..., None], image, 0), [*around, (0, 0)], "reflect")
    np.testing.assert_array_equal(got, whole[window])
    expected = np.pad(np.where(valid, labels, IGNORE), around, "reflect")[window]
    np.testing.assert_array_equal(scene.read_labels(*start, *size), expected)
    np.testing.assert_array_equal(scene.read_labels(*start, *size, good), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("tiled", [False, True])
def test_windows_of_a_stack(tmp_path, dtype, tiled):
    bands = draw(3, 3, 80, 100, dtype=dtype, high=120)
    bands[1, 20:30, 40:50] = 7
    options = {"tiled": True, "blockxsize": 32, "blockysize": 16, "compress": "deflate"} if tiled else {}
    path = write(tmp_path / "stack.tif", bands, nodata=7, **options)
    scene = open_scene(path, **PLAIN)
    assert (scene.name, scene.height, scene.width, scene.bands) == ("stack", 80, 100, 3)
    assert scene.crs == rasterio.CRS.from_user_input(UTM) and scene.transform == PLACE
    valid = (bands != 7).all(0)
    whole = np.where(valid[..., None], bands.transpose(1, 2, 0), 0).astype(np.float32)
    padded = np.pad(whole, [(30, 30), (30, 30), (0, 0)], "reflect")
    for row, col, height, width in [(0, 0, 80, 100), (11, 33, 17, 41), (-30, -30, 140, 160), (70, 90, 25, 30)]:
        image, good = scene.read(row, col, height, width)
        assert image.dtype == np.float32 and image.shape == (height, width, 3)
        np.testing.assert_array_equal(image, padded[30 + row : 30 + row + height, 30 + col : 30 + col + width])
        inside = np.pad(valid, 30, "reflect")[30 + row : 30 + row + height, 30 + col : 30 + col + width]
        np.testing.assert_array_equal(good, inside)
    assert (scene.read_labels(0, 0, 5, 5) == NODATA).all() and not scene.labelled


def test_nan_and_float_nodata(tmp_path):
    bands = draw(4, 2, 20, 20).astype(np.float32)
    bands[0, 3, 4], bands[1, 5, 6], bands[1, 7, 8] = np.nan, np.inf, -3.4028234663852886e38
    path = write(tmp_path / "f.tif", bands, nodata=-3.4028234663852886e38)
    image, valid = open_scene(path, **PLAIN).read(0, 0, 20, 20)
    assert {tuple(x) for x in np.argwhere(~valid).tolist()} == {(3, 4), (5, 6), (7, 8)}
    assert np.isfinite(image).all() and (image[~valid] == 0).all()


def test_masks_and_alpha_are_no_bands(tmp_path):
    bands = draw(5, 3, 30, 30, dtype=np.uint8, high=200)
    there = draw(6, 30, 30, high=5) > 1
    masked = write(tmp_path / "mask.tif", bands, mask=there)
    alpha = np.concatenate([bands, np.where(there, 255, 0).astype(np.uint8)[None]])
    alpha = write(tmp_path / "alpha.tif", alpha, photometric="RGB", alpha="yes")
    for path in (masked, alpha):
        scene = open_scene(path, **PLAIN)
        image, valid = scene.read(3, 4, 20, 21)
        assert scene.bands == 3
        np.testing.assert_array_equal(valid, there[3:23, 4:25])
        np.testing.assert_array_equal(image, np.where(valid[..., None], bands.transpose(1, 2, 0)[3:23, 4:25], 0))


def test_bands_of_several_files_meet_in_their_intersection(tmp_path):
    whole = draw(7, 3, 60, 70)
    for band, (top, left, bottom, right), name in zip(
        whole, [(0, 0, 50, 60), (5, 3, 60, 70), (2, 7, 55, 66)], ("B1", "B2", "B10"), strict=True
    ):
        transform = PLACE @ Affine.translation(left, top)
        write(tmp_path / f"{name}.tif", band[top:bottom, left:right], transform=transform)
    scene = open_scene(tmp_path, image=("B*.tif",), **PLAIN)
    assert scene.band_names == ("B1", "B2", "B10") and (scene.height, scene.width) == (45, 53)
    assert scene.transform == PLACE @ Affine.translation(7, 5)
    np.testing.assert_array_equal(scene.read(0, 0, 45, 53)[0], whole.transpose(1, 2, 0)[5:50, 7:60])
    turned = open_scene(tmp_path, image=("B10.tif", "B1.tif"), **PLAIN)
    assert turned.band_names == ("B10", "B1")
    np.testing.assert_array_equal(turned.read(1, 2, 3, 4)[0], whole[[2, 0]].transpose(1, 2, 0)[3:6, 9:13])


def test_memory_is_that_of_the_window(tmp_path):
    options = {"driver": "GTiff", "count": 4, "height": 30000, "width": 30000, "dtype": "uint16", "tiled": True}
    path = tmp_path / "large.tif"
    with rasterio.open(path, "w", crs=UTM, transform=PLACE, sparse_ok=True, bigtiff="yes", **options):
        pass
    with rasterio.open(tmp_path / "codes.tif", "w", crs=UTM, transform=PLACE, **options | {"count": 1}, sparse_ok=True):
        pass
    zero = make_legend("zero", [LandClass(0, "zero", (0, 0, 0), "zero")])
    tracemalloc.start()
    scene = open_scene(path, labels="codes.tif", legend=zero, **PLAIN)
    scene.read(29000, -100, 500, 500)
    scene.read_labels(29000, -100, 500, 500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6  # the raster: 7.2e9


def test_threads_read_the_same(tmp_path):
    bands, codes = draw(8, 3, 200, 210), np.array(ABC.codes, np.uint8)[draw(9, 200, 210, low=0, high=3)]
    path = write(tmp_path / "stack.tif", bands, compress="deflate", tiled=True, blockxsize=64, blockysize=64)
    write(tmp_path / "labels.tif", codes, compress="deflate", transform=PLACE @ Affine.scale(1.01))
    scene = open_scene(path, labels="labels.tif", legend=ABC)
    places = [(int(a), int(b), 40, 50) for a, b in np.random.default_rng(0).integers(-30, 200, (200, 2))]
    alone = [(*scene.read(*p), scene.read_labels(*p)) for p in places]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda p: (*scene.read(*p), scene.read_labels(*p)), places))
    for a, b in zip(alone, together, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_hundreds_of_scenes_hold_few_files_open(tmp_path):
    image = draw(22, 1, 20, 20)
    scenes = [open_scene(write(tmp_path / f"{i}.tif", image + i), **PLAIN) for i in range(OPEN_FILES + 8)]
    for _ in range(2):
        for i, scene in enumerate(scenes):
            np.testing.assert_array_equal(scene.read(0, 0, 20, 20)[0][..., 0], image[0] + i)
    assert len(HANDLES.opened) == OPEN_FILES


# Scaling and indices


def test_scalings(tmp_path):
    bands = draw(10, 3, 50, 40, high=9000)
    bands[:, :10] = 0
    path = write(tmp_path / "s.tif", bands, nodata=0)
    raw, valid = bands.transpose(1, 2, 0).astype(np.float64), bands[0] > 0
    ends = np.percentile(raw[valid], [5, 90], axis=0)
    gain, offset = (2.0, 3.0, 4.0), (10.0, 20.0, 30.0)
    for options, expected in [
        ({"percentiles": (5, 90)}, 2 * (raw - ends[0]) / (ends[1] - ends[0]) - 1),
        ({"scaling": "given", "gain": gain, "offset": offset}, (raw - offset) / gain),
        ({"scaling": "reflectance", "gain": (2.75e-5,), "offset": (-0.2,)}, raw * 2.75e-5 - 0.2),
    ]:
        image, good = open_scene(path, **options).read(0, 0, 50, 40)
        np.testing.assert_array_equal(good, valid)
        np.testing.assert_allclose(image, np.where(valid[..., None], expected, 0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scaling", ["percentiles", "reflectance"])
def test_indices(tmp_path, scaling):
    bands = draw(11, 4, 30, 30, low=8000, high=30000)
    path = write(tmp_path / "s.tif", bands)
    roles = {"green": 0, "red": 1, "nir": 2, "swir": 3}
    options = {"gain": (2.75e-5,), "offset": (-0.2,)} if scaling == "reflectance" else {}
    scene = open_scene(path, scaling=scaling, indices=("ndbi", "ndvi", "ndwi"), roles=roles, **options)
    assert scene.bands == 7 and scene.band_names[4:] == ("NDBI", "NDVI", "NDWI")
    green, red, nir, swir = bands.astype(np.float64) * 2.75e-5 - 0.2 if options else bands.astype(np.float64)
    for place, (a, b) in enumerate([(swir, nir), (nir, red), (green, nir)]):
        expected = np.clip((a - b) / (a + b), -1, 1)
        np.testing.assert_allclose(scene.read(0, 0, 30, 30)[0][..., 4 + place], expected, rtol=1e-4, atol=1e-5)


def test_an_index_of_nothing_is_0():
    image = np.zeros((4, 4, 3), np.uint16)
    scene = array_scene("a", image, crs=None, transform=None, indices=("ndvi",), roles={"red": 0, "nir": 1})
    assert (scene.read(0, 0, 4, 4)[0] == 0).all()


def test_true_colour(tmp_path):
    bands = np.zeros((3, 60, 80), np.uint16)
    bands[0, :, 40:], bands[1, 30:], bands[2] = 900, 500, np.arange(60)[:, None]
    scene = open_scene(write(tmp_path / "s.tif", bands, nodata=59), **PLAIN | {"rgb": (2, 1, 0)})
    picture = scene.rgb(40)
    assert picture.shape == (30, 40, 3) and picture.dtype == np.uint8
    assert picture[0, 0].tolist() == [0, 0, 0] and picture[28, 39].tolist()[1:] == [255, 255]
    assert (np.diff(picture[:29, 0, 0].astype(int)) >= 0).all()
    assert (scene.rgb(1000)[59] == 0).all() and scene.rgb(1000).shape == (60, 80, 3)


# Labels and quality on other grids


def nearest(codes, crs, transform, grid_shape, outside):
    """Codes at the centres of the image's pixels, each looked up on its own."""
    row, col = np.indices(grid_shape) + 0.5
    x, y = PLACE @ (col.ravel(), row.ravel())
    x, y = transform_points(UTM, crs, x, y)
    col, row = ~transform @ (np.array(x), np.array(y))
    row, col = np.floor(row).astype(int), np.floor(col).astype(int)
    inside = (row >= 0) & (col >= 0) & (row < codes.shape[0]) & (col < codes.shape[1])
    found = codes[np.clip(row, 0, codes.shape[0] - 1), np.clip(col, 0, codes.shape[1] - 1)]
    return np.where(inside, found, outside).reshape(grid_shape)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (UTM, Affine(47, 0, 303500, 0, -47, 4153000)),
        ("EPSG:4326", Affine(0.0004, 0, -113.235, 0, -0.0003, 37.508)),
        ("EPSG:26911", Affine(40, 0, 832000, 0, -40, 4160500)),
        ("EPSG:5070", Affine(35, 3, -1501000, 2, -33, 1743500)),
    ],
)
@pytest.mark.parametrize("nodata", [None, 0])
def test_labels_of_another_grid_are_the_nearest_neighbours(tmp_path, crs, transform, nodata):
    codes = np.array([*ABC.codes, 77, 0 if nodata is not None else 3], np.uint8)[draw(12, 130, 140, low=0, high=5)]
    image = draw(13, 1, 150, 160)
    image[0, 40:60, 30:50] = 0
    write(tmp_path / "image.tif", image, nodata=0)
    write(tmp_path / "labels.tif", codes, crs=crs, transform=transform, nodata=nodata)
    scene = open_scene(tmp_path / "image.tif", labels="labels.tif", legend=ABC, ignore=(77,), **PLAIN)
    found = nearest(codes.astype(int), crs, transform, (150, 160), -1)
    assert 0.2 < (found < 0).mean() < 0.8  # the raster covers a part
    table = {3: 0, 5: 1, 9: 2, 77: IGNORE, 0: NODATA, -1: NODATA}
    expected = np.vectorize(table.get)(found)
    expected = np.where((image[0] == 0) & (expected != NODATA), IGNORE, expected)
    whole = scene.read_labels(0, 0, 150, 160)
    np.testing.assert_array_equal(whole, expected)
    padded = np.pad(whole, 40, "reflect")
    for row, col, height, width in [(0, 0, 7, 160), (31, 17, 64, 33), (149, 159, 1, 1), (-40, -13, 60, 100)]:
        window = padded[40 + row : 40 + row + height, 40 + col : 40 + col + width]
        np.testing.assert_array_equal(scene.read_labels(row, col, height, width), window)


def test_labels_that_lie_on_the_image_are_themselves(tmp_path):
    codes = np.array(ABC.codes, np.uint16)[draw(14, 90, 80, low=0, high=3)]
    write(tmp_path / "image.tif", draw(15, 1, 90, 80))
    write(tmp_path / "labels.tif", codes)
    scene = open_scene(tmp_path / "image.tif", labels="labels.tif", legend=ABC, **PLAIN)
    np.testing.assert_array_equal(ABC.to_code(scene.read_labels(0, 0, 90, 80)), codes)


def test_landsat_quality_bits(tmp_path):
    """Each of the 16 bits alone, on pixels of twice the size; the last columns of the image are not judged."""
    quality = (1 << np.arange(16)).astype(np.uint16).reshape(4, 4)
    write(tmp_path / "image.tif", draw(16, 1, 8, 10))
    write(tmp_path / "QA_PIXEL.tif", quality, transform=PLACE @ Affine.scale(2))
    write(tmp_path / "labels.tif", np.full((8, 10), 5, np.uint8))
    options = {"labels": "labels.tif", "legend": ABC, **PLAIN}
    scene = open_scene(tmp_path / "image.tif", quality="*QA_PIXEL*", **options)
    valid = np.repeat(np.repeat((np.arange(16) > 4).reshape(4, 4), 2, 0), 2, 1)
    valid = np.pad(valid, [(0, 0), (0, 2)])
    np.testing.assert_array_equal(scene.read(0, 0, 8, 10)[1], valid)
    np.testing.assert_array_equal(scene.read_labels(0, 0, 8, 10), np.where(valid, 1, IGNORE))
    np.testing.assert_array_equal(scene.read(1, 1, 5, 6)[1], valid[1:6, 1:7])


def test_sentinel_scene_classes_and_what_is_outside(tmp_path):
    write(tmp_path / "image.tif", draw(17, 1, 4, 5))
    write(tmp_path / "SCL.tif", np.arange(12, dtype=np.uint8).reshape(3, 4))
    scene = open_scene(tmp_path / "image.tif", quality="SCL.tif", quality_kind="sentinel2", **PLAIN)
    valid = np.zeros((4, 5), bool)
    valid[:3, :4] = np.isin(np.arange(12).reshape(3, 4), [2, 4, 5, 6, 7, 11])
    np.testing.assert_array_equal(scene.read(0, 0, 4, 5)[1], valid)


# Real files


@pytest.mark.parametrize(("file", "legend", "classes"), [("nlcd.tif", ZION8, 8), ("nlcd2011.tif", NLCD, 14)])
def test_zion(data_root, file, legend, classes):
    folder = data_root / "landsat8-nlcd-zion"
    options = {"labels": file, "legend": legend, "indices": ("ndvi",), "roles": {"red": 2, "nir": 3}}
    scene = open_scene(folder, image=("landsat_b*.tif",), **options)
    assert (scene.height, scene.width, scene.bands) == (1428, 1128, 5)
    image, valid = scene.read(300, 200, 500, 400)
    labels = scene.read_labels(300, 200, 500, 400)
    with rasterio.open(folder / file) as source, rasterio.open(folder / "landsat_b4.tif") as red:
        codes, crs, transform = source.read(1), source.crs, source.transform
        raw = red.read(1)[300:800, 200:600]
    expected = nearest(codes, crs, transform, (1428, 1128), 255)[300:800, 200:600]
    known = labels < NODATA
    np.testing.assert_array_equal(legend.to_code(labels)[known], expected[known])
    assert known.mean() > 0.99 and valid.all() and len(np.unique(codes[codes < 255])) == classes
    assert np.corrcoef(image[..., 2].ravel(), raw.ravel())[0, 1] > 0.9999
    forest = np.isin(np.array(legend.groups)[np.array(legend.group_of)], "Forest")[np.minimum(labels, classes - 1)]
    assert image[forest & known, 4].mean() > image[~forest & known, 4].mean() + 0.05  # NDVI
