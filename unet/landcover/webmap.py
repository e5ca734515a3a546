"""A web map beside local tiles: map.html and tiles/LAYER/z/x/y.png, opened from a disk or from any plain web server.

Leaflet (BSD-2, in the folder leaflet/) draws it; the page holds all of its code and fetches nothing but the tiles.
"""

import base64
import contextlib
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image

from common.errors import InputError
from common.files import write_text
from unet.landcover import geo
from unet.landcover.counts import classes_on
from unet.landcover.grid import MERCATOR, Grid, on_grid, pixel_size
from unet.landcover.legend import NODATA, Legend
from unet.landcover.pictures import index_png

HERE = Path(__file__).parent
TILE = 256  # px
TOGETHER = 4  # tiles along each axis that are read at once
DEEPEST = 22
MAX_TILES = 6000  # of all layers together: about a minute and 60 MB for each thousand of photos
LOOKUP = 2048  # px, at most, of the copy in the page that names the class under the cursor
LATITUDE = 85.05  # where EPSG:3857 ends

Read = Callable[[int, int, int, int], UInt8[np.ndarray, "h w *C"]]


class Layer(NamedTuple):
    """`open(grid)` gives a context with read(row, col, height, width) -> class indices [h, w], or RGBA [h, w, 4]."""

    name: str  # of its folder
    title: str
    open: Callable[[Grid], contextlib.AbstractContextManager[Read]]
    colours: Sequence[Sequence[int]] = ()  # of class indices


def class_layer(
    name: str, title: str, path: str | Path, legend: Legend, ignore: Sequence[int] = (), own: bool = True
) -> Layer:
    """A raster of codes. `own`: as in `unet.landcover.counts.classes_on`."""
    return Layer(name, title, lambda grid: classes_on(path, grid, legend, ignore, own), legend.colours)


def image_layer(title: str, paths: Sequence[str | Path], bands: Sequence[int], grid: Grid) -> Layer:
    """True colour from three single-band files, or from `bands` (from 1) of one; stretched by what lies on `grid`.

    Raises InputError where the files do not have those bands.
    """
    sources = [(path, bands if len(paths) == 1 else (1,)) for path in paths]
    for path, chosen in sources:
        with geo.open_raster(path) as dataset:
            if max(chosen) > dataset.count:
                raise InputError(f"{path}: {dataset.count} bands, and band {max(chosen)} is asked for; set --bands")
    with opened(sources, grid.coarser(1024)) as read:
        small, valid = read(0, 0, *grid.coarser(1024)[2:])
    low, high = stretch(small, valid)

    @contextlib.contextmanager
    def open_on(grid: Grid) -> Iterator[Read]:
        with opened(sources, grid) as read:

            def rgba(row: int, col: int, height: int, width: int) -> UInt8[np.ndarray, "h w 4"]:
                values, valid = read(row, col, height, width)
                span = (values.astype(np.float32) - low[:, None, None]) / (high - low)[:, None, None]
                shown = np.rint(np.clip(np.nan_to_num(span), 0, 1) * 255).astype(np.uint8)
                shown = np.broadcast_to(shown, (3, *shown.shape[1:]))
                return np.ascontiguousarray(np.moveaxis(np.concatenate([shown, valid[None] * np.uint8(255)]), 0, -1))

            yield rgba

    return Layer("image", title, open_on)


@contextlib.contextmanager
def opened(sources: Sequence[tuple[str | Path, Sequence[int]]], grid: Grid):
    """read(...) -> (the bands of all files [3 or 1, h, w], where all are valid)."""
    with contextlib.ExitStack() as stack:
        reads = [stack.enter_context(on_grid(path, grid, "bilinear", bands)) for path, bands in sources]

        def read(*window: int):
            parts = [read(*window) for read in reads]
            return np.concatenate([values for values, _ in parts]), np.logical_and.reduce([ok for _, ok in parts])

        yield read


