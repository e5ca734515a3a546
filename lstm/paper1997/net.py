"""The net of Hochreiter & Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997: blocks of memory cells.

The cells of a block share an input and an output gate. There is no forget gate: a cell keeps its state with weight 1.0. What
cells, input gates and output gates said at the step before goes to all of them (but in nets that are `layered` or `deaf`). All
functions are of one sequence.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lstm.cells import scaled, shifted, sigmoid

Params = dict[str, Array]


class Net(NamedTuple):
    """Sizes and connections. cells: of a block. biased: which hidden units have a bias, of 'in', 'out' (gates) and 'cell'.
    output_bias: whether the output units do. linear: outputs are what output units get, not its sigmoid. cross_entropy: that
    is what is made smaller, and not the squared error: the error of what an output unit gets is y - target, without f'.

    deaf: cells hear the inputs alone, no hidden unit and no bias: weights that the paper's net has are zero. Gates hear all.

    layered: the net of experiments 2a and 2b: one layer above another, each fed by all below it, so that hidden units see
    the inputs alone and outputs see inputs and cells; no output gate; g in [0, 1], h the identity.
    """

    inputs: int
    outputs: int
    blocks: int
    cells: int
    biased: tuple[str, ...] = ()
    output_bias: bool = False
    linear: bool = False
    cross_entropy: bool = False
    deaf: bool = False
    layered: bool = False


class State(NamedTuple):
    """y: activations of the hidden units (input gates, output gates, cells); s: states of the cells."""

    y: Float[Array, " h"]
    s: Float[Array, "b c"]


class Units(NamedTuple):
    """Something of each hidden unit: of input gates, output gates (None: there are none), cells."""

    gate_in: Float[Array, "*t b"]
    gate_out: Float[Array, "*t b"] | None
    cell: Float[Array, "*t b c"]


def g(net: Net, x: Array) -> Array:
    """What a cell's input is squashed by: into [-2, 2] (appendix A.1, equation 5), or [0, 1]."""
    return sigmoid(x) if net.layered else 4 * sigmoid(x) - 2


def h(net: Net, s: Array) -> Array:
    """What a cell's state is squashed by: into [-1, 1] (equation 4), or not."""
    return s if net.layered else 2 * sigmoid(s) - 1


def f(net: Net, x: Array) -> Array:
    """What an output unit says: in [0, 1], or any number."""
    return x if net.linear else sigmoid(x)


# Weights --------------------------------------------------------------------------------------------------------------------


def hidden_units(net: Net) -> int:
    return net.blocks * (net.cells + (1 if net.layered else 2))


def sources(net: Net) -> int:
    """Of a hidden unit: inputs, hidden units, a bias."""
    return net.inputs + (0 if net.layered else hidden_units(net)) + bool(net.biased)


def output_sources(net: Net) -> int:
    """Of an output unit: cells, inputs, a bias."""
    return net.blocks * net.cells + (net.inputs if net.layered else 0) + net.output_bias


def split(net: Net, of_units: Float[Array, "*t h"]) -> Units:
    *t, _ = of_units.shape
    gate_in, gate_out, cell = jnp.split(of_units, [net.blocks, net.blocks * (1 if net.layered else 2)], axis=-1)
    return Units(gate_in, None if net.layered else gate_out, cell.reshape(*t, net.blocks, net.cells))


def joined(units: Units) -> Float[Array, "*t h"]:
    *t, _, _ = units.cell.shape
    gates = [gate for gate in units[:2] if gate is not None]
    return jnp.concatenate([*gates, units.cell.reshape(*t, -1)], axis=-1)


