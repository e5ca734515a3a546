"""The tasks of Hochreiter & Schmidhuber 1997, section 5: sequences as pure functions of a key."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lstm.paper1997.learn import Sequence

LONGEST_TAIL = 256  # distractors of 2c beyond q: more have a chance of 0.9 ** 256, 2e-12


class Example(NamedTuple):
    """sequence: to learn from. clean: the target at its end, without noise [k]."""

    sequence: Sequence
    clean: Float[Array, " k"]


def at_end(x: Array, length: Array, target: Float[Array, " k"], clean: Array | None = None) -> Example:
    """An example with one target, at the last of `length` steps."""
    judged = jnp.arange(len(x)) == length - 1
    return Example(Sequence(x, target[None], judged, length), target if clean is None else clean)


def between(key: Array, first: int, last: int) -> Int[Array, ""]:
    """A whole number, first and last among them."""
    return jax.random.randint(key, (), first, last + 1)


# 1: embedded Reber grammar ----------------------------------------------------------------------------------------------------

REBER = "BTPSXVE"
ARROWS = (  # Of the inner grammar: at each node the symbols that may come, and where each leads.
    {"B": 1},
    {"T": 2, "P": 3},
    {"S": 2, "X": 4},
    {"T": 3, "V": 5},
    {"X": 3, "S": 6},
    {"P": 4, "V": 6},
    {"E": 7},
    {},
)


def reber_string(rng: np.random.Generator) -> tuple[str, list[str]]:
    """A string of the embedded Reber grammar (figures 3 and 4), and which symbols may follow each of its symbols but the last."""
    outer = "TP"[rng.integers(2)]
    text, legal, node = "B" + outer, ["TP", "B"], 0
    while ARROWS[node]:
        symbol = sorted(ARROWS[node])[rng.integers(len(ARROWS[node]))]
        node = ARROWS[node][symbol]
        text += symbol
        legal.append("".join(ARROWS[node]) or outer)
    return text + outer + "E", [*legal, "E"]


class Strings(NamedTuple):
    """n strings, one-hot: x [n, t, 7]; next [n, t, 7], the symbol that follows; legal [n, t, 7], those that may; length [n]."""

    x: Float[Array, "n t i"]
    next: Float[Array, "n t i"]
    legal: Bool[Array, "n t i"]
    length: Int[Array, " n"]


def reber_strings(seed: tuple[int, ...], count: int) -> tuple[Strings, Strings]:
    """(training set, test set) of `count` strings each, drawn from the grammar, each arrow of a node equally likely. Strings may be
    there more than once, but none is in both sets."""
    rng = np.random.default_rng(seed)
    training = [reber_string(rng) for _ in range(count)]
    known, test = {text for text, _ in training}, []
    while len(test) < count:
        text, legal = reber_string(rng)
        if text not in known:
            test.append((text, legal))
    steps = max(len(text) for text, _ in training + test) - 1
    return coded(training, steps), coded(test, steps)


def coded(strings: list[tuple[str, list[str]]], steps: int) -> Strings:
    """(text, symbols that may follow each of its own but the last), as arrays of `steps` steps."""
    x, following, legals = (np.zeros((len(strings), steps, len(REBER)), np.float32) for _ in range(3))
    for row, (text, legal) in enumerate(strings):
        for t, (symbol, after, allowed) in enumerate(zip(text, text[1:], legal, strict=False)):
            x[row, t, REBER.index(symbol)] = following[row, t, REBER.index(after)] = 1
            legals[row, t, [REBER.index(each) for each in allowed]] = 1
    lengths = np.array([len(text) - 1 for text, _ in strings], np.int32)
    return Strings(jnp.array(x), jnp.array(following), jnp.array(legals, bool), jnp.array(lengths))


def reber(key: Array, strings: Strings) -> Example:
    """One of the strings: at each step the next symbol is to be said."""
    row = jax.random.randint(key, (), 0, len(strings.length))
    judged = jnp.arange(strings.x.shape[1]) < strings.length[row]
    clean = strings.next[row, strings.length[row] - 1]
    return Example(Sequence(strings.x[row], strings.next[row], judged, strings.length[row]), clean)


# 2: long time lags ------------------------------------------------------------------------------------------------------------


def long_lag(key: Array, p: int, regular: bool) -> Example:
    """2a (regular), 2b: (y, a1, ..., a(p-1), y) or (x, ..., x), of 2b with a's drawn at random. Symbols 0 to p - 2 are the a's;
    p - 1 is x, p is y.

    Of 2a each next symbol is to be said, of 2b the last alone: docs/paper1997.md shows that the paper's net cannot say the others
    and the last of 2b.
    """
    which, middle = jax.random.split(key)
    end = p - 1 + jax.random.bernoulli(which).astype(jnp.int32)
    between_them = jnp.arange(p - 1) if regular else jax.random.randint(middle, (p - 1,), 0, p - 1)
    symbols = jnp.concatenate([end[None], between_them, end[None]])
    target = jax.nn.one_hot(symbols[1:], p + 1)
    if not regular:
        return at_end(symbols[:-1], jnp.array(p), target[-1])
    return Example(Sequence(symbols[:-1], target, jnp.ones(p, bool), jnp.array(p)), target[-1])


def very_long_lag(key: Array, q: int, p: int) -> Example:
    """2c: (b, x or y, q + k of p distractors, e), then x or y is to be said; k goes on with a chance of 9/10.

    Symbols 0 to p - 1 are distractors; p is b, p + 1 e, p + 2 x, p + 3 y.
    """
    which, tail, middle = jax.random.split(key, 3)
    end = jax.random.bernoulli(which).astype(jnp.int32)
    more = jnp.minimum(jax.random.geometric(tail, 0.1).astype(jnp.int32) - 1, LONGEST_TAIL)
    length = q + more + 3
    x = jax.random.randint(middle, (q + LONGEST_TAIL + 3,), 0, p).at[0].set(p).at[1].set(p + 2 + end)
    return at_end(x.at[length - 1].set(p + 1), length, jax.nn.one_hot(end, 2))


# 3: noise and signal on one channel ---------------------------------------------------------------------------------------------


def two_sequences(
    key: Array, lag: int, informative: int, signal_noise: float = 0.0, target_noise: float = 0.0
) -> Example:
    """The two-sequence problem: the first `informative` elements are 1 or -1, the others noise of variance 0.2; 1 or 0 is to be said.

    signal_noise: variance of the noise on the informative elements (3b: 0.2). target_noise: variance of that on targets, which then
    are 0.2 for 1 and 0.8 for -1 (3c: 0.1).
    """
    which, how_long, noise, on_target = jax.random.split(key, 4)
    first = jax.random.bernoulli(which)
    length = between(how_long, lag, lag + lag // 10)
    normal = jax.random.normal(noise, (lag + lag // 10,))
    early = jnp.arange(len(normal)) < informative
    x = jnp.where(early, jnp.where(first, 1.0, -1.0) + signal_noise**0.5 * normal, 0.2**0.5 * normal)
    clean = jnp.where(first, 0.2, 0.8) if target_noise else first.astype(jnp.float32)
    target = clean + target_noise**0.5 * jax.random.normal(on_target)
    return at_end(x[:, None], length, target[None], clean[None])


# 4, 5: adding and multiplication ----------------------------------------------------------------------------------------------


def marked_pairs(key: Array, lag: int, product: bool) -> Example:
    """Pairs (number, marker): of the two numbers whose marker is 1 the sum (0.5 + sum / 4), or the product is to be said.

    Numbers are from U[-1, 1], for products U[0, 1]. One of the first ten pairs is marked, and one of the first lag / 2 - 1 that are
    left. Markers of the first and of the last pair are -1, but for a first pair that is one of the marked: its number is 0 (1).
    """
    how_long, numbers, one, other = jax.random.split(key, 4)
    steps = lag + lag // 10
    length = between(how_long, lag, steps)
    x = jax.random.uniform(numbers, (steps,), minval=0.0 if product else -1.0)
    a = jax.random.randint(one, (), 0, 10)
    b = jax.random.randint(other, (), 0, lag // 2 - 1)
    b = b + (b >= a)  # still unmarked
    marker = jnp.zeros(steps).at[0].set(-1.0).at[length - 1].set(-1.0).at[a].set(1.0).at[b].set(1.0)
    x = jnp.where(marker[0] == 1, x.at[0].set(float(product)), x)
    target = x[a] * x[b] if product else 0.5 + (x[a] + x[b]) / 4
    return at_end(jnp.stack([x, marker], axis=-1), length, target[None])


# 6: temporal order ------------------------------------------------------------------------------------------------------------

ORDER = "EBXYabcd"
# Counted from 1, or the least lags of table 10, 40 and 24 steps, would be one less.
PLACES = {2: ((10, 20), (50, 60)), 3: ((10, 20), (33, 43), (66, 76))}


def temporal_order(key: Array, symbols: int) -> Example:
    """E, distractors, B: `symbols` of them are X or Y, at places from PLACES; which order they came in is to be said: 2 ** symbols
    classes. 100 to 110 symbols long."""
    how_long, which, places, others = jax.random.split(key, 4)
    length = between(how_long, 100, 110)
    bits = jax.random.bernoulli(which, shape=(symbols,)).astype(jnp.int32)
    x = jax.random.randint(others, (110,), 4, 8).at[0].set(0).at[length - 1].set(1)
    for bit, place, (first, last) in zip(bits, jax.random.split(places, symbols), PLACES[symbols], strict=True):
        x = x.at[between(place, first, last) - 1].set(2 + bit)
    place = functools.reduce(lambda number, bit: 2 * number + bit, bits, 0)
    return at_end(jax.nn.one_hot(x, len(ORDER)), length, jax.nn.one_hot(place, 2**symbols))
