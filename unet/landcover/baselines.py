"""What maps land cover without a network: the commonest class, and trees on the bands of a pixel, or of squares about it.

All are fitted to pixels of the same training blocks as the network and scored on the same held-out blocks; what their settings are
is chosen by macro F1 on the validation part, as the network's checkpoint is. Each kind of tree stands there plain, which favours
overall agreement, and with balanced classes (up to a limit), which favours the rare ones.
"""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from scipy import ndimage
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

from common.errors import InputError
from unet import scores as scoring
from unet.images import IGNORE
from unet.landcover.blocks import PARTS
from unet.landcover.sources import Crops, all_windows, part_labels, spread_windows
from unet.losses import balanced_weights

SQUARES = (5, 15, 45)  # px a side, about a pixel
PIXELS = 400_000  # at most, of training, that trees are fitted to, and of validation, that settings are chosen on
CAP = 10.0
FORESTS = {f"leaves of {n}": {"n_estimators": 100, "min_samples_leaf": n} for n in (1, 5, 20)}
BOOSTINGS = {
    f"{n} rounds, {k} leaves": {"max_iter": n, "max_leaf_nodes": k} for n, k in ((50, 31), (150, 31), (150, 8))
}


class Pixels(NamedTuple):
    """Values and class indices of single pixels."""

    values: Float32[np.ndarray, "n f"]
    classes: Int64[np.ndarray, " n"]


