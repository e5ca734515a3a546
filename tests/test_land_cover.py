"""Land cover from end to end: the smoke run, its report, a map of a GeoTIFF, and what a config may get wrong."""

import json

import numpy as np
import pytest

from common.errors import InputError
from common.run import load_run
from configs import unet_land_cover
from experiments import predict, report, train
from experiments.tasks import make_task
from unet.landcover.geo import rasterio
from unet.landcover.legend import NLCD
from unet.landcover.made import write_made


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "made"
    assert train.main(["--config", "configs/unet_land_cover.py:smoke", "--workdir", str(path), "--quiet"]) == 0
    return path


def test_report_and_picture(workdir, tmp_path):
    assert report.main(["--workdir", str(workdir), "--picture", str(tmp_path / "map.png")]) == 0
    page = (workdir / "report.html").read_text()
    assert "Reliability" in page and "expected calibration error" in page
    scores = json.loads((workdir / "evaluation-test.json").read_text())
    assert 0 <= scores["agreement"] <= 1 and 0 <= scores["calibration_error"] <= 1
    assert "accuracy" not in scores and not any(name.endswith("/foreground") for name in scores)
    assert "greement with" in page and "predicted labels" in page and "guard" in page
    assert (tmp_path / "map.png").stat().st_size > 1000


def test_a_geotiff_becomes_a_map(workdir, tmp_path):
    write_made(tmp_path / "scene.tif", tmp_path / "codes.tif", 1, 150, 130)
    given = ["--workdir", str(workdir), "--input", str(tmp_path / "scene.tif"), "--output", str(tmp_path / "maps")]
    assert predict.main([*given, "--confidence"]) == 0
    with rasterio().open(tmp_path / "scene.tif") as scene, rasterio().open(tmp_path / "maps" / "scene.tif") as made:
        assert (made.crs, made.transform, made.shape) == (scene.crs, scene.transform, scene.shape)
        codes = made.read(1)
        assert made.colormap(1)[42][:3] == NLCD.colours[NLCD.codes.index(42)]
    assert set(np.unique(codes)) <= set(NLCD.codes)
    assert (tmp_path / "maps" / "scene_confidence.tif").exists()


def test_a_map_goes_on_with_the_same_model_and_files_alone(workdir, tmp_path):
    write_made(tmp_path / "scene.tif", tmp_path / "codes.tif", 1, 150, 130)
    run, given = load_run(workdir), ([tmp_path / "scene.tif"], tmp_path / "maps")
    begin = {"shard": (1, 2), "model": "one"}
    assert run.task.predict_files(run.apply, *given, **begin) == []
    with pytest.raises(InputError, match="parts of another map .*model 'one', now 'two'"):
        run.task.predict_files(run.apply, *given, model="two")
    write_made(tmp_path / "scene.tif", tmp_path / "codes.tif", 2, 150, 130)
    with pytest.raises(InputError, match="parts of another map .*files"):
        run.task.predict_files(run.apply, *given, model="one")


def test_prediction_of_an_array_is_that_of_the_map(workdir, tmp_path):
    run = load_run(workdir)
    image = np.random.default_rng(0).normal(size=(70, 90, 8)).astype(np.float32)
    probabilities = run.predict(image)
    assert probabilities.shape == (70, 90, 20)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-4)


@pytest.mark.parametrize(
    "section, key, value, message",
    [
        ("data", "guard", 20, "config.data.guard=20: narrower than the crop of 32 px"),
        ("data", "sorce", "made", "config.data.sorce"),
        ("data", "source", "disk", "use 'scenes', 'slovenia' or 'made'"),
        ("model", "classes", 8, "config.model.classes=8: config.task.legend .* has 20 names"),
        ("model", "bands", 6, "8 bands .* expected 6"),
        ("task", "legend", "nlcb", "legend 'nlcb'"),
        ("task", "codes", [13], "config.data.codes: 13|config.task.codes: 13"),
    ],
)
def test_wrong_configs_are_named(section, key, value, message):
    config = unet_land_cover.get_config("smoke")
    config[section][key] = value
    with pytest.raises(InputError, match=message):
        task = make_task(config)
        findings = task.check()
        if findings:
            raise InputError(findings[0])
        task.train_source("train")
