"""Recurrent cells: each a frozen, hashable record of its options with pure functions `init`, `initial`, `project`, `step`.

A step is split where an implementation may cut it: `project` is what the input alone decides (one matmul for all time
steps, if one likes), `step` the rest. The names of the parameters are those of Greff et al., "LSTM: A Search Space
Odyssey" (arXiv 1503.04069, section II): W input weights, R recurrent weights, p peepholes, b biases; gates i, f, o and the
block input z. A carry is a dict: h, the output or working memory, and c, the cell or long-term memory. It is float32 (or
wider) whatever the matmuls are computed in.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from common.config import check_keys, nearest
from common.errors import InputError

Params = dict[str, Any]
Carry = dict[str, Any]


def matmul(x: Float[Array, "*rows i"], weights: Float[Array, "i o"]) -> Float[Array, "*rows o"]:
    """x @ weights in the type of `weights`, the result in float32 or wider."""
    wide = jnp.promote_types(weights.dtype, jnp.float32)
    return jnp.matmul(x.astype(weights.dtype), weights, preferred_element_type=wide)


def uniform(key, shape: tuple[int, ...], fan: int) -> Float[Array, "..."]:
    """U(-1/sqrt(fan), 1/sqrt(fan)), the usual start of recurrent nets."""
    return jax.random.uniform(key, shape, minval=-(fan**-0.5), maxval=fan**-0.5)


def zeros(batch: int, **widths: int) -> Carry:
    return {name: jnp.zeros((batch, width)) for name, width in widths.items()}


def layer_norm(x: Float[Array, "*rows n"]) -> Float[Array, "*rows n"]:
    """Mean 0 and variance 1 over the last axis (Ba et al. 2016, arXiv 1607.06450, equation 2), without gain and bias."""
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5)


def sigmoid(x):
    """1 / (1 + exp(-x)), by tanh: XLA's CPU code for tanh is faster than its logistic."""
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


def scaled(x, gain):
    """x [..., n] * gain [n]."""
    return x * jnp.broadcast_to(gain, x.shape)


def shifted(x, bias):
    """x [..., n] + bias [n]."""
    return x + jnp.broadcast_to(bias, x.shape)


