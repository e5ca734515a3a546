"""One training step and one evaluation step, as pure functions, and their jitted forms."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from common import keys
from common.mesh import replicated, rows
from common.metrics import Mean
from common.optimizer import Optimizer
from common.state import TrainState, state_shardings
from common.task import Task

NEVER = 2**31 - 1  # a step that no run reaches


def train_step(
    state: TrainState, batch, averaging_from=NEVER, *, task: Task, optimizer: Optimizer, seed: int
) -> tuple[TrainState, dict]:
    """One update from one global batch; the metrics are sums, so they merge over steps.

    The gradient is that of (sum of losses) / (sum of counts) over the whole batch, whatever the number of devices and
    micro-batches. Batch statistics pass from micro-batch to micro-batch. averaging_from: the step (of those done) whose
    parameters are the first of the mean, where optimizer.average_after is set.
    """
    key = keys.at(seed, "train", state.step)
    if task.augment is not None:
        count = jax.tree.leaves(batch)[0].shape[0]
        batch = jax.vmap(task.augment)(keys.rows(jax.random.fold_in(key, 0), count), batch)
    grads, (total, count, metrics, model_state) = gradients(
        task.loss, state, batch, jax.random.fold_in(key, 1), optimizer.accumulate
    )
    scale = 1 / jnp.maximum(count, 1e-8)
    grads = jax.tree.map(lambda g: (g * scale).astype(g.dtype), grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    rate = 1.0
    if "rate" in batch:
        # Variable-length back-propagation through time: the learning rate of a step is scaled by its length over the mean
        # length (Merity et al. 2018, section 4), after clipping. All rows are equal; their maximum, unlike their mean, is
        # not rounded, so it is the same on any number of devices.
        rate = jnp.max(batch["rate"])
        updates = jax.tree.map(lambda u: (u * rate).astype(u.dtype), updates)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if optimizer.averages:
        decay = average_decay(optimizer, state.step, averaging_from)
        ema = jax.tree.map(lambda a, p: (a * decay + p * (1 - decay)).astype(a.dtype), ema, params)
    one = jnp.ones_like(total)
    metrics = {
        **metrics,
        "loss": Mean(total, count),
        "grad_norm": Mean(optax.global_norm(grads), one),
        "learning_rate": Mean(jnp.asarray(optimizer.schedule(state.step) * rate, total.dtype), one),
    }
    return TrainState(state.step + 1, params, model_state, opt_state, ema), metrics


def average_decay(optimizer: Optimizer, step, averaging_from):
    """The weight that the average keeps in the step after `step` steps; the new parameters get the rest."""
    if optimizer.average_after:
        # 0 until averaging begins: the average is the parameters. Then 1/2, 2/3, ...: their mean, those of the trigger's
        # step among them (Merity et al. 2018, algorithm 1).
        return 1 - 1.0 / (step + 2 - jnp.minimum(averaging_from, step + 1))
    # Ramps up like (1 + t) / (10 + t), so that the random start does not stay in a short run's average.
    return jnp.minimum(optimizer.ema, (1.0 + step) / (10.0 + step))


def gradients(loss: Callable, state: TrainState, batch, key, micro_batches: int) -> tuple[Any, tuple]:
    """(gradient of the loss sum, (sum, count, metrics, model_state)) of a batch in `micro_batches` parts.

    model_state["carry"] is split into rows like the batch; the rest passes from part to part.
    """

    def loss_sum(params, model_state, part, part_key):
        total, count, metrics, new_state = loss(params, model_state, part, part_key)
        return total, (count, metrics, new_state)

    def one(model_state, part, part_key):
        (total, (count, metrics, model_state)), grads = jax.value_and_grad(loss_sum, has_aux=True)(
            state.params, model_state, part, part_key
        )
        return (grads, total, count, metrics), model_state

    if micro_batches == 1:
        (grads, *sums), model_state = one(state.model_state, batch, key)
        return grads, (*sums, model_state)

    def split(x):  # micro-batch i takes rows i, i + n, ...: rows stay on their devices
        return x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1)

    def join(x):
        return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])

    def part_of(shared, part):
        own, *batch_and_key = part
        more, model_state = one({**shared, **own}, *batch_and_key)
        shared, own = divide(model_state)
        return more, shared, own

    def body(carry, part):
        sums, shared = carry
        more, shared, own = part_of(shared, part)
        return (jax.tree.map(jnp.add, sums, more), shared), own

    shared, own = divide(state.model_state)
    part_keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(micro_batches))
    parts = (jax.tree.map(split, own), jax.tree.map(split, batch), part_keys)
    sums = jax.eval_shape(part_of, shared, jax.tree.map(lambda x: x[0], parts))[0]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sums)
    (sums, shared), own = jax.lax.scan(body, (zeros, shared), parts)
    grads, *sums = sums
    return grads, (*sums, {**shared, **jax.tree.map(join, own)})


def divide(model_state) -> tuple[dict, dict]:
    """(what all rows share, {"carry": one row for each row of the batch} or {})."""
    own = {name: part for name, part in model_state.items() if name == "carry"}
    return {name: part for name, part in model_state.items() if name != "carry"}, own


def make_train_step(task: Task, optimizer: Optimizer, mesh: Mesh, *, seed: int) -> Callable:
    """train_step under jit: (state, batch) -> (state, metrics). The state is donated, rows are split over the mesh.

    Where optimizer.average_after is set, (state, batch, averaging_from): an argument, so that the trigger compiles nothing.
    """

    def step(state, batch, *averaging_from):
        return train_step(state, batch, *averaging_from, task=task, optimizer=optimizer, seed=seed)

    whole, states = replicated(mesh), shardings_of(task, mesh)
    return jax.jit(
        step,
        in_shardings=(states, rows(mesh), *([whole] if optimizer.average_after else [])),
        out_shardings=(states, whole),
        donate_argnums=0,
        compiler_options=dict(task.compiler_options),
    )


def make_eval_step(task: Task, mesh: Mesh) -> Callable:
    """task.evaluate under jit: (params, model_state, batch) -> metrics, whole on every device."""
    whole = replicated(mesh)
    return jax.jit(
        task.evaluate,
        in_shardings=(whole, shardings_of(task, mesh).model_state, rows(mesh)),
        out_shardings=whole,
        compiler_options=dict(task.compiler_options),
    )


def shardings_of(task: Task, mesh: Mesh) -> TrainState:
    """`state_shardings` of the states of a task."""
    _, model_state = jax.eval_shape(task.init, jax.random.key(0), task.abstract_batch)
    return state_shardings(model_state, mesh)
