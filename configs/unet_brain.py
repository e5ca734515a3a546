"""Brain tissue on real slices that come with nilearn: background, grey matter, white matter, other. The demo.

    python -m experiments.train --config configs/unet_brain.py --workdir runs/brain

Needs no download. The slices are of one averaged brain (ICBM 152), each with a contrast curve, bias field and noise of
its own; blocks of slices are held out with a guard between. docs/brain.md says what the scores mean.
"""

from common.config import variants
from configs.unet_defaults import defaults, smoke
from unet.brain import CLASSES, COLOURS


def get_config(variant: str = ""):
    names = variants(variant, {"smoke"})
    config = defaults()
    config.task.class_names = list(CLASSES)
    config.task.colours = [list(c) for c in COLOURS]
    config.task.tile = 96
    config.task.overlap = 0
    config.model.classes = len(CLASSES)
    config.model.width = 16
    config.data.source = "brain"
    config.data.downsample = 2  # 96 x 80 pixels of 2 mm; 1: 192 x 160 of 1 mm
    config.data.noise = [0.015, 0.04]  # standard deviation, in shares of the brightest tissue
    config.data.bias = 0.3
    config.data.crop = [96, 80]
    config.data.foreground_crops = 0.0
    config.data.batch_size = 8
    config.augment.rotate = 8.0
    config.augment.scale = 0.1
    config.augment.probability = 0.5
    config.optimizer.learning_rate = 4e-3
    config.optimizer.weight_decay = 1e-2
    config.loop.duration = "950 steps"
    config.loop.eval = "10%"
    config.loop.save = "10%"
    config.loop.score_split = "test"
    return smoke(config) if "smoke" in names else config
