"""The recurrence: every implementation against one float64 NumPy reference, values and gradients, and its contract."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from lstm import auto, cudnn
from lstm.cells import CELLS, GRU, LSTM, RNN, make_cell
from lstm.recurrence import recurrence
from tests import numpy_cells

B, T, I, H = 3, 7, 4, 5
ROWS = {"lstm": numpy_cells.lstm_row, "gru": numpy_cells.gru_row, "rnn": numpy_cells.rnn_row}
VARIANTS = [(name, {}) for name in CELLS] + [
    ("lstm", {"projection": 3}),
    ("peephole", {"coupled": True, "projection": 3}),
    ("lstm", {"forget_gate": False, "output_gate": False, "peephole": True}),
    ("fgr", {"peephole": True, "coupled": True}),
]


def case(name, options, seed=0, batch=B, time=T):
    """A cell, random parameters and inputs in float64, and the options of the NumPy reference."""
    cell = make_cell(name, H, **options)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(scale=0.6, size=x.shape)), cell.init(jax.random.key(seed), I)
    )
    x = jnp.asarray(rng.normal(size=(batch, time, I)))
    carry, initial = (jax.tree.map(lambda z: jnp.asarray(rng.normal(size=z.shape)), cell.initial(batch)) for _ in "ab")
    return cell, params, x, carry, initial, CELLS[name][1] | options


def everything(cell, rng, batch=B, time=T):
    """Lengths, mask, resets, a recurrent mask, all at once; one row of length 0."""
    return {
        "lengths": jnp.array([time, 0, time - 2])[:batch],
        "mask": jnp.asarray(rng.random((batch, time)) < 0.8),
        "resets": jnp.asarray(rng.random((batch, time)) < 0.25),
        "recurrent_mask": jnp.asarray((rng.random((batch, cell.outputs)) < 0.7) / 0.7),
    }


def numpy_loss(cell, options, params, x, carry, initial, weights, given_):
    """The reference: the same weighted sum of outputs and carry as `jax_loss`."""
    kind = "lstm" if isinstance(cell, LSTM) else type(cell).__name__.lower()
    batch, time = x.shape[:2]
    plain = {
        "lengths": np.full(batch, time),
        "mask": np.ones((batch, time)),
        "resets": np.zeros((batch, time)),
        "recurrent_mask": np.ones((batch, cell.outputs)),
        "reverse": False,
    }
    chosen = {n: np.asarray(given_[n]) if n in given_ else d for n, d in plain.items()}
    keep = {
        n: np.broadcast_to(np.asarray(v), (batch, time, carry[n].shape[1]))
        for n, v in given_.get("zoneout", {}).items()
    }
    state = {n: np.asarray(v) for n, v in carry.items()}
    start = {n: np.asarray(v) for n, v in initial.items()}
    if kind == "lstm" and "gates" not in state:
        state["gates"] = start["gates"] = np.zeros((batch, len(cell.gate_blocks) * H))
    p = {n: np.asarray(v) for n, v in params.items()}
    outputs, end = numpy_cells.sequence(ROWS[kind], p, options, np.asarray(x), state, start, keep=keep, **chosen)
    total = (outputs * weights["outputs"]).sum() + sum((end[n] * weights[n]).sum() for n in carry)
    return total, outputs, end


def jax_loss(cell, params, x, carry, initial, weights, **given_):
    outputs, end = recurrence(cell, params, x, carry, initial=initial, **given_)
    return (outputs * weights["outputs"]).sum() + sum((end[n] * weights[n]).sum() for n in carry), (outputs, end)


def check(name, options, implementation, given_of, **more):
    """Values, and directional derivatives with respect to parameters, inputs, carry and initial state."""
    cell, params, x, carry, initial, known = case(name, options)
    rng = np.random.default_rng(1)
    given_ = given_of(cell, rng)
    weights = {"outputs": rng.normal(size=(B, T, cell.outputs))}
    weights |= {n: rng.normal(size=v.shape) for n, v in carry.items()}
    args = params, x, carry, initial
    loss = lambda *a: jax_loss(cell, *a, weights, implementation=implementation, **given_, **more)
    (value, (outputs, end)), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))(*args)
    expected, reference, reference_end = numpy_loss(cell, known, *args, weights, given_)
    np.testing.assert_allclose(outputs, reference, atol=1e-12)
    for n in carry:
        np.testing.assert_allclose(end[n], reference_end[n], atol=1e-12)
    for place in range(4):
        for path, leaf in jax.tree_util.tree_leaves_with_path(args[place]):
            direction = rng.normal(size=leaf.shape)
            slope = [
                numpy_loss(cell, known, *shifted(args, place, path, sign * 1e-5 * direction), weights, given_)[0]
                for sign in (1, -1)
            ]
            found = sum((dict(jax.tree_util.tree_leaves_with_path(grads[place]))[path] * direction).ravel())
            np.testing.assert_allclose(found, (slope[0] - slope[1]) / 2e-5, rtol=1e-6, atol=1e-7, err_msg=str(path))


def shifted(args, place, path, step):
    moved = jax.tree_util.tree_map_with_path(lambda p, x: x + step if p == path else x, args[place])
    return [*args[:place], moved, *args[place + 1 :]]


@pytest.mark.parametrize("implementation", ["scan", "hoisted"])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_variants_equal_numpy(x64, name, options, implementation):
    check(name, options, implementation, everything)


@pytest.mark.parametrize("implementation", ["scan", "custom", "hoisted"])
@pytest.mark.parametrize("option", ["none", "lengths", "mask", "resets", "recurrent_mask", "reverse", "all"])
def test_options_of_the_lstm_equal_numpy(x64, option, implementation):
    def given_(cell, rng):
        if option == "reverse":
            return everything(cell, rng) | {"reverse": True}
        return {n: v for n, v in everything(cell, rng).items() if option in (n, "all")}

    check("lstm", {}, implementation, given_)


@pytest.mark.parametrize("chunk", [-1, 3, 7])
@pytest.mark.parametrize("implementation", ["scan", "custom"])
def test_chunks_change_nothing(x64, implementation, chunk):
    check("lstm", {}, implementation, everything, chunk=chunk)


def test_small_chunks_of_the_fused_lstm(x64, monkeypatch):
    monkeypatch.setattr("lstm.fused.SHORT_CHUNK", 3)  # two chunks of 3 steps, and a rest of 1
    check("lstm", {}, "custom", everything, unroll=2)


def test_large_weights_are_taken_in_one_piece(x64, monkeypatch):
    monkeypatch.setattr("lstm.fused.SMALL_WEIGHTS", 0)
    check("lstm", {}, "custom", everything)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "peephole"])
def test_zoneout_equals_numpy(x64, name):
    def given_(cell, rng):
        shares = {"h": rng.random((B, T, cell.outputs)) < 0.3, "c": 0.2}
        kept = {n: jnp.asarray(shares[n], float) for n in cell.initial(1)}
        return everything(cell, rng) | {"zoneout": kept}

    check(name, {}, "scan", given_)


@settings(max_examples=12, deadline=None)
@given(
    time=st.integers(1, 12),
    padding=st.integers(0, 9),
    implementation=st.sampled_from(["scan", "hoisted", "custom", "auto"]),
    reverse=st.booleans(),
    seed=st.integers(0, 99),
)
def test_padding_changes_no_bit(time, padding, implementation, reverse, seed):
    rng = np.random.default_rng(seed)
    cell = LSTM(H)
    params = cell.init(jax.random.key(seed), I)
    x = jnp.asarray(rng.normal(size=(B, time + padding, I)), jnp.float32)
    how = {"implementation": implementation, "reverse": reverse}
    lengths = jnp.full(B, time)

    def loss(params, x, **more):
        outputs, carry = recurrence(cell, params, x, **how, **more)
        return (outputs[:, :time] ** 2).sum() + carry["c"].sum(), (outputs, carry)

    step = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (_, (short, end)), grads = step(params, x[:, :time])
    (_, (long, padded_end)), padded = step(params, x, lengths=lengths)
    np.testing.assert_array_equal(short, long[:, :time])
    np.testing.assert_array_equal(long[:, time:], 0)
    jax.tree.map(np.testing.assert_array_equal, end, padded_end)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), grads[0], padded[0])
    np.testing.assert_allclose(grads[1], padded[1][:, :time], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(padded[1][:, time:], 0)


@pytest.mark.parametrize("implementation", ["scan", "hoisted", "custom"])
def test_rows_without_steps_keep_their_carry(implementation):
    cell, params, x, carry, _, _ = case("lstm", {})
    outputs, end = recurrence(cell, params, x, carry, lengths=jnp.zeros(B, int), implementation=implementation)
    assert not outputs.any()
    jax.tree.map(np.testing.assert_array_equal, end, carry)
    outputs, end = recurrence(cell, params, x[:, :0], carry, implementation=implementation)
    assert outputs.shape == (B, 0, H)
    jax.tree.map(np.testing.assert_array_equal, end, carry)


@pytest.mark.parametrize("implementation", ["scan", "hoisted", "custom"])
def test_vmap_over_parameters_and_inputs(implementation):
    cell = LSTM(H)
    params = jax.vmap(lambda k: cell.init(k, I))(jax.random.split(jax.random.key(0), 2))
    x = jax.random.normal(jax.random.key(1), (2, B, T, I))
    resets = jax.random.bernoulli(jax.random.key(2), 0.3, (2, B, T))
    loss = lambda p, x, r: recurrence(cell, p, x, resets=r, implementation=implementation)[0].sum()
    together = jax.vmap(jax.grad(loss))(params, x, resets)
    for n in range(2):
        alone = jax.grad(loss)(jax.tree.map(lambda a, n=n: a[n], params), x[n], resets[n])
        jax.tree.map(lambda a, b, n=n: np.testing.assert_allclose(a[n], b, atol=1e-5), together, alone)


@pytest.mark.parametrize("implementation", ["scan", "hoisted"])
def test_forward_mode(x64, implementation):
    cell, params, x, carry, _, _ = case("lstm", {})
    run = lambda x: recurrence(cell, params, x, carry, implementation=implementation)[0].sum()
    _, slope = jax.jvp(run, (x,), (jnp.ones_like(x),))
    np.testing.assert_allclose(slope, jax.grad(run)(x).sum(), rtol=1e-10)


def test_bfloat16_is_near_float32_with_a_float32_state():
    cell = LSTM(64)
    params = cell.init(jax.random.key(0), 32)
    x = jax.random.normal(jax.random.key(1), (4, 50, 32))
    exact, _ = recurrence(cell, params, x, implementation="scan")
    for implementation in ("scan", "hoisted", "custom"):
        run = lambda p, i=implementation: recurrence(cell, p, x, implementation=i, dtype="bfloat16")
        outputs, carry = run(params)
        assert outputs.dtype == carry["c"].dtype == jnp.float32
        np.testing.assert_allclose(outputs, exact, atol=0.02)
        grads = jax.grad(lambda p, run=run: run(p)[0].sum())(params)
        assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(grads))


def test_a_chunked_gradient_needs_less_memory():
    cell = RNN(64)
    params = cell.init(jax.random.key(0), 8)
    x = jnp.ones((4, 1024, 8))

    def scratch(chunk):
        last = lambda p, x: recurrence(cell, p, x, implementation="scan", chunk=chunk)[1]["h"].sum()
        return jax.jit(jax.grad(last)).lower(params, x).compile().memory_analysis().temp_size_in_bytes

    assert scratch(-1) < scratch(0) / 2


def test_more_steps_than_cudnn_takes():
    cell = RNN(2)
    params = cell.init(jax.random.key(0), 1)
    outputs, carry = recurrence(cell, params, jnp.ones((1, 70_000, 1)), lengths=jnp.array([66_000]))
    assert outputs[0, 65_999].any()
    assert not outputs[0, 66_000:].any()
    np.testing.assert_array_equal(carry["h"][0], outputs[0, 65_999])


@pytest.mark.parametrize(
    ("cell", "implementation", "more", "named"),
    [
        (GRU(H), "custom", {}, "GRU"),
        (LSTM(H, peephole=True), "custom", {}, "peephole=True"),
        (LSTM(H, projection=2), "custom", {}, "projection=2"),
        (LSTM(H), "custom", {"zoneout": {"h": 0.1}}, "zoneout"),
        (LSTM(H), "cudnn", {}, "backend"),
        (LSTM(H), "hoistd", {}, "did you mean 'hoisted'"),
    ],
)
def test_what_is_not_supported_is_named(monkeypatch, cell, implementation, more, named):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    params = cell.init(jax.random.key(0), I)
    with pytest.raises(InputError, match=named):
        recurrence(cell, params, jnp.ones((B, T, I)), implementation=implementation, **more)


@pytest.mark.parametrize("backend", list(auto.TABLE))
def test_auto_says_what_it_picked_and_never_what_does_not_fit(monkeypatch, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    needs = dict.fromkeys(("mask", "resets", "recurrent_mask", "zoneout"), False)
    for row in auto.TABLE[backend]:
        choice = auto.choose(LSTM(row.shape[3]), row.shape, needs)
        assert (choice.implementation, choice.unroll) == (row.implementation, row.unroll)
        assert str(row.shape) in choice.why
    shape = (32, 100, 128, 256)
    for cell, more in ((GRU(256), {}), (LSTM(256, peephole=True), {}), (LSTM(256), {"zoneout": True})):
        choice = auto.choose(cell, shape, needs | more)
        assert not auto.unsupported(choice.implementation, cell, needs | more, "float32")
        assert choice.why.startswith("custom does not support")


def test_auto_takes_cudnn_for_large_states_of_a_gpu_alone(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    needs = dict.fromkeys(("mask", "resets", "recurrent_mask", "zoneout"), False)
    large = (128, 128, 1024, 1024)
    assert auto.choose(LSTM(1024), large, needs).implementation == "cudnn"
    assert auto.choose(LSTM(64), (8, 1000, 16, 64), needs)[:2] == ("custom", 4)
    for more, dtype, named in (({"resets": True}, "float32", "resets"), ({}, "bfloat16", "dtype=bfloat16")):
        choice = auto.choose(LSTM(1024), large, needs | more, dtype)
        assert choice == ("custom", 4, f"cudnn does not support {named}")


def test_cudnn_leaves_float64_alone(x64, monkeypatch):
    """It would read the bytes of float64 as float32."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    cell, params, x, carry, _, _ = case("lstm", {})
    with pytest.raises(InputError, match="float64"):
        recurrence(cell, params, x, carry, implementation="cudnn")
    recurrence(cell, params, x, carry)


