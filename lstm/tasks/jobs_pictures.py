"""Pictures of forecasts of jobs: curves and histories of single jobs, as inline SVG for a report, by matplotlib for documents."""

import html
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from common.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Points, grid_line, one_line, short, spread, ticks
from common.report import number_table
from lstm.data.job_events import NAMES, Log
from lstm.job_decision import THRESHOLDS, Case, Ends, cases_of, decision_of, ends_of, reliability
from lstm.job_scores import Forecasts

LONGEST = 44  # characters of a name that are shown
COLOURS = ("#2563eb", "#e0731d", "#0f9d76", "#b1409a", "#8a6d00", "#64748b")  # of classes, as in report.css


def duration(seconds: float) -> str:
    """'12 s', '5 min', '2.5 h', '3 d': two digits."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    return f"{seconds:.2g} s"


def date(seconds: float, form: str = "%Y-%m-%d %H:%M") -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(form)


def rounded(value: float) -> str:
    """Hours for people."""
    return short(round(value)) if abs(value) >= 100 else f"{value:.3g}"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %" if np.isfinite(value) else "\N{EN DASH}"


def clipped(name: str) -> str:
    """A name that may be long, or none."""
    return (name[: LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}" if len(name) > LONGEST else name) or "(none)"


# SVG ----------------------------------------------------------------------------------------------------------------------


def curves(
    title: str, series: Mapping[str, Points], *, labels: Sequence[str] = (), mark: float | None = None, note: str = ""
) -> str:
    """Lines as in `common.chart.line_chart`, without their last values; '' without points. labels: of x = 0, 1, 2, ...; mark, note:
    where an upright line is, and what it is."""
    series = {name: [(x, y) for x, y in points if np.isfinite(y)] for name, points in series.items()}
    xs, ys = ([p[i] for points in series.values() for p in points] for i in (0, 1))
    if not xs:
        return ""
    low = 0 if -0.03 * (max(ys) - min(ys)) < min(ys) < 0 else min(ys)  # no tick for a line that just dips below 0
    y_ticks = ticks(low, max(ys))
    x_ticks = (
        range(0, len(labels), -(-len(labels) // 6))
        if labels
        else [x for x in ticks(min(xs), max(xs)) if min(xs) <= x <= max(xs)]
    )
    place_x = spread(min(xs), max(xs), LEFT + 8 * bool(labels), WIDTH - RIGHT - 16 * bool(labels))
    place_y = spread(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    at = lambda x, y: (round(place_x(x), 1), round(place_y(y), 1))
    body = [grid_line(place_y(y), short(y) if abs(y) < 10_000 else f"{short(y / 1000)}k") for y in y_ticks]
    for x in x_ticks:
        if min(xs) <= x <= max(xs):
            text = html.escape(labels[x]) if labels else short(x)
            body.append(f'<text x="{place_x(x):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{text}</text>')
    if mark is not None:
        x, end = place_x(mark), "end" if mark > (min(xs) + max(xs)) / 2 else "start"
        body.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" {DASHED}/>')
        beside = x + (-6 if end == "end" else 6)
        body.append(f'<text x="{beside:.1f}" y="{HEIGHT // 2}" text-anchor="{end}">{html.escape(note)}</text>')
    body += [one_line(place % 6, name, points, at) for place, (name, points) in enumerate(series.items()) if points]
    key = "".join(
        f'<span class="key"><i class="line{place % 6}"></i>{html.escape(name)}</span>'
        for place, name in enumerate(series)
    )
    return (
        f'<figure class="chart"><figcaption><span>{html.escape(title)}</span><span>{key}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">{"".join(body)}</svg></figure>'
    )


DASHED = 'style="stroke:var(--quiet);stroke-width:1.2;stroke-dasharray:4 3"'
STRIP, ROW = (1080, 168), 116  # px: size of a history; where its jobs are


def strip(log: Log, case: Case, names: Sequence[str]) -> str:
    """The history of a case: above, the risk of each job; below, the jobs, in order of submission."""
    count = len(case.number)
    place_x = spread(0, max(count - 1, 1), 46, STRIP[0] - 34)
    place_y = spread(0, 1, 82, 14)
    body = [
        f'<line class="grid" x1="32" x2="{STRIP[0] - 14}" y1="{place_y(y):.1f}" y2="{place_y(y):.1f}"/>'
        f'<text x="26" y="{place_y(y) + 4:.1f}" text-anchor="end">{y:g}</text>'
        for y in (0, 0.5, 1)
    ]
    x = place_x(count - 1)
    body.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="{ROW + 22}" {DASHED}/>')
    known = [(place_x(i), place_y(float(r))) for i, r in enumerate(case.risk) if np.isfinite(r)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in known)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>' for x, y in known)
    body.append(f'<g style="color:var(--text)"><polyline points="{path}"/>{dots}</g>')
    for i, (was, became, size) in enumerate(zip(case.was, case.became, doublings(log, case), strict=True)):
        colour = f"var(--line{became % 6})" if became >= 0 else "var(--quiet)"
        fill = colour if was >= 0 else "var(--edge)"
        body.append(
            f'<circle cx="{place_x(i):.1f}" cy="{ROW}" r="{3.5 + 1.1 * size:.1f}" style="fill:{fill};fill-opacity:0.8;stroke:{colour};'
            f'stroke-width:1.6"><title>{html.escape(told(log, case, i, names))}</title></circle>'
        )
    now = log.jobs.submit[case.job]
    for i in sorted({0, (count - 1) // 3, 2 * (count - 1) // 3} - {count - 1}):
        ago = duration(float(now - log.jobs.submit[case.number[i]]))
        body.append(
            f'<text x="{place_x(i):.1f}" y="{STRIP[1] - 12}" text-anchor="{"middle" if i else "start"}">{ago} before</text>'
        )
    body.append(f'<text x="{STRIP[0] - 10}" y="{STRIP[1] - 12}" text-anchor="end">this job</text>')
    return (
        '<figure class="chart"><figcaption><span>risk at submission, and what had become of each job</span></figcaption>'
        f'<svg viewBox="0 0 {STRIP[0]} {STRIP[1]}" role="img" aria-label="history of a user">{"".join(body)}</svg></figure>'
    )


def doublings(log: Log, case: Case) -> Float64[np.ndarray, " m"]:
    """The logarithm to base 2 of the processors of a history's jobs, at most 9; 0 where they are not known."""
    return np.log2(np.clip(np.asarray(log.jobs.processors[case.number], np.float64), 1, 512))


