"""The split of scenes into parts: square blocks on a lattice of the ground, and a guard band between training and the rest.

Neighbouring pixels are alike, so pixels drawn at random would test what was trained. Blocks are drawn instead, on a lattice that
scenes of one CRS share: scenes that overlap, and dates of one place, agree on the part of every spot.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from common.errors import InputError
from unet.landcover.scene import Scene, smaller

TRAIN, VALIDATION, TEST, GUARD = range(4)
PARTS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
NAMES = ("training", "validation", "test", "guard")
COLOURS = ((68, 119, 170), (238, 204, 102), (204, 51, 17), (200, 200, 200))


class Blocks:
    """Which part a pixel belongs to: `parts(scene, row, col, height, width)`.

    block: in pixels of the first scene of each CRS; guard: in each scene's own.
    fractions: {'validation': 0.1, 'test': 0.2}, of the blocks of all scenes.
    A block that is not held out is for training, but for its pixels within `guard` of one that is: those belong to nobody.
    A crop that holds one pixel for training and whose side is at most `guard` therefore holds none that is held out.
    """

    def __init__(
        self, scenes: Sequence[Scene], *, block: int, guard: int, fractions: Mapping[str, float], seed: int = 0
    ):
        check(block, guard, fractions)
        self.scenes, self.guard = scenes, guard
        first: dict[str, Scene] = {}  # the scene whose corner and pixel anchor the lattice of its CRS
        for scene in scenes:
            north_up(scene)
            first.setdefault(reference(scene), scene)
        self.anchors = [first[reference(scene)].transform for scene in scenes]
        self.block = block
        for scene, anchor in zip(scenes, self.anchors, strict=True):
            own = block * min(abs(anchor.a / scene.transform.a), abs(anchor.e / scene.transform.e))
            if guard > own:  # the nine places of `of_pixels` would step over a block
                raise InputError(
                    f"{scene.name}: config.data.guard={guard} of its pixels is wider than a block, {own:.0f} of them; use larger blocks"
                )
        seen: dict[str, set[tuple[int, int]]] = {crs: set() for crs in first}
        for number, scene in enumerate(scenes):
            rows, columns = self.places(number, np.arange(scene.height), np.arange(scene.width))
            seen[reference(scene)] |= {(r, c) for r in set(rows.tolist()) for c in set(columns.tolist())}
        everything = [(crs, *place) for crs, places in seen.items() for place in sorted(places)]
        order = np.random.default_rng(seed).permutation(len(everything))
        test = round(fractions.get("test", 0) * len(everything))
        validation = round(fractions.get("validation", 0) * len(everything))
        for name, count in (("test", test), ("validation", validation)):
            if fractions.get(name, 0) > 0 and count == 0:
                raise InputError(
                    f"config.data.fractions: {name}={fractions[name]} of {len(everything)} blocks is none; "
                    f"use smaller blocks than config.data.block={block}, or a larger share"
                )
        # Of each CRS, the first place of a table and the part of each block: a border of one block for training around them all.
        self.tables: dict[str, tuple[np.ndarray, UInt8[np.ndarray, "r c"]]] = {}
        for crs, places in seen.items():
            low, high = np.min(list(places), 0) - 1, np.max(list(places), 0) + 1
            self.tables[crs] = low, np.full(high - low + 1, TRAIN, np.uint8)
        for k, i in enumerate(order[: test + validation]):
            crs, *place = everything[i]
            low, parts = self.tables[crs]
            parts[tuple(place - low)] = TEST if k < test else VALIDATION

    def places(self, number: int, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the lattice, of rows and columns of pixels of a scene (in any integers, also outside it)."""
        own, anchor = self.scenes[number].transform, self.anchors[number]
        y = (own.f + (rows + 0.5) * own.e - anchor.f) / (self.block * anchor.e)
        x = (own.c + (columns + 0.5) * own.a - anchor.c) / (self.block * anchor.a)
        return np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)

    def lookup(self, number: int, rows: np.ndarray, columns: np.ndarray) -> UInt8[np.ndarray, "h w"]:
        """The part of the blocks of a grid of pixels; no guard."""
        (top, left), parts = self.tables[reference(self.scenes[number])]
        y, x = self.places(number, rows, columns)
        y, x = np.clip(y - top, 0, parts.shape[0] - 1), np.clip(x - left, 0, parts.shape[1] - 1)
        return parts[y[:, None], x]

    def parts(self, number: int, row: int, col: int, height: int, width: int) -> UInt8[np.ndarray, "h w"]:
        """TRAIN, VALIDATION, TEST or GUARD of each pixel of a window of scene `number`, which may reach beyond the scene."""
        return self.of_pixels(number, np.arange(row, row + height), np.arange(col, col + width))

    def of_pixels(self, number: int, rows: Int[np.ndarray, " h"], columns: Int[np.ndarray, " w"]) -> np.ndarray:
        own = self.lookup(number, rows, columns)
        # A square of side 2 * guard + 1, guard <= block, meets no block that none of these nine places is in.
        shifts = (-self.guard, 0, self.guard)
        near = np.zeros(own.shape, bool)
        for dy in shifts:
            for dx in shifts:
                near |= self.lookup(number, rows + dy, columns + dx) != TRAIN
        return np.where((own == TRAIN) & near, np.uint8(GUARD), own)

    def map(self, number: int, side: int) -> UInt8[np.ndarray, "h w"]:
        """The parts of a whole scene in the shape of `scene.rgb(side)`: to draw."""
        scene = self.scenes[number]
        shape = smaller(scene.height, scene.width, side)
        rows, columns = (
            ((np.arange(few) + 0.5) * many / few).astype(int)
            for few, many in zip(shape, (scene.height, scene.width), strict=True)
        )
        return self.of_pixels(number, rows, columns)


def check(block: int, guard: int, fractions: Mapping[str, float]) -> None:
    for name, share in fractions.items():
        if name not in ("validation", "test") or not 0 <= share < 1:
            raise InputError(
                f"config.data.fractions: {name}={share}; give shares of 'validation' and 'test' from 0 to below 1"
            )
    if sum(fractions.values()) >= 1:
        raise InputError(f"config.data.fractions={dict(fractions)}: nothing is left for training; give smaller shares")
    if not 0 <= guard <= block:
        raise InputError(f"config.data.guard={guard}: from 0 to config.data.block={block}; use larger blocks")


def north_up(scene: Any) -> None:
    t = scene.transform
    if t.b or t.d:
        raise InputError(f"{scene.name}: is rotated; warp it to a grid whose rows run east (rio warp)")


def reference(scene: Any) -> str:
    """The CRS as text, one for all spellings of it; scenes without one share a plane."""
    if not scene.crs:
        return ""
    code = scene.crs.to_epsg()
    return f"EPSG:{code}" if code else scene.crs.to_wkt()