def baselines(
    crops: Crops,
    split: str,
    class_names: tuple[str, ...],
    *,
    pixels: int = PIXELS,
    forests: Mapping[str, Mapping[str, Any]] = FORESTS,
    boostings: Mapping[str, Mapping[str, Any]] = BOOSTINGS,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """{method: `unet.scores.scores`} of a split of the scenes; the name of a method says which settings were chosen. Deterministic.

    Raises InputError for an unknown split, and where it, or the validation part, has no labelled pixel.
    """
    counted(crops, split)  # before trees are grown for minutes
    train = sampled(crops, "train", pixels, seed)
    validation = sampled(crops, "validation", pixels, seed)
    rows = {"commonest class": scored(crops, split, commonest(train), class_names)}
    bands = crops.scenes[0].bands
    # How many of the features a method sees: the bands of the pixel come first.
    seen = {"of pixels": bands, f"of squares {', '.join(map(str, SQUARES))}": train.values.shape[1]}
    kinds = [(forest, "forest of pixels", forests, bands)]
    kinds += [(boosting, f"boosting {what}", boostings, count) for what, count in seen.items()]
    for (fit, kind, settings, count), balanced in itertools.product(kinds, (False, True)):
        parts = [Pixels(part.values[:, :count], part.classes) for part in (train, validation)]
        setting, predict = best(fit, settings, *parts, balanced=balanced, seed=seed, names=class_names)
        name = f"{'balanced ' if balanced else ''}{kind} ({setting})"
        # One at a time: a forest may be gigabytes.
        rows[name] = scored(crops, split, lambda x, n=count, predict=predict: predict(x[:, :n]), class_names)
        print(f"{name}: macro F1 {rows[name]['f1/macro']:.3f}", file=sys.stderr, flush=True)
    return rows


def features(image: Float32[np.ndarray, "h w C"], valid: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w f"]:
    """The bands of each pixel, then their means and deviations over squares about it, of valid pixels alone."""
    found = [image]
    weight = valid.astype(np.float64)
    values = np.where(valid[..., None], image, 0).astype(np.float64)
    for side in SQUARES:
        size = (side, side, 1)
        share = np.maximum(ndimage.uniform_filter(weight, side), 1e-9)[..., None]
        mean = ndimage.uniform_filter(values, size) / share
        square = ndimage.uniform_filter(values * values, size) / share
        found += [mean, np.sqrt(np.maximum(square - mean * mean, 0))]
    return np.concatenate(found, -1).astype(np.float32)


def windows(crops: Crops, split: str, chosen: Iterable[Sequence[int]]) -> Iterator[tuple[Any, ...]]:
    """(place, features [h, w, f], class indices [h, w], IGNORE outside of the split) of the windows that hold a part of it."""
    margin = max(SQUARES) // 2
    for number, row, col, height, width in chosen:
        if not (crops.blocks.parts(number, row, col, height, width) == PARTS[split]).any():
            continue
        place = (row - margin, col - margin, height + 2 * margin, width + 2 * margin)
        image, valid = crops.scenes[number].read(*place)
        inner = np.s_[margin : margin + height, margin : margin + width]
        label = part_labels(PARTS[split], crops.scenes, crops.blocks, number, row, col, height, width, valid[inner])
        if (label != IGNORE).any():
            yield (number, row, col), features(image, valid)[inner], label


def counted(crops: Crops, split: str) -> int:
    """Labelled pixels of a split, in windows that are spread evenly where there are many."""
    if split not in PARTS:
        raise InputError(f"split {split!r}: known: {', '.join(PARTS)}")
    labels = (part_labels(PARTS[split], crops.scenes, crops.blocks, *window) for window in spread_windows(crops.scenes))
    known = sum(int((label != IGNORE).sum()) for label in labels)
    if not known:
        raise InputError(f"config.data.fractions: no labelled pixel in the {split} part; give it a larger share")
    return known


def sampled(crops: Crops, split: str, pixels: int, seed: int) -> Pixels:
    """At most about `pixels` labelled pixels of a split, evenly drawn: each with the same chance."""
    known = counted(crops, split)
    values, classes = [], []
    for place, x, label in windows(crops, split, spread_windows(crops.scenes)):
        rng = np.random.default_rng((seed, *place))
        taken = (label != IGNORE) & (rng.random(label.shape) < pixels / known)
        values.append(x[taken])
        classes.append(label[taken])
    return Pixels(np.concatenate(values), np.concatenate(classes).astype(np.int64))


def commonest(train: Pixels) -> Callable:
    found = np.bincount(train.classes).argmax()
    return lambda x: np.full(len(x), found)


def weights_of(train: Pixels, balanced: bool) -> Float64[np.ndarray, " n"] | None:
    """Of each pixel, as scikit-learn's 'balanced': one over the pixels of its class, here up to CAP times the lightest."""
    if not balanced:
        return None
    return np.array(balanced_weights(np.bincount(train.classes), "median_frequency", cap=CAP))[train.classes]


def forest(train: Pixels, *, balanced: bool, seed: int, **setting: Any) -> Callable:
    model = RandomForestClassifier(n_jobs=-1, random_state=seed, **setting)
    return model.fit(*train, sample_weight=weights_of(train, balanced)).predict


def boosting(train: Pixels, *, balanced: bool, seed: int, **setting: Any) -> Callable:
    # Early stopping would hold out pixels beside those that are trained on; rounds are chosen on the validation part instead.
    model = HistGradientBoostingClassifier(early_stopping=False, random_state=seed, **setting)
    return model.fit(*train, sample_weight=weights_of(train, balanced)).predict


def best(fit: Callable, settings, train: Pixels, validation: Pixels, *, names, **options) -> tuple[str, Callable]:
    """The setting whose macro F1 on the validation part is highest, and what predicts with it."""
    found = ("", commonest(train), -1.0)
    for name, setting in settings.items():
        predict = fit(train, **setting, **options)
        matrix = scoring.confusion(validation.classes, predict(validation.values), len(names))
        quality = scoring.scores(matrix[None], names, None)["f1/macro"]
        if quality > found[2]:
            found = name, predict, quality
    return found[:2]


def scored(crops: Crops, split: str, predict: Callable, names: Sequence[str]) -> dict[str, float]:
    """Scores on every labelled pixel of a split."""
    matrices = np.zeros((len(crops.scenes), len(names), len(names)), np.int64)
    for (number, *_), x, label in windows(crops, split, all_windows(crops.scenes)):
        known = label != IGNORE
        matrices[number] += scoring.confusion(label[known], predict(x[known]), len(names))
    return scoring.scores(matrices, names, None)
