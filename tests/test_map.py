"""Land-cover maps: the tiled map is the whole image's, whatever the tiles, shards and stops; what rasterio reads back."""

import dataclasses
import threading
import time
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from affine import Affine
from scipy import ndimage

rasterio = pytest.importorskip("rasterio")
from rio_cogeo.cogeo import cog_validate  # noqa: E402

from common.errors import InputError  # noqa: E402
from experiments import predict  # noqa: E402
from tests.map_stub import model, scene  # noqa: E402
from unet.landcover import blend as blending  # noqa: E402
from unet.landcover import cog, parts  # noqa: E402
from unet.landcover import map as maps  # noqa: E402
from unet.landcover.legend import NLCD_CONUS, NODATA, ZION8, LandClass, Legend  # noqa: E402
from unet.model import UNet, output_size  # noqa: E402
from unet.tiling import plan, read_tile  # noqa: E402

SAME = {"tile": 32, "out": 32, "overlap": 4, "align": 1}
CODES = np.array(ZION8.codes, np.uint8)


def pixels(path):
    with rasterio.open(path) as file:
        return file.read()


def map_of(subject, output, **changes):
    """Bands of the files of a map, by their ending."""
    written = maps.predict_map(model, subject, output, ZION8, **{**SAME, **changes})
    return {path.stem.removeprefix("made"): pixels(path) for path in written}


def everything(subject):
    return subject.read(0, 0, subject.height, subject.width)


def test_valid_mode_is_the_whole_image_bit_for_bit(tmp_path):
    subject = scene(83, 101)
    net = UNet(depth=2, width=4, padding="valid", norm="none", bands=2, classes=16)
    tile, side = 60, 156
    out = output_size(tile, 2, "valid")
    margin = (tile - out) // 2
    assert output_size(side, 2, "valid") > 101
    variables = net.init(jax.random.key(0), jnp.zeros((1, tile, tile, 2)))
    apply = jax.jit(lambda x: jax.nn.softmax(net.apply(variables, x)))
    image, valid = everything(subject)
    whole = np.asarray(apply(read_tile(image, -margin, -margin, side, side)[None]))[0, :83, :101]
    settings = {"tile": tile, "out": out, "overlap": 0, "align": 4, "batch_size": 3}
    written = maps.predict_map(apply, subject, tmp_path, NLCD_CONUS, **settings, confidence=True, probabilities=True)
    classes, confidence, probabilities = (pixels(path) for path in written)
    expected = np.where(valid, np.array(NLCD_CONUS.codes)[whole.argmax(-1)], NLCD_CONUS.nodata)
    np.testing.assert_array_equal(classes[0], expected)
    assert len(np.unique(expected)) > 3
    percent = 100 * np.moveaxis(whole, -1, 0)
    assert (
        np.abs(probabilities - percent)[:, valid].max() <= 0.5 + 1e-3
    )  # 1e-5 of a probability, and what rounding takes
    assert np.abs(confidence[0] - percent.max(0))[valid].max() <= 0.5 + 1e-3
    assert (confidence[0][~valid] == 255).all() and (probabilities[:, ~valid] == 255).all()


@pytest.mark.parametrize("shape", [(150, 70), (20, 90), (20, 9)])
def test_gaussian_blending_is_the_weighted_mean_of_all_tiles(tmp_path, shape):
    subject = scene(*shape, holes=min(shape) > 40)
    image, valid = everything(subject)
    place = np.arange(32) - 15.5
    weight = np.exp(-0.5 * (place / 4) ** 2)
    weight = (weight[:, None] * weight)[..., None]
    total, norm = np.zeros((*shape, 8)), np.zeros((*shape, 1))
    for row in plan(shape[0], 32, 32, 8):
        for column in plan(shape[1], 32, 32, 8):
            tile = np.asarray(model(read_tile(image, row.start_in, column.start_in, 32, 32)[None]))[0]
            y, x = (np.arange(32) + span.start_in for span in (row, column))
            inside = np.ix_((y >= 0) & (y < shape[0]), (x >= 0) & (x < shape[1]))
            target = np.ix_(y[(y >= 0) & (y < shape[0])], x[(x >= 0) & (x < shape[1])])
            total[target] += (weight * tile)[inside]
            norm[target] += weight[inside]
    expected = 100 * np.moveaxis(total / norm, -1, 0)
    found = map_of(subject, tmp_path, blend="gaussian", overlap=0, probabilities=True, batch_size=3)
    assert np.abs(found["_probabilities"] - expected)[:, valid].max() <= 0.5 + 1e-3
    sure = valid & (np.diff(np.sort(expected, axis=0), axis=0)[-1] > 1e-3)
    np.testing.assert_array_equal(found[""][0][sure], CODES[expected.argmax(0)][sure])
    assert sure.mean() > 0.8 and (found[""][0][~valid] == 0).all()
    if shape[0] == 150:
        assert len(blending.plan_parts(150, tiling(blend="gaussian", overlap=0))) > 1


