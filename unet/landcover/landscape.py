"""A made landscape as NLCD codes: heights, rivers, wetlands, forests, fields, towns and roads, all from noise of the place."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, UInt8

from unet.landcover.noise import fractal, hashes, layer_of, upsample

STEP = 4  # px between the nodes of what is smooth
TOWN = 300  # px, side of the cells that hold one town or none
RIVER, BROOK = 420.0, 260.0  # px between two of them


class Ground(NamedTuple):
    """What is smooth, at nodes or at pixels. Whole numbers of `river` and `brook` are their middles, `_px` away from the
    next one; `_width` half as wide as they are."""

    height: Float32[np.ndarray, "h w"]
    shade: Float32[np.ndarray, "h w"]
    moisture: Float32[np.ndarray, "h w"]
    kind: Float32[np.ndarray, "h w"]  # of forest: deciduous to evergreen
    farm: Float32[np.ndarray, "h w"]
    built: Float32[np.ndarray, "h w"]
    river: Float32[np.ndarray, "h w"]
    river_px: Float32[np.ndarray, "h w"]
    river_width: Float32[np.ndarray, "h w"]
    brook: Float32[np.ndarray, "h w"]
    brook_px: Float32[np.ndarray, "h w"]
    brook_width: Float32[np.ndarray, "h w"]


class Cover(NamedTuple):
    """NLCD codes, and what a sensor needs to know on top: the height of the texture, streets, rows of crops, shade."""

    codes: UInt8[np.ndarray, "h w"]
    texture: UInt8[np.ndarray, "h w"]
    streets: Bool[np.ndarray, "h w"]
    rows: Bool[np.ndarray, "h w"]
    shade: Float32[np.ndarray, "h w"]


def ground(seed: int, row: int, col: int, height: int, width: int) -> Ground:
    """What is smooth, of each pixel of a window."""
    first, last = (row // STEP, col // STEP), ((row + height - 1) // STEP + 1, (col + width - 1) // STEP + 1)
    y = np.arange(first[0] - 2, last[0] + 3, dtype=np.float64)[:, None] * STEP
    x = np.arange(first[1] - 2, last[1] + 3, dtype=np.float64)[None] * STEP
    y, x = np.broadcast_arrays(y, x)
    window = (STEP, row - first[0] * STEP, col - first[1] * STEP, height, width)
    return Ground(*(upsample(field, *window) for field in nodes(seed, y, x)))


def nodes(seed: int, y: Float64[np.ndarray, "m n"], x: Float64[np.ndarray, "m n"]) -> Ground:
    """What is smooth at nodes, less two on each side: shade is a slope of heights, which need a slope of rivers."""
    inner, around = np.s_[2:-2, 2:-2], np.s_[1:-1, 1:-1]
    river = ((0.9 * x + 0.44 * y) / RIVER).astype(np.float32) + 0.42 * fractal(y, x, (400, 150, 60), seed, 2)
    brook = ((0.94 * y - 0.34 * x) / BROOK).astype(np.float32) + 0.55 * fractal(y, x, (260, 90, 45), seed, 3)
    river_px, brook_px = (1 / np.maximum(slope(g), 1 / (4 * px)) for g, px in ((river, RIVER), (brook, BROOK)))
    valley = np.minimum(np.abs(river - np.rint(river))[around] * river_px / 150, 1)
    height = (
        fractal(y[around], x[around], (640, 320, 160, 80, 40), seed, 1)
        + 0.5 * valley * valley * (3 - 2 * valley)
        - 0.32
    )
    shade = np.clip(40 * (steps(height, 0) + steps(height, 1)), -1, 1)
    y, x, height = y[inner], x[inner], height[around]
    return Ground(
        height,
        shade,
        fractal(y, x, (280, 140, 70, 35), seed, 4) - 0.25 * height,
        fractal(y, x, (150, 75, 37), seed, 5) + 0.9 * height,
        0.08 - 0.9 * height + 0.55 * fractal(y, x, (330, 110), seed, 6),
        towns(seed, y, x) * np.clip(1.25 - 2.5 * height, 0, 1),
        river[inner],
        river_px[around],
        3.5 + 3 * fractal(y, x, (200,), seed, 7),
        brook[inner],
        brook_px[around],
        1.1 + 3 * fractal(y, x, (300,), seed, 8),
    )


def steps(field: Float32[np.ndarray, "m n"], axis: int) -> Float32[np.ndarray, "k l"]:
    """Change for one px along an axis, at the inner nodes."""
    if axis == 0:
        return (field[2:, 1:-1] - field[:-2, 1:-1]) / np.float32(2 * STEP)
    return (field[1:-1, 2:] - field[1:-1, :-2]) / np.float32(2 * STEP)


def slope(field: Float32[np.ndarray, "m n"]) -> Float32[np.ndarray, "k l"]:
    return np.sqrt(steps(field, 0) ** 2 + steps(field, 1) ** 2)


def towns(seed: int, y: Float64[np.ndarray, "m n"], x: Float64[np.ndarray, "m n"]) -> Float32[np.ndarray, "m n"]:
    """How densely built: 0 outside of towns, 1 in the middle of one. A town lies anywhere in its cell."""
    layer = layer_of(seed, 9)
    y, x = y + 16 * fractal(y, x, (70, 30), seed, 10), x + 16 * fractal(y, x, (70, 30), seed, 11)
    i, j = np.floor(y / TOWN).astype(np.int64), np.floor(x / TOWN).astype(np.int64)
    densest = np.zeros(y.shape, np.float32)
    for a in (-1, 0, 1):
        for b in (-1, 0, 1):
            bits = hashes(i + a, j + b, layer)
            dy, dx, size, there = (((bits >> np.uint32(8 * k)) & np.uint32(255)) / 256 for k in range(4))
            away = np.hypot(y - (i + a + dy) * TOWN, x - (j + b + dx) * TOWN)
            density = 1 - away / (30 + 100 * size * size)
            densest = np.maximum(densest, np.where(there < 0.85, density, 0).astype(np.float32))
    return densest


def cover(seed: int, row: int, col: int, height: int, width: int) -> Cover:
    """The land cover of a window."""
    land = ground(seed, row, col, height, width)
    clumps = lattice(seed, 20, 4, row, col, height, width)
    patches = lattice(seed, 21, 8, row, col, height, width)
    y, x = np.arange(row, row + height)[:, None], np.arange(col, col + width)[None]
    grain = (hashes(y, x, layer_of(seed, 22)) >> np.uint32(24)).astype(np.float32)
    texture = np.clip(240 * clumps + 0.45 * (grain - 128), -127, 127).astype(np.int16) + 128
    along, across = directions(land, y.astype(np.int32), x.astype(np.int32))
    parcel = parcels(seed, along, across)

    rough = 0.12 * patches + 0.06 * clumps
    codes = wild(land, rough)
    # A parcel is a field as a whole: its hash moves the limit.
    chance = (parcel & 255).astype(np.float32) / 255
    farm = land.farm + 0.35 * chance > 0.3
    hay = (parcel >> 8 & 255) < 90 + 120 * land.moisture
    codes[farm] = 82
    codes[farm & hay] = 81
    road = ((along & 511) < 5) & (land.height < 0.25)
    codes[road] = 21
    built = land.built + rough
    for code, least in ((21, 0.1), (22, 0.3), (23, 0.52), (24, 0.74)):
        codes[built > least] = code
    streets = ((along & 31) < 6) | ((across & 63) < 6)
    streets &= built > 0.1
    waters(codes, land, rough)

    town = (codes >= 21) & (codes <= 24)
    houses = hashes(across >> 3, along >> 3, layer_of(seed, 23)) >> np.uint32(24)
    texture = np.where(town, houses, texture)
    texture = np.where(codes == 82, parcel >> 16 & 255, texture).astype(np.uint8)
    return Cover(codes, texture, (streets | road) & town, (across & 15) < 8, land.shade)


def lattice(
    seed: int, layer: int, step: int, row: int, col: int, height: int, width: int
) -> Float32[np.ndarray, "h w"]:
    """Value noise of cells of `step` px, -0.5 to 0.5."""
    i = np.arange(row // step, (row + height - 1) // step + 2)
    j = np.arange(col // step, (col + width - 1) // step + 2)
    values = hashes(i[:, None], j[None], layer_of(seed, layer)).astype(np.float32) / np.float32(2**32) - np.float32(0.5)
    return upsample(values, step, row - int(i[0]) * step, col - int(j[0]) * step, height, width)


def directions(
    land: Ground, y: Int32[np.ndarray, "h 1"], x: Int32[np.ndarray, "1 w"]
) -> tuple[Int32[np.ndarray, "h w"], Int32[np.ndarray, "h w"]]:
    """Along and across fields and streets, about 3.1 to a px; they run askew here and straight there."""
    askew = land.kind + land.moisture > 0.1
    return np.where(askew, 3 * x + y, 3 * x), np.where(askew, 3 * y - x, 3 * y)


def parcels(seed: int, along: Int32[np.ndarray, "h w"], across: Int32[np.ndarray, "h w"]) -> np.ndarray:
    """A hash for each parcel: of 40 x 20 px, or a quarter of that."""
    layer = layer_of(seed, 24)
    large = hashes(across >> 6, along >> 7, layer)
    small = hashes(across >> 5, along >> 6, layer + np.uint32(1))
    return np.where((large >> np.uint32(30)) > 1, large, small)


def wild(land: Ground, rough: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Grassland below, shrub above, three kinds of forest where it is moist, bare rock on top."""
    height = land.height + rough
    codes = np.where(height > 0.14, np.uint8(52), np.uint8(71))
    forest = land.moisture + rough > 0.02
    kind = land.kind + rough
    codes[forest] = 43
    codes[forest & (kind > 0.16)] = 42
    codes[forest & (kind < -0.12)] = 41
    codes[height + 0.25 * land.kind > 0.9] = 31
    return codes


def waters(codes: UInt8[np.ndarray, "h w"], land: Ground, rough: Float32[np.ndarray, "h w"]) -> None:
    """Writes rivers, brooks, lakes, and the wetland along them."""
    river = np.abs(land.river - np.rint(land.river)) * land.river_px - land.river_width
    brook = np.abs(land.brook - np.rint(land.brook)) * land.brook_px - land.brook_width
    lake = 60 * (land.height + 0.78)
    shore = np.minimum(np.minimum(river, brook + 1), lake)
    wet = shore < 5 + 22 * (land.moisture + rough)
    wet &= (land.built < 0.3) & (land.height < 0.1)
    codes[wet] = 95
    codes[wet & (land.kind + 2 * rough > -0.25)] = 90
    codes[(river < 0) | (brook < 0) | (lake < 0)] = 11
