"""What recurrent nets remember, drawn: sections of a report as (title, HTML), inline SVG and tables, no more."""

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from common.chart import Number, line_chart
from lstm import inspect
from lstm.language_model import LanguageModel

WIDTH, LABEL, ROW = 1060, 116, 11  # px: of a line of a heat map, of its labels, of a row
GLYPH = 7.3  # px a character of the text, monospaced
LEVELS = 12  # of a colour
LAGS = 60  # steps back, at most, of a gradient

QUANTITIES = {  # letter, in words
    "f": "forget gate",
    "i": "input gate",
    "o": "output gate",
    "c": "long-term memory",
    "h": "working memory",
}


class Row(NamedTuple):
    """A row of a heat map: values [T] in -1 .. 1 (gates: 0 .. 1), its label, and the start of a group's first row."""

    label: str
    values: Float[np.ndarray, " t"]
    group: str = ""


def memory_sections(
    model: LanguageModel, params: Mapping[str, Any], tokens: Int[np.ndarray, " t"], words: Sequence[str]
) -> list[tuple[str, str]]:
    """What a language model's top layer does along `tokens`, shown as `words`, and how far back its gradients reach."""
    tokens = np.asarray(tokens, np.int32)[None]
    top = {name: np.asarray(x[0]) for name, x in inspect.model_traces(model, params, jnp.asarray(tokens))[-1].items()}
    memory = top.get("c", top["h"])
    units = inspect.lasting_units(memory, 4)
    told = told_probabilities(model, params, tokens)[0]
    note = f"The units shown are those whose memory lasts longest along this text, of the {memory.shape[-1]} of layer {len(model.hidden)}."
    sections = [("Memory", heat_map(memory_rows(top, units, told), words, note))]
    if tokens.shape[1] >= 2 * LAGS + 2:
        count = tokens.shape[1] // (LAGS + 2)
        windows = tokens[0, : count * (LAGS + 2)].reshape(count, LAGS + 2)
        ends = np.full(count, LAGS, np.int32)
        sections.append(("Gradients", gradient_charts(model, {"this run": (model, params)}, windows, ends)))
    return sections


def told_probabilities(
    model: LanguageModel, params: Mapping[str, Any], tokens: Int[np.ndarray, "b t"]
) -> Float[np.ndarray, "b t"]:
    """The probability that the model gave to each token before it came; 0 for the first, which nothing foretells."""
    logits, _ = model.apply({"params": params}, jnp.asarray(tokens))
    chances = jax.nn.softmax(logits[:, :-1])
    told = jnp.take_along_axis(chances, jnp.asarray(tokens)[:, 1:, None], axis=-1)[..., 0]
    return np.pad(np.asarray(told), ((0, 0), (1, 0)))


def memory_rows(
    trace: Mapping[str, Float[np.ndarray, "t _"]],
    units: Sequence[int],
    told: Float[np.ndarray, " t"] | None = None,
    names: Mapping[int, str] | None = None,
) -> list[Row]:
    """Rows of a heat map: mean and `units` of the gates, `units` of the memories (by their largest size), and how probable
    the text was. names: what to call a unit beside its number."""
    names = names or {}
    rows = []
    for letter, title in QUANTITIES.items():
        if letter not in trace:
            continue
        values = np.asarray(trace[letter])
        chosen = [u for u in units if u < values.shape[-1]]  # with a projection, h is narrower than c
        own = [(f"{letter} {u} {names.get(u, '')}".rstrip(), values[:, u]) for u in chosen]
        if letter in "fio":
            own = [(f"{letter} mean", values.mean(-1)), *own]
        else:
            size = max((np.abs(v).max() for _, v in own), default=1.0) or 1.0
            own = [(label, v / size) for label, v in own]
        rows += [Row(label, v, "" if place else title) for place, (label, v) in enumerate(own)]
    if told is not None:
        rows.append(Row("p(word)", np.asarray(told), "foretold"))
    return rows


def heat_map(rows: Sequence[Row], words: Sequence[str], note: str = "", strong: Sequence[int] = ()) -> str:
    """Words as columns, as wide as the word under them, wrapped to lines; `strong` words are set bold. All text is
    escaped."""
    shown = [visible(word) for word in words]
    widths = [max(len(word), 1) * GLYPH + (7 if max(map(len, shown)) > 1 else 2) for word in shown]
    lines, start, used = [], 0, 0.0
    for place, width in enumerate(widths):
        if used + width > WIDTH - LABEL and place > start:
            lines.append((start, place))
            start, used = place, 0.0
        used += width
    lines.append((start, len(words)))
    keys = "".join(f'<span><i class="swatch" style="background:{shade(v)}"></i>{v}</span>' for v in (-1, 0, 1))
    keys = f'<div class="legend">{keys}<span>gates 0 to 1; memories by the largest size of the units shown</span></div>'
    parts = [heat_line(rows, shown, widths, begin, end, set(strong)) for begin, end in lines]
    text = f"<p>{html.escape(note)}</p>" if note else ""
    return f'{text}{keys}<div class="scroll">{"".join(parts)}</div>'


