"""What scores without a network: a table from intensity to class, and gradient boosting on blurred features.

Both are fitted to pixels of the same training source and scored on the same held-out source as the network. They show
how much of a score is intensity and local texture.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Float32, Int
from scipy import ndimage
from sklearn.ensemble import HistGradientBoostingClassifier

from common.task import Source
from unet.images import IGNORE
from unet.scores import confusion, scores

SIGMAS = (1.0, 2.0, 4.0, 8.0, 16.0)


def standardise(image: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w c"]:
    """Zero mean and unit deviation per band: a table of absolute intensities would be beaten by the scanner's gain."""
    return (image - image.mean((0, 1))) / np.maximum(image.std((0, 1)), 1e-6)


def pixel_features(image: Float[np.ndarray, "h w c"]) -> Float32[np.ndarray, "h w f"]:
    """Per band: intensity, rank of the intensity in its image, and at each scale the mean, the deviation, the size of
    the gradient, and the Laplacian."""
    features = []
    for band in np.moveaxis(standardise(image), -1, 0):
        rank = np.searchsorted(np.sort(band, axis=None), band) / band.size
        features += [band, rank]
        for sigma in SIGMAS:
            mean = ndimage.gaussian_filter(band, sigma)
            square = ndimage.gaussian_filter(band * band, sigma)
            dy, dx = np.gradient(mean)
            features += [mean, np.sqrt(np.maximum(square - mean * mean, 0)), np.hypot(dy, dx), ndimage.laplace(mean)]
    return np.stack(features, -1).astype(np.float32)


def intensity(image: Float[np.ndarray, "h w c"]) -> Float32[np.ndarray, "h w c"]:
    return standardise(image).astype(np.float32)


def sample(
    source: Source, features: Callable, *, images: int, pixels: int, rng: np.random.Generator
) -> tuple[Float32[np.ndarray, "n f"], Int[np.ndarray, " n"]]:
    """Features and classes of `pixels` labelled pixels in each of `images` images spread over the source."""
    xs, ys = [], []
    for index in np.linspace(0, len(source) - 1, min(images, len(source))).astype(int):
        example = source[int(index)]
        label = example["label"].reshape(-1)
        known = np.flatnonzero(label != IGNORE)
        chosen = rng.choice(known, min(pixels, len(known)), replace=False)
        values = features(example["image"])
        xs.append(values.reshape(-1, values.shape[-1])[chosen])
        ys.append(label[chosen])
    return np.concatenate(xs), np.concatenate(ys)


def fit_table(x: Float32[np.ndarray, "n f"], y: Int[np.ndarray, " n"], bins: int = 256) -> Callable:
    """The most frequent class per bin of intensity (first band), bins holding equal numbers of pixels."""
    edges = np.unique(np.quantile(x[:, 0], np.linspace(0, 1, bins + 1)[1:-1]))
    edges = edges[edges < x[:, 0].max()]  # no bin without pixels at the end
    counts = np.zeros((len(edges) + 1, int(y.max()) + 1))
    np.add.at(counts, (np.searchsorted(edges, x[:, 0]), y), 1)
    table = counts.argmax(1)
    return lambda values: table[np.searchsorted(edges, values[:, 0])]


def fit_boosting(x: Float32[np.ndarray, "n f"], y: Int[np.ndarray, " n"], rounds: int, seed: int) -> Callable:
    model = HistGradientBoostingClassifier(
        max_iter=rounds, learning_rate=0.15, max_leaf_nodes=63, min_samples_leaf=40, random_state=seed
    )
    return model.fit(x, y).predict


def score(source: Source, features: Callable, predict: Callable, class_names: Sequence[str]) -> dict[str, float]:
    """`unet.scores.scores` of the whole source, as for the network."""
    matrices = []
    for index in range(len(source)):
        example = source[index]
        values = features(example["image"])
        label = example["label"].reshape(-1)
        predicted = predict(values.reshape(-1, values.shape[-1])).astype(np.int64)
        known = label != IGNORE
        matrices.append(confusion(label[known], predicted[known], len(class_names)))
    return scores(np.stack(matrices), list(class_names))


def baselines(
    train: Source,
    held_out: Source,
    *,
    class_names: Sequence[str],
    images: int = 128,
    pixels: int = 1000,
    rounds: int = 60,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """{'intensity table': scores, 'gradient boosting': scores} on `held_out`, both fitted to `train`; deterministic."""
    rng = np.random.default_rng(seed)
    table = fit_table(*sample(train, intensity, images=images, pixels=4 * pixels, rng=rng))
    boosting = fit_boosting(*sample(train, pixel_features, images=images, pixels=pixels, rng=rng), rounds, seed)
    return {
        "intensity table": score(held_out, intensity, table, class_names),
        "gradient boosting": score(held_out, pixel_features, boosting, class_names),
    }
