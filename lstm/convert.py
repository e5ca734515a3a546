"""Weights from and to PyTorch, Keras and flax: pure functions between their dicts and lists of arrays and those of `Stack`.

All three order the gates of an LSTM as i, f, the block input, o, as `lstm.cells` does; what differs is who is transposed,
who has two biases, and how layers are named. Only the default cell and its projection have a place there (PyTorch: GRU and
RNN too). What a cell computes is not all written in its weights: activations are taken to be each library's own defaults,
and a variant of `lstm.cells` with the shapes of another cell (niaf, noaf, fgr) is not found out.

One layer: layer_from_X, layer_to_X. All layers, as the parameters of `Stack`: stack_from_X, stack_to_X.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from common.errors import InputError

Params = dict[str, Any]

GATES = {"i": "i", "f": "f", "g": "z", "o": "o"}  # flax's names and ours, in the order of the blocks


def layer_from_torch(state: Mapping[str, Any], suffix: str = "_l0") -> Params:
    """A cell's parameters from a layer of the state_dict of nn.LSTM, nn.GRU or nn.RNN (tanh).

    weight_ih [nH, I], weight_hh [nH, O], bias_ih, bias_hh [nH] (absent: 0), weight_hr [O, H] where proj_size is set; each
    name ends with `suffix`: '_l0', '_l0_reverse', '_l1', ... Raises InputError where a name is missing.
    """
    for name in (f"weight_ih{suffix}", f"weight_hh{suffix}"):
        if name not in state:
            raise InputError(f"the state_dict has no {name}; its names: {', '.join(state)}")
    weights = np.asarray(state[f"weight_ih{suffix}"])
    recurrent = np.asarray(state[f"weight_hh{suffix}"])
    none = np.zeros(weights.shape[0], weights.dtype)
    first, second = (np.asarray(state.get(f"bias_{part}{suffix}", none)) for part in ("ih", "hh"))
    params = {"W": weights.T, "R": recurrent.T}
    if f"weight_hr{suffix}" in state:
        return params | {"b": first + second, "P": np.asarray(state[f"weight_hr{suffix}"]).T}
    hidden = recurrent.shape[1]
    if recurrent.shape[0] == 3 * hidden:  # GRU: the reset gate multiplies the second bias of the new state
        inner = second[2 * hidden :]
        return params | {"b": first + np.concatenate([second[: 2 * hidden], 0 * inner]), "b_R": inner}
    return params | {"b": first + second}


def layer_to_torch(params: Mapping[str, Any], suffix: str = "_l0") -> dict[str, np.ndarray]:
    """The inverse of `layer_from_torch`. bias_hh is zero, but for the inner bias of a GRU.

    Raises InputError for a cell that PyTorch does not have.
    """
    check_cell(params, "PyTorch", {"W", "R", "b"}, {"W", "R", "b", "P"}, {"W", "R", "b", "b_R"})
    bias = np.asarray(params["b"])
    second = np.zeros_like(bias)
    if "b_R" in params:
        second[-len(params["b_R"]) :] = np.asarray(params["b_R"])
    state = {
        f"weight_ih{suffix}": np.asarray(params["W"]).T,
        f"weight_hh{suffix}": np.asarray(params["R"]).T,
        f"bias_ih{suffix}": bias,
        f"bias_hh{suffix}": second,
    }
    return state | ({f"weight_hr{suffix}": np.asarray(params["P"]).T} if "P" in params else {})


def stack_from_torch(state: Mapping[str, Any]) -> Params:
    """The parameters of a `Stack` from the state_dict of nn.LSTM, nn.GRU or nn.RNN, as NumPy arrays."""
    suffixes = [name.removeprefix("weight_ih_l") for name in state if name.startswith("weight_ih_l")]
    if not suffixes:
        raise InputError(f"the state_dict has no weight_ih_l0; its names: {', '.join(state) or 'none'}")
    return {f"layer{suffix}": layer_from_torch(state, f"_l{suffix}") for suffix in suffixes}


def stack_to_torch(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The state_dict of the nn.LSTM, nn.GRU or nn.RNN with a `Stack`'s parameters; widths must be the same in all layers."""
    check_stack(params, "PyTorch")
    widths = {name: np.shape(layer["R"]) for name, layer in params.items()}
    if len(set(widths.values())) > 1:
        raise InputError(f"PyTorch has one width for all layers; here R is {widths}: convert layer by layer")
    layers = (layer_to_torch(layer, f"_l{name.removeprefix('layer')}") for name, layer in params.items())
    return {name: array for layer in layers for name, array in layer.items()}


def layer_from_keras(weights: Sequence[Any]) -> Params:
    """An LSTM's parameters from get_weights() of keras.layers.LSTM: kernel [I, 4H], recurrent_kernel [H, 4H], bias [4H]
    (use_bias=False: two arrays)."""
    if len(weights) not in (2, 3):
        raise InputError(f"a Keras LSTM has 2 or 3 arrays (kernel, recurrent_kernel, bias), here are {len(weights)}")
    kernel, recurrent = (np.asarray(x) for x in weights[:2])
    bias = np.asarray(weights[2]) if len(weights) == 3 else np.zeros(kernel.shape[1], kernel.dtype)
    return {"W": kernel, "R": recurrent, "b": bias}


