"""A classifier's sections of a report: classes, confusion, examples with what the model looked at; and a picture of some."""

import html
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from common.chart import line_chart, short
from common.report import number_table, value_text
from lstm import scores as scoring
from lstm.data.reviews import words

LINES = 6  # of the channels of a series, at most, are drawn
WORDS = 220  # of a text, at most, are shown


def pages(
    run: Any,
    split: str,
    answers: scoring.Answers,
    samples: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    texts: bool,
) -> list[tuple[str, str]]:
    """The sections (title, HTML) of a run. samples: as `lstm.tasks.classify.samples` gives them."""
    matrix = scoring.confusion(answers)
    sections = []
    path = run.workdir / f"baselines-{split}.json"
    if path.exists():
        sections.append(("Baselines", baseline_table(json.loads(path.read_text()))))
    sections.append(("Classes", class_table(matrix, names)))
    sections.append(("Confusion", confusion_table(matrix, names)))
    wrong = [s for s in samples if s["probabilities"].argmax() != s["label"]]
    right = [s for s in samples if s["probabilities"].argmax() == s["label"]]
    show = text_sample if texts else series_sample
    for title, chosen in (("Most wrong", wrong), ("Right, from least to most sure", right)):
        if chosen:
            sections.append((title, legend(texts) + "".join(show(s, names) for s in chosen)))
    return sections


def baseline_table(rows: Mapping[str, Mapping[str, float | None]]) -> str:
    """Scores of several methods side by side."""
    names = list(dict.fromkeys(name for scores in rows.values() for name in scores))
    return number_table(["", *names], [[method, *(value_text(s.get(n)) for n in names)] for method, s in rows.items()])


def class_table(matrix: Int[np.ndarray, "k k"], names: Sequence[str]) -> str:
    """Precision, recall, F1 and examples of each class."""
    table = scoring.ratios(matrix)
    rows = [
        [name, *(value_text(table[kind][i]) for kind in ("precision", "recall", "f1")), short(int(matrix[i].sum()))]
        for i, name in enumerate(names)
    ]
    return number_table(["class", "precision", "recall", "F1", "examples"], rows)


def confusion_table(matrix: Int[np.ndarray, "k k"], names: Sequence[str]) -> str:
    """Rows are labels, columns predictions: examples, shaded by their share of the row."""
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = []
    for i, name in enumerate(names):
        cells = []
        for j, share in enumerate(shares[i]):
            # The square root shows small confusions; the text stays readable on the darkest shade.
            colour = f"rgb(var(--{'heat' if i == j else 'miss'}) / {0.75 * float(share) ** 0.5:.2f})"
            cells.append(f'<td style="background:{colour}">{short(int(matrix[i, j]))}</td>')
        rows.append(f"<tr><th>{html.escape(name)}</th>{''.join(cells)}</tr>")
    top = f"<tr><th>label \N{DOWNWARDS ARROW}, prediction \N{RIGHTWARDS ARROW}</th>{head}</tr>"
    kind = "matrix dense" if len(names) > 8 else "matrix"
    return f'<div class="scroll"><table class="{kind}"><thead>{top}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def legend(texts: bool) -> str:
    if not texts:
        return "<p>Channels over steps, as the model reads them; below, what share of the pooled output each step gave.</p>"
    return "<p>Words shaded by the share of the pooled output that they gave; quiet words were cut off.</p>"


def verdict(sample: Mapping[str, Any], names: Sequence[str]) -> str:
    """'negative, predicted positive (0.97)'."""
    chances = sample["probabilities"]
    top = int(chances.argmax())
    said = "as predicted" if top == sample["label"] else f"predicted {names[top]}"
    return f"{names[sample['label']]}, {said} ({chances[top]:.2f})"


