"""Small models of an LSTM with variables, and what tests of them share."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from lstm.language_model import LanguageModel
from lstm.model import Stack

B, T, I = 3, 6, 5
X = jnp.asarray(np.random.default_rng(0).normal(size=(B, T, I)), jnp.float32)
TOKENS = jnp.asarray([[0, 5, 3, 3, 10, 5], [7, 1, 0, 5, 2, 9], [4, 4, 6, 8, 0, 1]])


@functools.cache
def born(model):
    """Variables of a model, random in every leaf: the same where name and shape are the same. (No program is compiled.)"""

    def fill(path, leaf):
        seed = zlib.crc32(jax.tree_util.keystr(path).encode())
        return jnp.asarray(np.random.default_rng(seed).normal(size=leaf.shape, scale=0.3), leaf.dtype)

    x = X if isinstance(model, Stack) else TOKENS
    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(model.init, jax.random.key(0), x))


def stack(**options):
    """A small Stack and its variables."""
    model = Stack(**{"hidden": (6, 4), **options})
    return model, born(model)


def language(**options):
    model = LanguageModel(**{"vocabulary": 11, "embed": 6, "hidden": (5, 6), **options})
    return model, born(model)


STATIC = ("model", "train", "method", "with_outputs")


@functools.partial(jax.jit, static_argnames=STATIC)
def run(model, variables, x, carry=None, *, seed=3, train=False, method=None, with_outputs=False, **arrays):
    """model.apply as one program, which calls with the same model and shapes share."""
    more = {"with_outputs": True} if with_outputs else {}
    rngs = {"dropout": jax.random.key(seed)} if train else {}
    return model.apply(variables, x, carry, train=train, rngs=rngs, method=method, **more, **arrays)


@functools.partial(jax.jit, static_argnames=STATIC)
def gradient(model, variables, *args, **options):
    """Of the sum of the squared outputs."""
    return jax.grad(lambda v: (run(model, v, *args, **options)[0] ** 2).sum())(variables)


@functools.partial(jax.jit, static_argnums=0)
def fresh(model, x):
    """The parameters that a model starts with."""
    return model.init(jax.random.key(2), x)["params"]


def train(model, variables, x, *args, **options):
    return run(model, variables, x, *args, train=True, **options)


def shapes(tree):
    return jax.tree.map(jnp.shape, tree)


def close(a, b, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=atol), a, b)


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def differs(a, b):
    return float(jnp.abs(a - b).max()) > 1e-3


@functools.partial(jax.jit, static_argnums=0)
def by_steps(cells, params, x, carry):
    """Forward layers one step at a time, as the cells define them: outputs [B, T, O] and the carry."""
    carry, outputs = list(carry), []
    for t in range(x.shape[1]):
        h = x[:, t]
        for n, cell in enumerate(cells):
            layer = params[f"layer{n}"]
            carry[n] = cell.step(layer, carry[n], cell.project(layer, h))
            h = carry[n]["h"]
        outputs.append(h)
    return jnp.stack(outputs, axis=1), tuple(carry)
