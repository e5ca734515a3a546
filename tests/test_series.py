"""Labelled series: `.ts` files and tables read as by hand, what is refused, standardisation."""

import gzip

import numpy as np
import pytest

from common.errors import InputError
from lstm.baselines import summary
from lstm.data import series

NAMES = ("a", "b")
TS = """# a comment
@problemName Tiny
@timeStamps false
@dimensions 2
@equalLength false
@classLabel true a b
@data
1,2,3:4,5,6:a

-1.5,2e-1:0,7:b
"""


def read_ts(tmp_path, text, channels=2, **options):
    (tmp_path / "train.ts").write_text(text)
    return series.read(
        "train", source="series", root=str(tmp_path), class_names=NAMES, channels=channels, held_out=0.0, **options
    )


def test_ts_by_hand(tmp_path):
    part = read_ts(tmp_path, TS)
    np.testing.assert_array_equal(part.items[0], np.float32([[1, 4], [2, 5], [3, 6]]))
    np.testing.assert_array_equal(part.items[1], np.float32([[-1.5, 0], [0.2, 7]]))
    assert part.labels.tolist() == [0, 1]
    assert [place.rsplit(":", 1)[1] for place in part.places] == ["8", "10"]
    (tmp_path / "train.ts.gz").write_bytes(gzip.compress(TS.encode()))
    packed = read_ts(tmp_path, TS, train="train.ts.gz")
    np.testing.assert_array_equal(packed.items[1], part.items[1])


def test_ts_without_labels_is_for_prediction(tmp_path):
    path = tmp_path / "new.ts"
    path.write_text("@classLabel false\n@data\n1,2:3,4\n")
    ((place, label, values),) = list(series.read_any(path))
    assert label is None and values.tolist() == [[1, 3], [2, 4]] and place.endswith("new.ts:3")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (":1,2:a", "train.ts:8: a sequence without steps"),
        ("::a", "train.ts:8: a sequence without steps"),
        ("1,2,3:4,5:a", "train.ts:8: ragged channels, 2 to 3 values"),
        ("1,2,3:a", "train.ts:8: 1 channels, expected 2"),
        ("1,2:3,4:5,6:a", "train.ts:8: 3 channels, expected 2"),
        ("1,NaN:3,4:a", "train.ts:8: a value is NaN or infinite"),
        ("1,?:3,4:a", "train.ts:8: '\\?' is not a number"),
        ("1,2:3,4:c", r"train.ts:8: label 'c' is no class.*\['a', 'b'\]"),
        ("a", "train.ts:8: no label"),
    ],
)
def test_what_is_wrong_with_a_series_is_said_in_one_line(tmp_path, line, message):
    text = TS.replace("1,2,3:4,5,6:a", line)
    with pytest.raises(InputError, match=message) as error:
        read_ts(tmp_path, text)
    assert "\n" not in str(error.value)
    lines = []
    assert len(read_ts(tmp_path, text, refuse=lines.append).items) == 1 and len(lines) == 1


def test_files_that_are_no_series(tmp_path):
    with pytest.raises(InputError, match=r"train.ts:1: expected '@data' before the first series"):
        read_ts(tmp_path, "1,2:3,4:a\n")
    with pytest.raises(InputError, match=r"train.ts:1: series with time stamps are not read"):
        read_ts(tmp_path, "@timeStamps true\n")
    with pytest.raises(InputError, match="the file is empty"):
        read_ts(tmp_path, "")
    with pytest.raises(InputError, match=r"config.model.channels=3; they must agree"):
        read_ts(tmp_path, TS, channels=3)
    with pytest.raises(InputError, match=r"the file has no labels"):
        read_ts(tmp_path, "@classLabel false\n@data\n1,2:3,4\n")
    (tmp_path / "train.npz").write_text("x")
    with pytest.raises(InputError, match=r"train.npz: not a file of series; expected .ts, .csv or .tsv"):
        read_ts(tmp_path, TS, train="train.npz")


CSV = """series,time,x,label,y
one,2,20,a,0.5
two,0,-1,b,0
one,1,10,a,0.25
one,10,30,a,0.75
"""


