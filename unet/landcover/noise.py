"""Noise as a function of place: hashes of whole numbers, and smooth noise from them. Any window holds what the whole holds.

All is done element by element: a sum over an axis may round otherwise in another window.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int, UInt32

MASK = 0xFFFFFFFF
ROW, COLUMN, LAYER = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D  # odd, their bits well mixed


def scramble(x: UInt32[np.ndarray, "*shape"]) -> UInt32[np.ndarray, "*shape"]:
    """Wellons' lowbias32, in place."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    x ^= x >> np.uint32(16)
    return x


def layer_of(seed: int, layer: int) -> np.uint32:
    """What sets the hashes of a seed and layer apart."""
    start = np.array([(seed & MASK) ^ ((layer * LAYER) & MASK)], np.uint32)
    return scramble(scramble(start) ^ np.uint32((seed >> 32) & MASK))[0]


def hashes(i: Int[np.ndarray, "*a"], j: Int[np.ndarray, "*b"], layer: np.uint32) -> UInt32[np.ndarray, "..."]:
    """A hash of each (i, j); they broadcast, so that two axes make a grid."""
    rows = scramble(i.astype(np.uint32) * np.uint32(ROW) + layer)
    columns = scramble(j.astype(np.uint32) * np.uint32(COLUMN) ^ layer)
    return scramble(rows + columns)


def gradient_noise(
    y: Float64[np.ndarray, "h w"], x: Float64[np.ndarray, "h w"], size: float, layer: np.uint32
) -> Float32[np.ndarray, "h w"]:
    """Perlin's noise of cells of `size` at any places, about -1 to 1."""
    y, x = y / size, x / size
    i, j = np.floor(y), np.floor(x)
    dy, dx = (y - i).astype(np.float32), (x - j).astype(np.float32)
    i, j = i.astype(np.int64), j.astype(np.int64)
    corners = []
    for a in (0, 1):
        for b in (0, 1):
            h = hashes(i + a, j + b, layer)
            gy = (h & np.uint32(0xFFFF)).astype(np.float32) / 32768 - 1
            gx = (h >> np.uint32(16)).astype(np.float32) / 32768 - 1
            corners.append(gy * (dy - a) + gx * (dx - b))
    wy, wx = (t * t * t * (t * (t * 6 - 15) + 10) for t in (dy, dx))
    top = corners[0] + wx * (corners[1] - corners[0])
    bottom = corners[2] + wx * (corners[3] - corners[2])
    return 1.5 * (top + wy * (bottom - top))


def fractal(
    y: Float64[np.ndarray, "h w"], x: Float64[np.ndarray, "h w"], sizes: tuple[float, ...], seed: int, layer: int
) -> Float32[np.ndarray, "h w"]:
    """Noise of several sizes, each as strong as its share of the first; each turned, so that no lattice is seen."""
    total = np.zeros(y.shape, np.float32)
    for octave, size in enumerate(sizes):
        cosine, sine = ((0.8, 0.6), (0.28, 0.96), (0.6, -0.8))[octave % 3]
        turned = cosine * y - sine * x, sine * y + cosine * x
        total += np.float32((size / sizes[0]) ** 0.9) * gradient_noise(
            *turned, size, layer_of(seed, 100 * layer + octave)
        )
    return total


def upsample(
    nodes: Float32[np.ndarray, "m n"], step: int, top: int, left: int, height: int, width: int
) -> Float32[np.ndarray, "h w"]:
    """Linear between nodes `step` px apart; the window begins (top, left) px after the first one."""
    weights = [np.float32(k / step) for k in range(step)]
    rows = np.empty((len(nodes) - 1, step, nodes.shape[1]), np.float32)
    change = np.diff(nodes, axis=0)
    for k, weight in enumerate(weights):
        rows[:, k] = nodes[:-1] + weight * change
    rows = rows.reshape(-1, nodes.shape[1])[top : top + height]
    image = np.empty((height, nodes.shape[1] - 1, step), np.float32)
    change = np.diff(rows, axis=1)
    for k, weight in enumerate(weights):
        image[:, :, k] = rows[:, :-1] + weight * change
    return image.reshape(height, -1)[:, left : left + width]
