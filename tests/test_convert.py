"""Weights from PyTorch, Keras and flax give their outputs, and go back as they came.

PyTorch and Keras: against outputs stored by tests/golden/make_recurrent.py, and against themselves where installed."""

import functools
import os

import jax
import numpy as np
import pytest
from flax import linen as nn

from common.errors import InputError
from lstm import convert
from lstm.cells import make_cell
from lstm.model import Stack
from tests.golden import make_recurrent as golden

CLOSE = {"rtol": 0, "atol": 1e-5}


@functools.cache
def cases(source):
    """{(library, case): {name: array}} of the stored file, or made now by an installed library."""
    if source == "stored":
        arrays = dict(np.load(golden.FILE))
        np.testing.assert_array_equal(arrays.pop("x"), golden.X)
    else:
        with jax.numpy_rank_promotion("allow"):  # Keras broadcasts
            arrays = {"torch": golden.torch_cases, "keras": golden.keras_cases}[source]()
    found = {}
    for path, array in arrays.items():
        library, case, name = path.split("/")
        found.setdefault((library, case), {})[name] = array
    return found


def source_of(library, stored):
    if stored:
        return "stored"
    os.environ.setdefault("KERAS_BACKEND", "jax")
    pytest.importorskip(library)
    return library


def run(stack, params, x=golden.X):
    return np.asarray(jax.jit(stack.apply)({"params": params}, x)[0])


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


TORCH = {
    "lstm": Stack(hidden=(4, 4), bidirectional=True),
    "projection": Stack(hidden=(4,), options={"projection": 2}),
    "gru": Stack(hidden=(4,), cell="gru"),
    "rnn": Stack(hidden=(4,), cell="rnn"),
}


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "installed"])
@pytest.mark.parametrize("case", TORCH)
def test_torch(case, stored):
    state = dict(cases(source_of("torch", stored))["torch", case])
    y = state.pop("y")
    params = convert.stack_from_torch(state)
    np.testing.assert_allclose(run(TORCH[case], params), y, **CLOSE)

    back = convert.stack_to_torch(params)
    assert set(back) == set(state)
    for name, array in state.items():
        assert back[name].shape == array.shape
        if "bias" not in name:
            np.testing.assert_array_equal(back[name], array)
    same(convert.stack_from_torch(back), params)


def test_torch_without_bias():
    state = {k: x for k, x in cases("stored")["torch", "lstm"].items() if "weight" in k}
    params = convert.stack_from_torch(state)
    assert not any(layer["b"].any() for layer in params.values())
    assert params["layer1_reverse"]["b"].shape == (16,)


def test_to_torch_splits_the_bias():
    """The second bias is zero, but for the inner one of a GRU."""
    for cell, inner in {"lstm": 0, "gru": 4}.items():
        params = {k: np.asarray(x) + 1 for k, x in make_cell(cell, 4).init(jax.random.key(0), 3).items()}
        state = convert.layer_to_torch(params, "_l2")
        assert np.count_nonzero(state["bias_hh_l2"]) == inner
        same(convert.layer_from_torch(state, "_l2"), params)


KERAS = {"lstm": Stack(hidden=(4, 5)), "bidirectional": Stack(hidden=(4,), bidirectional=True)}


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "installed"])
@pytest.mark.parametrize("case", KERAS)
def test_keras(case, stored):
    arrays = dict(cases(source_of("keras", stored))["keras", case])
    y = arrays.pop("y")
    layers = {}
    for name in sorted(arrays, key=lambda name: tuple(map(int, name.split("-")))):
        layers.setdefault(name.split("-")[0], []).append(arrays[name])
    layers = list(layers.values())
    params = convert.stack_from_keras(layers)
    np.testing.assert_allclose(run(KERAS[case], params), y, **CLOSE)
    same(convert.stack_to_keras(params), layers)


