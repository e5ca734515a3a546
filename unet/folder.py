"""Folders of images and masks as sources: pairs by name, splits, and what is wrong with them."""

import hashlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.errors import InputError
from unet import images as reader

SPLIT_BY = ("fraction", "folder", "list", "block")
SPLITS = ("train", "validation", "test")


class Pair(NamedTuple):
    """An image file and its mask file, which share `name`."""

    name: str
    image: Path
    mask: Path


class FolderSource:
    """Pairs of files as examples: "image" float32 [H, W, C] normalised, "label" int32 [H, W]."""

    def __init__(
        self, pairs: tuple[Pair, ...], *, bands: int, normalise: str, mask: Mapping[str, Any], max_pixels: int
    ):
        self.pairs, self.bands, self.how = pairs, bands, normalise
        self.mask, self.max_pixels = dict(mask), max_pixels

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image [H, W, C] in the type of its file, classes uint8 [H, W]. Raises InputError for whatever is wrong with them."""
        pair = self.pairs[index]
        image = reader.read_image(pair.image, self.bands, self.max_pixels)
        label = reader.read_mask(pair.mask, max_pixels=self.max_pixels, **self.mask)
        if label.shape != image.shape[:2]:
            raise sizes_differ(pair, image.shape[:2], label.shape)
        return image, label

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image, label = self.read(index)
        return {"image": reader.normalise(image, self.how), "label": label.astype(np.int32)}

    def size(self, index: int) -> tuple[int, int]:
        return reader.image_size(self.pairs[index].image, self.max_pixels)[:2]

    def name(self, index: int) -> str:
        return self.pairs[index].name


def sizes_differ(pair: Pair, image: tuple[int, ...], mask: tuple[int, ...]) -> InputError:
    sizes = f"{mask[0]}x{mask[1]}, its image {pair.image.name} is {image[0]}x{image[1]}"
    return InputError(f"{pair.mask}: {sizes}; a mask must have the size of its image")


def folder_source(
    split: str,
    *,
    classes: int,
    bands: int,
    root: str,
    folder: str = "",
    images: str = "images",
    masks: str = "masks",
    mask_suffix: str = "",
    mask_values: str = "index",
    mask_colours: tuple[tuple[int, int, int], ...] = (),
    normalise: str = "image",
    split_by: str = "fraction",
    fractions: Mapping[str, float] | None = None,
    blocks: Mapping[str, tuple[int, int]] | None = None,
    lists: Mapping[str, str] | None = None,
    split_seed: int = 0,
    max_pixels: int = reader.MAX_PIXELS,
) -> FolderSource:
    """Pairs of files of one split below `root`/`folder`: IMAGES/NAME.png and MASKS/NAME`mask_suffix`.png, any known suffix.

    mask_values, mask_colours: what masks hold (`images.read_mask`). normalise: see `images.normalise`.
    split_by: 'fraction' draws each name's split by `split_seed` (`fractions`: split -> share; 0.7, 0.15, 0.15),
    'folder' reads SPLIT/IMAGES and SPLIT/MASKS, 'list' the names in the lines of a file (`lists`: split -> file, else
    SPLIT.txt), 'block' a range of the sorted names (`blocks`: split -> [from, to)), for neighbours that look alike.
    Raises InputError for images without mask and masks without image, and for splits without images.
    """
    if split_by not in SPLIT_BY:
        raise InputError(f"config.data.split_by={split_by!r}: use one of {', '.join(SPLIT_BY)}")
    base = Path(root) / folder
    if split_by == "folder":
        base = base / split
    pairs = list(pair_up(base / images, base / masks, mask_suffix))
    missing = [pair for pair in pairs if isinstance(pair, InputError)]
    if missing:
        raise missing[0]
    chosen = {
        "fraction": lambda: by_fraction(pairs, split, fractions, split_seed),
        "folder": lambda: pairs,
        "list": lambda: by_list(pairs, split, lists, base),
        "block": lambda: by_block(pairs, split, blocks),
    }[split_by]()
    if not chosen:
        raise InputError(
            f"{base}: split_by={split_by} leaves no image of {len(pairs)} for {split}; change config.data.split_by"
        )
    mask = {"values": mask_values, "colours": mask_colours, "classes": classes}
    return FolderSource(tuple(chosen), bands=bands, normalise=normalise, mask=mask, max_pixels=max_pixels)


def listing(folder: Path, key: str) -> dict[str, Path]:
    """Name without suffix -> file, sorted by name. Raises InputError where there are none, or two with one name."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; set config.data.root, config.data.folder or config.data.{key}")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in reader.SUFFIXES and not path.name.startswith("."):
            if path.stem in found:
                raise InputError(f"{path}: has the name of {found[path.stem].name}; keep one of them")
            found[path.stem] = path
    if not found:
        raise InputError(
            f"{folder}: no files of {', '.join(reader.SUFFIXES)}; put images there, or set config.data.{key}"
        )
    return dict(sorted(found.items()))


def pair_up(images: Path, masks: Path, suffix: str) -> Iterator[Pair | InputError]:
    """Pairs in order of name, and an InputError for each image without mask or mask without image."""
    left, right = listing(images, "images"), listing(masks, "masks")
    for name, path in left.items():
        mask = right.pop(name + suffix, None)
        if mask is None:
            cure = "add it, remove the image, or set config.data.mask_suffix"
            yield InputError(f"{path}: no mask {name + suffix!r} in {masks}; {cure}")
        else:
            yield Pair(name, path, mask)
    for mask in right.values():
        yield InputError(f"{mask}: no image of that name in {images}; add it, or remove the mask")


