"""Scores of a whole split: every example once, metrics merged on the host."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from common import data
from common import mesh as meshes
from common.errors import InputError
from common.metrics import merge
from common.plan import Plan
from common.processes import doing
from common.state import TrainState, state_shardings


def evaluate(plan: Plan, eval_step: Callable, state: TrainState, split: str) -> tuple[dict[str, float], list[str]]:
    """Scores and alarms of the whole of a split, every example once."""
    metrics = split_metrics(plan, eval_step, state.eval_params, state.model_state, split)
    return {name: float(v) for name, v in plan.task.scores(metrics).items()}, plan.task.alarms(metrics)


def split_metrics(plan: Plan, eval_step: Callable, params, model_state, split: str) -> dict[str, Any]:
    """The merged metrics of a split. They are read one batch late, while the next one runs."""
    section = plan.config.data
    batch_size = section.get("eval_batch_size", 0) or section.batch_size
    meshes.check_batch(plan.mesh, batch_size, 1, "config.data.eval_batch_size")
    params, model_state = placed(plan.mesh, params, model_state)
    merged = pending = None
    rows = data.eval_batches(
        plan.task.eval_source(split),
        batch_size=batch_size,
        process=jax.process_index(),
        processes=jax.process_count(),
        threads=section.get("threads", 2),
    )
    for number, batch in enumerate(rows):
        doing(f"evaluating {split}, batch {number}")
        metrics = eval_step(params, model_state, meshes.put(plan.mesh, batch, plan.task.spatial))
        if pending is not None:
            merged = merge(merged, jax.device_get(pending))
        pending = metrics
    if pending is None:
        raise InputError(f"the split {split!r} is empty; see config.data")
    return merge(merged, jax.device_get(pending))


def placed(mesh: Mesh, params, model_state) -> tuple[Any, Any]:
    """Both as they lie on `mesh`. In training they lie there already; a run that was opened on one device may be scored on
    several, and on those of several processes, each of which opened it."""
    state = TrainState(None, params, model_state, (), {})

    def put(x, sharding):
        if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim):
            return x
        return jax.device_put(jax.device_get(x), sharding)

    shardings = state_shardings(state, mesh)
    return jax.tree.map(put, params, shardings.params), jax.tree.map(put, model_state, shardings.model_state)
