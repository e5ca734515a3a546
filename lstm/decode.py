"""Text from a language model: a prompt is read at once, then tokens are drawn in one compiled loop, chunk by chunk."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from common import keys
from common.errors import InputError

CHUNK = 32  # tokens drawn before they are handed out


def generate(
    net: Any,
    params: Any,
    prompts: Sequence[Any],
    *,
    length: int,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    allowed: Bool[np.ndarray, " V"] | None = None,
) -> Iterator[Int[np.ndarray, "rows chunk"]]:
    """`length` tokens after each of `prompts` (lists of tokens, one at least), in chunks as they are drawn.

    net: a LanguageModel. temperature: what logits are divided by; 0 takes the likeliest. top_k: only the k likeliest; 0:
    all. top_p: only the likeliest that together have probability top_p (Holtzman et al. 2020, section 3.1). Token i of row r
    is drawn with a key of (seed, i, r). allowed: the tokens that may be drawn. Raises InputError for values out of range.
    """
    check(length, temperature, top_k, top_p)
    params = jax.tree.map(jnp.asarray, params)
    longest = max(len(prompt) for prompt in prompts)
    read = np.zeros((len(prompts), 1 << (longest - 1).bit_length()), np.int32)  # few shapes, so few programs
    for row, prompt in zip(read, prompts, strict=True):
        row[: len(prompt)] = prompt
    logits, carry = read_prompt(net, params, read, np.array([len(prompt) for prompt in prompts], np.int32))
    allowed = np.ones(logits.shape[-1], bool) if allowed is None else allowed
    for start in range(0, length, CHUNK):
        tokens, logits, carry = draw(
            net,
            params,
            logits,
            carry,
            keys.at(seed, "sample"),
            start,
            np.float32(temperature),
            np.int32(top_k or logits.shape[-1]),
            np.float32(top_p),
            allowed,
            filtered=top_k > 0 or top_p < 1,
        )
        yield np.asarray(tokens)[:, : length - start]


def check(length: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> None:
    """Raises InputError for values out of range."""
    if not temperature >= 0:
        raise InputError(f"temperature={temperature}: use 0 (the likeliest) or more, like 0.8")
    if top_k < 0:
        raise InputError(f"top_k={top_k}: use 0 (all) or more, like 20")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p={top_p}: use a probability above 0, at most 1, like 0.9")
    if length < 1:
        raise InputError(f"length={length}: use a number of tokens, like 500")


@functools.partial(jax.jit, static_argnums=0)
def read_prompt(
    net: Any, params: Any, tokens: Int[Array | np.ndarray, "b t"], lengths: Int[Array | np.ndarray, " b"]
) -> tuple[Float[Array, "b v"], Any]:
    """Logits of the token after each prompt, and the carry there. Tokens from a row's length on do not count."""
    counted = jnp.arange(tokens.shape[1])[None] < lengths[:, None]
    outputs, carry = net.apply({"params": params}, tokens, mask=counted, method="features")
    last = jnp.take_along_axis(outputs, (lengths - 1)[:, None, None], axis=1)
    return net.apply({"params": params}, last[:, 0], method="logits"), carry


@functools.partial(jax.jit, static_argnums=0, static_argnames="filtered")
def draw(
    net: Any,
    params: Any,
    logits: Float[Array, "b v"],
    carry: Any,
    key: Key[Array, ""],
    start: Any,
    temperature: Any,
    top_k: Any,
    top_p: Any,
    allowed: Bool[Array | np.ndarray, " v"],
    filtered: bool = True,
) -> tuple[Int[Array, "b chunk"], Float[Array, "b v"], Any]:
    """The next CHUNK tokens, from place `start` on; and logits and carry after them."""

    def step(state, place):
        logits, carry = state
        row_keys = keys.rows(jax.random.fold_in(key, place), logits.shape[0])
        token = sample(row_keys, jnp.where(allowed[None], logits, -jnp.inf), temperature, top_k, top_p, filtered)
        after, carry = net.apply({"params": params}, token[:, None], carry)
        return (after[:, 0], carry), token

    (logits, carry), tokens = jax.lax.scan(step, (logits, carry), start + jnp.arange(CHUNK))
    return tokens.T, logits, carry


def sample(
    row_keys: Key[Array, " b"], logits: Float[Array, "b v"], temperature, top_k, top_p, filtered: bool = True
) -> Int[Array, " b"]:
    """One token of each row; where temperature is 0 the likeliest."""
    scaled = logits / jnp.maximum(temperature, 1e-6)
    scaled = keep_likeliest(scaled, top_k, top_p) if filtered else scaled
    drawn = jax.vmap(jax.random.categorical)(row_keys, scaled)
    return jnp.where(temperature > 0, drawn, jnp.argmax(logits, axis=-1)).astype(jnp.int32)


def keep_likeliest(logits: Float[Array, "b v"], top_k, top_p) -> Float[Array, "b v"]:
    """Logits with -inf but for the top_k likeliest, and of these the fewest that reach probability top_p; ties stay."""
    ranked = -jnp.sort(-logits, axis=-1)
    ranked = jnp.where(jnp.arange(logits.shape[-1])[None] < top_k, ranked, -jnp.inf)
    probability = jax.nn.softmax(ranked, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    kept = (before < top_p) & (ranked > -jnp.inf)
    lowest = jnp.min(jnp.where(kept, ranked, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= lowest, logits, -jnp.inf)
