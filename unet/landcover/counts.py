"""Pixels and hectares counted over whole rasters, window by window: labels against a map, one date against another."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from common.errors import InputError
from common.metrics import Calibration
from unet.images import IGNORE
from unet.landcover.grid import Grid, check_overlap, grid_of, on_grid, row_hectares
from unet.landcover.legend import NODATA, Legend
from unet.scores import BINS


class Counts(NamedTuple):
    """What two maps of K classes have in common. Place K of an axis: does not count; K + 1: no data."""

    pixels: Int64[np.ndarray, "L L"]
    hectares: Float64[np.ndarray, "L L"]
    calibration: Calibration  # pixels by confidence, those that agree are right

    @property
    def matrix(self) -> Int64[np.ndarray, "K K"]:
        """Pixels of each (row, column) class."""
        return self.pixels[:-2, :-2]

    @property
    def areas(self) -> Float64[np.ndarray, "K K"]:
        return self.hectares[:-2, :-2]


def nothing(classes: int) -> Counts:
    side = (classes + 2, classes + 2)
    return Counts(np.zeros(side, np.int64), np.zeros(side), Calibration(*np.zeros((3, BINS))))


def count_agreement(
    mapped: str | Path,
    legend: Legend,
    *,
    labels: str | Path = "",
    confidence: str | Path = "",
    ignore: Sequence[int] = (),
) -> Counts:
    """Labels (rows), warped onto the map's grid by nearest neighbour, against the map's classes (columns).

    Without labels all rows but 'no data' are empty. `confidence`: percent on the map's place, for the bins. `ignore`:
    codes of the labels that do not count. Raises InputError for rasters that cannot be read, have no CRS or do not
    overlap, for codes that are not in the legend, and for confidence that is not percent.
    """
    grid = grid_of(mapped)
    if labels:
        check_overlap(labels, grid, mapped)
    areas, counts = row_hectares(grid, mapped), nothing(len(legend.classes))
    with contextlib.ExitStack() as stack:
        predicted = stack.enter_context(classes_on(mapped, grid, legend, own=True))
        given = stack.enter_context(classes_on(labels, grid, legend, ignore)) if labels else None
        sure = stack.enter_context(on_grid(confidence, grid)) if confidence else None
        for window in grid.windows():
            columns = predicted(*window)
            rows = given(*window) if given else np.full_like(columns, NODATA)
            counts = add(counts, rows, columns, areas[window[0] : window[0] + window[2]])
            if sure and given:
                percent = percents(confidence, *sure(*window))
                counts = counts._replace(calibration=counts.calibration.merge(calibration(percent, rows, columns)))
    return counts


def count_change(
    before: str | Path,
    after: str | Path,
    legend: Legend,
    *,
    confidences: Sequence[str | Path] = (),
    least: int = 0,
) -> Counts:
    """The earlier map (rows), on the later one's grid, against the later one (columns).

    Where one of the rasters `confidences` (percent) is below `least` or has no data, both sides go to 'does not count'.
    Raises InputError as `count_agreement` does.
    """
    grid = grid_of(after)
    for path in (before, *confidences):
        check_overlap(path, grid, after)
    areas, counts = row_hectares(grid, after), nothing(len(legend.classes))
    with contextlib.ExitStack() as stack:
        reads = [stack.enter_context(classes_on(path, grid, legend, own=True)) for path in (before, after)]
        sure = [(path, stack.enter_context(on_grid(path, grid))) for path in confidences]
        for window in grid.windows():
            rows, columns = (read(*window) for read in reads)
            for path, read in sure:
                percent = percents(path, *read(*window))
                unsure = (percent < least) | (percent == NODATA)
                rows, columns = (np.where(unsure & (x < NODATA), np.uint8(IGNORE), x) for x in (rows, columns))
            counts = add(counts, rows, columns, areas[window[0] : window[0] + window[2]])
    return counts


@contextlib.contextmanager
def classes_on(path: str | Path, grid: Grid, legend: Legend, ignore: Sequence[int] = (), own: bool = False):
    """read(row, col, height, width) of the grid -> class indices [h, w], NODATA where the raster has nothing.

    `own`: a map of ours, in which the legend's nodata code says so even where the file declares none.
    """
    with on_grid(path, grid, bands=[1]) as read:

        def classes(row: int, col: int, height: int, width: int) -> UInt8[np.ndarray, "h w"]:
            (codes,), valid = read(row, col, height, width)
            # What fills the invalid pixels is no code: it must not be looked up.
            codes = np.where(valid, codes, codes.dtype.type(legend.codes[0]))
            index = legend.to_index(codes, nodata=legend.nodata if own else None, ignore=ignore, where=str(path))
            return np.where(valid, index, np.uint8(NODATA))

        yield classes


def percents(path: str | Path, values: np.ndarray, valid: np.ndarray) -> UInt8[np.ndarray, "h w"]:
    """Confidence in percent, NODATA where there is none."""
    percent = np.where(valid, values[0], 0)
    if (percent < 0).any() or (percent > 100).any():
        raise InputError(f"{path}: {percent.max():g} is no percent; confidence goes from 0 to 100, nodata declared")
    return np.where(valid, np.rint(percent), NODATA).astype(np.uint8)


def add(counts: Counts, rows: UInt8[np.ndarray, "h w"], columns: UInt8[np.ndarray, "h w"], hectares) -> Counts:
    """`counts` and one window more; `hectares` of a pixel of each of its rows."""
    side = len(counts.pixels)
    place = np.full(256, side - 1, np.int32)
    place[: side - 2] = np.arange(side - 2)
    place[IGNORE] = side - 2
    pairs = place[rows] * side + place[columns]
    # One count a row where pixels of different rows differ in area, one for all else.
    groups = pairs if np.ptp(hectares) else pairs.reshape(1, -1)
    each = np.stack([np.bincount(group, minlength=side * side) for group in groups])
    areas = hectares[: len(each)] @ each
    return counts._replace(
        pixels=counts.pixels + each.sum(0).reshape(side, side), hectares=counts.hectares + areas.reshape(side, side)
    )


def calibration(percent: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> Calibration:
    """Pixels by confidence, where all three are known."""
    known = (percent <= 100) & (rows < NODATA) & (columns < NODATA)
    percent, right = percent[known], (rows == columns)[known]
    place = np.minimum(percent.astype(np.int64) * BINS // 100, BINS - 1)
    return Calibration(*(np.bincount(place, w, BINS).astype(np.float64) for w in (None, percent / 100, right)))