def told(log: Log, case: Case, place: int, names: Sequence[str]) -> str:
    """A job of a history in words."""
    number, was, became = case.number[place], case.was[place], case.became[place]
    state = names[was] if was >= 0 else "open then" + (f", later {names[became]}" if became >= 0 else "")
    risk = f", risk {case.risk[place]:.2f}" if np.isfinite(case.risk[place]) else ""
    processors = log.jobs.processors[number]
    size = f", {short(float(processors))} processors" if processors > 0 else ""
    return f"job {log.jobs.id[number].decode(errors='replace')}, {date(log.jobs.submit[number])}{size}: {state}{risk}"


def case_section(
    log: Log,
    cases: Sequence[Case],
    ends: Ends,
    edges: np.ndarray,
    names: Sequence[str],
    moved: Mapping[str, np.ndarray],
    options: Mapping[str, Any],
) -> str:
    """Each job with the history of its user, and the inputs that moved its risk most."""
    keys = "".join(
        f'<span><i class="swatch" style="background:var(--line{k % 6})"></i>{html.escape(name)}</span>'
        for k, name in enumerate(names)
    )
    keys += (
        '<span><i class="swatch" style="background:var(--edge)"></i>had not ended then (rim: how it ended later)</span>'
    )
    keys += "<span>the larger, the more processors</span>"
    body = ""
    for place, case in enumerate(cases):
        row = int(np.flatnonzero(ends.job == case.job)[0])
        body += f"<h3>{case.title}</h3><p>{case_text(log, case, ends, row, edges, names, options)}</p>"
        body += strip(log, case, names)
        shifts = {kind: case.risk[-1] - risks[place] for kind, risks in moved.items() if np.isfinite(risks[place])}
        order = sorted(shifts, key=lambda kind: -abs(shifts[kind]))[:6]
        rows = [[kind, f"{case.risk[-1] - shifts[kind]:.2f}", f"{shifts[kind]:+.2f}"] for kind in order]
        if rows:
            body += number_table(["inputs of this job", "risk without them", "they moved it by"], rows)
    return f'<div class="legend">{keys}</div>{body}'


def case_text(
    log: Log, case: Case, ends: Ends, row: int, edges: np.ndarray, names: Sequence[str], options: Mapping[str, Any]
) -> str:
    codes = dict(zip(NAMES, log.jobs.codes[case.job].tolist(), strict=True))
    named = [f"{f} {clipped(log.names[f][codes[f]])}" for f in ("user", "program") if log.names[f][codes[f]]]
    run, processors = ends.run[row], ends.processors[row]
    last = np.flatnonzero(edges <= run)[-1]
    later = f", {ends.risk[row, last]:.2f} after it ran for {duration(edges[last])}" if last else ""
    facts = [
        f"Job {log.jobs.id[case.job].decode(errors='replace')}",
        *named,
        f"submitted {date(log.jobs.submit[case.job])}",
        f"{short(float(processors))} processors",
        f"ran {duration(run)}, {rounded(run / 3600 * processors / options['per_node'])} node-hours",
        f"ended as {names[ends.label[row]]}",
        f"risk {case.risk[-1]:.2f} at submission{later}",
    ]
    return html.escape(" \N{MIDDLE DOT} ".join(facts))


