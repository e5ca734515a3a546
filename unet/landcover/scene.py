"""Scenes: an image on the earth, read by windows of any place and size, with the land cover that a map says is there."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Num, Shaped, UInt8

from common.errors import InputError
from unet.images import IGNORE
from unet.landcover import scaling as scalings
from unet.landcover.geo import rasterio
from unet.landcover.grid import Grid
from unet.landcover.legend import NODATA, Legend
from unet.landcover.pictures import stretched
from unet.landcover.rasters import QUALITY, Bands, Warped, band_files
from unet.landcover.scaling import SCALINGS, Scaling, given_scaling, index_places, percentile_scaling, unscaled
from unet.tiling import mirror

SAMPLE = 1024  # px a side at most, of what a scene's percentiles are taken from


@runtime_checkable
class Windows(Protocol):
    """Bands [h, w, C] and where they are valid: of a window inside, and of the whole in fewer pixels."""

    def read(self, row: int, column: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]: ...
    def overview(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """Bands with indices, and labels, of one place and date. Any thread may read at any time.

    `pixels` and `codes` are what it is read from; without `codes` it has no labels.
    """

    name: str
    height: int
    width: int
    crs: Any
    transform: Any
    band_names: tuple[str, ...]
    rgb_bands: tuple[int, int, int]
    pixels: Windows
    codes: Windows | None
    scaling: Scaling

    @property
    def bands(self) -> int:
        """Bands and indices."""
        return len(self.band_names)

    @property
    def labelled(self) -> bool:
        return self.codes is not None

    def read(
        self, row: int, col: int, height: int, width: int
    ) -> tuple[Float32[np.ndarray, "h w C"], Bool[np.ndarray, "h w"]]:
        """(scaled bands and indices, where they are valid), 0 where not; outside of the scene mirrored.

        Raises InputError where a file is broken.
        """
        raw, valid = windowed(self.pixels, self, row, col, height, width)
        return scalings.scale(raw, valid, self.scaling), valid

    def read_labels(
        self, row: int, col: int, height: int, width: int, valid: Bool[np.ndarray, "h w"] | None = None
    ) -> UInt8[np.ndarray, "h w"]:
        """Class indices; NODATA where the map has none, IGNORE where the image is not valid; outside mirrored.

        `valid`: of this window, where `read` has given it already. Raises InputError for a code that is not in the legend.
        """
        if self.codes is None:
            return np.full((height, width), NODATA, np.uint8)
        if valid is None:
            valid = windowed(self.pixels, self, row, col, height, width)[1]
        return merged(*windowed(self.codes, self, row, col, height, width), valid)

    def overview(
        self, max_side: int
    ) -> tuple[Float32[np.ndarray, "h w C"], Bool[np.ndarray, "h w"], UInt8[np.ndarray, "h w"]]:
        """(image, valid, labels) of the whole scene, one pixel in so many, `max_side` px a side at most."""
        shape = smaller(self.height, self.width, max_side)
        raw, valid = self.pixels.overview(*shape)
        labels = np.full(shape, NODATA, np.uint8)
        if self.codes is not None:
            labels = merged(*self.codes.overview(*shape), valid)
        return scalings.scale(raw, valid, self.scaling), valid, labels

    def rgb(self, max_side: int) -> UInt8[np.ndarray, "h w 3"]:
        """The whole scene in true colour, `max_side` px a side at most: each band from its percentile 2 to 98; invalid is black."""
        raw, valid = self.pixels.overview(*smaller(self.height, self.width, max_side))
        return stretched(raw[..., list(self.rgb_bands)], valid)


def smaller(height: int, width: int, max_side: int) -> tuple[int, int]:
    """The same shape with `max_side` px a side at most."""
    factor = min(1.0, max_side / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def windowed(
    source: Windows, scene: Scene, row: int, col: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """What the source gives for a window of any place; outside of the scene its mirror image."""
    if row >= 0 and col >= 0 and row + height <= scene.height and col + width <= scene.width:
        return source.read(row, col, height, width)
    rows, columns = mirror(row, height, scene.height), mirror(col, width, scene.width)
    top, left = int(rows.min()), int(columns.min())
    values, valid = source.read(top, left, int(rows.max()) + 1 - top, int(columns.max()) + 1 - left)
    place = np.ix_(rows - top, columns - left)
    return values[place], valid[place]


def merged(
    index: UInt8[np.ndarray, "h w"], there: Bool[np.ndarray, "h w"], valid: Bool[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w"]:
    index = np.where(there, index, np.uint8(NODATA))
    return np.where(valid | (index == NODATA), index, np.uint8(IGNORE))


class Array(NamedTuple):
    """Values in memory as Windows."""

    values: np.ndarray
    valid: np.ndarray

    def read(self, row: int, column: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        window = np.s_[row : row + height, column : column + width]
        return self.values[window], self.valid[window].copy()

    def overview(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        rows = (np.arange(height) + 0.5) * len(self.values) // height
        columns = (np.arange(width) + 0.5) * self.values.shape[1] // width
        place = np.ix_(rows.astype(int), columns.astype(int))
        return self.values[place], self.valid[place]


class Labels(NamedTuple):
    """A raster of codes as Windows of class indices."""

    raster: Warped
    legend: Legend
    ignore: tuple[int, ...]

    def read(self, row: int, column: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        return self.index(*self.raster.read(row, column, height, width))

    def overview(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        return self.index(*self.raster.overview(height, width))

    def index(self, codes: Shaped[np.ndarray, "h w"], there: Bool[np.ndarray, "h w"]) -> tuple[np.ndarray, np.ndarray]:
        codes = np.where(there, codes, self.legend.codes[0])  # the fill of a warp is no code
        options = {"nodata": self.raster.nodata, "ignore": self.ignore, "where": str(self.raster.path)}
        return self.legend.to_index(codes, **options), there


def array_scene(
    name: str,
    image: Num[np.ndarray, "H W C"],
    labels: UInt8[np.ndarray, "H W"] | None = None,
    *,
    crs: Any,
    transform: Any,
    valid: Bool[np.ndarray, "H W"] | None = None,
    rgb: Sequence[int] = (2, 1, 0),
    band_names: Sequence[str] = (),
    **options: Any,
) -> Scene:
    """A scene of an array; `labels` hold class indices, IGNORE and NODATA.

    The options are those of `open_scene` that scale: without `scaling` the bands stay as they are.
    """
    finite = np.isfinite(image).all(-1)
    pixels = Array(image, finite if valid is None else finite & valid)
    codes = None if labels is None else Array(labels, np.ones(labels.shape, bool))
    names = tuple(band_names) or tuple(f"band {i}" for i in range(image.shape[-1]))
    crs = None if crs is None else rasterio().crs.CRS.from_user_input(crs)
    return make_scene(name, Grid(crs, transform, *image.shape[:2]), names, pixels, codes, rgb, **options)


def open_scene(
    path: str | Path,
    *,
    image: Sequence[str] = ("*.tif",),
    labels: str = "",
    quality: str = "",
    quality_kind: str = "landsat",
    legend: Legend | None = None,
    ignore: Sequence[int] = (),
    rgb: Sequence[int] = (2, 1, 0),
    scaling: str = "percentiles",
    **options: Any,
) -> Scene:
    """A scene of GeoTIFFs: a folder in which `image` names the files of its bands, or one file with all of them.

    image: names or glob patterns in the folder, in the order of the bands (a file as `path` needs none). labels: the
    raster of codes of `legend`, `ignore` those that do not count. quality: Landsat's QA_PIXEL or Sentinel-2's SCL
    (`quality_kind`). Both lie in the folder (or beside the file), on any grid and in any CRS. The other options are those
    of `make_scene`. Raises InputError for what is missing, broken, does not fit together, or holds no valid pixel.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"{path}: no such file or folder; correct --input, or config.data.root (DATA_ROOT) and config.data.scenes"
        )
    folder = path if path.is_dir() else path.parent
    files, grid = band_files(find_bands(path, image))
    if quality and quality_kind not in QUALITY:
        raise InputError(f"config.data.quality_kind={quality_kind!r}: expected one of {', '.join(QUALITY)}")
    mask = Warped(find_one(folder, quality, "quality"), grid) if quality else None
    codes = None
    if labels:
        if legend is None:
            raise InputError(f"{path}: labels without config.data.legend; name the legend of their codes")
        codes = Labels(Warped(find_one(folder, labels, "labels"), grid), legend, tuple(ignore))
    names = tuple(name for file in files for name in file.names)
    name = path.name if path.is_dir() else path.stem
    pixels = Bands(files, grid, mask, quality_kind)
    return make_scene(name, grid, names, pixels, codes, rgb, scaling=scaling, where=str(path), **options)


