"""lstm.language_model: what each option of LanguageModel does, and that nothing else does it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from common.errors import InputError
from lstm.language_model import LanguageModel
from lstm.model import Stack
from tests.small_models import TOKENS, B, T, close, differs, equal, fresh, gradient, language, run, shapes, train


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
