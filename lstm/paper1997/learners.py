"""Who learns the tasks of 1997: the paper's net by its own rule, the same without truncation, and what it is compared with."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from lstm import cells, recurrence
from lstm.paper1997 import learn as rules
from lstm.paper1997 import net as nets
from lstm.paper1997.learn import Outcome, Sequence
from lstm.paper1997.run import Learner
from lstm.paper1997.tables import Row

Params = dict[str, Any]

# The paper's net ----------------------------------------------------------------------------------------------------------------


def init(key: Array, row: Row) -> Params:
    return nets.init(key, row.net, scale=row.scale, gate_in=row.gate_in, gate_out=row.gate_out)


def paper_net(row: Row) -> dict[str, Any]:
    return row.net._asdict() | {"weights": nets.weights(row.net)}


def descend(row: Row, params: Params, gradient: Params) -> Params:
    """Plain gradient descent, once a sequence."""
    return jax.tree.map(lambda w, d: w - row.rate * d, params, gradient)


def by_truncated(row: Row, params: Params, sequence: Sequence) -> tuple[Params, Outcome]:
    """By the paper's rule: weights change at each step that has a target."""
    if len(sequence.target) > 1:
        return rules.stepwise(row.net, params, sequence, row.rate)
    gradient, outcome = rules.truncated(row.net, params, sequence)
    return descend(row, params, gradient), outcome


def by_exact(row: Row, params: Params, sequence: Sequence) -> tuple[Params, Outcome]:
    gradient, outcome = rules.exact(row.net, params, sequence)
    return descend(row, params, gradient), outcome


def answer(row: Row, params: Params, sequence: Sequence) -> Float[Array, "t k"]:
    return nets.f(row.net, rules.forward(row.net, params, sequence.x))


def deaf(row: Row) -> Row:
    """The row with a net whose cells hear the inputs alone."""
    return row._replace(net=row.net._replace(deaf=True))


def numbers(row: Row, x: Array) -> Float[Array, "*t i"]:
    """Inputs as they stand; of symbols a 1 for each."""
    return jax.nn.one_hot(x, row.net.inputs) if jnp.issubdtype(x.dtype, jnp.integer) else x


# A plain recurrent net ------------------------------------------------------------------------------------------------------------


