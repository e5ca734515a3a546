"""A cell over a whole sequence: one call, one contract, several implementations that agree.

    outputs, carry = recurrence(cell, params, inputs, carry, lengths=..., mask=..., resets=...)

scan:    the cell's step under lax.scan, the input projection inside it.
hoisted: the input projection of all steps as one matmul before the scan.
custom:  the LSTM of lstm/fused.py with a derivative of its own.
cudnn:   NVIDIA's library, by lstm/cudnn.py.
auto:    what the table of lstm/auto.py has measured to be fastest for the backend and shape.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from common.config import nearest
from common.errors import InputError
from lstm import auto, cudnn, fused
from lstm.cells import Carry, Cell, Params

IMPLEMENTATIONS = ("auto", "scan", "hoisted", "custom", "cudnn")


def recurrence(
    cell: Cell,
    params: Params,
    inputs: Float[Array, "b t i"],
    carry: Carry | None = None,
    *,
    lengths: Int[Array, " b"] | None = None,
    mask: Bool[Array, "b t"] | Float[Array, "b t"] | Int[Array, "b t"] | None = None,
    resets: Bool[Array, "b t"] | Float[Array, "b t"] | Int[Array, "b t"] | None = None,
    initial: Carry | None = None,
    recurrent_mask: Float[Array, "b o"] | None = None,
    zoneout: dict[str, Any] | None = None,
    reverse: bool = False,
    implementation: str = "auto",
    unroll: int = 0,
    chunk: int = 0,
    dtype: str = "float32",
) -> tuple[Float[Array, "b t o"], Carry]:
    """Outputs [B, T, O] and the carry after the last step that counts, of inputs [B, T, I].

    carry: what to start from; None: `initial`. initial: the state that resets go back to, rows [B, ...]; None: zeros.
    lengths, mask: a step counts where it is inside the length and its mask is not 0. A step that does not count changes
    nothing, and its output is zero. Rows of length 0 are legal. resets: where not 0 (and the step counts) the row goes
    back to `initial` before the step. reverse: from the last step to the first; padding stays where it is.
    recurrent_mask: multiplies h where it enters R (drop-out per sequence, Gal & Ghahramani 2016, scaled by its caller).
    zoneout (Krueger et al. 2017): {"h": share, "c": share} of the old state that each step keeps, a number or [B, T, width].
    unroll: steps in one turn of the loop; 0: as the table says. chunk: the gradient keeps the carry of every chunk-th step
    only and computes the steps between again, so that it needs O(chunk + T / chunk) carries; 0: off, -1: sqrt(T).
    dtype: what the matmuls are computed in; the state is float32 (float64 where the parameters are).

    Raises InputError for an unknown implementation, and for an option that the named one does not support.
    """
    batch, time, _ = inputs.shape
    wide = jnp.promote_types(params["R"].dtype, jnp.float32)
    zero = jax.tree.map(lambda x: x.astype(wide), cell.initial(batch))
    initial = zero if initial is None else initial
    carry = initial if carry is None else carry
    if time == 0:
        return jnp.zeros((batch, 0, cell.outputs), wide), carry
    needs = {
        "mask": mask is not None,
        "resets": resets is not None,
        "recurrent_mask": recurrent_mask is not None,
        "zoneout": zoneout is not None,
    }
    shape = (batch, time, inputs.shape[-1], cell.hidden)
    kind = dtype if wide == jnp.float32 else str(wide)  # float64 parameters: cuDNN would read their bytes as float32
    if implementation == "auto":
        choice = auto.choose(cell, shape, needs, kind)
        implementation, unroll = choice.implementation, unroll or choice.unroll
    elif implementation not in IMPLEMENTATIONS:
        raise InputError(
            f"config.model.implementation={implementation!r}: no such one; {nearest(implementation, IMPLEMENTATIONS)}"
        )
    else:
        missing = auto.unsupported(implementation, cell, needs, kind)
        if missing:
            raise InputError(
                f"config.model.implementation={implementation!r} does not support {missing}; use 'auto' or 'scan'"
            )
    unroll = unroll or auto.unroll(implementation, shape)
    if implementation == "cudnn":
        return cudnn.lstm(params, inputs, carry, lengths=lengths, reverse=reverse)

    steps = {"x": inputs.swapaxes(0, 1)}
    valid = counted(lengths, mask, batch, time)
    if valid is not None:
        steps["valid"] = valid.T
    if resets is not None:
        steps["reset"] = (resets != 0).T
    for name, share in (zoneout or {}).items():
        share = jnp.asarray(share, wide)
        steps[f"keep_{name}"] = (
            share.swapaxes(0, 1) if share.ndim == 3 else jnp.broadcast_to(share, (time, *carry[name].shape))
        )
    if reverse:
        steps = jax.tree.map(lambda x: x[::-1], steps)
    chunk = math.isqrt(time) if chunk < 0 else chunk

    def run(carry, steps):
        if implementation == "custom":
            return fused.lstm(params, carry, steps, initial, recurrent_mask, unroll=unroll, dtype=dtype)
        weights = cast(params, dtype)
        return by_scan(cell, weights, carry, steps, initial, recurrent_mask, implementation == "hoisted", unroll)

    outputs, carry = in_chunks(run, carry, steps, chunk) if 0 < chunk < time else run(carry, steps)
    outputs = outputs[::-1] if reverse else outputs
    return outputs.swapaxes(0, 1), carry


def counted(lengths, mask, batch: int, time: int) -> Bool[Array, "b t"] | None:
    """Which steps count; None where all do."""
    valid = None
    if lengths is not None:
        valid = jnp.arange(time)[None] < lengths[:, None]
    if mask is not None:
        valid = (mask != 0) if valid is None else valid & (mask != 0)
    return valid


def cast(params: Params, dtype: str) -> Params:
    """Matrices that enter a matmul in the compute type, where that is a half precision; else all as they are."""
    if jnp.dtype(dtype).itemsize >= 4:
        return params
    return params | {name: params[name].astype(dtype) for name in ("W", "R", "P") if name in params}


def by_scan(cell: Cell, params: Params, carry: Carry, steps, initial: Carry, recurrent_mask, hoist: bool, unroll: int):
    """(outputs [T, B, O], carry) by lax.scan over `steps`, time-major."""
    if hoist:
        steps = steps | {"z": cell.project(params, steps["x"])}
        del steps["x"]

    def body(carry, now):
        before = carry
        if "reset" in now:
            carry = select(now["reset"], initial, carry)
        z = now["z"] if hoist else cell.project(params, now["x"])
        new = cell.step(params, carry, z, recurrent_mask)
        for name in new:
            if f"keep_{name}" in now:
                new[name] = now[f"keep_{name}"] * carry[name] + (1 - now[f"keep_{name}"]) * new[name]
        out = new["h"]
        if "valid" in now:
            new = select(now["valid"], new, before)
            out = jnp.where(now["valid"][:, None], out, 0)
        return new, out

    carry, outputs = jax.lax.scan(body, carry, steps, unroll=unroll)
    return outputs, carry


def select(rows: Bool[Array, " b"], this, that):
    """Rows of `this` where true, else of `that`."""
    return jax.tree.map(lambda a, b: jnp.where(rows[:, None], a, b), this, that)


def in_chunks(run, carry: Carry, steps, chunk: int):
    """`run` over chunks of steps under a rematerialised scan. The last chunk is filled with steps that do not count."""
    time, batch = steps["x"].shape[:2]
    fill = -time % chunk
    if fill:
        steps = {"valid": jnp.ones((time, batch), bool)} | steps
        steps = jax.tree.map(lambda x: jnp.pad(x, [(0, fill)] + [(0, 0)] * (x.ndim - 1)), steps)
    steps = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), steps)

    @jax.checkpoint
    def body(carry, part):
        outputs, carry = run(carry, part)
        return carry, outputs

    carry, outputs = jax.lax.scan(body, carry, steps)
    return outputs.reshape(-1, *outputs.shape[2:])[:time], carry