def exists(net: Net) -> Params:
    """1.0 for each weight that the net has, 0.0 for those that it lacks: biases of some units, and what deaf cells do not hear."""
    hidden = jnp.ones((hidden_units(net), sources(net)))
    if net.biased:
        kinds = ("in",) if net.layered else ("in", "out")
        has = [kind in net.biased for kind in kinds for _ in range(net.blocks)]
        has += ["cell" in net.biased] * (net.blocks * net.cells)
        hidden = hidden.at[:, -1].set(jnp.array(has, jnp.float32))
    if net.deaf:
        hidden = hidden.at[-net.blocks * net.cells :, net.inputs :].set(0.0)
    return {"hidden": hidden, "output": jnp.ones((net.outputs, output_sources(net)))}


def weights(net: Net) -> int:
    """How many there are: the paper's W, tables 1 to 9."""
    return int(sum(mask.sum() for mask in exists(net).values()))


def init(
    key: Array, net: Net, *, scale: float, gate_in: tuple[float, ...] = (), gate_out: tuple[float, ...] = ()
) -> Params:
    """All weights from U(-scale, scale); biases of gates as given, a number a block, where they are."""
    kinds = jax.random.split(key)
    masks = exists(net)
    params = {
        name: mask * jax.random.uniform(kind, mask.shape, minval=-scale, maxval=scale)
        for kind, (name, mask) in zip(kinds, masks.items(), strict=True)
    }
    for first, biases in ((0, gate_in), (net.blocks, gate_out)):
        for place, bias in enumerate(biases, first):
            params["hidden"] = params["hidden"].at[place, -1].set(bias)
    return params


# Forward ----------------------------------------------------------------------------------------------------------------------


def initial(net: Net) -> State:
    """Zero, as at the start of each sequence."""
    return State(jnp.zeros(hidden_units(net)), jnp.zeros((net.blocks, net.cells)))


def by_input(
    matrix: Float[Array, "n f"], x: Float[Array, "t i"] | Int[Array, " t"], inputs: int, first: int = 0
) -> Float[Array, "t n"]:
    """What the columns [first, first + inputs) of a matrix make of the inputs: numbers, or symbols, of which one is 1."""
    columns = matrix[:, first : first + inputs]
    return columns.T[x] if jnp.issubdtype(x.dtype, jnp.integer) else x @ columns.T


def drive(net: Net, params: Params, x: Float[Array, "t i"] | Int[Array, " t"]) -> Float[Array, "t h"]:
    """What inputs and biases give to the hidden units at each step; the rest is recurrent."""
    given = by_input(params["hidden"], x, net.inputs)
    return shifted(given, params["hidden"][:, -1]) if net.biased else given


def step(net: Net, params: Params, state: State, driven: Float[Array, " h"]) -> tuple[State, Float[Array, " h"]]:
    """The next state, and what each hidden unit got (appendix A.1, equations 7 to 9)."""
    got = driven
    if not net.layered:
        recurrent = params["hidden"][:, net.inputs : net.inputs + hidden_units(net)]
        got = driven + scaled(recurrent, state.y).sum(-1)  # a tiny matrix: quicker than a matmul
    units = split(net, got)
    s = state.s + sigmoid(units.gate_in)[:, None] * g(net, units.cell)
    return State(activations(net, units, s), s), got


def activations(net: Net, got: Units, s: Float[Array, "*t b c"]) -> Float[Array, "*t h"]:
    """y of all hidden units, from what they got and the cells' states."""
    gate_out = None if net.layered else sigmoid(got.gate_out)
    said = h(net, s) if net.layered else gate_out[..., None] * h(net, s)
    return joined(Units(sigmoid(got.gate_in), gate_out, said))


def cells_of(net: Net, y: Float[Array, "*t h"]) -> Float[Array, "*t c"]:
    return y[..., -net.blocks * net.cells :]


def to_outputs(
    net: Net, params: Params, y: Float[Array, "t h"], x: Float[Array, "t i"] | Int[Array, " t"]
) -> Float[Array, "t k"]:
    """What the output units get."""
    cells = net.blocks * net.cells
    got = cells_of(net, y) @ params["output"][:, :cells].T
    if net.layered:
        got = got + by_input(params["output"], x, net.inputs, cells)
    return shifted(got, params["output"][:, -1]) if net.output_bias else got