@pytest.mark.parametrize(
    ("blend", "overlap"), [("cut", 0), ("cut", 5), ("gaussian", 0), ("gaussian", 5), ("gaussian", 11)]
)
def test_what_every_tile_says_the_map_says(tmp_path, blend, overlap):
    """The weights of blended tiles sum to one, at any size: also where there is one tile, or one more than a part holds."""
    percent = np.array([3, 22, 13, 31, 9, 11, 7, 4])
    constant = jax.jit(lambda x: jnp.broadcast_to(jnp.asarray(percent / 100, jnp.float32), (*x.shape[:3], 8)))
    settings = {**SAME, "blend": blend, "overlap": overlap, "probabilities": True, "confidence": True}
    for number, shape in enumerate([(1, 1), (1, 70), (31, 33), (32, 32), (48, 47), (161, 20)]):
        subject = scene(*shape, holes=False)
        written = maps.predict_map(constant, subject, tmp_path / str(number), ZION8, **settings)
        classes, confidence, probabilities = (pixels(path) for path in written)
        assert classes.shape[1:] == shape
        assert (classes == CODES[3]).all() and (confidence == 31).all()
        assert (probabilities == percent[:, None, None]).all()


@pytest.mark.parametrize("blend", ["cut", "gaussian"])
@pytest.mark.parametrize("shape", [(100, 90), (33, 150)])
def test_what_a_tile_says_at_its_edges_is_not_heard(tmp_path, blend, shape):
    """A network that is wrong within 4 px of the edges of its input is wrong at the image's own edges alone."""
    place = np.arange(32)
    near = (place < 4) | (place >= 28)
    wrong = jnp.asarray((near[:, None] | near).astype(np.float32))[..., None]
    answer = jnp.concatenate([1 - wrong, wrong, jnp.zeros((32, 32, 6))], -1)
    deaf = jax.jit(lambda x: jnp.broadcast_to(answer, (len(x), *answer.shape)))
    overlap = 4 if blend == "cut" else 0
    found = maps.predict_map(
        deaf, scene(*shape, holes=False), tmp_path, ZION8, **{**SAME, "blend": blend, "overlap": overlap}
    )
    expected = np.full(shape, CODES[1])
    expected[4:-4, 4:-4] = CODES[0]
    np.testing.assert_array_equal(pixels(found[0])[0], expected)


def tiling(**changes):
    settings = {**SAME, "batch_size": 1, "blend": "cut", "classes": 8, "confidence": False, "probabilities": False}
    return blending.Tiling(**{**settings, **changes})


@pytest.mark.parametrize("blend", ["cut", "gaussian"])
def test_shards_merge_to_the_bytes_of_one_run(tmp_path, blend):
    subject = scene(330, 61)
    settings = {"blend": blend, "confidence": True, "batch_size": 3}
    map_of(subject, tmp_path / "one", **settings)
    for i in (3, 1, 2):
        assert map_of(subject, tmp_path / "shards", shard=(i, 3), **settings) == {}
    assert not list((tmp_path / "shards").glob("*.tif"))
    calls = []
    refuse = lambda x: calls.append(x)
    written = maps.predict_map(refuse, subject, tmp_path / "shards", ZION8, **SAME, **settings)
    assert not calls and [path.name for path in written] == ["made.tif", "made_confidence.tif"]
    for path in written:
        assert path.read_bytes() == (tmp_path / "one" / path.name).read_bytes()
    assert sorted((tmp_path / "shards").iterdir()) == sorted(written)


