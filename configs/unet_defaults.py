"""What the U-Net configs share, each key with its meaning. A config file starts from here and changes what it must."""

import os

from ml_collections import ConfigDict

from configs.run_defaults import add_run


def defaults() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0

    config.task = ConfigDict()
    config.task.name = "segment"
    config.task.class_names = ["background", "foreground"]
    config.task.colours = []  # [[r, g, b], ...]; empty: colours that are told apart easily
    config.task.background = 0  # the class that foreground scores leave out; -1: none
    config.task.loss = ConfigDict(
        {"name": "cross_entropy+dice"}
    )  # and the other arguments of unet.losses.segmentation_loss
    config.task.balance = "none"  # class weights from the training masks: or "median_frequency", "effective_number"
    config.task.balance_beta = 0.9999  # of the effective number
    config.task.balance_cap = 0.0  # a class weighs so many times the lightest at most; 0: no limit
    config.task.tile = 256  # side of the one tile shape of evaluation and prediction
    config.task.overlap = 32  # context cut from the inner edges of a tile
    config.task.cells = -1  # the class whose connected regions are cells, scored by the Rand F-score; -1: none
    config.task.average = "none"  # or "flips", "turns": averaged over at evaluation and prediction

    config.model = ConfigDict()  # the fields of unet.model.UNet
    config.model.classes = 2
    config.model.bands = 1
    config.model.width = 32
    config.model.depth = 4
    config.model.padding = "same"
    config.model.norm = "batch"
    config.model.dropout = 0.0
    config.model.up = "conv"
    config.model.remat = False  # less memory, about a third more time
    config.model.dtype = "float32"  # "bfloat16" computes in it; parameters, statistics and losses stay float32

    config.data = ConfigDict()
    config.data.root = os.environ.get("DATA_ROOT", "data")
    config.data.batch_size = 8
    config.data.eval_batch_size = 0  # 0: batch_size
    config.data.crop = [256, 256]  # what the network sees in training
    config.data.foreground_crops = 0.33  # share of crops with a foreground pixel in the middle
    config.data.threads = 2
    config.data.cache_mb = 1024  # decoded images kept in memory

    config.augment = ConfigDict()  # the arguments of unet.augment.augment
    config.augment.flip = False  # up-down and left-right: where no direction is up
    config.augment.flip_horizontal = True  # left-right alone: photographs, scans
    config.augment.turn = False
    config.augment.rotate = 0.0
    config.augment.scale = 0.0
    config.augment.shift = 0.0
    config.augment.elastic = 0.0
    config.augment.brightness = 0.0
    config.augment.contrast = 0.0
    config.augment.gamma = 0.0
    config.augment.noise = 0.0
    config.augment.blur = 0.0
    config.augment.probability = 1.0  # that an example gets each of the options from rotate on

    config.optimizer = ConfigDict()  # the arguments of common.optimizer.make_optimizer
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "5%"
    config.optimizer.clip = 1.0
    config.optimizer.weight_decay = 1e-4
    config.optimizer.ema = 0.0
    config.optimizer.accumulate = 1

    add_run(config)
    config.loop.duration = "50 epochs"
    config.loop.score_split = "validation"
    config.loop.best = "max dice/foreground"
    return config


def smoke(config: ConfigDict) -> ConfigDict:
    """The same experiment in seconds on any machine: made images, a tiny net, a few steps."""
    own = ("root", "batch_size", "eval_batch_size", "crop", "foreground_crops", "threads", "cache_mb")
    config.data = ConfigDict({name: config.data[name] for name in own})
    config.data.source = "made"
    config.data.batch_size = 8
    config.data.crop = [64, 64]
    config.task.tile = 64
    config.task.overlap = 16
    config.model.width = 8
    config.model.depth = 2
    config.loop.duration = "40 steps"
    config.loop.eval = "20 steps"
    config.loop.save = "20 steps"
    return config