def layer_to_keras(params: Mapping[str, Any]) -> list[np.ndarray]:
    """The inverse of `layer_from_keras`: what set_weights takes."""
    check_cell(params, "keras.layers.LSTM", {"W", "R", "b"}, blocks=4)
    return [np.asarray(params[name]) for name in ("W", "R", "b")]


def stack_from_keras(layers: Iterable[Sequence[Any]]) -> Params:
    """The parameters of a `Stack` from get_weights() of each layer; of Bidirectional(LSTM): 6 arrays, forward first."""
    layers = [list(weights) for weights in layers]
    if {len(weights) for weights in layers} == {6}:
        return named([[layer_from_keras(weights[:3]), layer_from_keras(weights[3:])] for weights in layers])
    return named([[layer_from_keras(weights)] for weights in layers])


def stack_to_keras(params: Mapping[str, Any]) -> list[list[np.ndarray]]:
    """The inverse of `stack_from_keras`: for each layer what set_weights takes."""
    check_stack(params, "keras.layers.LSTM")
    return [[x for way in layer for x in layer_to_keras(way)] for layer in listed(params)]


def layer_from_flax(params: Mapping[str, Any]) -> Params:
    """An LSTM's parameters from those of flax.linen.OptimizedLSTMCell or LSTMCell: kernels ii, if, ig, io [I, H], and
    hi, hf, hg, ho [H, H] with biases."""
    missing = [f"{source}{gate}" for source in "ih" for gate in GATES if f"{source}{gate}" not in params]
    if missing:
        raise InputError(
            f"a flax LSTM cell has the parts ii, if, ig, io, hi, hf, hg, ho; missing: {', '.join(missing)}"
        )

    def blocks(source, name):
        return np.concatenate([np.asarray(params[f"{source}{gate}"][name]) for gate in GATES], axis=-1)

    return {"W": blocks("i", "kernel"), "R": blocks("h", "kernel"), "b": blocks("h", "bias")}


def layer_to_flax(params: Mapping[str, Any]) -> Params:
    """The inverse of `layer_from_flax`."""
    check_cell(params, "flax.linen.OptimizedLSTMCell", {"W", "R", "b"}, blocks=4)
    parts = {name: np.split(np.asarray(params[name]), 4, axis=-1) for name in ("W", "R", "b")}
    cell = {f"i{gate}": {"kernel": kernel} for gate, kernel in zip(GATES, parts["W"], strict=True)}
    recurrent = zip(GATES, parts["R"], parts["b"], strict=True)
    return cell | {f"h{gate}": {"kernel": kernel, "bias": bias} for gate, kernel, bias in recurrent}


def stack_from_flax(layers: Iterable[Any]) -> Params:
    """The parameters of a `Stack` from those of each layer's cell; bidirectional: a pair for each, forward first."""
    return named([[layer_from_flax(p) for p in ([x] if isinstance(x, Mapping) else x)] for x in layers])


def stack_to_flax(params: Mapping[str, Any]) -> list[Any]:
    """The inverse of `stack_from_flax`."""
    check_stack(params, "flax.linen.OptimizedLSTMCell")
    layers = [tuple(layer_to_flax(way) for way in layer) for layer in listed(params)]
    return [layer[0] if len(layer) == 1 else layer for layer in layers]


def named(layers: Iterable[Iterable[Params]]) -> Params:
    """The parameters of a `Stack` from one list a layer, of one or two directions."""
    ways = ("", "_reverse")
    return {
        f"layer{n}{way}": params for n, layer in enumerate(layers) for way, params in zip(ways, layer, strict=False)
    }


def listed(params: Mapping[str, Any]) -> list[list[Params]]:
    """The inverse of `named`."""
    count = sum(not name.endswith("_reverse") for name in params)
    names = [[f"layer{n}{way}" for way in ("", "_reverse")] for n in range(count)]
    return [[params[name] for name in layer if name in params] for layer in names]


def check_stack(params: Mapping[str, Any], library: str) -> None:
    """Raises InputError for learned initial states, which would be lost."""
    states = [name for name in params if name.endswith("_initial")]
    if states:
        raise InputError(f"{library} keeps no initial state; take {', '.join(states)} out and pass them at each call")


def check_cell(params: Mapping[str, Any], library: str, *known: set[str], blocks: int = 0) -> None:
    """Raises InputError where `params` are not of a cell that `library` has: a set of names and a number of blocks."""
    hidden = np.shape(params["P"] if "P" in params else params["R"])[0]
    wide = np.shape(params["R"])[1]
    legal = (blocks,) if blocks else (3,) if "b_R" in params else (4,) if "P" in params else (1, 4)
    if set(params) not in known or wide not in [n * hidden for n in legal]:
        raise InputError(
            f"{library} has no cell with the parameters {', '.join(f'{k} {list(np.shape(x))}' for k, x in params.items())}"
        )