def test_a_map_is_cloud_optimised_and_says_what_it_is(tmp_path):
    subject = scene(700, 530)
    found = maps.predict_map(
        model, subject, tmp_path, ZION8, **{**SAME, "tile": 256, "out": 256}, confidence=True, probabilities=True
    )
    for path in found:
        assert cog_validate(path, quiet=True)[:3] == (True, [], [])
        with rasterio.open(path) as file:
            assert (file.crs, file.transform) == (subject.crs, subject.transform)
            assert (file.height, file.width) == (700, 530)
            assert file.compression.name == "deflate" and file.overviews(1)
            assert file.nodata == (255 if "_" in path.stem else 0)
            assert file.count == (8 if "probabilities" in path.stem else 1)
    with rasterio.open(found[0]) as file:
        colours = file.colormap(1)
        assert [colours[code][:3] for code in ZION8.codes] == list(ZION8.colours)
        assert file.tags(1)["class_1"] == ZION8.names[0]
    with rasterio.open(found[2]) as file:
        assert [text.split(",")[0] for text in file.descriptions] == [name.split(",")[0] for name in ZION8.names]


def test_codes_above_a_byte_keep_their_colours(tmp_path):
    classes = [LandClass(300 + i, f"class {i}", (i, 10 * i, 200), "all") for i in range(8)]
    path = maps.predict_map(model, scene(40, 40), tmp_path, Legend("wide", tuple(classes)), **SAME)[0]
    with rasterio.open(path) as file:
        assert file.dtypes == ("uint16",)
        assert file.colormap(1)[307][:3] == (7, 70, 200)
        values = set(np.unique(file.read(1)))
    assert values <= {0, *range(300, 308)} and len(values) > 3
    assert cog_validate(path, quiet=True)[0]


@pytest.mark.parametrize("blend", ["cut", "gaussian"])
def test_tiles_without_a_valid_pixel_are_not_predicted(tmp_path, blend):
    subject = scene(200, 200, holes=False)
    subject.valid[:, 100:] = False
    calls = []
    counted = lambda x: (calls.append(len(x)), model(x))[1]
    path = maps.predict_map(counted, subject, tmp_path / "a", ZION8, **{**SAME, "blend": blend})[0]
    assert (pixels(path)[0][:, 100:] == 0).all() and (pixels(path)[0][:, :100] != 0).all()
    every, half = len(calls), calls.copy()
    subject.valid[:] = True
    calls.clear()
    maps.predict_map(counted, subject, tmp_path / "b", ZION8, **{**SAME, "blend": blend})
    assert every < 0.7 * len(calls) and half
    subject.valid[:] = False
    calls.clear()
    path = maps.predict_map(counted, subject, tmp_path / "c", ZION8, **{**SAME, "blend": blend})[0]
    assert not calls and (pixels(path) == 0).all()


class Counted:
    """A scene that knows how many of the tiles it gave are still held; `slow` for the network, not for reading."""

    def __init__(self, inner):
        self.inner, self.alive, self.most, self.lock = inner, 0, 0, threading.Lock()

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def read(self, *window):
        image, valid = self.inner.read(*window)
        with self.lock:
            self.alive += 1
            self.most = max(self.most, self.alive)
        weakref.finalize(image, self.gone)
        return image, valid

    def gone(self):
        with self.lock:
            self.alive -= 1


@pytest.mark.parametrize("blend", ["cut", "gaussian"])
def test_tiles_in_memory_do_not_depend_on_the_size(tmp_path, blend):
    def slow(x):
        time.sleep(0.002)  # reading would run away from it
        return model(x)

    most = []
    for number, shape in enumerate([(100, 100), (100, 900), (900, 100)]):
        subject = Counted(scene(*shape))
        maps.predict_map(slow, subject, tmp_path / str(number), ZION8, **{**SAME, "blend": blend, "overlap": 6})
        most.append(subject.most)
    assert max(most) <= 2 + 2 + 2 + 3  # read ahead, in two batches, and in the hands of threads