@dataclasses.dataclass(frozen=True)
class LSTM:
    """The LSTM with input, forget and output gate (Gers et al. 2000; Greff et al. 2015, section II), and its variants.

    z = g(W_z x + R_z h + b_z)   i = s(W_i x + R_i h + p_i c + b_i)   f = s(W_f x + R_f h + p_f c + b_f)
    c' = i z + f c               o = s(W_o x + R_o h + p_o c' + b_o)  h' = o g(c')      with g = tanh, s = sigmoid

    peephole: the terms in p (Gers & Schmidhuber 2000); without it they are absent. coupled: f = 1 - i (CIFG).
    input_gate, forget_gate, output_gate: False sets that gate to 1 (NIG, NFG, NOG). input_activation, output_activation:
    False replaces that g by the identity (NIAF, NOAF). full_gate_recurrence: the gates of the last step are recurrent
    sources too (FGR). layer_norm: Ba et al. 2016, equations 20 to 22, normalised over all gates together.
    projection: width of h, of P (o g(c')) (LSTMP, Sak et al. 2014); 0 for none. forget_bias: what b_f starts from (Jozefowicz
    et al. 2015: 1); all else starts from U(-1/sqrt(hidden), 1/sqrt(hidden)), biases from 0.

    Parameters: W [I, nH], R [O, nH], b [nH], blocks in the order i, f, z, o of those that exist.
    """

    hidden: int
    peephole: bool = False
    coupled: bool = False
    layer_norm: bool = False
    input_gate: bool = True
    forget_gate: bool = True
    output_gate: bool = True
    input_activation: bool = True
    output_activation: bool = True
    full_gate_recurrence: bool = False
    projection: int = 0
    forget_bias: float = 1.0

    def __post_init__(self):
        if self.coupled and not (self.input_gate and self.forget_gate):
            raise InputError("config.model.options.coupled=True: a coupled cell has its input and forget gate")
        if self.layer_norm and self.full_gate_recurrence:
            raise InputError("config.model.options: layer_norm and full_gate_recurrence do not go together")

    @property
    def outputs(self) -> int:
        """The width of h."""
        return self.projection or self.hidden

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks of W, R and b, in order."""
        present = {"i": self.input_gate, "f": self.forget_gate and not self.coupled, "z": True, "o": self.output_gate}
        return tuple(name for name, there in present.items() if there)

    @property
    def gate_blocks(self) -> tuple[str, ...]:
        return tuple(name for name in self.blocks if name != "z")

    @property
    def plain(self) -> bool:
        """True for the default cell, whatever its width and forget bias."""
        return dataclasses.replace(self, hidden=1, forget_bias=1.0) == LSTM(1)

    def init(self, key, inputs: int) -> Params:
        """Fresh parameters for inputs of width `inputs`."""
        keys = dict(zip(("W", "R", "p", "P"), jax.random.split(key, 4), strict=True))
        wide, sources = len(self.blocks) * self.hidden, self.outputs
        sources += len(self.gate_blocks) * self.hidden if self.full_gate_recurrence else 0
        bias = jnp.zeros(wide)
        if "f" in self.blocks:
            start = self.blocks.index("f") * self.hidden
            bias = bias.at[start : start + self.hidden].set(self.forget_bias)
        params = {
            "W": uniform(keys["W"], (inputs, wide), self.hidden),
            "R": uniform(keys["R"], (sources, wide), self.hidden),
            "b": bias,
        }
        if self.peephole:
            params["p"] = uniform(keys["p"], (len(self.gate_blocks), self.hidden), self.hidden)
        if self.projection:
            params["P"] = uniform(keys["P"], (self.hidden, self.projection), self.hidden)
        if self.layer_norm:
            params |= {"gain_W": jnp.ones(wide), "gain_R": jnp.ones(wide)}
            params |= {"gain_c": jnp.ones(self.hidden), "b_c": jnp.zeros(self.hidden)}
        return params

    def initial(self, batch: int) -> Carry:
        gates = {"gates": len(self.gate_blocks) * self.hidden} if self.full_gate_recurrence else {}
        return zeros(batch, h=self.outputs, c=self.hidden, **gates)

    def project(self, params: Params, x: Float[Array, "*rows i"]) -> Float[Array, "*rows n"]:
        """W x + b of all blocks (layer norm: of the normalised W x)."""
        z = matmul(x, params["W"])
        if self.layer_norm:
            z = scaled(layer_norm(z), params["gain_W"])
        return shifted(z, params["b"])

    def step(self, params: Params, carry: Carry, z: Float[Array, "b n"], recurrent_mask=None) -> Carry:
        """One step; the output is carry["h"]. recurrent_mask [B, O] multiplies h where it enters R."""
        return self.finish(params, carry, self.gates(params, carry, z, recurrent_mask))

    def gates(self, params: Params, carry: Carry, z: Float[Array, "b n"], recurrent_mask=None) -> dict[str, Any]:
        """Activated i, f, z, o [B, H] of a step, and the new cell state c."""
        h, c = carry["h"], carry["c"]
        source = h if recurrent_mask is None else h * recurrent_mask
        if self.full_gate_recurrence:
            source = jnp.concatenate([source, carry["gates"]], axis=-1)
        recurrent = matmul(source, params["R"])
        if self.layer_norm:
            recurrent = scaled(layer_norm(recurrent), params["gain_R"])
        net = dict(zip(self.blocks, jnp.split(z + recurrent, len(self.blocks), axis=-1), strict=True))
        peep = dict(zip(self.gate_blocks, params["p"], strict=True)) if self.peephole else {}
        one = jnp.ones_like(c)

        def gate(name, memory):
            if name not in net:
                return one
            return sigmoid(net[name] + scaled(memory, peep[name]) if self.peephole else net[name])

        i = gate("i", c)
        f = 1 - i if self.coupled else gate("f", c)
        block = jnp.tanh(net["z"]) if self.input_activation else net["z"]
        c = i * block + f * c
        return {"i": i, "f": f, "z": block, "o": gate("o", c), "c": c}

    def finish(self, params: Params, carry: Carry, gates: dict[str, Any]) -> Carry:
        """The carry from the activated gates."""
        c = gates["c"]
        memory = shifted(scaled(layer_norm(c), params["gain_c"]), params["b_c"]) if self.layer_norm else c
        h = gates["o"] * (jnp.tanh(memory) if self.output_activation else memory)
        if self.projection:
            h = matmul(h, params["P"])
        new = {"h": h, "c": c}
        if self.full_gate_recurrence:
            new["gates"] = jnp.concatenate([gates[name] for name in self.gate_blocks], axis=-1)
        return new


@dataclasses.dataclass(frozen=True)
class GRU:
    """The gated recurrent unit (Cho et al. 2014), its reset gate after the recurrent matmul, as in cuDNN and PyTorch.

    r = s(W_r x + R_r h + b_r)   u = s(W_u x + R_u h + b_u)   n = tanh(W_n x + b_n + r (R_n h + b_R))   h' = (1 - u) n + u h

    Parameters: W [I, 3H], R [H, 3H], b [3H] in the order r, u, n; b_R [H].
    """

    hidden: int

    @property
    def outputs(self) -> int:
        return self.hidden

    def init(self, key, inputs: int) -> Params:
        first, second = jax.random.split(key)
        h = self.hidden
        return {
            "W": uniform(first, (inputs, 3 * h), h),
            "R": uniform(second, (h, 3 * h), h),
            "b": jnp.zeros(3 * h),
            "b_R": jnp.zeros(h),
        }

    def initial(self, batch: int) -> Carry:
        return zeros(batch, h=self.hidden)

    def project(self, params: Params, x: Float[Array, "*rows i"]) -> Float[Array, "*rows n"]:
        return shifted(matmul(x, params["W"]), params["b"])

    def step(self, params: Params, carry: Carry, z: Float[Array, "b n"], recurrent_mask=None) -> Carry:
        h = carry["h"]
        recurrent = matmul(h if recurrent_mask is None else h * recurrent_mask, params["R"])
        reset_z, update_z, new_z = jnp.split(z, 3, axis=-1)
        reset_r, update_r, new_r = jnp.split(recurrent, 3, axis=-1)
        reset, update = sigmoid(reset_z + reset_r), sigmoid(update_z + update_r)
        new = jnp.tanh(new_z + reset * shifted(new_r, params["b_R"]))
        return {"h": (1 - update) * new + update * h}


@dataclasses.dataclass(frozen=True)
class RNN:
    """The plain recurrent net (Elman 1990): h' = tanh(W x + R h + b). Parameters: W [I, H], R [H, H], b [H]."""

    hidden: int

    @property
    def outputs(self) -> int:
        return self.hidden

    def init(self, key, inputs: int) -> Params:
        first, second = jax.random.split(key)
        h = self.hidden
        return {"W": uniform(first, (inputs, h), h), "R": uniform(second, (h, h), h), "b": jnp.zeros(h)}

    def initial(self, batch: int) -> Carry:
        return zeros(batch, h=self.hidden)

    def project(self, params: Params, x: Float[Array, "*rows i"]) -> Float[Array, "*rows n"]:
        return shifted(matmul(x, params["W"]), params["b"])

    def step(self, params: Params, carry: Carry, z: Float[Array, "b n"], recurrent_mask=None) -> Carry:
        h = carry["h"]
        return {"h": jnp.tanh(z + matmul(h if recurrent_mask is None else h * recurrent_mask, params["R"]))}


Cell = LSTM | GRU | RNN

# A name for each variant: the cell and the options that make it.
CELLS: dict[str, tuple[type, dict[str, Any]]] = {
    "lstm": (LSTM, {}),
    "peephole": (LSTM, {"peephole": True}),
    "cifg": (LSTM, {"coupled": True}),
    "layer_norm": (LSTM, {"layer_norm": True}),
    "nig": (LSTM, {"input_gate": False}),
    "nfg": (LSTM, {"forget_gate": False}),
    "nog": (LSTM, {"output_gate": False}),
    "niaf": (LSTM, {"input_activation": False}),
    "noaf": (LSTM, {"output_activation": False}),
    "fgr": (LSTM, {"full_gate_recurrence": True}),
    "gru": (GRU, {}),
    "rnn": (RNN, {}),
}


def make_cell(name: str, hidden: int, **options: Any) -> Cell:
    """The cell `name` of CELLS with `hidden` units; `options` are further fields of its record.

    Raises InputError for an unknown name or option.
    """
    if name not in CELLS:
        raise InputError(f"config.model.cell={name!r}: no such cell; {nearest(name, CELLS)}")
    kind, own = CELLS[name]
    check_keys(kind, "model.options", options)
    return kind(hidden, **(own | options))
