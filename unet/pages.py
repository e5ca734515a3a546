"""U-Net's sections of a report: HTML from numbers and arrays, no more. `common.report` puts them into the page."""

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Num, UInt8
from PIL import Image

from common.chart import Number, line_chart, short
from common.metrics import Calibration
from common.report import value_text
from unet import pictures
from unet import scores as scoring

SIDE = 384  # px, at most, of an embedded picture
DENSE = 8  # classes above which a table of them all is set small


def pages(
    confusions: Integer[np.ndarray, "N K K"],
    image_ids: Integer[np.ndarray, " N"],
    samples: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    colours: Sequence[Sequence[int]],
    *,
    background: int | None = None,
    baselines: Mapping[str, Mapping[str, Number | None]] | None = None,
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
    sections.append(
        ("Confusion", f'<div class="pair">{confusion_table(total, class_names, colours)}<div>{chart}</div></div>')
    )
    if samples:
        sections.append(("Samples", sample_grid(samples, class_names, colours)))
    return sections


def foreground_dice(confusions: Integer[np.ndarray, "N K K"], background: int | None = None) -> Float[np.ndarray, " N"]:
    """Mean Dice of each image over the foreground classes that are in its label or prediction; NaN where none is."""
    dice = scoring.ratios(confusions)["dice"]
    chosen = [i for i in range(dice.shape[-1]) if i != background]
    return np.array([scoring.mean(row[chosen]) for row in dice])


def choose_samples(dices: Float[np.ndarray, " N"], count: int = 6) -> list[tuple[int, str]]:
    """`count` places from worst to best, evenly spread over the ranks, with what each is ('worst', 'median', ...)."""
    places = np.flatnonzero(np.isfinite(dices))
    ranked = places[np.argsort(dices[places], kind="stable")]
    ranks = (
        np.unique(np.rint(np.linspace(0, len(ranked) - 1, min(count, len(ranked)))).astype(int)) if len(ranked) else []
    )
    middle = (len(ranked) - 1) // 2
    ranks = sorted({*map(int, ranks), middle} if len(ranked) > 2 and count > 2 else map(int, ranks))
    if len(ranks) > count:  # the median came on top: its nearest neighbour goes
        ranks.remove(min((r for r in ranks[1:-1] if r != middle), key=lambda r: abs(r - middle)))
    names = {middle: "median", len(ranked) - 1: "best", 0: "worst"}
    return [(int(ranked[r]), names.get(r, f"rank {r + 1} of {len(ranked)}")) for r in ranks]


def swatch(colour: Sequence[int]) -> str:
    return f'<i class="swatch" style="background:rgb({int(colour[0])} {int(colour[1])} {int(colour[2])})"></i>'


def reliability_section(calibration: Any, name: str = "accuracy") -> tuple[str, str]:
    """How often what is predicted is right, `name`, where it is how sure. `calibration`: count, sure and right, as in Calibration."""
    bins = np.stack([np.asarray(x, np.float64) for x in (calibration.count, calibration.sure, calibration.right)])
    count, sure, right = bins[:, bins[0] > 0]
    if not len(count):
        return "Reliability", "<p>No pixel has a label and a confidence.</p>"
    low, high = float((sure / count).min()), float((sure / count).max())
    lines = {
        "as it should be": [(low, low), (high, high)],
        name: list(zip((sure / count).tolist(), (right / count).tolist(), strict=True)),
    }
    shares = {"share of pixels": list(zip((sure / count).tolist(), (count / count.sum()).tolist(), strict=True))}
    facts = {
        "expected calibration error": Calibration(count, sure, right).error(),
        "mean confidence": sure.sum() / count.sum(),
        name: right.sum() / count.sum(),
    }
    cards = "".join(
        f'<div class="card"><span>{html.escape(what)}</span><b>{value_text(float(value))}</b></div>'
        for what, value in facts.items()
    )
    charts = line_chart(f"{name} against confidence", lines) + line_chart("pixels against confidence", shares)
    return "Reliability", f'<div class="cards">{cards}</div><div class="charts">{charts}</div>'


def class_table(
    matrix: Integer[np.ndarray, "K K"],
    class_names: Sequence[str],
    colours: Sequence[Sequence[int]],
    background: int | None = None,
) -> str:
    """Dice, IoU, precision, recall and pixels of each class over the whole set, then their mean without background."""
    ratios, labelled = scoring.ratios(matrix), matrix.sum(1)
    columns = [ratios[name] for name in ("dice", "iou", "precision", "recall")]
    rows = []
    for i, name in enumerate(class_names):
        bar = f'<span class="bar"><i style="width:{100 * np.nan_to_num(columns[0][i]):.0f}%"></i></span>'
        numbers = "".join(f"<td>{value_text(c[i])}{bar if place == 0 else ''}</td>" for place, c in enumerate(columns))
        share = f"{100 * labelled[i] / max(labelled.sum(), 1):.1f} %"
        rows.append(
            f"<tr><th>{swatch(colours[i])}{html.escape(name)}</th>{numbers}"
            f"<td>{short(int(labelled[i]))}</td><td>{share}</td></tr>"
        )
    chosen = [i for i in range(len(class_names)) if i != background]
    means = [scoring.mean(c[chosen]) for c in columns]
    label = "mean of the foreground" if background is not None else "mean"
    numbers = "".join(f"<td>{value_text(m)}{bar_space if not place else ''}</td>" for place, m in enumerate(means))
    rows.append(f'<tr class="total"><th>{label}</th>{numbers}<td></td><td></td></tr>')
    head = "".join(
        f"<th>{name}</th>" for name in ("class", f"Dice{bar_space}", "IoU", "precision", "recall", "pixels", "share")
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


bar_space = '<span class="bar" style="visibility:hidden"></span>'


def confusion_table(
    matrix: Integer[np.ndarray, "K K"], class_names: Sequence[str], colours: Sequence[Sequence[int]]
) -> str:
    """Rows are labels, columns predictions: the share of the row, shaded by it, and the pixels. Many classes are set
    small: columns by number, pixels in the tooltip."""
    dense = len(class_names) > DENSE

    def cell(i: int, j: int, share: float) -> tuple[str, str]:
        count = short(int(matrix[i, j]))
        text = f"{100 * share:.0f}" if dense else f"{100 * share:.1f} %<small>{count}</small>"
        return text, f"{class_names[i]} as {class_names[j]}: {count} pixels" if dense else ""

    corner = f"label \N{DOWNWARDS ARROW}, prediction \N{RIGHTWARDS ARROW}{', % of the label' if dense else ''}"
    return heat_table(matrix, class_names, colours, corner, cell)


def heat_table(
    matrix: Num[np.ndarray, "K K"],
    names: Sequence[str],
    colours: Sequence[Sequence[int]],
    corner: str,
    cell: Callable[[int, int, float], tuple[str, str]],
) -> str:
    """Classes against classes, shaded by the share of the row; `cell(row, column, share)` gives its HTML and its tooltip."""
    dense = len(names) > DENSE
    sums = matrix.sum(1, keepdims=True)
    shares = matrix / np.where(sums > 0, sums, 1)
    columns = [str(i) for i in range(len(names))] if dense else names
    head = "".join(f"<th>{swatch(c)}{html.escape(n)}</th>" for n, c in zip(columns, colours, strict=True))
    rows = []
    for i, name in enumerate(names):
        cells = []
        for j, share in enumerate(shares[i].tolist()):
            # The square root shows small confusions; the text stays readable on the darkest shade.
            colour = f"rgb(var(--{'heat' if i == j else 'miss'}) / {0.75 * share**0.5:.2f})"
            text, said = cell(i, j, share)
            title = f' title="{html.escape(said)}"' if said else ""
            cells.append(f'<td style="background:{colour}"{title}>{text}</td>')
        number = f"{i} " if dense else ""
        rows.append(f"<tr><th>{swatch(colours[i])}{number}{html.escape(name)}</th>{''.join(cells)}</tr>")
    top = f"<tr><th>{corner}</th>{head}</tr>"
    kind = "matrix dense" if dense else "matrix"
    return f'<div class="scroll"><table class="{kind}"><thead>{top}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def scores_table(rows: Mapping[str, Mapping[str, Number | None]], strong: str = "U-Net") -> str:
    """Scores of several methods side by side, one a row; the row named `strong` stands out."""
    names = list(dict.fromkeys(name for scores in rows.values() for name in scores))
    body = "".join(
        f"<tr{' class=strong' if method == strong else ''}><th>{html.escape(method)}</th>"
        f"{''.join(f'<td>{value_text(scores.get(name))}</td>' for name in names)}</tr>"
        for method, scores in rows.items()
    )
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ["", *names])
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def sample_grid(
    samples: Sequence[Mapping[str, Any]], class_names: Sequence[str], colours: Sequence[Sequence[int]]
) -> str:
    """Input, label, prediction and error of each sample, with a legend."""
    legend = "".join(f"<span>{swatch(c)}{html.escape(n)}</span>" for n, c in zip(class_names, colours, strict=True))
    legend += f"<span>{swatch((170, 170, 170))}right</span><span>{swatch((220, 38, 38))}wrong</span>"
    if any((np.asarray(s["label"]) == pictures.IGNORE).any() for s in samples):
        legend += '<span><i class="swatch hatch"></i>does not count</span>'
    cells = [f'<div class="head">{name}</div>' for name in ("input", "label", "prediction", "error")]
    for sample in samples:
        facts = [str(sample.get("note") or ""), f"Dice {value_text(float(sample['dice']))}" if "dice" in sample else ""]
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
    image.save(
        file, **({"format": "JPEG", "quality": 88, "subsampling": 0} if photo else {"format": "PNG", "optimize": True})
    )
    kind = "jpeg" if photo else "png"
    smooth = ' class="smooth"' if photo else ""
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img{smooth} alt="{text}" src="data:image/{kind};base64,{data}">'