def shades(shares: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Shares as shades, 0 to 1: those of the strongest steps are 1."""
    top = float(np.sort(shares)[-max(len(shares) // 50, 1)]) if len(shares) else 0.0
    return np.clip(shares / max(top, 1e-12), 0, 1)


def marked_words(sample: Mapping[str, Any]) -> list[tuple[str, float | None]]:
    """The words of a text, each with its shade; None where it was cut off. Of long texts, those around the first words that
    were read."""
    found: list[tuple[str, float | None]] = [(word, None) for word in words(sample["raw"])]
    for place, shade in zip(sample["kept"], shades(sample["shares"]), strict=True):
        found[place] = (found[place][0], float(shade))
    first = max(int(sample["kept"][0]) - 10, 0) if len(found) > WORDS else 0
    return found[first : first + WORDS]


def text_sample(sample: Mapping[str, Any], names: Sequence[str]) -> str:
    body = []
    for word, shade in marked_words(sample):
        style = f"background:rgb(var(--heat) / {0.6 * shade:.2f})" if shade is not None else "opacity:0.45"
        body.append(f'<span style="{style};border-radius:3px;padding:1px 2px">{html.escape(word)}</span>')
    more = " \N{HORIZONTAL ELLIPSIS}" if len(words(sample["raw"])) > WORDS else ""
    title = f"{html.escape(verdict(sample, names))} <small>{html.escape(sample['name'])}</small>"
    return f'<h3>{title}</h3><div style="line-height:1.7">{" ".join(body)}{more}</div>'


def series_sample(sample: Mapping[str, Any], names: Sequence[str]) -> str:
    values = sample["inputs"]
    lines = {f"{c}": list(enumerate(values[:, c].tolist())) for c in range(min(values.shape[1], LINES))}
    title = f"{verdict(sample, names)}"
    share = {"share": list(enumerate(sample["shares"].tolist()))}
    more = f" <small>{values.shape[1]} channels, {LINES} drawn</small>" if values.shape[1] > LINES else ""
    place = f"<small>{html.escape(sample['name'])}</small>"
    charts = line_chart("channels", lines) + line_chart("share of the pooled output", share)
    return f'<h3>{html.escape(title)} {place}{more}</h3><div class="charts">{charts}</div>'


# A picture ----------------------------------------------------------------------------------------------------------------


def picture(samples: Sequence[Mapping[str, Any]], names: Sequence[str], texts: bool) -> UInt8[np.ndarray, "h w 3"]:
    """A few examples with their answers: texts with shaded words, series as lines."""
    return text_picture(samples, names) if texts else series_picture(samples, names)


def text_picture(
    samples: Sequence[Mapping[str, Any]], names: Sequence[str], width: int = 1000, lines: int = 7
) -> UInt8[np.ndarray, "h w 3"]:
    """Each text in at most `lines` lines of `width` pixels."""
    font, bold = ImageFont.load_default(17), ImageFont.load_default(19)
    step, gap, edge = 26, 5, 18
    sheet = Image.new("RGB", (width, len(samples) * (lines + 2) * step + edge), "white")
    draw = ImageDraw.Draw(sheet)
    y = edge
    for sample in samples:
        right = sample["probabilities"].argmax() == sample["label"]
        draw.text((edge, y), verdict(sample, names), fill=(20, 110, 60) if right else (190, 30, 30), font=bold)
        x, y, left = edge, y + step, lines
        for word, shade in marked_words(sample):
            extent = draw.textlength(word, font=font)
            if x + extent > width - edge:
                x, y, left = edge, y + step, left - 1
                if not left:
                    break
            pale = round(255 * (1 - 0.6 * (shade or 0)))
            draw.rectangle((x - 2, y, x + extent + 2, y + step - 4), fill=(pale, round(128 + pale / 2), 255))
            draw.text((x, y), word, fill=(25, 25, 25) if shade is not None else (150, 150, 150), font=font)
            x += extent + gap
        y += step if left else 0
        y += step // 2
    return np.asarray(sheet.crop((0, 0, width, y + edge // 2)))


def series_picture(samples: Sequence[Mapping[str, Any]], names: Sequence[str]) -> UInt8[np.ndarray, "h w 3"]:
    """Each series in a panel of its own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes a second: only who draws waits
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, sample in zip(figure.subplots(1, max(len(samples), 1), squeeze=False)[0], samples, strict=False):
        axes.plot(sample["inputs"], linewidth=1)
        right = sample["probabilities"].argmax() == sample["label"]
        axes.set_title(verdict(sample, names), fontsize=9, color="black" if right else "firebrick")
        axes.tick_params(labelsize=7)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return np.asarray(Image.open(file).convert("RGB"))
