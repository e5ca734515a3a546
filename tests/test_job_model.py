"""The net that follows a stream of jobs: its chances by explicit enumeration, padding, carries, cells, unseen names."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.errors import InputError
from lstm.job_model import JobModel, alive_nats, log_survival, still_running, time_nats

ROWS, STEPS, BINS = 3, 7, 5
SIZES = (4, 3, 2, 2, 2)
INPUTS = ("numbers", "ended", "names", "submitted", "valid")


# Chances ----------------------------------------------------------------------------------------------------------------------


def joint(logits, hazards):
    """P(class, bin) [bins, K] of one job in float64: it ends in a bin as one of the classes."""
    logits, hazards = np.asarray(logits, np.float64), np.asarray(hazards, np.float64)
    chance = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    ends = 1 / (1 + np.exp(-hazards))
    found, left = [], chance
    for row in ends:
        found.append(left * row)
        left = left * (1 - row)
    return np.stack([*found, left])


@jax.jit
def answers(logits, hazards):
    """Everything that is made of one job's logits [K] and hazards [bins - 1, K]; nats of time [bins, K]."""
    places, labels = jnp.meshgrid(jnp.arange(BINS), jnp.arange(3), indexing="ij")
    rows = lambda x, shape: jnp.broadcast_to(x[(None,) * len(shape)], (*shape, *x.shape))
    nats = time_nats(rows(hazards, (BINS, 3)), labels, places)
    alive = alive_nats(rows(logits, (BINS,)), rows(hazards, (BINS,)), places[:, 0])
    return still_running(logits, hazards), log_survival(hazards), nats, alive


odds = arrays(np.float32, (BINS - 1, 3), elements=st.floats(-6, 6, width=32))
scores = arrays(np.float32, (3,), elements=st.floats(-6, 6, width=32))


