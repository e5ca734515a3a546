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
    config.task.tile = 192
    config.model.classes = len(CLASSES)
    config.model.width = 16
    config.data.source = "brain"
    config.data.crop = [160, 160]
    config.data.foreground_crops = 0.0
    config.optimizer.learning_rate = 3e-3
    config.loop.duration = "350 steps"
    config.loop.eval = "50 steps"
    config.loop.save = "50 steps"
    config.loop.score_split = "test"
    return smoke(config) if "smoke" in names else config
