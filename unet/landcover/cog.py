"""The end of a map: its parts become cloud-optimised GeoTIFFs, compressed, with overviews, colours and coordinates."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Num

from common.errors import InputError
from unet.landcover.blend import UNKNOWN, Part, Tiling
from unet.landcover.geo import profile_of, raised, rasterio, reading
from unet.landcover.grid import Grid, cut
from unet.landcover.legend import Legend
from unet.landcover.parts import path_of, sync, writing

MARK = "unet predict"  # the tag SOFTWARE of what is written here: only that is ever replaced
BLOCK, CHUNK = 512, 4096  # px: a block of the map; a window that is copied
MARGIN, MOST = 256, 4096  # px that a window of the sieve sees beyond itself, at least; the largest sieve


class Product(NamedTuple):
    """A file of the map: which bands of the parts it holds, and how they look."""

    ending: str
    bands: tuple[int, ...]
    dtype: str
    nodata: int
    convert: Callable
    descriptions: tuple[str, ...]
    tags: Mapping[str, str]
    colours: Mapping[int, tuple[int, int, int]]
    options: Mapping[str, str]


def products(legend: Legend, tiling: Tiling) -> list[Product]:
    """The files that a map consists of, in the order of the bands of its parts."""
    dtype = legend.to_code(np.zeros(1, np.uint8)).dtype.name
    colours = dict(zip(legend.codes, legend.colours, strict=True))
    names = {f"class_{code}": name for code, name in zip(legend.codes, legend.names, strict=True)}
    same = lambda values: values
    percent = {"OVERVIEW_RESAMPLING": "AVERAGE", "PREDICTOR": "YES"}
    found = [
        Product(
            "",
            (1,),
            dtype,
            legend.nodata,
            legend.to_code,
            (f"class ({legend.name})",),
            names,
            colours,
            {"OVERVIEW_RESAMPLING": "MODE"},
        )
    ]
    if tiling.confidence:
        found.append(Product("_confidence", (2,), "uint8", UNKNOWN, same, ("confidence, percent",), {}, {}, percent))
    if tiling.probabilities:
        bands = tuple(range(tiling.bands - tiling.classes + 1, tiling.bands + 1))
        shown = tuple(f"{name}, percent" for name in legend.names)
        found.append(Product("_probabilities", bands, "uint8", UNKNOWN, same, shown, {}, {}, percent))
    return found


def is_ours(path: Path) -> bool:
    """Whether a raster was written here."""
    try:
        with rasterio().open(path) as file:
            return file.tags().get("TIFFTAG_SOFTWARE") == MARK
    except raised():
        return False


def write_cog(folder: Path, parts: Sequence[Part], product: Product, target: Path, scene: Any, sieve: int) -> Path:
    """Joins the parts and writes a product inside `folder`, under the name of `target`; returns where.

    Raises InputError where a part is broken or nothing can be written. The same parts give the same bytes.
    """
    whole, sieved, final = (folder / f"{kind}{target.name}" for kind in (".whole-", ".sieved-", ""))
    profile = profile_of(Grid(scene.crs, scene.transform, scene.height, scene.width), BLOCK, interleave="band")
    profile |= {"count": len(product.bands), "dtype": product.dtype, "nodata": product.nodata}
    with writing(target), rasterio().open(whole, "w", **profile) as file:
        describe(file, product)
        gather(folder, parts, product, file)
    if sieve:
        with writing(target), rasterio().open(sieved, "w", **profile) as file, rasterio().open(whole) as source:
            describe(file, product)
            sieve_windows(source, file, sieve)
        sieved.replace(whole)
    with writing(target):
        sync(whole, scene.height * scene.width * len(product.bands) * np.dtype(product.dtype).itemsize)
        options = {"COMPRESS": "DEFLATE", "BLOCKSIZE": str(BLOCK), "BIGTIFF": "IF_SAFER", "NUM_THREADS": "ALL_CPUS"}
        rasterio().shutil.copy(whole, final, driver="COG", **options, **product.options)
        sync(final)
        whole.unlink()
    return final


def describe(file: Any, product: Product) -> None:
    file.update_tags(TIFFTAG_SOFTWARE=MARK)
    file.update_tags(1, **product.tags)
    for band, text in enumerate(product.descriptions, 1):
        file.set_band_description(band, text)
    if product.colours:
        file.write_colormap(1, product.colours)


def gather(folder: Path, parts: Sequence[Part], product: Product, file: Any) -> None:
    """Copies the parts into the open raster `file`, window by window."""
    window = rasterio().windows.Window
    for part in parts:
        path = path_of(folder, part)
        with reading(path), rasterio().open(path) as source:
            for row, column, height, width in cut(source.height, source.width, CHUNK):
                values = source.read(product.bands, window=window(column, row, width, height))
                file.write(product.convert(values), window=window(column, part.start + row, width, height))


def sieve_windows(source: Any, file: Any, size: int) -> None:
    """Copies `source`; regions of fewer than `size` px (corners connect) become what their largest neighbour is.

    Window by window, with a margin of at least `size` px, which no smaller region can cross: which ones go is exact. What they
    become is decided by what a window sees of their neighbours. Without data stays without data, and is no neighbour.
    """
    window, margin = rasterio().windows.Window, max(size, MARGIN)
    for row, column, height, width in cut(source.height, source.width, CHUNK):
        top, left = max(row - margin, 0), max(column - margin, 0)
        bottom, right = min(row + height + margin, source.height), min(column + width + margin, source.width)
        codes = source.read(1, window=window(left, top, right - left, bottom - top))
        codes = sieve_array(codes, size, source.nodata)
        core = codes[row - top : row - top + height, column - left : column - left + width]
        file.write(core, 1, window=window(column, row, width, height))


def sieve_array(codes: Num[np.ndarray, "h w"], size: int, nodata: float) -> Num[np.ndarray, "h w"]:
    from rasterio.features import sieve

    return sieve(codes, min(size, codes.size), mask=codes != nodata, connectivity=8)


def check_sieve(size: int) -> None:
    if not 0 <= size <= MOST:
        raise InputError(f"--sieve {size}: a number of pixels from 0 (nothing goes) to {MOST}")


def put_in_place(finished: Sequence[tuple[Path, Path]]) -> None:
    """Gives the finished files their names, and what stood there before is gone."""
    for path, target in finished:
        with writing(target):
            os.replace(path, target)
