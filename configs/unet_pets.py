"""Oxford-IIIT Pet: pet, background, border, 3,680 + 3,669 photographs, read through TFDS's array_record (no TensorFlow).

    python -m experiments.train --config configs/unet_pets.py --workdir runs/pets

Downloads the set to config.data.root on first use (0.8 GB), or uses the one that TFDS has prepared there. Made for one
GPU; `:smoke` needs neither. Not yet measured: no number of it stands in the README.
"""

from common.config import variants
from configs.unet_defaults import defaults, smoke


def get_config(variant: str = ""):
    names = variants(variant, {"smoke"})
    config = defaults()
    config.task.class_names = ["pet", "background", "border"]
    config.task.colours = [[230, 159, 0], [0, 0, 0], [255, 255, 255]]
    config.task.background = 1
    config.task.loss.name = "cross_entropy"
    config.task.tile = 128
    config.task.overlap = 0
    config.model.classes = 3
    config.model.bands = 3
    config.data.source = "tfds:oxford_iiit_pet"
    config.data.image_key = "image"
    config.data.mask_key = "segmentation_mask"
    config.data.mask_offset = 1  # its masks are 1, 2, 3
    config.data.resize = [128, 128]
    config.data.normalise = "range"
    config.data.splits = {"train": "train[:90%]", "validation": "train[90%:]", "test": "test"}
    config.data.crop = [128, 128]
    config.data.batch_size = 32
    config.data.foreground_crops = 0.0
    config.augment.rotate = 15.0
    config.augment.scale = 0.2
    config.augment.brightness = 0.1
    config.augment.contrast = 0.1
    config.loop.duration = "40 epochs"
    config.loop.score_split = "test"
    return smoke(config) if "smoke" in names else config
