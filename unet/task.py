"""Semantic segmentation with a U-Net, as a Task: the functions of a config's sections task, model, data and augment."""

import functools
import inspect
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from common import config as configs
from common.errors import InputError
from common.task import Task
from unet import pages, pictures, predict, scores, sources, tiling
from unet.crops import random_crop
from unet.images import normalise
from unet.losses import WEIGHTS
from unet.model import UNet, output_size
from unet.traced import SYMMETRIES, margin, tile_settings, traced


def segmentation(
    *,
    class_names: tuple[str, ...],
    colours: tuple[tuple[int, int, int], ...] = (),
    loss: Mapping[str, Any] | None = None,
    balance: str = "none",
    balance_beta: float = 0.9999,
    balance_cap: float = 0.0,
    background: int = 0,
    cells: int = -1,
    tile: int = 256,
    overlap: int = 32,
    average: str = "none",
) -> dict[str, Any]:
    """The section `task` of a segmentation config.

    class_names, colours: one for each class, in order of the class indices; colours as [r, g, b].
    loss: keyword arguments of `unet.losses.segmentation_loss`. balance: class weights from the training masks,
    'none', 'median_frequency' or 'effective_number' (with balance_beta), up to balance_cap times the lightest:
    `unet.losses.balanced_weights`.
    background: the class that the foreground scores leave out; -1 for none.
    cells: the class whose connected regions are cells, scored as in the ISBI 2012 challenge; -1 for none.
    tile, overlap: side of the one tile shape of evaluation and prediction, and the context cut from its inner edges.
    average: 'none', 'flips' or 'turns' (flips and 90-degree turns): what evaluation and prediction average over.
    """
    if balance not in ("none", *WEIGHTS):
        raise InputError(f"config.task.balance={balance!r}: {configs.nearest(balance, ('none', *WEIGHTS))}")
    if average not in SYMMETRIES:
        raise InputError(f"config.task.average={average!r}: {configs.nearest(average, SYMMETRIES)}")
    if colours and len(colours) != len(class_names):
        raise InputError(
            f"config.task.colours: {len(colours)} colours for {len(class_names)} class_names; give one each"
        )
    return {**locals(), "loss": dict(loss or {}), "colours": colours or palette(len(class_names))}


def palette(classes: int) -> tuple[tuple[int, int, int], ...]:
    """Colours that are told apart easily (Okabe & Ito 2008 first), black for class 0."""
    first = [
        (0, 0, 0),
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
    ]
    more = np.random.default_rng(0).integers(40, 230, (max(classes - len(first), 0), 3))
    return tuple((first + [tuple(map(int, c)) for c in more])[:classes])


def reading(
    *,
    batch_size: int = 8,
    eval_batch_size: int = 0,
    threads: int = 2,
    cache_mb: int = 1024,
    crop: tuple[int, int] = (256, 256),
    foreground_crops: float = 0.33,
    **source: Any,
) -> dict[str, Any]:
    """The section `data`: what is cut from images here, what the loop reads, and in `source` the arguments of `make_source`.

    crop: height and width of what the network sees in training. foreground_crops: share of crops with a foreground pixel
    in the middle. eval_batch_size: 0 for batch_size. threads, cache_mb: of reading; may differ on resuming.
    """
    return locals()


def make_task(
    *, task: Mapping[str, Any], model: Mapping[str, Any], data: Mapping[str, Any], augment: Mapping[str, Any]
) -> Task:
    """The Task of a segmentation config. Raises InputError for keys, values and sizes that do not fit."""
    options = configs.call(segmentation, "task", task)
    net = configs.call(UNet, "model", model)
    known = tuple(inspect.signature(reading).parameters)
    data = reading(**data)
    source_options = sources.check_keys(data["source"], also=known)
    check_sizes(options, net, data)
    context = margin(data["crop"][0], net)
    kinds = {"classes": net.classes, "bands": net.bands}
    make_source = functools.cache(lambda split: sources.make_source(split, **kinds, **source_options))

    network = traced(
        net,
        options,
        augment,
        batch_size=data["batch_size"],
        crop=data["crop"],
        pixel_counts=lambda: sources.pixel_counts(make_source("train"), net.classes),
    )
    tiles = tile_settings(net, options)
    how = source_options.get("normalise", "image")
    return Task(
        **network,
        train_source=make_source,
        eval_source=lambda split: tiling.Tiles(make_source(split), **tiles),
        crop=functools.partial(
            random_crop,
            size=data["crop"],
            foreground=data["foreground_crops"],
            margin=context,
            background=options["background"],
        ),
        scores=lambda metrics: score(metrics, options),
        alarms=lambda metrics: alarms(metrics, options),
        check=lambda: sources.check(**kinds, **source_options, crop=tuple(side - 2 * context for side in data["crop"])),
        predict_array=lambda apply, x: tiling.predict_tiled(apply, normalise(as_image(x, net.bands), how), **tiles),
        predict_files=functools.partial(predict_files, options=options, bands=net.bands, normalise=how, tiles=tiles),
        scores_of_images=lambda apply, split: cell_scores(apply, make_source(split), options, tiles),
        picture=lambda run, split, metrics: pictures.sheet(
            samples_of(run.apply, metrics, make_source(split), options, tiles, count=3), options["colours"]
        ),
        pages=lambda run, split, metrics: report_pages(run, split, metrics, make_source(split), options, tiles),
    )


