"""Windows of rasters: the bands of a scene on one grid, and rasters of codes warped onto it. Nothing is read whole."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Num, Shaped

from common.errors import InputError
from unet.landcover.geo import HANDLES, open_raster, rasterio, reading
from unet.landcover.grid import Grid, check_place, warped

ALIKE = 0.02  # px by which the grids of two bands may differ
QUALITY = ("landsat", "sentinel2")
# Of QA_PIXEL, Collection 2: fill, dilated cloud, cirrus, cloud, cloud shadow.
LANDSAT_BITS = 0b11111
# Of SCL: no data, defective, cloud shadow, clouds of medium and of high probability, cirrus.
SENTINEL2_CLASSES = (0, 1, 3, 8, 9, 10)


class BandFile(NamedTuple):
    """Bands of one file. The scene begins at (row, column) of it. `nodata`: of each band."""

    path: Path
    indexes: tuple[int, ...]
    names: tuple[str, ...]
    nodata: tuple[float | None, ...]
    masked: bool  # by an alpha band or a mask file
    grid: Grid
    row: int = 0
    column: int = 0


class Bands:
    """The bands of a scene, from one file or several."""

    def __init__(self, files: Sequence[BandFile], grid: Grid, quality: "Warped | None" = None, kind: str = "landsat"):
        self.files, self.grid, self.quality, self.kind = files, grid, quality, kind

    def read(
        self, row: int, column: int, height: int, width: int
    ) -> tuple[Num[np.ndarray, "h w C"], Bool[np.ndarray, "h w"]]:
        """(values as they are stored, where all bands hold data and the quality is good) of a window inside."""
        image, valid = self.stack(row, column, height, width, (height, width))
        if self.quality:
            valid &= good(*self.quality.read(row, column, height, width), self.kind)
        return image, valid

    def overview(self, height: int, width: int) -> tuple[Num[np.ndarray, "h w C"], Bool[np.ndarray, "h w"]]:
        """The same of the whole scene in fewer pixels: one in so many is taken."""
        image, valid = self.stack(0, 0, self.grid.height, self.grid.width, (height, width))
        if self.quality:
            valid &= good(*self.quality.overview(height, width), self.kind)
        return image, valid

    def facts(self) -> list[list[str | int]]:
        """Name, size and time of each file: other numbers, other files."""
        paths = [file.path for file in self.files] + ([self.quality.path] if self.quality else [])
        return [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in paths]

    def stack(self, row, column, height, width, shape):
        parts = []
        valid = np.ones(shape, bool)
        for place, file in enumerate(self.files):
            dataset = HANDLES.get((self, place), lambda: open_raster(file.path))  # noqa: B023  called at once
            window = rasterio().windows.Window(file.column + column, file.row + row, width, height)
            values = np.empty(
                (*shape, len(file.indexes)), np.result_type(*dataset.dtypes)
            )  # bands last, as they are used
            with reading(file.path):
                dataset.read(list(file.indexes), window=window, out=values.transpose(2, 0, 1))
                if file.masked:
                    valid &= dataset.dataset_mask(window=window, out_shape=shape) > 0
            for band, nodata in enumerate(file.nodata):
                valid &= holds_data(values[..., band], nodata)
            parts.append(values)
        return parts[0] if len(parts) == 1 else np.concatenate(parts, -1), valid


def holds_data(band: Num[np.ndarray, "h w"], nodata: float | None) -> Bool[np.ndarray, "h w"] | bool:
    there = np.isfinite(band) if band.dtype.kind == "f" else True
    if nodata is None or math.isnan(nodata):
        return there
    if band.dtype.kind != "f":
        nodata = int(nodata) if nodata == int(nodata) else nodata
        return band != nodata
    return there & (band != band.dtype.type(nodata))  # the tag holds the decimals of a float32


class Warped:
    """A raster of codes, one band, as it lies on another grid: the nearest neighbour of each pixel's centre."""

    def __init__(self, path: Path, grid: Grid):
        """Raises InputError for a raster without CRS, with several bands, or that does not overlap the grid."""
        self.path, self.grid = path, grid
        with open_raster(path) as dataset:
            check_codes(dataset, path, grid)
            self.nodata = dataset.nodata

    def read(self, row: int, column: int, height: int, width: int) -> tuple[Shaped[np.ndarray, "h w"], np.ndarray]:
        """(codes, where the raster has any) of a window inside the grid."""
        dataset = HANDLES.get(self, lambda: self.open(self.grid))
        with reading(self.path):
            codes, alpha = dataset.read(window=rasterio().windows.Window(column, row, width, height))
        return codes, alpha > 0

    def overview(self, height: int, width: int) -> tuple[Shaped[np.ndarray, "h w"], np.ndarray]:
        with self.open(smaller(self.grid, height, width)) as dataset, reading(self.path):
            codes, alpha = dataset.read()
        return codes, alpha > 0

    def open(self, grid: Grid) -> Any:
        source = open_raster(self.path)
        with reading(self.path):
            return warped(source, grid)