def by_fraction(pairs: list[Pair], split: str, fractions: Mapping[str, float] | None, seed: int) -> list[Pair]:
    """The pairs whose names, ordered by a hash with `seed`, fall into the split's share. Every pair is in one split."""
    fractions = dict(fractions or {"train": 0.7, "validation": 0.15, "test": 0.15})
    check_split(split, fractions, "fractions")
    if min(fractions.values()) < 0 or sum(fractions.values()) > 1 + 1e-9:
        raise InputError(f"config.data.fractions={fractions}: shares must be positive, their sum at most 1")
    order = sorted(pairs, key=lambda pair: hashlib.sha256(f"{seed}/{pair.name}".encode()).digest())
    names = list(fractions)
    shares = np.cumsum([0.0, *fractions.values()])
    edges = np.round(shares * len(pairs)).astype(int)
    place = names.index(split)
    return sorted(order[edges[place] : edges[place + 1]])


def by_list(pairs: list[Pair], split: str, lists: Mapping[str, str] | None, base: Path) -> list[Pair]:
    """The pairs named in the lines of a file. Raises InputError for a name without image, and a name in two lists."""
    lists = dict(lists or {name: f"{name}.txt" for name in SPLITS if name == split or (base / f"{name}.txt").is_file()})
    check_split(split, lists, "lists")
    members = {}
    for name, file in lists.items():
        path = base / file
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read ({error}); put one image name a line there") from error
        members[name] = {stem(line) for line in lines}
        for other, taken in members.items():
            if other != name and taken & members[name]:
                twice = min(taken & members[name])
                raise InputError(f"{path}: {twice!r} is in the list of {other} too; an image belongs to one split")
    known = {pair.name: pair for pair in pairs}
    for name in sorted(members[split]):
        if name not in known:
            raise InputError(f"{base / lists[split]}: {name!r} is no image of config.data.images; correct the line")
    return [known[name] for name in sorted(members[split])]


def stem(line: str) -> str:
    """The name in a line, with or without the suffix of its file; a dot elsewhere belongs to the name."""
    path = Path(line)
    return path.stem if path.suffix.lower() in reader.SUFFIXES else path.name


def by_block(pairs: list[Pair], split: str, blocks: Mapping[str, tuple[int, int]] | None) -> list[Pair]:
    """The pairs from place a to place b (not included) of the sorted names."""
    blocks = dict(blocks or {})
    check_split(split, blocks, "blocks")
    for name, block in blocks.items():
        if len(block) != 2 or not 0 <= block[0] < block[1] <= len(pairs):
            raise InputError(f"config.data.blocks.{name}={list(block)}: expected [from, to) within 0 to {len(pairs)}")
        for other, taken in blocks.items():
            if other != name and max(block[0], taken[0]) < min(block[1], taken[1]):
                raise InputError(f"config.data.blocks.{name}={list(block)}: overlaps {other}={list(taken)}")
    return pairs[slice(*blocks[split])]


def check_split(split: str, known: Mapping[str, Any], key: str) -> None:
    if split not in known:
        raise InputError(f"split {split!r}: config.data.{key} has {', '.join(known) or 'no split'}; add it there")


def check_folder(
    *, classes: int, bands: int, root: str, crop: tuple[int, int] | None = None, seconds: float = 30.0, **options: Any
) -> list[str]:
    """Lines on all that is wrong with a folder's files: pairs, splits, headers of all files, then the pixels of masks and
    of images for `seconds` at most. The options are those of `folder_source`."""
    findings: list[str] = []
    images, masks = options.get("images", "images"), options.get("masks", "masks")
    by_folder = options.get("split_by") == "folder"
    base = Path(root) / options.get("folder", "")
    folders = [base / split for split in SPLITS if (base / split).is_dir()] if by_folder else [base]
    pairs: list[Pair] = []
    for place in folders or [base / "train"]:
        try:
            found = list(pair_up(place / images, place / masks, options.get("mask_suffix", "")))
        except InputError as error:
            findings.append(str(error))
            continue
        findings += [str(item) for item in found if isinstance(item, InputError)]
        pairs += [item for item in found if isinstance(item, Pair)]
    if not findings:  # splits are made of complete pairs
        for split in ("train", "validation"):
            try:
                folder_source(split, classes=classes, bands=bands, root=root, **options)
            except InputError as error:
                findings.append(str(error))
    mask = {"values": options.get("mask_values", "index"), "colours": options.get("mask_colours", ())}
    source = FolderSource(
        tuple(pairs),
        bands=bands,
        normalise="none",
        mask={**mask, "classes": classes},
        max_pixels=options.get("max_pixels", reader.MAX_PIXELS),
    )
    return list(dict.fromkeys(findings + check_pairs(source, crop, seconds)))


def check_pairs(source: FolderSource, crop: tuple[int, int] | None, seconds: float) -> list[str]:
    """What is wrong with the files of a source, one line for each pair at most: headers of all, then pixels."""
    findings: dict[str, str] = {}
    for pair in source.pairs:
        try:
            *image, bands = reader.image_size(pair.image, source.max_pixels)
            mask = reader.image_size(pair.mask, source.max_pixels)[:2]
            if tuple(image) != mask:
                raise sizes_differ(pair, tuple(image), mask)
            if crop and (crop[0] > image[0] or crop[1] > image[1]):
                size = f"{image[0]}x{image[1]}"
                raise InputError(
                    f"{pair.image}: {size} is smaller than config.data.crop={list(crop)}; use a smaller crop"
                )
        except InputError as error:
            findings[pair.name] = str(error)
    until = time.monotonic() + seconds
    for index, pair in enumerate(source.pairs):
        if time.monotonic() > until:
            break
        if pair.name not in findings:
            try:
                source.read(index)
            except InputError as error:
                findings[pair.name] = str(error)
    return list(findings.values())
