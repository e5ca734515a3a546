"""The Slovenian patch that comes as arrays: Sentinel-2 L1C, 13 bands on five dates, and its land use."""

import json
from pathlib import Path

import numpy as np

from common.errors import InputError
from unet.landcover.geo import rasterio
from unet.landcover.legend import SLOVENIA
from unet.landcover.scene import Scene, array_scene

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
ROLES = {"green": 2, "red": 3, "nir": 7, "swir": 11}


def slovenia_scenes(folder: Path, *, dates: tuple[int, ...] = (2, 3, 4), indices: tuple[str, ...] = ()) -> list[Scene]:
    """A scene of each date (0 and 1 are hazy or cloudy). Raises InputError where a file is missing."""
    files = [folder / name for name in ("reference_scenes.npz", "LULC.npy", "bbox.geojson")]
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: no such file; set config.data.root to the folder that holds {folder.name}/")
    with np.load(files[0], allow_pickle=False) as arrays:
        images = arrays["bands"]
    codes = np.load(files[1], allow_pickle=False)[..., 0]
    labels = SLOVENIA.to_index(codes, nodata=0, where=str(files[1]))
    ring = np.array(json.loads(files[2].read_text())["coordinates"]).reshape(-1, 2)
    height, width = labels.shape
    transform = rasterio().transform.from_bounds(*ring.min(0), *ring.max(0), width, height)
    scaled = {"scaling": "percentiles", "indices": indices, "roles": ROLES, "rgb": (3, 2, 1), "band_names": BANDS}
    return [
        array_scene(f"date-{date}", images[date], labels, crs="EPSG:32633", transform=transform, **scaled)
        for date in dates
    ]