def rnn_init(key: Array, row: Row) -> Params:
    """Fully recurrent sigmoid units, as many as the net of memory cells has hidden units, and outputs that see them; with biases.
    (The net of the paper's table 2 has one unit, and outputs that see the inputs, too.)"""
    hidden = nets.hidden_units(row.net)
    shapes = {"hidden": (hidden, row.net.inputs + hidden + 1), "output": (row.net.outputs, hidden + 1)}
    keys = jax.random.split(key)
    return {
        name: jax.random.uniform(kind, shape, minval=-row.scale, maxval=row.scale)
        for kind, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def rnn_net(row: Row) -> dict[str, Any]:
    return {
        "hidden": nets.hidden_units(row.net),
        "weights": size(jax.eval_shape(lambda key: rnn_init(key, row), jax.random.key(0))),
    }


def size(params: Params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def rnn_step(
    row: Row, params: Params, y: Float[Array, " h"], x: Array
) -> tuple[Float[Array, " h"], Float[Array, " k"]]:
    """Activations of the hidden units and of the outputs."""
    new = cells.sigmoid(cells.scaled(params["hidden"], jnp.concatenate([numbers(row, x), y, jnp.ones(1)])).sum(1))
    return new, cells.sigmoid(cells.scaled(params["output"], jnp.append(new, 1.0)).sum(1))


def rnn_answer(row: Row, params: Params, sequence: Sequence) -> Float[Array, "t k"]:
    zero = jnp.zeros(len(params["hidden"]))
    return jax.lax.scan(lambda y, x: rnn_step(row, params, y, x), zero, sequence.x)[1]


def by_bptt(row: Row, params: Params, sequence: Sequence) -> tuple[Params, Outcome]:
    """Back-propagation through all steps of the sequence, one update at its end."""
    gradient, outcome = jax.grad(lambda p: rules.squared(rnn_answer(row, p, sequence), sequence), has_aux=True)(params)
    return descend(row, params, gradient), outcome


def by_rtrl(row: Row, params: Params, sequence: Sequence) -> tuple[Params, Outcome]:
    """Real-time recurrent learning (Williams & Zipser 1989): derivatives of each unit by each weight go forward in time, and each
    step that has a target changes the weights at once."""
    target = jnp.broadcast_to(sequence.target, (len(sequence.judged), row.net.outputs))

    def step(carry: tuple, now: tuple) -> tuple[tuple, tuple]:
        params, y, slopes = carry  # slopes: a tree of dy/dw [h, *w]
        x, wanted, judged = now

        def both(params: Params, y: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
            found = rnn_step(row, params, y, x)
            return found, found

        (of_new, of_out), (new, out) = jax.jacobian(both, has_aux=True)(params, y)
        by_y, out_by_y = jax.jacobian(lambda y: rnn_step(row, params, y, x))(y)
        error = jnp.where(judged, out - wanted, 0.0)
        through = lambda by_y: jax.tree.map(lambda slope: jnp.tensordot(by_y, slope, 1), slopes)
        gradient = jax.tree.map(lambda a, b: jnp.tensordot(error, a + b, 1), of_out, through(out_by_y))
        slopes = jax.tree.map(jnp.add, of_new, through(by_y))
        return (descend(row, params, gradient), new, slopes), (out, jnp.abs(error).max())

    zero = jnp.zeros(len(params["hidden"]))
    slopes = jax.tree.map(lambda w: jnp.zeros((len(zero), *w.shape)), params)
    (params, _, _), (out, worst) = jax.lax.scan(step, (params, zero, slopes), (sequence.x, target, sequence.judged))
    return params, Outcome(out[sequence.length - 1], worst.max())


# The LSTM of today --------------------------------------------------------------------------------------------------------------

RATE = 1e-3
ADAM = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(RATE))


def modern_cell(row: Row) -> cells.LSTM:
    """With forget gates, as wide as the paper's net has hidden units. What it forgets at first goes by the lag (the chrono
    initialization of Tallec & Ollivier 2018, without its spread): a bias of 1 leaves 4 % of a state after 10 steps, and nothing
    after 100."""
    return cells.LSTM(nets.hidden_units(row.net), forget_bias=math.log(row.lag))


def modern_init(key: Array, row: Row) -> Params:
    """The cell, its outputs, and Adam's state."""
    of_cell, of_output = jax.random.split(key)
    cell = modern_cell(row)
    params = {
        "cell": cell.init(of_cell, row.net.inputs),
        "output": cells.uniform(of_output, (cell.hidden, row.net.outputs), cell.hidden),
        "bias": jnp.zeros(row.net.outputs),
    }
    return {"params": params, "adam": ADAM.init(params)}


def modern_net(row: Row) -> dict[str, Any]:
    weights = size(jax.eval_shape(lambda key: modern_init(key, row), jax.random.key(0))["params"])
    return {"hidden": nets.hidden_units(row.net), "forget_bias": math.log(row.lag), "adam": RATE, "weights": weights}


def modern_outputs(row: Row, params: Params, x: Array) -> Float[Array, "t k"]:
    cell = modern_cell(row)
    h, _ = recurrence.recurrence(cell, params["cell"], numbers(row, x)[None], implementation="hoisted")
    return cells.sigmoid(cells.shifted(h[0] @ params["output"], params["bias"]))


def by_adam(row: Row, state: Params, sequence: Sequence) -> tuple[Params, Outcome]:
    loss = lambda params: rules.squared(modern_outputs(row, params, sequence.x), sequence)
    gradient, outcome = jax.grad(loss, has_aux=True)(state["params"])
    updates, adam = ADAM.update(gradient, state["adam"], state["params"])
    return {"params": optax.apply_updates(state["params"], updates), "adam": adam}, outcome


LEARNERS = {
    "lstm": Learner(init, by_truncated, answer, paper_net),
    "lstm_exact": Learner(init, by_exact, answer, paper_net),
    "lstm_deaf": Learner(
        lambda key, row: init(key, deaf(row)),
        lambda row, params, sequence: by_truncated(deaf(row), params, sequence),
        answer,
        lambda row: paper_net(deaf(row)),
    ),
    "rnn_bptt": Learner(rnn_init, by_bptt, rnn_answer, rnn_net),
    "rnn_rtrl": Learner(rnn_init, by_rtrl, rnn_answer, rnn_net),
    "modern": Learner(
        modern_init, by_adam, lambda row, state, s: modern_outputs(row, state["params"], s.x), modern_net
    ),
}
