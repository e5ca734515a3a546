"""Pictures of a sweep as inline SVG: parallel coordinates, and the score against one key. Colours are the page's own."""

import dataclasses
import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, grid_line, log_ticks, short, spread, ticks
from common.sweeps import text_of

FEW = 8  # different values that each get a mark of their own


@dataclasses.dataclass(frozen=True)
class Axis:
    """place: value -> 0..1; marks: what is written where."""

    name: str
    place: Callable[[Any], float]
    marks: Sequence[tuple[float, str]]
    log: bool = False


def make_axis(name: str, values: Sequence[Any], few: int = FEW) -> Axis:
    """An axis for these values: numbers in proportion, logarithmic where they span a factor of 20, others in even steps.
    Where there are at most `few` different numbers, these are the marks; else round ones."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        texts = sorted({text_of(value) for value in values})
        at = spread(0, len(texts) - 1, 0.0, 1.0)
        return Axis(name, lambda value: at(texts.index(text_of(value))), [(at(i), t) for i, t in enumerate(texts)])
    low, high = min(values), max(values)
    log = low > 0 and high >= 20 * low
    different = sorted(set(values))
    marks = different if len(different) <= few else log_ticks(low, high) if log else ticks(low, high)
    scale = math.log10 if log else float
    at = spread(scale(min(low, marks[0])), scale(max(high, marks[-1])), 0.0, 1.0)
    return Axis(name, lambda value: at(scale(value)), apart([(at(scale(m)), short(m)) for m in marks]), log)


def apart(marks: Sequence[tuple[float, str]], gap: float = 0.07) -> list[tuple[float, str]]:
    """The marks, less those that would be written over another."""
    kept: list[tuple[float, str]] = []
    for at, text in marks:
        if not kept or at - kept[-1][0] >= gap:
            kept.append((at, text))
    return kept


def parallel(axes: Sequence[Axis], runs: Sequence[tuple[str, Sequence[Any], float]]) -> str:
    """A line for each run across all axes. runs: name, a value for each axis, and how good it is in 0..1 (the best: 1)."""
    width, height, top, bottom, side = 1080, 330, 34, 16, 80
    at_x = spread(0, max(len(axes) - 1, 1), side, width - side)
    at_y = lambda share: height - bottom - share * (height - bottom - top)
    frame = []
    for place, axis in enumerate(axes):
        x = at_x(place)
        note = " (log)" if axis.log else ""
        frame.append(
            f'<text class="title" x="{x:.1f}" y="16" text-anchor="middle">{html.escape(axis.name)}{note}</text>'
        )
        frame.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{at_y(0):.1f}" y2="{at_y(1):.1f}"/>')
        frame += [
            f'<text x="{x + 6:.1f}" y="{at_y(at) + 4:.1f}">{html.escape(text[:18])}</text>' for at, text in axis.marks
        ]
    lines = []
    for name, values, good in sorted(runs, key=lambda run: run[2]):  # the best one on top
        points = [(at_x(i), at_y(axis.place(value))) for i, (axis, value) in enumerate(zip(axes, values, strict=True))]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        kind = ' class="top"' if good == 1 else ""
        title = f"<title>{html.escape(name)}</title>"
        lines.append(f'<polyline{kind} points="{path}" opacity="{0.15 + 0.85 * good:.2f}">{title}</polyline>')
    return (
        f'<figure class="chart parallel"><svg viewBox="0 0 {width} {height}" role="img" aria-label="parallel coordinates">'
        f"{''.join(lines)}{''.join(frame)}</svg></figure>"
    )


def scatter(x: Axis, y: Axis, points: Sequence[tuple[str, Any, float]], best: str) -> str:
    """The score of each run against the value of one key; `best` is the name of the run to be seen first."""
    at_x = lambda value: LEFT + 16 + x.place(value) * (WIDTH - RIGHT - LEFT - 32)
    at_y = lambda share: HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)
    body = [grid_line(at_y(at), text) for at, text in y.marks]
    for at, text in apart(x.marks, 0.12):
        left = LEFT + 16 + at * (WIDTH - RIGHT - LEFT - 32)
        body.append(f'<text x="{left:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{html.escape(text[:14])}</text>')
    for name, value, score in sorted(points, key=lambda point: point[0] == best):
        kind = "line0" if name == best else "line5"
        title = f"<title>{html.escape(name)}: {short(score, 5)}</title>"
        place = f'cx="{at_x(value):.1f}" cy="{at_y(y.place(score)):.1f}"'
        body.append(
            f'<g class="{kind}"><circle {place} r="{4.5 if name == best else 3.2}" opacity="0.75">{title}</circle></g>'
        )
    note = " <small>log scale</small>" if x.log else ""
    return (
        f'<figure class="chart"><figcaption><span>{html.escape(y.name)} <small>by</small> {html.escape(x.name)}{note}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(x.name)}">{"".join(body)}</svg></figure>'
    )


def goodness(scores: Mapping[str, float], metric: str) -> dict[str, float]:
    """How good each score is among them, 0..1, by rank: one run that diverged must not make all others look alike."""
    order = sorted(scores, key=scores.get, reverse=metric.startswith("min "))
    return {name: (place + 1) / len(order) for place, name in enumerate(order)}
