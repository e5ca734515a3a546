"""lstm.model: what each option of Stack does, and that nothing else does it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from lstm.cells import make_cell
from lstm.language_model import LanguageModel
from lstm.model import Stack, dropped
from tests.small_models import B, I, T, X, by_steps, close, differs, equal, fresh, gradient, run, shapes, stack, train

# Stack: layers, directions, carries.


@pytest.mark.parametrize("cell", ["lstm", "peephole", "gru", "fgr"])
def test_layers_are_the_cells_one_on_the_other(cell):
    model, variables = stack(cell=cell)
    y, carry = run(model, variables, X)
    expected, end = by_steps(model.cells(), variables["params"], X, model.initial_carry(B))
    assert y.dtype == jnp.float32
    close(y, expected)
    close(carry, end)


def test_shapes_and_names():
    model, variables = stack(bidirectional=True, learned_initial=True, options={"projection": 3})
    assert shapes(variables["params"]["layer0"]) == {"W": (I, 24), "R": (3, 24), "b": (24,), "P": (6, 3)}
    assert shapes(variables["params"]["layer1_reverse"]) == {"W": (6, 16), "R": (3, 16), "b": (16,), "P": (4, 3)}
    assert shapes(variables["params"]["layer1_initial"]) == {"h": (3,), "c": (4,)}
    assert set(variables["params"]) == {
        f"layer{n}{w}{s}" for n in "01" for w in ("", "_reverse") for s in ("", "_initial")
    }
    y, carry = run(model, variables, X)
    assert y.shape == (B, T, 6)
    assert shapes(carry) == tuple(({"h": (B, 3), "c": (B, h)},) * 2 for h in (6, 4))
    assert shapes(carry) == shapes(model.apply(variables, B, method="initial_carry"))
    hash(model)


def test_two_halves_are_the_whole():
    model, variables = stack()
    whole, end = run(model, variables, X)
    first, carry = run(model, variables, X[:, :3])
    second, last = run(model, variables, X[:, 3:], carry)
    close(jnp.concatenate([first, second], axis=1), whole)
    close(last, end)


def test_bidirectional_is_a_forward_stack_and_one_on_the_flipped_sequence():
    model, variables = stack(hidden=(6,), bidirectional=True)
    one = Stack(hidden=(6,))
    params = variables["params"]
    ahead, end = run(one, {"params": {"layer0": params["layer0"]}}, X)
    back, start = run(one, {"params": {"layer0": params["layer0_reverse"]}}, X[:, ::-1])
    y, carry = run(model, variables, X)
    close(y, jnp.concatenate([ahead, back[:, ::-1]], axis=-1))
    close(carry, ((end[0], start[0]),))


def test_bidirectional_takes_its_carry_back():
    model, variables = stack(bidirectional=True)
    _, carry = run(model, variables, X)
    assert differs(run(model, variables, X, carry)[0], run(model, variables, X)[0])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_changes_nothing(bidirectional):
    model, variables = stack(bidirectional=bidirectional, learned_initial=True)
    lengths = jnp.asarray([T, 3, 0])
    noise = jnp.where((jnp.arange(T)[None] < lengths[:, None])[..., None], X, 1e3)
    y, carry = run(model, variables, noise, lengths=lengths)
    by_mask, _ = run(model, variables, noise, mask=jnp.arange(T)[None] < lengths[:, None])
    equal(y, by_mask)
    short, end = run(model, variables, X[:, :3])
    equal(y[1, :3], short[1])
    equal(jax.tree.map(lambda x: x[1], carry), jax.tree.map(lambda x: x[1], end))
    assert not y[1, 3:].any() and not y[2].any()
    equal(jax.tree.map(lambda x: x[2:], carry), model.apply(variables, 1, method="initial_carry"))


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_reset_begins_a_new_sequence(bidirectional, learned):
    """Two sequences packed in one row are as two rows, in both directions."""
    model, variables = stack(bidirectional=bidirectional, learned_initial=learned)
    resets = jnp.zeros((B, T), bool).at[:, 3].set(True)
    y, carry = run(model, variables, X, resets=resets)
    first, start = run(model, variables, X[:, :3])
    second, end = run(model, variables, X[:, 3:])
    close(y, jnp.concatenate([first, second], axis=1))
    if bidirectional:
        close([ahead for ahead, _ in carry], [ahead for ahead, _ in end])
        close([back for _, back in carry], [back for _, back in start])
    else:
        close(carry, end)


@pytest.mark.parametrize("reset", [3, 4])
def test_padding_between_two_sequences(reset):
    """Sequences of 2 and 2 steps with 2 of padding between: a reset counts on a step that counts."""
    model, variables = stack(bidirectional=True)
    mask = jnp.asarray([[1, 1, 0, 0, 1, 1]] * B)
    resets = jnp.zeros((B, T), bool).at[:, reset].set(True)
    y, _ = run(model, variables, X, mask=mask, resets=resets)
    apart, _ = run(model, variables, jnp.concatenate([X[:, :2], X[:, 4:]]))
    together, _ = run(model, variables, jnp.concatenate([X[:, :2], X[:, 4:]], axis=1))
    expected = jnp.concatenate([apart[:B], apart[B:]], axis=1) if reset == 4 else together
    close(y[:, jnp.asarray([0, 1, 4, 5])], expected)
    assert not y[:, 2:4].any()


def test_a_carry_of_another_depth_is_refused():
    model, variables = stack()
    with pytest.raises(InputError, match="the carry has 1 layers and config.model.hidden 2"):
        run(model, variables, X, model.initial_carry(B)[:1])


def test_vmap():
    """Over inputs, and over parameters, as one trains several seeds at once."""
    model, variables = stack(hidden=(4,), bidirectional=True)
    forward = lambda v, x: run(model, v, x)[0]
    other = jax.tree.map(lambda x: -x, variables)
    many = jnp.stack([X, 2 * X]), jax.tree.map(lambda *x: jnp.stack(x), variables, other)
    close(
        jax.vmap(forward, (None, 0))(variables, many[0]), jnp.stack([forward(variables, X), forward(variables, 2 * X)])
    )
    close(jax.vmap(forward, (0, None))(many[1], X), jnp.stack([forward(variables, X), forward(other, X)]))


@pytest.mark.parametrize("chunk", [0, 4])
def test_gradient_against_finite_differences(chunk):
    model, variables = stack(bidirectional=True, learned_initial=True, chunk=chunk)
    direction = jax.tree.map(lambda x: np.cos(np.arange(x.size, dtype=x.dtype)).reshape(x.shape), variables)
    along = jax.tree.map(lambda g, d: (g * d).sum(), gradient(model, variables, X), direction)
    moved = lambda step: jax.tree.map(lambda v, d: v + step * d, variables, direction)
    ahead, back = (float((run(model, moved(step), X)[0] ** 2).sum()) for step in (1e-3, -1e-3))
    np.testing.assert_allclose(sum(jax.tree.leaves(along)), (ahead - back) / 2e-3, rtol=5e-3)


def test_computing_in_bfloat16_keeps_state_and_parameters_wide():
    model, variables = stack(dtype="bfloat16")
    y, carry = run(model, variables, X)
    assert {x.dtype for x in jax.tree.leaves((variables, y, carry))} == {jnp.dtype("float32")}
    exact = run(Stack(hidden=(6, 4)), variables, X)[0]
    assert 0 < float(jnp.abs(y - exact).max()) < 0.05
    narrow, wide = (jax.tree.leaves(gradient(m, variables, X)) for m in (model, Stack(hidden=(6, 4))))
    for a, b in zip(narrow, wide, strict=True):
        assert float(jnp.linalg.norm(a - b)) < 0.05 * float(jnp.linalg.norm(b))


# Stack: noise.

NOISE = {
    "dropout": {"dropout": 0.5},
    "variational": {"dropout": 0.5, "variational": True},
    "recurrent_dropout": {"recurrent_dropout": 0.5},
    "weight_drop": {"weight_drop": 0.5},
    "zoneout": {"zoneout": 0.5},
}


@pytest.mark.parametrize("name", NOISE)
def test_noise_is_of_training_alone(name):
    """Another key gives other outputs, the same key the same; evaluation needs no key and (but for zoneout) is untouched."""
    model, variables = stack(**NOISE[name])
    plain = run(Stack(hidden=(6, 4)), variables, X)
    noisy = train(model, variables, X)
    equal(noisy, train(model, variables, X))
    assert differs(noisy[0], train(model, variables, X, seed=4)[0])
    assert differs(noisy[0], plain[0])
    still = run(model, variables, X)
    equal(still, run(model, variables, X))
    if name != "zoneout":
        equal(still, plain)


def test_training_without_noise_needs_no_key():
    model, variables = stack()
    equal(run(model, variables, X, train=True), run(model, variables, X))


@pytest.mark.parametrize("cell", ["gru", "fgr"])
def test_noise_with_other_cells(cell):
    rates = {"dropout": 0.5, "recurrent_dropout": 0.5, "weight_drop": 0.5, "zoneout": 0.5}
    model, variables = stack(cell=cell, bidirectional=True, **rates)
    assert differs(train(model, variables, X)[0], run(model, variables, X)[0])


@pytest.mark.parametrize("implementation", ["hoisted", "custom"])
def test_implementations_agree_in_training(implementation):
    """The same key gives the same noise, whoever runs the layers."""
    rates = {"dropout": 0.5, "variational": True, "recurrent_dropout": 0.5, "weight_drop": 0.5}
    scan, variables = stack(implementation="scan", learned_initial=True, **rates)
    other, _ = stack(implementation=implementation, learned_initial=True, **rates)
    resets = jnp.zeros((B, T), bool).at[:, 2].set(True)
    close(train(other, variables, X, resets=resets), train(scan, variables, X, resets=resets))
    ours, theirs = (gradient(model, variables, X, train=True, resets=resets) for model in (scan, other))
    close(theirs, ours)


def test_dropout_is_between_layers_alone():
    """With one layer there is nothing between; the first layer of two is untouched; no output is zero."""
    one, variables = stack(hidden=(6,), dropout=0.5)
    equal(train(one, variables, X), run(one, variables, X))
    two, variables = stack(dropout=0.5)
    (y, noisy), (_, still) = train(two, variables, X), run(two, variables, X)
    equal(noisy[0], still[0])
    assert differs(noisy[1]["h"], still[1]["h"])
    assert (y != 0).all()


def test_dropped_zeroes_its_share_and_keeps_the_mean():
    x = jnp.ones((40, 50, 20))
    y = dropped(jax.random.key(0), x, 0.3)
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.7], rtol=1e-6)
    assert abs(float((y == 0).mean()) - 0.3) < 0.01
    locked = dropped(jax.random.key(0), x, 0.3, shared=(1,))
    assert (locked == locked[:, :1]).all()
    assert differs(locked[0], locked[1])


def masks_between(**options):
    """The mask [B, T, width] that a second layer without memory sees: cells of the identity, fed with ones."""
    model = Stack(hidden=(16, 16), cell="rnn", **options)
    eye, none = jnp.eye(16), jnp.zeros((16, 16))
    params = {f"layer{n}": {"W": 1e-3 * eye, "R": none, "b": jnp.zeros(16)} for n in range(2)}
    x = jnp.ones((B, T, 16))
    return np.asarray(train(model, {"params": params}, x)[0]) > 1e-7


def test_variational_dropout_is_constant_in_time():
    plain, locked = masks_between(dropout=0.5), masks_between(dropout=0.5, variational=True)
    assert (locked == locked[:, :1]).all() and (locked[0] != locked[1]).any() and 0.2 < locked.mean() < 0.8
    assert (plain != plain[:, :1]).any() and 0.3 < plain.mean() < 0.7


def test_recurrent_dropout_is_one_mask_a_sequence_on_what_enters_R():
    """A linear regime shows the mask: the second step's output is R's rows times the mask, scaled by 1 / keep."""
    model = Stack(hidden=(16,), cell="rnn", recurrent_dropout=0.25)
    eye = jnp.eye(16)
    variables = {"params": {"layer0": {"W": eye, "R": eye, "b": jnp.zeros(16)}}}
    x = jnp.zeros((B, 3, 16)).at[:, 0].set(1e-3)
    y = np.asarray(train(model, variables, x)[0]) / 1e-3
    close(y[:, 0], np.ones((B, 16)), 1e-4)  # the input is not dropped
    mask = np.where(y[:, 1] > 0.5, 1 / 0.75, 0)
    close(y[:, 1], mask, 1e-4)
    close(y[:, 2], mask**2, 1e-4)  # the same mask again
    assert (mask[0] != mask[1]).any() and 0.5 < (mask > 0).mean() < 0.95


def test_weight_drop_is_one_mask_on_R_for_all_rows_and_steps():
    model = Stack(hidden=(16,), cell="rnn", weight_drop=0.25)
    variables = {"params": {"layer0": {"W": jnp.eye(16), "R": jnp.ones((16, 16)), "b": jnp.zeros(16)}}}
    x = jnp.zeros((16, 2, 16)).at[jnp.arange(16), 0, jnp.arange(16)].set(1e-4)  # row n shows row n of R
    y = np.asarray(train(model, variables, x)[0])
    close(y[:, 0] / 1e-4, np.eye(16), 1e-3)
    seen = y[:, 1] / 1e-4
    close(seen, np.where(seen > 0.5, 1 / 0.75, 0), 1e-3)
    assert 0.6 < (seen > 0.5).mean() < 0.9
    equal(run(model, variables, x), run(Stack(hidden=(16,), cell="rnn"), variables, x))


def test_weight_drop_has_a_gradient_where_it_keeps():
    model, variables = stack(hidden=(6,), weight_drop=0.5)
    grads = gradient(model, variables, X, train=True)
    share = float((grads["params"]["layer0"]["R"] == 0).mean())
    assert 0.3 < share < 0.7


def test_zoneout_evaluates_the_expectation():
    """x~_t = rate x_{t-1} + (1 - rate) x_t, for h and c with their own rates (Krueger et al., equation 6)."""
    model, variables = stack(hidden=(6,), zoneout=(0.1, 0.4))
    cell, params = make_cell("lstm", 6), variables["params"]["layer0"]
    carry, outputs = cell.initial(B), []
    for t in range(T):
        new = cell.step(params, carry, cell.project(params, X[:, t]))
        carry = {n: r * carry[n] + (1 - r) * new[n] for n, r in {"h": 0.1, "c": 0.4}.items()}
        outputs.append(carry["h"])
    y, end = run(model, variables, X)
    close(y, jnp.stack(outputs, axis=1))
    close(end, (carry,))


def test_zoneout_keeps_a_share_of_the_old_state():
    model, variables = stack(hidden=(64,), zoneout=(0.25, 0.0))
    y = np.asarray(train(model, variables, X)[0])
    kept = np.concatenate([y[:, :1] == 0, y[:, 1:] == y[:, :-1]], axis=1)
    assert abs(kept.mean() - 0.25) < 0.05
    assert (kept != kept[:, :1]).any()
    c_only = train(Stack(hidden=(64,), zoneout=(0.0, 0.25)), variables, X)[0]
    assert not (c_only[:, 1:] == c_only[:, :-1]).any()


def test_noise_differs_between_directions_and_layers():
    model = Stack(hidden=(16, 16), cell="rnn", bidirectional=True, recurrent_dropout=0.5)
    params = {"W": jnp.eye(16), "R": jnp.eye(16), "b": jnp.zeros(16)}
    variables = {"params": {"layer0": params, "layer0_reverse": params}}
    variables["params"] |= {f"layer1{w}": params | {"W": jnp.eye(32, 16)} for w in ("", "_reverse")}
    x = jnp.ones((1, 2, 16)) * 1e-3
    _, ((a, b), (c, d)) = train(model, variables, x)
    outputs = [np.asarray(end["h"][0]) for end in (a, b, c, d)]
    assert all(
        (np.sign(p - p.mean()) != np.sign(q - q.mean())).any() for n, p in enumerate(outputs) for q in outputs[:n]
    )


# Stack: the initial state, starts, and what is refused.


def test_learned_initial_state():
    """Used by every row and by resets, with a gradient; a given carry overrides it."""
    model, variables = stack(learned_initial=True)
    params = variables["params"]
    zero, plain = Stack(hidden=(6, 4)), {"params": {k: x for k, x in params.items() if not k.endswith("_initial")}}
    carry = model.apply(variables, B, method="initial_carry")
    for layer, n in ((0, 6), (1, 4)):
        for name in "hc":
            state = params[f"layer{layer}_initial"][name]
            equal(carry[layer][name], jnp.broadcast_to(state, (B, n)))
    learned = run(model, variables, X)
    equal(learned, run(zero, plain, X, carry))
    equal(run(model, variables, X, zero.initial_carry(B)), run(zero, plain, X))
    assert differs(learned[0], run(zero, plain, X)[0])

    resets = jnp.zeros((B, T), bool).at[:, 4].set(True)
    for grads in (gradient(model, variables, X), gradient(model, variables, X, zero.initial_carry(B), resets=resets)):
        for name in ("layer0_initial", "layer1_initial"):
            assert all(jnp.abs(g).max() > 1e-3 for g in grads["params"][name].values())


def test_learned_initial_starts_at_zero():
    params = fresh(Stack(hidden=(6,), learned_initial=True), X)
    assert shapes(params["layer0_initial"]) == {"h": (6,), "c": (6,)}
    assert not any(x.any() for x in jax.tree.leaves(params["layer0_initial"]))
    assert params["layer0"]["R"].any()


def test_options_reach_the_cell():
    layer = fresh(Stack(hidden=(6,), options={"forget_bias": 3.0, "peephole": True}), X)["layer0"]
    equal(layer["b"], jnp.repeat(jnp.asarray([0.0, 3.0, 0.0, 0.0]), 6))
    assert layer["p"].shape == (3, 6)


def test_init_scale():
    params = fresh(Stack(hidden=(16,), cell="layer_norm", init_scale=0.05), X)["layer0"]
    for name, x in params.items():
        x = np.asarray(x)
        if name.startswith("gain"):
            assert (x == 1).all()
        else:
            assert 0.03 < np.abs(x).max() <= 0.05 and (x < 0).any() and (x > 0).any()
    assert differs(params["b"][:16], params["b_c"])


def test_unknown_implementation():
    with pytest.raises(InputError, match="did you mean 'scan'"):
        run(*stack(implementation="scam"), X)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": ()}, "config.model.hidden="),
        ({"hidden": (4, 0)}, "config.model.hidden="),
        ({"dropout": 1.0}, "config.model.dropout=1.0"),
        ({"recurrent_dropout": -0.1}, "config.model.recurrent_dropout=-0.1"),
        ({"weight_drop": 2.0}, "config.model.weight_drop=2.0"),
        ({"zoneout": (0.1, 1.5)}, "config.model.zoneout=1.5"),
        ({"zoneout": (0.1,)}, "one rate, or two"),
        ({"cell": "ltsm"}, "did you mean 'lstm'"),
        ({"options": {"peep": True}}, "did you mean 'peephole'"),
        ({"cell": "gru", "options": {"projection": 3}}, "projection"),
    ],
)
def test_what_no_stack_can_be_is_refused_at_once(options, message):
    with pytest.raises(InputError, match=message):
        Stack(**options)
    with pytest.raises(InputError, match=message):
        LanguageModel(vocabulary=11, **options)


def test_a_learned_carry_needs_its_parameters():
    for model in (Stack(learned_initial=True), LanguageModel(vocabulary=11, learned_initial=True)):
        with pytest.raises(InputError, match="method='initial_carry'"):
            model.initial_carry(2)