def blocks(seed=0):
    """Codes in squares of 40 px, with specks and a hole without data."""
    rng = np.random.default_rng(seed)
    large = rng.permutation(np.arange(1, 10))[:9].reshape(3, 3).repeat(40, 0).repeat(40, 1).astype(np.uint8)
    specks = large.copy()
    for _ in range(60):
        y, x = rng.integers(1, 38, 2) + 40 * rng.integers(0, 3, 2)
        specks[y, x] = specks[y, x] % 9 + 1
    large[50:53, 50:53] = specks[50:53, 50:53] = 0
    return large, specks


def sieved(tmp_path, codes, size):
    profile = {"driver": "GTiff", "height": codes.shape[0], "width": codes.shape[1], "count": 1, "dtype": "uint8"}
    profile |= {"nodata": 0, "crs": "EPSG:32612", "transform": Affine.scale(30)}
    with rasterio.open(tmp_path / "in.tif", "w", **profile) as file:
        file.write(codes, 1)
    with rasterio.open(tmp_path / "in.tif") as source, rasterio.open(tmp_path / "out.tif", "w", **profile) as file:
        cog.sieve_windows(source, file, size)
    return pixels(tmp_path / "out.tif")[0]


@pytest.mark.parametrize("chunk", [4096, 32])
def test_the_sieve_takes_specks_and_leaves_the_rest(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(cog, "CHUNK", chunk)
    monkeypatch.setattr(cog, "MARGIN", 8)
    large, specks = blocks()
    assert (large != specks).any()
    np.testing.assert_array_equal(sieved(tmp_path, specks, 5), large)


def test_which_regions_the_sieve_takes_does_not_depend_on_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(cog, "CHUNK", 50)
    monkeypatch.setattr(cog, "MARGIN", 8)
    rng = np.random.default_rng(2)
    codes = rng.integers(1, 4, (60, 60)).repeat(3, 0).repeat(3, 1).astype(np.uint8)
    result = sieved(tmp_path, codes, 20)
    for code in (1, 2, 3):
        regions, _ = ndimage.label(codes == code, np.ones((3, 3)))
        sizes = np.bincount(regions.ravel())[regions]
        kept = (codes == code) & (sizes >= 20)
        assert (result[kept] == code).all()
    assert (result != codes).any()


def test_a_sieved_map_keeps_the_confidence(tmp_path):
    subject = scene(90, 90, holes=False)
    plain = map_of(subject, tmp_path / "plain", confidence=True)
    clean = map_of(subject, tmp_path / "clean", confidence=True, sieve=6)
    np.testing.assert_array_equal(clean["_confidence"], plain["_confidence"])
    regions = lambda x: sum(ndimage.label(x == code)[1] for code in ZION8.codes)
    assert regions(clean[""][0]) < 0.5 * regions(plain[""][0])


def refused(match, subject, output, apply=model, legend=ZION8, **changes):
    with pytest.raises(InputError, match=match) as error:
        maps.predict_map(apply, subject, output, legend, **{**SAME, **changes})
    assert "\n" not in str(error.value)
    assert not list(output.glob("*.tif")) if output.is_dir() else True


def test_options_that_do_not_fit_are_refused_before_anything_is_written(tmp_path):
    subject, out = scene(40, 40), tmp_path / "out"
    refused("no CRS", dataclasses.replace(subject, crs=None), out)
    refused("use 'cut' or 'gaussian'", subject, out, blend="mean")
    refused("needs no blending", subject, out, blend="gaussian", out=28)
    refused("--shard 4/3", subject, out, shard=(4, 3))
    refused("--shard 0/3", subject, out, shard=(0, 3))
    refused("--sieve -1", subject, out, sieve=-1)
    refused("too small", subject, out, overlap=16)
    assert not out.exists()
    refused("the model gives", subject, out, legend=NLCD_CONUS)
    (tmp_path / "file").write_text("no folder")
    refused("cannot be written", subject, tmp_path / "file")
    refused("cannot be written", subject, tmp_path / "file" / "inside")


def test_a_file_of_somebody_else_is_not_replaced_and_ones_own_is(tmp_path):
    (tmp_path / "made.tif").write_bytes(b"a letter")
    with pytest.raises(InputError, match="was not made by predict"):
        map_of(scene(40, 40), tmp_path)
    assert (tmp_path / "made.tif").read_bytes() == b"a letter"
    (tmp_path / "made.tif").unlink()
    first = map_of(scene(40, 40), tmp_path)
    second = map_of(scene(40, 40, seed=3), tmp_path)
    assert (first[""] != second[""]).any()


def test_parts_of_another_map_are_refused_with_the_difference(tmp_path):
    subject = scene(120, 40)
    map_of(subject, tmp_path, shard=(1, 2), made_of={"step": 10})
    refused("step 10, now 11", subject, tmp_path, made_of={"step": 11})
    refused("overlap 4, now 5", subject, tmp_path, made_of={"step": 10}, overlap=5)
    (tmp_path / ".made.parts" / parts.MANIFEST).write_text("{")
    refused("remove the folder", subject, tmp_path, made_of={"step": 10})


class Torn(Counted):
    """A scene whose file ends early."""

    def read(self, row, *window):
        if row > 150:
            raise InputError("scene.tif: cannot be read, broken or truncated; replace or remove it")
        return self.inner.read(row, *window)


def test_an_input_that_breaks_leaves_the_finished_parts_and_no_map(tmp_path):
    subject = scene(300, 40)
    refused("broken or truncated", Torn(subject), tmp_path / "a")
    folder = tmp_path / "a" / ".made.parts"
    kept = list(folder.glob("0*.tif"))
    assert kept and not list(folder.glob(".0*"))  # nothing half-written stays
    map_of(subject, tmp_path / "a"), map_of(subject, tmp_path / "b")
    assert (tmp_path / "a/made.tif").read_bytes() == (tmp_path / "b/made.tif").read_bytes()


def test_a_part_without_one_of_its_pieces_gets_no_name(tmp_path, monkeypatch):
    """The disk is full for a moment: the pieces after that are not written as if nothing were missing."""
    written, write = [], rasterio.io.DatasetWriter.write

    def full(self, *values, **where):
        written.append(where)
        if len(written) == 2:
            raise OSError("no space left on device")
        return write(self, *values, **where)

    monkeypatch.setattr(rasterio.io.DatasetWriter, "write", full)
    refused("no space left", scene(30, 120), tmp_path)
    assert [path.name for path in (tmp_path / ".made.parts").iterdir()] == [parts.MANIFEST]


def test_a_broken_part_is_named(tmp_path):
    subject = scene(120, 40)
    map_of(subject, tmp_path, shard=(1, 2))
    map_of(subject, tmp_path, shard=(2, 2))
    part = tmp_path / ".made.parts" / "00001.tif"
    part.write_bytes(part.read_bytes()[:200])
    refused("00001.tif: cannot be read", subject, tmp_path)


def test_masked_values_say_nothing():
    values = np.ones((3, 2, 2), np.uint8)
    result = blending.masked(values, np.array([[True, False], [True, True]]))
    assert result[0, 0, 1] == NODATA and (result[1:, 0, 1] == 255).all() and (result != 1).sum() == 3


def test_a_flag_that_a_task_does_not_know_is_refused():
    known = lambda apply, paths, output, *, probabilities=False, shard=(1, 1), sieve=0: []
    flags = lambda **given: predict.argparse.Namespace(**{"shard": None, "confidence": False, "sieve": None, **given})
    assert predict.options(flags(), known, "t") == {}
    assert predict.options(flags(shard=(2, 3), sieve=0), known, "t") == {"shard": (2, 3), "sieve": 0}
    with pytest.raises(InputError, match="--confidence: the task of this run, 't'"):
        predict.options(flags(confidence=True), known, "t")
    assert predict.shard("2/3") == (2, 3)
    for text in ("0/3", "4/3", "2", "a/b", "-1/3"):
        with pytest.raises(predict.argparse.ArgumentTypeError, match="I/N"):
            predict.shard(text)