def heat_line(rows, shown: Sequence[str], widths: Sequence[float], begin: int, end: int, strong: set[int]) -> str:
    """One line of the text with all rows over it, as an SVG."""
    lefts = LABEL + np.concatenate([[0.0], np.cumsum(widths[begin:end])])
    parts, top = [], 2.0
    for row in rows:
        top += 6 if row.group else 0
        label = html.escape(f"{row.group}, {row.label}" if row.group else row.label)
        parts.append(
            f'<text x="{LABEL - 6}" y="{top + ROW - 2.5:.1f}" text-anchor="end"><title>{label}</title>{label_text(row)}</text>'
        )
        parts += cells(row.values[begin:end], lefts, top)
        top += ROW
    for place in range(begin, end):
        middle = (lefts[place - begin] + lefts[place - begin + 1]) / 2
        bold = ' font-weight="700"' if place in strong else ""
        parts.append(
            f'<text x="{middle:.1f}" y="{top + 15:.1f}" text-anchor="middle"{bold}>{html.escape(shown[place])}</text>'
        )
    height, right = top + 26, lefts[-1] + 2
    style = "display:block;fill:var(--text);font:12px ui-monospace,Menlo,Consolas,monospace"
    return f'<svg width="{right:.0f}" height="{height:.0f}" style="{style}" role="img" aria-label="heat map">{"".join(parts)}</svg>'


def label_text(row: Row) -> str:
    return f'<tspan font-size="10">{html.escape(row.label)}</tspan>'


def cells(values: Float[np.ndarray, " t"], lefts: Float[np.ndarray, " t1"], top: float) -> list[str]:
    """One path for each shade of a row: a few bytes a cell."""
    levels = np.rint(np.clip(np.nan_to_num(values), -1, 1) * LEVELS).astype(int)
    paths = []
    for level in sorted({*levels.tolist()} - {0}):
        boxes = "".join(
            f"M{lefts[t]:.1f} {top:.1f}h{lefts[t + 1] - lefts[t] - 0.6:.1f}v{ROW - 0.8}H{lefts[t]:.1f}z"
            for t in np.flatnonzero(levels == level)
        )
        paths.append(f'<path d="{boxes}" style="fill:{shade(level / LEVELS)}"/>')
    return paths


def shade(value: float) -> str:
    """The colour of -1 .. 1: the page's blue above 0, its red below."""
    return f"rgb(var(--{'heat' if value >= 0 else 'miss'}) / {0.06 + 0.9 * abs(value):.2f})"


def visible(token: str) -> str:
    """A token as it can be seen: blanks and line ends are signs."""
    signs = {
        " ": "\N{OPEN BOX}",
        "\n": "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}",
        "\t": "\N{RIGHTWARDS ARROW TO BAR}",
    }
    return (
        "".join(signs.get(c, c if c.isprintable() else "\N{REPLACEMENT CHARACTER}") for c in token) or "\N{EMPTY SET}"
    )


def gradient_charts(
    model: LanguageModel,
    trained: Mapping[str, tuple[LanguageModel, Any]],
    tokens: Int[np.ndarray, "b t"],
    ends: Int[np.ndarray, " b"],
    lags: int = LAGS,
) -> str:
    """How much the loss at a place depends on each input before it: fresh nets of each kind, as wide as `model`, and
    `trained` ones. The loss is that of the token after ends[b]."""
    kinds = {"RNN": ("rnn", {}), "LSTM, forget bias 0": ("lstm", {"forget_bias": 0.0})}
    kinds["LSTM, forget bias 1"] = ("lstm", {"forget_bias": 1.0})
    bias = dict(model.options).get("forget_bias", 1.0)
    if model.cell == "lstm" and bias not in (0, 1):
        kinds[f"LSTM, forget bias {bias:g}"] = ("lstm", {"forget_bias": bias})
    nets = {name: inspect.fresh(model, cell, **options) for name, (cell, options) in kinds.items()}
    charts = []
    for title, group in (("at initialisation", nets), ("after training", trained)):
        curves = {}
        for name, (net, params) in group.items():
            norms = inspect.model_gradient_norms(net, params, jnp.asarray(tokens), jnp.asarray(ends), lags)
            curves[name] = relative(np.asarray(norms))
        charts.append(line_chart(f"gradient at lag k / at lag 0, {title}", curves, log=True))
    text = (
        "The norm of d loss / d input k steps before the loss, mean over sequences, as a share of that at k = 0. A plain recurrent "
        "net's gradient vanishes by the same factor at each step; an LSTM's passes through the cell, whose forget gate keeps it."
    )
    return f'<p>{text}</p><div class="charts">{"".join(charts)}</div>'


def relative(norms: Float[np.ndarray, " k"]) -> list[tuple[Number, Number]]:
    """(k, norm at k / norm at 0); what is too small for float32 is left out."""
    return [(k, float(n / norms[0])) for k, n in enumerate(norms) if n > 1e-30 and norms[0] > 0]


def lag_charts(curves: Mapping[str, Mapping[str, Sequence[tuple[Number, Number]]]]) -> str:
    """Accuracy against lag: question -> net -> points."""
    charts = [line_chart(f"{question}: accuracy by words since it was told", nets) for question, nets in curves.items()]
    return f'<div class="charts">{"".join(charts)}</div>'


def score_table(
    head: Sequence[str], rows: Mapping[str, Sequence[Number | None]], *, digits: int = 3, low: float | None = None
) -> str:
    """Numbers with names in the first column. low: numbers from it (no shade) to 1 are shaded."""
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = ""
    for name, values in rows.items():
        body += f"<tr><th>{html.escape(name)}</th>"
        for value in values:
            known = value is not None and np.isfinite(value)
            colour = ""
            if known and low is not None:
                colour = f' style="background:rgb(var(--heat) / {0.6 * max(value - low, 0) / (1 - low):.2f})"'
            body += f"<td{colour}>{f'{value:.{digits}f}' if known else chr(0x2013)}</td>"
        body += "</tr>"
    return f'<div class="scroll"><table class="matrix"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
