"""The pages of recurrent nets: text escaped, columns where the words are, numbers and runs that belong beside each other."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.config import load_config
from common.run import load_run
from experiments.report import report_run
from experiments.train import main as train
from lstm import pages, pictures
from lstm.data import sentences
from lstm.language_model import LanguageModel
from lstm.tasks import sentence_pages
from tests import html_pages


def parsed(text):
    """The page, which asks for nothing elsewhere."""
    page = html_pages.parsed(text)
    assert page.addresses == []
    return page


def texts_of(svg):
    """[(x, text)] of the words under a line of a heat map."""
    return [
        (float(x), text)
        for x, text in re.findall(r'<text x="([\d.]+)" [^>]*text-anchor="middle"[^>]*>([^<]*)</text>', svg)
    ]


def test_heat_map_escapes_and_wraps():
    words = ["<b>", "a&b", " ", "\n", '"', "\x07", *["word"] * 90]
    rows = [pages.Row("f <i>", np.linspace(0, 1, len(words)), "gate <x>"), pages.Row("c", -np.ones(len(words)))]
    page = pages.heat_map(rows, words, "note <n>", strong=[1])
    text = "".join(parsed(page).text)
    for shown in ("<b>", "a&b", "note <n>", "f <i>", "gate <x>", "\N{OPEN BOX}", "\N{REPLACEMENT CHARACTER}"):
        assert shown in text
    assert not re.search(r"<(b|i|x|n)>", page)
    lines = page.split("<svg")[1:]
    assert len(lines) == 4
    assert sum(len(texts_of(line)) for line in lines) == len(words)
    for line in lines:
        assert float(re.search(r'width="(\d+)"', line)[1]) <= pages.WIDTH
    assert re.findall(r'font-weight="700">([^<]*)<', page) == ["a&amp;b"]


def test_cells_lie_over_their_words_in_the_right_shade():
    values = np.array([0.0, 1.0, -1.0, 0.5, np.nan])
    page = pages.heat_map([pages.Row("h", values)], list("abcde"))
    places = {text: x for x, text in texts_of(page.split("<svg")[1])}
    drawn = {}
    for path, colour, alpha in re.findall(r'<path d="([^"]*)" style="fill:rgb\(var\(--(\w+)\) / ([\d.]+)\)"', page):
        for left, width in re.findall(r"M([\d.]+) [\d.]+h([\d.]+)v", path):
            middle = float(left) + float(width) / 2
            word = min(places, key=lambda w, m=middle: abs(places[w] - m))
            assert abs(places[word] - middle) < 1
            drawn[word] = colour, float(alpha)
    assert set(drawn) == {"b", "c", "d"}  # 0, and what is no number, stay empty
    assert drawn["b"][0] == drawn["d"][0] == "heat" and drawn["c"][0] == "miss"
    assert drawn["b"][1] == drawn["c"][1] > drawn["d"][1]


def test_memory_rows():
    trace = {name: np.random.default_rng(0).uniform(0, 1, (6, 5)) for name in "ifochz"}
    trace["c"] = 4 * trace["c"] - 2
    rows = pages.memory_rows(trace, [3, 1], np.ones(6), {3: "gender"})
    table = {row.label: row.values for row in rows}
    assert [row.label for row in rows if row.group] == [
        "f mean",
        "i mean",
        "o mean",
        "c 3 gender",
        "h 3 gender",
        "p(word)",
    ]
    np.testing.assert_allclose(table["i mean"], trace["i"].mean(1))
    np.testing.assert_allclose(table["f 3 gender"], trace["f"][:, 3])
    size = np.abs(trace["c"][:, [3, 1]]).max()
    np.testing.assert_allclose(table["c 1"], trace["c"][:, 1] / size)
    plain = pages.memory_rows({"h": trace["h"]}, [0])
    assert [row.label for row in plain] == ["h 0"]


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_memory_sections_of_any_language_model(cell):
    model = LanguageModel(7, embed=4, hidden=(6, 5), cell=cell)
    steps = 200 if cell == "rnn" else 20  # enough for gradients, or not
    tokens = np.random.default_rng(0).integers(0, 7, steps)
    params = model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    sections = pages.memory_sections(model, params, tokens, [f"<{t}>" for t in tokens])
    assert [title for title, _ in sections] == (["Memory", "Gradients"] if cell == "rnn" else ["Memory"])
    for _, body in sections:
        assert "<4>" not in body
        parsed(body)
    assert ("forget gate" in sections[0][1]) == (cell == "lstm")


def test_told_probabilities():
    model = LanguageModel(7, embed=4, hidden=(5,))
    tokens = np.array([[1, 2, 3, 0], [4, 4, 6, 5]])
    params = model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    told = pages.told_probabilities(model, params, tokens)
    logits, _ = model.apply({"params": params}, jnp.asarray(tokens))
    for row in range(2):
        for t in range(1, 4):
            scores = np.exp(np.asarray(logits[row, t - 1], np.float64))
            assert told[row, t] == pytest.approx(scores[tokens[row, t]] / scores.sum(), rel=1e-5)
    assert (told[:, 0] == 0).all()


def test_binned_accuracy():
    right, asked = np.zeros(30), np.zeros(30)
    asked[[3, 4, 12]] = 10, 30, 5
    right[[3, 4]] = 5, 25
    assert sentence_pages.binned(right, asked) == [
        (pytest.approx(3.75), pytest.approx(0.75))
    ]  # 5 questions are too few


def test_told_facts_leaves_out_the_word_that_tells():
    passage = sentences.Passages("train").passage(3)
    where, values, ages = sentence_pages.told_facts([passage], "topic")
    assert len(where) and (ages > 0).all() and (values >= 0).all()
    for (_, t), value, age in zip(where, values, ages, strict=True):
        assert passage.facts["topic"][t] == value == passage.facts["topic"][t - age]


def test_score_table():
    page = pages.score_table(["<h>", "a"], {"<n>": [0.51234], "none": [None]}, low=0.0)
    assert {"<h>", "<n>", "0.512", "\N{EN DASH}"} <= set(parsed(page).text)


def test_heat_picture():
    rows = [pages.Row("f mean", np.ones(7), "forget gate"), pages.Row("c 1", -np.ones(7), "long-term memory")]
    picture = pictures.heat_picture(rows, list("abcdefg"), [2], columns=4)
    assert picture.dtype == np.uint8 and picture.shape[1:] == (1000, 3)
    blue, red = np.array([37, 99, 235]), np.array([220, 38, 38])
    shares = [(np.abs(picture.astype(int) - colour).max(-1) < 3).mean() for colour in (blue, red)]
    assert min(shares) > 0.02 and abs(shares[0] - shares[1]) < 0.01


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two trained runs side by side, far from enough: lstm and rnn."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("lstm", "rnn"):
        variant = "smoke" if name == "lstm" else "smoke,rnn"
        words = ["--config", f"configs/lstm_sentences.py:{variant}", "--workdir", str(folder / name), "--quiet"]
        assert train([*words, "--config.mesh.devices", "1"]) == 0
    return folder


def small(monkeypatch):
    monkeypatch.setattr(sentence_pages, "FIT", 40)
    monkeypatch.setattr(sentence_pages, "HELD_OUT", 16)
    monkeypatch.setattr(sentence_pages, "ROWS", 400)


def test_report_with_a_run_beside(folder, monkeypatch):
    small(monkeypatch)
    report_run(load_run(folder / "rnn"))
    page = report_run(load_run(folder / "lstm")).read_text()
    for shown in (
        "Memory and lag",
        "Gates and memories",
        "Probes",
        "Gradients",
        "LSTM, forget bias 1 c",
        "RNN h",
        "culinary",
        "f mean",
    ):
        assert shown in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    scores = json.loads((folder / "lstm" / "evaluation-test.json").read_text())
    assert f"{scores['accuracy/topic']:.3f}" in page
    assert load_run(folder / "lstm").predict("Steve is my").keys() <= set(sentences.VOCABULARY)


def test_runs_beside(folder, tmp_path):
    run = load_run(folder / "lstm")
    assert list(sentence_pages.beside(run)) == ["RNN"]
    for source, target in (("lstm", "a/seed-0"), ("lstm", "a/seed-1"), ("rnn", "b/seed-0"), ("rnn", "b/seed-1")):
        shutil.copytree(folder / source, tmp_path / target)
    seeds = sentence_pages.beside(load_run(tmp_path / "a/seed-1"))
    assert [r.workdir for r in seeds.values()] == [tmp_path.resolve() / "b/seed-1"]
    shutil.rmtree(tmp_path / "b/seed-1/checkpoints")
    assert sentence_pages.beside(load_run(tmp_path / "a/seed-1")) == {}


def test_labels():
    model = lambda *variants: load_config(f"configs/lstm_sentences.py:{','.join(variants)}").model
    labels = [sentence_pages.label(model(*v)) for v in ((), ("rnn",), ("forget0",))]
    assert labels == ["LSTM, forget bias 1", "RNN", "LSTM, forget bias 0"]


def test_picture(folder, monkeypatch):
    small(monkeypatch)
    run = load_run(folder / "lstm")
    picture = run.task.picture(run, "test", {})
    assert picture.shape[1] == 1000 and picture.std() > 10
