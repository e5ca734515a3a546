"""The net of 1997: its forward pass against NumPy, its rule against automatic differentiation, its tasks and criteria by hand."""

import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from experiments import paper1997, paper1997_figure
from experiments import results as tables
from lstm.paper1997 import learn, net, run, tasks
from lstm.paper1997.learn import Outcome
from lstm.paper1997.learners import LEARNERS
from lstm.paper1997.net import Net
from lstm.paper1997.run import Learner
from lstm.paper1997.tables import ROWS, Recent, Tested

KEY = jax.random.key(5)


def row_of(experiment, **changes):
    return next(row for row in ROWS if row.experiment == experiment)._replace(**changes)


def params_of(row, scale=1.0):
    return net.init(KEY, row.net, scale=scale, gate_in=row.gate_in, gate_out=row.gate_out)


def example_of(row, key=KEY):
    return row.example(key, tasks.reber_strings((1, 2), 16)[0]) if row.table == 1 else row.example(key)


def test_the_nets_have_as_many_weights_as_the_paper_says():
    found = [(row.experiment, row.lag, net.weights(row.net)) for row in ROWS]
    assert {n for e, _, n in found if e == "1"} == {264, 276}
    assert {n for e, _, n in found if e in ("2a", "2b")} == {10504}
    assert [n for e, _, n in found if e == "2c"] == [364, 664, 1264, 3064, 6064, 3064, 1264, 664, 364]
    assert {e: n for e, _, n in found if e[0] in "3456"} == {
        **dict.fromkeys(("3a", "3b", "3c"), 102),
        "4": 93,
        "5": 93,
        "6a": 156,
        "6b": 308,
    }
    assert {row.table for row in ROWS} == set(range(1, 10))


def test_biases_are_where_they_are_said_to_be():
    row = row_of("1")
    params = params_of(row, 0.2)
    biases = np.asarray(params["hidden"][:, -1])
    assert list(biases[4:8]) == [-1, -2, -3, -4] and (np.abs(biases[:4]) <= 0.2).all() and (biases[8:] == 0).all()
    assert params["output"].shape == (7, 4)
    row = row_of("3a")
    biases = np.asarray(params_of(row, 0.1)["hidden"][:, -1])
    assert list(biases[:6]) == [-1, -3, -5, -2, -4, -6] and (np.abs(biases[6:]) > 0).all()
    assert float(jnp.abs(params_of(row, 0.1)["hidden"][:, :-1]).max()) <= 0.1


# Forward ----------------------------------------------------------------------------------------------------------------------


def numpy_forward(shape: Net, params, x):
    """Appendix A.1 in float64, a unit at a time."""
    sigma = lambda v: 1 / (1 + np.exp(-v))
    hidden, output = (np.asarray(params[name], np.float64) for name in ("hidden", "output"))
    blocks, cells = shape.blocks, shape.cells
    gates = blocks if shape.layered else 2 * blocks
    y, s, found = np.zeros(gates + blocks * cells), np.zeros(blocks * cells), []
    for now in x:
        now = np.eye(shape.inputs)[now] if np.ndim(now) == 0 else now
        heard = np.concatenate([now, [] if shape.layered else y, [1.0] if shape.biased else []])
        new = np.zeros_like(y)
        got = [sum(w * v for w, v in zip(weights, heard, strict=True)) for weights in hidden]
        for j in range(blocks):
            new[j] = sigma(got[j])
            if not shape.layered:
                new[blocks + j] = sigma(got[blocks + j])
            for c in range(cells):
                v = j * cells + c
                z = got[gates + v]
                s[v] += new[j] * (sigma(z) if shape.layered else 4 * sigma(z) - 2)
                new[gates + v] = s[v] if shape.layered else new[blocks + j] * (2 * sigma(s[v]) - 1)
        y = new
        heard = np.concatenate([y[gates:], now if shape.layered else [], [1.0] if shape.output_bias else []])
        found.append(output @ heard if shape.linear else sigma(output @ heard))
    return np.array(found)


