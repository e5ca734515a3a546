"""The functions of a segmentation task that are traced: what a network, its loss and its augmentation do to a batch."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from common import config as configs
from common.metrics import Confusions, Mean
from unet import augment as augmentation
from unet import scores
from unet.images import IGNORE
from unet.losses import balanced_weights, segmentation_loss
from unet.model import UNet, output_size
from unet.ops import compiler_options


def traced(
    net: UNet,
    options: Mapping[str, Any],
    augment: Mapping[str, Any],
    *,
    batch_size: int,
    crop: tuple[int, int],
    pixel_counts: Callable[[], np.ndarray],
) -> dict[str, Any]:
    """Fields of a Task, by name: its traced functions, and what the programs that hold them need.

    options: as `unet.task.segmentation` gives them. augment: the config's section. pixel_counts: pixels of each class in the training
    part, counted where class weights are asked for. Raises InputError for a key of `augment` that there is not.
    """
    configs.check_keys(augmentation.augment, "augment", augment)
    context = margin(crop[0], net)

    @functools.cache
    def loss_options() -> dict[str, Any]:
        if options["balance"] == "none":
            return options["loss"]
        how = {"beta": options["balance_beta"], "cap": options["balance_cap"]}
        weights = balanced_weights(pixel_counts(), options["balance"], **how)
        return {**options["loss"], "class_weights": weights}

    def init(key, batch):
        variables = dict(net.init({"params": key}, batch["image"]))
        params = variables.pop("params")
        # BatchNorm starts its statistics in float32 whatever the parameters are, and updates them in the wider type.
        statistics = jnp.promote_types(net.param_dtype, jnp.float32)
        return params, jax.tree.map(lambda x: x.astype(statistics), variables)

    def loss(params, model_state, batch, key):
        logits, new_state = net.apply(
            {"params": params, **model_state},
            batch["image"],
            train=True,
            rngs={"dropout": key},
            mutable=list(model_state),
        )
        total, count = segmentation_loss(logits, batch["label"], **loss_options())
        return total, count, {"accuracy": pixel_accuracy(logits, batch["label"])}, dict(new_state)

    def evaluate(params, model_state, batch):
        real = batch["mask"] > 0
        label = jnp.where(real[:, None, None], batch["label"], IGNORE)
        logits = averaged_logits(net, {"params": params, **model_state}, batch["image"], options["average"])
        total, count = segmentation_loss(logits, label, **loss_options())
        matrix = scores.confusions(label, jnp.argmax(logits, axis=-1), net.classes)
        return {
            "loss": Mean(total, count),
            "confusions": Confusions(jnp.where(real, batch["image_id"], -1), matrix),
            "calibration": scores.calibration(label, logits),
        }

    def probabilities(params, model_state, images):
        return jax.nn.softmax(averaged_logits(net, {"params": params, **model_state}, images, options["average"]))

    def augment_row(key, example):
        image, label = augmentation.augment(key, example["image"], example["label"], **augment)
        window = slice(context, -context or None)
        return {"image": image, "label": label[window, window]}

    return {
        "abstract_batch": {
            "image": jax.ShapeDtypeStruct((batch_size, *crop, net.bands), jnp.float32),
            "label": jax.ShapeDtypeStruct((batch_size, *(side - 2 * context for side in crop)), jnp.int32),
        },
        "compiler_options": compiler_options(net.dtype),
        "spatial": ("image", "label"),
        "init": init,
        "loss": loss,
        "evaluate": evaluate,
        "predict": probabilities,
        "augment": augment_row,
    }


def margin(side: int, net: UNet) -> int:
    """Pixels of context that a network takes from each edge of an input of `side`."""
    return (side - output_size(side, net.depth, net.padding)) // 2


def tile_settings(net: UNet, options: Mapping[str, Any]) -> dict[str, int]:
    """The tiles of evaluation and prediction, as the functions of `unet.tiling` take them.

    They start on the grid of the deepest pooling, so that they see what the whole image sees.
    """
    out = output_size(options["tile"], net.depth, net.padding)
    return {"tile": options["tile"], "out": out, "overlap": options["overlap"], "align": 2**net.depth}


# Each symmetry with its inverse, on [B, H, W, C].
FLIPS = [
    (lambda x: x, lambda x: x),
    (lambda x: x[:, ::-1], lambda x: x[:, ::-1]),
    (lambda x: x[:, :, ::-1], lambda x: x[:, :, ::-1]),
    (lambda x: x[:, ::-1, ::-1], lambda x: x[:, ::-1, ::-1]),
]
TURNS = FLIPS + [(lambda x, f=f: jnp.swapaxes(f(x), 1, 2), lambda x, g=g: g(jnp.swapaxes(x, 1, 2))) for f, g in FLIPS]
SYMMETRIES = {"none": FLIPS[:1], "flips": FLIPS, "turns": TURNS}


def averaged_logits(net: UNet, variables, images, average: str):
    """Logits, or the log of the mean probabilities over the symmetries of `average`, each undone."""
    pairs = SYMMETRIES[average]
    if len(pairs) == 1:
        return net.apply(variables, images)
    total = sum(undo(jax.nn.softmax(net.apply(variables, do(images)))) for do, undo in pairs)
    return jnp.log(total / len(pairs) + 1e-12)


def pixel_accuracy(logits, label) -> Mean:
    counted = label != IGNORE
    right = (jnp.argmax(logits, axis=-1) == label) & counted
    kind = logits.dtype
    return Mean(right.sum().astype(kind), counted.sum().astype(kind))
