"""The page of a map: agreement and areas by hand, the web map's tiles by the formulas of EPSG:3857, and what may be wrong."""

import math
import re

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from experiments import map_page
from tests.html_pages import parsed
from unet.landcover import pages
from unet.landcover.counts import count_agreement, count_change
from unet.landcover.geo import rasterio
from unet.landcover.legend import NLCD, ZION8

CODES = np.array([[1, 1, 4, 4], [4, 4, 4, 5], [5, 5, 5, 5], [0, 5, 5, 5]], np.uint8)
LABELS = np.array([[1, 4, 4, 4], [4, 4, 5, 5], [5, 5, 5, 4], [5, 5, 0, 5]], np.uint8)


def write(path, codes, *, crs="EPSG:32612", pixel=100.0, left=300_000.0, top=4_100_000.0, nodata=0):
    place = {"crs": crs, "transform": rasterio().transform.from_origin(left, top, pixel, pixel), "nodata": nodata}
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


# Change between two dates. Water 1, forest 4, shrubland 5; a pixel is a hectare.
BEFORE = np.array([[1, 1, 4, 4], [4, 4, 5, 5], [5, 5, 5, 0]], np.uint8)
AFTER = np.array([[1, 4, 4, 5], [4, 5, 5, 4], [5, 5, 0, 5]], np.uint8)
SURE_BEFORE = np.array([[90, 90, 80, 90], [79, 90, 90, 90], [90, 90, 90, 255]], np.uint8)
SURE_AFTER = np.array([[90, 80, 90, 90], [90, 10, 90, 79], [90, 255, 255, 90]], np.uint8)
EVERYWHERE = [[1, 1, 0], [0, 2, 2], [0, 1, 3]]  # hectares from (row) to (column)


def write_dates(folder, **before):
    """Both maps with their confidences; `before`: where the earlier one lies."""
    paths = []
    for name, codes, sure, place in (("before", BEFORE, SURE_BEFORE, before), ("after", AFTER, SURE_AFTER, {})):
        paths.append(write(folder / f"{name}.tif", codes, **place))
        paths.append(write(folder / f"{name}_confidence.tif", sure, nodata=255, **place))
    return paths


def transitions(areas):
    """Of the three classes that are there; the others have none."""
    places = [0, 3, 4]
    assert areas.sum() == pytest.approx(areas[np.ix_(places, places)].sum())
    return areas[np.ix_(places, places)].tolist()


@pytest.mark.parametrize(
    ("least", "expected", "unsure"),
    [
        (0, [[1, 1, 0], [0, 2, 2], [0, 1, 2]], 1),  # one pixel has no confidence
        (80, [[1, 1, 0], [0, 1, 1], [0, 0, 2]], 4),  # 80 is enough, 79 is not
        (90, [[1, 0, 0], [0, 0, 1], [0, 0, 2]], 6),
        (100, [[0, 0, 0], [0, 0, 0], [0, 0, 0]], 10),
    ],
)
def test_change_counts_where_both_maps_are_sure(tmp_path, least, expected, unsure):
    before, sure_before, after, sure_after = write_dates(tmp_path)
    assert transitions(count_change(before, after, ZION8).areas) == EVERYWHERE
    found = count_change(before, after, ZION8, confidences=[sure_before, sure_after], least=least)
    assert transitions(found.areas) == expected
    assert found.hectares[-2, -2] == pytest.approx(unsure)
    assert found.hectares.sum() == pytest.approx(12)  # 2 ha of it without data in one of them
    assert found.hectares[-1].sum() + found.hectares[:-1, -1].sum() == pytest.approx(2)


