"""Bad input to land cover as the commands that a user types: exit status 1, one line that names it, nothing under the final name."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from experiments import check_data, launch, map_page, predict, train

rasterio = pytest.importorskip("rasterio")
from rasterio.transform import Affine  # noqa: E402

UTM, PLACE = "EPSG:32612", Affine(30, 0, 301905, 0, -30, 4154085)
SIDE, BANDS = 96, 6
SMOKE = ["--config", "configs/unet_land_cover.py:smoke", "--quiet"]
SMALL = {"model.width": "4", "model.depth": "1", "loop.duration": "2 steps"}


def write(path, values, **changes):
    """A GeoTIFF of [H, W] or [C, H, W]."""
    values = values if values.ndim == 3 else values[None]
    path.parent.mkdir(exist_ok=True)
    shape = dict(zip(("count", "height", "width"), values.shape, strict=True))
    options = {"driver": "GTiff", "crs": UTM, "transform": PLACE, "dtype": values.dtype, **shape, **changes}
    with rasterio.open(path, "w", **options) as file:
        file.write(values)
    return path


def image(bands=BANDS, side=SIDE):
    return np.random.default_rng(bands).integers(1000, 20000, (bands, side, side)).astype(np.uint16)


def codes(seed=0, known=(11, 42, 52), side=SIDE):
    return np.random.default_rng(seed).choice(np.array(known, np.uint8), (side, side))


def cut_off(path):
    """The last third is gone."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run for six bands and two indices."""
    path = tmp_path_factory.mktemp("run") / "made"
    changes = [word for key, value in SMALL.items() for word in (f"--config.{key}", value)]
    assert train.main([*SMOKE, *changes, "--workdir", str(path)]) == 0
    return path


@pytest.fixture
def command(monkeypatch, capfd):
    """Runs an entry point as `python -m` does; gives its exit status and the lines of its standard error."""

    def run(main, *words):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            launch.run(main)
        return left.value.code, capfd.readouterr().err.splitlines()

    return run


def refused(command, says, main, *words):
    """The command's only line says it, and ends it with 1."""
    status, lines = command(main, *words)
    assert status == 1 and len(lines) == 1
    assert lines[0].startswith("error: ") and says in lines[0]


def maps(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []


# A scene becomes a map


def bad_scene(case, folder):
    path = folder / "scene.tif"
    match case:
        case "no crs":
            return write(path, image(), crs=None)
        case "bands of two places":
            for band, crs in ((2, UTM), (3, "EPSG:32633"), (4, UTM), (5, UTM)):
                write(folder / f"landsat_b{band}.tif", image(1), crs=crs)
            return folder
        case "four bands":
            return write(path, image(4))
        case "all nodata":
            return write(path, np.zeros_like(image()), nodata=0)
        case "truncated":
            return cut_off(write(path, image()))
        case "no file":
            return folder / "absent.tif"
    return write(path, image())


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("no crs", "scene.tif: no CRS; set it"),
        ("bands of two places", "landsat_b3.tif: its CRS is not that of landsat_b2.tif"),
        ("four bands", "scene: 6 bands (scene 1, scene 2, scene 3, scene 4, NDVI, NDWI), expected 8"),
        ("all nodata", "scene.tif: no valid pixel among 9,216"),
        ("truncated", "scene.tif: cannot be read, broken or truncated"),
        ("no file", "absent.tif: no such file or folder; correct --input, or config.data.root"),
    ],
)
def test_a_bad_scene_becomes_no_map(workdir, command, tmp_path, case, says):
    scene = bad_scene(case, tmp_path / "scene")
    words = ["--workdir", workdir, "--input", scene, "--output", tmp_path / "maps", "--confidence"]
    refused(command, says, predict.main, *words)
    assert maps(tmp_path / "maps") == []


