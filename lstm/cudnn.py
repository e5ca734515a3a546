"""The LSTM by NVIDIA's cuDNN, through jax.experimental.rnn: parameters are converted inside the traced program."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from lstm.cells import Carry, Params

LONGEST = 65_535  # steps that cuDNN takes in one call


def lstm(
    params: Params, inputs: Float[Array, "b t i"], carry: Carry, *, lengths=None, reverse: bool = False
) -> tuple[Float[Array, "b t h"], Carry]:
    """Outputs and carry of the plain LSTM, in float32. TensorFloat-32 as in the other implementations: where nobody set
    jax_default_matmul_precision, which is JAX's default for all float32 products on GPUs that have it."""
    import jax
    from jax.experimental import rnn

    batch, time, width = inputs.shape
    inputs = inputs.astype(carry["c"].dtype)
    precision = jax.lax.Precision.HIGHEST if jax.config.jax_default_matmul_precision else None
    hidden = carry["c"].shape[-1]
    lengths = jnp.full((batch,), time, jnp.int32) if lengths is None else lengths.astype(jnp.int32)
    x = flipped(inputs, lengths) if reverse else inputs
    weights = flat_weights(params).astype(inputs.dtype)
    outputs, h, c = [], carry["h"], carry["c"]
    for start in range(0, time, LONGEST):
        part = x[:, start : start + LONGEST]
        left = jnp.clip(lengths - start, 0, part.shape[1])
        # cuDNN wants a length of 1 at least: rows that are at their end run one step, which is thrown away.
        y, new_h, new_c = rnn.lstm(
            part,
            h[None],
            c[None],
            weights,
            jnp.maximum(left, 1),
            width,
            hidden,
            1,
            0.0,
            False,
            precision=precision,
        )
        runs = (left > 0)[:, None]
        h, c = jnp.where(runs, new_h[0], h), jnp.where(runs, new_c[0], c)
        counts = jnp.arange(part.shape[1])[None] < left[:, None]
        outputs.append(jnp.where(counts[..., None], y, 0))
    y = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=1)
    return (flipped(y, lengths) if reverse else y), {"h": h, "c": c}


def flat_weights(params: Params) -> Float[Array, " n"]:
    """W, R and b as cuDNN's one array: input weights, recurrent weights, two biases; gates in the order i, f, z, o."""
    pieces = [params["W"].T, params["R"].T, params["b"], jnp.zeros_like(params["b"])]
    return jnp.concatenate([piece.reshape(-1) for piece in pieces])


def flipped(x: Float[Array, "b t i"], lengths) -> Float[Array, "b t i"]:
    """Every row back to front within its length; padding stays at the end."""
    place = jnp.arange(x.shape[1])[None]
    place = jnp.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)
    return jnp.take_along_axis(x, place[..., None], axis=1)
