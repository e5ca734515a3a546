"""Sequence classification: masks, pooling, scores, and what a run writes, from training to report."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

import common
from common.config import load_config
from common.errors import InputError
from common.metrics import merge
from experiments import baselines, evaluate, predict, report, train
from experiments.tasks import make_task
from lstm.classifier import POOLINGS, Classifier
from lstm.data.labelled import Labelled
from lstm.language_model import LanguageModel
from lstm.scores import Answers, auroc, collapsed, confusion, scores
from lstm.tasks.classify import cross_entropy

SMOKE = "configs/lstm_sentiment.py:smoke"


# The module ---------------------------------------------------------------------------------------------------------------


def classifier(**changes):
    return Classifier(**{"classes": 3, "vocabulary": 11, "embed": 6, "hidden": (5,), **changes})


def tokens(rows=4, steps=9, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.array(rng.integers(0, 11, (rows, steps)), jnp.int32), jnp.array([9, 4, 1, 0][:rows])


@pytest.mark.parametrize(
    ("pooling", "bidirectional"), [("attention", True), ("concat", True), ("last", False), ("mean", False)]
)
def test_padding_changes_no_bit(pooling, bidirectional):
    net = classifier(pooling=pooling, bidirectional=bidirectional)
    inputs, lengths = tokens()
    params = jax.jit(net.init)(jax.random.key(0), inputs, lengths)
    apply = jax.jit(lambda x, n: net.apply(params, x, n, with_weights=True))
    logits, shares = apply(inputs, lengths)
    rng = np.random.default_rng(1)
    for width in (9, 21):
        rows = rng.integers(0, 11, (4, width)).astype(np.int32)  # other words in the padding
        rows[:, :9] = np.where(np.arange(9)[None] < lengths[:, None], inputs, rows[:, :9])
        again, more = apply(rows, lengths)
        np.testing.assert_array_equal(again, logits)
        np.testing.assert_array_equal(more[:, :9], shares)
        assert not np.any(more[:, 9:])
    np.testing.assert_allclose(shares.sum(1), [1, 1, 1, 0], atol=1e-6)
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(logits[3], params["params"]["logits"]["bias"])  # nothing read: the head sees zeros


def test_pooling_by_hand():
    net = classifier(pooling="attention")
    inputs, lengths = tokens(rows=3)
    params = jax.jit(net.init)(jax.random.key(0), inputs, lengths)
    read = jax.jit(
        lambda p: net.apply(p, inputs, lengths, method=lambda m, x, n: m.stack(m.embedding[x], lengths=n)[0])
    )
    outputs = np.asarray(read(params))
    own = jax.tree.map(np.asarray, params["params"])
    for pooling in POOLINGS:
        net = classifier(pooling=pooling)
        width = 10 * {"mean_max": 2, "concat": 3}.get(pooling, 1)
        kernel = np.random.default_rng(0).normal(size=(width, 3)).astype(np.float32)
        given = {**own, "logits": {"kernel": kernel, "bias": own["logits"]["bias"]}}
        if pooling != "attention":
            del given["attention"]
        logits, shares = jax.jit(lambda p: net.apply({"params": p}, inputs, lengths, with_weights=True))(given)  # noqa: B023
        for row, length in enumerate(np.asarray(lengths)):
            steps = outputs[row, :length]
            if pooling == "attention":
                hidden = np.tanh(steps @ own["attention"]["hidden"]["kernel"] + own["attention"]["hidden"]["bias"])
                score = np.exp(hidden @ own["attention"]["vector"][:, 0])
                expected_shares, pooled = score / score.sum(), (score / score.sum()) @ steps
            else:
                last = np.concatenate([steps[-1, :5], steps[0, 5:]])
                parts = {"last": last, "mean": steps.mean(0), "max": steps.max(0)}
                names = {"mean_max": ["mean", "max"], "concat": ["last", "mean", "max"]}.get(pooling, [pooling])
                pooled = np.concatenate([parts[name] for name in names])
                expected_shares = {
                    "last": np.eye(length)[-1],
                    "mean": np.full(length, 1 / length),
                }.get(pooling, np.bincount(steps.argmax(0), minlength=length) / 10)
            np.testing.assert_allclose(shares[row, :length], expected_shares, atol=1e-6)
            np.testing.assert_allclose(logits[row], pooled @ kernel + own["logits"]["bias"], atol=1e-5)


def test_padding_has_no_gradient():
    net = Classifier(classes=2, channels=3, hidden=(4,), pooling="attention")
    x, lengths = jax.random.normal(jax.random.key(1), (2, 6, 3)), jnp.array([2, 6])
    params = jax.jit(net.init)(jax.random.key(0), x, lengths)
    grad = np.asarray(jax.jit(jax.grad(lambda x: net.apply(params, x, lengths).sum()))(x))
    assert np.abs(grad[0, :2]).min() > 0 and not grad[0, 2:].any() and np.abs(grad[1]).min() > 0


def test_dropped_words_are_whole_words_and_only_in_training():
    net = Classifier(classes=2, channels=3, hidden=(4,), word_dropout=0.4)
    x, lengths = jnp.ones((8, 50, 3)), jnp.full(8, 50)
    params = jax.jit(net.init)(jax.random.key(0), x, lengths)
    read = lambda train: net.apply(
        params, x, train, rngs={"dropout": jax.random.key(1)}, method=lambda m, x, train: m.embed_inputs(x, train)
    )
    np.testing.assert_array_equal(read(False), x)
    dropped = np.asarray(read(True))
    assert set(np.unique(dropped)) == {0, 1} and (dropped == dropped[..., :1]).all()
    assert 0.3 < (dropped == 0).mean() < 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "maximum"}, "config.model.pooling='maximum': "),
        ({"channels": 3}, "config.model.vocabulary=11, channels=3: set the one for texts or the other"),
        ({"vocabulary": 0}, "config.model.vocabulary=0, channels=0"),
        ({"word_dropout": 1.0}, "config.model.word_dropout=1.0"),
        ({"vocabulary": 0, "channels": 2, "embedding_dropout": 0.1}, "series have no embedding"),
    ],
)
def test_a_classifier_that_cannot_be(changes, message):
    with pytest.raises(InputError, match=message):
        classifier(**changes)


def test_parameters_have_the_places_of_a_language_model():
    shapes = lambda net, *x: jax.tree.map(jnp.shape, jax.eval_shape(net.init, jax.random.key(0), *x)["params"])
    inputs, lengths = tokens()
    own = shapes(classifier(bidirectional=False, pooling="concat", hidden=(5, 4)), inputs, lengths)
    other = shapes(LanguageModel(vocabulary=11, embed=6, hidden=(5, 4)), inputs)
    assert own["embedding"] == other["embedding"] and own["stack"] == other["stack"]


def test_smoothed_targets_by_hand():
    logits, label = jnp.array([[1.0, 2.0, -1.0]]), jnp.array([2])
    p = np.exp([1.0, 2.0, -1.0]) / np.exp([1.0, 2.0, -1.0]).sum()
    np.testing.assert_allclose(cross_entropy(logits, label)[0], -np.log(p[2]), rtol=1e-6)
    target = 0.1 / 3 + 0.9 * np.eye(3)[2]
    np.testing.assert_allclose(cross_entropy(logits, label, 0.1)[0], -(target * np.log(p)).sum(), rtol=1e-6)


# Scores -------------------------------------------------------------------------------------------------------------------


def answers(count=101, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(classes), count).round(1)  # with ties
    probabilities[:, 0] = 1 - probabilities[:, 1:].sum(1)
    return Answers(np.arange(count), rng.integers(0, classes, count), probabilities)


@pytest.mark.parametrize("classes", [2, 4])
def test_scores_are_scikit_learns(classes):
    given = answers(classes=classes)
    found = scores(given, [f"c{i}" for i in range(classes)])
    predicted = given.probabilities.argmax(1)
    assert np.isclose(found["accuracy"], (predicted == given.label).mean())
    assert np.isclose(found["f1/macro"], f1_score(given.label, predicted, average="macro"))
    for kind, function in (("f1", f1_score), ("recall", recall_score), ("precision", precision_score)):
        own = [found[f"{kind}/c{i}"] for i in range(classes)]
        np.testing.assert_allclose(own, function(given.label, predicted, average=None))
    assert found["examples"] == 101
    if classes == 2:
        assert np.isclose(found["auroc"], roc_auc_score(given.label, given.probabilities[:, 1]))
    else:
        assert "auroc" not in found


def test_answers_merge_without_their_padding():
    given = answers(classes=3)
    merged = None
    for start in range(0, 101, 8):
        part = Answers(*(field[start : start + 8] for field in given))
        padding = Answers(np.full(2, -1), np.zeros(2, int), np.full((2, 3), 1 / 3))
        merged = merge(merged, {"answers": Answers(*map(np.concatenate, zip(part, padding, strict=True)))})
    for field, expected in zip(merged["answers"], given, strict=True):
        np.testing.assert_array_equal(field, expected)
    np.testing.assert_array_equal(confusion(merged["answers"]), confusion(given))


def test_scores_of_a_part_with_one_class():
    given = Answers(np.arange(2), np.zeros(2, int), np.array([[0.9, 0.1], [0.2, 0.8]]))
    found = scores(given, ["a", "b"])
    assert np.isnan(found["auroc"]) and np.isnan(found["recall/b"]) and found["accuracy"] == 0.5
    assert auroc(np.array([0, 1]), np.array([0.5, 0.5])) == 0.5


def test_one_answer_to_everything_is_a_collapse():
    assert collapsed(np.array([[10, 0], [10, 0]])) == 0
    assert collapsed(np.array([[10, 0], [9, 1]])) is None
    assert collapsed(np.array([[10, 0], [0, 0]])) is None  # there is no other class


# The task -----------------------------------------------------------------------------------------------------------------


def task_of(config=SMOKE, **overrides):
    return make_task(load_config(config, {name.replace("__", "."): value for name, value in overrides.items()}))


@pytest.mark.parametrize("name", ["sentiment", "vowels", "series"])
def test_a_training_batch_is_what_the_abstract_batch_says(name):
    task = task_of(f"configs/lstm_{name}.py:smoke")
    widths = set()
    for step in range(12):
        batch = task.train_batch(0, step, slice(None))
        widths.add(batch["inputs"].shape[1])
        for key, expected in task.abstract_batch.items():
            shape = (16, batch["inputs"].shape[1], *expected.shape[2:]) if key == "inputs" else expected.shape
            assert (batch[key].shape, batch[key].dtype) == (shape, expected.dtype)
    assert widths <= {12, 20, 32} and len(widths) > 1


def test_a_copy_has_no_weight_in_the_loss():
    task = task_of()
    batch = task.train_batch(0, 0, slice(None))
    params, state = jax.jit(task.init)(jax.random.key(0), batch)
    half = {**batch, "mask": np.repeat(np.float32([1, 0]), 8)}
    total, count, metrics, _ = jax.jit(task.loss)(params, state, half, jax.random.key(1))
    first = {name: x[:8] for name, x in batch.items()}
    expected = jax.jit(task.loss)(params, state, first, jax.random.key(1))
    assert count == 8
    np.testing.assert_allclose(total, expected[0], rtol=1e-6)
    assert metrics["accuracy"] == expected[2]["accuracy"]


def test_evaluation_pads_and_training_buckets_agree():
    task = task_of()
    params, state = jax.jit(task.init)(jax.random.key(0), task.train_batch(0, 0, slice(None)))
    source = task.eval_source("validation")
    rows = {name: np.stack([source[i][name] for i in range(6)]) for name in source[0]}
    metrics = jax.jit(task.evaluate)(params, state, {**rows, "mask": np.float32([1, 1, 1, 1, 1, 0])})
    assert np.asarray(metrics["answers"].id).tolist() == [0, 1, 2, 3, 4, -1]
    own = task.train_source("validation")
    apply = jax.jit(lambda inputs: task.predict(params, state, inputs))
    for i in range(5):
        np.testing.assert_allclose(
            task.predict_array(apply, own.raw[i]), metrics["answers"].probabilities[i], atol=1e-6
        )


def test_a_collapse_is_said_with_its_causes():
    task = task_of()
    given = Answers(np.arange(4), np.array([0, 1, 0, 1]), np.tile([0.4, 0.6], (4, 1)))
    (line,) = task.alarms({"answers": given})
    assert "'positive'" in line and "learning rate" in line and "check_data" in line


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        (SMOKE, {"data__source": "mode"}, "config.data.source='mode': did you mean 'made'"),
        (SMOKE, {"data__buckets": "[20, 12]"}, "config.data.buckets=.*growing"),
        (SMOKE, {"data__keep": "ends"}, "config.data.keep='ends': did you mean 'end'"),
        (SMOKE, {"data__max_words": "100"}, "config.data.max_words=100: more than config.model.vocabulary=64"),
        (SMOKE, {"model__vocabulary": "0"}, "config.model.vocabulary=0: the source 'made' gives texts"),
        (SMOKE, {"task__class_names": "['a','a']"}, "config.task.class_names"),
        (SMOKE, {"task__label_smoothing": "1.0"}, "config.task.label_smoothing=1.0"),
        ("configs/lstm_series.py:smoke", {"model__channels": "0"}, "gives series; set it"),
        (
            "configs/lstm_sentiment.py",
            {"data__source": "imdb"},
            "config.data.(train|held_out_from): source 'imdb' has no such key",
        ),
    ],
)
def test_wrong_configs_are_said_in_one_line(config, overrides, message):
    with pytest.raises(InputError, match=message) as error:
        task_of(config, **overrides)
    assert "\n" not in str(error.value)


def test_check_says_all_that_is_wrong(tmp_path):
    write = lambda name, text: (tmp_path / name).write_text(text)
    rows = "".join(f"word{i} is here,{'negative' if i % 2 else 'positive'}\n" for i in range(40))
    write("train.csv", "text,label\n" + rows)
    write("test.csv", "text,label\nfine,positiv\n,negative\n")
    changes = {"data__root": str(tmp_path), "data__test": "test.csv"}
    lines = task_of("configs/lstm_sentiment.py", **changes).check()
    assert len(lines) == 2 and "test.csv:2: label 'positiv'" in lines[0] and "test.csv:3: the text ''" in lines[1]
    write("test.csv", "text,label\nfine,positive\n")
    assert task_of("configs/lstm_sentiment.py", **changes).check() == []
    write("words.txt", "\n".join(f"w{i}" for i in range(50)))
    found = task_of("configs/lstm_sentiment.py", **changes, data__vocabulary_file="words.txt", model__vocabulary="20")
    assert "words.txt: 52 entries, config.model.vocabulary=20" in found.check()[0]
    write("train.csv", "text,label\n" + rows.replace("positive", "negative"))
    assert (
        "all examples of the training part are of one class"
        in task_of("configs/lstm_sentiment.py", **changes).check()[0]
    )


def test_a_series_that_is_too_long_is_named(tmp_path):
    (tmp_path / "train.ts").write_text("@data\n" + "1,2,3:0\n1,2,3:1\n" * 9 + "1,2,3,4,5:1\n")
    changes = {"data__root": str(tmp_path), "data__max_length": "4", "data__held_out": "0.1"}
    (line,) = task_of("configs/lstm_series.py", **changes).check()
    assert "train.ts:20: 5 steps, config.data.max_length=4; raise it, or set config.data.keep" in line
    assert task_of("configs/lstm_series.py", **changes, data__keep="start").check() == []


# Runs ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished smoke run on texts, with attention."""
    workdir = tmp_path_factory.mktemp("runs") / "texts"
    words = ["--config", SMOKE, "--quiet", "--workdir", str(workdir), "--config.mesh.devices", "1"]
    assert train.main(words) == 0
    assert evaluate.main(["--workdir", str(workdir)]) == 0
    return workdir


