"""A made landscape: rivers, fields, towns and forests as NLCD codes, and what a sensor of six bands sees of them.

All is a function of the seed and the place: any window can be made alone. What a pixel is made of (a roof, a lawn, dry
grass, a crop) tells its class in part only: texture and shape tell the rest, as they do on the ground.
"""

import contextlib
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16

from common.errors import InputError
from unet.landcover.geo import profile_of, raised, rasterio
from unet.landcover.grid import Grid, cut
from unet.landcover.landscape import Cover, cover
from unet.landcover.noise import hashes, layer_of, scramble

BANDS = ("blue", "green", "red", "nir", "swir1", "swir2")
CRS, TRANSFORM = "EPSG:32615", (30.0, 0.0, 200_000.0, 0.0, -30.0, 5_000_000.0)
GAIN, OFFSET = 2.75e-5, -0.2  # Landsat's: reflectance is number * GAIN + OFFSET
NOISE = 0.012  # reflectance, half the width of it
TILE = 512
WORKERS = 2  # threads; more of them wait for the writer

MATERIALS = {  # reflectance in percent, in order of the bands
    "water": (5, 6, 4, 2, 1, 1),
    "mud": (7, 9, 10, 12, 9, 6),
    "asphalt": (9, 10, 11, 14, 16, 15),
    "roof": (18, 20, 22, 27, 29, 27),
    "tile": (9, 12, 19, 25, 29, 24),
    "lawn": (5, 9, 7, 36, 19, 9),
    "soil": (9, 13, 18, 25, 32, 27),
    "rock": (14, 17, 20, 26, 30, 27),
    "leaves": (3, 6, 4, 40, 18, 7),
    "needles": (3, 4, 3, 24, 10, 4),
    "bush": (5, 8, 9, 24, 22, 14),
    "dry grass": (7, 11, 14, 26, 29, 20),
    "reed": (4, 7, 6, 25, 12, 6),
    "maize": (4, 8, 5, 42, 20, 9),
    "wheat": (8, 12, 15, 28, 30, 20),
    "beet": (4, 9, 5, 46, 19, 8),
}
SHARES = {  # code: what it is made of, in parts of a hundred, in the order of the texture's height; and how rough it is
    11: ((("water", 100),), 0.04),
    21: ((("lawn", 55), ("leaves", 20), ("tile", 15), ("asphalt", 10)), 0.10),
    22: ((("lawn", 40), ("leaves", 10), ("tile", 30), ("asphalt", 20)), 0.14),
    23: ((("lawn", 20), ("tile", 40), ("asphalt", 40)), 0.16),
    24: ((("asphalt", 45), ("roof", 50), ("lawn", 5)), 0.22),
    31: ((("soil", 35), ("rock", 60), ("dry grass", 5)), 0.14),
    41: ((("leaves", 90), ("lawn", 10)), 0.14),
    42: ((("needles", 92), ("bush", 8)), 0.18),
    43: ((("needles", 48), ("leaves", 52)), 0.16),
    52: ((("dry grass", 30), ("bush", 55), ("soil", 15)), 0.14),
    71: ((("dry grass", 85), ("lawn", 15)), 0.06),
    81: ((("lawn", 75), ("dry grass", 25)), 0.05),
    82: ((("maize", 30), ("wheat", 25), ("soil", 20), ("beet", 25)), 0.05),
    90: ((("leaves", 55), ("needles", 20), ("reed", 25)), 0.14),
    95: ((("reed", 60), ("mud", 20), ("lawn", 20)), 0.10),
}


def material_table() -> UInt8[np.ndarray, "256 256"]:
    """[code, height of the texture] -> place in MATERIALS."""
    names, table = list(MATERIALS), np.zeros((256, 256), np.uint8)
    for code, (shares, _) in SHARES.items():
        ends = np.cumsum([0, *(part for _, part in shares)]) * 256 // 100
        for (name, _), (start, stop) in zip(shares, itertools.pairwise(ends), strict=True):
            table[code, start:stop] = names.index(name)
    return table


TABLE = material_table()
ROUGH = np.array([SHARES[code][1] if code in SHARES else 0 for code in range(256)], np.float32)
ASPHALT = list(MATERIALS).index("asphalt")
REFLECTANCE = np.array(list(MATERIALS.values()), np.float32) / 100


