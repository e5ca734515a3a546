"""Land cover without a network: scenes that are told by a pixel, by the grain about it, or by neither."""

import functools
import json

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from common.config import to_json
from common.errors import InputError
from configs import unet_land_cover
from experiments import baselines as command
from experiments import train
from unet.landcover.baselines import SQUARES, Pixels, baselines, boosting, features, forest, sampled, weights_of
from unet.landcover.blocks import PARTS, Blocks
from unet.landcover.geo import rasterio
from unet.landcover.scene import array_scene
from unet.landcover.sources import Crops, Tiles

SMALL = {
    "forests": {"a": {"n_estimators": 5, "min_samples_leaf": 1}, "b": {"n_estimators": 5, "min_samples_leaf": 500}},
    "boostings": {"c": {"max_iter": 5}},
    "pixels": 4000,
}


@pytest.fixture(autouse=True)
def one_thread():
    """OpenMP's threads spin while they wait: beside other tests one is faster than two."""
    with threadpool_limits(1):
        yield


def crops_of(kind, side=160, seed=0):
    """Squares of two classes that differ in a band, or in its grain alone: patches or specks of the same values.

    A strip has no label, a corner no data.
    """
    rng = np.random.default_rng(seed)
    label = np.kron(rng.integers(0, 2, (side // 32, side // 32)), np.ones((32, 32), int)).astype(np.uint8)
    image = rng.normal(size=(side, side, 3)).astype(np.float32)
    specks = rng.choice([-5, 5], (side, side, 1))
    patches = np.kron(rng.choice([-5, 5], (side // 16, side // 16)), np.ones((16, 16), int))[..., None]
    image += 6 * label[..., None] if kind == "band" else np.where(label[..., None], specks, patches)
    label[:3] = 255
    image[:20, :20] = np.nan
    transform = rasterio().transform.from_origin(3e5, 4e6, 30, 30)
    scene = array_scene("scene", image, label, crs="EPSG:32612", transform=transform)
    blocks = Blocks([scene], block=40, guard=8, fractions={"validation": 0.2, "test": 0.2})
    return Crops([scene], blocks, size=(8, 8), rare=0, classes=2)


@pytest.mark.parametrize(("kind", "pixels_tell"), [("band", True), ("grain", False)])
def test_each_method_finds_what_it_can_see(kind, pixels_tell):
    found = baselines(crops_of(kind), "test", ("a", "b"), **SMALL)
    assert len(found) == 7
    assert found["commonest class"]["accuracy"] < 0.8
    for name, scores in found.items():
        tells = "squares" in name or (pixels_tell and "of pixels" in name)
        assert (scores["f1/macro"] > 0.85) == tells, name


def test_settings_are_chosen_and_named():
    names = baselines(crops_of("band"), "test", ("a", "b"), **SMALL).keys()
    assert "forest of pixels (a)" in names  # leaves of 500 pixels cannot tell as well


@pytest.mark.slow
def test_the_same_twice():
    assert baselines(crops_of("grain"), "test", ("a", "b"), **SMALL) == baselines(
        crops_of("grain"), "test", ("a", "b"), **SMALL
    )


def test_the_pixels_scored_are_those_of_the_network():
    crops = crops_of("band")
    label = np.concatenate(
        [row["label"].ravel() for row in Tiles(crops.scenes, crops.blocks, "test", tile=32, out=32, overlap=4, align=4)]
    )
    counts = np.bincount(label[label != 255], minlength=2)
    scores = baselines(crops, "test", ("a", "b"), **SMALL)["commonest class"]
    assert scores["accuracy"] in (counts / counts.sum()).tolist()


def test_training_pixels_are_of_the_training_part():
    crops = crops_of("band")
    everything = sampled(crops, "train", 10**9, 0)
    parts = crops.blocks.parts(0, 0, 0, 160, 160)
    labels = crops.scenes[0].read_labels(0, 0, 160, 160)
    expected = labels[(parts == PARTS["train"]) & (labels < 2)]
    np.testing.assert_array_equal(np.sort(everything.classes), np.sort(expected))
    few = sampled(crops, "train", 500, 0)
    assert 400 < len(few.classes) < 600 and few.values.shape == (len(few.classes), 3 * (1 + 2 * len(SQUARES)))


def test_means_and_deviations_are_of_valid_pixels():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(50, 60, 1)).astype(np.float32)
    valid = rng.random((50, 60)) < 0.7
    image[~valid] = 1e6
    found = features(image, valid)[25, 30]
    for place, side in enumerate(SQUARES):
        window = np.s_[25 - side // 2 : 26 + side // 2, 30 - side // 2 : 31 + side // 2]
        inside = image[window][valid[window]]
        np.testing.assert_allclose(found[1 + 2 * place], inside.mean(), atol=1e-5)
        np.testing.assert_allclose(found[2 + 2 * place], inside.std(), atol=1e-4)


def test_a_split_without_pixels_is_named():
    crops = crops_of("band")
    crops.blocks.tables["EPSG:32612"][1][:] = PARTS["train"]
    with pytest.raises(InputError, match="no labelled pixel in the test part"):
        baselines(crops, "test", ("a", "b"), **SMALL)


def test_the_command_writes_what_the_report_shows(tmp_path, monkeypatch, capsys):
    given = ["--config", "configs/unet_land_cover.py:smoke", "--config.loop.duration=2 steps", "--quiet"]
    given += ["--config.loop.eval=2 steps", "--config.loop.save=2 steps", "--workdir", str(tmp_path / "run")]
    assert train.main(given) == 0
    monkeypatch.setattr(command, "land_cover_baselines", functools.partial(baselines, **SMALL))
    assert command.main(["--workdir", str(tmp_path / "run"), "--split", "validation"]) == 0
    rows = json.loads((tmp_path / "run" / "baselines-validation.json").read_text())
    assert len(rows) == 7 and all("agreement" in row and "iou/mean" in row for row in rows.values())
    assert "forest of pixels" in capsys.readouterr().out


def test_a_class_that_is_not_in_the_sample_is_no_matter():
    rng = np.random.default_rng(0)
    classes = rng.choice([0, 2, 3], 600, p=[0.8, 0.19, 0.01])
    train = Pixels((classes[:, None] + 0.1 * rng.normal(size=(600, 2))).astype(np.float32), classes)
    for fit, setting in ((forest, {"n_estimators": 5}), (boosting, {"max_iter": 5, "min_samples_leaf": 2})):
        predict = fit(train, balanced=True, seed=0, **setting)
        assert set(predict(train.values)) <= {0, 2, 3}
    weights = weights_of(train, True)
    assert weights.max() == pytest.approx(10 * weights.min()) and (weights[classes == 3] == weights.max()).all()


def test_an_unknown_split_is_named_before_anything_is_fitted(monkeypatch):
    monkeypatch.setattr("unet.landcover.baselines.best", None)
    with pytest.raises(InputError, match="split 'tset'"):
        baselines(crops_of("band"), "tset", ("a", "b"), **SMALL)


def test_a_record_of_another_config_or_split_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "experiments" / "results"
    results.mkdir(parents=True)
    config = unet_land_cover.get_config("smoke")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(to_json(config))
    words = ["--workdir", str(tmp_path / "run"), "--record", "mine"]
    (results / "mine.json").write_text(json.dumps({"config": json.loads(to_json(config))}))
    with pytest.raises(InputError, match="has scores of 'test', not of 'validation'"):
        command.main([*words, "--split", "validation"])
    config.data.guard = 40
    (results / "mine.json").write_text(json.dumps({"config": json.loads(to_json(config))}))
    with pytest.raises(InputError, match="is of another config .data.guard: 40 -> 33"):
        command.main(words)