@pytest.mark.parametrize("option", ["none", "lengths", "reverse", "both"])
def test_cudnn_equals_the_scan(option):
    if jax.default_backend() != "gpu":
        pytest.skip("cuDNN runs on NVIDIA GPUs")
    cell, params, x, carry, _, _ = jax.tree.map(
        lambda a: a.astype(jnp.float32) if isinstance(a, jax.Array) else a, case("lstm", {})
    )
    more = {"lengths": jnp.array([T, 0, T - 2])} if option in ("lengths", "both") else {}

    def loss(params, x, carry, implementation):
        found = recurrence(
            cell, params, x, carry, implementation=implementation, reverse=option in ("reverse", "both"), **more
        )
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(found)), found

    with jax.default_matmul_precision("highest"):
        both = [
            jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True), static_argnums=3)(params, x, carry, name)
            for name in ("cudnn", "scan")
        ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *both)


def test_cudnn_weights_are_in_its_order():
    """jax.experimental.rnn has a reference of cuDNN's layout that runs anywhere."""
    from jax.experimental import rnn

    cell, x = LSTM(H), jax.random.normal(jax.random.key(1), (B, T, I))
    params = cell.init(jax.random.key(0), I)
    params["b"] = jax.random.normal(jax.random.key(2), params["b"].shape)
    lengths = jnp.array([T, 3, 1], jnp.int32)
    zero = jnp.zeros((1, B, H))
    unpacked = rnn.unpack_lstm_weights(cudnn.flat_weights(params), I, H, 1, False)
    with jax.numpy_rank_promotion("allow"):
        y, h, c = rnn.lstm_ref(x, zero, zero, *unpacked, lengths, I, H, 1, 0.0, False)
    outputs, carry = recurrence(cell, params, x, lengths=lengths, implementation="scan")
    np.testing.assert_allclose(y * (jnp.arange(T)[None] < lengths[:, None])[..., None], outputs, atol=1e-5)
    np.testing.assert_allclose(c[0], carry["c"], atol=1e-5)


