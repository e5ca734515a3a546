"""Scores of a segmentation: confusion matrices on the device, numbers from them on the host, and the EM challenge's scores.

A matrix has the label in its rows and the prediction in its columns. Background counts as a class only where the name of
the score says so: `foreground` is the mean over the other classes, so a lost foreground cannot hide behind it.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer
from scipy import ndimage
from skimage.segmentation import watershed

from common.errors import InputError
from common.metrics import Calibration
from unet.images import IGNORE

CROSS = ndimage.generate_binary_structure(2, 1)  # 4-connectivity
BINS = 20  # of confidence
THRESHOLDS = tuple(round(0.1 * i, 1) for i in range(1, 10))


def confusions(label: Int[Array, "b h w"], prediction: Int[Array, "b h w"], classes: int) -> Int[Array, "b k k"]:
    """Pixels of each (label, prediction) per image, int32. Pixels whose label is IGNORE are not counted.

    A bincount: on a CPU its time does not depend on the number of classes (1.2 ms for 8 x 256 x 256), where a matmul of
    one-hots takes 2 ms at 4 classes and 40 ms at 20.
    """
    code = jnp.where(label == IGNORE, classes * classes, label * classes + prediction).reshape(len(label), -1)
    counts = jax.vmap(lambda row: jnp.bincount(row, length=classes * classes + 1))(code)
    return counts[:, :-1].reshape(-1, classes, classes).astype(jnp.int32)


def confusion(
    label: Integer[np.ndarray, " n"], predicted: Integer[np.ndarray, " n"], classes: int
) -> Int[np.ndarray, "k k"]:
    """The same of pixels on the host, where none is to be left out."""
    pairs = np.bincount(classes * label.astype(np.int64) + predicted, minlength=classes * classes)
    return pairs.reshape(classes, classes)


def calibration(label: Int[Array, "b h w"], logits: Float[Array, "b h w k"], bins: int = BINS) -> Calibration:
    """Pixels by the probability of their likeliest class: whose it is, and whether it is right. IGNORE does not count."""
    sure = jnp.max(jax.nn.softmax(logits, axis=-1), axis=-1)
    place = jnp.where(label == IGNORE, bins, jnp.minimum((sure * bins).astype(jnp.int32), bins - 1)).reshape(-1)
    right = (label == jnp.argmax(logits, axis=-1)).astype(sure.dtype)
    sums = [jnp.bincount(place, x.reshape(-1), length=bins + 1)[:-1] for x in (jnp.ones_like(sure), sure, right)]
    return Calibration(*sums)


def scores(matrices: Int[np.ndarray, "n k k"], names: Sequence[str], background: int | None = 0) -> dict[str, float]:
    """Flat {score: number} of the confusion matrices of n images; `names` are the classes'.

    accuracy; dice/NAME, iou/NAME, precision/NAME, recall/NAME over all pixels of the set; dice/foreground and
    iou/foreground, their means over the classes but `background`; iou/mean and f1/macro, over all classes; the means over
    images of an image's own mean, dice_per_image/foreground and iou_per_image/mean; images.

    What is undefined (0 / 0) is left out of the result and of every mean: a class in neither labels nor predictions has no
    Dice, one that is never predicted has no precision, and an image without foreground in both has no foreground Dice.
    No number returned is NaN. Raises InputError where `names` and the matrices differ in the number of classes.
    """
    matrices = np.asarray(matrices, np.int64)
    if len(names) != matrices.shape[-1]:
        raise InputError(
            f"{len(names)} class names ({', '.join(names)}) for {matrices.shape[-1]} classes: give one name per class"
        )
    if len(set(names)) != len(names):
        raise InputError(f"class names {', '.join(names)}: two are the same; give each class its own name")
    foreground = np.arange(len(names)) != background
    total = matrices.sum(0)
    whole, each = ratios(total), ratios(matrices)
    result = {"accuracy": mean(divide(np.trace(total), total.sum()))}
    for score in ("dice", "iou", "precision", "recall"):
        result |= {f"{score}/{name}": mean(value) for name, value in zip(names, whole[score], strict=True)}
    result["dice/foreground"] = mean(whole["dice"][foreground])
    result["iou/foreground"] = mean(whole["iou"][foreground])
    result["iou/mean"] = mean(whole["iou"])
    result["f1/macro"] = mean(whole["dice"])  # F1 is Dice by its other name
    result["dice_per_image/foreground"] = mean(np.array([mean(row) for row in each["dice"][:, foreground]]))
    result["iou_per_image/mean"] = mean(np.array([mean(row) for row in each["iou"]]))
    result["images"] = float(np.count_nonzero(matrices.sum((1, 2))))
    return {name: value for name, value in result.items() if not np.isnan(value)}


def ratios(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """dice, iou, precision and recall per class, [..., k]; NaN where 0 / 0."""
    hit = np.diagonal(matrix, axis1=-2, axis2=-1)
    true, predicted = matrix.sum(-1), matrix.sum(-2)
    return {
        "dice": divide(2 * hit, true + predicted),
        "iou": divide(hit, true + predicted - hit),
        "precision": divide(hit, predicted),
        "recall": divide(hit, true),
    }


def divide(above, below) -> np.ndarray:
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below != 0)


def mean(values) -> float:
    """The mean of what is defined; NaN where nothing is."""
    values = np.asarray(values)
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def collapsed(matrix: Int[np.ndarray, "k k"], share: float = 0.999) -> int | None:
    """The class predicted on more than `share` of the pixels although more than 1 - share of them are of others, else None."""
    matrix = np.asarray(matrix, np.int64)
    total = matrix.sum()
    if not total:
        return None
    predicted = int(matrix.sum(0).argmax())
    alone = matrix.sum(0)[predicted] > share * total
    return predicted if alone and matrix.sum(1)[predicted] < share * total else None


def cells(interior: np.ndarray) -> Int[np.ndarray, "*n h w"]:
    """The 4-connected components of the pixels that are not membrane, numbered from 1 in each slice; membrane is 0."""
    flat = np.asarray(interior, bool).reshape(-1, *interior.shape[-2:])
    return np.stack([ndimage.label(part, CROSS)[0] for part in flat]).astype(np.int32).reshape(interior.shape)


def thinned(interior: np.ndarray) -> Int[np.ndarray, "h w"]:
    """`cells` after border thinning: each cell has grown into the membrane until one pixel parts it from the next.

    A watershed of the distance to the nearest cell, so the border runs along the middle of the membrane. Unlike a
    skeleton it can neither open a membrane (thin diagonals, ends at the frame) nor leave spurs inside a cell.
    """
    seeds = cells(interior)
    distance = ndimage.distance_transform_edt(~np.asarray(interior, bool))
    return watershed(distance, seeds, connectivity=1, watershed_line=True) if seeds.any() else seeds


def pair_sums(true: np.ndarray, proposed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sums of squares, entropies) of the overlap p_ij, of the proposal s_i and of the truth t_j, where the truth is not 0.

    Every pixel of the proposal's own border (0) is a segment of its own, as in the challenge's script.
    """
    seen = true > 0
    true, proposed = true[seen].astype(np.int64), proposed[seen].astype(np.int64)
    lone = proposed == 0
    proposed[lone] = proposed.max(initial=0) + 1 + np.arange(np.count_nonzero(lone))
    pairs = true * (proposed.max(initial=0) + 1) + proposed
    shares = [np.unique(values, return_counts=True)[1] / max(true.size, 1) for values in (pairs, proposed, true)]
    return np.array([(p**2).sum() for p in shares]), np.array([-(p * np.log(p)).sum() for p in shares])


