"""Random crops for training, a share of them centred on foreground."""

from typing import Any

import numpy as np
from jaxtyping import Int

from common.errors import InputError
from unet.images import IGNORE


def random_crop(
    example: dict[str, Any],
    rng: np.random.Generator,
    size: tuple[int, int],
    foreground: float = 0.33,
    margin: int = 0,
    background: int = 0,
) -> dict[str, Any]:
    """A random window of `size` (height, width) of an example: "image" float32 [h, w, C] and "label" int32 [h, w].

    With probability `foreground` it is centred, as far as the image allows, on a pixel of a class other than `background`
    (-1: any class): first a class is drawn from those present, then one of its pixels, so that rare classes are seen.
    The window without `margin` pixels on each side lies inside the image; the margin may reach over the border, where
    image and label are mirrored (for a network that gives no output there). Raises InputError where the window without
    its margin is larger than the image.
    """
    height, width = example["image"].shape[:2]
    core = (size[0] - 2 * margin, size[1] - 2 * margin)
    if core[0] > height or core[1] > width:
        raise InputError(
            f"config.data.crop={list(size)}: the crop ({core[0]}x{core[1]} labelled) is larger than an image of "
            f"{height}x{width}; use a smaller crop"
        )
    corner = [rng.integers(side - part + 1) for side, part in zip((height, width), core, strict=True)]
    centre = foreground_pixel(example["label"], rng, background) if rng.random() < foreground else None
    if centre is not None:
        limits = zip(centre, core, (height, width), strict=True)
        corner = [min(max(place - part // 2, 0), side - part) for place, part, side in limits]
    rows, columns = (
        mirrored(np.arange(start - margin, start - margin + length), side)
        for start, length, side in zip(corner, size, (height, width), strict=True)
    )
    window = np.ix_(rows, columns)
    return {**example, "image": example["image"][window], "label": example["label"][window].astype(np.int32)}


def foreground_pixel(label, rng: np.random.Generator, background: int) -> tuple[int, int] | None:
    """A pixel (row, column) of a class drawn from the foreground classes in `label` [h, w]; None where there is none."""
    counts = np.bincount(label.reshape(-1), minlength=IGNORE + 1)
    present = [c for c in np.flatnonzero(counts) if c not in (background, IGNORE)]
    if not present:
        return None
    drawn = rng.choice(present)
    place = np.flatnonzero(label == drawn)[rng.integers(counts[drawn])]
    return int(place) // label.shape[1], int(place) % label.shape[1]


def mirrored(index: Int[np.ndarray, " n"], side: int) -> Int[np.ndarray, " n"]:
    """Indices beyond [0, side) folded back inside, the border pixel not repeated, as often as needed."""
    if side == 1:
        return np.zeros_like(index)
    folded = index % (2 * side - 2)
    return np.where(folded < side, folded, 2 * side - 2 - folded)
