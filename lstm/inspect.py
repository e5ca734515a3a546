"""Looking inside recurrent nets: gates and memories along a sequence, gradients against lag, linear probes."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from lstm.cells import Cell
from lstm.language_model import LanguageModel


def traces(
    cell: Cell, params: Mapping[str, Any], inputs: Float[Array, "b t i"], carry: Mapping[str, Any] | None = None
) -> dict[str, Float[Array, "b t _"]]:
    """What a cell does at each step of its inputs, from `carry` (None: zeros): h, the working memory, after the step; of
    an LSTM also c, the long-term memory, after the step, its gates i, f, o, and z, the block input."""

    def step(carry, z):
        new = cell.step(params, carry, z)
        inside = cell.gates(params, carry, z) if "c" in carry else {}
        return new, {**inside, **{name: new[name] for name in ("h", "c") if name in new}}

    start = cell.initial(inputs.shape[0]) if carry is None else carry
    _, rows = jax.lax.scan(step, dict(start), cell.project(params, inputs).swapaxes(0, 1))
    return {name: x.swapaxes(0, 1) for name, x in rows.items()}


def model_traces(
    model: LanguageModel, params: Mapping[str, Any], tokens: Int[Array, "b t"]
) -> list[dict[str, Float[Array, "b t _"]]]:
    """`traces` of each layer of a language model that reads `tokens`, without drop-out. Zoneout keeps its expectation
    out of this: what is shown is the cell's own step."""
    stack = model.layers(parent=None)
    x = params["embedding"][tokens]
    found = []
    for layer, cell in enumerate(stack.cells()):
        own = params["stack"]
        start = cell.initial(tokens.shape[0])
        learned = own.get(f"layer{layer}_initial")
        if learned is not None:
            start = {name: jnp.broadcast_to(learned[name], value.shape) for name, value in start.items()}
        found.append(traces(cell, own[f"layer{layer}"], x, start))
        x = found[-1]["h"]
    return found


def gradient_norms(
    losses: Callable[[Float[Array, "b t i"]], Float[Array, "b"]],
    inputs: Float[Array, "b t i"],
    ends: Int[Array, "b"],
    lags: int,
) -> Float[Array, "k"]:
    """The norm of d losses(inputs)[b] / d inputs[b, ends[b] - k] for k = 0 .. lags, mean over b. [lags + 1]

    losses: of each sequence, of nothing but its own inputs up to ends[b]. Each ends[b] must be at least `lags`.
    """
    gradients = jax.grad(lambda x: losses(x).sum())(inputs)
    norms = jnp.sqrt((gradients**2).sum(-1))
    places = ends[:, None] - jnp.arange(lags + 1)[None]
    return jnp.take_along_axis(norms, places, axis=1).mean(0)


def model_gradient_norms(
    model: LanguageModel,
    params: Mapping[str, Any],
    tokens: Int[Array, "b t"],
    ends: Int[Array, "b"],
    lags: int,
) -> Float[Array, "k"]:
    """`gradient_norms` of a language model's loss (nats) for the token after place ends[b], with respect to the
    embedded tokens: how strongly that loss depends on the token k places before."""
    stack = model.layers(parent=None)
    targets = jnp.take_along_axis(tokens, ends[:, None] + 1, axis=1)

    def losses(x):
        outputs, _ = stack.apply({"params": params["stack"]}, x)
        last = jnp.take_along_axis(outputs, ends[:, None, None], axis=1)[:, 0]
        logits = model.apply({"params": params}, last, method="logits")
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets, axis=1)[:, 0]

    return gradient_norms(losses, params["embedding"][tokens], ends, lags)


def fresh(model: LanguageModel, cell: str, seed: int = 0, **options: Any) -> tuple[LanguageModel, Any]:
    """A model like `model` with other cells and its usual start: (model, parameters)."""
    like = LanguageModel(model.vocabulary, embed=model.embed, hidden=model.hidden, cell=cell, options=options)
    return like, like.init(jax.random.key(seed), jnp.zeros((1, 1), jnp.int32))["params"]


def probe(
    states: Float[np.ndarray, "n h"],
    facts: Int[np.ndarray, " n"],
    held_out: Float[np.ndarray, "m h"],
    *,
    shuffled: bool = False,
    seed: int = 0,
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, "k h"]]:
    """A linear probe, logistic regression fitted to states whose facts are known: (facts that it reads in `held_out`,
    its weights for states in units of their standard deviation: one row a fact, for two facts one row).

    shuffled: the control. Fitted to the same facts in another order, it can read no more than how often each occurs.
    """
    if shuffled:
        facts = np.random.default_rng(seed).permutation(facts)
    mean, deviation = states.mean(0), states.std(0) + 1e-6
    regression = LogisticRegression(C=1.0, max_iter=200, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe that has not converged reads a little less
        regression.fit((states - mean) / deviation, facts)
    return regression.predict((held_out - mean) / deviation), regression.coef_


def telling_units(weights: Float[np.ndarray, "k h"], count: int) -> list[int]:
    """The `count` units with the largest weights (norm over the facts), largest first."""
    return np.argsort(-np.linalg.norm(weights, axis=0), kind="stable")[:count].tolist()


def lasting_units(memory: Float[np.ndarray, "*rows t h"], count: int, lag: int = 8) -> list[int]:
    """The `count` units whose memory [..., T, H] lasts longest: by autocorrelation over `lag` steps."""
    memory = memory - memory.mean(axis=-2, keepdims=True)
    lag = min(lag, memory.shape[-2] - 1)
    axes = tuple(range(memory.ndim - 1))
    stays = (memory[..., lag:, :] * memory[..., : memory.shape[-2] - lag, :]).mean(axes)
    return np.argsort(-stays / ((memory**2).mean(axes) + 1e-9), kind="stable")[:count].tolist()