def rand_fscore(
    label_cells: Int[np.ndarray, "*n h w"],
    interior: Float[np.ndarray, "..."],
    thresholds: Sequence[float] = THRESHOLDS,
) -> dict[str, float]:
    """V-Rand and V-Info of membrane segmentation: Arganda-Carreras et al. 2015, Front. Neuroanat. 9:142, section 2.

    `label_cells` numbers the cells of the truth, 0 is membrane (`cells` makes it); `interior` is the predicted probability
    that a pixel is not membrane, of the same shape. One slice, or a stack whose slices are scored in 2-D. Exactly what is done:

    1. For each threshold T: a pixel is interior where interior > T; the 4-connected components of the interior are grown
       until one pixel of border is left between two (`thinned`). The truth is used as it is.
    2. Only pixels whose truth is a cell count. p_ij is the share of them in proposed segment i and true cell j, s_i and t_j
       its sums; each pixel left on the proposal's border is a segment of its own.
    3. V-Rand = 2 sum p^2 / (sum s^2 + sum t^2), split score sum p^2 / sum t^2, merge score sum p^2 / sum s^2;
       V-Info = 2 I(S;T) / (H(S) + H(T)). Over a stack the sums (and entropies) of slices are averaged before they divide.
    4. The threshold with the best V-Rand is reported, and V-Info at its own best threshold.

    The challenge's script thins by other code and scored secret labels: these numbers are not its leaderboard's.
    Returns rand_fscore, rand_split, rand_merge, rand_threshold, info_fscore, and pixel_error, the share of all pixels
    whose side of 0.5 is wrong. Raises InputError where there is no cell, no threshold, or the shapes differ.
    """
    truth = np.asarray(label_cells).reshape(-1, *np.shape(label_cells)[-2:])
    proposal = np.asarray(interior).reshape(-1, *np.shape(interior)[-2:])
    if truth.shape != proposal.shape:
        raise InputError(f"labels are {truth.shape} and predictions {proposal.shape}: they must have one shape")
    if not (truth > 0).any() or not len(thresholds):
        raise InputError("Rand score: give labels with at least one cell (a number above 0) and at least one threshold")
    rows = []
    for threshold in thresholds:
        sums = [pair_sums(t, thinned(p > threshold)) for t, p in zip(truth, proposal, strict=True) if (t > 0).any()]
        (both, mine, theirs), (h_both, h_mine, h_theirs) = np.mean(sums, 0)
        shared = h_mine + h_theirs - h_both
        # One cell found as one cell carries no information at all: right, so 1.
        info = 2 * shared / (h_mine + h_theirs) if h_mine + h_theirs > 0 else 1.0
        rows.append((2 * both / (mine + theirs), both / theirs, both / mine, threshold, info))
    rand, split, merge, threshold, _ = max(rows)
    return {
        "rand_fscore": float(rand),
        "rand_split": float(split),
        "rand_merge": float(merge),
        "rand_threshold": float(threshold),
        "info_fscore": float(max(row[-1] for row in rows)),
        "pixel_error": float(np.mean((proposal > 0.5) != (truth > 0))),
    }