def test_a_second_scene_with_other_bands_becomes_no_map(workdir, command, tmp_path):
    scenes = [write(tmp_path / "six.tif", image()), write(tmp_path / "four.tif", image(4))]
    status, lines = command(predict.main, "--workdir", workdir, "--input", *scenes, "--output", tmp_path / "maps")
    assert status == 1 and len(lines) == 1 and "four: 6 bands" in lines[0]
    assert maps(tmp_path / "maps") == []  # all scenes are looked at before the first map


def test_two_scenes_of_one_name_do_not_become_one_map(workdir, command, tmp_path):
    scenes = [write(tmp_path / year / "scene.tif", image()) for year in ("2019", "2021")]
    words = ["--workdir", workdir, "--input", *scenes, "--output", tmp_path / "maps"]
    refused(command, "2021/scene.tif: would become scene.tif", predict.main, *words)
    assert maps(tmp_path / "maps") == []


def test_a_window_without_data_stays_empty_in_the_map(workdir, command, tmp_path):
    """Several tiles lie wholly in it, and others in part."""
    values = image(side=260)
    values[:, 20:210, :150] = 0
    scene = write(tmp_path / "scene.tif", values, nodata=0)
    words = ["--workdir", workdir, "--input", scene, "--output", tmp_path / "maps", "--confidence"]
    status, lines = command(predict.main, *words)
    assert status == 0 and not any(line.startswith("error") for line in lines)
    for name, nothing in (("scene.tif", 0), ("scene_confidence.tif", 255)):
        with rasterio.open(tmp_path / "maps" / name) as file:
            assert file.nodata == nothing
            np.testing.assert_array_equal(file.read(1) == nothing, (values == 0).any(0))


def test_a_scene_that_breaks_off_in_the_middle_becomes_no_map(workdir, command, tmp_path):
    """Its overviews are whole, so that it opens, and so is most of it."""
    values = np.random.default_rng(0).integers(1, 255, (BANDS, 4096, 64)).astype(np.uint8)
    options = {"driver": "COG", "blocksize": "128", "compress": "NONE", "overview_resampling": "NEAREST"}
    rasterio.shutil.copy(write(tmp_path / "whole.tif", values), tmp_path / "scene.tif", **options)
    words = ["--workdir", workdir, "--input", cut_off(tmp_path / "scene.tif"), "--output", tmp_path / "maps"]
    refused(command, "scene.tif: cannot be read, broken or truncated", predict.main, *words)
    assert maps(tmp_path / "maps") == []
    assert len(list((tmp_path / "maps" / ".scene.parts").glob("0*.tif"))) > 10  # what was done is kept


@pytest.mark.parametrize("inside", [False, True])
def test_a_map_cannot_go_where_a_file_is(workdir, command, tmp_path, inside):
    (tmp_path / "file").write_text("no folder")
    output = tmp_path / "file" / "maps" if inside else tmp_path / "file"
    words = ["--workdir", workdir, "--input", write(tmp_path / "scene.tif", image()), "--output", output]
    refused(command, "cannot be written", predict.main, *words)
    assert (tmp_path / "file").read_text() == "no folder"


# Scenes for training


def words_of(root, *scenes):
    changes = {"data.source": "scenes", "data.root": root, "data.scenes": f"{list(scenes)}", **SMALL}
    changes |= {"data.image": "['image.tif']", "data.labels": "labels.tif"}
    return [*SMOKE, *(str(word) for key, value in changes.items() for word in (f"--config.{key}", value))]


def write_scene(folder, pixels=None, labels=None, **place):
    """A scene that can be trained on; `place`: of the labels."""
    write(folder / "image.tif", image(side=256) if pixels is None else pixels, nodata=0)
    write(folder / "labels.tif", codes(side=256) if labels is None else labels, **place)


