"""Losses of segmentation as (sum, count), so that sums over micro-batches, devices and hosts merge exactly.

The loss is sum / count. A pixel's weight is 0 where its label is IGNORE, else its class weight times its place in the
weight map; `count` is the sum of the weights. A loss of a whole image (soft Dice, Tversky) stands in the sum times the
weight W_b of its image, so an image counts in it as much as its pixels do in the cross-entropy, and all share one count.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from common.config import nearest
from common.errors import InputError
from unet.images import IGNORE


def segmentation_loss(
    logits: Float[Array, "b h w k"],
    label: Int[Array, "b h w"],
    weights: Float[Array, "b h w"] | None = None,
    *,
    name: str = "cross_entropy",
    class_weights: tuple[float, ...] = (),
    gamma: float = 2.0,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth: float = 1.0,
    label_smoothing: float = 0.0,
    reverse: float = 1.0,
    log_zero: float = -4.0,
    dice_background: bool = False,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(sum, count) of the losses in `name`, added: 'cross_entropy', 'reverse_cross_entropy', 'focal', 'dice', 'tversky', or
    several as 'cross_entropy+dice'.

    Computed in float32 at least. `label` holds 0..k-1 and IGNORE (255): such a pixel has exactly zero gradient in every
    loss, whatever its logits. Any other label makes the loss NaN, which stops a run, instead of being left out in silence.
    `weights` is a weight map; `class_weights` has k numbers or none, and acts on each pixel's loss: the overlap losses
    balance the classes by themselves, so in them it only changes the weight W_b of the image.

    cross_entropy  with `label_smoothing` spread over all classes
    reverse_cross_entropy  `reverse` times -sum p log t, with log 0 := `log_zero`: with cross_entropy the symmetric cross-entropy of Wang et
                   al. 2019, eq. 7, whose alpha is 1, beta is `reverse` and A is `log_zero`; for labels that are partly wrong
    focal          (1 - p)^gamma * cross-entropy; Lin et al. 2017, eq. 4; its alpha_t is `class_weights`
    dice           1 - mean over classes of (2 sum p t + smooth) / (sum p + sum t + smooth), per image; Milletari et al.
                   2016, with plain sums below as in Drozdzal et al. 2016
    tversky        the same with TP / (TP + alpha FP + beta FN); Salehi et al. 2017; alpha = beta = 0.5 is Dice with 2 * smooth

    The mean of the last two is over the foreground classes (all but class 0; `dice_background` adds it), those that the
    image lacks included: there a false positive still costs something, which it would not if they were left out.
    Raises InputError for an unknown name, a wrong number of class weights or an option outside its range.
    """
    options = {"gamma": gamma, "alpha": alpha, "beta": beta, "smooth": smooth, "reverse": reverse, "log_zero": log_zero}
    names = check(name, logits.shape[-1], class_weights, label_smoothing, dice_background, options)
    valid = label != IGNORE
    # Replaced, not multiplied by zero: 0 * inf is NaN, and ignored pixels may hold anything (no-data, padding).
    logits = jnp.where(valid[..., None], logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), 0)
    target = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
    place = valid.astype(logits.dtype) if weights is None else jnp.where(valid, weights.astype(logits.dtype), 0)
    pixel = (
        place * jnp.sum(target * jnp.asarray(class_weights, logits.dtype).reshape(1, 1, 1, -1), -1)
        if class_weights
        else place
    )
    pixel = jnp.where(valid & ((label < 0) | (label >= logits.shape[-1])), jnp.nan, pixel)
    options |= {"label_smoothing": label_smoothing, "first": 0 if dice_background else 1}
    log_p = jax.nn.log_softmax(logits)
    total = sum(jnp.sum(LOSSES[n](log_p, target, place, pixel, **options)) for n in names)
    return total, jnp.sum(pixel)


def cross_entropy(log_p, target, place, pixel, *, label_smoothing, **_):
    loss = -jnp.sum(log_p * target, -1)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * jnp.mean(log_p, -1)
    return pixel * loss


def reverse_cross_entropy(log_p, target, place, pixel, *, reverse, log_zero, **_):
    # -sum over classes of p log t: log t is 0 at the label and `log_zero` elsewhere.
    return -pixel * reverse * log_zero * -jnp.expm1(jnp.sum(log_p * target, -1))


def focal(log_p, target, place, pixel, *, gamma, **_):
    log_pt = jnp.sum(log_p * target, -1)
    # Kept off 0, where the derivative of x^gamma is infinite for gamma < 1.
    miss = jnp.maximum(-jnp.expm1(log_pt), jnp.finfo(log_pt.dtype).tiny)
    return -pixel * miss**gamma * log_pt


def dice(log_p, target, place, pixel, *, smooth, first, **_):
    both, predicted, true = overlap(log_p, target, place, first)
    return image_loss(2 * both + smooth, predicted + true + smooth, pixel)


