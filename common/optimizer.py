"""Learning-rate schedules and optax chains, each piece named and in one order: clip, direction, decay, rate."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from common.config import nearest
from common.errors import InputError

Number = float | Float[Array, ""]  # traced where runs that differ in it train together (common/together.py)


def on(number: Number) -> bool:
    """Whether a number switches its piece on: all but 0 do. One that is traced is known not to be 0."""
    return isinstance(number, jax.core.Tracer) or bool(number)


class Optimizer(NamedTuple):
    """An optax transformation with what the train step must know beside it.

    schedule: step -> learning rate, for the log. ema: decay of the averaged parameters, 0 for none.
    accumulate: micro-batches in a batch. average_after: evaluations without a better score after which the mean of the
    parameters begins, 0 for never.
    """

    init: Callable
    update: Callable
    schedule: Callable[[Any], Any]
    ema: Number
    accumulate: int
    average_after: int = 0

    @property
    def averages(self) -> bool:
        """Whether the state holds averaged parameters."""
        return on(self.ema) or self.average_after > 0


def staircase(peak: Number, hold: int, every: int, factor: Number) -> optax.Schedule:
    """`peak` for `hold` steps, then divided by `factor` at once and again each `every` steps (Zaremba et al. 2014)."""
    return lambda step: peak * factor ** -jnp.maximum((step - hold) // every + 1, 0).astype(jnp.float32)


SCHEDULES = {
    "constant": lambda peak, steps, end, power, stairs: optax.constant_schedule(peak),
    "linear": lambda peak, steps, end, power, stairs: optax.linear_schedule(peak, peak * end, steps),
    "cosine": lambda peak, steps, end, power, stairs: optax.cosine_decay_schedule(peak, steps, alpha=end),
    "polynomial": lambda peak, steps, end, power, stairs: optax.polynomial_schedule(peak, peak * end, power, steps),
    "decay": lambda peak, steps, end, power, stairs: staircase(peak, *stairs),
}


def make_schedule(
    name: str,
    learning_rate: Number,
    *,
    steps: int,
    warmup: int,
    end: Number,
    power: Number,
    stairs: tuple[int, int, Number] = (0, 1, 1.0),
) -> optax.Schedule:
    """Linear warm-up from 0 over `warmup` steps, then `name` down to `end` x learning_rate at `steps`.

    stairs: of "decay", which goes on to the end: steps at the full rate (from step 0), steps between stairs, divisor.
    """
    if name not in SCHEDULES:
        raise InputError(f"config.optimizer.schedule={name!r}: no such schedule; {nearest(name, SCHEDULES)}")
    hold, every, factor = stairs
    if not isinstance(factor, jax.core.Tracer) and factor <= 0:
        raise InputError(f"config.optimizer.factor={factor}: the rate is divided by it; use more than 0, like 2.0")
    stairs = (hold - warmup, max(every, 1), factor)
    decay = SCHEDULES[name](learning_rate, max(steps - warmup, 1), end, power, stairs)
    if not warmup:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup), decay], [warmup])


DIRECTIONS = {
    "sgd": lambda b1, b2, eps, momentum, nesterov: (
        optax.trace(momentum, nesterov) if on(momentum) else optax.identity()
    ),
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
    learning_rate: Number = 1e-3,
    schedule: str = "cosine",
    warmup: str = "0 steps",
    end: Number = 0.0,
    power: Number = 0.9,
    hold: str = "1 epochs",
    decay_every: str = "1 epochs",
    factor: Number = 2.0,
    clip: Number = 0.0,
    weight_decay: Number = 0.0,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    momentum: Number = 0.9,
    nesterov: bool = False,
    ema: Number = 0.0,
    average_after: int = 0,
    accumulate: int = 1,
) -> Optimizer:
    """The optimiser of a run of `steps` steps. `duration(text, key)` gives steps for texts like '5%' or '2 epochs'.

    clip: largest global norm of the gradient, 0 for none. weight_decay: decoupled (Loshchilov & Hutter 2019) for sgd,
    adamw and lion, of kernels only, times the learning rate; for adam it is added to the gradient, as in its classic form.
    hold, decay_every, factor: of schedule="decay": the full rate for `hold`, then divided by `factor` at once and again each
    `decay_every`. average_after: n > 0: once the score of an evaluation is worse than the best of those more than n before
    it, the mean of the parameters from there on is kept and evaluated (NT-ASGD; Merity et al. 2018, algorithm 1).
    Raises InputError for an unknown name, and for two averages at once.
    """
    if on(ema) and average_after:
        raise InputError(f"config.optimizer.average_after={average_after}: excludes ema={ema}; set one of the two to 0")
    if name not in DIRECTIONS:
        raise InputError(f"config.optimizer.name={name!r}: no such optimiser; {nearest(name, DIRECTIONS)}")
    rate = make_schedule(
        schedule,
        learning_rate,
        steps=steps,
        warmup=duration(warmup, "optimizer.warmup"),
        end=end,
        power=power,
        stairs=(duration(hold, "optimizer.hold"), duration(decay_every, "optimizer.decay_every"), factor),
    )
    direction = DIRECTIONS[name](b1, b2, eps, momentum, nesterov)
    decay = [optax.add_decayed_weights(weight_decay, mask=kernels_only)] if on(weight_decay) else []
    chain = optax.chain(
        *([optax.clip_by_global_norm(clip)] if on(clip) else []),
        *([*decay, direction] if name == "adam" else [direction, *decay]),
        optax.scale_by_learning_rate(rate),
    )
    return Optimizer(chain.init, chain.update, rate, ema, accumulate, average_after)