def test_change_of_maps_that_overlap_in_part(tmp_path):
    """The earlier map begins one row and two columns later: its first pixels lie on the last ones of the later map."""
    before, sure_before, after, sure_after = write_dates(tmp_path, left=300_200.0, top=4_099_900.0)
    found = count_change(before, after, ZION8)
    assert transitions(found.areas) == [[0, 1, 1], [0, 0, 1], [0, 0, 0]]  # 1 1 / 4 4 became 5 4 / none 5
    assert found.hectares[3, -1] == pytest.approx(1)
    assert found.hectares[-1, [0, 3, 4]].tolist() == pytest.approx([1, 3, 4])
    assert found.hectares.sum() == pytest.approx(12)
    found = count_change(before, after, ZION8, confidences=[sure_before, sure_after], least=80)
    assert transitions(found.areas) == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert found.hectares[-2, -2] == pytest.approx(1)  # 79 in the later map
    assert found.hectares[-2, -1] == pytest.approx(1)  # 79 in the earlier one, where the later one has no class


def test_change_of_maps_with_other_pixels(tmp_path):
    """The earlier map has pixels of four hectares: each is compared with the four that lie on it."""
    codes = np.array([[1, 4], [5, 5]], np.uint8)
    before = write(tmp_path / "before.tif", codes, pixel=200.0)
    found = count_change(before, write(tmp_path / "after.tif", AFTER), ZION8)
    large = np.kron(codes, np.ones((2, 2), np.uint8))[:3]
    pairs = lambda a, b: float(((large == a) & (b == AFTER)).sum())
    assert transitions(found.areas) == [[pairs(a, b) for b in (1, 4, 5)] for a in (1, 4, 5)]
    assert found.hectares.sum() == pytest.approx(12)


def table_rows(text):
    """The texts of the cells of all tables, a list for each row."""
    rows = re.findall(r"<tr.*?</tr>", text, re.DOTALL)
    return [[re.sub(r"<.*?>", "", c) for c in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)] for row in rows]


def change_page(folder, *more):
    """The page's section on change."""
    given = ["--map", str(folder / "after.tif"), "--before", str(folder / "before.tif"), "--legend", "zion8"]
    assert map_page.main([*given, *more, "--output", str(folder / "page")]) == 0
    text = (folder / "page" / "index.html").read_text()
    parsed(text)
    return text[text.index("From before.tif to after.tif.") :]


@pytest.mark.parametrize(("flags", "least"), [((), 80), (("--confidence", "90"), 90)])
def test_the_page_says_what_changed_where_both_are_confident(tmp_path, flags, least):
    write_dates(tmp_path)
    text = change_page(tmp_path, *flags)
    left_out, compared, changed, share = (4, 6, 2, "33.33") if least == 80 else (6, 4, 1, "25.00")
    assert f"where both maps are at least {least} % confident: {left_out}.00 ha are left out" in text
    for name, value in (("compared", f"{compared}.00"), ("changed", f"{changed}.00"), ("changed", f"{share} %")):
        assert f"<span>{name}</span><b>{value}</b>" in text
    rows, dot = table_rows(text), "\N{MIDDLE DOT}"
    if least == 80:
        assert ["Forest", "2.00", "1.00", "1.00", "2.00", "0.00"] in rows  # before, lost, gained, after, net
        assert ["Water", "2.00", "1.00", "0.00", "1.00", "\N{MINUS SIGN}1.00"] in rows
        assert ["Shrubland", "2.00", "0.00", "1.00", "3.00", "+1.00"] in rows
        assert ["Water \N{RIGHTWARDS ARROW} Forest", "1.00", "50.0"] in rows
        assert rows[-3:] == [
            ["Water", "1.00", "1.00", dot],
            ["Forest", dot, "1.00", "1.00"],
            ["Shrubland", dot, dot, "2.00"],
        ]
    else:
        assert rows[-3:] == [["Water", "1.00", dot, dot], ["Forest", dot, dot, "1.00"], ["Shrubland", dot, dot, "2.00"]]


def test_the_page_says_that_all_pixels_count_where_a_confidence_is_missing(tmp_path):
    write_dates(tmp_path)
    (tmp_path / "before_confidence.tif").unlink()
    text = change_page(tmp_path)
    assert "All pixels count: before_confidence.tif is not there" in text
    assert table_rows(text)[-1] == ["Shrubland", "\N{MIDDLE DOT}", "1.00", "3.00"]
    assert "<span>compared</span><b>10.0</b>" in text and "<span>changed</span><b>40.00 %</b>" in text
