"""A Flax module over lstm.recurrence: layers stacked, run both ways and regularised."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict
from jaxtyping import Array, Float, Int

from common import keys
from common.errors import InputError
from lstm.cells import Cell, make_cell
from lstm.recurrence import counted, recurrence


class Stack(nn.Module):
    """Recurrent layers one on the other; x [B, T, I] -> (y [B, T, O], carry), float32.

    hidden: units of each layer. cell, options: arguments of `lstm.cells.make_cell`. bidirectional: each layer runs both
    ways, its outputs concatenated, forward first: O is twice as wide. implementation, chunk, dtype: of `recurrence`.

    In training (train=True, with an rng stream "dropout") and with rates that are 0 by default:
    dropout:           between layers, not after the last (Zaremba et al. 2014). variational: one mask a sequence, the
                       same at every step (Gal & Ghahramani 2016, arXiv 1512.05287).
    recurrent_dropout: of h where it enters R, one mask a sequence and layer (the same paper, equation 7).
    zoneout:           the share of h and c that stays as it was, one rate or one for h and one for c (Krueger et al. 2017,
                       arXiv 1606.01305, equations 2 and 3). Evaluation takes the expectation.
    weight_drop:       DropConnect on R, one mask a call (Merity et al. 2017, arXiv 1708.02182, section 2).

    learned_initial: each layer's initial state is a parameter, the same for all rows. init_scale: 0 for the cells' own
    start, else all cell parameters but gains start from U(-init_scale, init_scale), biases too (Zaremba et al. 2014).

    Parameters: layer0, layer0_reverse, ..., each those of its cell, and layer0_initial, ... The carry is a tuple with one
    entry a layer (bidirectional: a pair, forward and reverse). Raises InputError for values that no layer can have.
    """

    hidden: tuple[int, ...] = (256, 256)
    cell: str = "lstm"
    options: Mapping[str, Any] = FrozenDict()
    bidirectional: bool = False
    dropout: float = 0.0
    variational: bool = False
    recurrent_dropout: float = 0.0
    zoneout: float | tuple[float, ...] = 0.0
    weight_drop: float = 0.0
    learned_initial: bool = False
    init_scale: float = 0.0
    implementation: str = "auto"
    chunk: int = 0
    dtype: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "options", FrozenDict(self.options))  # flax hashes modules
        check_hidden(self.hidden)
        for name in ("dropout", "recurrent_dropout", "weight_drop"):
            check_rate(name, getattr(self, name))
        for rate in pair(self.zoneout):
            check_rate("zoneout", rate)
        self.cells()
        super().__post_init__()

    def setup(self):
        if self.learned_initial:
            self.learned = {
                name: self.param(f"{name}_initial", learned_state, cell)
                for cell, names in zip(self.cells(), self.names(), strict=True)
                for name in names
            }

    @nn.nowrap
    def cells(self) -> tuple[Cell, ...]:
        """The cell of each layer."""
        return tuple(make_cell(self.cell, width, **dict(self.options)) for width in self.hidden)

    @nn.nowrap
    def names(self) -> list[tuple[str, ...]]:
        """The names of each layer's parameters: one a direction."""
        ways = ("", "_reverse") if self.bidirectional else ("",)
        return [tuple(f"layer{layer}{way}" for way in ways) for layer in range(len(self.hidden))]

    def initial_carry(self, batch: int) -> tuple[Any, ...]:
        """The carry before the first step: zeros, or the learned state in every row (which needs bound parameters)."""
        if self.learned_initial and self.scope is None:
            raise InputError("a learned initial carry is a parameter: apply(variables, batch, method='initial_carry')")

        def state(cell, name):
            carry = cell.initial(batch)
            if self.learned_initial:
                carry = {key: jnp.broadcast_to(self.learned[name][key], x.shape) for key, x in carry.items()}
            return carry

        layers = zip(self.cells(), self.names(), strict=True)
        states = [tuple(state(cell, name) for name in names) for cell, names in layers]
        return tuple(states) if self.bidirectional else tuple(state for (state,) in states)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t i"],
        carry: tuple[Any, ...] | None = None,
        *,
        lengths: Int[Array, "b"] | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t o"], tuple[Any, ...]]:
        """(y, carry). carry: what to start from (None: `initial_carry`). lengths, mask, resets: as in `recurrence`; the reverse
        direction goes back to the initial state where a sequence ends, the forward one where the next begins."""
        initial = self.initial_carry(x.shape[0])
        carry = initial if carry is None else carry
        if len(carry) != len(self.hidden):
            raise InputError(f"the carry has {len(carry)} layers and config.model.hidden {len(self.hidden)}")
        ends = []
        for layer, (cell, names) in enumerate(zip(self.cells(), self.names(), strict=True)):
            if layer and train and self.dropout:
                x = dropped(self.make_rng("dropout"), x, self.dropout, shared=(1,) if self.variational else ())
            starts, fresh = (s[layer] if self.bidirectional else (s[layer],) for s in (carry, initial))
            results = []
            for name, start, new in zip(names, starts, fresh, strict=True):
                params = self.param(name, cell_params, cell, x.shape[-1], self.init_scale)
                reverse = name.endswith("_reverse")
                results.append(
                    recurrence(
                        cell,
                        self.weights(params, train),
                        x,
                        start,
                        lengths=lengths,
                        mask=mask,
                        resets=ends_of(resets, lengths, mask) if reverse else resets,
                        initial=new if self.learned_initial else None,
                        reverse=reverse,
                        implementation=self.implementation,
                        chunk=self.chunk,
                        dtype=self.dtype,
                        **self.noise(cell, x.shape[0], x.shape[1], train),
                    )
                )
            x = jnp.concatenate([y for y, _ in results], axis=-1)
            ends.append(tuple(end for _, end in results) if self.bidirectional else results[0][1])
        return x, tuple(ends)

    def weights(self, params: dict[str, Any], train: bool) -> dict[str, Any]:
        """The parameters that this call uses: R with weights dropped in training."""
        dropping = train and self.weight_drop
        more = {"R": dropped(self.make_rng("dropout"), params["R"], self.weight_drop, rows=False)} if dropping else {}
        return {**params, **more}

    def noise(self, cell: Cell, batch: int, steps: int, train: bool) -> dict[str, Any]:
        """The arguments recurrent_mask and zoneout of `recurrence`, where they are used."""
        widths = {name: x.shape[-1] for name, x in jax.eval_shape(lambda: cell.initial(1)).items()}
        arguments = {}
        if train and self.recurrent_dropout:
            ones = jnp.ones((batch, widths["h"]))
            arguments["recurrent_mask"] = dropped(self.make_rng("dropout"), ones, self.recurrent_dropout)
        if any(pair(self.zoneout)):
            rates = {name: rate for name, rate in zip("hc", pair(self.zoneout), strict=True) if name in widths}
            draw = lambda name, rate: keys.bernoulli(self.make_rng("dropout"), rate, (batch, steps, widths[name]))
            kept = lambda name, rate: draw(name, rate).astype(jnp.float32)
            arguments["zoneout"] = {name: kept(name, rate) for name, rate in rates.items()} if train else rates
        return arguments


