"""Scenes that cannot be opened or read: one line for each mistake."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from common.errors import InputError
from tests.scene_files import ABC, PLACE, UTM, draw, write
from unet.landcover.scene import open_scene

rasterio = pytest.importorskip("rasterio")
from rasterio.transform import Affine  # noqa: E402


def bad(case, folder):
    """Files with one mistake, and the arguments that open them."""
    image, labels = draw(20, 3, 40, 50), np.full((40, 50), 5, np.uint8)
    path = folder / "image.tif"
    good = {"labels": "labels.tif", "legend": ABC}
    write(path, image)
    write(folder / "labels.tif", labels)
    match case:
        case "no file":
            return folder / "absent.tif", {}
        case "no tiff":
            path.write_bytes(b"II*\0" + b"nothing of the kind" * 20)
        case "truncated":
            path.write_bytes(path.read_bytes()[:9000])
        case "truncated labels":
            data = (folder / "labels.tif").read_bytes()
            (folder / "labels.tif").write_bytes(data[: len(data) // 2])
        case "no crs":
            write(path, image, crs=None)
        case "labels without crs":
            write(folder / "labels.tif", labels, crs=None)
        case "labels elsewhere":
            write(folder / "labels.tif", labels, crs="EPSG:32633")
        case "labels beside":
            write(folder / "labels.tif", labels, transform=PLACE @ Affine.translation(50, 0))
        case "no labels here":
            write(folder / "labels.tif", np.zeros((40, 50), np.uint8), nodata=0)
        case "unknown code":
            labels[3, 4] = 6
            write(folder / "labels.tif", labels)
        case "labels of three bands":
            write(folder / "labels.tif", image)
        case "absent labels":
            good["labels"] = "label*s.tiff"
        case "two labels":
            write(folder / "labels2.tif", labels)
            good["labels"] = "labels*.tif"
        case "all nodata":
            write(path, np.zeros_like(image), nodata=0)
        case "all cloud":
            write(folder / "qa.tif", np.full((40, 50), 8, np.uint16))
            good["quality"] = "qa.tif"
        case "constant band":
            image[1] = 7
            write(path, image)
        case "another crs" | "another size" | "half a pixel" | "elsewhere":
            crs = "EPSG:32613" if case == "another crs" else UTM
            change = {"another size": Affine.scale(2), "half a pixel": Affine.translation(0.5, 0)}
            change |= {"elsewhere": Affine.translation(0, 40)}
            write(folder / "b2.tif", image[0], crs=crs, transform=PLACE @ change.get(case, Affine.identity()))
            return folder, {"image": ("image.tif", "b2.tif")}
        case "no such band file":
            return folder, {"image": ("image.tif", "b9*.tif")}
        case "complex":
            write(path, image.astype(np.complex64))
        case "gain":
            good |= {"scaling": "given", "gain": (1, 2), "offset": (0,)}
        case "gain of 0":
            good |= {"scaling": "reflectance", "gain": (0,), "offset": (0,)}
        case "gain unused":
            good["gain"] = (1,)
        case "scaling":
            good["scaling"] = "percentile"
        case "percentiles":
            good["percentiles"] = (98, 2)
        case "index":
            good["indices"] = ("evi",)
        case "role":
            good |= {"indices": ("ndvi",), "roles": {"red": 2}}
        case "role of no band":
            good |= {"indices": ("ndvi",), "roles": {"red": 2, "nir": 3}}
        case "rgb":
            good["rgb"] = (3, 2, 1)
        case "quality kind":
            good |= {"quality": "labels.tif", "quality_kind": "landsat8"}
        case "no legend":
            del good["legend"]
    return path, good


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("no file", "absent.tif: no such file"),
        ("no tiff", "image.tif: cannot be read"),
        ("truncated", "image.tif: cannot be read, broken or truncated"),
        ("truncated labels", "labels.tif: cannot be read, broken or truncated"),
        ("no crs", "image.tif: no CRS"),
        ("labels without crs", "labels.tif: no CRS"),
        ("labels elsewhere", "labels.tif: does not overlap"),
        ("labels beside", "labels.tif: does not overlap"),
        ("no labels here", "no label on a valid pixel"),
        ("unknown code", "labels.tif: code 6 (1 px) is not in legend 'abc' (3, 5, 9)"),
        ("labels of three bands", "labels.tif: 3 bands"),
        ("absent labels", "config.data.labels='label*s.tiff' fits nothing"),
        ("two labels", "fits labels.tif, labels2.tif; expected one file"),
        ("all nodata", "image.tif: no valid pixel"),
        ("all cloud", "image.tif: no valid pixel"),
        ("constant band", "image 2: percentiles 2 and 98 are both 7"),
        ("another crs", "b2.tif: its CRS is not that of image.tif"),
        ("another size", "b2.tif: its pixels are not those of image.tif (60 against 30)"),
        ("half a pixel", "b2.tif: its grid is off that of image.tif by 0.00 and 0.50 px"),
        ("elsewhere", "no pixel in common"),
        ("no such band file", "no file 'b9*.tif'; correct config.data.image"),
        ("complex", "expected bands of real numbers"),
        ("gain", "config.data.gain=[1, 2]"),
        ("gain of 0", "config.data.gain=[0]"),
        ("gain unused", "takes no gain and offset"),
        ("scaling", "config.data.scaling='percentile': expected one of percentiles"),
        ("percentiles", "config.data.percentiles=[98, 2]"),
        ("index", "config.data.indices: 'evi' is not one of ndvi"),
        ("role", "config.data.roles has no 'nir'"),
        ("role of no band", "config.data.roles.nir=3: the scene has bands 0 to 2"),
        ("rgb", "config.data.rgb=[3, 2, 1]"),
        ("quality kind", "config.data.quality_kind='landsat8'"),
        ("no legend", "labels without config.data.legend"),
    ],
)
def test_bad_input_is_one_line(tmp_path, case, says):
    path, options = bad(case, tmp_path)
    with pytest.raises(InputError) as caught:
        scene = open_scene(path, **options)
        scene.read_labels(0, 0, scene.height, scene.width)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_cut_off_later_is_named(tmp_path):
    """A window of what is gone, after the scene was opened."""
    path = write(tmp_path / "image.tif", draw(21, 3, 400, 500))
    scene = open_scene(path)
    path.write_bytes(path.read_bytes()[:200_000])
    with (
        pytest.raises(InputError, match="image.tif: cannot be read, broken or truncated"),
        ThreadPoolExecutor(1) as pool,
    ):
        pool.submit(scene.read, 300, 0, 64, 64).result()
