"""Land cover from satellite scenes: a map, up to date, from a scene and an older land-cover product.

    python -m experiments.train   --config configs/unet_land_cover.py --workdir runs/zion
    python -m experiments.predict --workdir runs/zion --input path/to/scene --output maps --confidence

Without a variant: Landsat 8 over Zion with the eight classes of nlcd.tif. `:nlcd` the 14 codes of NLCD 2011 that occur there,
`:slovenia` the Sentinel-2 patch. Your own scenes: docs/landcover.md.
"""

from common.config import variants
from configs.unet_defaults import defaults

ZION_CODES = [11, 21, 22, 23, 31, 41, 42, 43, 52, 71, 81, 82, 90, 95]


def get_config(variant: str = ""):
    names = variants(variant, {"nlcd", "slovenia", "smoke"})
    config = defaults()
    config.task.name = "land_cover"
    for key in ("class_names", "colours", "background", "cells"):
        del config.task[key]  # the legend has them, or they are of other tasks
    config.task.legend = "zion8"  # or "nlcd", "nlcd_conus", "slovenia", or a CSV file: code, name, colour, group
    config.task.codes = []  # those of the legend that occur; empty: all
    config.task.blend = "cut"  # how a map's tiles are joined; or "gaussian"
    config.task.loss = {"name": "cross_entropy"}
    config.task.average = "flips"
    config.task.balance = "effective_number"
    config.task.balance_cap = 5.0
    # A map is made of tiles as large as a crop: on larger ones the net, which knows edges everywhere, agrees less (docs/landcover.md).
    config.task.tile = 32
    config.task.overlap = 8
    config.model.classes = 8
    config.model.bands = 6  # with the indices
    config.model.width = 24
    config.model.depth = 3
    config.model.dropout = 0.3
    config.model.dtype = "bfloat16"
    add_scenes(config.data)
    config.augment.flip = True
    config.augment.turn = True
    config.augment.flip_horizontal = False
    config.augment.brightness = 0.0  # one scene of one date: how bright a pixel is tells. With several, 0.1
    config.augment.contrast = 0.0
    config.augment.noise = 0.02
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 1e-2
    config.optimizer.ema = 0.995
    config.loop.duration = "1500 steps"
    config.loop.eval = "10%"
    config.loop.save = "10%"
    config.loop.score_split = "test"
    config.loop.best = "max f1/macro"
    if "nlcd" in names:
        config.task.legend = "nlcd"
        config.task.codes = ZION_CODES
        config.model.classes = len(ZION_CODES)
        config.data.labels = "nlcd2011.tif"
    if "slovenia" in names:
        slovenia(config)
    return smoke(config) if "smoke" in names else config


def add_scenes(data) -> None:
    """Where the scenes are, how they are read, and how they are split."""
    del data.foreground_crops
    data.source = "scenes"
    data.scenes = ["landsat8-nlcd-zion"]  # folders below root, one for each scene or date
    data.image = ["landsat_b2.tif", "landsat_b3.tif", "landsat_b4.tif", "landsat_b5.tif"]  # names or patterns
    data.labels = "nlcd.tif"
    data.quality = ""  # a file of QA_PIXEL or SCL
    data.quality_kind = "landsat"  # or "sentinel2"
    data.scaling = "percentiles"  # or "given", "reflectance", with gain and offset for each band
    data.gain = []
    data.offset = []
    data.indices = ["ndvi", "ndwi"]  # bands on top; "ndbi" with a swir band
    data.roles = {"green": 1, "red": 2, "nir": 3}  # band numbers
    data.rgb = [2, 1, 0]
    data.ignore = []  # codes that do not count
    data.block = 143  # px a side, of the blocks of the split
    data.guard = 33  # px about held-out blocks that nobody sees; wider than the crop
    data.fractions = {"validation": 0.1, "test": 0.2}
    data.split_seed = 18  # the first (but 0) that leaves 100 px of each of the 8 classes in every part
    data.crop = [32, 32]
    data.rare_crops = 0.4  # share of crops about a pixel of a class that is drawn first
    data.batch_size = 64
    data.eval_batch_size = 256


def slovenia(config) -> None:
    """13 bands, five classes, three clear dates of a patch of 101 x 100 px: a demonstration, too small to measure with."""
    config.task.legend = "slovenia"
    config.task.tile = 64
    config.task.overlap = 16
    config.model.classes = 5
    config.model.bands = 15
    config.model.depth = 2
    config.data.source = "slovenia"
    config.data.dates = [2, 3, 4]
    config.data.block = 20
    config.data.guard = 17
    config.data.crop = [16, 16]
    config.data.eval_batch_size = 8
    config.augment.brightness = 0.1
    config.augment.contrast = 0.1
    config.data.split_seed = 0


def smoke(config):
    """The same in seconds on any machine: a made scene, a tiny net, a few steps."""
    config.task.legend = "nlcd"
    config.task.codes = []
    config.task.tile = 64
    config.task.overlap = 16
    config.model.classes = 20
    config.model.bands = 8
    config.model.width = 8
    config.model.depth = 2
    config.model.dtype = "float32"
    config.data.source = "made"
    config.data.size = [256, 256]
    config.data.block = 64
    config.data.guard = 33
    config.data.crop = [32, 32]
    config.data.batch_size = 16
    config.data.eval_batch_size = 8
    config.data.roles = {"green": 1, "red": 2, "nir": 3, "swir": 4}
    config.loop.duration = "20 steps"
    config.loop.eval = "10 steps"
    config.loop.save = "10 steps"
    return config