def stack_of(model: nn.Module, **more: Any) -> Stack:
    """A `Stack` with the fields of `model` that have the names of its own."""
    own = {field.name for field in dataclasses.fields(Stack)} - {"parent", "name"}
    return Stack(**{name: getattr(model, name) for name in own if hasattr(model, name)}, **more)


def dropped(
    key, x: Float[Array, "..."], rate: float, shared: tuple[int, ...] = (), rows: bool = True
) -> Float[Array, "..."]:
    """x with a share `rate` of its elements zero and the others scaled by 1 / (1 - rate); one mask along `shared` axes.

    rows: the first axis is rows of the batch, which draw by their places in it; False for weights, alike for all rows.
    """
    shape = tuple(1 if axis in shared else size for axis, size in enumerate(x.shape))
    draw = keys.bernoulli if rows else jax.random.bernoulli
    return jnp.where(draw(key, 1 - rate, shape), x / (1 - rate), 0)


def ends_of(resets, lengths, mask):
    """Where sequences end, from where they begin [B, T]: resets for the other direction. A step is the end of one where the
    next that counts begins another."""
    if resets is None:
        return None
    valid = counted(lengths, mask, *resets.shape)
    places = jnp.broadcast_to(jnp.arange(resets.shape[1])[None], resets.shape)
    places = places if valid is None else jnp.where(valid, places, resets.shape[1])
    edge = jnp.full_like(places[:, :1], resets.shape[1])
    following = jnp.concatenate([jax.lax.cummin(places, axis=1, reverse=True)[:, 1:], edge], axis=1)
    return jnp.take_along_axis(jnp.concatenate([resets, jnp.zeros_like(resets[:, :1])], axis=1), following, axis=1)


def symmetric(key, shape: tuple[int, ...], scale: float) -> Float[Array, "..."]:
    """U(-scale, scale)."""
    return jax.random.uniform(key, shape, minval=-scale, maxval=scale)


def cell_params(key, cell: Cell, inputs: int, scale: float) -> dict[str, Any]:
    """`cell.init`, or with a `scale` U(-scale, scale) for all but gains."""
    params = cell.init(key, inputs)
    if not scale:
        return params
    own = jax.random.split(key, len(params))
    return {
        name: x if name.startswith("gain") else symmetric(k, x.shape, scale)
        for k, (name, x) in zip(own, params.items(), strict=True)
    }


def learned_state(key, cell: Cell) -> dict[str, Any]:
    """One row of the cell's initial state, zero at the start of training."""
    return {name: x[0] for name, x in cell.initial(1).items()}


def pair(zoneout: float | tuple[float, ...]) -> tuple[float, ...]:
    """The rates for h and c."""
    rates = tuple(zoneout) if isinstance(zoneout, tuple | list) else (zoneout, zoneout)
    if len(rates) != 2:
        raise InputError(f"config.model.zoneout={zoneout}: give one rate, or two, for h and c")
    return rates


def check_rate(name: str, rate: float) -> None:
    if not 0 <= rate < 1:
        raise InputError(f"config.model.{name}={rate}: a rate is at least 0 and below 1")


def check_hidden(hidden: tuple[int, ...]) -> None:
    if not hidden or any(width < 1 for width in hidden):
        raise InputError(f"config.model.hidden={list(hidden)}: give the units of each layer, like [256, 256]")
