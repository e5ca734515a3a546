"""Land cover from satellite scenes, as a Task: that of segmentation, with scenes for images, a legend for classes, and maps for files."""

import functools
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common import config as configs
from common.errors import InputError
from common.task import Task
from unet import task as segmentation
from unet.landcover import map as maps
from unet.landcover import pages
from unet.landcover.blocks import COLOURS, NAMES, Blocks
from unet.landcover.geo import rasterio
from unet.landcover.legend import NODATA, Legend, read_legend
from unet.landcover.made import made_scene
from unet.landcover.pictures import index_picture, stretched
from unet.landcover.scene import Scene, array_scene, open_scene
from unet.landcover.slovenia import slovenia_scenes
from unet.landcover.sources import Crops, Tiles
from unet.model import UNet
from unet.pages import reliability_section, scores_table
from unet.tiling import predict_tiled
from unet.traced import tile_settings, traced

FILES = ("image", "labels", "quality", "quality_kind", "ignore", "rgb", "roles", "indices")
FILES += ("scaling", "gain", "offset", "percentiles")  # of open_scene, what a config may say
LARGEST, SIDE = 2048, 600  # px a side, at most, of what a report predicts of a scene, and of its pictures


def land_cover(*, legend: str = "nlcd_conus", codes: tuple[int, ...] = (), blend: str = "cut") -> dict[str, Any]:
    """What the section `task` has beside the keys of `unet.task.segmentation` (without class_names, colours and background).

    legend: a name of `unet.landcover.legend`, or a CSV file below config.data.root. codes: those of it that occur; empty for all.
    blend: of a map's tiles, 'cut' or 'gaussian'.
    """
    return locals()


def reading(
    *,
    root: str = "data",
    source: str = "scenes",
    scenes: tuple[str, ...] = (),
    dates: tuple[int, ...] = (2, 3, 4),
    size: tuple[int, int] = (512, 512),
    block: int = 512,
    guard: int = 0,
    fractions: Mapping[str, float] | None = None,
    split_seed: int = 0,
    rare_crops: float = 0.33,
    crop: tuple[int, int] = (256, 256),
    batch_size: int = 8,
    eval_batch_size: int = 0,
    threads: int = 2,
    cache_mb: int = 1024,
    **files: Any,
) -> dict[str, Any]:
    """The section `data`. source: 'scenes', folders below `root`, 'slovenia' or 'made'. `files`: how they are read, the arguments of
    `unet.landcover.scene.open_scene`.

    block, guard, fractions, split_seed: `unet.landcover.blocks.Blocks`; guard 0: one pixel more than the crop.
    crop: height and width of what the network sees in training. rare_crops: share of crops about a pixel of a class that is drawn
    first. dates: of 'slovenia'; size: of the 'made' scene. batch_size, eval_batch_size, threads, cache_mb: as in `unet.task.reading`.
    """
    given = locals()
    for key in files:
        if key not in FILES:
            near = configs.nearest(key, [*FILES, *(name for name in given if name != "files")])
            raise InputError(f"config.data.{key}: no such key of land cover; {near}")
    split = {"block": block, "guard": guard or max(crop) + 1, "fractions": fractions or {}, "seed": split_seed}
    if split["guard"] < max(crop):
        raise InputError(
            f"config.data.guard={guard}: narrower than the crop of {max(crop)} px, which could then reach into held-out blocks"
        )
    return {**given, "split": split}


