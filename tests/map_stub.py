"""Predicts the map of a made scene slowly, in a process of its own, so that a test can kill it: OUTPUT BLEND SECONDS."""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

from experiments import launch  # noqa: F401  sets the compilation cache before jax is imported

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
from affine import Affine
from rasterio.crs import CRS

from unet.landcover.legend import ZION8
from unet.landcover.map import predict_map
from unet.tiling import read_tile

HEIGHT, WIDTH, TILE = 300, 70, 32


@dataclasses.dataclass
class Scene:
    """What a map needs of a scene, of arrays."""

    image: np.ndarray
    valid: np.ndarray
    name: str = "made"
    bands: int = 2
    crs: Any = CRS.from_epsg(32612)
    transform: Any = Affine(30, 0, 300000, 0, -30, 4100000)

    @property
    def height(self):
        return len(self.image)

    @property
    def width(self):
        return self.image.shape[1]

    def read(self, row, col, height, width):
        image, valid = (read_tile(x, row, col, height, width) for x in (self.image, self.valid))
        return np.where(valid[..., None], image, np.float32(0)), valid


def scene(height=HEIGHT, width=WIDTH, seed=0, holes=True):
    """Two bands of noise, with holes."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(height, width, 2)).astype(np.float32)
    valid = np.ones((height, width), bool)
    if holes:
        valid = rng.random((height, width)) > 0.02
        valid[:40, : width // 2] = False
    return Scene(image, valid)


@jax.jit
def model(x):
    """'Same': eight classes by the mean of what is near."""
    kernel = jnp.asarray(np.random.default_rng(1).normal(size=(5, 5, 2, 8)), jnp.float32)
    return jax.nn.softmax(
        jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    )


def main(output, blend, seconds):
    def slow(x):
        time.sleep(float(seconds))
        return model(x)

    settings = {
        "tile": TILE,
        "out": TILE,
        "overlap": 4,
        "align": 1,
        "batch_size": 2,
        "blend": blend,
        "confidence": True,
    }
    predict_map(slow, scene(), Path(output), ZION8, **settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