def make_scene(
    name: str,
    grid: Grid,
    names: tuple[str, ...],
    pixels: Windows,
    codes: Windows | None,
    rgb: Sequence[int],
    *,
    scaling: str = "none",
    gain: Sequence[float] = (),
    offset: Sequence[float] = (),
    percentiles: Sequence[float] = (2, 98),
    indices: Sequence[str] = (),
    roles: Mapping[str, int] | None = None,
    where: str = "",
) -> Scene:
    """Checks what is read, and finds its scaling: 'percentiles' (of valid pixels, one in so many, to -1 and 1), 'given'
    ((raw - offset) / gain), 'reflectance' (raw * gain + offset) or 'none'.

    indices: of 'ndvi', 'ndwi', 'ndbi', bands on top; roles: band numbers of 'green', 'red', 'nir', 'swir'.
    Raises InputError for options that do not fit the bands, and a scene without valid pixel or without label.
    """
    where = where or name
    if not names or len(rgb) != 3 or not all(0 <= band < len(names) for band in rgb):
        raise InputError(
            f"config.data.rgb={list(rgb)}: {where} has bands 0 to {len(names) - 1}; expected three of them"
        )
    if scaling not in (*SCALINGS, "none"):
        raise InputError(f"config.data.scaling={scaling!r}: expected one of {', '.join(SCALINGS)}")
    shape = smaller(grid.height, grid.width, SAMPLE)
    raw, valid = pixels.overview(*shape)
    if not valid.any():
        raise InputError(f"{where}: no valid pixel among {valid.size:,} (nodata, mask, quality); remove the scene")
    if codes is not None and (merged(*codes.overview(*shape), valid) >= NODATA).all():
        raise InputError(f"{where}: no label on a valid pixel among {valid.size:,}; give the labels of its area")
    if scaling in ("given", "reflectance"):
        numbers = given_scaling(scaling, gain, offset, len(names))
    elif len(gain) or len(offset):
        raise InputError(
            f"config.data.scaling={scaling!r} takes no gain and offset; set it to 'given' or 'reflectance'"
        )
    elif scaling == "none":
        numbers = unscaled(len(names))
    else:
        numbers = percentile_scaling(raw[valid], percentiles, [f"{where}, {x}" for x in names])
    numbers = numbers._replace(indices=index_places(indices, roles or {}, len(names)))
    names = (*names, *(index.upper() for index in indices))
    return Scene(name, grid.height, grid.width, grid.crs, grid.transform, names, tuple(rgb), pixels, codes, numbers)


