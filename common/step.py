"""One training step and one evaluation step, as pure functions, and their jitted forms."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int

from common import keys
from common.errors import InputError
from common.mesh import (
    DATA,
    FSDP,
    ROWS,
    SPACE,
    batch_shardings,
    fsdp_axis,
    parameter_spec,
    replicated,
    row_axis,
    row_parts,
    rows,
)
from common.metrics import Mean
from common.optimizer import Optimizer
from common.state import TrainState, state_maker, state_shardings
from common.task import Task

NEVER = 2**31 - 1  # a step that no run reaches


def train_step(
    state: TrainState,
    batch,
    averaging_from=NEVER,
    *,
    task: Task,
    optimizer: Optimizer,
    seed: int | Int[Array, ""],
    spread: Callable[[Callable], Callable] = lambda whole: whole,
) -> tuple[TrainState, dict]:
    """One update from one global batch; the metrics are sums, so they merge over steps.

    The gradient is that of (sum of losses) / (sum of counts) over the whole batch, whatever the number of devices and
    micro-batches. Batch statistics pass from micro-batch to micro-batch. averaging_from: the step (of those done) whose
    parameters are the first of the mean, where optimizer.average_after is set. spread: turns `gradients` of the rows of one
    device into those of the whole batch; as it is where the program sees the whole batch, and under pmap.
    """
    key = keys.at(seed, "train", state.step)
    of_rows = functools.partial(gradients, task=task, micro_batches=optimizer.accumulate)
    grads, (total, count, metrics), model_state = spread(of_rows)(state.params, state.model_state, batch, key)
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


def gradients(
    params, model_state, batch, key, *, task: Task, micro_batches: int, split: Any = None, layout: Any = None
) -> tuple[Any, tuple, dict]:
    """(gradient of the loss sum, (sum, count, metrics), model_state) of the rows that this program sees, in `micro_batches`
    parts; where it is mapped over parts of the batch, of all of them: summed over the devices once, after the last part.

    model_state["carry"] is split into rows like the batch; the rest passes from part to part. split: where parameters come in
    parts, the axis of each that is split over "fsdp" (-1: it is whole). They are gathered where the loss uses them, and their
    gradients come back, already summed over "fsdp", in the same parts. layout: how the augmented batch lies on the devices,
    where the compiler splits images.
    """
    if task.augment is not None:
        count = jax.tree.leaves(batch)[0].shape[0]
        batch = jax.vmap(task.augment)(keys.rows(jax.random.fold_in(key, 0), count), batch)

    if layout is not None:  # augmentation draws pixels from anywhere: after it, the compiler would leave images whole
        batch = jax.lax.with_sharding_constraint(batch, layout)

    def gathered(params):
        whole = lambda x, axis: x if axis < 0 else jax.lax.all_gather(x, FSDP, axis=axis, tiled=True)
        return jax.tree.map(whole, params, split)

    loss = task.loss if split is None else lambda params, *more: task.loss(gathered(params), *more)
    grads, sums, model_state = in_parts(loss, params, model_state, batch, jax.random.fold_in(key, 1), micro_batches)
    axis = row_axis()
    if not axis:
        return grads, sums, model_state
    # Without the barrier the compiler mixes gradients into the sums of batch statistics, in many small messages.
    grads, sums = jax.lax.optimization_barrier((grads, sums))
    if split is None:
        return *jax.lax.psum((grads, sums), axis), model_state
    of_parts = lambda g: jax.lax.psum(g, DATA) if jax.lax.axis_size(DATA) > 1 else g
    flat, form = jax.tree.flatten(grads)
    parted = [part >= 0 for part in jax.tree.leaves(split)]
    whole, sums = jax.lax.psum(([g for g, own in zip(flat, parted, strict=True) if not own], sums), axis)
    rest = iter(whole)
    flat = [of_parts(g) if own else next(rest) for g, own in zip(flat, parted, strict=True)]
    return jax.tree.unflatten(form, flat), sums, model_state


def in_parts(loss: Callable, params, model_state, batch, key, micro_batches: int) -> tuple[Any, tuple, dict]:
    """(gradient of the loss sum, (sum, count, metrics), model_state) of a batch in `micro_batches` parts."""

    def loss_sum(params, model_state, part, part_key):
        total, count, metrics, new_state = loss(params, model_state, part, part_key)
        return total, (count, metrics, new_state)

    def one(model_state, part, part_key):
        (total, (count, metrics, model_state)), grads = jax.value_and_grad(loss_sum, has_aux=True)(
            params, model_state, part, part_key
        )
        return (grads, (total, count, metrics)), model_state

    if micro_batches == 1:
        (grads, sums), model_state = one(model_state, batch, key)
        return grads, sums, model_state

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

    shared, own = divide(model_state)
    part_keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(micro_batches))
    parts = (jax.tree.map(split, own), jax.tree.map(split, batch), part_keys)
    sums = jax.eval_shape(part_of, shared, jax.tree.map(lambda x: x[0], parts))[0]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sums)
    ((grads, sums), shared), own = jax.lax.scan(body, (zeros, shared), parts)
    return grads, sums, {**shared, **jax.tree.map(join, own)}


def divide(model_state) -> tuple[dict, dict]:
    """(what all rows share, {"carry": one row for each row of the batch} or {})."""
    own = {name: part for name, part in model_state.items() if name == "carry"}
    return {name: part for name, part in model_state.items() if name != "carry"}, own


def over_devices(task: Task, mesh: Mesh, state: TrainState) -> Callable[[Callable], Callable]:
    """`spread` of `train_step` on a mesh: each device works on its own rows, and what it found is summed once.

    Left to the compiler, loops with a derivative of their own are split badly: a sum over the devices in every turn, or
    activations gathered on all (docs/decisions.md). Only where an image is split over devices ("space") the compiler does
    all of it, since it finds the borders that they exchange. Of `state` the shapes are used.
    """
    if mesh.shape[SPACE] > 1:
        layout = batch_shardings(mesh, task.abstract_batch, task.spatial)
        return lambda of_rows: functools.partial(of_rows, layout=layout)
    if row_parts(mesh) == 1:
        return lambda whole: whole
    split, parts = None, PartitionSpec()
    if mesh.shape[FSDP] > 1:
        split = jax.tree.map(lambda x: fsdp_axis(x.shape, mesh.shape[FSDP]), state.params)
        parts = jax.tree.map(lambda x: parameter_spec(x.shape, mesh), state.params)
    states = {name: PartitionSpec(ROWS) if name == "carry" else PartitionSpec() for name in state.model_state}
    return lambda of_rows: jax.shard_map(
        functools.partial(of_rows, split=split),
        mesh=mesh,
        in_specs=(parts, states, PartitionSpec(ROWS), PartitionSpec()),
        out_specs=(parts, PartitionSpec(), states),
        check_vma=False,
    )


def make_train_step(task: Task, optimizer: Optimizer, mesh: Mesh, *, seed: int) -> Callable:
    """train_step under jit: (state, batch) -> (state, metrics). The state is donated, rows are split over the mesh.

    Where optimizer.average_after is set, (state, batch, averaging_from): an argument, so that the trigger compiles nothing.
    """
    shapes = abstract(task, optimizer)
    spread = over_devices(task, mesh, shapes)

    def step(state, batch, *averaging_from):
        return train_step(state, batch, *averaging_from, task=task, optimizer=optimizer, seed=seed, spread=spread)

    whole, states = replicated(mesh), state_shardings(shapes, mesh)
    batches = rows(mesh) if mesh.shape[SPACE] == 1 else batch_shardings(mesh, task.abstract_batch, task.spatial)
    return jax.jit(
        step,
        in_shardings=(states, batches, *([whole] if optimizer.average_after else [])),
        out_shardings=(states, whole),
        donate_argnums=0,
        compiler_options=dict(task.compiler_options),
    )


def make_pmap_train_step(task: Task, optimizer: Optimizer, mesh: Mesh, *, seed: int) -> Callable:
    """The same step under pmap, over the devices of one process: (state, batch) -> (state, metrics), as `make_train_step`.

    The state has no device axis: it goes in and comes out whole, only the rows of its carry are split. Raises InputError
    for several processes, and for a mesh with parts that pmap cannot have.
    """
    if jax.process_count() > 1:
        raise InputError("config.loop.driver='pmap': for one process; several use 'jit'")
    if row_parts(mesh) != mesh.shape[DATA] or mesh.shape[SPACE] > 1:
        raise InputError(
            "config.loop.driver='pmap': splits rows only; set config.mesh.fsdp and space to 1, or use 'jit'"
        )
    count = mesh.devices.size

    def step(state, batch, *averaging_from):
        return train_step(state, batch, *averaging_from, task=task, optimizer=optimizer, seed=seed)

    shapes = abstract(task, optimizer)
    axes = TrainState(None, None, {name: 0 if name == "carry" else None for name in shapes.model_state}, None, None)
    more = [None] if optimizer.average_after else []
    mapped = jax.pmap(step, DATA, in_axes=(axes, 0, *more), out_axes=(axes, None), devices=list(mesh.devices.flat))
    states = state_shardings(shapes, mesh)

    def per_device(tree):
        return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), tree)

    def with_carry(state, change):
        model_state = {name: change(x) if name == "carry" else x for name, x in state.model_state.items()}
        return state.replace(model_state=model_state)

    def run(state, batch, *averaging_from):
        state, metrics = mapped(with_carry(state, per_device), per_device(batch), *averaging_from)
        together = lambda tree: jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)
        return jax.device_put(with_carry(state, together), states), metrics

    return run


def make_eval_step(task: Task, mesh: Mesh) -> Callable:
    """task.evaluate under jit: (params, model_state, batch) -> metrics, whole on every device. A batch of evaluation has
    entries that one of training lacks, so it comes laid out by `mesh.put`."""
    return jax.jit(task.evaluate, out_shardings=replicated(mesh), compiler_options=dict(task.compiler_options))


def abstract(task: Task, optimizer: Optimizer) -> TrainState:
    """Shapes and dtypes of the states of a run."""
    return jax.eval_shape(state_maker(task.init, optimizer, seed=0, ema=optimizer.averages), task.abstract_batch)