def test_keras_without_bias():
    kernel, recurrent, _ = convert.layer_to_keras(make_cell("lstm", 4).init(jax.random.key(0), 3))
    params = convert.layer_from_keras([kernel, recurrent])
    assert params["b"].shape == (16,) and not params["b"].any()


def flax_cells(kind, bidirectional):
    """(parameters of each layer as flax has them, outputs) of two layers, biases random."""
    x, layers = jax.numpy.asarray(golden.X), []
    for n, width in enumerate((4, 5)):
        ways = []
        for way in range(1 + bidirectional):
            rnn = nn.RNN(kind(width), reverse=way == 1, keep_order=True)
            params = rnn.init(jax.random.key(10 * n + way), x)["params"]["cell"]
            params = {
                k: {m: a + 0.1 * jax.random.normal(jax.random.key(len(k)), a.shape) for m, a in p.items()}
                for k, p in params.items()
            }
            ways.append((params, rnn.apply({"params": {"cell": params}}, x)))
        x = jax.numpy.concatenate([y for _, y in ways], axis=-1)
        layers.append(tuple(p for p, _ in ways) if bidirectional else ways[0][0])
    return layers, x


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", [nn.OptimizedLSTMCell, nn.LSTMCell])
def test_flax(kind, bidirectional):
    layers, y = flax_cells(kind, bidirectional)
    params = convert.stack_from_flax(layers)
    np.testing.assert_allclose(run(Stack(hidden=(4, 5), bidirectional=bidirectional), params), y, **CLOSE)
    same(convert.stack_to_flax(params), layers)


def test_every_library_from_one_stack():
    """What a Stack was born with survives the way through each library."""
    stack = Stack(hidden=(4, 4), bidirectional=True)
    params = stack.init(jax.random.key(0), jax.numpy.asarray(golden.X))["params"]
    same(convert.stack_from_torch(convert.stack_to_torch(params)), params)
    same(convert.stack_from_keras(convert.stack_to_keras(params)), params)
    same(convert.stack_from_flax(convert.stack_to_flax(params)), params)


@pytest.mark.parametrize("name", ["peephole", "cifg", "layer_norm", "nig", "nfg", "nog", "fgr"])
def test_cells_that_they_lack_are_refused(name):
    params = make_cell(name, 4).init(jax.random.key(0), 3)
    # PyTorch has plain RNNs too, and the parameters of fgr with 4 units have the shapes of those of an RNN with 16.
    torch = [] if name == "fgr" else [convert.layer_to_torch]
    for to in (*torch, convert.layer_to_keras, convert.layer_to_flax):
        with pytest.raises(InputError, match="no cell with the parameters"):
            to(params)


def test_what_does_not_fit_is_named():
    gru = make_cell("gru", 4).init(jax.random.key(0), 3)
    for to in (convert.layer_to_keras, convert.layer_to_flax):
        with pytest.raises(InputError, match="b_R"):
            to(gru)
    with pytest.raises(InputError, match="weight_hh_l0"):
        convert.layer_from_torch({"weight_ih_l0": np.zeros((16, 3))})
    with pytest.raises(InputError, match="weight_ih_l0; its names: kernel"):
        convert.stack_from_torch({"kernel": np.zeros((16, 3))})
    with pytest.raises(InputError, match="here are 4"):
        convert.layer_from_keras([np.zeros((3, 16))] * 4)
    with pytest.raises(InputError, match="missing: if"):
        convert.layer_from_flax({k: {} for k in ("ii", "ig", "io", "hi", "hf", "hg", "ho")})
    uneven = {f"layer{n}": make_cell("lstm", 4 + n).init(jax.random.key(0), 3) for n in range(2)}
    with pytest.raises(InputError, match="one width for all layers"):
        convert.stack_to_torch(uneven)
    learned = Stack(hidden=(4,), learned_initial=True).init(jax.random.key(0), jax.numpy.asarray(golden.X))["params"]
    for to in (convert.stack_to_torch, convert.stack_to_keras, convert.stack_to_flax):
        with pytest.raises(InputError, match="layer0_initial"):
            to(learned)
