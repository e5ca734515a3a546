"""Line charts as inline SVG: a few kB each, sharp at any size, coloured by the page's own style sheet."""

import html
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 30
POINTS = 240  # at most, a line

Number = int | float
Points = Sequence[tuple[Number, Number]]


def line_chart(title: str, series: Mapping[str, Points], *, log: bool = False) -> str:
    """A figure with one line for each name of `series`; '' where there is nothing to draw. Points that are not finite
    are left out; long series are averaged down to POINTS points; `log` makes y logarithmic where all of it is > 0."""
    lines = {name: thin([(x, y) for x, y in points if math.isfinite(y)]) for name, points in series.items()}
    colours = {name: place % 6 for place, name in enumerate(series)}  # of a name, whether or not others have points
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return ""
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    log = log and min(ys) > 0
    y_ticks = log_ticks(min(ys), max(ys)) if log else ticks(min(ys), max(ys))
    x_ticks = [x for x in ticks(min(xs), max(xs), 5) if min(xs) <= x <= max(xs)]
    scale = math.log10 if log else float
    low, high = (min(scale(min(ys)), scale(y_ticks[0])), max(scale(max(ys)), scale(y_ticks[-1])))
    place_x = spread(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    place_y = spread(low, high, HEIGHT - BOTTOM, TOP)
    at = lambda x, y: (round(place_x(x), 1), round(place_y(scale(y)), 1))
    body = [
        *(grid_line(place_y(scale(y)), short(y)) for y in y_ticks),
        *(f'<text x="{place_x(x):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{short(x)}</text>' for x in x_ticks),
        *(one_line(colours[name], name, points, at) for name, points in lines.items()),
    ]
    legend = "".join(
        f'<span class="key"><i class="line{colours[name]}"></i>{html.escape(name)} <b>{short(points[-1][1], 4)}</b></span>'
        for name, points in lines.items()
    )
    note = " <small>log scale</small>" if log else ""
    return (
        f'<figure class="chart"><figcaption><span>{html.escape(title)}{note}</span><span>{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">{"".join(body)}</svg></figure>'
    )


def one_line(colour: int, name: str, points: Points, at) -> str:
    """The line, and a dot with its numbers for each point where there are few of them."""
    path = " ".join(f"{x},{y}" for x, y in (at(*p) for p in points))
    dots = ""
    if len(points) <= 60:
        for x, y in points:
            left, top = at(x, y)
            text = html.escape(f"{name}: {short(y, 5)} at {short(x, 9)}")
            dots += (
                f'<circle cx="{left}" cy="{top}" r="{2.6 if len(points) <= 30 else 1.6}"><title>{text}</title></circle>'
            )
    return f'<g class="line{colour}"><polyline points="{path}"/>{dots}</g>'


def grid_line(y: Number, text: str) -> str:
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f'{line}<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'


def spread(low: Number, high: Number, start: Number, stop: Number):
    """Maps low..high to start..stop; one value alone to the middle."""
    if high == low:
        return lambda value: (start + stop) / 2
    return lambda value: start + (value - low) / (high - low) * (stop - start)


def ticks(low: Number, high: Number, count: int = 5) -> list[Number]:
    """About `count` round numbers that enclose low..high."""
    if high == low:
        return [low]
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: Number, high: Number) -> list[Number]:
    """1, 2, 5 of each power of ten that enclose low..high; powers alone where those are many."""
    powers = range(math.floor(math.log10(low) - 1e-9), math.ceil(math.log10(high) + 1e-9) + 1)  # log10 rounds
    marks = [m * 10.0**p for p in powers for m in ((1, 2, 5) if len(powers) <= 4 else (1,))]
    below = [m for m in marks if m <= low][-1:] or marks[:1]
    above = [m for m in marks if m >= high][:1] or marks[-1:]
    return [m for m in marks if below[0] <= m <= above[0]]


def thin(points: Points) -> list[tuple[Number, Number]]:
    """At most POINTS points, each the mean of its share; the first and the last x stay."""
    if len(points) <= POINTS:
        return list(points)
    edges = [round(i * len(points) / POINTS) for i in range(POINTS + 1)]
    shares = [points[a:b] for a, b in zip(edges[:-1], edges[1:], strict=True)]
    means = [(sum(x for x, _ in share) / len(share), sum(y for _, y in share) / len(share)) for share in shares]
    return [(points[0][0], means[0][1]), *means[1:-1], (points[-1][0], means[-1][1])]


def short(value: Number, digits: int = 4) -> str:
    """A number for people: few digits, thousands apart, no exponent where it can be helped."""
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:.{digits}g}"
