"""lstm.model: what each option of Stack and LanguageModel does, and that nothing else does it."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from common.errors import InputError
from lstm.cells import make_cell
from lstm.model import LanguageModel, Stack, dropped

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


# LanguageModel.


def test_language_model_is_embedding_stack_and_matrix():
    model, variables = language()
    params = variables["params"]
    assert shapes(params["output"]) == {"kernel": (6, 11), "bias": (11,)}
    assert params["embedding"].shape == (11, 6) and set(params) == {"embedding", "stack", "output"}
    logits, carry = run(model, variables, TOKENS)
    y, end = run(Stack(hidden=(5, 6)), {"params": params["stack"]}, params["embedding"][TOKENS])
    close(logits, y @ params["output"]["kernel"] + params["output"]["bias"][None, None])
    equal(carry, end)
    assert logits.dtype == jnp.float32 and logits.shape == (B, T, 11)


def test_features_and_logits_are_the_whole():
    """Also step by step with the carry, as decoding does it."""
    model, variables = language()
    logits, _ = run(model, variables, TOKENS)
    features, _ = run(model, variables, TOKENS, method="features")
    close(model.apply(variables, features, method="logits"), logits)
    carry, steps = model.initial_carry(B), []
    for t in range(T):
        outputs, carry = run(model, variables, TOKENS[:, t : t + 1], carry, method="features")
        steps.append(model.apply(variables, outputs[:, 0], method="logits"))
    close(jnp.stack(steps, axis=1), logits)


def test_language_model_takes_mask_and_resets():
    model, variables = language(learned_initial=True)
    mask = jnp.arange(T)[None] < jnp.asarray([6, 4, 2])[:, None]
    short, _ = run(model, variables, TOKENS[1:2, :4])
    close(run(model, variables, TOKENS, mask=mask)[0][1:2, :4], short)
    resets = jnp.zeros((B, T), bool).at[:, 2].set(True)
    close(run(model, variables, TOKENS, resets=resets)[0][:, 2:], run(model, variables, TOKENS[:, 2:])[0])


def test_tied_has_one_matrix_and_a_gradient_from_both_ends():
    model, variables = language(tied=True)
    params = variables["params"]
    assert shapes(params["output"]) == {"bias": (11,)}
    logits, _ = run(model, variables, TOKENS)
    y, _ = run(model, variables, TOKENS, method="features")
    close(logits, y @ params["embedding"].T + params["output"]["bias"][None, None])

    apart, _ = language()
    loose = {**params, "output": {"kernel": params["embedding"].T, "bias": params["output"]["bias"]}}
    together, ends = (gradient(m, {"params": p}, TOKENS)["params"] for m, p in ((model, params), (apart, loose)))
    first, last = ends["embedding"], ends["output"]["kernel"].T
    assert differs(first, 0 * first) and differs(last, 0 * last)
    close(together["embedding"], first + last, 1e-4)


def test_tied_widths_must_agree():
    with pytest.raises(InputError, match=r"config.model.embed=6 .*config.model.hidden gives 5"):
        LanguageModel(vocabulary=11, embed=6, hidden=(6, 5), tied=True)
    LanguageModel(vocabulary=11, embed=3, hidden=(6, 5), options={"projection": 3}, tied=True)


def test_raw_and_dropped_outputs():
    model, variables = language(output_dropout=0.5, variational=True)
    logits, _, outputs = train(model, variables, TOKENS, with_outputs=True)
    raw, after = outputs["raw"], outputs["dropped"]
    equal(raw, run(model, variables, TOKENS, with_outputs=True)[2]["raw"])
    close(after, jnp.where(after == 0, 0, 2 * raw))
    assert 0.2 < float((after == 0).mean()) < 0.8
    assert ((after == 0) == (after == 0)[:, :1]).all()  # variational
    close(logits, model.apply(variables, after, method="logits"))
    plain = train(language(output_dropout=0.5)[0], variables, TOKENS, with_outputs=True)[2]["dropped"]
    assert ((plain == 0) != (plain == 0)[:, :1]).any()


@functools.partial(jax.jit, static_argnums=0)
def inputs_of_the_stack(model, variables, tokens):
    """What the stack is given in training."""
    seen = []

    def record(call, args, options, context):
        if isinstance(context.module, Stack) and context.method_name == "__call__":
            seen.append(args[0])
        return call(*args, **options)

    with nn.intercept_methods(record):
        model.apply(variables, tokens, train=True, rngs={"dropout": jax.random.key(3)})
    return seen[0]


def test_embedding_dropout_drops_whole_words():
    model, variables = language(embedding_dropout=0.5)
    x = inputs_of_the_stack(model, variables, TOKENS)
    table = variables["params"]["embedding"]
    whole = table[TOKENS]
    close(x, jnp.where(x == 0, 0, 2 * whole))
    gone = (x == 0).all(-1)
    assert ((x == 0).any(-1) == gone).all()
    words = {int(t): {bool(g) for g in np.asarray(gone)[t == TOKENS]} for t in np.unique(TOKENS)}
    assert all(len(fates) == 1 for fates in words.values()) and len(set.union(*words.values())) == 2


@pytest.mark.parametrize("variational", [False, True])
def test_input_dropout_drops_parts_of_words(variational):
    model, variables = language(embed=16, input_dropout=0.5, variational=variational)
    gone = inputs_of_the_stack(model, variables, TOKENS) == 0
    assert 0.3 < gone.mean() < 0.7 and (gone.any(-1) != gone.all(-1)).any()
    assert (gone == gone[:, :1]).all() == variational
    assert (gone[0] != gone[1]).any()


@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout", "zoneout", "weight_drop"])
def test_the_stack_of_a_language_model_gets_its_rates(name):
    model, variables = language(**{name: 0.5})
    assert differs(train(model, variables, TOKENS)[0], run(language()[0], variables, TOKENS)[0])
    equal(run(model, variables, TOKENS), run(model, variables, TOKENS))


def test_starts():
    params = jax.tree.map(np.asarray, fresh(LanguageModel(11, embed=6, hidden=(5,)), TOKENS))
    assert 0.08 < np.abs(params["embedding"]).max() <= 0.1
    assert not params["output"]["bias"].any()
    equal(params["stack"]["layer0"]["b"][5:10], np.ones(5, np.float32))
    small = fresh(LanguageModel(11, embed=6, hidden=(5,), init_scale=0.02), TOKENS)
    assert all(0.01 < np.abs(np.asarray(x)).max() <= 0.02 for x in jax.tree.leaves(small))


def test_learned_initial_of_a_language_model():
    model, variables = language(learned_initial=True)
    grads = gradient(model, variables, TOKENS)["params"]["stack"]
    assert all(jnp.abs(g).max() > 1e-3 for g in grads["layer0_initial"].values())
    assert shapes(model.apply(variables, 2, method="initial_carry")) == shapes(language()[0].initial_carry(2))


def test_language_model_under_vmap():
    """A beam: the same parameters, an axis more of tokens and carries."""
    model, variables = language(tied=True)
    beams = jnp.stack([TOKENS, (TOKENS + 1) % 11])
    carry = jax.tree.map(lambda x: jnp.stack([x, x]), model.initial_carry(B))
    logits, _ = jax.vmap(lambda t, c: run(model, variables, t, c))(beams, carry)
    close(logits, jnp.stack([run(model, variables, t, model.initial_carry(B))[0] for t in beams]))
