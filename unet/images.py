"""Readers of images and masks: PNG, JPEG, TIFF and NPY. Sizes are checked before anything is decoded, nothing is unpickled."""

import logging
import struct
import tokenize
import warnings
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image
import tifffile
from jaxtyping import Float32, Num, Shaped, UInt8

from common.errors import InputError

IGNORE = 255
PILLOW, TIFF, NPY = (".png", ".jpg", ".jpeg", ".bmp", ".gif"), (".tif", ".tiff"), (".npy",)
SUFFIXES = (*PILLOW, *TIFF, *NPY)
MAX_PIXELS = 2 * PIL.Image.MAX_IMAGE_PIXELS  # Pillow refuses more; such a file is broken, hostile, or a mosaic
MASK_VALUES = ("index", "index+ignore", "binary", "nonzero", "colours")
NORMALISE = ("image", "range", "none")

# What the decoders raise for bytes that are not what the header says.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, struct.error, zlib.error)
BROKEN += (LookupError, TypeError, ArithmeticError, AttributeError, AssertionError, MemoryError, tokenize.TokenError)
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong with a file is said by an InputError


def image_size(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int, int]:
    """(height, width, bands) from the header. Raises InputError where it is unreadable or larger than `max_pixels`."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: not one of {', '.join(SUFFIXES)}; convert it")
    try:
        size = header(path)
    except PIL.Image.DecompressionBombError:
        raise InputError(f"{path}: more than {max_pixels:,} pixels; cut it into parts, or save it as TIFF") from None
    except InputError:
        raise
    except BROKEN as error:
        raise unreadable(path, error) from error
    height, width, bands = size
    if height * width > max_pixels or height * width * bands > 16 * max_pixels:
        raise InputError(f"{path}: {height}x{width}x{bands} is more than {max_pixels:,} pixels; cut it into parts")
    if not height * width * bands:
        raise InputError(f"{path}: {height}x{width}x{bands} holds no pixel; remove it")
    return size


def header(path: Path) -> tuple[int, int, int]:
    suffix = path.suffix.lower()
    if suffix in TIFF:
        with tifffile.TiffFile(path) as file:
            return bands_last(file.series[0].shape, file.series[0].axes, path)
    if suffix in NPY:
        return bands_last(open_npy(path).shape, "", path)
    with open_pillow(path) as image:
        bands = {"1": 1, "L": 1, "I": 1, "F": 1, "LA": 2, "P": 3, "RGBA": 4}.get(image.mode)
        return image.height, image.width, bands or (1 if image.mode.startswith("I;16") else 3)


def bands_last(shape: tuple[int, ...], axes: str, path: Path) -> tuple[int, int, int]:
    """(height, width, bands) of an array; in a TIFF, pages or planes in front of YX are bands."""
    if len(shape) == 2:
        return shape[0], shape[1], 1
    if len(shape) != 3:
        raise InputError(f"{path}: an array of shape {list(shape)}; expected [height, width] or [height, width, bands]")
    return (shape[1], shape[2], shape[0]) if axes.endswith("YX") else (shape[0], shape[1], shape[2])


def open_npy(path: Path) -> np.ndarray:
    """The array, mapped: reads the header and compares it with the length of the file."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buif":
        raise InputError(f"{path}: holds {getattr(array, 'dtype', 'several arrays')}; expected one array of numbers")
    return array


def open_pillow(path: Path) -> PIL.Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # MAX_PIXELS is checked instead
        return PIL.Image.open(path)


def unreadable(path: Path, error: BaseException) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such file")
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InputError(f"{path}: cannot be read, broken or truncated ({reason}); replace or remove it")


def decode(path: Path) -> Shaped[np.ndarray, "h w c"]:
    """The pixels as they are stored; palettes as the colours they stand for."""
    suffix = path.suffix.lower()
    try:
        if suffix in TIFF:
            with tifffile.TiffFile(path) as file:
                array, axes = file.series[0].asarray(), file.series[0].axes
            array = np.moveaxis(array, 0, -1) if array.ndim == 3 and axes.endswith("YX") else array
        elif suffix in NPY:
            array = np.array(open_npy(path))
        else:
            array = decode_pillow(path)
    except InputError:
        raise
    except BROKEN as error:
        raise unreadable(path, error) from error
    array = array.astype(np.uint8) if array.dtype == bool else array
    return array[..., None] if array.ndim == 2 else array