def find_bands(path: Path, patterns: Sequence[str]) -> list[Path]:
    """The files of the bands, in the order of the patterns; those of one pattern by name, B2 before B10."""
    if not path.is_dir():
        return [path]
    found: dict[Path, None] = {}
    for pattern in patterns:
        paths = matching(path, pattern)
        if not paths:
            raise InputError(f"{path}: no file {pattern!r}; correct config.data.image, or add it")
        found.update(dict.fromkeys(paths))
    if not found:
        raise InputError(f"{path}: a folder needs config.data.image, the names of its bands' files")
    return list(found)


def find_one(folder: Path, pattern: str, key: str) -> Path:
    paths = matching(folder, pattern)
    if len(paths) != 1:
        names = ", ".join(x.name for x in paths[:3]) or "nothing"
        there = ", ".join(sorted(x.name for x in folder.glob("*.tif"))[:8]) or "no .tif"
        raise InputError(
            f"{folder}: config.data.{key}={pattern!r} fits {names}; expected one file: correct it ({there} there), or add the file"
        )
    return paths[0]


def matching(folder: Path, pattern: str) -> list[Path]:
    if Path(pattern).is_absolute() or (folder / pattern).is_file():
        return [folder / pattern]  # a name with brackets is no pattern
    paths = [x for x in folder.glob(pattern) if x.is_file() and not x.name.startswith(".")]
    return sorted(paths, key=lambda x: [int(n) if n.isdigit() else n for n in re.split(r"(\d+)", x.stem)])