# A picture ----------------------------------------------------------------------------------------------------------------


def picture(
    log: Log,
    forecasts: Forecasts,
    edges: np.ndarray,
    names: Sequence[str],
    bad: Sequence[str],
    options: Mapping[str, Any],
) -> UInt8[np.ndarray, "h w 3"]:
    """What a threshold on the risk saves, how often the risk is right, and the histories of three jobs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes a second: only who draws waits
    from matplotlib.figure import Figure

    ends = ends_of(log, forecasts, names, bad)
    cases = cases_of(log, ends, forecasts, names, bad)
    figure = Figure(figsize=(10, 3.6 + 1.55 * len(cases)), dpi=100, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    rows = figure.subfigures(1 + len(cases), 1, height_ratios=[3.5, *[1.55] * len(cases)], squeeze=False)[:, 0]
    left, right = rows[0].subplots(1, 2)
    draw_decision(left, ends, edges, options)
    draw_reliability(right, ends)
    for row, case in zip(rows[1:], cases, strict=True):
        draw_history(row, log, case, names)
    if cases:
        from matplotlib.lines import Line2D

        dot = lambda face, rim, text: Line2D(
            [], [], marker="o", ls="", markerfacecolor=face, markeredgecolor=rim, label=text
        )
        keys = [dot(COLOURS[k % 6], COLOURS[k % 6], name) for k, name in enumerate(names)]
        keys.append(dot("#e2e4e8", "#6a727d", "open then (rim: how it ended)"))
        figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), fontsize=8, frameon=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def plain(axes: Any, title: str, below: str = "") -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel(below, fontsize=8)
    axes.tick_params(labelsize=7, length=2)
    axes.spines[["top", "right"]].set_visible(False)


def draw_decision(axes: Any, ends: Ends, edges: np.ndarray, options: Mapping[str, Any]) -> None:
    found = decision_of(ends, edges, THRESHOLDS, options)
    for name, colour in (("saved", COLOURS[0]), ("lost", COLOURS[1]), ("net", COLOURS[2])):
        axes.plot(found.threshold, getattr(found, name), color=colour, label=name, linewidth=1.6)
    axes.axhline(0, color="#c8ccd2", linewidth=0.8, zorder=0)
    axes.legend(fontsize=8, frameon=False)
    plain(axes, "node-hours, if jobs are moved from a risk on", "risk from which a job is moved")


def draw_reliability(axes: Any, ends: Ends) -> None:
    points = np.array(reliability(ends)).reshape(-1, 3)
    axes.plot([0, 1], [0, 1], color="#c8ccd2", linewidth=1)
    axes.plot(points[:, 0], points[:, 1], "-", color=COLOURS[0], linewidth=1.6)
    axes.scatter(points[:, 0], points[:, 1], 10 + 200 * points[:, 2], COLOURS[0], alpha=0.7, linewidths=0)
    plain(axes, "share that ended badly (size: share of the jobs)", "risk at submission")


def draw_history(figure: Any, log: Log, case: Case, names: Sequence[str]) -> None:
    """A case as in `strip`."""
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.5, 1])
    x = np.arange(len(case.number))
    axes.plot(x, case.risk, ".-", color="#1d2126", linewidth=1.2, markersize=4)
    axes.set_ylim(-0.05, 1.05)
    axes.set_yticks([0, 0.5, 1])
    own = f": {names[case.became[-1]]}, risk {case.risk[-1]:.2f}"
    plain(axes, case.title + own)
    axes.tick_params(labelbottom=False, bottom=False)
    area = 14 + 14 * doublings(log, case)
    rims = [COLOURS[k % 6] if k >= 0 else "#6a727d" for k in case.became]
    faces = [rim if was >= 0 else "#e2e4e8" for rim, was in zip(rims, case.was, strict=True)]
    below.scatter(x, np.zeros(len(x)), area, faces, edgecolors=rims, linewidths=1.3, alpha=0.85, clip_on=False)
    below.set_axis_off()
    below.set_xlim(-1, len(x))
    for panel in (axes, below):
        panel.axvline(x[-1], color="#6a727d", linewidth=0.8, linestyle=":", zorder=0)
