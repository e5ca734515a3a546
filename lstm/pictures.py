"""Pictures of gates and memories for documents, drawn with matplotlib."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from lstm.pages import Row, visible

WIDTH, DPI = 10.0, 100  # inches, dots an inch: the width that experiments.report gives its pictures
MAP = LinearSegmentedColormap.from_list("memory", ["#dc2626", "#ffffff", "#2563eb"])


def heat_picture(
    rows: Sequence[Row], words: Sequence[str], strong: Sequence[int] = (), *, columns: int = 24
) -> UInt8[np.ndarray, "h w 3"]:
    """The heat map of `lstm.pages.heat_map` as a picture: words at an angle under their columns, `columns` a line, as even
    as can be; `strong` words bold."""
    lines = np.array_split(np.arange(len(words)), -(-len(words) // columns))
    longest = max(len(line) for line in lines)
    height = 0.16 * len(rows) + 0.95
    figure = Figure(figsize=(WIDTH, height * len(lines)), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for number, line in enumerate(lines):
        bottom = 1 - (number + 1) / len(lines) + 0.85 / (height * len(lines))
        share = len(line) / longest
        axes = figure.add_axes((0.16, bottom, 0.82 * share, (height - 0.95) / (height * len(lines))))
        axes.imshow(np.stack([row.values[line] for row in rows]), cmap=MAP, vmin=-1, vmax=1, aspect="auto")
        axes.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=7)
        axes.set_xticks(range(len(line)), [visible(words[t]) for t in line], rotation=55, ha="right", fontsize=8)
        for label, place in zip(axes.get_xticklabels(), line, strict=True):
            label.set_rotation_mode("anchor")
            label.set_fontweight("bold" if place in set(strong) else "normal")
        starts = [place for place, row in enumerate(rows) if row.group]
        for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
            axes.axhline(start - 0.5, color="#6a727d", linewidth=0.8)
            middle = 1 - (start + stop) / 2 / len(rows)
            axes.text(
                -0.115 / share,
                middle,
                rows[start].group.replace(" ", "\n"),
                fontsize=8,
                va="center",
                ha="center",
                transform=axes.transAxes,
            )
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_color("#c8ccd2")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
