"""Prediction of files: what is written equals a thresholding done by hand, and nothing of the user's is replaced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from PIL import Image

from common.errors import InputError
from common.files import find_inputs
from unet import pictures
from unet.images import SUFFIXES
from unet.predict import predict_files

NAMES, COLOURS = ["background", "dark", "bright"], [(0, 0, 0), (10, 200, 30), (250, 100, 0)]


@jax.jit
def apply(x):
    """Three classes by the first band: below 0.25, up to 0.75, above."""
    first = x[..., :1]
    return jax.nn.softmax(40 * jnp.concatenate([0.25 - first, 0 * first, first - 0.75], -1))


def predict(paths, output, **changes):
    settings = {"normalise": "unit", "tile": 16, "out": 16, "overlap": 3, "batch_size": 4, "class_names": NAMES}
    return predict_files(apply, paths, output, colours=COLOURS, **{**settings, **changes})


def by_hand(grey):
    return np.where(grey / 255 < 0.25, 0, np.where(grey / 255 <= 0.75, 1, 2))


def made(shape, seed=0):
    return np.random.default_rng(seed).choice(np.array([10, 40, 90, 150, 210, 250], np.uint8), size=shape)


@pytest.fixture
def unit(monkeypatch):
    """Pixels / 255: the tests here are about tiles and files, not about normalising."""
    monkeypatch.setattr("unet.images.normalise", lambda image, how: np.float32(image) / np.float32(255))


@pytest.mark.parametrize("shape", [(40, 53), (7, 9), (16, 16), (1, 30)])
def test_class_map_overlay_and_probabilities(tmp_path, unit, shape):
    grey = made(shape)
    Image.fromarray(grey).save(tmp_path / "a.png")
    written = predict([tmp_path / "a.png"], tmp_path / "out", probabilities=True)
    assert [p.name for p in written] == ["a.png", "a_overlay.png", "a.npy"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.npy", "a.png", "a_overlay.png"]
    classes = Image.open(written[0])
    assert classes.mode == "P"
    np.testing.assert_array_equal(np.asarray(classes), by_hand(grey))
    np.testing.assert_array_equal(np.asarray(classes.convert("RGB")), np.array(COLOURS, np.uint8)[by_hand(grey)])
    assert Image.open(written[1]).size == shape[::-1] and Image.open(written[1]).mode == "RGB"
    probabilities = np.load(written[2], allow_pickle=False)
    assert probabilities.dtype == np.float16 and probabilities.shape == (*shape, 3)
    np.testing.assert_allclose(probabilities, apply(grey[..., None] / np.float32(255)), atol=1e-3)


def test_multi_band_tiff_and_npy(tmp_path, unit):
    bands = np.random.default_rng(1).uniform(0, 255, (21, 34, 5)).astype(np.float32)
    tifffile.imwrite(tmp_path / "scene.tif", bands, photometric="minisblack", planarconfig="contig")
    np.save(tmp_path / "array.npy", bands)
    predict([tmp_path], tmp_path / "out")
    for name in ("scene", "array"):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"out/{name}.png")), by_hand(bands[..., 0]))
        assert Image.open(tmp_path / f"out/{name}_overlay.png").mode == "RGB"


def test_folders_are_expanded_and_each_file_is_predicted_once(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    found = find_inputs([tmp_path / "b.png", tmp_path], SUFFIXES, "images")
    assert [p.name for p in found] == ["b.png", "a.JPG"]


def test_predicting_again_replaces_its_own_files(tmp_path, unit):
    Image.fromarray(made((20, 20))).save(tmp_path / "a.png")
    predict([tmp_path / "a.png"], tmp_path / "out", probabilities=True)
    other = made((30, 20), seed=1)
    Image.fromarray(other).save(tmp_path / "a.png")
    predict([tmp_path / "a.png"], tmp_path / "out", probabilities=True)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/a.png")), by_hand(other))


def refused(match, paths, output, **changes):
    """The refusal is one line with `match` in it, and the folder looks as before."""
    before = sorted(output.iterdir()) if output.is_dir() else output.exists()
    with pytest.raises(InputError, match=match) as error:
        predict(paths, output, **changes)
    assert "\n" not in str(error.value)
    assert before == (sorted(output.iterdir()) if output.is_dir() else output.exists())


def test_bad_input_is_refused_before_anything_is_written(tmp_path):
    grey, out = made((20, 20)), tmp_path / "out"
    (tmp_path / "more").mkdir()
    for name in ("a.png", "a_overlay.png", "more/a.tif", "z.png"):
        Image.fromarray(grey).save(tmp_path / name)
    refused("no such file", [tmp_path / "missing.png"], out)
    refused("no images given", [], out)
    (tmp_path / "empty").mkdir()
    refused("no images in this folder", [tmp_path / "empty"], out)
    refused("would both become", [tmp_path / "a.png", tmp_path / "more/a.tif"], out)
    refused("would both become", [tmp_path / "a.png", tmp_path / "a_overlay.png"], out)
    refused("would replace an input", [tmp_path / "z.png"], tmp_path)
    refused("was not made by predict", [tmp_path / "more/a.tif"], tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    refused("broken.png", [tmp_path / "z.png", tmp_path / "broken.png"], out)
    refused("is a file", [tmp_path / "z.png"], tmp_path / "broken.png")
    refused("too small", [tmp_path / "z.png"], out, overlap=8)
    out.mkdir()
    np.save(out / "z.npy", grey)
    refused("was not made by predict", [tmp_path / "z.png"], out, probabilities=True)


def test_a_truncated_image_leaves_nothing(tmp_path):
    Image.fromarray(made((200, 200))).save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="cut.png"):
        predict([tmp_path / "cut.png"], tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_a_stop_half_way_leaves_no_partial_file(tmp_path, unit):
    Image.fromarray(made((40, 20))).save(tmp_path / "a.png")
    calls = []

    def stops(x):
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return apply(x)

    with pytest.raises(KeyboardInterrupt):
        predict_files(
            stops,
            [tmp_path / "a.png"],
            tmp_path / "out",
            tile=16,
            out=16,
            class_names=NAMES,
            colours=COLOURS,
            probabilities=True,
        )
    assert not list((tmp_path / "out").iterdir())


def test_overlay_covers_half_and_leaves_background_clear():
    picture = np.full((6, 8, 3), 100, np.uint8)
    classes = np.zeros((6, 8), np.uint8)
    classes[2:4, 3:6] = 1
    result = pictures.overlay(picture, classes, COLOURS, pictures.background(NAMES))
    np.testing.assert_array_equal(result[0, 0], [100, 100, 100])
    np.testing.assert_array_equal(result[2, 3], (picture[2, 3].astype(int) + COLOURS[1]) // 2)
    np.testing.assert_array_equal(result[2, 5], COLOURS[1])  # the outline, in the colour of the covered side
    np.testing.assert_array_equal(result[1, 4], COLOURS[1])


def test_pictures_of_bands():
    grey = made((9, 9, 1))
    np.testing.assert_array_equal(pictures.to_rgb(grey), np.repeat(grey, 3, -1))
    rgb = made((9, 9, 3))
    np.testing.assert_array_equal(pictures.to_rgb(rgb), rgb)
    many = np.random.default_rng(2).normal(size=(50, 50, 7)) * 1000
    stretched = pictures.to_rgb(many)
    low, high = np.percentile(many[..., 2], [2, 98])
    expected = np.clip((many[..., 2] - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(stretched[..., 2], expected, atol=1)
    assert pictures.to_rgb(np.full((4, 4, 2), 7.0)).shape == (4, 4, 3)  # constant: no division by zero


def test_error_picture_marks_wrong_and_ignored():
    label, prediction = np.array([[0, 1, 255, 255]]), np.array([[0, 0, 0, 1]])
    error = pictures.error_picture(np.zeros((1, 4, 3), np.uint8), label, prediction)
    assert len({*error[0, 0]}) == 1 and error[0, 0, 0] >= 128  # grey
    assert error[0, 1, 0] > 200 and error[0, 1, 1] < 60  # red
    assert len({*error[0, 2]}) == 1 and len({*error[0, 3]}) == 1  # hatched, whatever the prediction