def check_sizes(
    options: Mapping[str, Any], net: UNet, data: Mapping[str, Any], named_in: str = "config.task.class_names"
) -> None:
    """Raises InputError for sides that the network cannot take, and numbers of classes that differ from those `named_in` a key."""
    if len(options["class_names"]) != net.classes:
        raise InputError(
            f"config.model.classes={net.classes}: {named_in} has {len(options['class_names'])} names; they must agree"
        )
    for key, side in [*(("data.crop", s) for s in data["crop"]), ("task.tile", options["tile"])]:
        try:
            output_size(side, net.depth, net.padding)
        except InputError as error:
            raise InputError(f"config.{key}={side}: {error}") from None
    if 2 * options["overlap"] >= options["tile"]:
        raise InputError(
            f"config.task.overlap={options['overlap']}: must be less than half of config.task.tile={options['tile']}"
        )


def score(metrics, options: Mapping[str, Any]) -> dict[str, float]:
    """Flat scores of merged metrics: loss, and what `unet.scores.scores` gives for the images' confusion matrices."""
    matrices = np.asarray(metrics["confusions"].matrix)
    table = scores.scores(matrices, list(options["class_names"]), known_background(options))
    table["calibration_error"] = metrics["calibration"].error()
    return {"loss": metrics["loss"].compute(), **table, "examples": float(len(metrics["confusions"].image))}


def cell_scores(apply, source, options: Mapping[str, Any], tiles: Mapping[str, int]) -> dict[str, float]:
    """`unet.scores.rand_fscore` of the split, where the config names the class of cells: it needs whole images."""
    cell = options["cells"]
    if cell < 0:
        return {}
    examples = [source[i] for i in range(len(source))]
    labels = np.stack([scores.cells(e["label"] == cell) for e in examples])
    interior = np.stack([tiling.predict_tiled(apply, e["image"], **tiles)[..., cell] for e in examples])
    return scores.rand_fscore(labels, interior)


def alarms(metrics, options: Mapping[str, Any]) -> list[str]:
    """A warning where one class is predicted everywhere."""
    found = scores.collapsed(np.asarray(metrics["confusions"].matrix).sum(0))
    if found is None:
        return []
    name = options["class_names"][found]
    return [
        f"every pixel is predicted as {name!r}. Usual causes: a learning rate that is too high, masks with wrong class indices "
        "(experiments.check_data), or one rare class (config.task.loss.name='cross_entropy+dice' or config.task.balance='median_frequency')"
    ]


def as_image(x, bands: int) -> np.ndarray:
    """x as [H, W, bands]. Raises InputError where it is not an image of that many bands."""
    x = np.asarray(x)
    x = x[..., None] if x.ndim == 2 else x
    if x.ndim != 3 or x.shape[-1] != bands:
        raise InputError(f"an image of shape {x.shape}: expected [height, width, {bands}]")
    return x


def predict_files(apply, paths, output, *, options, bands: int, normalise: str, tiles, probabilities: bool = False):
    """Segments files and folders of files into `output`; see `unet.predict.predict_files`."""
    return predict.predict_files(
        apply,
        paths,
        output,
        bands=bands,
        normalise=normalise,
        batch_size=1,
        class_names=options["class_names"],
        colours=options["colours"],
        probabilities=probabilities,
        **tiles,
    )


def samples_of(apply, metrics, source, options: Mapping[str, Any], tiles: Mapping[str, int], count: int):
    """`count` images from worst to best with their prediction, as `unet.pages` and `unet.pictures` take them."""
    images = metrics["confusions"].image
    dices = pages.foreground_dice(metrics["confusions"].matrix, known_background(options))
    samples = []
    for place, note in pages.choose_samples(dices, count):
        number = int(images[place])
        example = source[number]
        prediction = tiling.predict_tiled(apply, example["image"], **tiles).argmax(-1)
        facts = {"name": source.name(number), "dice": dices[place], "note": note}
        samples.append({**example, **facts, "prediction": prediction})
    return samples


def report_pages(run, split: str, metrics, source, options: Mapping[str, Any], tiles: Mapping[str, int]):
    """The report's own sections: classes, confusion, samples from worst to best, baselines where they were scored."""
    baselines = run.workdir / f"baselines-{split}.json"
    sections = pages.pages(
        metrics["confusions"].matrix,
        metrics["confusions"].image,
        samples_of(run.apply, metrics, source, options, tiles, count=6),
        options["class_names"],
        options["colours"],
        background=known_background(options),
        baselines=json.loads(baselines.read_text()) if baselines.exists() else None,
    )
    return [*sections, pages.reliability_section(metrics["calibration"])]


def known_background(options: Mapping[str, Any]) -> int | None:
    return options["background"] if options["background"] >= 0 else None
