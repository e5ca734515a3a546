"""Maps of class indices as pictures: indexed PNG, so that a page or a tile of them is small."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Num, UInt8
from PIL import Image

from unet.landcover.legend import NODATA

GREY, RED, QUIET = (190, 190, 190), (220, 38, 38), (145, 145, 145)  # agrees, disagrees, does not count
SIDE = 768  # px, at most, of a picture in a page: flat colours cost little


def disagreement(label: UInt8[np.ndarray, "h w"], predicted: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """0 where two maps of class indices agree, 1 where they do not, NODATA where one of them says nothing."""
    counts = (label < NODATA) & (predicted < NODATA)
    return np.where(counts, label != predicted, NODATA).astype(np.uint8)


def stretched(bands: Num[np.ndarray, "h w 3"], valid: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """True colour of three bands, each from its percentile 2 to 98; what is not valid is black."""
    picture = np.zeros(bands.shape, np.uint8)
    if valid.any():
        values = bands[valid].astype(np.float64)
        low, high = np.percentile(values, [2, 98], axis=0)
        picture[valid] = np.clip((values - low) / np.maximum(high - low, 1e-9) * 255, 0, 255)
    return picture


def index_picture(index: UInt8[np.ndarray, "h w"], colours: Sequence[Sequence[int]]) -> Image.Image:
    """Class indices as an indexed picture: the colours, grey for IGNORE, nothing for NODATA."""
    table = np.full((256, 3), QUIET, np.uint8)
    table[: len(colours)] = np.asarray(colours, np.uint8).reshape(-1, 3)
    picture = Image.fromarray(index)
    picture.putpalette(table.tobytes())
    return picture


def index_png(index: UInt8[np.ndarray, "h w"], colours: Sequence[Sequence[int]]) -> bytes:
    file = io.BytesIO()
    index_picture(index, colours).save(file, "PNG", transparency=NODATA)
    return file.getvalue()


def index_tag(index: UInt8[np.ndarray, "h w"], colours: Sequence[Sequence[int]], text: str) -> str:
    """An <img> of class indices, SIDE px at most."""
    step = -(-max(index.shape) // SIDE)
    data = base64.b64encode(
        index_png(np.ascontiguousarray(index[step // 2 :: step, step // 2 :: step]), colours)
    ).decode()
    return f'<img alt="{text}" src="data:image/png;base64,{data}">'
