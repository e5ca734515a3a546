"""Looking inside: traces beside a NumPy loop and beside `recurrence`, gradients beside finite differences, probes on
states whose content is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm import inspect
from lstm.cells import GRU, LSTM, RNN, make_cell
from lstm.language_model import LanguageModel
from lstm.recurrence import recurrence


def inputs_of(batch=3, steps=9, width=4, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, steps, width)), jnp.float32)


def test_traces_beside_a_numpy_loop():
    cell, x = LSTM(5), inputs_of()
    params = cell.init(jax.random.key(0), 4)
    found = inspect.traces(cell, params, x)
    weights = {name: np.asarray(value, np.float64) for name, value in params.items()}
    sigmoid = lambda v: 1 / (1 + np.exp(-v))
    h = c = np.zeros((3, 5))
    for t in range(x.shape[1]):
        net = np.asarray(x[:, t], np.float64) @ weights["W"] + h @ weights["R"] + weights["b"]
        i, f, z, o = np.split(net, 4, axis=-1)
        i, f, z, o = sigmoid(i), sigmoid(f), np.tanh(z), sigmoid(o)
        c = i * z + f * c
        h = o * np.tanh(c)
        for name, value in {"i": i, "f": f, "z": z, "o": o, "c": c, "h": h}.items():
            np.testing.assert_allclose(found[name][:, t], value, atol=1e-6, err_msg=f"{name} {t}")


@pytest.mark.parametrize("name", ["lstm", "peephole", "cifg", "layer_norm", "nfg", "fgr", "gru", "rnn"])
def test_traces_are_those_of_the_recurrence(name):
    cell, x = make_cell(name, 5), inputs_of()
    params = cell.init(jax.random.key(1), 4)
    carry = jax.tree.map(lambda v: v + 0.3, cell.initial(3))
    outputs, end = recurrence(cell, params, x, carry)
    found = inspect.traces(cell, params, x, carry)
    np.testing.assert_allclose(found["h"], outputs, atol=2e-6)
    for part in set(found) & set(end):
        np.testing.assert_allclose(found[part][:, -1], end[part], atol=2e-6)
    assert set(found) == ({"h"} if isinstance(cell, GRU | RNN) else {"i", "f", "z", "o", "c", "h"})


@pytest.mark.parametrize("options", [{}, {"learned_initial": True}, {"cell": "rnn"}, {"options": {"projection": 4}}])
def test_model_traces_end_in_the_model_s_outputs(options):
    model = LanguageModel(11, embed=6, hidden=(5, 7), **options)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 11, (2, 8)), jnp.int32)
    params = model.init(jax.random.key(0), tokens)["params"]
    if "learned_initial" in options:
        params = jax.tree.map(lambda p: p + 0.2, params)
    layers = inspect.model_traces(model, params, tokens)
    outputs, carry = model.apply({"params": params}, tokens, method="features")
    assert [layer["h"].shape[-1] for layer in layers] == ([4, 4] if "options" in options else [5, 7])
    np.testing.assert_allclose(layers[-1]["h"], outputs, atol=2e-6)
    for layer, end in zip(layers, carry, strict=True):
        np.testing.assert_allclose(layer["h"][:, -1], end["h"], atol=2e-6)


def differences(losses, x, step=1e-5):
    """The gradient of each sequence's loss with respect to its inputs, by central differences."""
    x = np.asarray(x, np.float64)
    grads = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[place] += step
        down[place] -= step
        grads[place] = (losses(jnp.asarray(up))[place[0]] - losses(jnp.asarray(down))[place[0]]) / (2 * step)
    return grads


