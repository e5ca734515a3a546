"""The page of a map: agreement and areas by hand, the web map's tiles by the formulas of EPSG:3857, and what may be wrong."""

import math

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from experiments import map_page
from tests.html_pages import parsed
from unet.landcover import pages
from unet.landcover.counts import count_agreement
from unet.landcover.geo import rasterio
from unet.landcover.legend import NLCD, ZION8

CODES = np.array([[1, 1, 4, 4], [4, 4, 4, 5], [5, 5, 5, 5], [0, 5, 5, 5]], np.uint8)
LABELS = np.array([[1, 4, 4, 4], [4, 4, 5, 5], [5, 5, 5, 4], [5, 5, 0, 5]], np.uint8)


def write(path, codes, *, crs="EPSG:32612", pixel=100.0, left=300_000.0, top=4_100_000.0):
    place = {"crs": crs, "transform": rasterio().transform.from_origin(left, top, pixel, pixel), "nodata": 0}
    shape = {"height": codes.shape[0], "width": codes.shape[1], "count": 1, "dtype": codes.dtype}
    with rasterio().open(path, "w", driver="GTiff", **place, **shape) as file:
        file.write(codes, 1)
    return path


def test_counts_and_hectares_by_hand(tmp_path):
    found = count_agreement(write(tmp_path / "map.tif", CODES), ZION8, labels=write(tmp_path / "labels.tif", LABELS))
    counted = (CODES > 0) & (LABELS > 0)
    assert found.matrix.sum() == counted.sum() == 14
    for label in (1, 4, 5):
        for code in (1, 4, 5):
            expected = int(((label == LABELS) & (code == CODES)).sum())
            assert found.matrix[label - 1, code - 1] == expected
    assert found.hectares.sum() == pytest.approx(16.0)  # 100 m x 100 m are a hectare


def test_summary_is_macro_and_not_micro():
    matrix = np.array([[90, 0, 10], [0, 0, 0], [5, 0, 5]])
    facts = pages.summary(pages.present(matrix, "abc", [(0, 0, 0)] * 3)[0])
    assert facts["overall agreement"] == pytest.approx(95 / 110)
    assert facts["macro F1"] == pytest.approx((180 / 195 + 10 / 25) / 2)
    assert facts["macro IoU"] == pytest.approx((90 / 105 + 5 / 20) / 2)


def test_groups_add_their_classes():
    matrix = np.zeros((20, 20), int)
    at = NLCD.codes.index
    matrix[at(41), at(42)] = 3  # two kinds of forest
    matrix[at(42), at(11)] = 2
    groups = pages.grouped(matrix, NLCD)
    forest, water = NLCD.groups.index("Forest"), NLCD.groups.index("Water")
    assert groups[forest, forest] == 3 and groups[forest, water] == 2 and groups.sum() == 5


def test_page_and_tiles(tmp_path):
    codes = np.kron(CODES, np.ones((64, 64), np.uint8))
    mapped = write(tmp_path / "map.tif", codes, pixel=30)
    labels = write(tmp_path / "labels.tif", np.kron(LABELS, np.ones((64, 64), np.uint8)), pixel=30)
    given = ["--map", str(mapped), "--labels", str(labels), "--legend", "zion8", "--output", str(tmp_path / "page")]
    assert map_page.main(given) == 0
    text = (tmp_path / "page" / "index.html").read_text()
    page = parsed(text)
    assert "overall agreement" in text and not any(str(a).startswith("http") for a in page.addresses)
    east, north = 300_000 + 30 * 10.5, 4_100_000 - 30 * 10.5  # in the first block: water
    (longitude,), (latitude,) = rasterio().warp.transform("EPSG:32612", "EPSG:4326", [east], [north])
    zoom = max(int(p.name) for p in (tmp_path / "page" / "tiles" / "map").iterdir())
    x = (longitude + 180) / 360 * 2**zoom
    y = (1 - math.asinh(math.tan(math.radians(latitude))) / math.pi) / 2 * 2**zoom
    tile = Image.open(tmp_path / "page" / "tiles" / "map" / str(zoom) / str(int(x)) / f"{int(y)}.png").convert("RGBA")
    assert tile.getpixel((int(x % 1 * 256), int(y % 1 * 256))) == (*ZION8.classes[0].colour, 255)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"crs": None}, "CRS"),
        ({"left": 900_000.0}, "overlap"),
    ],
)
def test_labels_that_do_not_fit_are_named(tmp_path, change, message):
    mapped, labels = write(tmp_path / "map.tif", CODES), write(tmp_path / "labels.tif", LABELS, **change)
    given = ["--map", str(mapped), "--labels", str(labels), "--legend", "zion8", "--output", str(tmp_path / "page")]
    with pytest.raises(InputError, match=message):
        map_page.main(given)
    assert not (tmp_path / "page").exists()
