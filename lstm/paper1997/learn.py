"""How the net of 1997 learns: the truncated gradient, run forward in time (appendix A.1), and the gradient without truncation.

An error that arrives at what a memory cell or a gate gets is not passed on to what it came from: only the cells' own
connections, of weight 1.0, carry errors back in time. Then ds/dw of a cell and a weight is a sum over the steps so far of what
is local to them, a trace; with the error at a step it gives that step's share of the gradient. Nothing is kept of earlier steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lstm.cells import sigmoid
from lstm.paper1997 import net as nets
from lstm.paper1997.net import Net, Params, State, Units


class Sequence(NamedTuple):
    """x: what the inputs are at each step, or which of them is 1. target: of the outputs at each step, or one for all. judged:
    the steps that have one. length: steps up to the last of these; what follows is padding."""

    x: Float[Array, "t i"] | Int[Array, " t"]
    target: Float[Array, "t_or_1 k"]
    judged: Bool[Array, " t"]
    length: Int[Array, ""]


class Outcome(NamedTuple):
    """y: the outputs at the last judged step. worst: the largest |target - y| of all judged steps and outputs."""

    y: Float[Array, " k"]
    worst: Float[Array, ""]


class Traces(NamedTuple):
    """ds/dw of each cell: for the weights into its input gate, and into itself."""

    gate_in: Float[Array, "b c f"]
    cell: Float[Array, "b c f"]


class Before(NamedTuple):
    """What is carried from some steps to the next."""

    state: State
    traces: Traces
    gradient: Params
    outcome: Outcome


def slope(f, x: Array) -> Array:
    """f'(x) of an elementwise f."""
    return jax.jvp(f, (x,), (jnp.ones_like(x),))[1]