def make_task(
    *, task: Mapping[str, Any], model: Mapping[str, Any], data: Mapping[str, Any], augment: Mapping[str, Any]
) -> Task:
    """The Task of a land-cover config. Raises InputError for keys, values and sizes that do not fit."""
    mine, read, legend = settings(task, data)
    shared = {key: value for key, value in task.items() if key not in mine}
    shared |= {"class_names": legend.names, "colours": legend.colours, "background": -1}
    options = configs.call(segmentation.segmentation, "task", shared)
    net = configs.call(UNet, "model", model)
    segmentation.check_sizes(options, net, read, named_in="config.task.legend (of it, config.task.codes)")
    tiles = tile_settings(net, options)
    crops = functools.cache(lambda: training_crops(read, legend, net.bands))
    # Which tiles hold a part is looked up pixel by pixel: once, not at each evaluation.
    held_out = functools.cache(lambda split: Tiles(crops().scenes, crops().blocks, split, **tiles))
    network = traced(
        net,
        options,
        augment,
        batch_size=read["batch_size"],
        crop=read["crop"],
        pixel_counts=lambda: crops().survey.counts,
    )

    def predict_files(apply, paths, output, *, probabilities=False, confidence=False, shard=(1, 1), sieve=0, model=""):
        """A map of each scene of `paths` (files, or folders of bands) in `output`: `unet.landcover.map.predict_map`.

        A map that was begun goes on with the same `model` (what it is called) and the same files alone.
        """
        how = {"probabilities": probabilities, "confidence": confidence, "shard": shard, "sieve": sieve}
        scenes = {}
        for path in paths:  # all of them before the first one's map, which may take hours
            scene = open_scene(path, **{**read["files"], "labels": ""})
            check_bands(scene, net.bands, f"--input {path}: give those that the run was trained on")
            if scene.name in scenes:
                raise InputError(f"--input {path}: would become {scene.name}.tif, as another one does; rename it")
            scenes[scene.name] = scene
        written = []
        for scene in scenes.values():
            made_of = {"model": model, "files": scene.pixels.facts()}
            written += maps.predict_map(
                apply, scene, Path(output), legend, blend=mine["blend"], made_of=made_of, **tiles, **how
            )
        return written

    return Task(
        **network,
        train_source=lambda split: crops() if split == "train" else held_out(split),
        eval_source=held_out,
        crop=lambda example, rng: crops().draw(example, rng),
        scores=lambda metrics: as_agreement(segmentation.score(metrics, options)),
        alarms=lambda metrics: segmentation.alarms(metrics, options),
        check=lambda: findings(crops),
        predict_array=lambda apply, x: predict_tiled(apply, segmentation.as_image(x, net.bands), **tiles),
        predict_files=predict_files,
        picture=lambda run, split, metrics: picture(run.apply, crops().scenes[0], legend, tiles),
        pages=lambda run, split, metrics: report_pages(run, split, metrics, crops(), legend, tiles),
    )


def settings(task: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], Legend]:
    """What `land_cover` and `reading` make of the sections, and the legend."""
    own = inspect.signature(land_cover).parameters
    mine = configs.call(land_cover, "task", {key: value for key, value in task.items() if key in own})
    read = reading(**data)
    legend = read_legend(mine["legend"], read["root"])
    return mine, read, legend.only(mine["codes"]) if mine["codes"] else legend


def crops_of(config_sections: Mapping[str, Mapping[str, Any]]) -> tuple[Crops, Legend]:
    """Scenes, split and legend of a config's sections `task`, `model` and `data`, without a network."""
    _, read, legend = settings(config_sections["task"], config_sections["data"])
    return training_crops(read, legend, config_sections["model"]["bands"]), legend


def open_scenes(read: Mapping[str, Any], legend: Legend) -> list[Scene]:
    root = Path(read["root"])
    if read["source"] == "slovenia":
        indices = read["files"].get("indices", ())
        return slovenia_scenes(root / "sentinel2-lulc-slovenia", dates=read["dates"], indices=indices)
    if read["source"] == "made":
        image, codes = made_scene(0, *read["size"])
        how = {key: read["files"][key] for key in ("scaling", "indices", "roles", "rgb") if key in read["files"]}
        place = {"crs": "EPSG:32612", "transform": rasterio().transform.from_origin(3e5, 4.2e6, 30, 30)}
        return [array_scene("made", image, legend.to_index(codes), **place, **how)]
    if read["source"] != "scenes":
        raise InputError(f"config.data.source={read['source']!r}: use 'scenes', 'slovenia' or 'made'")
    if not read["scenes"]:
        raise InputError("config.data.scenes=[]: name the folders of the scenes, below config.data.root")
    return [open_scene(root / name, legend=legend, **read["files"]) for name in read["scenes"]]


