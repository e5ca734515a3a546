"""Images and class maps as pictures: what people look at, never what is computed with."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer, Num, UInt8

from unet.images import IGNORE

Colour = Sequence[int]


def palette(colours: Sequence[Colour]) -> UInt8[np.ndarray, "256 3"]:
    """One colour for each value that a uint8 label can have; what is no class, IGNORE included, is grey."""
    table = np.full((256, 3), 128, np.uint8)
    table[: len(colours)] = np.asarray(colours, np.uint8).reshape(-1, 3)
    return table


def to_rgb(image: Num[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W 3"]:
    """The first three bands, or the first one in grey. Eight-bit grey and RGB images stay as they are; of all others
    each band is stretched from its 2nd to its 98th percentile (of a sample of the pixels)."""
    bands = image[..., :3] if image.shape[-1] >= 3 else image[..., :1]
    if bands.dtype != np.uint8 or image.shape[-1] not in (1, 3):
        step = max(1, int((bands.shape[0] * bands.shape[1] / 1e6) ** 0.5))
        sample = bands[::step, ::step].reshape(-1, bands.shape[-1]).astype(np.float32)
        low, high = np.percentile(sample, [2, 98], axis=0).astype(np.float32)
        span = np.where(high > low, high - low, 1)
        bands = np.rint(np.clip((bands.astype(np.float32) - low) / span, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(bands, (*bands.shape[:2], 3)))


def outlines(classes: Integer[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Pixels whose right or lower neighbour is of another class."""
    edge = np.zeros(classes.shape, bool)
    edge[:, :-1] |= classes[:, :-1] != classes[:, 1:]
    edge[:-1] |= classes[:-1] != classes[1:]
    return edge


def overlay(
    picture: UInt8[np.ndarray, "H W 3"],
    classes: UInt8[np.ndarray, "H W"],
    colours: Sequence[Colour],
    clear: Sequence[int],
) -> UInt8[np.ndarray, "H W 3"]:
    """`picture` half covered with the class colours and crossed by their outlines; classes in `clear` cover nothing."""
    table = palette(colours)
    # (a >> 1) + (b >> 1) averages without leaving uint8: these may be very large pictures.
    mixed = (picture >> 1) + (table >> 1)[classes]
    cover = np.ones(256, bool)
    cover[list(clear)] = False
    mixed = np.where(cover[classes][..., None], mixed, picture)
    edge = outlines(classes)
    # An outline takes the colour of the side that is covered: a black one round every object would say nothing.
    inside = np.where(cover[classes], classes, np.roll(classes, -1, 1))
    inside = np.where(cover[inside], inside, np.roll(classes, -1, 0))
    mixed[edge] = table[inside[edge]]
    return mixed


def background(class_names: Sequence[str]) -> list[int]:
    """The classes that overlays leave clear: those named 'background'."""
    return [i for i, name in enumerate(class_names) if name.lower() == "background"]


def label_picture(label: Integer[np.ndarray, "H W"], colours: Sequence[Colour]) -> UInt8[np.ndarray, "H W 3"]:
    """Class colours; IGNORE is hatched."""
    picture = palette(colours)[np.clip(label, 0, 255)]
    return hatched(picture, label == IGNORE)


def error_picture(
    picture: UInt8[np.ndarray, "H W 3"], label: Integer[np.ndarray, "H W"], prediction: Integer[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Right pixels a pale grey of the image, wrong ones red, pixels that do not count hatched."""
    grey = 150 + picture.mean(-1, keepdims=True) * 0.25
    errors = np.where((label == prediction)[..., None], grey, np.array([220, 38, 38])).astype(np.uint8)
    return hatched(errors, label == IGNORE)


def hatched(picture: UInt8[np.ndarray, "H W 3"], where: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    y, x = np.indices(where.shape, sparse=True)
    period = max(4, max(where.shape) // 48)
    stripes = np.where((((x + y) % period) < period // 2)[..., None], np.uint8(70), np.uint8(150))
    return np.where(where[..., None], stripes, picture).astype(np.uint8)


def sheet(samples: Sequence[Mapping[str, Any]], colours: Sequence[Colour], gap: int = 6) -> UInt8[np.ndarray, "H W 3"]:
    """A row of input, label, prediction and error for each sample (as in `unet.pages`), on white; images of one size."""
    rows = []
    for sample in samples:
        picture = to_rgb(np.asarray(sample["image"]))
        label, prediction = np.asarray(sample["label"]), np.asarray(sample["prediction"])
        cells = [picture, label_picture(label, colours), label_picture(prediction, colours)]
        cells.append(error_picture(picture, label, prediction))
        rows.append(
            np.concatenate([np.pad(c, ((0, gap), (0, gap), (0, 0)), constant_values=255) for c in cells], axis=1)
        )
    return np.concatenate(rows)[:-gap, :-gap]
