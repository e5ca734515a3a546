"""Land cover's sections of a report: HTML from counts and arrays. `common.report` puts them into the page.

The numbers are agreement with a reference map, not accuracy on the ground: NLCD is itself a model's product. User's and
producer's accuracy keep their names, which say what they are in remote sensing.
"""

import html
from collections.abc import Sequence

import numpy as np
from jaxtyping import Num, UInt8

from common.chart import short
from common.report import number_table, value_text
from unet import pages, pictures
from unet import scores as scoring
from unet.landcover.legend import Legend
from unet.landcover.pictures import GREY, QUIET, RED, disagreement, index_tag
from unet.pages import swatch

REFERENCES = {"nlcd": "NLCD", "nlcd_conus": "NLCD", "zion8": "NLCD", "slovenia": "the Slovenian land-use map"}
TOP = 12  # transitions listed
Section = tuple[str, str]


def reference(legend: Legend) -> str:
    """What labels in this legend are called in 'agreement with ...'."""
    return REFERENCES.get(legend.name, legend.name)


def agreement_sections(matrix: Num[np.ndarray, "K K"], legend: Legend, *, title: str = "") -> list[Section]:
    """Agreement of a map with its labels: pixels of each (label, predicted) class as numbers, then as tables.

    Level II are the legend's classes, Level I its groups. Macro scores are plain means over the classes that are in the
    labels or in the map; a mean over pixels says what overall agreement says already. `title` tells several apart.
    """
    matrix = np.asarray(matrix)
    if not matrix.sum():
        return [(named("Agreement", title), "<p>No pixel has both a label and a prediction.</p>")]
    levels = [("Level II", matrix, legend.names, legend.colours)]
    if len(legend.groups) < len(legend.classes):
        levels.append(("Level I", grouped(matrix, legend), legend.groups, group_colours(legend)))
    else:
        levels[0] = ("", *levels[0][1:])
    cards, tables, confusions = "", "", ""
    for level, counts, names, colours in levels:
        counts, names, colours = present(counts, names, colours)
        heading = f"<h3>{level}: {len(names)} {'groups' if level == 'Level I' else 'classes'}</h3>" if level else ""
        cards += agreement_cards(counts, level)
        tables += heading + accuracy_table(counts, names, colours)
        confusions += heading + pages.confusion_table(counts, names, colours)
    note = (
        f"<p>{short(int(matrix.sum()))} pixels have a label and a prediction. {html.escape(reference(legend))} is a map as well, "
        "with errors of its own: these numbers say how far two maps agree, not what is right on the ground. "
        "User\N{RIGHT SINGLE QUOTATION MARK}s accuracy: the share of what was mapped as a class that is labelled so. "
        "Producer\N{RIGHT SINGLE QUOTATION MARK}s accuracy: the share of what is labelled as a class that was mapped so.</p>"
    )
    return [
        (named(f"Agreement with {reference(legend)}", title), f'<div class="cards">{cards}</div>{note}{tables}'),
        (named("Confusion", title), confusions),
    ]


def named(heading: str, title: str) -> str:
    return f"{heading}: {title}" if title else heading


def summary(matrix: Num[np.ndarray, "K K"]) -> dict[str, float]:
    """Overall agreement, macro F1 and macro IoU, and the agreement that the commonest label everywhere would have."""
    ratios = scoring.ratios(matrix)
    return {
        "overall agreement": float(np.trace(matrix) / matrix.sum()),
        "macro F1": scoring.mean(ratios["dice"]),  # F1 is Dice by its other name
        "macro IoU": scoring.mean(ratios["iou"]),
        "always the commonest": float(matrix.sum(1).max() / matrix.sum()),
    }


def agreement_cards(matrix: Num[np.ndarray, "K K"], level: str) -> str:
    facts = summary(matrix)
    low = f"always the commonest: {value_text(facts.pop('always the commonest'))}"
    small = {"overall agreement": low}
    return "".join(
        f'<div class="card"><span>{name}{f", {level}" if level else ""}</span><b>{value_text(value)}</b>'
        f"<small>{small.get(name, 'mean over classes')}</small></div>"
        for name, value in facts.items()
    )


def grouped(matrix: Num[np.ndarray, "K K"], legend: Legend) -> np.ndarray:
    """The matrix of the legend's groups."""
    places = np.asarray(legend.group_of)
    total = np.zeros((len(legend.groups),) * 2, matrix.dtype)
    np.add.at(total, (places[:, None], places[None, :]), matrix)
    return total


def group_colours(legend: Legend) -> tuple[tuple[int, int, int], ...]:
    """Each group in the colour of its first class."""
    return tuple(next(x.colour for x in legend.classes if x.group == group) for group in legend.groups)


def present(matrix: Num[np.ndarray, "K K"], names: Sequence[str], colours: Sequence[Sequence[int]]):
    """Without the classes that are in neither labels nor predictions."""
    kept = np.flatnonzero(matrix.sum(0) + matrix.sum(1))
    return matrix[np.ix_(kept, kept)], [names[i] for i in kept], [colours[i] for i in kept]