def tversky(log_p, target, place, pixel, *, alpha, beta, smooth, first, **_):
    both, predicted, true = overlap(log_p, target, place, first)
    return image_loss(both + smooth, both + alpha * (predicted - both) + beta * (true - both) + smooth, pixel)


LOSSES = {
    "cross_entropy": cross_entropy,
    "reverse_cross_entropy": reverse_cross_entropy,
    "dice": dice,
    "focal": focal,
    "tversky": tversky,
}


def overlap(log_p, target, place, first):
    """Weighted sums over the pixels of p * t, p and t: each [b, classes from `first` on]."""
    p, t, place = jnp.exp(log_p[..., first:]), target[..., first:], place[..., None]
    return tuple(jnp.sum(values, (1, 2)) for values in (p * t * place, p * place, t * place))


def image_loss(above, below, pixel):
    """W_b * (1 - mean over classes of above / below), [b]; a class of which there is nothing at all scores 1."""
    empty = below == 0  # not `below > 0`, which would hide a NaN
    score = jnp.where(empty, 1, above / jnp.where(empty, 1, below))
    return jnp.sum(pixel, (1, 2)) * (1 - jnp.mean(score, -1))


def check(name, classes, class_weights, label_smoothing, dice_background, options) -> list[str]:
    """The names in `name`; raises InputError for whatever is out of range."""
    names = [part.strip() for part in name.split("+")]
    for part in names:
        if part not in LOSSES:
            raise InputError(f"loss {name!r}: {part!r} is not a loss; {nearest(part, LOSSES)}")
    if class_weights and len(class_weights) != classes:
        raise InputError(
            f"class_weights has {len(class_weights)} numbers for {classes} classes; give one per class, or none"
        )
    if not all(math.isfinite(w) and w >= 0 for w in class_weights):
        raise InputError(f"class_weights={tuple(class_weights)}: a weight is a finite number, 0 or more")
    if not 0 <= label_smoothing < 1:
        raise InputError(f"label_smoothing={label_smoothing}: give a number from 0 to below 1")
    for key, value in options.items():
        sign = -1 if key == "log_zero" else 1
        if not (math.isfinite(value) and sign * value >= 0):
            raise InputError(f"{key}={value}: give a number, 0 or {'less' if sign < 0 else 'more'}")
    if classes < 2 and not dice_background and {"dice", "tversky"} & set(names):
        raise InputError(f"loss {name!r} has no class but background to score; give 2 classes, or dice_background=True")
    return names


def balanced_weights(
    pixel_counts: Int[np.ndarray, "*n k"], how: str = "median_frequency", *, beta: float = 0.9999, cap: float = 0.0
) -> tuple[float, ...]:
    """Class weights from how many pixels each class has; a class that never occurs gets 1.

    `pixel_counts` holds pixels per class of each image, [n, k], or of the whole set at once, [k].
    median_frequency    median of freq / freq(c) (Eigen & Fergus 2015, section 3.3): freq(c) is, as in the paper, the pixels of c over
                        all pixels of the images that have c, where they are given per image
    effective_number    (1 - beta) / (1 - beta^n_c), scaled to a mean of 1 (Cui et al. 2019, eq. 4), for n_c pixels of 1e6: of neighbours
                        that repeat each other few count, so beta is near 1 - 1 / (how many of a million are independent)
    cap: no weight is more than so many times the smallest; 0 for no limit. Either rule gives a class of one pixel thousands.
    Raises InputError for an unknown name, a beta outside [0, 1), a cap below 1, and where nothing was counted.
    """
    if how not in WEIGHTS:
        raise InputError(f"class weights {how!r}: {nearest(how, WEIGHTS)}")
    if not 0 <= beta < 1:
        raise InputError(f"beta={beta}: give a number from 0 to below 1")
    if cap and not cap >= 1:
        raise InputError(f"balance_cap={cap}: give a number from 1, or 0 for no limit")
    counts = np.atleast_2d(np.asarray(pixel_counts, np.float64))
    present = counts.sum(0) > 0
    if not present.any():
        raise InputError("class weights from the data: no pixel has a class; are all labels 255 (ignore)?")
    found = WEIGHTS[how](counts[:, present], counts.sum(1, keepdims=True), beta)
    if cap and found.max() > cap * found.min():
        found = np.minimum(found, cap * found.min())
        found = found / found.mean()
    weights = np.ones(counts.shape[1])
    weights[present] = found
    return tuple(float(w) for w in weights)


def median_frequency(counts, area, beta):
    frequency = counts.sum(0) / (area * (counts > 0)).sum(0)
    return np.median(frequency) / frequency


def effective_number(counts, area, beta):
    per_million = 1e6 * counts.sum(0) / area.sum()
    weights = (1 - beta) / -np.expm1(per_million * np.log(beta)) if beta else np.ones(counts.shape[1])
    return weights / weights.mean()


WEIGHTS = {"median_frequency": median_frequency, "effective_number": effective_number}