def stretch(bands: Num[np.ndarray, "B h w"], valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is black and what is white in each band: the 2nd and 98th percentile; eight-bit colour stays as it is."""
    if bands.dtype == np.uint8 and len(bands) == 3:
        return np.zeros(3, np.float32), np.full(3, 255, np.float32)
    if not valid.any():
        return np.zeros(len(bands), np.float32), np.ones(len(bands), np.float32)
    low, high = np.nanpercentile(bands[:, valid].astype(np.float32), [2, 98], axis=1).astype(np.float32)
    return low, np.where(high > low, high, low + 1)


class Zoom(NamedTuple):
    """The tiles of one zoom level: columns x0 to x1 and rows y0 to y1, both ends included."""

    z: int
    x0: int
    x1: int
    y0: int
    y1: int

    @property
    def count(self) -> int:
        return (self.x1 - self.x0 + 1) * (self.y1 - self.y0 + 1)

    @property
    def grid(self) -> Grid:
        rasterio = geo.rasterio()
        size = 2 * MERCATOR / 2**self.z  # metres of a tile
        corner = self.x0 * size - MERCATOR, MERCATOR - self.y0 * size
        transform = rasterio.Affine(size / TILE, 0, corner[0], 0, -size / TILE, corner[1])
        height, width = (self.y1 - self.y0 + 1) * TILE, (self.x1 - self.x0 + 1) * TILE
        return Grid(rasterio.CRS.from_epsg(3857), transform, height, width)


def mercator(longitude: float, latitude: float) -> tuple[float, float]:
    """Where a place lies in the square world of EPSG:3857: 0 to 1 from the west and from the north."""
    phi = math.radians(min(max(latitude, -LATITUDE), LATITUDE))
    return (longitude + 180) / 360, (1 - math.asinh(math.tan(phi)) / math.pi) / 2


def degrees(grid: Grid) -> tuple[float, float, float, float]:
    """West, south, east, north."""
    return geo.rasterio().warp.transform_bounds(grid.crs, "EPSG:4326", *grid.bounds())


def choose_zooms(grid: Grid, layers: int, max_tiles: int = MAX_TILES) -> tuple[list[Zoom], bool]:
    """Zoom levels from the whole at a glance to the raster's own resolution, and whether `max_tiles` stopped them before."""
    west, south, east, north = degrees(grid)
    (left, top), (right, bottom) = mercator(west, north), mercator(east, south)
    metres = pixel_size(grid, geo.rasterio().CRS.from_epsg(3857))
    # A quarter of a level short of a pixel for a pixel, rather than four times the tiles for nothing new.
    deepest = min(max(math.ceil(math.log2(2 * MERCATOR / TILE / metres) - 0.25), 0), DEEPEST)
    first = min(max(math.floor(math.log2(2 / max(right - left, bottom - top, 1e-9))), 0), deepest)
    zooms, total = [], 0
    for z in range(first, deepest + 1):
        last = 2**z - 1
        # An edge that lies on a tile's border needs no tile beyond it.
        x0, y0 = (min(max(math.floor(v * 2**z), 0), last) for v in (left, top))
        x1, y1 = (min(max(math.ceil(v * 2**z) - 1, low), last) for v, low in ((right, x0), (bottom, y0)))
        zoom = Zoom(z, x0, x1, y0, y1)
        total += zoom.count * layers
        if zooms and total > max_tiles:
            return zooms, True
        zooms.append(zoom)
    return zooms, False


def write_tiles(layer: Layer, zooms: Sequence[Zoom], folder: Path) -> list[str]:
    """Writes FOLDER/z/x/y.png for each tile that is not empty, and returns the 'z/x/y' of them."""
    written, side = [], TILE * TOGETHER
    for zoom in zooms:
        with layer.open(zoom.grid) as read:
            for row, col, height, width in zoom.grid.windows(side):
                block = read(row, col, height, width)
                for y in range(0, height, TILE):
                    for x in range(0, width, TILE):
                        tile = np.ascontiguousarray(block[y : y + TILE, x : x + TILE])
                        if (tile[..., 3] == 0).all() if tile.ndim == 3 else (tile == NODATA).all():
                            continue
                        name = f"{zoom.z}/{zoom.x0 + (col + x) // TILE}/{zoom.y0 + (row + y) // TILE}"
                        path = folder / f"{name}.png"
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(png(tile, layer.colours))
                        written.append(name)
    return written


def png(tile: UInt8[np.ndarray, "h w *C"], colours: Sequence[Sequence[int]]) -> bytes:
    if tile.ndim == 2:
        return index_png(tile, colours)
    file = io.BytesIO()
    Image.fromarray(tile).save(file, "PNG")
    return file.getvalue()


def lookup(layer: Layer, zoom: Zoom) -> dict[str, Any]:
    """The class indices as a grey PNG inside the page, and how it lies: pages from a disk may not read pixels of tiles."""
    grid = zoom.grid.coarser(LOOKUP)
    with layer.open(grid) as read:
        index = read(0, 0, grid.height, grid.width)
    file = io.BytesIO()
    Image.fromarray(index).save(file, "PNG")
    return {
        "png": base64.b64encode(file.getvalue()).decode(),
        "metres": grid.transform.a,
        "corner": [grid.transform.c, grid.transform.f],
    }


def write_map(
    folder: Path,
    title: str,
    grid: Grid,
    layers: Sequence[Layer],
    legend: Legend,
    *,
    left: str = "",
    right: str,
    notes: Mapping[int, str] | None = None,
    max_tiles: int = MAX_TILES,
) -> tuple[Path, int, bool]:
    """Writes FOLDER/map.html and FOLDER/tiles over the place of `grid`.

    `layers`: at most one image, named 'image', below; of the others `left` and `right` are shown first on the two sides
    of the swipe ('' is none). `notes`: class index -> what the legend says beside its name; a class without is not in it.
    Returns the page, the number of tiles, and whether `max_tiles` kept them coarser than the rasters.
    """
    zooms, stopped = choose_zooms(grid, len(layers), max_tiles)
    tiles = {layer.name: write_tiles(layer, zooms, folder / "tiles" / layer.name) for layer in layers}
    west, south, east, north = degrees(grid)
    deep = zooms[-1]
    shown = range(len(legend.classes)) if notes is None else sorted(notes)
    facts = {
        "title": title,
        "bounds": [[max(south, -LATITUDE), west], [min(north, LATITUDE), east]],
        "zooms": [zooms[0].z, deep.z],
        "tiles": tiles,
        "image": "image" in tiles,
        "layers": [
            {"name": layer.name, "title": layer.title, "lookup": lookup(layer, deep)}
            for layer in layers
            if layer.name != "image"
        ],
        "left": left,
        "right": right,
        "names": list(legend.names),
        "legend": [[i, "#" + bytes(legend.colours[i]).hex(), (notes or {}).get(i, "")] for i in shown],
    }
    path = folder / "map.html"
    write_text(path, page(facts))
    return path, sum(map(len, tiles.values())), stopped


def page(facts: Mapping[str, Any]) -> str:
    """The page: webmap.html with Leaflet, its licence and the facts put into their places."""
    read = lambda name: (HERE / name).read_text(encoding="utf-8")
    css = "\n".join(
        line for line in read("leaflet/leaflet.css").splitlines() if "url(" not in line
    )  # icons not used here
    parts = {
        "@LICENSE@": read("leaflet/LICENSE"),
        "@LEAFLET_CSS@": css,
        "@LEAFLET_JS@": read("leaflet/leaflet.js").split("//# sourceMappingURL")[0],
        "@STYLE@": read("webmap.css"),
        "@SCRIPT@": read("webmap.js"),
        "@FACTS@": json.dumps(facts, separators=(",", ":")).replace(
            "<", "\\u003c"
        ),  # last: a title may look like a mark
    }
    text = read("webmap.html")
    for mark, part in parts.items():
        text = text.replace(mark, part, 1)
    return text
