"""What the tests of scenes share: small GeoTIFFs, and a legend for them."""

import numpy as np
import pytest

from unet.landcover.legend import LandClass, make_legend

rasterio = pytest.importorskip("rasterio")
from rasterio.transform import Affine  # noqa: E402

UTM, PLACE = "EPSG:32612", Affine(30, 0, 301905, 0, -30, 4154085)
ABC = make_legend("abc", [LandClass(code, str(code), (code, 0, 0), str(code)) for code in (3, 5, 9)])
PLAIN = {"scaling": "given", "gain": (1,), "offset": (0,), "rgb": (0, 0, 0)}


def write(path, bands, *, crs=UTM, transform=PLACE, mask=None, **options):
    """A GeoTIFF of [C, H, W] or [H, W]."""
    bands = bands if bands.ndim == 3 else bands[None]
    shape = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
    options = {"driver": "GTiff", "crs": crs, "transform": transform, **shape, **options}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **options) as file:
        file.write(bands)
        if mask is not None:
            file.write_mask(mask)
    return path


def draw(seed, *shape, dtype=np.uint16, low=1, high=20000):
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)
