"""Learning-rate schedules and optax chains, each piece named and in one order: clip, direction, decay, rate."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from common.config import nearest
from common.errors import InputError


class Optimizer(NamedTuple):
    """An optax transformation with what the train step must know beside it.

    schedule: step -> learning rate, for the log. ema: decay of the averaged parameters, 0 for none.
    accumulate: micro-batches in a batch.
    """

    init: Callable
    update: Callable
    schedule: Callable[[Any], Any]
    ema: float
    accumulate: int


SCHEDULES = {
    "constant": lambda peak, steps, end, power: optax.constant_schedule(peak),
    "linear": lambda peak, steps, end, power: optax.linear_schedule(peak, peak * end, steps),
    "cosine": lambda peak, steps, end, power: optax.cosine_decay_schedule(peak, steps, alpha=end),
    "polynomial": lambda peak, steps, end, power: optax.polynomial_schedule(peak, peak * end, power, steps),
}


def make_schedule(
    name: str, learning_rate: float, *, steps: int, warmup: int, end: float, power: float
) -> optax.Schedule:
    """Linear warm-up from 0 over `warmup` steps, then `name` down to `end` x learning_rate at `steps`."""
    if name not in SCHEDULES:
        raise InputError(f"config.optimizer.schedule={name!r}: no such schedule; {nearest(name, SCHEDULES)}")
    decay = SCHEDULES[name](learning_rate, max(steps - warmup, 1), end, power)
    if not warmup:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup), decay], [warmup])


DIRECTIONS = {
    "sgd": lambda b1, b2, eps, momentum, nesterov: optax.trace(momentum, nesterov) if momentum else optax.identity(),
    "adam": lambda b1, b2, eps, momentum, nesterov: optax.scale_by_adam(b1, b2, eps),
    "adamw": lambda b1, b2, eps, momentum, nesterov: optax.scale_by_adam(b1, b2, eps),
    "lion": lambda b1, b2, eps, momentum, nesterov: optax.scale_by_lion(b1, b2),
}


def kernels_only(params):
    """Weight decay is for kernels: biases and norm scales (one axis or none) keep their size."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def make_optimizer(
    *,
    steps: int,
    duration: Callable[[str, str], int],
    name: str = "adamw",
    learning_rate: float = 1e-3,
    schedule: str = "cosine",
    warmup: str = "0 steps",
    end: float = 0.0,
    power: float = 0.9,
    clip: float = 0.0,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    momentum: float = 0.9,
    nesterov: bool = False,
    ema: float = 0.0,
    accumulate: int = 1,
) -> Optimizer:
    """The optimiser of a run of `steps` steps. `duration(text, key)` gives steps for texts like '5%' or '2 epochs'.

    clip: largest global norm of the gradient, 0 for none. weight_decay: decoupled (Loshchilov & Hutter 2019) for sgd,
    adamw and lion, of kernels only, times the learning rate; for adam it is added to the gradient, as in its classic form.
    Raises InputError for an unknown name.
    """
    if name not in DIRECTIONS:
        raise InputError(f"config.optimizer.name={name!r}: no such optimiser; {nearest(name, DIRECTIONS)}")
    rate = make_schedule(
        schedule, learning_rate, steps=steps, warmup=duration(warmup, "optimizer.warmup"), end=end, power=power
    )
    direction = DIRECTIONS[name](b1, b2, eps, momentum, nesterov)
    decay = [optax.add_decayed_weights(weight_decay, mask=kernels_only)] if weight_decay else []
    chain = optax.chain(
        *([optax.clip_by_global_norm(clip)] if clip else []),
        *([*decay, direction] if name == "adam" else [direction, *decay]),
        optax.scale_by_learning_rate(rate),
    )
    return Optimizer(chain.init, chain.update, rate, ema, accumulate)