def decode_pillow(path: Path) -> np.ndarray:
    with open_pillow(path) as image:
        if image.mode in ("RGB", "RGBA") and image.format == "PNG" and path.read_bytes()[24] == 16:
            return imagecodecs.png_decode(path.read_bytes())  # Pillow would cut 16 bits a band to 8 and not say so
        if image.mode == "P":
            image = image.convert("RGB")
        elif image.mode not in ("1", "L", "I", "F", "LA", "RGB", "RGBA") and not image.mode.startswith("I;16"):
            image = image.convert("RGB")  # CMYK, YCbCr and the like
        return np.asarray(image)


def read_image(path: str | Path, bands: int | None = None, max_pixels: int = MAX_PIXELS) -> Num[np.ndarray, "h w c"]:
    """An image [H, W, C] in the type of its file. An alpha band that is opaque everywhere is left out when `bands` is one less.

    Raises InputError for an unreadable, truncated or huge file, a number of bands other than `bands`, and NaN or
    infinite pixels.
    """
    path = Path(path)
    image_size(path, max_pixels)
    image = decode(path)
    if image.dtype.kind not in "uif":
        raise InputError(f"{path}: pixels of type {image.dtype}; expected integers or floats")
    if bands is not None and image.shape[-1] != bands:
        alpha = image[..., -1]
        opaque = path.suffix.lower() == ".png" and bands in (1, 3) and image.shape[-1] == bands + 1
        if not (opaque and (alpha == np.iinfo(alpha.dtype).max).all()):
            raise wrong_bands(path, image.shape[-1], bands)
        image = image[..., :-1]
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        bad = ~np.isfinite(image).all(-1)
        row, column = np.argwhere(bad)[0]
        raise InputError(
            f"{path}: {int(bad.sum())} pixels are NaN or infinite, the first at row {row}, column {column}; fill them"
        )
    return image


def wrong_bands(path: Path, found: int, expected: int) -> InputError:
    return InputError(
        f"{path}: {found} bands, expected {expected}; set config.model.bands={found}, or convert the image"
    )