def check_codes(dataset: Any, path: Path, grid: Grid) -> None:
    module = rasterio()
    if dataset.count != 1:
        raise InputError(f"{path}: {dataset.count} bands; a raster of codes has one: cut it out (gdal_translate -b)")
    if np.dtype(dataset.dtypes[0]).kind == "c":
        raise InputError(f"{path}: holds complex numbers; expected codes")
    check_place(dataset, path)
    there = Grid(dataset.crs, dataset.transform, *dataset.shape).bounds()
    with reading(path):
        here = module.warp.transform_bounds(grid.crs, dataset.crs, *grid.bounds())
    if not (here[0] < there[2] and there[0] < here[2] and here[1] < there[3] and there[1] < here[3]):
        raise InputError(f"{path}: does not overlap the image; give the raster of its area, or correct its CRS")


def smaller(grid: Grid, height: int, width: int) -> Grid:
    """The same place in fewer pixels."""
    scale = grid.transform.scale(grid.width / width, grid.height / height)
    return Grid(grid.crs, grid.transform @ scale, height, width)


def good(codes: Shaped[np.ndarray, "h w"], there: Bool[np.ndarray, "h w"], kind: str) -> Bool[np.ndarray, "h w"]:
    """Where a quality raster finds nothing wrong: Landsat's QA_PIXEL, or Sentinel-2's scene classes. It must know the place."""
    if kind == "landsat":
        return there & (codes.astype(np.int64) & LANDSAT_BITS == 0)
    return there & ~np.isin(codes, SENTINEL2_CLASSES)


def band_files(paths: Sequence[Path]) -> tuple[list[BandFile], Grid]:
    """The bands of several files on the grid of the first one, cut to what all of them cover.

    Raises InputError for files without CRS, with another CRS or resolution than the first, and without common pixels.
    """
    files = []
    for path in paths:
        file = band_file(path)
        if files:
            row, column = offset(files[0], file)
            file = file._replace(row=row, column=column)
        files.append(file)
    first = files[0].grid
    top, left = max(-f.row for f in files), max(-f.column for f in files)
    bottom = min(f.grid.height - f.row for f in files)
    right = min(f.grid.width - f.column for f in files)
    if top >= bottom or left >= right:
        raise InputError(f"{paths[0]}: has no pixel in common with all of {len(paths)} bands; give bands of one scene")
    grid = Grid(first.crs, first.transform @ first.transform.translation(left, top), bottom - top, right - left)
    return [f._replace(row=f.row + top, column=f.column + left) for f in files], grid


def band_file(path: Path) -> BandFile:
    module = rasterio()
    with open_raster(path) as dataset:
        check_place(dataset, path)
        colours = module.enums.ColorInterp
        indexes = [i for i, c in zip(dataset.indexes, dataset.colorinterp, strict=True) if c != colours.alpha]
        kinds = [np.dtype(dataset.dtypes[i - 1]).kind for i in indexes]
        if not indexes or not set(kinds) <= set("uif"):
            raise InputError(f"{path}: holds {dataset.dtypes[0]}, {len(indexes)} bands; expected bands of real numbers")
        flags = module.enums.MaskFlags
        masked = any(flags.per_dataset in x or flags.alpha in x for x in dataset.mask_flag_enums)
        several = [dataset.descriptions[i - 1] or f"{path.stem} {i}" for i in indexes]
        names = several if len(indexes) > 1 else [dataset.descriptions[indexes[0] - 1] or path.stem]
        nodata = tuple(dataset.nodatavals[i - 1] for i in indexes)
        grid = Grid(dataset.crs, dataset.transform, *dataset.shape)
    return BandFile(path, tuple(indexes), tuple(names), nodata, masked, grid)


def offset(first: BandFile, other: BandFile) -> tuple[int, int]:
    """(row, column) of the first one's first pixel in the other one. Raises InputError where their grids differ."""
    a, b = first.grid, other.grid
    if a.crs != b.crs:
        raise InputError(f"{other.path}: its CRS is not that of {first.path.name}; warp it first: gdalwarp -t_srs")
    step = ~b.transform @ a.transform  # pixels of the one to pixels of the other
    drift = max(abs(step.a - 1), abs(step.e - 1), abs(step.b), abs(step.d)) * max(a.height, a.width)
    if drift > ALIKE:
        size = f"{abs(b.transform.a):g} against {abs(a.transform.a):g}"
        raise InputError(
            f"{other.path}: its pixels are not those of {first.path.name} ({size}); resample it: gdalwarp -tr"
        )
    row, column = round(step.f), round(step.c)
    if max(abs(step.f - row), abs(step.c - column)) > ALIKE:
        shift = f"{abs(step.f - row):.2f} and {abs(step.c - column):.2f} px"
        raise InputError(
            f"{other.path}: its grid is off that of {first.path.name} by {shift}; resample it: gdalwarp -tap"
        )
    return row, column
