"""Rasters read onto another grid, window by window, and how large a pixel of a grid is on the ground."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Shaped

from common.errors import InputError
from unet.landcover import geo

EXACT = 1e-6  # px by which a warp may be off; rasterio refuses 0
WINDOW = 1024  # px, side of what is read at once
MERCATOR = 20037508.342789244  # metres: half of the side of the world in EPSG:3857
WGS84 = 6378137.0, 1 / 298.257223563  # semi-major axis in metres, flattening

Window = tuple[int, int, int, int]  # row, column, height, width
Read = Callable[[int, int, int, int], tuple[Shaped[np.ndarray, "B h w"], Bool[np.ndarray, "h w"]]]


class Grid(NamedTuple):
    """Where the pixels of a raster lie; `crs` and `transform` as rasterio has them."""

    crs: Any
    transform: Any
    height: int
    width: int

    def coarser(self, side: int) -> "Grid":
        """The same place with `side` pixels at most along each axis."""
        step = max(1, -(-max(self.height, self.width) // side))
        return Grid(
            self.crs, self.transform @ self.transform.scale(step), -(-self.height // step), -(-self.width // step)
        )

    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top of its four corners."""
        corners = [self.transform @ (x, y) for x in (0, self.width) for y in (0, self.height)]
        xs, ys = zip(*corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def windows(self, side: int = WINDOW) -> Iterator[Window]:
        return cut(self.height, self.width, side)


def cut(height: int, width: int, side: int) -> Iterator[Window]:
    """The windows of at most `side` px that cover a raster, row after row."""
    for row in range(0, height, side):
        for col in range(0, width, side):
            yield row, col, min(side, height - row), min(side, width - col)


def grid_of(path: str | Path) -> Grid:
    """The grid of a raster. Raises InputError where it has no CRS or no place on it."""
    with geo.open_raster(path) as dataset:
        check_place(dataset, path)
        return Grid(dataset.crs, dataset.transform, dataset.height, dataset.width)


def check_place(dataset: Any, path: str | Path) -> None:
    """Raises InputError where a raster does not say where it lies."""
    if dataset.crs is None:
        raise InputError(f"{path}: no CRS; set it: gdal_edit.py -a_srs EPSG:NUMBER {path}")
    if dataset.transform.is_identity or dataset.transform.determinant == 0:
        raise InputError(f"{path}: no geotransform; set it: gdal_edit.py -a_ullr LEFT TOP RIGHT BOTTOM {path}")


def check_overlap(path: str | Path, grid: Grid, other: str | Path) -> None:
    """Raises InputError where `path` lies wholly outside the grid of `other`."""
    warp = geo.rasterio().warp
    place = grid_of(path)
    with geo.reading(path):
        boxes = [warp.transform_bounds(g.crs, "EPSG:4326", *g.bounds()) for g in (place, grid)]
    (left, bottom, right, top), (left2, bottom2, right2, top2) = boxes
    if left >= right2 or left2 >= right or bottom >= top2 or bottom2 >= top:
        raise InputError(f"{path}: does not overlap {other}; give rasters of one place")


@contextlib.contextmanager
def on_grid(path: str | Path, grid: Grid, how: str = "nearest", bands: Sequence[int] | None = None) -> Iterator[Read]:
    """read(row, col, height, width) of the grid -> (bands [B, h, w], valid [h, w]), whatever grid the raster has.

    `how`: 'nearest', 'bilinear'. `bands` count from 1; None is all but an alpha band. A coarse grid is read from an
    overview where the raster has one. Raises InputError where the raster cannot be read, then or later.
    """
    module = geo.rasterio()
    level = overview(path, grid)
    with geo.open_raster(path, **({} if level is None else {"overview_level": level})) as dataset:
        alpha = module.enums.ColorInterp.alpha in dataset.colorinterp
        chosen = list(bands or range(1, dataset.count + 1 - alpha))
        same = dataset.crs == grid.crs and dataset.shape == (grid.height, grid.width)
        if same and dataset.transform.almost_equals(grid.transform, 1e-9):
            source, close = dataset, contextlib.nullcontext()
        else:
            with geo.reading(path):
                source = close = warped(dataset, grid, how, alpha)

        def read(row: int, col: int, height: int, width: int):
            window = module.windows.Window(col, row, width, height)
            with geo.reading(path):
                values = source.read(chosen, window=window)
                if source is dataset:
                    return values, (dataset.read_masks(chosen, window=window) > 0).all(0)
                return values, source.read(source.count, window=window) > 0

        with close:
            yield read


def warped(dataset: Any, grid: Grid, how: str = "nearest", alpha: bool = False) -> Any:
    """A dataset as it lies on a grid, with an alpha band at the end that says where it has anything. `alpha`: it has one already."""
    module = geo.rasterio()
    return module.vrt.WarpedVRT(
        dataset,
        **grid._asdict(),
        resampling=module.enums.Resampling[how],
        tolerance=EXACT,
        add_alpha=not alpha,
        init_dest_nodata=False,  # where nothing is: the alpha band says it, whether or not there is a nodata
        INIT_DEST="0",
    )


def overview(path: str | Path, grid: Grid) -> int | None:
    """The place of the coarsest overview that is as fine as the grid; None for the raster itself."""
    with geo.open_raster(path) as dataset:
        check_place(dataset, path)
        factors = dataset.overviews(1)
        if not factors:
            return None
        here = Grid(dataset.crs, dataset.transform, dataset.height, dataset.width)
    ratio = pixel_size(grid, here.crs) / pixel_size(here, here.crs)
    fine = [place for place, factor in enumerate(factors) if factor <= ratio * 1.01]
    return fine[-1] if fine else None


def pixel_size(grid: Grid, crs: Any) -> float:
    """Side of the pixel in the grid's middle, in the units of `crs`."""
    middle = grid.width / 2, grid.height / 2
    points = [grid.transform @ (middle[0] + dx, middle[1] + dy) for dx, dy in ((0, 0), (1, 0), (0, 1))]
    xs, ys = geo.rasterio().warp.transform(grid.crs, crs, *zip(*points, strict=True))[:2]
    return math.sqrt(abs((xs[1] - xs[0]) * (ys[2] - ys[0]) - (xs[2] - xs[0]) * (ys[1] - ys[0])))


def row_hectares(grid: Grid, where: str | Path) -> Float64[np.ndarray, " H"]:
    """Hectares of a pixel in each row: from the units of a projected CRS; exact on the ellipsoid of WGS 84 for a
    geographic one and for EPSG:3857, whose metres are not metres on the ground.

    Raises InputError for other systems, and for a geographic grid that is rotated: its rows have no one latitude.
    """
    crs, (a, b, _, d, e, top) = grid.crs, grid.transform[:6]
    mercator = crs.to_epsg() == 3857
    if crs.is_projected and not mercator:
        unit = crs.linear_units_factor[1]
        return np.full(grid.height, abs(grid.transform.determinant) * unit**2 / 1e4)
    if not (crs.is_geographic or mercator):
        raise InputError(f"{where}: its CRS is neither projected nor geographic, so areas are unknown; reproject it")
    if b or d:
        raise InputError(f"{where}: rotated, on a CRS whose pixels differ in area by row; warp it to a north-up grid")
    edges = top + e * np.arange(grid.height + 1)
    if mercator:
        latitudes, width = np.arctan(np.sinh(edges / WGS84[0])), abs(a) / WGS84[0]
    else:
        unit = crs.units_factor[1]  # radians
        latitudes, width = np.clip(edges * unit, -np.pi / 2, np.pi / 2), abs(a) * unit
    return np.abs(np.diff(zone(latitudes))) * width / 1e4


def zone(latitude: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Square metres from the equator to a latitude, for one radian of longitude."""
    axis, flattening = WGS84
    e = math.sqrt(flattening * (2 - flattening))
    s = np.sin(latitude)
    return axis**2 * (1 - e**2) / 2 * (s / (1 - (e * s) ** 2) + np.arctanh(e * s) / e)