def training_crops(read: Mapping[str, Any], legend: Legend, bands: int) -> Crops:
    """The scenes, their split, and what is drawn from them."""
    scenes = open_scenes(read, legend)
    for scene in scenes:
        check_bands(scene, bands, "set config.model.bands")
        if not scene.labelled:
            raise InputError(f"{scene.name}: has no labels; set config.data.labels to their file")
    blocks = Blocks(scenes, **read["split"])
    return Crops(scenes, blocks, size=read["crop"], rare=read["rare_crops"], classes=len(legend.classes))


def check_bands(scene: Scene, bands: int, cure: str) -> None:
    if scene.bands != bands:
        names = ", ".join(scene.band_names)
        raise InputError(f"{scene.name}: {scene.bands} bands ({names}), expected {bands}; {cure}")


def findings(crops) -> list[str]:
    """What is wrong with the data: scenes that do not open or fit, labels of the training part that are in no legend."""
    try:
        if not len(crops()):
            return [
                "config.data.guard: no pixel is left for training; use larger blocks, fewer held out, or smaller crops"
            ]
        crops().survey  # noqa: B018  reads the labels
    except InputError as error:
        return [str(error)]
    return []


def as_agreement(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores of a segmentation. The labels are a map too: what is called accuracy elsewhere is agreement with it. There is no
    background, so a mean over the foreground would be that over all classes by another name."""
    names = {name: "agreement" if name == "accuracy" else name for name in scores if not name.endswith("/foreground")}
    return {names[name]: value for name, value in scores.items() if name in names}


def seen(apply, scene: Scene, tiles: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(true colour, labels, prediction) of a scene, at most SIDE px a side: all of it, or its middle where it is large."""
    height, width = (min(side, LARGEST) for side in (scene.height, scene.width))
    top, left = (scene.height - height) // 2, (scene.width - width) // 2
    image, valid = scene.read(top, left, height, width)
    labels = scene.read_labels(top, left, height, width, valid)
    predicted = predict_tiled(apply, image, **tiles).argmax(-1).astype(np.uint8)
    predicted = np.where(valid, predicted, np.uint8(NODATA))
    step = max(1, -(-max(height, width) // SIDE))
    coloured = stretched(image[..., list(scene.rgb_bands)], valid)
    return tuple(np.ascontiguousarray(x[::step, ::step]) for x in (coloured, labels, predicted))


def picture(apply, scene: Scene, legend: Legend, tiles: Mapping[str, int]) -> np.ndarray:
    """True colour, original labels and predicted labels of a scene, side by side."""
    coloured, labels, predicted = seen(apply, scene, tiles)
    gap = np.full((len(coloured), 6, 3), 255, np.uint8)
    maps = [np.asarray(index_picture(index, legend.colours).convert("RGB")) for index in (labels, predicted)]
    return np.concatenate([coloured, gap, maps[0], gap, maps[1]], 1)


def report_pages(run, split: str, metrics, crops: Crops, legend: Legend, tiles: Mapping[str, int]) -> list:
    """The report's own sections: baselines where they were scored, agreement of the split, the scenes, and their split."""
    baselines = run.workdir / f"baselines-{split}.json"
    sections = [("Baselines", scores_table(json.loads(baselines.read_text())))] if baselines.exists() else []
    sections += pages.agreement_sections(np.asarray(metrics["confusions"].matrix).sum(0), legend, title=split)
    sections.append(reliability_section(metrics["calibration"], f"agreement with {pages.reference(legend)}"))
    for number, scene in enumerate(crops.scenes[:4]):
        own = [pages.picture_section(*seen(run.apply, scene, tiles), legend)]
        own.append(pages.split_section(scene.rgb(SIDE), crops.blocks.map(number, SIDE), NAMES, COLOURS))
        name = scene.name if len(crops.scenes) > 1 else ""
        sections += [(pages.named(title, name), text) for title, text in own]
    return sections