def test_sequences_are_flipped_within_their_length():
    x = jnp.arange(8.0).reshape(2, 4, 1)
    np.testing.assert_array_equal(cudnn.flipped(x, jnp.array([3, 0]))[..., 0], [[2, 1, 0, 3], [4, 5, 6, 7]])


def test_unknown_cells_and_options_are_named():
    with pytest.raises(InputError, match="did you mean 'peephole'"):
        make_cell("peepholes", 3)
    with pytest.raises(InputError, match="did you mean 'projection'"):
        make_cell("lstm", 3, projektion=2)
    with pytest.raises(InputError, match="coupled"):
        LSTM(3, coupled=True, forget_gate=False)


def test_the_forget_gate_starts_open():
    params = LSTM(4).init(jax.random.key(0), 3)
    np.testing.assert_array_equal(params["b"], [0] * 4 + [1] * 4 + [0] * 8)
    assert not LSTM(4, forget_bias=0.0).init(jax.random.key(0), 3)["b"].any()


@pytest.mark.parametrize(("name", "count"), [("lstm", 4), ("cifg", 3), ("nig", 3), ("nfg", 3), ("nog", 3), ("niaf", 4)])
def test_parameter_counts(name, count):
    """A gate that is gone takes its weights with it."""
    params = make_cell(name, H).init(jax.random.key(0), I)
    assert sum(p.size for p in jax.tree.leaves(params)) == count * H * (I + H + 1)