def accuracy_table(matrix: Num[np.ndarray, "K K"], names: Sequence[str], colours: Sequence[Sequence[int]]) -> str:
    """User's and producer's accuracy, F1, IoU and pixels of each class, then the means."""
    ratios = scoring.ratios(matrix)
    columns = [ratios[name] for name in ("precision", "recall", "dice", "iou")]
    rows = []
    for i, name in enumerate(names):
        bar = f'<span class="bar"><i style="width:{100 * np.nan_to_num(ratios["dice"][i]):.0f}%"></i></span>'
        cells = "".join(
            f"<td>{value_text(column[i])}{bar if place == 2 else ''}</td>" for place, column in enumerate(columns)
        )
        counts = f"<td>{short(int(matrix[i].sum()))}</td><td>{short(int(matrix[:, i].sum()))}</td>"
        rows.append(f"<tr><th>{swatch(colours[i])}{html.escape(name)}</th>{cells}{counts}</tr>")
    means = "".join(
        f"<td>{value_text(scoring.mean(column))}{pages.bar_space if place == 2 else ''}</td>"
        for place, column in enumerate(columns)
    )
    rows.append(f'<tr class="total"><th>mean of the classes</th>{means}<td></td><td></td></tr>')
    heads = (
        "class",
        "user\N{RIGHT SINGLE QUOTATION MARK}s accuracy",
        "producer\N{RIGHT SINGLE QUOTATION MARK}s accuracy",
    )
    head = "".join(f"<th>{h}</th>" for h in (*heads, f"F1{pages.bar_space}", "IoU", "px labelled", "px mapped"))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def area_section(
    label_counts: Num[np.ndarray, " K"] | None,
    predicted_counts: Num[np.ndarray, " K"],
    hectares_per_pixel: float,
    legend: Legend,
) -> Section:
    """The legend with hectares and percent of each class in the labels and in the map, groups summed.

    Where a pixel's area is not the same everywhere, give hectares for the counts and 1 for `hectares_per_pixel`.
    """
    given = [c for c in (label_counts, predicted_counts) if c is not None]
    areas = [np.asarray(c, np.float64) * hectares_per_pixel for c in given]
    seen = sum(areas) > 0
    rows = []
    for g, group in enumerate(legend.groups):
        members = [i for i, place in enumerate(legend.group_of) if place == g and seen[i]]
        if len(members) > 1:
            sums = [area[members].sum() for area in areas]
            rows.append(area_row(html.escape(group), sums, areas, ' class="strong"'))
        for i in members:
            indent = ' style="padding-left:20px"' if len(members) > 1 else ""
            name = f"<span{indent}>{swatch(legend.colours[i])}{html.escape(legend.names[i])}</span>"
            rows.append(area_row(name, [area[i] for area in areas], areas, "", legend.codes[i]))
    rows.append(area_row("all", [area.sum() for area in areas], areas, ' class="total"'))
    columns = ["hectares labelled", "%", "hectares mapped", "%", "mapped \N{MINUS SIGN} labelled"]
    head = "".join(f"<th>{h}</th>" for h in ["class", "code", *(columns if len(given) == 2 else columns[2:4])])
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    return "Areas", table


def area_row(name: str, sums: Sequence[float], areas: Sequence[np.ndarray], kind: str, code: int | str = "") -> str:
    cells = "".join(
        f"<td>{hectares(s)}</td><td>{100 * s / max(a.sum(), 1e-300):.2f}</td>" for s, a in zip(sums, areas, strict=True)
    )
    gain = f"<td>{hectares(sums[1] - sums[0], sign=True)}</td>" if len(sums) == 2 else ""
    return f"<tr{kind}><th>{name}</th><td>{code}</td>{cells}{gain}</tr>"