@pytest.mark.parametrize("kind", ["lstm", "rnn"])
def test_gradient_norms_beside_finite_differences(x64, kind):
    model = LanguageModel(5, embed=2, hidden=(3,), cell=kind, implementation="scan")
    tokens = jnp.asarray([[0, 1, 2, 3, 4, 0], [2, 2, 1, 0, 3, 1]], jnp.int32)
    params = jax.tree.map(lambda p: p.astype(jnp.float64), model.init(jax.random.key(0), tokens)["params"])
    ends = np.array([4, 3])

    def losses(x):
        """-log p(token after `ends`), each sequence by itself, from the cell's step function."""
        cell, values = make_cell(kind, 3), []
        for row, end in enumerate(ends):
            carry = jax.tree.map(lambda v: v.astype(jnp.float64), cell.initial(1))
            for t in range(end + 1):
                carry = cell.step(
                    params["stack"]["layer0"], carry, cell.project(params["stack"]["layer0"], x[row : row + 1, t])
                )
            logits = np.asarray(carry["h"][0] @ params["output"]["kernel"] + params["output"]["bias"])
            values.append(np.log(np.exp(logits).sum()) - logits[int(tokens[row, end + 1])])
        return values

    grads = differences(losses, params["embedding"][tokens])
    expected = [np.mean([np.linalg.norm(grads[row, end - k]) for row, end in enumerate(ends)]) for k in range(4)]
    found = inspect.model_gradient_norms(model, params, tokens, jnp.asarray(ends), 3)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_gradient_norms_take_the_place_of_each_sequence():
    """A loss whose gradient is known: sum of a[t] * x[t], so that the norm at t is |a[t]| sqrt(width)."""
    x, a = inputs_of(2, 6, 4), jnp.arange(1.0, 7.0)
    losses = lambda x: (x * a[None, :, None]).sum((1, 2))
    found = inspect.gradient_norms(losses, x, jnp.asarray([5, 3]), 2)
    np.testing.assert_allclose(found, [2 * (6 + 4) / 2, 2 * (5 + 3) / 2, 2 * (4 + 2) / 2], rtol=1e-6)


def test_the_lecture_s_order_of_gradients():
    """At the start: the plain net's gradient vanishes first, the LSTM's with forget bias 1 last."""
    model = LanguageModel(20, embed=16, hidden=(32,))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 20, (8, 42)), jnp.int32)
    ends = jnp.full(8, 40)
    shares = []
    for cell, options in (("rnn", {}), ("lstm", {"forget_bias": 0.0}), ("lstm", {"forget_bias": 1.0})):
        net, params = inspect.fresh(model, cell, **options)
        norms = inspect.model_gradient_norms(net, params, tokens, ends, 40)
        shares.append(float(norms[40] / norms[0]))
    assert shares[0] < 1e-6 and shares[1] < 1e-6 < 1e-4 < shares[2]


def test_a_probe_reads_what_is_there_and_no_more():
    rng = np.random.default_rng(0)
    facts, unseen = rng.integers(0, 4, 900), rng.integers(0, 4, 400)
    embed = rng.normal(size=(4, 3))

    def states(values):
        """Units 5, 2 and 7 hold the fact, the others noise, on scales of their own."""
        x = rng.normal(size=(len(values), 9)) * np.geomspace(0.01, 100, 9)
        x[:, [5, 2, 7]] = (embed[values] + 0.05 * rng.normal(size=(len(values), 3))) * [10.0, 0.1, 1.0]
        return x

    known, held_out = states(facts), states(unseen)
    read, weights = inspect.probe(known, facts, held_out)
    assert (read == unseen).mean() > 0.98
    assert set(inspect.telling_units(weights, 3)) == {2, 5, 7}
    control, _ = inspect.probe(known, facts, held_out, shuffled=True)
    assert (control == unseen).mean() < 0.4
    noise = rng.normal(size=(900, 9))
    assert (inspect.probe(noise, facts, rng.normal(size=(400, 9)))[0] == unseen).mean() < 0.35


def test_lasting_units():
    rng = np.random.default_rng(0)
    memory = rng.normal(size=(60, 4))
    memory[:, 2] = np.repeat([1, -1, 1], 20) + 0.1 * memory[:, 2]
    memory[:, 0] = np.cumsum(memory[:, 0])
    assert set(inspect.lasting_units(memory, 2)) == {0, 2}
    assert len(inspect.lasting_units(memory[:3], 2)) == 2  # shorter than the lag
