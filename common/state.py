"""TrainState: what a checkpoint holds, and its birth under jit with its shardings."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Int

from common import keys
from common.mesh import parameter_spec, replicated, rows
from common.optimizer import Optimizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """step: int32 scalar, steps done. params, opt_state: pytrees. model_state: dict of batch statistics and carries.
    ema: an average of params (exponential, or the mean since a trigger), or {} where none is kept."""

    step: Any
    params: Any
    model_state: Any
    opt_state: Any
    ema: Any

    def replace(self, **changes: Any) -> "TrainState":
        return dataclasses.replace(self, **changes)

    @property
    def eval_params(self) -> Any:
        """The averaged parameters where an average is kept, else the parameters."""
        return self.ema or self.params


def state_shardings(state: TrainState, mesh: Mesh) -> TrainState:
    """How a state lies on a mesh, leaf by leaf: parameters, their average and what the optimiser holds of them by
    `mesh.parameter_spec`; the rows of model_state["carry"] like those of a batch; all else whole on every device."""
    whole, by_size = replicated(mesh), lambda x: NamedSharding(mesh, parameter_spec(x.shape, mesh))
    return TrainState(
        whole,
        jax.tree.map(by_size, state.params),
        {
            name: jax.tree.map(lambda _, name=name: rows(mesh) if name == "carry" else whole, part)
            for name, part in state.model_state.items()
        },
        jax.tree.map(by_size, state.opt_state),
        jax.tree.map(by_size, state.ema),
    )


def state_maker(init: Callable, optimizer: Optimizer, *, seed: int | Int[Array, ""], ema: bool) -> Callable:
    """A function of one abstract or real batch that makes the state: pure, so that eval_shape and jit both take it."""

    def make(batch) -> TrainState:
        params, model_state = init(keys.at(seed, "init"), batch)
        average = jax.tree.map(jnp.copy, params) if ema else {}
        return TrainState(jnp.zeros((), jnp.int32), params, model_state, optimizer.init(params), average)

    return make


def abstract_state(make: Callable, batch, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state, without making it: what restoring needs."""
    shapes = jax.eval_shape(make, batch)
    placed = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return jax.tree.map(placed, shapes, state_shardings(shapes, mesh))


def create_state(make: Callable, batch, mesh: Mesh) -> TrainState:
    """The state, born under jit on the devices that will hold it. `batch` needs shapes and dtypes only."""
    born = lambda: make(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch))
    return jax.jit(born, out_shardings=state_shardings(jax.eval_shape(make, batch), mesh))()


def transplant(source, target) -> tuple[Any, list[str]]:
    """`target` with every leaf that `source` has in the same place, shape and dtype; and a line for each that it has not."""
    found = {
        jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in jax.tree_util.tree_leaves_with_path(source)
    }
    missing = []

    def pick(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        other = found.get(name)
        if other is None or other.shape != leaf.shape or other.dtype != leaf.dtype:
            missing.append(f"{name}: {'absent' if other is None else list(other.shape)} there, {list(leaf.shape)} here")
            return leaf
        return jax.device_put(jnp.copy(jax.device_get(other)), leaf.sharding)

    return jax.tree_util.tree_map_with_path(pick, target), missing