@pytest.mark.parametrize("experiment", ["1", "2a", "2c", "3a", "4", "6b"])
def test_forward_is_that_of_the_paper(experiment):
    row = row_of(experiment)
    params, x = params_of(row), example_of(row).sequence.x[:40]
    y = net.f(row.net, learn.forward(row.net, params, x))
    np.testing.assert_allclose(y, numpy_forward(row.net, params, np.asarray(x)), atol=2e-5)


# Learning ---------------------------------------------------------------------------------------------------------------------


def apart(one, other):
    """The largest difference of two trees, each array by its own largest number."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in pairs)


@pytest.mark.parametrize("experiment", ["1", "2a", "2b", "2c", "3a", "4", "5", "6a"])
def test_the_rule_is_the_gradient_that_is_cut_where_the_paper_cuts(experiment):
    row = row_of(experiment)
    params, sequence = params_of(row), example_of(row).sequence
    found, outcome = learn.truncated(row.net, params, sequence)
    cut, expected = learn.exact(row.net, params, sequence, cut=True)
    assert apart(found, cut) < 1e-5
    np.testing.assert_allclose(outcome.y, expected.y, atol=1e-5)
    np.testing.assert_allclose(outcome.worst, expected.worst, atol=1e-5)
    whole, _ = learn.exact(row.net, params, sequence)
    assert (apart(found, whole) < 1e-5) == row.net.layered  # there nothing is recurrent but the cells themselves


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("experiment", ["1", "4"])
def test_how_many_steps_are_added_up_at_once_changes_nothing(experiment, chunk):
    row = row_of(experiment)
    params, sequence = params_of(row), example_of(row).sequence
    assert apart(*(learn.truncated(row.net, params, sequence, chunk=n)[0] for n in (chunk, 16))) < 1e-5


def test_what_comes_after_the_end_does_not_count():
    row = row_of("4")
    params, sequence = params_of(row), example_of(row).sequence
    other = sequence._replace(x=sequence.x.at[sequence.length :].set(7.0))
    one, two = (learn.truncated(row.net, params, s) for s in (sequence, other))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_changing_weights_at_each_step_goes_the_same_way():
    row = row_of("1")
    params, sequence = params_of(row), example_of(row).sequence
    rate = 1e-3
    after, _ = learn.stepwise(row.net, params, sequence, rate)
    moved = jax.tree.map(lambda a, b: (a - b) / rate, params, after)
    assert apart(moved, learn.truncated(row.net, params, sequence)[0]) < 0.02
    far, _ = learn.stepwise(row.net, params, sequence, 1.0)
    assert apart(jax.tree.map(jnp.subtract, params, far), learn.truncated(row.net, params, sequence)[0]) > 0.02


def test_forward_sensitivities_are_back_propagation_where_one_step_is_judged():
    row = row_of("6a")
    rnn = LEARNERS["rnn_rtrl"]
    params, sequence = rnn.init(KEY, row), example_of(row).sequence
    found, bptt = rnn.learn(row, params, sequence), LEARNERS["rnn_bptt"].learn(row, params, sequence)
    step = lambda after: jax.tree.map(jnp.subtract, after[0], params)
    assert apart(step(found), step(bptt)) < 1e-3
    np.testing.assert_allclose(found[1].y, bptt[1].y, atol=1e-6)


def test_deaf_cells_hear_the_inputs_alone_and_gates_hear_all():
    row = row_of("4")
    learner = LEARNERS["lstm_deaf"]
    before = learner.init(KEY, row)
    after, _ = learner.learn(row, before, example_of(row).sequence)
    cells = slice(-row.net.blocks * row.net.cells, None)
    assert all((params["hidden"][cells, row.net.inputs :] == 0).all() for params in (before, after))
    assert (after["hidden"] != before["hidden"])[cells, : row.net.inputs].any()
    assert (after["hidden"] != before["hidden"])[: 2 * row.net.blocks].any(0).all()


@pytest.mark.parametrize("learner", list(LEARNERS))
def test_each_learner_learns(learner):
    """The class of a sequence of three steps, which are 1 or -1."""
    row = row_of("3a", example=partial(tasks.two_sequences, lag=3, informative=3), scale=0.5)
    learner = LEARNERS[learner]
    row = row._replace(gate_in=(), gate_out=(), criterion=Recent(0.2, window=100))
    now = jax.jit(partial(run.advance, row, learner))(run.start(row, learner, 0, np.arange(2)), 20)
    assert (now.trials.passed > 0).all()


def test_a_record_says_how_many_weights_a_learner_has():
    weights = {name: learner.net(row_of("4"))["weights"] for name, learner in LEARNERS.items()}
    # Hidden units 8; cells 4, of which deaf ones do not hear 8 units and a bias; an LSTM has 4 x 8 units and 8 outputs.
    assert weights == {
        "lstm": 93,
        "lstm_exact": 93,
        "lstm_deaf": 93 - 4 * 9,
        "rnn_bptt": 8 * 11 + 9,
        "rnn_rtrl": 8 * 11 + 9,
        "modern": 32 * (2 + 8 + 1) + 9,
    }


# Tasks ------------------------------------------------------------------------------------------------------------------------


def many(row, count=300):
    found = jax.vmap(row.example)(jax.random.split(KEY, count))
    return jax.tree.map(np.asarray, found)


def test_reber_strings():
    """Each is one of the grammar, written as regular expression; what may follow is what does follow in strings with that beginning."""
    spell = lambda rows: "".join(tasks.REBER[i] for i in rows.argmax(-1))

    def read(strings):
        for x, after, n in zip(*map(np.asarray, (strings.x, strings.next, strings.length)), strict=True):
            yield spell(x[:n]) + spell(after[n - 1 : n])

    strings, test = tasks.reber_strings((0, 1), 300)
    lengths = np.asarray(strings.length)
    texts, others = list(read(strings)), list(read(test))
    assert len(texts) == len(others) == 300 and not set(texts) & set(others) and min(map(len, texts)) == 9
    # From node 2 by S or X, from node 3 by T or V; X of node 2 leads to 4, V of 3 to 5, X of 4 back to 3, P of 5 to 4.
    from_three = "T*V(PXT*V)*(V|PS)"
    inner = f"B(TS*X(S|X{from_three})|P{from_three})E"
    assert all(re.fullmatch(f"B(T{inner}T|P{inner}P)E", text) for text in texts + others)
    for i in range(20):
        for t in range(lengths[i]):
            follow = {text[t + 1] for text in texts if text[: t + 1] == texts[i][: t + 1]}
            legal = {s for s, there in zip(tasks.REBER, strings.legal[i, t], strict=True) if there}
            assert follow <= legal and len(legal) <= 2


@pytest.mark.parametrize("regular", [True, False])
def test_long_lags(regular):
    found = many(row_of("2a" if regular else "2b"))
    x, target = found.sequence.x, found.sequence.target
    assert set(x[:, 0]) == {99, 100} and (target[:, -1].argmax(-1) == x[:, 0]).all()
    if regular:
        np.testing.assert_array_equal(target[:, :-1].argmax(-1), x[:, 1:])
    else:
        assert target.shape[1] == 1 and (found.sequence.judged.sum(1) == 1).all() and found.sequence.judged[:, -1].all()
    assert (x[:, 1:] == np.arange(99)).all() if regular else set(x[:, 1:].ravel()) == set(range(99))


def test_very_long_lags():
    found = many(row_of("2c"))
    x, length = found.sequence.x, found.sequence.length
    assert length.min() == 53 and abs((length - 53).mean() - 9) < 2
    rows = np.arange(len(x))
    assert (
        (x[:, 0] == 50).all()
        and (x[rows, length - 1] == 51).all()
        and (found.sequence.judged.argmax(1) == length - 1).all()
    )
    np.testing.assert_array_equal(found.clean.argmax(1), x[:, 1] - 52)
    assert all(row[2 : n - 1].max() < 50 for row, n in zip(x, length, strict=True))


def test_two_sequences():
    found = many(row_of("3a"))
    x, length = found.sequence.x[..., 0], found.sequence.length
    assert set(x[:, :3].ravel()) == {-1, 1} and (x[:, 0] == x[:, 2]).all() and abs(x[:, 3:].var() - 0.2) < 0.01
    np.testing.assert_array_equal(found.clean[:, 0], x[:, 0] == 1)
    assert (length.min(), length.max()) == (100, 110)
    first = many(row_of("3c"))
    np.testing.assert_allclose(first.clean[:, 0], np.where(first.sequence.x[:, 0, 0] == 1, 0.2, 0.8), rtol=1e-6)
    noisy, targets = many(row_of("3b")), many(row_of("3c"), 3000)
    signal = noisy.sequence.x[:, :3, 0] - np.where(noisy.clean == 1, 1, -1)
    assert abs(signal.var() - 0.2) < 0.03
    assert abs((targets.sequence.target[:, 0] - targets.clean).var() - 0.1) < 0.01
    assert set(np.round(targets.clean.ravel(), 6)) == {np.float32(0.2), np.float32(0.8)}


@pytest.mark.parametrize("product", [False, True])
def test_marked_pairs(product):
    found = many(row_of("5" if product else "4"), 1000)
    seen, least = 0, 100
    for x, clean, n in zip(found.sequence.x, found.clean, found.sequence.length, strict=True):
        a, b = sorted(np.flatnonzero(x[:, 1] == 1))
        assert a < 10 and b < 50 and 100 <= n <= 110 and x[n - 1, 1] == -1
        assert x[0, 1] == (1 if a == 0 else -1) and (a > 0 or x[0, 0] == product)
        np.testing.assert_allclose(clean[0], x[a, 0] * x[b, 0] if product else 0.5 + (x[a, 0] + x[b, 0]) / 4, rtol=1e-6)
        assert x[:, 0].min() >= (0 if product else -1)
        seen += a == 0
        least = min(least, 100 - 1 - b)
    assert 60 < seen < 180 and least == 50  # table 10


@pytest.mark.parametrize("experiment", ["6a", "6b"])
def test_temporal_order(experiment):
    found = many(row_of(experiment))
    for x, clean, n in zip(found.sequence.x, found.clean, found.sequence.length, strict=True):
        text = "".join(tasks.ORDER[i] for i in x.argmax(-1))[:n]
        marks = [(t, symbol) for t, symbol in enumerate(text) if symbol in "XY"]
        places = [(9, 19), (49, 59)] if len(marks) == 2 else [(9, 19), (32, 42), (65, 75)]
        assert text[0] == "E" and text[-1] == "B" and set(text) <= set("EBXYabcd") and 100 <= n <= 110
        assert all(first <= t <= last for (t, _), (first, last) in zip(marks, places, strict=True))
        assert clean.argmax() == int("".join("01"["XY".index(symbol)] for _, symbol in marks), 2)


# Trials -----------------------------------------------------------------------------------------------------------------------

SCRIPTED = jnp.array([0.3, 0.01, 0.01, 0.05, 0.01, 0.01, 0.01, 0.01])  # errors of a learner's sequences


def scripted(row):
    """A learner whose answer is off by what SCRIPTED says, the last of it for ever."""
    at = lambda state: SCRIPTED[jnp.minimum(state, len(SCRIPTED) - 1)]
    learn_it = lambda row, state, s: (state + 1, Outcome(s.target[0] + at(state), at(state)))
    answer = lambda row, state, s: s.target + at(state)
    return Learner(lambda key, row: jnp.zeros((), jnp.int32), learn_it, answer, lambda row: {})


@pytest.mark.parametrize(
    ("criterion", "passed"),
    [
        (Recent(0.04, window=3), 7),  # the first three in a row that are right
        (Recent(0.04, wrong=1, window=3), 3),
        (Recent(0.04, mean=0.03, wrong=1, window=3), 4),
        (Tested(0.04, 10, unless=2, every=2), 2),
        (Tested(0.04, 10, unless=3, every=3), 6),
        (Tested(0.04, 10, unless=0, every=3), 9),
    ],
)
def test_criteria_by_hand(criterion, passed):
    row = row_of("3a", criterion=criterion, example=partial(tasks.two_sequences, lag=10, informative=1))
    now = run.advance(row, scripted(row), run.start(row, scripted(row), 0, np.arange(2)), 6)
    np.testing.assert_array_equal(now.trials.passed[:, 0], passed)


def small(**changes):
    """A row that is learned in a thousand sequences or two."""
    example = partial(tasks.two_sequences, lag=10, informative=3)
    row = row_of("3a", example=example, scale=0.5, gate_in=(), gate_out=(), criterion=Recent(0.2, window=100))
    return row._replace(**changes)


def test_trials_do_not_depend_on_those_beside_them():
    row, learner = small(), LEARNERS["lstm"]
    go = jax.jit(partial(run.advance, row, learner))
    together = go(run.start(row, learner, 3, np.arange(3)), 2)
    alone = go(run.start(row, learner, 3, np.array([2])), 2)
    assert len(set(np.asarray(together.trials.mean[:, 0]))) == 3
    for a, b in zip(jax.tree.leaves(together.trials.state), jax.tree.leaves(alone.trials.state), strict=True):
        np.testing.assert_allclose(a[2], b[0], atol=1e-5)
    np.testing.assert_array_equal(together.trials.passed[2], alone.trials.passed[0])


def test_a_trial_that_is_done_rests():
    row, learner = small(), LEARNERS["lstm"]
    go = jax.jit(partial(run.advance, row, learner))
    now = go(run.start(row, learner, 0, np.arange(2)), 20)
    assert (now.trials.passed > 0).all()
    then = go(now, 1)
    jax.tree.map(np.testing.assert_array_equal, now.trials.state, then.trials.state)
    assert int(then.count) == int(now.count) + 1000


@pytest.fixture
def one_row(monkeypatch):
    monkeypatch.setattr(paper1997, "ROWS", (small(experiment="x", variant="a row"),))
    monkeypatch.setattr(paper1997, "SECONDS", 0.0)
    monkeypatch.setattr(run, "EVERY", 100)


def results(path):
    return json.loads(path.read_text())


def test_the_command_writes_each_trial_and_the_same_for_the_same_seed(one_row, tmp_path, capsys):
    words = ["--experiment", "x", "--trials", "3", "--json"]
    assert paper1997.main([*words, str(tmp_path / "a.json")]) == 0
    assert "3 of 3" in capsys.readouterr().out
    assert paper1997.main([*words, str(tmp_path / "b.json")]) == 0
    one, two = results(tmp_path / "a.json"), results(tmp_path / "b.json")
    assert one["trials"] == two["trials"] and [trial["trial"] for trial in one["trials"]] == [0, 1, 2]
    assert all(
        trial["solved"] and trial["wrong"] < 60 and 100 <= trial["sequences"] <= 20_000 for trial in one["trials"]
    )
    assert (one["experiment"], one["lag"], one["config"]["net"]["weights"]) == ("x", 100, 102)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]
    paper1997.main([*words, str(tmp_path / "d.json"), "--variant", "a row"])
    assert results(tmp_path / "d.json")["command"].endswith("d.json --variant 'a row'")
    assert paper1997.main([*words, str(tmp_path / "c.json"), "--seed", "1"]) == 0
    assert results(tmp_path / "c.json")["trials"] != one["trials"]


def test_a_stopped_command_goes_on(one_row, tmp_path, monkeypatch):
    class Stops(paper1997.Signals):
        turns = 0

        def stop_now(self):
            Stops.turns += 1
            return Stops.turns == 1

    words = ["--experiment", "x", "--trials", "3", "--json"]
    assert paper1997.main([*words, str(tmp_path / "whole.json")]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(paper1997, "Signals", Stops)
        assert paper1997.main([*words, str(tmp_path / "a.json")]) == 75
    assert (tmp_path / "a.json.state.npz").exists()
    with pytest.raises(InputError, match="a.json.state.npz: is of .* seed 0, 3 trials, not of .* seed 1"):
        paper1997.main([*words, str(tmp_path / "a.json"), "--seed", "1"])
    with monkeypatch.context() as patch, pytest.raises(InputError, match="a.json.state.npz: is of other settings of"):
        patch.setattr(paper1997, "ROWS", (small(experiment="x", variant="a row", rate=0.25),))
        paper1997.main([*words, str(tmp_path / "a.json")])
    assert paper1997.main([*words, str(tmp_path / "a.json")]) == 0
    assert results(tmp_path / "a.json")["trials"] == results(tmp_path / "whole.json")["trials"]


def test_a_trial_that_reaches_the_limit_has_failed_at_the_next_look(monkeypatch, tmp_path):
    words = ["--experiment", "x", "--trials", "2", "--limit", "50", "--json", str(tmp_path / "a.json")]
    monkeypatch.setattr(paper1997, "ROWS", (small(experiment="x", criterion=Recent(-1.0)),))
    assert paper1997.main(words) == 0
    assert [(trial["solved"], trial["sequences"]) for trial in results(tmp_path / "a.json")["trials"]] == [
        (False, 1000)
    ] * 2


def test_rows_are_shown_and_unknown_ones_refused(capsys):
    assert paper1997.main([]) == 0
    assert capsys.readouterr().out.count("2c") == 9
    with pytest.raises(InputError, match="--experiment 7: no such row; one of 1, 2a, 2b, 2c, 3a, 3b, 3c, 4, 5, 6a, 6b"):
        paper1997.main(["--experiment", "7"])
    with pytest.raises(InputError, match="--lag 77: no such row; one of '4, lag 100', '4, lag 500', '4, lag 1000'"):
        paper1997.main(["--experiment", "4", "--lag", "77"])
    with pytest.raises(InputError, match="a.json: of one row; these are 3"):
        paper1997.main(["--experiment", "4", "--json", "a.json"])


def test_tables_and_figure_are_made_of_what_was_recorded(tmp_path, monkeypatch):
    trials = [{"trial": 0, "solved": True, "sequences": 30, "stages": [10, 30], "wrong": 2, "mse": 0.1}]
    trials.append({"trial": 1, "solved": False, "sequences": 50, "stages": [20, 0], "wrong": 9, "mse": 0.3})
    result = {"experiment": "3a", "lag": 100, "variant": "N = 1", "table": 4, "minutes": 2.0, "trials": trials}
    result["paper"] = {"sequences": [11, 29], "solved": 1.0, "wrong": 0.3}
    (tmp_path / "paper1997").mkdir()
    for learner in ("lstm", "modern"):
        whole = result | {"config": {"learner": learner, "limit": 50}}
        (tmp_path / "paper1997" / f"{learner}.json").write_text(json.dumps(whole))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(paper1997_figure, "RESULTS", tmp_path)
    ours, others = tables.paper1997(), tables.paper1997(others=True)
    assert "| 4 | 3a, lag 100, N = 1 | 100% | 1 of 2 | 11 / 29 | 10 / 30 (30 to 30) | 0.3 | 2.0 (2) | 2.0 |" in ours
    assert "modern" in others and "modern" not in ours
    assert paper1997_figure.main([str(tmp_path / "a.png")]) == 0
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.png"]
