"""Legends: NLCD as published, codes to indices and back, legends of CSV files, one line for each mistake."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from unet.images import IGNORE
from unet.landcover import legend as legends
from unet.landcover.legend import NLCD, NLCD_CONUS, NODATA, SLOVENIA, ZION8, LandClass, make_legend, read_legend

# Level II code, Level I digit, colour: the table of MRLC, typed once more as its hexadecimal notation.
PUBLISHED = """11 466b9f, 12 d1def8, 21 dec5c5, 22 d99282, 23 eb0000, 24 ab0000, 31 b3ac9f, 41 68ab5f, 42 1c5f2c, 43 b5c58f,
51 af963c, 52 ccb879, 71 dfdfc2, 72 d1d182, 73 a3cc51, 74 82ba9e, 81 dcd939, 82 ab6c28, 90 b8d9eb, 95 6c9fb8"""


def test_nlcd_is_the_published_legend():
    published = dict(line.split() for line in PUBLISHED.replace("\n", " ").split(", "))
    assert {str(x.code): "{:02x}{:02x}{:02x}".format(*x.colour) for x in NLCD.classes} == published
    assert [x.code for x in NLCD.classes if x.alaska] == [51, 72, 73, 74]
    assert NLCD_CONUS.codes == tuple(code for code in NLCD.codes if code not in (51, 72, 73, 74))
    assert NLCD.groups == NLCD_CONUS.groups and len(NLCD.groups) == 8
    digits = {code // 10 for code in NLCD.codes}
    assert [sorted(digits).index(code // 10) for code in NLCD.codes] == list(NLCD.group_of)
    assert NLCD.nodata == 0 and NLCD.dtype == np.uint8


def test_the_simplified_legends():
    assert ZION8.codes == tuple(range(1, 9)) and ZION8.group_of == tuple(range(8))
    assert SLOVENIA.codes == (1, 2, 3, 4, 8)
    nlcd_colours = set(NLCD.colours)
    assert all(colour in nlcd_colours for colour in ZION8.colours)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dtype=st.sampled_from([np.uint8, np.int16, np.int32, np.float32]))
def test_codes_come_back(data, dtype):
    codes = np.array(data.draw(st.lists(st.sampled_from([*NLCD.codes, 127, 99]), min_size=1, max_size=40)), dtype)
    index = NLCD.to_index(codes, nodata=127, ignore=(99,))
    for code, place in zip(codes, index, strict=True):
        expected = NODATA if code == 127 else IGNORE if code == 99 else NLCD.codes.index(int(code))
        assert place == expected
    assert index.dtype == np.uint8
    known = index < NODATA
    np.testing.assert_array_equal(NLCD.to_code(index)[known], codes[known])
    assert (NLCD.to_code(index)[~known] == NLCD.nodata).all()


def test_negative_and_missing_numbers():
    codes = np.array([[11, -9999], [np.nan, 95]], np.float32)
    np.testing.assert_array_equal(NLCD.to_index(codes, nodata=-9999), [[0, NODATA], [NODATA, 19]])
    np.testing.assert_array_equal(NLCD.to_index(codes, nodata=np.nan, ignore=(-9999,)), [[0, IGNORE], [NODATA, 19]])


@pytest.mark.parametrize(
    ("codes", "text"), [([11, 13, 13, 7], "code 13 (2 px) and 1 more"), ([-1], "-1"), ([11.5], "11.5")]
)
def test_an_unknown_code_is_named(codes, text):
    with pytest.raises(InputError) as caught:
        NLCD.to_index(np.array(codes), where="labels.tif")
    message = str(caught.value)
    assert "labels.tif" in message and text in message and "config.data.ignore" in message and "\n" not in message


def test_codes_to_ignore_can_be_pasted_unless_they_are_no_codes_of_land_cover():
    with pytest.raises(InputError, match=r"config.data.ignore \[7,13\]"):
        NLCD.to_index(np.array([11, 13, 13, 7]))
    with pytest.raises(InputError, match="code 100 .* are these codes of land cover at all"):
        NLCD.to_index(np.arange(100, 200))


def test_large_codes_and_no_place_for_nodata():
    wide = make_legend("wide", [LandClass(0, "a", (0, 0, 0), "a"), LandClass(300, "b", (1, 1, 1), "b")])
    assert wide.dtype == np.uint16 and wide.nodata == 255
    np.testing.assert_array_equal(wide.to_code(np.array([0, 1, NODATA], np.uint8)), [0, 300, 255])
    full = make_legend("full", [LandClass(0, "a", (0, 0, 0), "a"), LandClass(255, "b", (1, 1, 1), "b")])
    assert full.nodata == 65535 and full.dtype == np.uint16
    zero = make_legend("zero", [LandClass(0, "a", (0, 0, 0), "a")])
    assert zero.nodata == 255 and zero.dtype == np.uint8


def test_only_keeps_the_order():
    some = NLCD.only([95, 11, 42])
    assert some.codes == (11, 42, 95) and some.groups == ("Water", "Forest", "Wetlands")
    with pytest.raises(InputError, match="13 is not in legend 'nlcd'"):
        NLCD.only([11, 13])


def test_a_csv_legend(tmp_path):
    (tmp_path / "crops.csv").write_text(
        '\ufeffcode,name,colour,group\n1,"Wheat, winter",#dcd939,Crops\n5,Maize,171 108 40,Crops\n300,Wood,#1c5f2c,\n'
    )
    legend = read_legend("crops.csv", tmp_path)
    assert legend == read_legend(str(tmp_path / "crops.csv"))
    assert legend.name == "crops" and legend.codes == (1, 5, 300)
    assert legend.names[0] == "Wheat, winter" and legend.colours[1] == (171, 108, 40)
    assert legend.groups == ("Crops", "Wood") and legend.group_of == (0, 0, 1)
    assert read_legend("zion8") is ZION8


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("code,name\n1,a\n", "no column 'colour'"),
        ("", "no column 'code'"),
        ("code,name,colour\n", "0 classes"),
        ("code,name,colour\nx,a,#000000\n", "line 2: code 'x'"),
        ("code,name,colour\n1,a,#000000\n1,b,#000000\n", "code 1 is there 2 times"),
        ("code,name,colour\n1,a,#00000g\n", "colour '#00000g'"),
        ("code,name,colour\n1,a,0 0 300\n", "colour '0 0 300'"),
        ("code,name,colour\n1,a,#000\n", "colour '#000'"),
        ("code,name,colour\n1,,#000000\n", "no name"),
        ("code,name,colour\n70000,a,#000000\n", "code 70000"),
        ("code,name,colour\n1,a,b,#000000\n", "more cells than columns"),
    ],
)
def test_a_wrong_csv_is_refused_in_one_line(tmp_path, text, says):
    path = tmp_path / "wrong.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_legend(str(path))
    assert says in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_no_such_legend(tmp_path):
    for name, says in [("nlcd_2011", "not one of nlcd"), ("absent.csv", "cannot be read")]:
        with pytest.raises(InputError, match=says):
            read_legend(name, tmp_path)
    assert all(read_legend(name) is legend for name, legend in legends.LEGENDS.items())
