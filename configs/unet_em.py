"""Neuron membranes in electron microscopy, ISBI 2012: train on slices 0-23, validate on 24-29 (neighbouring slices leak).

    DATA_ROOT=... python -m experiments.train --config configs/unet_em.py --workdir runs/em

`:cpu` is the budget of 40 minutes on 2 cores that experiments/results/unet_em.json records; without it, a GPU's.
The challenge's own test labels are secret: these scores do not stand beside its leaderboard.
"""

from common.config import variants
from configs.unet_defaults import defaults, smoke


def get_config(variant: str = ""):
    names = variants(variant, {"smoke", "cpu"})
    config = defaults()
    config.task.class_names = ["membrane", "cell"]
    config.task.colours = [[20, 20, 20], [235, 235, 235]]
    config.task.background = -1
    config.task.cells = 1
    config.task.tile = 512
    config.task.overlap = 64
    config.task.loss.name = "cross_entropy"
    config.model.width = 32
    config.model.dropout = 0.2
    config.data.source = "folder"
    config.data.folder = "isbi2012-em/train"
    config.data.images = "image"
    config.data.masks = "label"
    config.data.mask_values = "binary"
    config.data.split_by = "block"
    config.data.blocks = {"train": [0, 24], "validation": [24, 30]}
    config.data.batch_size = 4
    config.data.eval_batch_size = 1
    config.data.foreground_crops = 0.0
    config.augment.flip = True
    config.augment.turn = True
    config.augment.rotate = 15.0
    config.augment.scale = 0.15
    config.augment.elastic = 10.0
    config.augment.brightness = 0.2
    config.augment.contrast = 0.2
    config.augment.gamma = 0.2
    config.optimizer.ema = 0.99
    config.loop.duration = "20000 steps"
    config.loop.best = "min loss"
    if "cpu" in names:
        config.data.batch_size = 2
        config.model.width = 24
        config.loop.duration = "1500 steps"
    return smoke(config) if "smoke" in names else config
