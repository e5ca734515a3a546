"""Training crops and evaluation tiles straight from the windows of scenes: no scene is ever in memory as a whole."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from common.errors import InputError
from unet.images import IGNORE
from unet.landcover.blocks import PARTS, TRAIN, Blocks
from unet.landcover.grid import cut
from unet.landcover.legend import NODATA
from unet.landcover.scene import Scene
from unet.tiling import Span, plan

WINDOW = 512  # px a side, of what is read at once when labels are counted
WINDOWS = 1024  # at most so many are read, spread evenly over all scenes
PLACES = 65_536  # of each class, at most, that are kept of all windows: as many of each


class Survey(NamedTuple):
    """What the training parts hold: pixels of each class, and places (scene, row, column) of it, evenly drawn."""

    counts: Int[np.ndarray, " k"]
    places: tuple[Int[np.ndarray, "n 3"], ...]


def survey(scenes: Sequence[Scene], blocks: Blocks, classes: int) -> Survey:
    """Reads the labels of the training parts: all of them, or WINDOWS windows where there are more.

    Raises InputError for codes that are not in the legend, and where no pixel is labelled.
    """
    chosen = spread_windows(scenes)
    counts = np.zeros(classes, np.int64)
    places: list[list[np.ndarray]] = [[] for _ in range(classes)]
    most = max(1, PLACES // len(chosen))
    for number, row, column, height, width in chosen:
        label = part_labels(TRAIN, scenes, blocks, number, row, column, height, width)
        counts += np.bincount(label.reshape(-1), minlength=IGNORE + 1)[:classes]
        rng = np.random.default_rng((number, row, column))
        for index in np.unique(label[label < classes]):
            y, x = np.nonzero(label == index)
            kept = rng.permutation(len(y))[:most]
            places[index].append(np.stack([np.full(len(kept), number), y[kept] + row, x[kept] + column], 1))
    if not counts.any():
        raise InputError(
            "config.data.scenes: no labelled pixel in the training part; check labels, quality, block and guard"
        )
    empty = np.zeros((0, 3), np.int64)
    return Survey(counts, tuple(np.concatenate(found) if found else empty for found in places))


def all_windows(scenes: Sequence[Scene]) -> Iterator[tuple[int, int, int, int, int]]:
    """(scene, row, column, height, width) of the windows that cover all scenes."""
    for number, scene in enumerate(scenes):
        for window in cut(scene.height, scene.width, WINDOW):
            yield number, *window


def spread_windows(scenes: Sequence[Scene]) -> list[tuple[int, int, int, int, int]]:
    """All windows, or WINDOWS of them, spread evenly."""
    windows = list(all_windows(scenes))
    return [windows[i] for i in np.unique(np.linspace(0, len(windows) - 1, min(WINDOWS, len(windows))).astype(int))]


def part_labels(
    part: int, scenes, blocks: Blocks, number: int, row: int, col: int, height: int, width: int, valid=None
):
    """Class indices of a window, IGNORE where a pixel is not of the part, has no label, or the image is not valid."""
    label = scenes[number].read_labels(row, col, height, width, valid)
    return np.where((label == NODATA) | (blocks.parts(number, row, col, height, width) != part), IGNORE, label)


class Crops:
    """The training part: example i is a cell of a scene that holds pixels for training, and `draw` a crop about it."""

    def __init__(self, scenes: Sequence[Scene], blocks: Blocks, *, size: tuple[int, int], rare: float, classes: int):
        self.scenes, self.blocks, self.size, self.rare, self.classes = scenes, blocks, size, rare, classes
        self.side = min(size)
        cells = []
        side = self.side * max(1, WINDOW // self.side)  # windows of whole cells
        for number, scene in enumerate(scenes):
            for row, column, height, width in cut(scene.height, scene.width, side):
                y, x = self.training(number, row, column, height, width)
                found = np.unique(np.stack([y // self.side, x // self.side], 1), axis=0)
                cells.append(np.concatenate([np.full((len(found), 1), number), found * self.side], 1))
        self.cells = np.concatenate(cells).astype(np.int32)

    def training(self, number: int, row: int, column: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the pixels for training of a window, on a coarse grid."""
        scene = self.scenes[number]
        step = next(
            n for n in range(max(1, self.side // 4), 0, -1) if self.side % n == 0
        )  # the same grid from any cell
        rows = np.arange(row, min(row + height, scene.height), step)
        columns = np.arange(column, min(column + width, scene.width), step)
        y, x = np.nonzero(self.blocks.of_pixels(number, rows, columns) == TRAIN)
        return rows[y], columns[x]

    @functools.cached_property
    def survey(self) -> Survey:
        return survey(self.scenes, self.blocks, self.classes)

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"cell": self.cells[index]}

    def name(self, index: int) -> str:
        number, row, column = self.cells[index]
        return f"{self.scenes[number].name}-{row}-{column}"

    def draw(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """A crop: "image" float32 [h, w, C], "label" int32 [h, w], IGNORE where a pixel is not for training.

        With probability `rare` it holds a pixel of a class that is drawn first, all classes alike; else one of the example's
        cell. It never holds a pixel that is held out where `size` is at most the guard.
        """
        if rng.random() < self.rare:
            known = [found for found in self.survey.places if len(found)]
            found = known[rng.integers(len(known))]
            number, row, column = found[rng.integers(len(found))].tolist()
        else:
            number, row, column = example["cell"].tolist()
            rows, columns = self.training(number, row, column, self.side, self.side)
            chosen = rng.integers(len(rows))
            row, column = int(rows[chosen]), int(columns[chosen])
        scene = self.scenes[number]
        top = within(row - int(rng.integers(self.size[0])), self.size[0], scene.height)
        left = within(column - int(rng.integers(self.size[1])), self.size[1], scene.width)
        image, valid = scene.read(top, left, *self.size)
        label = part_labels(TRAIN, self.scenes, self.blocks, number, top, left, *self.size, valid)
        return {"image": image, "label": label.astype(np.int32)}


def within(start: int, side: int, length: int) -> int:
    """`start` moved so that the window lies inside, where it is not longer than the axis."""
    return min(max(start, 0), length - side) if side <= length else (length - side) // 2


class Tiles:
    """Tiles of one shape that hold a part of the split, in order: every labelled pixel of the part counts once over all rows.

    A row: "image" float32 [tile, tile, C], "label" int32 [out, out], IGNORE outside the kept core and of other parts,
    "image_id" int32, the number of the scene.
    """

    def __init__(
        self, scenes: Sequence[Scene], blocks: Blocks, part: str, *, tile: int, out: int, overlap: int, align: int
    ):
        if part not in PARTS:
            raise InputError(f"split {part!r}: known: {', '.join(PARTS)}")
        self.scenes, self.blocks, self.part, self.tile, self.out = scenes, blocks, PARTS[part], tile, out
        self.rows: list[tuple[int, Span, Span]] = []
        for number, scene in enumerate(scenes):
            spans = [plan(length, tile, out, overlap, align) for length in (scene.height, scene.width)]
            self.rows += [(number, y, x) for y in spans[0] for x in spans[1] if self.holds(number, y, x)]

    def holds(self, number: int, row: Span, column: Span) -> bool:
        return bool((self.blocks.parts(number, *core(row, column)) == self.part).any())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, row, column = self.rows[index]
        scene, margin = self.scenes[number], (self.tile - self.out) // 2
        image, valid = scene.read(row.start_in, column.start_in, self.tile, self.tile)
        known = valid[row.kept(), column.kept()]
        label = np.full((self.out, self.out), IGNORE, np.int32)
        kept = part_labels(self.part, self.scenes, self.blocks, number, *core(row, column), known)
        label[row.kept(margin), column.kept(margin)] = kept
        return {"image": image, "label": label, "image_id": np.int32(number)}


def core(row: Span, column: Span) -> tuple[int, int, int, int]:
    """The window that a tile is kept of."""
    return row.keep_start, column.keep_start, row.keep_stop - row.keep_start, column.keep_stop - column.keep_start
