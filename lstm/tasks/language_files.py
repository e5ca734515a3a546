"""A language model's answers on raw text: log-probabilities of its tokens, and files scored."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from common.errors import InputError
from common.files import not_ours, plan_outputs, write_text
from common.record import write_json
from lstm.data import text as texts
from lstm.data.streams import Windows

ROWS = 8  # windows that are scored at once
MARK = "nats_per_token"  # in the files that are written here: only those are ever replaced


def log_probabilities(
    apply: Callable, vocabulary: texts.Vocabulary, text: Any, name: str, windows: Mapping[str, int]
) -> Float[np.ndarray, " tokens"]:
    """log p of each token of a text, given those before it (as many as the windows of evaluation give); the first one, which
    has none before it, follows the token that starts a text. Raises InputError, with `name`, for unknown characters."""
    if not isinstance(text, str) or not text:
        raise InputError(f"{name}: expected a text with at least one character, as a str")
    tokens = texts.encode(vocabulary, text, name)
    source = Windows(np.concatenate([[vocabulary.start], tokens]).astype(np.int32), **windows)
    found = []
    for start in range(0, len(source), ROWS):
        rows = [source[min(i, len(source) - 1)] for i in range(start, start + ROWS)]
        read = np.stack([np.append(row["inputs"], row["targets"][-1]) for row in rows])
        values = np.asarray(apply(read))
        found += [v[row["counted"]] for v, row in zip(values[: len(source) - start], rows, strict=False)]
    return np.concatenate(found)


def predict_files(
    apply: Callable,
    vocabulary: texts.Vocabulary,
    paths: Sequence[str | Path],
    output: str | Path,
    windows: Mapping[str, int],
    *,
    probabilities: bool = False,
) -> list[Path]:
    """Scores each text file of `paths` (files, and folders of *.txt): NAME.json with tokens, nats_per_token,
    bits_per_token, perplexity (characters: bits_per_character too), and with `probabilities` NAME.tsv: token and log p, a
    line each. Returns the paths written. Raises InputError, before anything is written, where a file is missing, where two
    would become one, and where a file is in the way that was not written by an earlier call."""
    inputs = [file for path in paths for file in texts.find_files(str(path), ".", "*.txt", "--input")]
    jobs = plan_outputs(inputs, Path(output), ".json", lambda path: MARK in path.read_text(errors="replace"))
    for target in jobs:
        table = target.with_suffix(".tsv")
        if probabilities and table.exists() and not target.exists():
            raise not_ours(table)
    written = []
    for target, path in jobs.items():
        text = texts.read_text(path)
        values = log_probabilities(apply, vocabulary, text, str(path), windows)
        write_json(target, {"file": str(path), **file_scores(values, text)})
        written.append(target)
        if probabilities:
            written.append(write_table(target.with_suffix(".tsv"), vocabulary, text, values))
    return written


def file_scores(values: Float[np.ndarray, " tokens"], text: str) -> dict[str, float]:
    nats = -float(np.mean(values, dtype=np.float64))
    return {
        "tokens": len(values),
        MARK: nats,
        "bits_per_token": nats / math.log(2),
        "bits_per_character": nats / math.log(2) * len(values) / len(text),
        "perplexity": math.exp(min(nats, 700.0)),
    }


def write_table(path: Path, vocabulary: texts.Vocabulary, text: str, values: Float[np.ndarray, " tokens"]) -> Path:
    """Each token (as JSON, so that blanks and line breaks show) with its log p."""
    tokens = text if vocabulary.level == "characters" else texts.words(text)
    lines = [f"{json.dumps(token)}\t{value:.6f}\n" for token, value in zip(tokens, values, strict=True)]
    write_text(path, "token\tlog_probability\n" + "".join(lines))
    return path
