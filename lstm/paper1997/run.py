"""Trials of the experiments of 1997: one or several in a compiled program, until the paper's own criterion is met.

A trial is a function of (seed, its number): which other trials run beside it, and after how many sequences the program is stopped
and started again, changes nothing but how sums are rounded. Trials that are done rest while others go on.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lstm.paper1997 import tasks
from lstm.paper1997.learn import Outcome, Sequence
from lstm.paper1997.tables import Legal, Recent, Row, Tested
from lstm.paper1997.tasks import Example, Strings

TESTED = 2560  # sequences after training
TOGETHER = 256  # of them at once
EVERY = 1000  # sequences of a round where the criterion has no say


class Learner(NamedTuple):
    """How a trial learns. init(key, row) -> state; learn(row, state, sequence) -> (state, outcome before it); answer(row, state,
    sequence) -> y [t, k], outputs at each step; net(row) -> what a record says of the net."""

    init: Callable[[Array, Row], Any]
    learn: Callable[[Row, Any, Sequence], tuple[Any, Outcome]]
    answer: Callable[[Row, Any, Sequence], Float[Array, "t k"]]
    net: Callable[[Row], dict[str, Any]]


class Trial(NamedTuple):
    """key: of all that is drawn. state: the learner's. passed: sequences of training at which each stage of the criterion was
    reached, 0: not yet. worst, mean: of the last sequences, in a ring: how far the farthest output was off, and the mean."""

    key: Array
    state: Any
    passed: Int[Array, " stages"]
    worst: Float[Array, " window"]
    mean: Float[Array, " window"]


class Trials(NamedTuple):
    """All trials of a row, along the first axis; count: sequences of training so far; strings: of experiment 1, the training and the
    test set of each trial."""

    trials: Trial
    count: Int[Array, ""]
    strings: tuple[Strings, Strings] | None


def stages(row: Row) -> int:
    return len(row.criterion.wrong) if isinstance(row.criterion, Tested) else 1


def window(row: Row) -> int:
    return row.criterion.window if isinstance(row.criterion, Recent) else row.criterion.every


def per_round(row: Row) -> int:
    """Sequences between two looks."""
    return EVERY if isinstance(row.criterion, Recent) else row.criterion.every


def start(row: Row, learner: Learner, seed: int, numbers: Int[np.ndarray, " n"]) -> Trials:
    """The trials of these numbers before their first sequence."""

    def one(number: Array) -> Trial:
        key, kept = jax.random.split(jax.random.fold_in(jax.random.key(seed), number))
        far = jnp.full(window(row), jnp.inf)
        return Trial(kept, learner.init(key, row), jnp.zeros(stages(row), jnp.int32), far, far)

    strings = None
    if isinstance(row.criterion, Legal):
        strings = string_sets(row.criterion, seed, numbers)
    return Trials(jax.vmap(one)(jnp.asarray(numbers)), jnp.zeros((), jnp.int32), strings)


def string_sets(criterion: Legal, seed: int, numbers: Int[np.ndarray, " n"]) -> tuple[Strings, Strings]:
    """(training sets, test sets) of the trials."""
    made = [tasks.reber_strings((seed, each), criterion.strings) for each in range(criterion.sets)]
    steps = max(strings.x.shape[1] for pair in made for strings in pair)
    longer = lambda a: jnp.pad(a, ((0, 0), (0, steps - a.shape[1]), (0, 0)))
    padded = [tuple(Strings(*map(longer, strings[:3]), strings.length) for strings in pair) for pair in made]
    of_trial = lambda *arrays: jnp.stack([arrays[number % criterion.sets] for number in numbers])
    return jax.tree.map(of_trial, *padded)


# Training -----------------------------------------------------------------------------------------------------------------------


def learn_one(row: Row, learner: Learner, trial: Trial, strings: tuple[Strings, Strings] | None, count: Array) -> Trial:
    """One sequence more of a trial; count: how many it has learned from."""
    key = jax.random.fold_in(trial.key, count)
    example: Example = row.example(key) if strings is None else row.example(key, strings[0])
    state, outcome = learner.learn(row, trial.state, example.sequence)
    off, place = jnp.abs(outcome.y - example.clean), count % window(row)
    everywhere = isinstance(row.criterion, Tested) and row.criterion.everywhere
    worst = trial.worst.at[place].set(outcome.worst if everywhere else off.max())
    mean = trial.mean.at[place].set(off.mean())
    passed = trial.passed
    if isinstance(row.criterion, Recent):
        good = ((worst > row.criterion.tolerance).sum() <= row.criterion.wrong) & (mean.mean() < row.criterion.mean)
        passed = jnp.where((passed == 0) & good, count + 1, passed)
    done = trial.passed[-1] > 0
    kept = lambda new, old: jnp.where(done, old, new)
    new = jax.tree.map(kept, (state, passed, worst, mean), (trial.state, *trial[2:]))
    return Trial(trial.key, *new)


def advance(row: Row, learner: Learner, trials: Trials, rounds: Array | int) -> Trials:
    """Some rounds more: each of as many sequences as lie between two looks at the criterion, then the look."""
    each = jax.vmap(partial(learn_one, row, learner), in_axes=(0, 0, None))

    def sequence(_, now: Trials) -> Trials:
        return now._replace(trials=each(now.trials, now.strings, now.count), count=now.count + 1)

    def round_of(_, now: Trials) -> Trials:
        return look(row, learner, jax.lax.fori_loop(0, per_round(row), sequence, now))

    return jax.lax.fori_loop(0, rounds, round_of, trials)


def look(row: Row, learner: Learner, now: Trials) -> Trials:
    """Tests those that are not done, and notes which stages they have reached."""
    criterion, trials = row.criterion, now.trials
    if isinstance(criterion, Recent):
        return now
    asked = trials.passed[:, -1] == 0
    if isinstance(criterion, Tested):
        asked &= (trials.worst > criterion.tolerance).sum(1) <= criterion.unless

    def tested() -> Bool[Array, "n stages"]:
        if isinstance(criterion, Legal):
            legal = jax.vmap(partial(all_legal, row, learner))
            return jnp.stack([legal(trials.state, strings).all(1) for strings in now.strings]).all(0)[:, None]
        key = lambda key: jax.random.fold_in(jax.random.fold_in(key, 1), now.count)
        found = jax.vmap(lambda trial: test(row, learner, trial.state, key(trial.key), criterion.sequences))(trials)
        return (found.wrong[:, None] < jnp.array([criterion.wrong])) & (
            found.mean[:, None] < jnp.array([criterion.mean])
        )

    good = jax.lax.cond(asked.any(), tested, lambda: jnp.zeros(trials.passed.shape, bool))
    passed = jnp.where((trials.passed == 0) & asked[:, None] & good, now.count, trials.passed)
    return now._replace(trials=trials._replace(passed=passed))


# Tests --------------------------------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """Of sequences that were not learned from: how many had an output that was off by more than the tolerance; the mean absolute and
    the mean squared error of the outputs at the end."""

    wrong: Int[Array, ""]
    mean: Float[Array, ""]
    mse: Float[Array, ""]


def test(row: Row, learner: Learner, state: Any, key: Array, sequences: int) -> Found:
    """Answers `sequences` new ones."""

    def one(number: Array) -> tuple[Array, Array, Array]:
        example = row.example(jax.random.fold_in(key, number))
        y, sequence = learner.answer(row, state, example.sequence), example.sequence
        off = jnp.abs(y[sequence.length - 1] - example.clean)
        worst = off.max()
        if isinstance(row.criterion, Tested) and row.criterion.everywhere:
            worst = jnp.where(sequence.judged[:, None], jnp.abs(y - sequence.target), 0.0).max()
        return worst > row.criterion.tolerance, off.mean(), (off**2).mean()

    wrong, mean, squared = jax.lax.map(one, jnp.arange(sequences), batch_size=min(TOGETHER, sequences))
    return Found(wrong.sum(), mean.mean(), squared.mean())


def all_legal(row: Row, learner: Learner, state: Any, strings: Strings) -> Bool[Array, " n"]:
    """Of each string: whether at each step the symbols that may come next are more active than all others."""

    def one(string: Strings) -> Array:
        judged = jnp.arange(len(string.x)) < string.length
        y = learner.answer(row, state, Sequence(string.x, string.next, judged, string.length))
        least = jnp.where(string.legal, y, jnp.inf).min(1)
        most = jnp.where(string.legal, -jnp.inf, y).max(1)
        return ((least > most) | ~judged).all()

    return jax.vmap(one)(strings)


def finished(row: Row, learner: Learner, now: Trials) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """(wrong, mean squared error) of each trial after training, of TESTED sequences; of experiment 1 of the strings of the test set."""
    if isinstance(row.criterion, Legal):
        legal = jax.vmap(partial(all_legal, row, learner))(now.trials.state, now.strings[1])
        return (~legal).sum(1), jnp.full(len(legal), jnp.nan)
    key = lambda key: jax.random.fold_in(key, 2)
    found = jax.vmap(lambda trial: test(row, learner, trial.state, key(trial.key), TESTED))(now.trials)
    return found.wrong, found.mse
