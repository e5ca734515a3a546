"""Made images: discs of each class on a noisy ground, from a seed. For smoke runs and tests; a small U-Net learns them in seconds."""

import numpy as np
from jaxtyping import Float32, Int32


class MadeSource:
    """`count` images of `size` with `bands` bands; example i is a function of (seed, i)."""

    def __init__(self, count: int, *, seed: int, size: tuple[int, int], classes: int, bands: int):
        self.count, self.seed, self.shape, self.classes, self.bands = count, seed, tuple(size), classes, bands

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Float32[np.ndarray, "h w c"] | Int32[np.ndarray, "h w"]]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, index))
        label = np.zeros(self.shape, np.int32)
        rows, columns = np.indices(self.shape)
        for number in range(3 * (self.classes - 1)):
            y, x = rng.uniform(0, self.shape[0]), rng.uniform(0, self.shape[1])
            radius = rng.uniform(0.08, 0.2) * min(self.shape)
            label[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = 1 + number % (self.classes - 1)
        levels = np.linspace(-1, 1, self.classes * self.bands).reshape(self.classes, self.bands)
        image = levels[label] + 0.3 * rng.normal(size=(*self.shape, self.bands))
        return {"image": image.astype(np.float32), "label": label}

    def size(self, index: int) -> tuple[int, int]:
        return self.shape

    def name(self, index: int) -> str:
        return f"made-{index:03d}"


def made_source(
    split: str, *, classes: int, bands: int, count: int = 16, size: tuple[int, int] = (64, 64)
) -> MadeSource:
    """The made images of a split; no image is in two splits."""
    seed = {"train": 0, "validation": 1, "test": 2}[split]
    return MadeSource(count, seed=seed, size=size, classes=classes, bands=bands)
