"""Your own images and masks: `images/` and `masks/` under config.data.root, a mask with the name of its image.

    python -m experiments.train --config configs/unet_folder.py --workdir runs/mine --config.data.root /path/to/my/data \
        --config.model.bands 3 --config.model.classes 2 --config.data.mask_values binary

PNG, JPEG, TIFF (many bands, 16 bit) and NPY. docs/segmentation.md has every key; experiments.check_data says what is wrong
with the data before anything is trained. `:tfds` reads what experiments.prepare has made of them.
"""

from common.config import variants
from configs.unet_defaults import defaults, smoke


def get_config(variant: str = ""):
    names = variants(variant, {"smoke", "tfds"})
    config = defaults()
    config.model.bands = 3
    config.data.normalise = "image"  # zero mean, unit deviation per image and band; or "range", "none"
    if "tfds" in names:
        config.data.source = "tfds:my_set"
        config.data.splits = {"train": "train", "validation": "validation", "test": "test"}
    else:
        from_files(config)
    config.augment.rotate = 15.0
    config.augment.scale = 0.2
    config.augment.brightness = 0.1
    config.augment.contrast = 0.1
    config.loop.duration = "100 epochs"
    config.loop.score_split = "test"
    return smoke(config) if "smoke" in names else config


def from_files(config) -> None:
    config.data.source = "folder"
    config.data.folder = ""  # below root
    config.data.images = "images"
    config.data.masks = "masks"
    config.data.mask_suffix = ""  # image a.png, mask a_mask.png: "_mask"
    config.data.mask_values = "index"  # 0, 1, 2, ...; or "binary" (0 and 255), or "colours" (with mask_colours)
    config.data.mask_colours = []  # [[r, g, b], ...], one for each class
    config.data.split_by = "fraction"  # or "folder" (root/train/images ...), "list" (root/train.txt ...), "block"
    config.data.fractions = {"train": 0.7, "validation": 0.15, "test": 0.15}
