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
from common.state import TrainState
from common.task import Task


def train_step(state: TrainState, batch, *, task: Task, optimizer: Optimizer, seed: int) -> tuple[TrainState, dict]:
    """One update from one global batch; the metrics are sums, so they merge over steps.

    The gradient is that of (sum of losses) / (sum of counts) over the whole batch, whatever the number of devices and
    micro-batches. Batch statistics pass from micro-batch to micro-batch.
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
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if optimizer.ema:
        # Ramps up like (1 + t) / (10 + t), so that the random start does not stay in a short run's average.
        decay = jnp.minimum(optimizer.ema, (1.0 + state.step) / (10.0 + state.step))
        ema = jax.tree.map(lambda a, p: (a * decay + p * (1 - decay)).astype(a.dtype), ema, params)
    one = jnp.ones_like(total)
    metrics = {
        **metrics,
        "loss": Mean(total, count),
        "grad_norm": Mean(optax.global_norm(grads), one),
        "learning_rate": Mean(jnp.asarray(optimizer.schedule(state.step), total.dtype), one),
    }
    return TrainState(state.step + 1, params, model_state, opt_state, ema), metrics


def gradients(loss: Callable, state: TrainState, batch, key, micro_batches: int) -> tuple[Any, tuple]:
    """(gradient of the loss sum, (sum, count, metrics, model_state)) of a batch in `micro_batches` parts."""

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

    def body(carry, part):
        sums, model_state = carry
        more, model_state = one(model_state, part[0], part[1])
        return (jax.tree.map(jnp.add, sums, more), model_state), None

    parts = jax.tree.map(split, batch)
    part_keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(micro_batches))
    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, state.model_state, first, part_keys[0])[0]
    )
    (sums, model_state), _ = jax.lax.scan(body, (zeros, state.model_state), (parts, part_keys))
    grads, *sums = sums
    return grads, (*sums, model_state)


def make_train_step(task: Task, optimizer: Optimizer, mesh: Mesh, *, seed: int) -> Callable:
    """train_step under jit: (state, batch) -> (state, metrics). The state is donated, rows are split over the mesh."""

    def step(state, batch):
        return train_step(state, batch, task=task, optimizer=optimizer, seed=seed)

    whole = replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(whole, rows(mesh)),
        out_shardings=(whole, whole),
        donate_argnums=0,
        compiler_options=dict(task.compiler_options),
    )


def make_eval_step(task: Task, mesh: Mesh) -> Callable:
    """task.evaluate under jit: (params, model_state, batch) -> metrics, whole on every device."""
    whole = replicated(mesh)
    return jax.jit(
        task.evaluate,
        in_shardings=(whole, whole, rows(mesh)),
        out_shardings=whole,
        compiler_options=dict(task.compiler_options),
    )
