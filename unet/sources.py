"""Sources of segmentation examples by name: folders, brain slices, made images, TFDS data sets.

A source has `__len__`, `__getitem__` ("image" float32 [H, W, C], "label" int32 [H, W], 255 where a pixel does not count),
`size(i)` and `name(i)`. Those that read files have `read(i)`: image and classes before normalisation, as they are stored.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Int

from common import config as configs
from common.errors import InputError
from common.task import Source
from common.tfds_sets import open_set, tfds_source
from unet.brain import brain_source
from unet.folder import check_folder, check_split, folder_source
from unet.images import IGNORE, normalise, wrong_bands
from unet.made import made_source


class TfdsSource:
    """A TFDS split as segmentation examples."""

    def __init__(self, records: Source, *, origin: str, classes: int, bands: int, options: Mapping[str, Any]):
        self.records, self.origin, self.classes, self.bands = records, origin, classes, bands
        self.image_key, self.mask_key = options["image_key"], options["mask_key"]
        self.mask_offset, self.resize, self.how = options["mask_offset"], options["resize"], options["normalise"]

    def __len__(self) -> int:
        return len(self.records)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image [H, W, C] as stored, classes uint8 [H, W]. Raises InputError for wrong keys, bands and classes."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        record, place = self.records[index], f"{self.origin} example {index}"
        for role, key in (("image", self.image_key), ("mask", self.mask_key)):
            if key not in record:
                raise InputError(
                    f"{place}: no feature {key!r}; set config.data.{role}_key to one of {', '.join(record)}"
                )
        image, mask = np.asarray(record[self.image_key]), np.asarray(record[self.mask_key])
        image = image[..., None] if image.ndim == 2 else image
        if image.shape[-1] != self.bands:
            raise wrong_bands(Path(place), image.shape[-1], self.bands)
        mask = mask.reshape(mask.shape[:2]).astype(np.int64)
        label = np.where(mask == IGNORE, IGNORE, mask - self.mask_offset)
        wrong = (label != IGNORE) & ((label < 0) | (label >= self.classes))
        if wrong.any():
            value = int(mask[wrong][0])
            cure = "set config.data.mask_offset to the number of the first class, or config.model.classes"
            raise InputError(f"{place}: mask value {value} is no class of {self.classes}; {cure}")
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise InputError(f"{place}: pixels are NaN or infinite; fill them before `experiments.prepare`")
        if label.shape != image.shape[:2]:
            raise InputError(f"{place}: image {image.shape[:2]} and mask {label.shape} differ in size")
        return self._resized(image, label.astype(np.uint8))

    def _resized(self, image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not self.resize:
            return image, label
        size = (self.resize[1], self.resize[0])
        bands = [PIL.Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(image.shape[-1])]
        image = np.stack([np.asarray(band.resize(size, PIL.Image.Resampling.BILINEAR)) for band in bands], axis=-1)
        return image, np.asarray(PIL.Image.fromarray(label).resize(size, PIL.Image.Resampling.NEAREST))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image, label = self.read(index)
        return {"image": normalise(image, self.how), "label": label.astype(np.int32)}

    def size(self, index: int) -> tuple[int, int]:
        return tuple(self.resize) if self.resize else self.read(index)[1].shape

    def name(self, index: int) -> str:
        name = self.records[index].get("name", self.records[index].get("file_name", f"{index:05d}"))
        return Path(name.decode() if isinstance(name, bytes) else str(name)).stem


def from_tfds(
    split: str,
    *,
    source: str,
    classes: int,
    bands: int,
    root: str,
    image_key: str = "image",
    mask_key: str = "label",
    mask_offset: int = 0,
    resize: tuple[int, int] | tuple[()] = (),
    normalise: str = "image",
    splits: Mapping[str, str] | None = None,
    patience: float = 60.0,
) -> TfdsSource:
    """'tfds:NAME' below `root`, which holds TFDS's folders; a public set that is not there is downloaded.

    image_key, mask_key: its features. mask_offset: the mask's number of class 0. resize: [height, width] that all images
    are brought to (bilinear; nearest for masks). splits: ours -> TFDS's, like {'train': 'train[:90%]'}; without it those
    of the same name, and the last tenth of its 'train' for validation where it has none. patience: seconds without
    progress after which a download is given up.
    """
    name = source.removeprefix("tfds:")
    if not splits:
        splits = {known: known for known in open_set(name, root, patience=patience).info.splits}
        if "train" in splits and "validation" not in splits:
            splits |= {"train": "train[:90%]", "validation": "train[90%:]"}
    check_split(split, splits, "splits")
    records = tfds_source(name, splits[split], root, patience=patience)
    options = {"image_key": image_key, "mask_key": mask_key, "mask_offset": mask_offset, "resize": resize}
    return TfdsSource(records, origin=source, classes=classes, bands=bands, options={**options, "normalise": normalise})


def embedded_brain(split: str, *, classes: int, bands: int, **options: Any) -> Source:
    if (classes, bands) != (4, 1):
        raise InputError(f"config.model.classes={classes}, bands={bands}: the brain slices have 4 classes and 1 band")
    return brain_source(split, **options)


NOT_KEYS = ("split", "classes", "bands")  # arguments that come from elsewhere
BUILDERS: dict[str, tuple[Callable, Callable]] = {  # name -> (what makes it, whose arguments are its keys)
    "folder": (folder_source, folder_source),
    "brain": (embedded_brain, brain_source),
    "made": (made_source, made_source),
    "tfds": (from_tfds, from_tfds),
}


def check_keys(options: Mapping[str, Any], also: Iterable[str] = ()) -> Mapping[str, Any]:
    """The keys of config.data that say where examples come from, if the source they name has them all; else InputError
    with the nearest right name, `also` among them. 'root' may be set for every source."""
    builder = BUILDERS[kind(options.get("source", ""))][1]
    known = ["source", "root", *(n for n in inspect.signature(builder).parameters if n not in NOT_KEYS)]
    for key in options:
        if key not in known:
            near = configs.nearest(key, [*known, *also])
            raise InputError(f"config.data.{key}: source {options['source']!r} has no such key; {near}")
    return options


def kind(source: str) -> str:
    name = source.partition(":")[0]
    if name not in BUILDERS or (source != name) != (name == "tfds"):
        raise InputError(f"config.data.source={source!r}: use 'folder', 'brain', 'made' or 'tfds:NAME'")
    return name


def make_source(split: str, *, source: str, classes: int, bands: int, root: str = "data", **options: Any) -> Source:
    """The examples of `split` of a source: 'folder', 'brain', 'made' or 'tfds:NAME', below the folder `root`.

    The options are the arguments of `folder_source`, `brain_source`, `made_source` and `from_tfds`.
    Raises InputError for an unknown source, key or split, and for whatever is wrong with the data.
    """
    check_keys({"source": source, **options})
    name = kind(source)
    if name in ("folder", "tfds"):
        options["root"] = root
    if name == "tfds":
        options["source"] = source
    return BUILDERS[name][0](split, classes=classes, bands=bands, **options)


def check(
    *, source: str, classes: int, bands: int, root: str = "data", crop: tuple[int, int] | None = None, **options: Any
) -> list[str]:
    """All that is wrong with the data of a config, a line each, in bounded time; nothing is changed or written."""
    check_keys({"source": source, **options})
    if kind(source) == "folder":
        return check_folder(classes=classes, bands=bands, root=root, crop=crop, **options)
    try:
        first = make_source("train", source=source, classes=classes, bands=bands, root=root, **options)
        for index in range(min(len(first), 16)):
            height, width = first[index]["label"].shape
            if crop and (crop[0] > height or crop[1] > width):
                size = f"{first.name(index)} of {height}x{width}"
                raise InputError(f"config.data.crop={list(crop)}: larger than {size}; use a smaller crop or resize")
    except InputError as error:
        return [str(error)]
    return []


def pixel_counts(source: Source, classes: int) -> Int[np.ndarray, " classes"]:
    """How many pixels of a source have each class; those that do not count are left out."""
    total = np.zeros(classes, np.int64)
    for index in range(len(source)):
        total += np.bincount(source[index]["label"].reshape(-1), minlength=IGNORE + 1)[:classes]
    return total