def bad_training(case, root):
    """A folder with a good scene `a`, and one with a mistake, `b`."""
    write_scene(root / "a")
    write_scene(root / "b")
    match case:
        case "no crs":
            write(root / "b" / "image.tif", image(side=256), crs=None)
        case "labels without crs":
            write_scene(root / "b", crs=None)
        case "labels elsewhere":
            write_scene(root / "b", crs="EPSG:32633")
        case "unknown code":
            write_scene(root / "b", labels=codes(known=(11, 99), side=256))
        case "four bands":
            write_scene(root / "b", image(4, side=256))
        case "all nodata":
            write_scene(root / "b", np.zeros_like(image(side=256)))
        case "labels all nodata":
            write_scene(root / "b", labels=np.zeros_like(codes(side=256)), nodata=0)
        case "truncated":
            cut_off(root / "b" / "image.tif")
        case "truncated labels":
            cut_off(root / "b" / "labels.tif")


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("no crs", "b/image.tif: no CRS; set it"),
        ("labels without crs", "b/labels.tif: no CRS; set it"),
        ("labels elsewhere", "b/labels.tif: does not overlap the image"),
        ("unknown code", "b/labels.tif: code 99 ("),
        ("four bands", "b: 6 bands (image 1, image 2, image 3, image 4, NDVI, NDWI), expected 8"),
        ("all nodata", "b: no valid pixel among 65,536"),
        ("labels all nodata", "b: no label on a valid pixel"),
        ("truncated", "b/image.tif: cannot be read, broken or truncated"),
        ("truncated labels", "b/labels.tif: cannot be read, broken or truncated"),
    ],
)
def test_training_on_bad_scenes_does_not_begin(command, tmp_path, case, says):
    bad_training(case, tmp_path)
    words = words_of(tmp_path, "a", "b")
    refused(command, says, train.main, *words, "--workdir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("inside", [False, True])
def test_a_run_cannot_be_where_a_file_is(command, tmp_path, inside):
    write_scene(tmp_path / "a")
    (tmp_path / "file").write_text("no folder")
    folder = tmp_path / "file" / "run" if inside else tmp_path / "file"
    refused(command, "cannot be written", train.main, *words_of(tmp_path, "a"), "--workdir", folder)
    assert (tmp_path / "file").read_text() == "no folder"


def test_a_split_without_a_block_is_refused_before_training(command, tmp_path):
    write_scene(tmp_path / "a")
    words = [*words_of(tmp_path, "a"), "--config.data.block", "128", "--workdir", tmp_path / "run"]
    refused(command, "config.data.fractions: validation=0.1 of 4 blocks is none", train.main, *words)


def test_scenes_with_a_window_without_data_have_nothing_wrong(command, tmp_path):
    """The same words as above, so that what is refused there is refused for its mistake."""
    pixels, labels = image(side=256), codes(side=256)
    pixels[:, 100:200, 50:] = 0
    labels[:80] = 0
    write_scene(tmp_path / "a")
    write_scene(tmp_path / "b", pixels, labels, nodata=0)
    words = [word for word in words_of(tmp_path, "a", "b") if word != "--quiet"]
    assert command(check_data.main, *words) == (0, [])


# The page of a map


def page_words(folder):
    files = {"map": codes(1), "labels": codes(2), "before": codes(3), "image": image(3)}
    return {name: write(folder / f"{name}.tif", values) for name, values in files.items()}


def bad_page(case, folder):
    """The files of a page, one of them with a mistake."""
    files = page_words(folder)
    name, _, mistake = case.partition(" ")
    path = files[name]
    values = image(3) if name == "image" else codes(1)
    match mistake:
        case "no crs":
            write(path, values, crs=None)
        case "elsewhere":
            write(path, values, crs="EPSG:32633")
        case "unknown code":
            write(path, codes(known=(11, 99)))
        case "two bands":
            write(path, image(2))
        case "truncated":
            cut_off(path)
        case "confidence truncated":
            cut_off(write(folder / f"{name}_confidence.tif", codes(known=(80, 90)), nodata=255))
        case "confidence of 200":
            write(folder / f"{name}_confidence.tif", codes(known=(80, 200)), nodata=255)
    return files


def page_command(files, output):
    words = [word for name, path in files.items() for word in (f"--{name}", path)]
    return [map_page.main, *words, "--legend", "nlcd", "--output", output]


@pytest.mark.parametrize(
    ("case", "says"),
    [
        *((f"{name} no crs", f"{name}.tif: no CRS; set it") for name in ("map", "labels", "before", "image")),
        *((f"{name} elsewhere", f"{name}.tif: does not overlap") for name in ("labels", "before", "image")),
        *((f"{name} unknown code", f"{name}.tif: code 99 (") for name in ("map", "labels", "before")),
        *(
            (f"{name} truncated", f"{name}.tif: cannot be read, broken")
            for name in ("map", "labels", "before", "image")
        ),
        ("image two bands", "image.tif: 2 bands, and band 3 is asked for"),
        ("map confidence truncated", "map_confidence.tif: cannot be read, broken"),
        ("map confidence of 200", "map_confidence.tif: 200 is no percent"),
    ],
)
def test_bad_rasters_become_no_page(command, tmp_path, case, says):
    refused(command, says, *page_command(bad_page(case, tmp_path), tmp_path / "page"))
    assert not (tmp_path / "page").exists() and not list(tmp_path.glob(".page*"))


def test_good_rasters_become_a_page(command, tmp_path):
    """The same words as above; then a map and labels that hold nothing, which the page says."""
    files = page_words(tmp_path)
    assert command(*page_command(files, tmp_path / "page")) == (0, [])
    write(files["labels"], np.zeros_like(codes()), nodata=0)
    assert command(*page_command(files, tmp_path / "page")) == (0, [])
    assert "No pixel has both a label and a prediction" in (tmp_path / "page" / "index.html").read_text()
    write(files["map"], np.zeros_like(codes()), nodata=0)
    assert command(*page_command(files, tmp_path / "page")) == (0, [])
    text = (tmp_path / "page" / "index.html").read_text()
    assert "The raster covers 829 ha; 829 ha of it are not mapped" in text and "No pixel counts in both maps" in text


@pytest.mark.parametrize("inside", [False, True])
def test_a_page_cannot_go_where_a_file_is(command, tmp_path, inside):
    (tmp_path / "file").write_text("no folder")
    output = tmp_path / "file" / "page" if inside else tmp_path / "file"
    refused(command, f"--output {output}: ", *page_command(page_words(tmp_path), output))
    assert (tmp_path / "file").read_text() == "no folder"


# In processes of their own, for what the rights of a folder are


def bound_by_rights(folder):
    """What comes before a command that may not write into `folder`, not even as root; skips where that can not be had."""
    folder.chmod(0o555)
    words = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"] if os.geteuid() == 0 else []
    if words and not shutil.which("setpriv"):
        pytest.skip("root, whom no right binds, and no setpriv")
    tried = subprocess.run(
        [*words, "sh", "-c", 'echo began; touch "$0"', folder / "x"], capture_output=True, check=False
    )
    if tried.stdout != b"began\n" or tried.returncode == 0:
        pytest.skip("root, whom no right binds here")
    return words


@pytest.mark.parametrize("name", ["predict", "map_page", "train"])
def test_a_folder_that_may_not_be_written(workdir, tmp_path, python, name):
    folder = tmp_path / "locked"
    folder.mkdir()
    if name == "predict":
        words = ["--workdir", workdir, "--input", write(tmp_path / "scene.tif", image()), "--output", folder]
    elif name == "train":
        write_scene(tmp_path / "a")
        words = [*words_of(tmp_path, "a"), "--workdir", folder]
    else:
        words = page_command(page_words(tmp_path), folder / "page")[1:]
    started = [*bound_by_rights(folder), python, "-m", f"experiments.{name}", *words]
    done = subprocess.run(started, capture_output=True, text=True, timeout=300, check=False)
    folder.chmod(0o755)
    assert done.returncode == 1 and done.stdout == "" and not list(folder.iterdir())
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "Permission denied" in done.stderr
    assert "cannot be written" in done.stderr
