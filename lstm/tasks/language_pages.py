"""A language model's sections of a report: text that it writes, and the tokens that cost it most."""

import html
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Integer

from common.report import number_table
from lstm import pages as memory_pages
from lstm.data import text as texts
from lstm.decode import generate

SHOWN = {"characters": 400, "words": 150}  # tokens of the split under the heat map of the memories
LENGTH = {"characters": 480, "words": 100}
TEMPERATURES = (0.5, 0.8, 1.0)


def pages(
    net: Any, params: Any, vocabulary: texts.Vocabulary, tokens: Integer[np.ndarray, " n"], metrics: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """The sections (title, HTML) of a run; `tokens` are those of the split."""
    read = np.asarray(tokens[: SHOWN[vocabulary.level]], np.int32)
    words = [vocabulary.entries[token] for token in read]
    return [
        ("Written by the model", samples(net, params, vocabulary)),
        (
            "Where the loss is",
            hardest(vocabulary, np.asarray(metrics["tokens"].total), np.asarray(metrics["tokens"].count)),
        ),
        *memory_pages.memory_sections(net, params, read, words),
    ]


def samples(net: Any, params: Any, vocabulary: texts.Vocabulary) -> str:
    """One text for each of a few temperatures."""
    parts = []
    for temperature in TEMPERATURES:
        chunks = generate(
            net,
            params,
            [[vocabulary.start]],
            length=LENGTH[vocabulary.level],
            temperature=temperature,
            allowed=may_be_drawn(vocabulary, net.vocabulary),
        )
        written = texts.decode(vocabulary, np.concatenate(list(chunks), axis=1)[0])
        parts.append(f"<h3>temperature {temperature}</h3><pre>{html.escape(written)}</pre>")
    return "".join(parts)


def may_be_drawn(vocabulary: texts.Vocabulary, size: int) -> np.ndarray:
    """Which of the model's `size` tokens are texts of their own: not <unk>, nor rows that the vocabulary does not fill."""
    return (np.arange(size) < len(vocabulary.entries)) & (np.arange(size) != vocabulary.unknown)


def hardest(vocabulary: texts.Vocabulary, total: np.ndarray, count: np.ndarray, most: int = 15) -> str:
    """The tokens with the largest shares of the whole loss."""
    rows = []
    for place in np.argsort(-total, kind="stable")[:most]:
        if count[place]:
            name = vocabulary.entries[place]
            shown = repr(name) if vocabulary.level == "characters" else name
            share, mean = total[place] / max(total.sum(), 1e-9), total[place] / count[place]
            rows.append([shown, f"{int(count[place])}", f"{mean:.2f}", f"{100 * share:.1f} %"])
    return number_table(["token", "times", "nats each", "share of the loss"], rows)
