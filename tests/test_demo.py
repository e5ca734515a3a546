"""The demo's baselines and its table of rows."""

import math
from types import SimpleNamespace

import numpy as np

from experiments import demo


def fake_run(tmp_path):
    rng = np.random.default_rng(0)
    words = np.array([[0, 1, 2], [3, 1, 4]])
    texts = {
        part: words[rng.integers(0, 2, n)].ravel() for part, n in (("train", 3000), ("validation", 300), ("test", 300))
    }
    return SimpleNamespace(
        workdir=tmp_path,
        task=SimpleNamespace(eval_source=lambda part: SimpleNamespace(tokens=texts[part])),
        config=SimpleNamespace(model=SimpleNamespace(vocabulary=5)),
    )


def test_text_baselines_are_an_even_guess_letters_and_an_ngram(tmp_path):
    rows = demo.text_baselines(fake_run(tmp_path), "test")
    (even, letters, ngram) = (rows[name]["nats_per_character"] for name in rows)
    assert even == math.log(5)
    assert letters < even
    assert abs(ngram - math.log(2) / 3) < 0.02  # one free choice in three characters
    assert list(rows)[2].endswith("-gram")


def test_rows_are_kept_and_read_again(tmp_path):
    run = fake_run(tmp_path)
    columns = demo.text_columns(run)
    own = dict.fromkeys([*columns, "loss"], 1.0)
    first = demo.compare(run, "test", own, "LSTM", demo.text_baselines, columns)
    again = demo.compare(run, "test", own, "LSTM", lambda *_: 1 / 0, columns)
    assert first == again
    assert list(first)[-1] == "LSTM"
    assert all(list(row) == columns for row in first.values())
