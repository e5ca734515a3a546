"""The one place that makes random keys. Keys are stateless: a function of (seed, stream, step), never kept in the state."""

import zlib

import jax
from jaxtyping import Array, Key


def at(seed: int, stream: str, step=0) -> Key[Array, ""]:
    """The key of `stream` ('init', 'train', ...) at `step`."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()) & 0x7FFFFFFF), step)


def rows(key: Key[Array, ""], count: int, start=0) -> Key[Array, " count"]:
    """One key for each of `count` rows from place `start` of the global batch: the same for any number of devices."""
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(start + jax.numpy.arange(count))