def hectares(value: float, sign: bool = False) -> str:
    """Whole hectares with thousands apart; small areas with one digit more."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    text = f"{value:{'+' if sign else ''},.{digits}f}".replace(",", "\u202f").replace("-", "\N{MINUS SIGN}")
    return text.replace("+0.00", "0.00").replace("\N{MINUS SIGN}0.00", "0.00")


def picture_section(
    rgb: UInt8[np.ndarray, "H W 3"] | None,
    label_index: UInt8[np.ndarray, "h w"] | None,
    predicted_index: UInt8[np.ndarray, "h w"],
    legend: Legend,
) -> Section:
    """True colour, original labels, predicted labels and where they disagree, side by side; what is absent is left out."""
    cells = []
    if rgb is not None:
        cells.append(("true colour", pages.picture_tag(rgb, "true colour", photo=True)))
    if label_index is not None:
        cells.append(("original labels", index_tag(label_index, legend.colours, "original labels")))
    cells.append(("predicted labels", index_tag(predicted_index, legend.colours, "predicted labels")))
    shown = [predicted_index]
    key = ""
    if label_index is not None:
        shown.append(label_index)
        key = f"<span>{swatch(GREY)}agrees</span><span>{swatch(RED)}disagrees</span>"
        cells.append(
            ("disagreement", index_tag(disagreement(label_index, predicted_index), (GREY, RED), "disagreement"))
        )
        if (label_index == pictures.IGNORE).any():
            key += f"<span>{swatch(QUIET)}does not count</span>"
    found = [i for i in range(len(legend.classes)) if any((index == i).any() for index in shown)]
    names = "".join(f"<span>{swatch(legend.colours[i])}{html.escape(legend.names[i])}</span>" for i in found)
    heads = "".join(f'<div class="head">{name}</div>' for name, _ in cells)
    wide = "1fr" if len(cells) > 1 else "50%"
    style = f' style="grid-template-columns:repeat({len(cells)},minmax(0,{wide}))"'
    grid = f'<div class="samples"{style}>{heads}{"".join(tag for _, tag in cells)}</div>'
    return "Map", f'<div class="legend">{names}{key}</div>{grid}'


def change_section(
    transitions: Num[np.ndarray, "K K"], legend: Legend, hectares_per_pixel: float, note: str = ""
) -> Section:
    """Change from an earlier map (rows) to a later one (columns): what became what, losses and gains of each class.

    `note`, plain text, says which pixels count. Areas that differ from pixel to pixel: as in `area_section`.
    """
    areas = np.asarray(transitions, np.float64) * hectares_per_pixel
    said = f"<p>{html.escape(note)}</p>" if note else ""
    if not areas.sum():
        return "Change", f"{said}<p>No pixel counts in both maps.</p>"
    areas, names, colours = present(areas, legend.names, legend.colours)
    kept = np.diag(areas)
    changed = areas.sum() - kept.sum()
    cards = "".join(
        f'<div class="card"><span>{name}</span><b>{hectares(value)}</b><small>hectares</small></div>'
        for name, value in (("compared", areas.sum()), ("changed", changed))
    )
    cards += f'<div class="card"><span>changed</span><b>{100 * changed / areas.sum():.2f} %</b><small>of the area compared</small></div>'
    head = ["class", "before", "lost", "gained", "after", "net"]
    rows = []
    for i, name in enumerate(names):
        lost, gained = areas[i].sum() - kept[i], areas[:, i].sum() - kept[i]
        cells = [hectares(areas[i].sum()), hectares(lost), hectares(gained), hectares(areas[:, i].sum())]
        rows.append([name, *cells, hectares(gained - lost, sign=True)])
    moves = [(areas[i, j], names[i], names[j]) for i, j in np.argwhere(areas > 0) if i != j]
    top = [
        [f"{a} \N{RIGHTWARDS ARROW} {b}", hectares(x), f"{100 * x / changed:.1f}"]
        for x, a, b in sorted(moves)[::-1][:TOP]
    ]
    largest = (
        f"<div><h3>Largest</h3>{number_table(['transition', 'hectares', '% of change'], top)}</div>" if top else ""
    )
    tables = f'<div class="wide"><div><h3>Classes, hectares</h3>{number_table(head, rows)}</div>{largest}</div>'
    return (
        "Change",
        f'{said}<div class="cards">{cards}</div>{tables}<h3>Transitions, hectares</h3>{transition_table(areas, names, colours)}',
    )


def transition_table(areas: Num[np.ndarray, "K K"], names: Sequence[str], colours: Sequence[Sequence[int]]) -> str:
    """Rows were, columns became; shaded by the share of the row that changed so."""

    def cell(i: int, j: int, share: float) -> tuple[str, str]:
        text = hectares(float(areas[i, j])) if areas[i, j] else "\N{MIDDLE DOT}"
        return text, f"{names[i]} to {names[j]}: {100 * share:.1f} % of {names[i]}"

    return pages.heat_table(areas, names, colours, "before \N{DOWNWARDS ARROW}, after \N{RIGHTWARDS ARROW}", cell)


def split_section(
    rgb: UInt8[np.ndarray, "H W 3"],
    split_map: UInt8[np.ndarray, "H W"],
    names: Sequence[str],
    colours: Sequence[Sequence[int]],
) -> Section:
    """Which pixels are in which split, over the true-colour picture; values that have no name are in none."""
    clear = [value for value in range(256) if value >= len(names)]
    picture = pages.picture_tag(pictures.overlay(rgb, split_map, colours, clear), "split", photo=True)
    shares = [100 * float((split_map == i).mean()) for i in range(len(names))]
    shares.append(100 - sum(shares))
    keys = [*(swatch(c) for c in colours[: len(names)]), ""]
    texts = [f"{name}, {share:.1f} %" for name, share in zip([*names, "in none"], shares, strict=True)]
    legend = "".join(f"<span>{k}{html.escape(t)}</span>" for k, t in zip(keys, texts, strict=True))
    grid = f'<div class="samples" style="grid-template-columns:minmax(0,560px)">{picture}</div>'
    return "Split", f'<div class="legend">{legend}</div>{grid}'
