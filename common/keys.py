"""The one place that makes random keys. Keys are stateless: a function of (seed, stream, step), never kept in the state.

What a row of the batch draws depends on its place in the whole batch, so it is the same for any number of devices.
"""

import zlib

import jax
from jaxtyping import Array, Bool, Int, Key

from common.mesh import row_axis


def at(seed: int | Int[Array, ""], stream: str, step=0) -> Key[Array, ""]:
    """The key of `stream` ('init', 'train', ...) at `step`."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()) & 0x7FFFFFFF), step)


def rows(key: Key[Array, ""], count: int) -> Key[Array, " count"]:
    """One key for each of the `count` rows that this program sees, by their places in the whole batch."""
    axis = row_axis()
    first = jax.lax.axis_index(axis) * count if axis else 0
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(first + jax.numpy.arange(count))


def bernoulli(key: Key[Array, ""], p: float, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    """True with probability `p`; the first axis is rows of the batch, each with a key of its own."""
    return jax.vmap(lambda own: jax.random.bernoulli(own, p, shape[1:]))(rows(key, shape[0]))