def test_a_run_learns_what_a_bag_of_words_cannot_tell(run):
    assert json.loads((run / "evaluation-test.json").read_text())["accuracy"] > 0.95
    assert baselines.main(["--workdir", str(run)]) == 0
    rows = json.loads((run / "baselines-test.json").read_text())
    assert set(rows) == {"majority", "TF-IDF, logistic regression", "LSTM"}
    assert rows["majority"]["accuracy"] < 0.6 < rows["LSTM"]["accuracy"]
    assert rows["TF-IDF, logistic regression"]["accuracy"] < 0.9
    assert report.main(["--workdir", str(run), "--picture", str(run / "a.png")]) == 0
    page = (run / "report.html").read_text()
    for word in ("Confusion", "TF-IDF", "auroc", "sure", "negative", "rgb(var(--heat)"):
        assert word in page
    assert (run / "a.png").exists()


def test_files_are_predicted_line_by_line(run, tmp_path):
    (tmp_path / "a.txt").write_text("the film is good .\n\nthe cast is not moving .\n")
    (tmp_path / "b.csv").write_text('text,id\n"the story is dull ,\nthe film is not bad .",7\n')
    words = ["--workdir", str(run), "--input", str(tmp_path), "--output"]
    assert predict.main([*words, str(tmp_path / "out")]) == 0
    lines = (tmp_path / "out" / "a.tsv").read_text().splitlines()
    assert lines[0] == "place\tclass\tp(negative)\tp(positive)\ttext"
    rows = [line.split("\t") for line in lines[1:]]
    assert [row[1] for row in rows] == ["positive", "negative"]
    assert [row[0].rsplit(":", 1)[1] for row in rows] == ["1", "3"]
    assert (tmp_path / "out" / "b.tsv").read_text().splitlines()[1].split("\t")[1] == "positive"
    chances = common.load_run(run).predict("the cast is not moving .")
    np.testing.assert_allclose(chances, [float(p) for p in rows[1][2:4]], atol=1e-4)
    assert predict.main([*words, str(tmp_path / "out")]) == 0  # its own answers are replaced
    (tmp_path / "out" / "a.tsv").write_text("mine")
    with pytest.raises(InputError, match=r"a.tsv: exists and was not made by predict"):
        predict.main([*words, str(tmp_path / "out")])
    (tmp_path / "b.csv").write_text("texts\nx\n")
    with pytest.raises(InputError, match=r"b.csv: no column 'text'"):
        predict.main([*words, str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


def test_one_text_at_a_time(run):
    loaded = common.load_run(run)
    with pytest.raises(InputError, match="the text has no words"):
        loaded.predict(" <br /> ")
    with pytest.raises(InputError, match="type int: expected a text"):
        loaded.predict(3)


def test_a_run_on_series_from_files(tmp_path):
    rng = np.random.default_rng(0)
    rows = ["series,time,value,label"]
    for i in range(60):
        level = 2.0 * (i % 2)
        rows += [f"s{i},{t},{level + 0.3 * rng.normal():.3f},{i % 2}" for t in range(rng.integers(3, 9))]
    (tmp_path / "train.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "new.ts").write_text("@classLabel false\n@data\n0,0.1,0\n2,2.1\n")
    changes = {"data.train": "train.csv", "data.root": tmp_path, "data.max_length": 8, "model.hidden": "[8]"}
    changes |= {"loop.duration": "40 steps", "data.batch_size": 12, "mesh.devices": 1, "optimizer.learning_rate": 0.02}
    changes |= {"loop.eval": "40 steps", "loop.save": "40 steps"}
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
    workdir = tmp_path / "run"
    assert train.main(["--config", "configs/lstm_series.py", "--quiet", "--workdir", str(workdir), *flags]) == 0
    assert evaluate.main(["--workdir", str(workdir)]) == 0
    assert json.loads((workdir / "evaluation-test.json").read_text())["accuracy"] == 1
    assert report.main(["--workdir", str(workdir), "--picture", str(tmp_path / "a.png")]) == 0
    assert "share of the pooled output" in (workdir / "report.html").read_text()
    words = ["--workdir", str(workdir), "--input", str(tmp_path / "new.ts"), "--output", str(tmp_path)]
    assert predict.main(words) == 0
    assert [line.split("\t")[1] for line in (tmp_path / "new.tsv").read_text().splitlines()] == ["class", "0", "1"]
    loaded = common.load_run(workdir)
    assert loaded.predict(np.full((5, 1), 2.0))[1] > 0.9
    with pytest.raises(InputError, match=r"expected finite numbers \[steps, 1\]"):
        loaded.predict(np.zeros((5, 2)))
    assert baselines.main(["--workdir", str(workdir)]) == 0
    rows = json.loads((workdir / "baselines-test.json").read_text())
    assert rows["summaries, logistic regression"]["accuracy"] == 1


def test_a_language_models_parameters_are_a_start(run, tmp_path):
    """--init_from a run whose embedding and stack fit, and whose head does not."""
    words = ["--config", SMOKE, "--quiet", "--workdir", str(tmp_path / "b"), "--init_from", str(run), "--allow_missing"]
    more = ["--config.loop.duration=1 steps", "--config.optimizer.learning_rate=0.0", "--config.model.pooling=max"]
    assert train.main([*words, *more, "--config.mesh.devices=1"]) == 0
    old, new = common.load_run(run), common.load_run(tmp_path / "b")
    np.testing.assert_array_equal(old.params["embedding"], new.params["embedding"])
    np.testing.assert_array_equal(old.params["stack"]["layer0"]["R"], new.params["stack"]["layer0"]["R"])


def test_classes_that_the_training_part_lacks_have_no_probability():
    part = lambda texts, labels: Labelled(texts, np.array(labels, np.int32), [""] * len(texts))
    train_part = part(["good film", "bad film", "good cast", "bad cast"], [0, 1, 0, 1])
    from lstm.baselines import baselines as simple

    found = simple(train_part, None, part(["good", "odd"], [0, 2]), ("a", "b", "c"), texts=True)
    assert found["TF-IDF, logistic regression"]["recall/a"] == 1
    assert found["TF-IDF, logistic regression"]["recall/c"] == 0
    assert found["majority"]["accuracy"] == 0.5