def read_csv(tmp_path, text, **options):
    (tmp_path / "train.csv").write_text(text)
    given = {"class_names": NAMES, "channels": 2, "held_out": 0.0, "train": "train.csv", **options}
    return series.read("train", source="series", root=str(tmp_path), **given)


def test_a_table_has_a_row_a_step(tmp_path):
    part = read_csv(tmp_path, CSV)
    np.testing.assert_array_equal(part.items[0], np.float32([[10, 0.25], [20, 0.5], [30, 0.75]]))  # by time, a number
    np.testing.assert_array_equal(part.items[1], np.float32([[-1, 0]]))
    assert part.labels.tolist() == [0, 1]
    chosen = read_csv(tmp_path, CSV, columns=("y",), channels=1, time="")
    assert chosen.items[0][:, 0].tolist() == [0.5, 0.25, 0.75]  # as they stand


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("one,1,10,a", "one,1,10,b", r"train.csv:2 \(series 'one'\): two labels, 'b' and 'a'"),
        ("one,1,", "one,2,", "'time' must hold a number of its own for each step"),
        ("one,1,", "one,noon,", r"train.csv:4: config.data.time='time' must hold a number"),
        ("one,1,10", "one,1,", r"train.csv:4: '' is not a number"),
        ("one,1,10", "one,1,nan", r"train.csv:4: a value is NaN or infinite"),
        ("time,x", "when,x", "train.csv: no column 'time'; it has series, when, x, label, y"),
        ("b,0\n", "bb,0\n", r"train.csv:3 \(series 'two'\): label 'bb' is no class"),
    ],
)
def test_what_is_wrong_with_a_table_of_series(tmp_path, old, new, message):
    with pytest.raises(InputError, match=message) as error:
        read_csv(tmp_path, CSV.replace(old, new))
    assert "\n" not in str(error.value)


def test_channels_get_mean_0_and_deviation_1_over_all_steps():
    rng = np.random.default_rng(0)
    items = [(rng.normal(size=(n, 3)) * [1, 20, 0] + [5, -3, 7]).astype(np.float32) for n in (4, 30, 11)]
    mean, deviation = series.standard(items)
    steps = np.concatenate([(x - mean) / deviation for x in items])
    np.testing.assert_allclose(steps.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(steps.std(0), [1, 1, 0], atol=1e-5)  # a constant channel becomes 0, not NaN


def test_made_series_do_not_meet():
    train, test = (series.read(s, source="made_series", class_names=NAMES, channels=2) for s in ("train", "test"))
    assert len(train.items) == 256 and {x.shape[1] for x in train.items} == {2}
    assert not np.array_equal(train.items[0], test.items[0])
    assert set(train.labels) == {0, 1}


def test_a_summary_by_hand():
    found = summary(np.array([[1.0, 0.0], [3.0, 0.0], [2.0, 6.0]]))
    mean, std, low, high, first, last, step = found[:-1].reshape(7, 2)
    assert found[-1] == 3
    np.testing.assert_allclose([mean, low, high, first, last, step], [[2, 2], [1, 0], [3, 6], [1, 0], [2, 6], [1.5, 3]])
    np.testing.assert_allclose(std, [np.sqrt(2 / 3), np.sqrt(8)])
    assert np.isfinite(summary(np.ones((1, 2)))).all()


def test_japanese_vowels(data_root):
    options = {"source": "series", "root": str(data_root / "japanese-vowels"), "channels": 12, "held_out": 0.2}
    options |= {"train": "JapaneseVowels_TRAIN.ts.gz", "held_out_from": "end"}
    names = tuple(str(i) for i in range(1, 10))
    options["test"] = "JapaneseVowels_TEST.ts.gz"
    train, validation = (series.read(split, class_names=names, **options) for split in ("train", "validation"))
    assert (len(train.items), len(validation.items)) == (216, 54)
    assert {len(x) for x in train.items + validation.items} <= set(range(7, 27))
    assert np.bincount(validation.labels).tolist() == [6] * 9
