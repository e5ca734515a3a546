"""The LSTM over a sequence with a derivative of its own: few operations in the loop, matmuls outside it.

Forward, the input projection of a chunk of steps is one matmul, and the loop does one matmul and one pass over the
gates for each step. It keeps h and c. Backward, a chunk's gates are computed again by one matmul, the loop does one
matmul and one pass for each step, and the weight gradients of the chunk are one matmul each. Short chunks keep what
the loop reads in the cache; where weights are large, adding up their gradients once a chunk costs more than that saves.
The three sigmoids and tanh are one tanh over all gates, s(x) = 0.5 tanh(0.5 x) + 0.5, with the inner 0.5 folded into
the weights.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lstm.cells import Carry, Params, matmul

SMALL_WEIGHTS = 1 << 20  # bytes of W and R: below it, a cache holds them and the gates of a few steps as well
SHORT_CHUNK = 20  # steps, where weights are small
CHUNK_BYTES = 1 << 26  # of the gates of a chunk, at most: what is computed again at a time


def lstm(params: Params, carry: Carry, steps: dict, initial: Carry, recurrent_mask, *, unroll: int, dtype: str):
    """(outputs [T, B, H], carry) of the plain LSTM with parameters W, R, b; blocks i, f, z, o.

    steps, time-major: x [T, B, I], and where they are needed valid [T, B] and reset [T, B].
    """
    time, batch, _ = steps["x"].shape
    hidden = carry["c"].shape[-1]
    scale = jnp.repeat(jnp.array([0.5, 0.5, 1.0, 0.5]), hidden).astype(params["R"].dtype)
    weights = {name: params[name] * jnp.broadcast_to(scale, params[name].shape) for name in ("W", "R", "b")}
    rows = {"carry": carry}
    if "reset" in steps:
        rows["initial"] = initial
    if recurrent_mask is not None:
        rows["mask"] = recurrent_mask
    kind = weights["R"].dtype
    flags = {name: steps[name].astype(kind) for name in ("valid", "reset") if name in steps}
    narrow = dtype if jnp.dtype(dtype).itemsize < 4 else str(kind)
    small = is_small(weights)
    target = SHORT_CHUNK if small else max(1, CHUNK_BYTES // (batch * 4 * hidden * 4))
    pieces = max(1, round(time / target))
    chunk = time // pieces
    whole = pieces * chunk
    outputs = []
    for start, stop, size in ((0, whole, chunk), (whole, time, time - whole)):
        if start < stop:
            part = {name: x[start:stop] for name, x in flags.items()}
            out, rows["carry"] = core(weights, steps["x"][start:stop], rows, part, size, unroll, narrow)
            outputs.append(out)
    return (outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs)), rows["carry"]


def is_small(weights) -> bool:
    return (weights["W"].size + weights["R"].size) * 4 < SMALL_WEIGHTS


def chunks(x, size: int):
    return x.reshape(-1, size, *x.shape[1:])


def rows_of(x):
    """x as rows: a matmul over two leading axes is slower."""
    return x.reshape(-1, x.shape[-1])


def unchunk(x):
    return x.reshape(-1, *x.shape[2:])


def gates(t: Float[Array, "*rows n"]):
    """i, f, z, o from tanh of the scaled gates."""
    i, f, z, o = jnp.split(t, 4, axis=-1)
    return 0.5 * i + 0.5, 0.5 * f + 0.5, z, 0.5 * o + 0.5


def masked(h, rows):
    return h * rows["mask"] if "mask" in rows else h


def restart(carry, now, rows):
    """The carry, back at the initial state where a reset says so."""
    if "reset" not in now:
        return carry
    again = now["reset"][:, None] != 0
    return tuple(jnp.where(again, rows["initial"][name], old) for name, old in zip("hc", carry, strict=True))


def forward(weights, x, rows, flags, size: int, unroll: int, dtype: str, keep: bool):
    """((h, c) at the end, outputs [T, B, H], with `keep` h and c after every step).

    Where nothing is kept and the weights are small, the projection stays inside the loop: one pass less over memory.
    """
    inside = is_small(weights) and not keep
    W, R = weights["W"].astype(dtype), weights["R"].astype(dtype)

    def project(x):
        z = matmul(rows_of(x), W)
        return (z + jnp.broadcast_to(weights["b"], z.shape)).reshape(*x.shape[:-1], -1)

    def step(carry, now):
        h, c = restart(carry, now, rows)
        net = (project(now["x"]) if inside else now["z"]) + matmul(masked(h, rows), R)
        i, f, z, o = gates(jnp.tanh(net))
        new_c = i * z + f * c
        new_h = o * jnp.tanh(new_c)
        if "valid" not in now:
            return (new_h, new_c), ((new_h, new_h, new_c) if keep else (new_h,))
        counts = now["valid"][:, None] != 0
        out = jnp.where(counts, new_h, 0)
        h, c = jnp.where(counts, new_h, carry[0]), jnp.where(counts, new_c, carry[1])
        return (h, c), ((out, h, c) if keep else (out,))

    def chunk(carry, now):
        return jax.lax.scan(step, carry, {"z": project(now["x"])} | {name: now[name] for name in flags}, unroll=unroll)

    start = rows["carry"]["h"], rows["carry"]["c"]
    if inside:
        return jax.lax.scan(step, start, {"x": x} | flags, unroll=unroll)
    steps = {"x": chunks(x, size)} | {name: chunks(flag, size) for name, flag in flags.items()}
    carry, kept = jax.lax.scan(chunk, start, steps)
    return carry, tuple(unchunk(y) for y in kept)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def core(weights, x, rows, flags, size: int, unroll: int, dtype: str):
    """Outputs and carry. weights: W, R, b, scaled; rows: carry, initial, mask; flags: valid, reset as numbers."""
    (h, c), (outputs,) = forward(weights, x, rows, flags, size, unroll, dtype, keep=False)
    return outputs, {"h": h, "c": c}


def core_forward(weights, x, rows, flags, size: int, unroll: int, dtype: str):
    (h, c), (outputs, hs, cs) = forward(weights, x, rows, flags, size, unroll, dtype, keep=True)
    return (outputs, {"h": h, "c": c}), (weights, x, rows, flags, hs, cs)


def core_backward(size: int, unroll: int, dtype: str, kept, cotangents):
    weights, x, rows, flags, hs, cs = kept
    d_outputs, d_carry = cotangents
    W, R = weights["W"].astype(dtype), weights["R"].astype(dtype)
    WT, RT = W.T, R.T
    before = {
        "h": jnp.concatenate([rows["carry"]["h"][None], hs[:-1]]),
        "c": jnp.concatenate([rows["carry"]["c"][None], cs[:-1]]),
    }
    if "reset" in flags:
        again = flags["reset"][..., None] != 0
        before = {name: jnp.where(again, rows["initial"][name][None], old) for name, old in before.items()}
    if "mask" in rows:
        before["source"] = before["h"] * rows["mask"][None]
    source = "source" if "mask" in rows else "h"

    def step(carry, now):
        dh, dc, d_initial = carry
        i, f, z, o = gates(now["t"])
        old = dh, dc
        dh = dh + now["dy"]
        if "valid" in now:  # a step that does not count passes its carry's gradient on
            counts = now["valid"][:, None] != 0
            dh, dc = jnp.where(counts, dh, 0), jnp.where(counts, dc, 0)
        tanh_c = jnp.tanh(i * z + f * now["c"])
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        # The derivative of 0.5 tanh(a) + 0.5 is 2 s (1 - s).
        da = [dc * z * 2 * i * (1 - i), dc * now["c"] * 2 * f * (1 - f), dc * i * (1 - z * z)]
        da = jnp.concatenate([*da, dh * tanh_c * 2 * o * (1 - o)], axis=-1)
        dh, dc = masked(matmul(da, RT), rows), dc * f
        if "reset" in now:
            again = now["reset"][:, None] != 0
            if "valid" in now:
                again = again & counts
            d_initial = tuple(total + jnp.where(again, d, 0) for total, d in zip(d_initial, (dh, dc), strict=True))
            dh, dc = jnp.where(again, 0, dh), jnp.where(again, 0, dc)
        if "valid" in now:
            dh, dc = jnp.where(counts, dh, old[0]), jnp.where(counts, dc, old[1])
        return (dh, dc, d_initial), da

    def chunk(carry, now):
        dh, dc, d_initial, dW, dR, db = carry
        net = matmul(rows_of(now["x"]), W) + matmul(rows_of(now[source]), R)
        t = jnp.tanh(net + jnp.broadcast_to(weights["b"], net.shape)).reshape(*now["x"].shape[:2], -1)
        inner = {"t": t, "c": now["c"], "dy": now["dy"]} | {name: now[name] for name in flags}
        (dh, dc, d_initial), da = jax.lax.scan(step, (dh, dc, d_initial), inner, reverse=True, unroll=unroll)
        da = da.reshape(-1, da.shape[-1])
        flat = lambda x: rows_of(x).T.astype(dtype)
        dW, dR = dW + matmul(flat(now["x"]), da.astype(dtype)), dR + matmul(flat(now[source]), da.astype(dtype))
        dx = matmul(da, WT).reshape(now["x"].shape)
        return (dh, dc, d_initial, dW, dR, db + da.sum(0)), dx

    zero = jnp.zeros_like(d_carry["h"])
    start = d_carry["h"], d_carry["c"], (zero, zero) if "reset" in flags else ()
    start = *start, *(jnp.zeros_like(weights[name]) for name in ("W", "R", "b"))
    steps = {"x": x, "dy": d_outputs} | before | flags
    if source != "h":
        del steps["h"]
    steps = {name: chunks(part, size) for name, part in steps.items()}
    (dh, dc, d_initial, dW, dR, db), dx = jax.lax.scan(chunk, start, steps, reverse=True)
    d_rows = {"carry": {"h": dh, "c": dc}}
    if "initial" in rows:
        d_rows["initial"] = {"h": d_initial[0], "c": d_initial[1]}
    if "mask" in rows:
        d_rows["mask"] = jnp.zeros_like(rows["mask"])  # drawn at random: nothing asks for its gradient
    d_flags = jax.tree.map(jnp.zeros_like, flags)
    return {"W": dW, "R": dR, "b": db}, unchunk(dx).astype(x.dtype), d_rows, d_flags


core.defvjp(core_forward, core_backward)