def made_scene(
    key_seed: int, height: int, width: int, *, bands: int = 6
) -> tuple[UInt16[np.ndarray, "H W C"], UInt8[np.ndarray, "H W"]]:
    """(image, NLCD codes) of a whole scene. `made_window` from (0, 0) on."""
    return made_window(key_seed, 0, 0, height, width, bands)


def made_window(
    seed: int, row: int, col: int, height: int, width: int, bands: int = 6
) -> tuple[UInt16[np.ndarray, "h w C"], UInt8[np.ndarray, "h w"]]:
    """(image, NLCD codes) of any window of the scene that has no end.

    Raises InputError where more bands are asked for than there are.
    """
    if not 1 <= bands <= len(BANDS):
        raise InputError(f"a made scene of {bands} bands; expected 1 to {len(BANDS)}")
    place = (row - 1, col - 1, height + 2, width + 2)  # a sensor sees a little of the neighbours
    land = cover(seed, *place)
    return seen(seed, land, *place, bands), land.codes[1:-1, 1:-1]


def seen(
    seed: int, land: Cover, row: int, col: int, height: int, width: int, bands: int
) -> UInt16[np.ndarray, "h w C"]:
    """What a sensor makes of a window, less one px on each side."""
    place = TABLE[land.codes, land.texture]
    place[land.streets] = ASPHALT
    y, x = np.arange(row, row + height)[:, None], np.arange(col, col + width)[None]
    bits = hashes(y, x, layer_of(seed, 30))
    more = scramble(bits ^ np.uint32(0x5BD1E995))
    grain = np.stack([bits, more], -1).view(np.uint8)  # 8 numbers of 0 to 255 for each px
    light = 1 + np.float32(0.3) * land.shade
    light += ROUGH[land.codes] * (grain[..., 7] / np.float32(127.5) - 1)
    light += np.where(land.codes == 82, np.where(land.rows, np.float32(0.05), np.float32(-0.05)), np.float32(0))
    image = np.empty((height - 2, width - 2, bands), np.uint16)
    for band in range(bands):
        value = REFLECTANCE[:, band][place] * light
        value += (grain[..., band] - np.float32(127.5)) * np.float32(NOISE / 127.5)
        value = (value[:-2] + 6 * value[1:-1] + value[2:]) / 8
        value = (value[:, :-2] + 6 * value[:, 1:-1] + value[:, 2:]) / 8
        image[..., band] = (value - np.float32(OFFSET)) * np.float32(1 / GAIN)
    return image


def write_made(path_image: Path, path_codes: Path, seed: int, height: int, width: int, *, bands: int = 6) -> None:
    """Writes a scene of any size as two tiled GeoTIFFs, tile by tile: each is whole or not there.

    Raises InputError where they cannot be written.
    """
    module = rasterio()
    form = profile_of(Grid(CRS, module.transform.Affine(*TRANSFORM), height, width), TILE)
    windows = list(cut(height, width, TILE))
    with (
        writing(path_image) as image_aside,
        writing(path_codes) as codes_aside,
        module.open(image_aside, "w", count=bands, dtype="uint16", interleave="pixel", **form) as image_file,
        module.open(codes_aside, "w", count=1, dtype="uint8", nodata=0, compress="deflate", **form) as codes_file,
        ThreadPoolExecutor(WORKERS) as pool,
    ):
        image_file.descriptions = BANDS[:bands]
        for (row, col, high, wide), made in zip(windows, ahead(pool, seed, windows, bands), strict=True):
            window = module.windows.Window(col, row, wide, high)
            image_file.write(made[0].transpose(2, 0, 1), window=window)
            codes_file.write(made[1], 1, window=window)


def ahead(pool: Executor, seed: int, windows: Sequence[tuple[int, int, int, int]], bands: int) -> Iterator[tuple]:
    """The windows in order, some of them made while others are written."""
    waiting: deque = deque()
    for window in windows:
        waiting.append(pool.submit(made_window, seed, *window, bands))
        if len(waiting) > 2 * WORKERS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A name aside, which becomes `path` when all went well. Raises InputError where it cannot be written."""
    aside = path.with_name(f".{path.name}")
    try:
        yield aside
        aside.replace(path)
    except (*raised(), OSError) as error:
        raise InputError(f"{path}: cannot be written ({error}); choose another folder, or make room") from error
    finally:
        aside.unlink(missing_ok=True)
