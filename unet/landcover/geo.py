"""The one door to rasterio: imported where it is used, its block cache bounded, its errors said in one line."""

import atexit
import contextlib
import os
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from common.errors import InputError

CACHE_MB = "128"  # GDAL takes 5 % of the machine else: two gigabytes where there are forty
OPEN_FILES = 32  # of a thread


def rasterio() -> ModuleType:
    """The module. Raises InputError where it is not installed."""
    os.environ.setdefault("GDAL_CACHEMAX", CACHE_MB)
    try:
        import rasterio as module
        import rasterio._err
        import rasterio.crs
        import rasterio.enums
        import rasterio.errors
        import rasterio.shutil
        import rasterio.vrt
        import rasterio.warp
        import rasterio.windows
    except ImportError as error:
        raise InputError(f"land cover needs rasterio: pip install -e .[geo] ({error})") from error
    return module


def raised() -> tuple[type[BaseException], ...]:
    """What rasterio raises for files that it cannot read or write."""
    module = rasterio()
    return module.errors.RasterioError, module.errors.CRSError, module._err.CPLE_BaseError


def profile_of(grid: Any, block: int, **more: Any) -> dict[str, Any]:
    """How a tiled GeoTIFF on a `unet.landcover.grid.Grid` is opened to be written; count, dtype and nodata are still to say."""
    tiled = {"tiled": True, "blockxsize": block, "blockysize": block, "bigtiff": "IF_SAFER"}
    return {"driver": "GTiff", **grid._asdict(), **tiled, **more}


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Errors of rasterio inside become one InputError that names the file."""
    try:
        yield
    except (*raised(), OSError) as error:
        raise unreadable(path, error) from error


def unreadable(path: str | Path, error: BaseException) -> InputError:
    if not Path(path).exists():
        return InputError(f"{path}: no such file")
    deepest = error  # rasterio wraps what GDAL says, down to 'TIFFReadEncodedTile: got 0 bytes'
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
    reason = (str(deepest).strip().splitlines() or [type(deepest).__name__])[0]
    return InputError(f"{path}: cannot be read, broken or truncated ({reason}); replace or remove it")


def open_raster(path: str | Path, **options: Any) -> Any:
    """A dataset of rasterio, to read. Raises InputError where it is missing, broken, or has no band."""
    module = rasterio()
    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", module.errors.NotGeoreferencedWarning)  # `crs` is checked instead
        dataset = module.open(path, **options)
    if not dataset.count:
        dataset.close()
        raise InputError(f"{path}: holds no band; name the raster inside it, or convert it to GeoTIFF")
    return dataset


class Opened(OrderedDict):
    """The open datasets of one thread."""

    __hash__ = object.__hash__  # for the WeakSet: each is itself


ALL: weakref.WeakSet[Opened] = weakref.WeakSet()


@atexit.register
def close_all() -> None:
    """GDAL complains, at length, about datasets that outlive the interpreter."""
    for opened in list(ALL):
        while opened:
            opened.popitem()[1].close()


class Handles(threading.local):
    """Open datasets of one thread: GDAL's may not be shared. The least recently used is closed: hundreds of scenes may be read."""

    def __init__(self):
        self.opened = Opened()
        ALL.add(self.opened)

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The dataset of `key`, made now unless this thread has it open."""
        if key not in self.opened:
            while len(self.opened) >= OPEN_FILES:
                self.opened.popitem(last=False)[1].close()
            self.opened[key] = make()
        self.opened.move_to_end(key)
        return self.opened[key]


HANDLES = Handles()
