"""Language modelling: losses against an unbroken pass in NumPy, the carry, resuming, penalties, scores, files."""

import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import common
from common import loop
from common.checkpoint import Checkpoints
from common.config import load_config
from common.errors import InputError
from common.log import Clock, read_lines
from common.metrics import merge
from common.plan import make_plan
from common.state import abstract_state
from experiments import check_data, evaluate, predict, report, train
from experiments.tasks import make_task
from lstm.data import text
from lstm.tasks import language

SMOKE = "configs/lstm_text.py:smoke"
SMALL = {
    "model.hidden": "[12, 10]",
    "model.embed": "8",
    "model.dropout": "0.0",
    "model.output_dropout": "0.0",
    "data.batch_size": "4",
    "data.bptt": "7",
    "data.sentences": "30",
    "mesh.devices": "1",
}
OPTIMUM = (
    sum(math.log(len(words)) for words in text.MADE) / 7
)  # nats a word of the made sentences, the line break among them


def config_of(spec=SMOKE, **overrides):
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    config = load_config(spec, {k: v for k, v in {**SMALL, **given}.items() if k != "data.sentences"})
    with config.unlocked():
        config.data.sentences = int(SMALL["data.sentences"])
    return config


def task_of(spec=SMOKE, **overrides):
    return make_task(config_of(spec, **overrides))


def started(task, seed=0):
    """Parameters, and model state of a training batch of zeros."""
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), task.abstract_batch)
    return task.init(jax.random.key(seed), zeros)


