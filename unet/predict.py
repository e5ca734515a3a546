"""Image files in, class maps out: an indexed PNG, an overlay to look at, and probabilities where asked for."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image, PngImagePlugin

from common.errors import InputError
from common.files import find_inputs, not_ours
from unet import images, pictures
from unet.tiling import plan, predict_rows

MARK = ("Software", "unet predict")  # in the PNGs that are written here: only those are ever replaced


class Outputs(NamedTuple):
    """The files that one input becomes."""

    classes: Path
    overlay: Path
    probabilities: Path | None

    def paths(self) -> list[Path]:
        return [path for path in self if path is not None]


def predict_files(
    apply: Callable[[np.ndarray], Any],
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    bands: int | None = None,
    normalise: str = "image",
    tile: int,
    out: int,
    overlap: int = 0,
    batch_size: int = 1,
    align: int = 1,
    class_names: Sequence[str],
    colours: Sequence[Sequence[int]],
    probabilities: bool = False,
) -> list[Path]:
    """Predicts each image of `paths` (files, or folders of them), of any size, into the folder `output`.

    `apply` maps [batch_size, tile, tile, C] float32 to probabilities [batch_size, out, out, K]; `bands` and `normalise`
    are those of the training data (`unet.images`). An image NAME.* becomes NAME.png (class indices, with a palette),
    NAME_overlay.png and, with `probabilities`, NAME.npy (float16 [H, W, K]). Returns the paths written.
    Raises InputError, before anything is written, where an input is missing or unreadable, where two would become one
    file, and where a file is in the way that was not written by an earlier call; for one that turns out to be broken
    when it is decoded, before anything of it is written.
    """
    inputs = find_inputs(paths, images.SUFFIXES, "images")
    jobs = plan_outputs(inputs, Path(output), probabilities)
    for path in inputs:
        height, width, _ = images.image_size(path)
        plan(height, tile, out, overlap, align), plan(width, tile, out, overlap, align)
    make_folder(Path(output))
    tiles = {"tile": tile, "out": out, "overlap": overlap, "batch_size": batch_size, "align": align}
    for path, outputs in jobs:
        image = images.read_image(path, bands=bands)
        strips = predict_rows(apply, images.normalise(image, normalise), **tiles)
        write_prediction(outputs, image, strips, class_names, colours)
    return [written for _, outputs in jobs for written in outputs.paths()]


def plan_outputs(inputs: Sequence[Path], output: Path, probabilities: bool) -> list[tuple[Path, Outputs]]:
    """What each input becomes. Raises InputError where two meet in one file or one would replace a file of the user."""
    taken: dict[Path, Path] = {}
    jobs = []
    originals = {path.resolve() for path in inputs}
    for path in inputs:
        npy = output / f"{path.stem}.npy" if probabilities else None
        outputs = Outputs(output / f"{path.stem}.png", output / f"{path.stem}_overlay.png", npy)
        for target in outputs.paths():
            if target in taken:
                raise InputError(f"{taken[target]} and {path} would both become {target}; rename one of them")
            taken[target] = path
            if target.resolve() in originals:
                raise InputError(f"{target}: would replace an input; choose another --output")
        # An array carries no mark: it is ours where the class map beside it is.
        strange = [p for p in (outputs.classes, outputs.overlay) if p.exists() and not is_ours(p)]
        if npy and npy.exists() and not outputs.classes.exists():
            strange.append(npy)
        if strange:
            raise not_ours(strange[0])
        jobs.append((path, outputs))
    return jobs


def is_ours(path: Path) -> bool:
    """Whether a PNG carries our mark, a chunk near its beginning."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b"tEXt" + b"\0".join(word.encode() for word in MARK) in file.read(4096)


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"--output {path}: is a file; name a folder") from None


def write_prediction(
    outputs: Outputs,
    image: Num[np.ndarray, "H W C"],
    strips: Iterator[tuple[int, np.ndarray]],
    class_names: Sequence[str],
    colours: Sequence[Sequence[int]],
) -> None:
    """Writes all files of one image aside, then gives them their names: a run that stops leaves no half of one."""
    aside = [path.with_name(f".{path.name}.partial") for path in outputs.paths()]
    try:
        classes = gather(image.shape[:2], len(class_names), strips, aside[2] if outputs.probabilities else None)
        save_indexed(aside[0], classes, colours)
        picture = pictures.to_rgb(image)
        covered = pictures.overlay(picture, classes, colours, pictures.background(class_names))
        save_png(aside[1], Image.fromarray(covered))
        for path, final in zip(aside, outputs.paths(), strict=True):
            path.replace(final)
    finally:
        for path in aside:
            path.unlink(missing_ok=True)


def gather(
    size: tuple[int, int], classes: int, strips: Iterator[tuple[int, np.ndarray]], path: Path | None
) -> UInt8[np.ndarray, "H W"]:
    """The class map of finished strips; with `path`, the probabilities go straight to that NPY file."""
    result = np.empty(size, np.uint8)
    kept = None
    if path:
        kept = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(*size, classes))
    for y, strip in strips:
        result[y : y + len(strip)] = strip.argmax(-1)
        if kept is not None:
            kept[y : y + len(strip)] = strip
    if kept is not None:
        kept.flush()
    return result


def save_indexed(path: Path, classes: UInt8[np.ndarray, "H W"], colours: Sequence[Sequence[int]]) -> None:
    """A PNG whose values are the class indices and whose palette shows the class colours."""
    picture = Image.fromarray(classes)
    picture.putpalette(pictures.palette(colours).tobytes())
    save_png(path, picture)


def save_png(path: Path, picture: Image.Image) -> None:
    mark = PngImagePlugin.PngInfo()
    mark.add_text(*MARK)
    picture.save(path, format="PNG", pnginfo=mark)