def read_mask(
    path: str | Path,
    values: str = "index",
    colours: tuple[tuple[int, int, int], ...] = (),
    classes: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> UInt8[np.ndarray, "h w"]:
    """A mask [H, W] of class indices; IGNORE (255) where a pixel does not count.

    values: 'index' (class indices, or the indices of a palette; 255 is not labelled), 'index+ignore' (the same, also for
    two classes, where only 0 and 255 in a file is otherwise taken for a mistake), 'binary' (0 and one other value, such as
    255, for classes 0 and 1), 'nonzero' (everything but 0 is class 1), 'colours' (`colours[k]` is class k).
    Raises InputError for an unreadable file, a value or colour that is no class, and values of another kind than said.
    """
    path = Path(path)
    if values not in MASK_VALUES:
        raise InputError(f"config.data.mask_values={values!r}: use one of {', '.join(MASK_VALUES)}")
    image_size(path, max_pixels)
    if values == "colours":
        return colour_classes(decode(path), colours, path)
    mask = one_band(path, values)
    if values == "nonzero":
        return (mask != 0).astype(np.uint8)
    found = np.unique(mask)
    if values == "binary":
        if len(found) > 2 or (len(found) == 2 and found[0] != 0):
            cure = "use mask_values=nonzero or =index" + ("; JPEG blurs masks" if "jp" in path.suffix.lower() else "")
            raise InputError(f"{path}: config.data.mask_values=binary, but it holds {listed(found)}; {cure}")
        return (mask != 0).astype(np.uint8)
    if (
        values == "index"
        and classes is not None
        and classes <= 2
        and found[-1] == IGNORE
        and found[-2:][0] in (0, IGNORE)
    ):
        raise InputError(
            f"{path}: the mask holds {listed(found)} only, expected 0 and 1; if 255 is class 1 set "
            "config.data.mask_values=binary, if it is not labelled set config.data.mask_values=index+ignore"
        )
    wrong = found[(found < 0) | ((found >= (classes if classes is not None else IGNORE)) & (found != IGNORE))]
    if len(wrong):
        raise wrong_class(path, mask, wrong, classes)
    return mask.astype(np.uint8)


def wrong_class(path: Path, mask: np.ndarray, wrong: np.ndarray, classes: int | None) -> InputError:
    row, column = np.argwhere(mask == wrong[0])[0]
    known = f"0 to {classes - 1}" if classes is not None else "0 to 254"
    cure = f"set config.model.classes={int(wrong[-1]) + 1}, or 255 where a pixel does not count"
    if len(wrong) > 1 and classes == 2:
        cure = "set config.data.mask_values=nonzero if everything but 0 is class 1, or config.model.classes"
    return InputError(f"{path}: class {listed(wrong)} at row {row}, column {column}, expected {known}; {cure}")


def listed(values: np.ndarray) -> str:
    values = [str(v) for v in values.tolist()]
    return ", ".join(values[:4]) + (f" ... ({len(values)} values)" if len(values) > 4 else "")


def one_band(path: Path, values: str) -> Num[np.ndarray, "h w"]:
    """A mask's numbers; the indices of a palette rather than its colours."""
    mask = None
    if path.suffix.lower() in PILLOW:
        try:
            with open_pillow(path) as image:
                if image.mode == "P":
                    mask = np.asarray(image)[..., None]
        except BROKEN as error:
            raise unreadable(path, error) from error
    mask = decode(path) if mask is None else mask
    if mask.shape[-1] > 1 and (mask[..., :3] == mask[..., :1]).all() and mask.shape[-1] <= 4:
        mask = mask[..., :1] if values != "index" and values != "index+ignore" else mask  # grey, saved as RGB
    if mask.shape[-1] != 1:
        cure = "set config.data.mask_values=colours and config.data.mask_colours=[[r,g,b],...]"
        raise InputError(f"{path}: a mask of {mask.shape[-1]} bands, expected one; {cure}")
    mask = mask[..., 0]
    if mask.dtype.kind == "f":
        if not (mask == np.round(mask)).all():
            raise InputError(f"{path}: a mask with fractions (type {mask.dtype}); save class indices as integers")
        mask = mask.astype(np.int64)
    return mask


def colour_classes(
    mask: Num[np.ndarray, "h w c"], colours: tuple[tuple[int, int, int], ...], path: Path
) -> UInt8[np.ndarray, "h w"]:
    """Class of each pixel by exact match; an alpha band is not looked at."""
    if not colours:
        raise InputError("config.data.mask_colours=[]: mask_values=colours needs a colour [r, g, b] for each class")
    if mask.shape[-1] == 1:
        mask = np.repeat(mask, 3, axis=-1)
    if mask.shape[-1] not in (3, 4) or mask.dtype != np.uint8:
        raise InputError(f"{path}: a mask of {mask.shape[-1]} bands of {mask.dtype}, expected 8-bit colours")
    code = lambda rgb: (rgb[..., 0].astype(np.int64) << 16) | (rgb[..., 1].astype(np.int64) << 8) | rgb[..., 2]
    table = code(np.array(colours))
    order = np.argsort(table, kind="stable")
    pixels = code(mask)
    place = np.minimum(np.searchsorted(table[order], pixels), len(table) - 1)
    classes = order[place]
    wrong = table[classes] != pixels
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        colour = mask[row, column, :3].tolist()
        raise InputError(
            f"{path}: colour {colour} at row {row}, column {column} ({int(wrong.sum())} such pixels) is not in "
            "config.data.mask_colours; add it there, or save the mask without smoothing"
        )
    return classes.astype(np.uint8)


def normalise(image: Num[np.ndarray, "h w c"], how: str = "image") -> Float32[np.ndarray, "h w c"]:
    """'image': zero mean and unit deviation per band of this image (a constant band becomes 0); 'range': integers
    divided by the largest value of their type, floats as they are; 'none': only the type changes."""
    if how == "none" or (how == "range" and image.dtype.kind == "f"):
        return image.astype(np.float32)
    if how == "range":
        return (image / np.float32(np.iinfo(image.dtype).max)).astype(np.float32)
    if how != "image":
        raise InputError(f"config.data.normalise={how!r}: use one of {', '.join(NORMALISE)}")
    mean = image.mean((0, 1), dtype=np.float64)
    deviation = image.std((0, 1), dtype=np.float64)
    return ((image - mean) / np.where(deviation > 0, deviation, 1.0)).astype(np.float32)