def batch_of(task, step):
    """The whole batch of a step with seed 0."""
    return jax.tree.map(jnp.asarray, task.train_batch(0, step, slice(0, 4)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def unbroken(params, tokens):
    """Nats of tokens[1:], each given all before it: one loop over the text, float64."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    layers = [params["stack"][name] for name in sorted(params["stack"])]
    h, c = ([np.zeros(layer["R"].shape[0]) for layer in layers] for _ in range(2))
    kernel = params["output"].get("kernel", params["embedding"].T)
    nats = []
    for token, target in zip(tokens[:-1], tokens[1:], strict=True):
        x = params["embedding"][token]
        for place, layer in enumerate(layers):
            i, f, z, o = np.split(x @ layer["W"] + h[place] @ layer["R"] + layer["b"], 4)
            c[place] = sigmoid(f) * c[place] + sigmoid(i) * np.tanh(z)
            h[place] = x = sigmoid(o) * np.tanh(c[place])
        logits = x @ kernel + params["output"]["bias"]
        nats.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target])
    return np.array(nats)


def evaluated(task, params, split, rows=3):
    """The merged metrics of a split, in batches of `rows`, the last one filled up with rows that are masked."""
    source, merged, step = task.eval_source(split), None, jax.jit(task.evaluate)
    for start in range(0, len(source), rows):
        examples = [source[min(i, len(source) - 1)] for i in range(start, start + rows)]
        batch = {name: np.stack([e[name] for e in examples]) for name in examples[0]}
        batch["mask"] = (np.arange(start, start + rows) < len(source)).astype(np.float32)
        merged = merge(merged, jax.device_get(step(params, {}, batch)))
    return merged


# Evaluation


def test_evaluation_with_a_whole_history_is_one_unbroken_pass():
    task = task_of(task__eval_length="9", task__eval_context="1000")
    tokens = text.make_corpus(source="made", sentences=30).of("validation")[:80]
    params, _ = started(task)
    nats = unbroken(params, tokens)
    source = language.Windows(tokens, length=9, context=1000)
    merged = evaluated(task._replace(eval_source=lambda split: source), params, "validation")
    assert merged["loss"].count == len(nats) == 79
    np.testing.assert_allclose(merged["loss"].compute(), nats.mean(), rtol=1e-5)
    per_token = np.bincount(tokens[1:], weights=nats, minlength=len(merged["tokens"].total))
    np.testing.assert_allclose(merged["tokens"].total, per_token, rtol=1e-4)
    np.testing.assert_array_equal(merged["tokens"].count, np.bincount(tokens[1:], minlength=len(per_token)))


def test_scores_do_not_depend_on_the_batch_and_every_token_counts_once():
    task = task_of(task__eval_length="11", task__eval_context="5")
    params, _ = started(task)
    found = [evaluated(task, params, "test", rows) for rows in (1, 7)]
    assert len(task.eval_source("test")) % 7  # the last batch is filled up
    assert found[0]["loss"].count == found[1]["loss"].count == len(task.eval_source("test").tokens) - 1
    np.testing.assert_allclose(found[0]["loss"].total, found[1]["loss"].total, rtol=1e-6)


def test_an_even_guess_has_the_perplexity_of_the_vocabulary():
    task = task_of()
    params, _ = started(task)
    metrics = evaluated(task, jax.tree.map(jnp.zeros_like, params), "test")
    entries = len(metrics["tokens"].count)
    scores = task.scores(metrics)
    assert math.isclose(scores["perplexity"], entries, rel_tol=1e-5)
    assert math.isclose(scores["bits_per_character"], math.log2(entries), rel_tol=1e-5)
    assert scores["nats_per_character"] == scores["nats_per_token"] == scores["loss"]
    assert scores["examples"] == metrics["loss"].count
    wrong = {**params, "output": {**params["output"], "bias": jnp.arange(entries) * 1.0}}
    (line,) = task.alarms(evaluated(task, wrong, "test"))
    assert "even guess" in line and "learning_rate" in line


# Training


def losses_of_stream(task, params, model_state, steps):
    """(loss sum, count) of each step in turn, parameters fixed."""
    found, loss = [], jax.jit(task.loss)
    for step in range(steps):
        batch = batch_of(task, step)
        total, count, metrics, model_state = loss(params, model_state, batch, jax.random.key(step))
        found.append((float(total), float(count)))
        assert float(metrics["nats_per_token"].total) == float(total)
    return np.array(found), model_state


@pytest.mark.parametrize("variable", ["False", "True"])
def test_cut_into_steps_the_losses_are_those_of_an_unbroken_pass(variable):
    task = task_of(data__variable_bptt=variable, data__shift="False")
    params, model_state = started(task)
    streams = task.train_source("train")
    steps = 6
    found, _ = losses_of_stream(task, params, model_state, steps)
    lengths = streams.epoch_lengths(0, 0)[:steps]
    ends = np.cumsum(lengths)
    rows = [unbroken(params, streams.tokens[r * streams.length : r * streams.length + ends[-1] + 1]) for r in range(4)]
    expected = [np.sum(part) for part in np.split(np.sum(rows, axis=0), ends[:-1])]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5)
    np.testing.assert_array_equal(found[:, 1], 4 * lengths)


def test_an_epoch_starts_anew_and_a_learned_start_learns():
    task = task_of(model__learned_initial="True")
    params, model_state = started(task)
    batch = batch_of(task, 0)
    assert batch["reset"].all()
    junk = jax.tree.map(lambda x: x + 3.0, model_state)
    loss = jax.jit(lambda params, state, batch: task.loss(params, state, batch, jax.random.key(0))[0])
    assert loss(params, junk, batch) == loss(params, model_state, batch)
    later = {**batch, "reset": jnp.zeros(4, bool)}
    assert abs(loss(params, junk, later) - loss(params, model_state, later)) > 1e-3
    grads = jax.grad(loss)(params, junk, batch)
    initial = [g for name, g in grads["stack"].items() if name.endswith("_initial")]
    assert len(initial) == 2 and all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(initial))


def test_the_gradient_stops_at_the_cut():
    task = task_of()
    params, model_state = started(task)
    batch, key = batch_of(task, 0), jax.random.key(0)

    @jax.jit
    def sums(params):
        carry = task.loss(params, model_state, batch, key)[3]["carry"]
        return sum(x.sum() for x in jax.tree.leaves(carry)), carry

    through, carry = jax.grad(sums, has_aux=True)(params)
    assert all(np.abs(x).max() == 0 for x in jax.tree.leaves(through))
    assert {x.shape[0] for x in jax.tree.leaves(carry)} == {4}


def test_activation_penalties_are_the_means_over_what_counts():
    rng = np.random.default_rng(0)
    raw, dropped = rng.normal(size=(2, 3, 5, 4))
    counted = np.arange(5)[None] < np.array([5, 5, 5])[:, None]
    counted = counted & (np.arange(5) < 4)[None]
    squares = [dropped[b, t] ** 2 for b in range(3) for t in range(4)]
    steps = [(raw[b, t + 1] - raw[b, t]) ** 2 for b in range(3) for t in range(3)]
    outputs, counted = {"raw": jnp.array(raw), "dropped": jnp.array(dropped)}, jnp.array(counted)
    found = language.activation_penalty(outputs, counted, 2.0, 3.0)
    np.testing.assert_allclose(found, 2 * np.mean(squares) + 3 * np.mean(steps), rtol=1e-5)
    assert language.activation_penalty(outputs, counted, 0.0, 0.0) == 0
    config = config_of(task__ar="2000.0")
    params, state = started(make_task(config))
    batch, key = batch_of(make_task(config), 0), jax.random.key(0)
    (a, count, *_), (b, _, metrics, _) = (
        task.loss(params, state, batch, key) for task in (task_of(), make_task(config))
    )
    features, _ = language.open_run(config)[0].apply({"params": params}, batch["inputs"], method="features")
    assert metrics["nats_per_token"].total == a and count == 28
    np.testing.assert_allclose((b - a) / count, 2000 * np.mean(np.square(features)), rtol=1e-4)


def final_state(config, workdir, step):
    plan = make_plan(config, make_task(config))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.restore(step, abstract_state(plan.make, plan.abstract_batch, plan.mesh))


def test_a_resumed_run_ends_the_same_bit_for_bit_its_carry_too(tmp_path):
    more = {
        "data__variable_bptt": "True",
        "model__dropout": "0.2",
        "optimizer__schedule": "constant",
        "optimizer__average_after": "1",
        "optimizer__learning_rate": "10.0",  # too high: the score gets worse, so that averaging begins
        "loop__eval": "3 steps",
        "loop__save": "12 steps",
        "loop__log": "4 steps",
    }

    def run(name, steps):
        config = config_of(loop__duration=f"{steps} steps", **more)
        assert loop.train(config, make_task(config), tmp_path / name, quiet=True) == 0
        return config

    run("whole", 24)
    run("parts", 12)
    config = run("parts", 24)
    whole, parts = (final_state(config, tmp_path / name, 24) for name in ("whole", "parts"))
    assert np.abs(np.asarray(whole.model_state["carry"][0]["c"])).max() > 0
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), whole, parts)
    with Checkpoints(tmp_path / "parts" / "checkpoints") as checkpoints:
        assert checkpoints.manifest(24)["host"]["averaging_from"] is not None
    curves = [
        [{k: v for k, v in line.items() if k not in Clock.NAMES} for line in read_lines(tmp_path / n / "metrics.jsonl")]
        for n in ("whole", "parts")
    ]
    assert curves[0] == curves[1]


@pytest.mark.slow
def test_eight_devices_and_micro_batches_read_the_same_streams(tmp_path):
    more = {"data__batch_size": "16", "loop__duration": "6 steps", "loop__log": "1 steps"}
    for name, devices, parts in (("one", "1", "1"), ("eight", "8", "2")):
        config = config_of(mesh__devices=devices, optimizer__accumulate=parts, **more)
        assert loop.train(config, make_task(config), tmp_path / name, quiet=True) == 0
    one, eight = (read_lines(tmp_path / name / "metrics.jsonl") for name in ("one", "eight"))
    np.testing.assert_allclose([line["loss"] for line in one], [line["loss"] for line in eight], rtol=1e-4)


# The command line


@pytest.fixture(scope="module")
def words_run(tmp_path_factory):
    """A finished smoke run by words."""
    workdir = tmp_path_factory.mktemp("runs") / "words"
    words = [
        "--config",
        "configs/lstm_text.py:words,smoke",
        "--workdir",
        str(workdir),
        "--quiet",
        "--config.mesh.devices=1",
    ]
    assert train.main(words) == 0
    return workdir


def test_a_smoke_run_comes_near_the_best_that_is_possible(words_run):
    assert evaluate.main(["--workdir", str(words_run), "--split", "test"]) == 0
    scores = json.loads((words_run / "evaluation-test.json").read_text())
    assert OPTIMUM - 0.02 < scores["nats_per_token"] < OPTIMUM + 0.2
    assert math.isclose(scores["perplexity"], math.exp(scores["nats_per_token"]))
    assert scores["examples"] == 2099


def test_the_report_shows_text_and_the_hardest_tokens(words_run):
    assert report.main(["--workdir", str(words_run)]) == 0
    page = (words_run / "report.html").read_text()
    assert "Written by the model" in page and "temperature 0.8" in page and "Where the loss is" in page
    written = re.search(r"temperature 0.5</h3><pre>(.*?)</pre>", page, re.DOTALL)[1]
    assert sum(line.split()[0] in text.MADE[0] for line in written.strip().split("\n")) > 5
    assert "nats each" in page and "letter" in page


def test_scored_files_agree_with_evaluation(words_run, tmp_path):
    run = common.load_run(words_run)
    ((_, content),) = text.made_text()["test"]
    (tmp_path / "held.out.txt").write_text(content)
    (tmp_path / "b.txt").write_text("the old fox sees a lamp")
    words = [
        "--workdir",
        str(words_run),
        "--output",
        str(tmp_path / "out"),
        "--input",
        str(tmp_path),
        "--probabilities",
    ]
    assert predict.main(words) == 0
    assert predict.main(words) == 0  # its own files are replaced
    scored = json.loads((tmp_path / "out" / "held.out.json").read_text())
    evaluated_scores = evaluate.evaluate_run(run, "test")
    assert scored["tokens"] == 2100
    assert math.isclose(scored["nats_per_token"], evaluated_scores["nats_per_token"], rel_tol=0.01)
    lines = (tmp_path / "out" / "b.tsv").read_text().splitlines()
    assert [json.loads(line.split("\t")[0]) for line in lines[1:]] == ["the", "old", "fox", "sees", "a", "lamp"]
    values = run.predict("the old fox sees a lamp")
    np.testing.assert_allclose([float(line.split("\t")[1]) for line in lines[1:]], values, atol=1e-5)
    np.testing.assert_allclose(
        run.predict("the old fox sees a lamp in the zzz")[:6], values, atol=1e-5
    )  # <unk> comes after
    (tmp_path / "out" / "b.json").write_text("{}")
    with pytest.raises(InputError, match="was not made by predict"):
        predict.main(words)
    with pytest.raises(InputError, match="no such file"):
        predict.main([*words[:4], "--input", str(tmp_path / "c.txt")])
    with pytest.raises(InputError, match="expected a text"):
        run.predict(np.zeros(3))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--config.model.vocabulary=5"],
            "config.model.vocabulary=5: the training text has 24 different characters; use 0",
        ),
        (["--config.data.bptt=20000"], "fewer than one batch"),
        (["--config.data.source=text"], "config.data.source='text'"),
        (["--config.data.level=word"], "did you mean 'words'"),
        (["--config.model.cell=lstn"], "lstm"),
        (["--config.model.dropout=1.5"], "config.model.dropout=1.5"),
        (["--config.task.eval_length=0"], "config.task.eval_length=0"),
        (["--config.model.tied=True", "--config.model.embed=20"], "tied"),
    ],
)
def test_wrong_configs_are_said_in_one_line(tmp_path, words, message):
    base = ["--config", SMOKE, "--quiet", "--workdir", str(tmp_path / "w"), "--config.mesh.devices=1"]
    with pytest.raises(InputError, match=message) as error:
        train.main([*base, "--config.loop.duration=2 steps", "--config.loop.eval=1 steps", *words])
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "w").glob("checkpoints/*.json"))


def test_bad_text_is_found_before_the_first_step(tmp_path, capsys):
    words = ["--config", "configs/lstm_text.py", "--config.data.file", str(tmp_path / "a.txt")]
    (tmp_path / "a.txt").write_bytes(b"abc" * 50 + b"\xff")
    with pytest.raises(InputError, match="1 finding in the data"):
        check_data.main(words)
    assert "a.txt: not UTF-8 at byte 150" in capsys.readouterr().out
    (tmp_path / "a.txt").write_text("ab" * 4000 + "c" * 500)
    with pytest.raises(InputError, match="1 finding in the data"):
        check_data.main([*words, "--config.data.unknown=False"])
    assert "the character 'c' (line 1, column" in capsys.readouterr().out
    assert check_data.main(words) == 0
