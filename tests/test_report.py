"""The report: one page that needs nothing beside it, with the right numbers and pictures in it."""

import base64
import io
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from common import chart
from common.errors import InputError
from common.report import write_report
from experiments.report import read_metrics
from tests.html_pages import parsed
from unet import pages

NAMES, COLOURS = ["background", "<script>x</script>", "c"], [(0, 0, 0), (10, 200, 30), (250, 100, 0)]


def run_folder(tmp_path, steps=30):
    (tmp_path / "config.json").write_text(json.dumps({"seed": 3, "model": {"depth": 4, "name": "<b>"}}))
    run = {
        "command": "python -m experiments.train --config a<b>.py",
        "commit": "0123456789abcdef-dirty",
        "machine": {"processor": "Z80", "cores": 2, "memory_gb": 0.5, "accelerators": []},
        "devices": ["cpu:0", "cpu:1", "cpu:2"],
        "seed": 3,
    }
    (tmp_path / "run.json").write_text(json.dumps(run))
    lines = [{"step": s, "split": "train", "loss": 2.0 / s, "learning_rate": 1e-3} for s in range(1, steps + 1)]
    lines += [
        {"step": s, "split": "validation", "loss": None, "dice/foreground": s / 100} for s in range(10, steps + 1, 10)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 31, "spl')
    (tmp_path / "evaluation-test.json").write_text(
        json.dumps({"loss": 0.5, "dice/foreground": 0.87654, "examples": 12.0})
    )
    return tmp_path


def images(count=6, shape=(20, 24), seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (count, *shape)).astype(np.int32)
    wrong = rng.uniform(size=labels.shape) < np.linspace(0.1, 0.6, count)[:, None, None]
    predictions = np.where(wrong, rng.integers(0, 3, labels.shape), labels).astype(np.int32)
    labels[0, :4] = 255
    confusions = np.zeros((count, 3, 3), np.int64)
    for n in range(count):
        known = labels[n] != 255
        np.add.at(confusions[n], (labels[n][known], predictions[n][known]), 1)
    return labels, predictions, confusions


def test_page_is_self_contained_well_formed_and_escaped(tmp_path):
    labels, predictions, confusions = images()
    samples = [
        {
            "name": f"a<{n}>.png",
            "image": labels[n][..., None] / 2,
            "label": labels[n],
            "prediction": predictions[n],
            "dice": 0.5,
        }
        for n in range(2)
    ]
    sections = pages.pages(confusions, np.arange(6), samples, NAMES, COLOURS, background=0)
    path = write_report(run_folder(tmp_path), sections, main="dice/foreground")
    assert path == tmp_path / "report.html"
    assert sorted(p.name for p in tmp_path.glob(".*")) == []
    text = path.read_text()
    page = parsed(text)
    assert all(a.startswith(("#", "data:image/")) for a in page.addresses)
    assert "http" not in re.sub(r"base64,[^\"]*", "", text) and "url(" not in text and "@import" not in text
    assert "script" not in page.tags and page.tags.count("img") == 8
    words = " ".join(page.text)
    facts = ("a<b>.py", "0123456789ab-dirty", "cpu:0 and 2 more", "Z80, 2 cores, 0.5 GB")
    for expected in ("0.8765", "test, 12 examples", *facts, "a<1>.png", NAMES[1]):
        assert expected in words
    for title in ("Scores", "Classes", "Confusion", "Samples", "Curves", "Configuration"):
        assert f"<h2>{title}</h2>" in text


def test_report_of_a_run_that_has_only_begun(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    parsed(write_report(tmp_path).read_text())


def test_no_run_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="config.json is missing"):
        write_report(tmp_path)
    run_folder(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match="run.json: not JSON"):
        write_report(tmp_path)


def numbers_of(text, row):
    cells = re.search(rf">{row}</th>(.*?)</tr>", text.partition("<tbody>")[2], re.S)[1]
    return [re.sub("<[^>]*>", "", c) for c in re.findall("<td.*?>(.*?)</td>", cells, re.S)]


def test_class_table_against_sklearn():
    labels, predictions, confusions = images()
    known = labels != 255
    truth, guess = labels[known], predictions[known]
    expected = [f(truth, guess, average=None) for f in (f1_score, jaccard_score, precision_score, recall_score)]
    table = pages.class_table(confusions.sum(0), ["a", "b", "c"], COLOURS, background=0)
    for i, name in enumerate("abc"):
        assert numbers_of(table, name)[:4] == [f"{e[i]:.4f}" for e in expected]
        assert numbers_of(table, name)[4] == chart.short(int((truth == i).sum()))
    assert numbers_of(table, "mean of the foreground")[:4] == [f"{e[1:].mean():.4f}" for e in expected]


def test_absent_class_has_no_scores():
    matrix = np.array([[5, 0, 0], [1, 4, 0], [0, 0, 0]])
    table = pages.class_table(matrix, ["a", "b", "c"], COLOURS)
    assert numbers_of(table, "c")[:4] == ["\N{EN DASH}"] * 4
    assert numbers_of(table, "mean")[0] == f"{(10 / 11 + 8 / 9) / 2:.4f}"


def test_confusion_table_shows_shares_and_counts():
    table = pages.confusion_table(np.array([[30, 10], [0, 5]]), ["a", "b"], COLOURS[:2])
    assert numbers_of(table, "a") == ["75.0 %30", "25.0 %10"]
    assert numbers_of(table, "b") == ["0.0 %0", "100.0 %5"]


def test_confusion_of_many_classes_is_set_small():
    names = [f"n{i}" for i in range(10)]
    table = pages.confusion_table(np.eye(10, dtype=int) * 7, names, [(1, 2, 3)] * 10)
    parsed(table)
    assert numbers_of(table, "3 n3") == ["0"] * 3 + ["100"] + ["0"] * 6 and "n3 as n3: 7 pixels" in table


def test_foreground_dice_of_images_against_sklearn():
    labels, predictions, confusions = images()
    for n, dice in enumerate(pages.foreground_dice(confusions, background=0)):
        known = labels[n] != 255
        expected = f1_score(labels[n][known], predictions[n][known], average=None, labels=[1, 2]).mean()
        assert dice == pytest.approx(expected, abs=1e-12)
    empty = np.zeros((1, 3, 3), np.int64)
    empty[0, 0, 0] = 9
    assert np.isnan(pages.foreground_dice(empty, background=0)[0])


def test_scores_table_marks_the_model():
    table = pages.scores_table({"look-up": {"dice": 0.5, "iou": None}, "U-Net": {"dice": 0.9, "iou": 0.8}})
    assert numbers_of(table, "U-Net") == ["0.9000", "0.8000"]
    assert numbers_of(table, "look-up") == ["0.5000", "\N{EN DASH}"]
    assert table.index("look-up") < table.index("class=strong") < table.index("U-Net")
    assert table.count("class=strong") == 1


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 40), st.integers(3, 8), st.integers(0, 5))
def test_chosen_samples_hold_worst_median_and_best(count, wanted, seed):
    dices = np.random.default_rng(seed).uniform(size=count)
    chosen = pages.choose_samples(np.append(dices, np.nan), wanted)
    assert len(chosen) == min(wanted, count) == len({place for place, _ in chosen})
    values = [dices[place] for place, _ in chosen]
    assert values == sorted(values)
    notes = {note: place for place, note in chosen}
    if count > 2:
        assert dices[notes["worst"]] == dices.min() and dices[notes["best"]] == dices.max()
        assert dices[notes["median"]] == np.sort(dices)[(count - 1) // 2]


def test_pictures_in_the_page_are_the_arrays():
    labels, predictions, _ = images()
    sample = {"name": "a", "image": labels[1][..., None] / 2, "label": labels[1], "prediction": predictions[1]}
    grid = pages.sample_grid([sample], ["a", "b", "c"], COLOURS)
    found = [Image.open(io.BytesIO(base64.b64decode(d))) for d in re.findall(r"base64,([^\"]*)", grid)]
    assert len(found) == 4 and "does not count" not in grid
    np.testing.assert_array_equal(np.asarray(found[1].convert("RGB")), np.array(COLOURS, np.uint8)[labels[1]])
    np.testing.assert_array_equal(np.asarray(found[2].convert("RGB")), np.array(COLOURS, np.uint8)[predictions[1]])
    red = np.asarray(found[3], int)
    reddish = red[..., 0] - red[..., 1] > 90  # JPEG: about red
    assert (reddish == (labels[1] != predictions[1])).mean() > 0.97
    large = np.zeros((1000, 600, 3), np.uint8)
    tag = pages.picture_tag(large, "x")
    assert Image.open(io.BytesIO(base64.b64decode(re.search('base64,([^"]*)', tag)[1]))).size == (230, 384)


def test_chart_draws_each_point_at_its_place():
    text = chart.line_chart("t<", {"one": [(0, 0.0), (10, 1.0)], "none": [], "gap": [(0, float("nan")), (5, 0.5)]})
    parsed(text)
    lines = re.findall('points="(.*?)"', text)
    right, bottom = chart.WIDTH - chart.RIGHT, chart.HEIGHT - chart.BOTTOM
    first = [tuple(map(float, p.split(","))) for p in lines[0].split()]
    assert first == [(chart.LEFT, bottom), (right, chart.TOP)]
    assert [tuple(map(float, lines[1].split(",")))] == [((chart.LEFT + right) / 2, (chart.TOP + bottom) / 2)]
    assert len(lines) == 2 and 'class="line2"' in text and 'class="line1"' not in text
    assert chart.line_chart("t", {"none": []}) == ""
    parsed(chart.line_chart("one point", {"a": [(3, 2.0)]}, log=True))


def test_long_series_are_averaged():
    points = [(x, float(x % 2)) for x in range(10_000)]
    thin = chart.thin(points)
    assert len(thin) == chart.POINTS and thin[0][0] == 0 and thin[-1][0] == 9999
    assert all(abs(y - 0.5) < 0.02 for _, y in thin)


@settings(max_examples=200, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_enclose_the_range(low, span):
    marks = chart.ticks(low, low + span)
    assert 1 <= len(marks) <= 9 and marks == sorted(marks)
    assert marks[0] <= low + 1e-6 * span + 1e-9 * abs(low) and marks[-1] >= low + span - 1e-6 * span - 1e-9 * abs(low)
    positive = chart.log_ticks(span, span * 100)
    assert positive[0] <= span and positive[-1] >= span * 99.999


def test_metrics_of_an_evaluation_are_read_back(tmp_path):
    arrays = {"loss.total": np.float64(3), "loss.count": np.float64(4), "confusions.matrix": np.eye(2)[None]}
    np.savez_compressed(tmp_path / "e.npz", **arrays)
    metrics = read_metrics(tmp_path / "e.npz")
    assert metrics["loss"].total == 3 and metrics["loss"].count == 4
    np.testing.assert_array_equal(metrics["confusions"].matrix[0], np.eye(2))