def truncated(net: Net, params: Params, sequence: Sequence, *, chunk: int = 64) -> tuple[Params, Outcome]:
    """The truncated gradient of half the squared error (or the cross-entropy), summed over outputs and judged steps; and the
    outcome.

    chunk: steps, at most, whose traces are added up at once: memory goes by it and not by the length. The result does not.
    """
    steps = len(sequence.judged)
    chunk = -(-steps // -(-steps // chunk))  # as many turns as it takes, of equal length
    after = turns(net, sequence, chunk, begin(net, params), lambda before, some: advance(net, params, before, *some))
    return jax.tree.map(jnp.multiply, after.gradient, nets.exists(net)), after.outcome


def stepwise(net: Net, params: Params, sequence: Sequence, rate: float) -> tuple[Params, Outcome]:
    """Gradient descent by `rate` at each step that has a target, along that step's share of the truncated gradient; traces are
    those of the weights as they were. Returns the new weights."""
    exists = nets.exists(net)

    def turn(carried: tuple[Params, Before], some: tuple) -> tuple[Params, Before]:
        params, before = carried
        after = advance(net, params, before, *some)
        params = jax.tree.map(lambda w, d, is_there: w - rate * d * is_there, params, after.gradient, exists)
        return params, after._replace(gradient=before.gradient)  # zero

    params, after = turns(net, sequence, 1, (params, begin(net, params)), turn)
    return params, after.outcome


def begin(net: Net, params: Params) -> Before:
    """Before the first step."""
    traces = Traces(*(jnp.zeros((net.blocks, net.cells, nets.sources(net))) for _ in range(2)))
    outcome = Outcome(jnp.zeros(net.outputs), jnp.zeros(()))
    return Before(nets.initial(net), traces, jax.tree.map(jnp.zeros_like, params), outcome)


def turns(net: Net, sequence: Sequence, chunk: int, carried: Any, turn: Callable[[Any, tuple], Any]) -> Any:
    """turn(carried, (x, target, judged) of the next `chunk` steps) -> carried, up to the last judged step."""
    more = -len(sequence.judged) % chunk
    pad = lambda a: jnp.pad(a, ((0, more), *((0, 0) for _ in a.shape[1:]))) if len(a) > 1 else a
    padded = [pad(a) for a in sequence[:3]]

    def body(at: tuple[Array, Any]) -> tuple[Array, Any]:
        start, carried = at
        some = [jax.lax.dynamic_slice_in_dim(a, start, chunk) if len(a) > 1 else a for a in padded]
        return start + chunk, turn(carried, tuple(some))

    return jax.lax.while_loop(lambda at: at[0] < sequence.length, body, (jnp.zeros((), jnp.int32), carried))[1]


def advance(net: Net, params: Params, before: Before, x: Array, target: Array, judged: Array) -> Before:
    """Some steps more: forward, then what they add to the gradient and to the traces."""

    def step(state: State, driven: Array) -> tuple[State, tuple[Array, Array]]:
        new, got = nets.step(net, params, state, driven)
        return new, (got, new.s)

    state, (got, s) = jax.lax.scan(step, before.state, nets.drive(net, params, x), unroll=8)
    units = nets.split(net, got)
    y = nets.activations(net, units, s)
    earlier = jnp.concatenate([before.state.y[None], y[:-1]])

    to_output = nets.to_outputs(net, params, y, x)
    said = lambda x: nets.f(net, x)
    error = jnp.where(judged[:, None], said(to_output) - target, 0.0)
    delta = error if net.cross_entropy else error * slope(said, to_output)  # of an output unit
    cells = net.blocks * net.cells
    back = (delta @ params["output"][:, :cells]).reshape(-1, net.blocks, net.cells)

    at_state = slope(lambda s: nets.h(net, s), s) * back  # of a cell's state
    gate_out = None
    if not net.layered:
        gate_out = slope(sigmoid, units.gate_out) * (nets.h(net, s) * back).sum(-1)
        at_state = sigmoid(units.gate_out)[..., None] * at_state
    # Errors of this step and of those after it: the state passes them on as they are.
    later = jnp.cumsum(at_state[::-1], axis=0)[::-1]
    # By how much what a cell adds to its state changes with what it got, and its gate.
    by_cell = sigmoid(units.gate_in)[..., None] * slope(lambda got: nets.g(net, got), units.cell)
    by_gate = nets.g(net, units.cell) * slope(sigmoid, units.gate_in)[..., None]

    to = lambda rows: outer(net, rows, x, earlier)
    local = nets.joined(Units((later * by_gate).sum(-1), gate_out, later * by_cell))
    gate_in, cell = ((later[0][..., None] * trace) for trace in before.traces)
    whole = to(jnp.concatenate([by_gate.reshape(len(s), -1), by_cell.reshape(len(s), -1)], axis=-1))
    traces = Traces(*(t + w.reshape(t.shape) for t, w in zip(before.traces, jnp.split(whole, 2), strict=True)))
    far = Units(gate_in.sum(1).T, None if net.layered else jnp.zeros_like(gate_in.sum(1).T), jnp.moveaxis(cell, -1, 0))
    gradient = {
        "hidden": before.gradient["hidden"] + to(local) + nets.joined(far).T,
        "output": before.gradient["output"] + output_outer(net, delta, x, y),
    }
    last = len(judged) - 1 - jnp.argmax(judged[::-1])
    outcome = Outcome(
        jnp.where(judged.any(), said(to_output[last]), before.outcome.y),
        jnp.maximum(before.outcome.worst, jnp.abs(error).max()),
    )
    return Before(state, traces, gradient, outcome)


def outer(net: Net, rows: Float[Array, "t n"], x: Array, earlier: Float[Array, "t h"]) -> Float[Array, "n f"]:
    """The sum over steps of rows x what the sources of hidden units said."""
    parts = [by_inputs(rows, x, net.inputs)]
    if not net.layered:
        parts.append(rows.T @ earlier)
    return jnp.concatenate([*parts, *([rows.sum(0)[:, None]] if net.biased else [])], axis=1)


def output_outer(net: Net, delta: Float[Array, "t k"], x: Array, y: Float[Array, "t h"]) -> Float[Array, "k f"]:
    parts = [delta.T @ nets.cells_of(net, y)]
    if net.layered:
        parts.append(by_inputs(delta, x, net.inputs))
    return jnp.concatenate([*parts, *([delta.sum(0)[:, None]] if net.output_bias else [])], axis=1)


def by_inputs(rows: Float[Array, "t n"], x: Array, inputs: int) -> Float[Array, "n i"]:
    if jnp.issubdtype(x.dtype, jnp.integer):
        return jnp.zeros((inputs, rows.shape[1])).at[x].add(rows).T
    return rows.T @ x


# Forward, and by automatic differentiation --------------------------------------------------------------------------------------


def forward(net: Net, params: Params, x: Array, *, cut: bool = False) -> Float[Array, "t k"]:
    """What the output units get at each step; `nets.f` makes outputs of it. cut: what hidden units said takes no part in
    derivatives where hidden units hear it: the truncation."""

    def step(state: State, driven: Array) -> tuple[State, Array]:
        new, _ = nets.step(net, params, state._replace(y=jax.lax.stop_gradient(state.y)) if cut else state, driven)
        return new, new.y

    _, y = jax.lax.scan(step, nets.initial(net), nets.drive(net, params, x), unroll=8)
    return nets.to_outputs(net, params, y, x)


def squared(y: Float[Array, "t k"], sequence: Sequence) -> tuple[Float[Array, ""], Outcome]:
    """Half the squared error, summed over outputs and judged steps."""
    error = jnp.where(sequence.judged[:, None], y - sequence.target, 0.0)
    return 0.5 * (error**2).sum(), Outcome(y[sequence.length - 1], jnp.abs(error).max())


def exact(net: Net, params: Params, sequence: Sequence, *, cut: bool = False) -> tuple[Params, Outcome]:
    """The gradient by back-propagation through all steps, which are kept; without truncation, or with it (cut)."""

    def loss(params: Params) -> tuple[Array, Outcome]:
        got = forward(net, params, sequence.x, cut=cut)
        half, outcome = squared(nets.f(net, got), sequence)
        if not net.cross_entropy:
            return half, outcome
        each = jax.nn.softplus(got) - sequence.target * got
        return jnp.where(sequence.judged[:, None], each, 0.0).sum(), outcome

    gradient, outcome = jax.grad(loss, has_aux=True)(params)
    return jax.tree.map(jnp.multiply, gradient, nets.exists(net)), outcome