@settings(max_examples=40, deadline=None)
@given(scores, odds)
def test_chances_are_those_of_an_explicit_enumeration(logits, hazards):
    whole = joint(logits, hazards)
    assert whole.shape == (BINS, 3) and np.isclose(whole.sum(), 1)
    later = whole[::-1].cumsum(0)[::-1]  # ends in this bin or after it
    running, survival, nats, alive = answers(logits, hazards)
    np.testing.assert_allclose(running, later / later.sum(1, keepdims=True), rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(running.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(running[0], jax.nn.softmax(logits), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(survival, np.log(later / later[:1]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(nats, -np.log(whole / whole.sum(0)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(alive, -np.log(later.sum(1)), rtol=1e-4, atol=1e-5)


def test_sure_hazards_give_finite_nats_and_gradients():
    logits, hazards = jnp.array([80.0, -80.0, 0.0]), jnp.full((BINS - 1, 3), 200.0).at[:, 1].set(-200.0)

    def total(logits, hazards):
        place, label = jnp.array(BINS - 1), jnp.array(0)
        nats = time_nats(hazards, label, place) + alive_nats(logits, hazards, place)
        return nats + still_running(logits, hazards)[..., 0].sum()

    value, gradients = jax.jit(jax.value_and_grad(total, (0, 1)))(logits, hazards)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)


# The net ------------------------------------------------------------------------------------------------------------------------


def model(**changes):
    options = {"names": SIZES, "classes": 3, "bins": BINS, "embed": 4, "width": 6, "head": 5, "hidden": (5,)}
    return JobModel(**options | changes)


def events(steps=STEPS, seed=0, unseen=True):
    rng = np.random.default_rng(seed)
    shape, submitted = (ROWS, steps), rng.random((ROWS, steps)) < 0.6
    names = np.stack([rng.integers(0 if unseen else 1, size, shape) for size in SIZES], -1)
    batch = {
        "numbers": rng.normal(size=(*shape, 8)).astype(np.float32) * submitted[..., None],
        "ended": rng.normal(size=(*shape, 4)).astype(np.float32) * ~submitted[..., None],
        "names": names.astype(np.int32),
        "submitted": submitted,
        "valid": np.ones(shape, bool),
    }
    return {name: jnp.asarray(x) for name, x in batch.items()}


def inputs(batch):
    return [batch[name] for name in INPUTS]  # jit sorts the keys


@functools.cache
def started(net):
    """Parameters that are not those of the start, where hazards and names are nearly alike."""
    params = jax.jit(net.init)(jax.random.key(0), *inputs(events()))
    leaves, shape = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return shape.unflatten([x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])


@functools.cache
def applied(net):
    return jax.jit(lambda params, batch, *carry: net.apply(params, *inputs(batch), *carry))


def part(batch, steps):
    return {name: x[:, steps] for name, x in batch.items()}


NETS = [{"hidden": (5, 4)}, {"cell": "gru"}, {"cell": "rnn"}, {"hidden": ()}]
named = pytest.mark.parametrize("changes", NETS, ids=["lstm", "gru", "rnn", "none"])


@named
def test_shapes_of_each_net(changes):
    net, batch = model(**changes), events()
    params = started(net)
    logits, hazards, carry = applied(net)(params, batch)
    assert logits.shape == (ROWS, STEPS, 3) and hazards.shape == (ROWS, STEPS, BINS - 1, 3)
    assert jax.tree.structure(carry) == jax.tree.structure(net.initial_carry(ROWS))
    assert [x.shape for x in jax.tree.leaves(carry)] == [x.shape for x in jax.tree.leaves(net.initial_carry(ROWS))]
    assert ("stack" in params["params"]) == bool(net.hidden)
    gradients = jax.jit(jax.grad(lambda p: sum(x.sum() for x in net.apply(p, *inputs(batch))[:2])))(params)
    moved = {name: any(np.any(x) for x in jax.tree.leaves(tree)) for name, tree in gradients["params"].items()}
    assert all(moved.values()), moved


@named
def test_padding_changes_no_bit(changes):
    net, batch = model(**changes), events()
    params, other = started(net), events(steps=STEPS + 6, seed=5)
    apply = applied(net)
    lengths = np.array([STEPS, 4, 1])
    valid = np.arange(STEPS)[None] < lengths[:, None]
    expected, found = None, None
    for steps in (STEPS, STEPS + 6):  # other events in the padding
        padded = {name: np.array(x[:, :steps]) for name, x in other.items()}
        for name, x in batch.items():
            place = valid if x.ndim == 2 else valid[..., None]
            padded[name][:, :STEPS] = np.where(place, x, padded[name][:, :STEPS])
        padded["valid"] = np.arange(steps)[None] < lengths[:, None]
        logits, hazards, carry = apply(params, padded)
        found = [np.asarray(logits)[:, :STEPS][valid], np.asarray(hazards)[:, :STEPS][valid], *jax.tree.leaves(carry)]
        expected = expected or found
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    alone = apply(params, part(batch, slice(0, 4)))
    np.testing.assert_allclose(logits[1, :4], alone[0][1], atol=1e-5)
    for a, b in zip(jax.tree.leaves(carry), jax.tree.leaves(alone[2]), strict=True):
        np.testing.assert_allclose(a[1], b[1], atol=1e-5)


@named
def test_a_carry_over_two_calls_is_one_call(changes):
    net, batch = model(**changes), events()
    params, apply = started(net), applied(net)
    logits, hazards, carry = apply(params, batch)
    first = apply(params, part(batch, slice(0, 4)))
    second = apply(params, part(batch, slice(4, None)), first[2])
    for whole, a, b in ((logits, first[0], second[0]), (hazards, first[1], second[1])):
        np.testing.assert_allclose(whole, np.concatenate([a, b], 1), atol=1e-5)
    for a, b in zip(jax.tree.leaves(carry), jax.tree.leaves(second[2]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    fresh = apply(params, part(batch, slice(4, None)), net.initial_carry(ROWS))[0]
    assert np.allclose(fresh, second[0], atol=1e-5) == (not net.hidden)


def test_a_stream_that_begins_anew_knows_nothing_of_the_one_before():
    net, batch = model(hidden=(5, 4)), events()
    params = started(net)
    resets = jnp.zeros((ROWS, STEPS), bool).at[:, 3].set(True)
    logits = jax.jit(lambda p: net.apply(p, *inputs(batch), resets=resets)[0])(params)
    alone = applied(net)(params, part(batch, slice(3, None)))[0]  # as long as the other four
    np.testing.assert_allclose(logits[:, 3:], alone, atol=1e-5)


def test_without_recurrence_each_event_is_seen_alone():
    net, batch = model(hidden=()), events()
    params, apply = started(net), applied(net)
    turned = part(batch, slice(None, None, -1))
    np.testing.assert_allclose(apply(params, batch)[0], apply(params, turned)[0][:, ::-1], atol=1e-6)
    assert net.initial_carry(4) == ()


def test_the_answer_to_a_submission_is_of_what_came_before():
    net, batch = model(hidden=(5, 4)), events()
    params, apply = started(net), applied(net)
    other = {name: np.array(x) for name, x in batch.items()}
    for name, x in events(seed=9).items():
        other[name][:, 4:] = x[:, 4:]
    one, two = apply(params, batch), apply(params, other)
    np.testing.assert_array_equal(one[0][:, :4], two[0][:, :4])
    np.testing.assert_array_equal(one[1][:, :4], two[1][:, :4])
    assert (np.asarray(one[0][:, 4:]) != np.asarray(two[0][:, 4:])).any()


def test_a_fresh_net_ends_a_job_in_each_bin_alike():
    net, batch = model(hidden=(5, 4)), events()
    params = jax.tree.map(jnp.zeros_like, started(net))
    logits, hazards, _ = applied(net)(params, batch)
    np.testing.assert_allclose(joint(logits[0, 0], hazards[0, 0]), np.full((BINS, 3), 1 / (3 * BINS)), rtol=1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_unseen_names_are_learned_where_names_are_dropped(rate):
    net, batch = model(identity_dropout=rate, input_dropout=0.0, output_dropout=0.0), events(unseen=False)
    params = started(net)
    key = {"dropout": jax.random.key(3)}
    loss = lambda p: (net.apply(p, *inputs(batch), train=True, rngs=key)[0] ** 2).sum()
    gradients = jax.jit(jax.grad(loss))(params)["params"]
    for i, size in enumerate(SIZES):
        rows = np.abs(np.asarray(gradients[f"embed{i}"]["embedding"])).sum(1)
        assert rows.shape == (size,) and (rows[0] > 0) == (rate > 0) and rows[1:].all()


@pytest.mark.parametrize("name", ["identity_dropout", "input_dropout", "output_dropout", "dropout"])
def test_drop_out_is_of_training_alone(name):
    none = {"identity_dropout": 0.0, "input_dropout": 0.0, "output_dropout": 0.0, "hidden": (5, 4)}
    batch = events(unseen=False)
    params = started(model(hidden=(5, 4)))
    run = jax.jit(
        lambda net, train, key: net.apply(params, *inputs(batch), train=train, rngs={"dropout": key})[0],
        static_argnums=(0, 1),
    )
    net = model(**none | {name: 0.4})
    one, other = (np.asarray(run(net, True, jax.random.key(seed))) for seed in (0, 1))
    plain = applied(model(hidden=(5, 4)))(params, batch)[0]
    assert (one != other).any() and (one != plain).any()
    np.testing.assert_allclose(run(net, False, jax.random.key(0)), plain, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"identity_dropout": 1.0}, "config.model.identity_dropout=1.0: a rate"),
        ({"output_dropout": -0.1}, "config.model.output_dropout=-0.1: a rate"),
        ({"embed": 0}, "config.model.embed=0: at least 1"),
        ({"head": 0}, "config.model.head=0: at least 1"),
        ({"hidden": (4, 0)}, r"config.model.hidden=\[4, 0\]"),
        ({"cell": "lsmt"}, "'lsmt'.*did you mean 'lstm'"),
        ({"dropout": 2.0}, "config.model.dropout=2.0"),
    ],
)
def test_a_net_that_cannot_be(changes, message):
    with pytest.raises(InputError, match=message):
        model(**changes)
