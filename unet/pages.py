"""U-Net's sections of a report: HTML from numbers and arrays, no more. `common.report` puts them into the page."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image

from common.chart import Number, line_chart, short
from unet import pictures

SIDE = 384  # px, at most, of an embedded picture


def pages(
    confusions: Integer[np.ndarray, "N K K"],
    image_ids: Integer[np.ndarray, " N"],
    samples: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    colours: Sequence[Sequence[int]],
    *,
    background: int | None = None,
    baselines: Mapping[str, Mapping[str, Number]] | None = None,
) -> list[tuple[str, str]]:
    """The sections (title, HTML) of a segmentation run.

    `confusions[n, label, prediction]` in pixels of image `image_ids[n]`; a sample is {"name", "image" [H,W,C], "label"
    [H,W], "prediction" [H,W], "dice"} and may have a "note"; `baselines` are rows of a table of scores, the model's own
    among them; `background` is the class that foreground scores leave out.
    """
    total = confusions.sum(0)
    sections = [("Baselines", scores_table(baselines))] if baselines else []
    dices = foreground_dice(confusions, background)
    order = np.argsort(dices[np.isfinite(dices)])
    ranked = [(place + 1, float(value)) for place, value in enumerate(dices[np.isfinite(dices)][order])]
    chart = line_chart("foreground Dice of each image, worst to best", {"best": ranked}) if len(ranked) > 1 else ""
    sections.append(("Classes", class_table(total, class_names, colours, background)))
    sections.append(("Confusion", f'<div class="pair">{confusion_table(total, class_names, colours)}<div>{chart}</div></div>'))
    if samples:
        sections.append(("Samples", sample_grid(samples, class_names, colours)))
    return sections


def foreground_dice(confusions: Integer[np.ndarray, "N K K"], background: int | None = None) -> Float[np.ndarray, " N"]:
    """Mean Dice of each image over the foreground classes that are in its label or prediction; NaN where none is."""
    matrix = confusions.astype(np.float64)
    both = matrix.diagonal(axis1=1, axis2=2)
    size = matrix.sum(1) + matrix.sum(2)
    present = size > 0
    if background is not None:
        present[:, background] = False
    dice = np.where(present, 2 * both / np.maximum(size, 1), 0)
    return np.where(present.any(1), dice.sum(1) / np.maximum(present.sum(1), 1), np.nan)


def choose_samples(dices: Float[np.ndarray, " N"], count: int = 6) -> list[tuple[int, str]]:
    """`count` places from worst to best, evenly spread over the ranks, with what each is ('worst', 'median', ...)."""
    places = np.flatnonzero(np.isfinite(dices))
    ranked = places[np.argsort(dices[places], kind="stable")]
    ranks = np.unique(np.rint(np.linspace(0, len(ranked) - 1, min(count, len(ranked)))).astype(int)) if len(ranked) else []
    middle = (len(ranked) - 1) // 2
    ranks = sorted({*map(int, ranks), middle} if len(ranked) > 2 and count > 2 else map(int, ranks))
    if len(ranks) > count:  # the median came on top: its nearest neighbour goes
        ranks.remove(min((r for r in ranks[1:-1] if r != middle), key=lambda r: abs(r - middle)))
    names = {middle: "median", len(ranked) - 1: "best", 0: "worst"}
    return [(int(ranked[r]), names.get(r, f"rank {r + 1} of {len(ranked)}")) for r in ranks]


def swatch(colour: Sequence[int]) -> str:
    return f'<i class="swatch" style="background:rgb({int(colour[0])} {int(colour[1])} {int(colour[2])})"></i>'


def class_table(
    matrix: Integer[np.ndarray, "K K"],
    class_names: Sequence[str],
    colours: Sequence[Sequence[int]],
    background: int | None = None,
) -> str:
    """Dice, IoU, precision, recall and pixels of each class over the whole set, then their mean without background."""
    both, labelled, predicted = (np.asarray(v, np.float64) for v in (matrix.diagonal(), matrix.sum(1), matrix.sum(0)))
    with np.errstate(invalid="ignore"):
        columns = [
            2 * both / (labelled + predicted),
            both / (labelled + predicted - both),
            both / predicted,
            both / labelled,
        ]
    rows = []
    for i, name in enumerate(class_names):
        bar = f'<span class="bar"><i style="width:{100 * np.nan_to_num(columns[0][i]):.0f}%"></i></span>'
        numbers = "".join(f"<td>{score(c[i])}{bar if place == 0 else ''}</td>" for place, c in enumerate(columns))
        share = f"{100 * labelled[i] / max(labelled.sum(), 1):.1f} %"
        rows.append(
            f"<tr><th>{swatch(colours[i])}{html.escape(name)}</th>{numbers}"
            f"<td>{short(float(labelled[i]))}</td><td>{share}</td></tr>"
        )
    chosen = [i for i in range(len(class_names)) if i != background]
    means = [mean(c[chosen]) for c in columns]
    label = "mean of the foreground" if background is not None else "mean"
    numbers = "".join(f"<td>{score(m)}{bar_space if not place else ''}</td>" for place, m in enumerate(means))
    rows.append(f'<tr class="total"><th>{label}</th>{numbers}<td></td><td></td></tr>')
    head = "".join(f"<th>{name}</th>" for name in ("class", f"Dice{bar_space}", "IoU", "precision", "recall", "pixels", "share"))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


bar_space = '<span class="bar" style="visibility:hidden"></span>'


def mean(values: Float[np.ndarray, " K"]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def score(value: Number) -> str:
    return f"{value:.4f}" if np.isfinite(value) else "\N{EN DASH}"


def confusion_table(
    matrix: Integer[np.ndarray, "K K"], class_names: Sequence[str], colours: Sequence[Sequence[int]]
) -> str:
    """Rows are labels, columns predictions: the share of the row, shaded by it, and the pixels."""
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    head = "".join(f"<th>{swatch(c)}{html.escape(n)}</th>" for n, c in zip(class_names, colours, strict=True))
    rows = []
    for i, name in enumerate(class_names):
        cells = []
        for j, share in enumerate(shares[i]):
            # The square root shows small confusions; the text stays readable on the darkest shade.
            colour = f"rgb(var(--{'heat' if i == j else 'miss'}) / {0.75 * float(share) ** 0.5:.2f})"
            count = short(int(matrix[i, j]))
            cells.append(f'<td style="background:{colour}">{100 * share:.1f} %<small>{count}</small></td>')
        rows.append(f"<tr><th>{swatch(colours[i])}{html.escape(name)}</th>{''.join(cells)}</tr>")
    top = f"<tr><th>label \N{DOWNWARDS ARROW}, prediction \N{RIGHTWARDS ARROW}</th>{head}</tr>"
    return (
        f'<div class="scroll"><table class="matrix"><thead>{top}</thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def scores_table(rows: Mapping[str, Mapping[str, Number]], strong: str = "") -> str:
    """Scores of several methods side by side, one a row; the row named `strong` (default: the first) stands out."""
    names = list(dict.fromkeys(name for scores in rows.values() for name in scores))
    strong = strong or next(iter(rows))
    body = "".join(
        f'<tr{" class=strong" if method == strong else ""}><th>{html.escape(method)}</th>'
        f"{''.join(f'<td>{score(scores.get(name, np.nan))}</td>' for name in names)}</tr>"
        for method, scores in rows.items()
    )
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ["", *names])
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def sample_grid(
    samples: Sequence[Mapping[str, Any]], class_names: Sequence[str], colours: Sequence[Sequence[int]]
) -> str:
    """Input, label, prediction and error of each sample, with a legend."""
    legend = "".join(f"<span>{swatch(c)}{html.escape(n)}</span>" for n, c in zip(class_names, colours, strict=True))
    legend += f'<span>{swatch((170, 170, 170))}right</span><span>{swatch((220, 38, 38))}wrong</span>'
    if any((np.asarray(s["label"]) == pictures.IGNORE).any() for s in samples):
        legend += '<span><i class="swatch hatch"></i>does not count</span>'
    cells = [f'<div class="head">{name}</div>' for name in ("input", "label", "prediction", "error")]
    for sample in samples:
        facts = [str(sample.get("note") or ""), f"Dice {score(float(sample['dice']))}" if "dice" in sample else ""]
        facts = " \N{MIDDLE DOT} ".join(html.escape(f) for f in facts if f)
        cells.append(f'<div class="name">{html.escape(str(sample["name"]))}<small>{facts}</small></div>')
        picture = pictures.to_rgb(np.asarray(sample["image"]))
        label, prediction = np.asarray(sample["label"]), np.asarray(sample["prediction"])
        cells.append(picture_tag(picture, "input", photo=True))
        cells.append(picture_tag(pictures.label_picture(label, colours), "label"))
        cells.append(picture_tag(pictures.label_picture(prediction, colours), "prediction"))
        cells.append(picture_tag(pictures.error_picture(picture, label, prediction), "error", photo=True))
    return f'<div class="legend">{legend}</div><div class="samples">{"".join(cells)}</div>'


def picture_tag(picture: UInt8[np.ndarray, "H W 3"], text: str, photo: bool = False) -> str:
    """An <img> with the picture inside it, SIDE px at most: photos as JPEG, flat colours as PNG."""
    image = Image.fromarray(picture)
    if max(image.size) > SIDE:
        size = tuple(max(1, round(s * SIDE / max(image.size))) for s in image.size)
        image = image.resize(size, Image.Resampling.BOX if photo else Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, **({"format": "JPEG", "quality": 88, "subsampling": 0} if photo else {"format": "PNG", "optimize": True}))
    kind = "jpeg" if photo else "png"
    smooth = ' class="smooth"' if photo else ""
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img{smooth} alt="{text}" src="data:image/{kind};base64,{data}">'
