"""Jobs as a task: the loss by enumeration, what a run keeps and uses, bad logs and configs in one line, resumes, devices."""

import functools
import itertools
import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import common
from common import loop
from common import mesh as meshes
from common.config import load_config
from common.errors import InputError
from common.evaluate import split_metrics
from common.log import read_lines
from common.plan import make_plan
from common.run import read_config
from common.state import create_state
from common.step import make_eval_step, make_train_step
from experiments import check_data, evaluate, plan, predict, train, walk_forward
from experiments.tasks import make_task
from lstm.data.jobs import read_jobs
from lstm.data.made_jobs import SWF_HEADER, made_jobs, write_swf
from lstm.job_model import JobModel
from lstm.tasks.jobs import INPUTS, edges_of, forecasts_of, whole
from lstm.tasks.jobs_traced import parts_of_loss
from tests.test_carry import stopped
from tests.test_job_model import joint
from tests.test_loop import Stop, equal, final_state, scores_of

CONFIG = "configs/lstm_jobs.py:smoke"
LINE = "{id} {submit} -1 {run} 4 -1 -1 4 3600 -1 {status} {user} 1 {user} 1 1 -1 -1"


def config_of(**changes):
    return load_config(CONFIG, {name.replace("__", "."): str(value) for name, value in changes.items()})


def task_of(**changes):
    return make_task(config_of(**changes))


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def few(count, change=lambda row, i: row):
    """Lines of two users who submit in turn; of three jobs the first completes, the second fails, the third is cancelled."""
    row = lambda i: {"id": i + 1, "submit": 100 * i, "run": 40 + i % 90, "status": "105"[i % 3], "user": 1 + i % 2}
    return [LINE.format(**change(row(i), i)) for i in range(count)]


def swf(path, change=lambda row, i: row):
    return write(path, few(160, change))


def logged(path, **changes):
    return {"data__source": "log", "data__root": path.parent, "data__log": path.name, **changes}


# A run ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A log in which the last status of a user tells the next, but for every seventh; some jobs are of users of their own."""
    strange = lambda row, i: row | {"status": 1} if i % 7 == 0 else row
    rows = few(400, lambda row, i: strange(row | {"user": 1000 + i} if i % 40 == 0 else row, i))
    return write(tmp_path_factory.mktemp("logs") / "made.swf", [*SWF_HEADER.splitlines(), *rows])


def words_of(log, workdir, **changes):
    changes = {
        "mesh__devices": 1,
        "loop__duration": "30 steps",
        "model__implementation": "scan",
        **logged(log),
        **changes,
    }
    flags = [f"--config.{name.replace('__', '.')}={value}" for name, value in changes.items()]
    return ["--config", CONFIG, "--quiet", "--workdir", str(workdir), *flags]


@pytest.fixture(scope="module")
def run(log, tmp_path_factory):
    """A run on a log; the log is gone after it has been trained and scored."""
    workdir = tmp_path_factory.mktemp("runs") / "jobs"
    assert train.main(words_of(log, workdir)) == 0
    assert evaluate.main(["--workdir", str(workdir), "--split", "test"]) == 0
    log.rename(log.with_suffix(".gone"))
    return workdir


@pytest.fixture
def with_log(run, log):
    """The log, there again for one test."""
    log.with_suffix(".gone").rename(log)
    yield log
    log.rename(log.with_suffix(".gone"))


def test_a_run_learns(run):
    losses = [line["loss"] for line in read_lines(run / "metrics.jsonl") if line["split"] == "train"]
    assert len(losses) == 6 and np.mean(losses[-2:]) < 0.8 * np.mean(losses[:2])
    scores = json.loads((run / "evaluation-test.json").read_text())
    kinds = [f"{kind}/{name}" for kind in ("f1", "auroc", "auprc") for name in ("completed", "failed", "cancelled")]
    assert {"loss", "accuracy", "f1/macro", "f1/macro_decided", "auroc/bad", "auprc/bad", "time_nats", *kinds} <= set(
        scores
    )
    assert {"brier", "calibration_error", "calibration_error/bad"} <= set(scores)
    assert scores["examples"] == 80 and scores["accuracy"] > 0.6 and scores["auroc/bad"] > 0.7


def test_what_the_training_part_tells_is_kept(run, log):
    facts = json.loads((run / "facts.json").read_text())
    assert set(facts) == {"kind", "header", "names", "submitted", "ended", "temperature", "offsets"}
    assert facts["kind"] == "swf" and facts["header"][0] == "; Version: 2.2" and len(facts["header"]) == 5
    jobs = list(itertools.chain.from_iterable(read_jobs(log.with_suffix(".gone"), "swf")))
    own = [job.user for job in jobs[:240]]
    assert len(set(own)) == 8 and set(facts["names"]["user"]) == {name for name in own if own.count(name) >= 5} == {
        "1",
        "2",
    }
    assert 0.1 < facts["temperature"] < 8 and len(facts["offsets"]) == 3
    params = common.load_run(run).params
    for i, name in enumerate(("user", "group", "program", "queue", "partition")):
        assert params[f"embed{i}"]["embedding"].shape == (len(facts["names"][name]) + 1, 4)


def test_a_run_predicts_when_its_log_is_gone(run, log, tmp_path, capsys):
    assert not log.exists()
    write_swf(tmp_path / "new.swf", (m.job for m in made_jobs(seed=9, users=3, jobs=80, chances=False)))
    words = ["--workdir", str(run), "--input", str(tmp_path / "new.swf"), "--output", str(tmp_path / "out")]
    assert predict.main(words) == 0
    path = tmp_path / "out" / "new.csv"
    assert capsys.readouterr().out.strip() == str(path)
    head, *rows = path.read_text().splitlines()
    assert head == "job,elapsed,completed,failed,cancelled,risk"
    numbers = np.array([[float(x) for x in row.split(",")] for row in rows])
    assert numbers[:, 0].tolist() == list(range(1, 81)) and not numbers[:, 1].any()
    np.testing.assert_allclose(numbers[:, 2:5].sum(1), 1, atol=1e-4)
    np.testing.assert_allclose(numbers[:, 3:5].sum(1), numbers[:, 5], atol=1e-4)
    assert numbers[:, 2].std() > 0.01
    assert predict.main(words) == 0, "its own answers are replaced"
    more = [*words[:-1], str(tmp_path / "more"), "--running"]
    assert predict.main(more) == 0
    with_running = (tmp_path / "more" / "new.csv").read_text().splitlines()
    assert [row for row in with_running if row.split(",")[1] == "0"] == rows and len(with_running) > len(rows) + 5
    path.write_text("mine")
    with pytest.raises(InputError, match="new.csv: exists and was not made by predict"):
        predict.main(words)
    (tmp_path / "bad.swf").write_text("nothing of the kind\n" * 3)
    with pytest.raises(InputError, match="bad.swf: not a swf log"):
        predict.main(["--workdir", str(run), "--input", str(tmp_path / "bad.swf"), "--output", str(tmp_path / "bad")])
    assert not (tmp_path / "bad" / "bad.csv").exists()
    with pytest.raises(InputError, match=f"{log}: cannot be read"):
        evaluate.main(["--workdir", str(run)])


def test_the_temperature_is_the_best_on_the_validation_part(run, with_log):
    facts = json.loads((run / "facts.json").read_text())
    opened = common.load_run(run)
    windows = opened.task.eval_source("validation")
    found = forecasts_of(opened.apply, windows, 8, lambda batch: batch)
    known = found.label >= 0
    logits = facts["temperature"] * np.log(found.probabilities[known].astype(np.float64))

    def nats(temperature):
        p = np.exp(logits / temperature)
        return -np.log(p[np.arange(len(p)), found.label[known]] / p.sum(1)).mean()

    best = facts["temperature"]
    assert nats(best) < min(nats(0.9 * best), nats(1.1 * best), nats(1.0) + 1e-9)
    scored = evaluate.evaluate_run(opened, "validation")
    assert np.isclose(scored["loss"], nats(best), rtol=1e-4) and scored["examples"] == known.sum()


def test_the_same_command_again_changes_nothing(run, with_log, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    flags = SimpleNamespace(init_from=None, allow_missing=False, time_limit=None, quiet=True)
    assert train.train_one(read_config(again), again, flags) == 0
    one, other = (json.loads((folder / "facts.json").read_text()) for folder in (run, again))
    assert np.isclose(one.pop("temperature"), other.pop("temperature"), rtol=1e-3)
    assert one == other


# The task ---------------------------------------------------------------------------------------------------------------------


@functools.cache
def small(**changes):
    return task_of(**{"data__jobs": 200, "model__implementation": "scan", **changes})


@pytest.mark.parametrize("stream", ["user", "machine"])
def test_a_training_batch_is_what_the_abstract_batch_says(stream):
    task = small(data__stream=stream)
    batch = task.train_batch(0, 3, slice(None))
    assert batch.keys() == task.abstract_batch.keys()
    for name, expected in task.abstract_batch.items():
        assert (batch[name].shape, batch[name].dtype) == (expected.shape, expected.dtype), name


def test_the_loss_is_that_of_an_explicit_enumeration():
    """Nats of how a job ends, and with their weight of when; of one that has not ended, of how long it has lasted."""
    rng = np.random.default_rng(0)
    batch = {
        "submitted": np.array([[True, True, False, True]]),
        "label": np.array([[1, -1, -1, 2]], np.int32),
        "bin": np.array([[2, 1, 0, 4]], np.int32),
    }
    logits, hazards = rng.normal(size=(1, 4, 3)).astype(np.float32), rng.normal(size=(1, 4, 4, 3)).astype(np.float32)
    nats, times, alive, ended = jax.jit(parts_of_loss)(logits, hazards, batch)
    tables = [joint(logits[0, t], hazards[0, t]) for t in range(4)]
    of_class = [table.sum(0) for table in tables]
    np.testing.assert_allclose(nats[0], [-np.log(of_class[0][1]), 0, 0, -np.log(of_class[3][2])], rtol=1e-4)
    when = [-np.log(tables[t][b, k] / of_class[t][k]) for t, b, k in ((0, 2, 1), (3, 4, 2))]
    np.testing.assert_allclose(times[0], [when[0], 0, 0, when[1]], rtol=1e-4)
    np.testing.assert_allclose(alive[0], [0, -np.log(tables[1][1:].sum()), 0, 0], rtol=1e-4, atol=1e-6)
    assert ended[0].tolist() == [1, 0, 0, 1]


def test_the_sum_and_the_count_of_a_batch():
    rates = {f"model__{name}_dropout": 0.0 for name in ("identity", "input", "output")}
    task = small(task__time_weight=0.5, **rates)
    batch = task.train_batch(0, 5, slice(None))
    batch["reset"][:] = False
    params, state = jax.jit(task.init)(jax.random.key(0), batch)
    total, count, metrics, new = jax.jit(task.loss)(params, state, batch, jax.random.key(1))
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
    sizes = tuple(params[f"embed{i}"]["embedding"].shape[0] for i in range(5))
    net = JobModel(names=sizes, classes=3, bins=12, embed=4, width=16, head=16, hidden=(16,), implementation="scan")
    logits, hazards, _ = jax.jit(lambda p, *x: net.apply({"params": p}, *x))(params, *(batch[name] for name in INPUTS))
    sums = {"nats": 0.0, "times": 0.0, "alive": 0.0}
    right = []
    for place in zip(*np.nonzero(batch["submitted"]), strict=True):
        table, label, end = joint(logits[place], hazards[place]), batch["label"][place], batch["bin"][place]
        if label < 0:
            sums["alive"] -= np.log(table[end:].sum())
            continue
        sums["nats"] -= np.log(table[:, label].sum())
        sums["times"] -= np.log(table[end, label] / table[:, label].sum())
        right.append(table.sum(0).argmax() == label)
    assert sums["alive"] > 0 and count == len(right) > 20
    np.testing.assert_allclose(total, sums["nats"] + 0.5 * (sums["times"] + sums["alive"]), rtol=1e-4)
    np.testing.assert_allclose(metrics["nats"].compute(), sums["nats"] / count, rtol=1e-4)
    np.testing.assert_allclose(metrics["accuracy"].compute(), np.mean(right), rtol=1e-6)


def test_evaluation_scores_each_job_of_the_split_once():
    task = small(task__temperature=2.0)
    batch = task.train_batch(0, 0, slice(None))
    params, state = jax.jit(task.init)(jax.random.key(0), batch)
    source = task.eval_source("validation")
    rows = {name: np.stack([source[i % len(source)][name] for i in range(8)]) for name in source[0]}
    mask = np.float32([1, 1, 1, 0, 0, 0, 0, 0])
    metrics = jax.jit(task.evaluate)(params, state, {**rows, "mask": mask})
    found = whole(metrics)
    own = np.asarray(found.id) >= 0
    counted = rows["counted"] & (mask > 0)[:, None]
    np.testing.assert_array_equal(found.id[own], rows["job"][counted])
    np.testing.assert_array_equal(found.label[own], rows["label"][counted])
    inputs = {name: rows[name] for name in INPUTS}
    expected = jax.jit(task.predict)(params, state, inputs)
    np.testing.assert_allclose(found.running[own], np.asarray(expected["running"])[counted], atol=1e-5)
    warmer = jax.jit(small(task__temperature=1.0).predict)(params, state, inputs)["probabilities"]
    root = np.sqrt(np.asarray(warmer, np.float64))  # a temperature of 2
    np.testing.assert_allclose(expected["probabilities"], root / root.sum(-1, keepdims=True), atol=1e-5)


def test_bins_of_run_times():
    edges = edges_of({"bins": 5, "first_bin": 10.0, "last_bin": 10_000.0})
    np.testing.assert_allclose(edges, [0, 10, 100, 1000, 10_000])


def test_one_answer_to_everything_is_a_collapse():
    task = small()
    batch = task.train_batch(0, 0, slice(None))
    params, state = jax.jit(task.init)(jax.random.key(0), batch)
    params = jax.tree.map(jnp.zeros_like, params)
    params["classes"]["bias"] = jnp.array([0.0, 1.0, 0.0])
    source = task.eval_source("test")
    rows = {name: np.stack([source[i % len(source)][name] for i in range(8)]) for name in source[0]}
    metrics = jax.jit(task.evaluate)(params, state, {**rows, "mask": np.ones(8, np.float32)})
    (line,) = task.alarms(metrics)
    assert line.startswith("every job is predicted to end as 'failed'") and "learning_rate" in line


# Logs -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("a.swf", few(12), "config.data.batch_size=8, bptt=16: the training part has 14 events"),
        (
            "a.swf",
            ["this is", "no log"],
            "a.swf: not a swf log .*2 of the first 2 lines are malformed; expected 18 numbers",
        ),
        ("a.swf", ["; a header alone"], "a.swf: no job in it"),
        ("a.log", ["this is", "no log"], "a.log: not known as a log of jobs"),
        (
            "a.csv",
            ["id,begin,state", "1,2,failed"],
            "a.csv: no column 'submit'; it has id, begin, state; name the columns",
        ),
        (
            "a.csv",
            ["id,submit,status", "1,2,"],
            "no job of the log has an end; a table tells it by config.data.columns.end",
        ),
        (
            "a.csv",
            ["id,submit,end,status", *(f"{i},{i},{i + 1},failed" for i in range(200))],
            "config.data.stream='user': no job of the log has a user; name its column",
        ),
        (
            "a.swf",
            [LINE.format(id=1, submit=1, run=5, status=9, user=1)],
            "the log has no job that ended with a known class",
        ),
        (
            "a.swf",
            [LINE.format(id=i, submit=1, run=5, status=1, user=1) for i in range(5)],
            "no job of the training part has ended in it",
        ),
        (
            "a.swf",
            [LINE.format(id=i, submit=60 * i, run=5, status=1 if i < 120 else -1, user=1) for i in range(200)],
            "no job of the validation part has ended in it with a known class",
        ),
        ("a.txt", ["JobID|Submit|State", "1|2024-01-01T00:00:00|FAILED"], "no column 'User'"),
    ],
)
def test_logs_that_cannot_be_trained_on_are_said_in_one_line(tmp_path, name, lines, message):
    path = write(tmp_path / name, lines)
    (line,) = task_of(**logged(path)).check()
    assert "\n" not in line
    pytest.raises(InputError, check_data.main, ["--config", CONFIG, *words_of(path, "x")[5:]])
    assert re.search(message, line), line


def test_no_file_at_all(tmp_path):
    (line,) = task_of(**logged(tmp_path / "none.swf")).check()
    assert line.endswith("none.swf: cannot be read (No such file or directory); name a log of jobs")


def test_a_good_log_has_nothing_wrong(tmp_path, capsys):
    path = swf(tmp_path / "a.swf")
    task = task_of(**logged(path))
    assert task.check() == [] and capsys.readouterr().err == ""
    assert check_data.main(["--config", CONFIG, *words_of(path, "x")[5:]]) == 0


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (lambda row, i: row | {"status": 7} if i == 5 else row, r"1 x status of no class, .*: '7'"),
        (
            lambda row, i: row | {"submit": 5} if i == 9 else row,
            r"1 x submitted before the job above, to be sorted: .*:10",
        ),
        (
            lambda row, i: row | {"status": "1"} if row["status"] == "5" else row,
            "no job of the training part ended as 'cancelled'",
        ),
        (lambda row, i: row | {"run": "many"} if i == 3 else row, "1 of 160 lines are malformed and were left out"),
    ],
)
def test_what_is_strange_in_a_log_is_told(tmp_path, capsys, change, warning):
    path = swf(tmp_path / "a.swf", change)
    assert task_of(**logged(path)).check() == []
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith(f"warning: {path}: ") for line in lines)
    assert re.search(warning, lines[0]), lines


def test_statuses_of_no_class_are_counted(tmp_path, capsys):
    path = swf(tmp_path / "a.swf", lambda row, i: row | {"status": 7} if i % 4 == 0 else row)
    assert task_of(**logged(path)).check() == []
    assert "40 x status of no class" in capsys.readouterr().err


def test_a_log_that_is_not_in_order_is_read_as_if_it_were(tmp_path):
    path = swf(tmp_path / "a.swf")
    lines = path.read_text().splitlines()
    one = task_of(**logged(path)).train_batch(0, 2, slice(None))
    turned = write(tmp_path / "b.swf", [*lines[50:], *lines[:50]])
    other = task_of(**logged(turned)).train_batch(0, 2, slice(None))
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])


def test_a_table_is_read_like_the_log_that_it_was_made_of(tmp_path):
    path = swf(tmp_path / "a.swf")
    names = {"1": "well", "0": "badly", "5": "badly"}
    table = ["who,when,begun,over,how,cpus,limit,code"]
    for job in itertools.chain.from_iterable(read_jobs(path)):
        fields = (
            job.user,
            job.submit,
            job.start,
            job.end,
            names[job.status],
            job.processors,
            job.time_limit,
            job.program,
        )
        table.append(",".join(map(str, fields)))
    fields = ("user", "submit", "start", "end", "status", "processors", "time_limit", "program")
    columns = dict(zip(fields, table[0].split(","), strict=True))
    changes = {"task__class_names": "['well','badly']"}
    found = []
    for log, more in (
        (path, {"statuses": names}),
        (write(tmp_path / "a.csv", table), {"columns": columns, "statuses": {"well": "well", "badly": "badly"}}),
    ):
        config = config_of(**logged(log), **changes)
        with config.unlocked():
            config.data.update(more)
        task = make_task(config)
        assert task.check() == []
        found.append(task.train_batch(0, 1, slice(None)))
    for name in ("submitted", "ended", "label", "bin", "reset", "job"):
        np.testing.assert_array_equal(found[0][name], found[1][name])


def test_the_log_is_on_the_disk_where_it_shall_be(tmp_path):
    path = swf(tmp_path / "a.swf")
    (line,) = task_of(**logged(path, data__scratch=tmp_path / "nowhere")).check()
    assert "config.data.scratch=" in line and "name a folder with room" in line
    assert task_of(**logged(path, data__scratch=tmp_path)).check() == []
    assert [p.name for p in tmp_path.iterdir()] == ["a.swf"], "its files have no name"


# Configs ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__source": "logs"}, "config.data.source='logs': did you mean 'log'"),
        ({"data__source": "log"}, "config.data.log='': name the file of a scheduler's log"),
        ({"data__stream": "usr"}, "config.data.stream='usr': did you mean 'user'"),
        ({"data__train_on": "train+validation"}, "config.data.train_on='train.validation': leaves nothing to find .*temperature"),
        ({"task__class_names": "['completed']"}, "config.task.class_names=.*two names at least"),
        ({"task__class_names": "['a','a']"}, "config.task.class_names=.*each once"),
        ({"task__bad": "['faild']"}, "config.task.bad: 'faild' is no class; did you mean 'failed'"),
        ({"task__bins": 2}, "config.task.bins=2, .*3 at least"),
        ({"task__first_bin": 1e6}, "config.task.bins=12, first_bin=1000000.0, .*rising"),
        ({"task__temperature": -1.0}, "config.task: temperature, .*from 0"),
        ({"task__per_node": 0}, "config.task: .*per_node 1"),
        ({"model__embed": 0}, "config.model.embed=0: at least 1"),
        ({"model__cell": "lsmt"}, "'lsmt'.*did you mean 'lstm'"),
    ],
)  # fmt: skip
def test_wrong_configs_are_said_in_one_line(changes, message):
    with pytest.raises(InputError, match=message) as error:
        task_of(**changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ("data", "lgo", "config.data.lgo: .*did you mean 'log'"),
        ("task", "binz", "config.task.binz: .*did you mean 'bins'"),
        ("model", "hiden", "config.model.hiden: .*did you mean 'hidden'"),
        ("augment", "flip", "config.augment.flip"),
        ("model", "classes", "config.model.classes: follows from the log and from config.task; leave it out"),
    ],
)
def test_keys_that_are_none(section, key, message):
    config = config_of()
    with config.unlocked():
        config[section][key] = 3
    with pytest.raises(InputError, match=message):
        make_task(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__parts": "[0.5, 0.2, 1.0]"}, "config.data.parts=.*three shares that rise"),
        ({"data__train_on": "test", "task__temperature": 1.0}, "config.data.train_on='test'"),
        ({"data__restart": 1.0}, "config.data.restart=1.0"),
        ({"data__bptt": 100_000}, "config.data.batch_size=8, bptt=100000: the training part has"),
        ({"data__users": 0}, "users=0"),
        ({"task__class_names": "['completed','failed']"}, "a made log has"),
    ],
)
def test_what_does_not_fit_the_log_is_said_by_check(changes, message):
    (line,) = task_of(data__jobs=150, **changes).check()
    assert re.search(message, line) and "\n" not in line


def test_a_part_without_jobs_is_said_where_it_is_needed():
    task = task_of(data__jobs=150, data__parts="[0.7, 0.7, 1.0]")
    with pytest.raises(
        InputError, match=r"config.data.parts=\[0.7, 0.7, 1.0\]: leaves no jobs for the split 'validation'"
    ):
        task.eval_source("validation")


def test_a_training_part_without_jobs_is_said():
    (line,) = task_of(data__jobs=150, data__parts="[0.001, 0.5, 1.0]").check()
    assert "leaves no jobs for the split 'train'" in line


def test_names_that_only_come_later_are_never_known(tmp_path):
    path = swf(tmp_path / "a.swf", lambda row, i: row | {"user": 77} if i > 150 else row)
    assert "77" not in task_of(**logged(path), data__known_after=0).facts()["names"]["user"]


def test_a_bad_log_leaves_no_run(tmp_path):
    path = write(tmp_path / "a.swf", ["this is", "no log"])
    with pytest.raises(InputError, match="a.swf: not a swf log"):
        train.main(words_of(path, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_plan_knows_its_parameters():
    task = small()
    numbers, ended = (task.abstract_batch[name].shape[-1] for name in ("numbers", "ended"))
    assert (numbers, ended) == (4 + 7 + 4 * (5 * 3 + 13) + (3 + 4) + (3 + 2 * 3), 3 + 5)
    _, state = plan.open_run(config_of(mesh__devices=1, data__jobs=200), None, False)
    x, names = numbers + ended + 1 + 5 * 4, task.facts()["names"]
    own = x * 16 + 16 + 4 * 16 * (16 + 16 + 1) + (16 + x) * 16 + 16 + 17 * 3 + 17 * 11 * 3
    embedded = 4 * sum(len(names[name]) + 1 for name in names)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params)) == embedded + own


def test_a_plan_reads_no_log(tmp_path):
    config = config_of(**logged(swf(tmp_path / "a.swf")), mesh__devices=1)
    with pytest.raises(InputError, match="--read_data"):
        plan.open_run(config, None, False)


# The loop ---------------------------------------------------------------------------------------------------------------------


def test_a_broken_and_resumed_run_equals_an_unbroken_one(run, with_log, tmp_path):
    config = read_config(run)
    task = make_task(config)
    with pytest.raises(Stop):
        loop.train(config, stopped(task, 20), tmp_path, quiet=True)
    assert loop.train(config, task, tmp_path, quiet=True) == 0
    assert json.loads((tmp_path / "run.json").read_text())["starts"] == 2
    equal(final_state(run, config, task), final_state(tmp_path, config, task))
    assert scores_of(run) == scores_of(tmp_path)


def test_eight_devices_train_and_score_as_one():
    """With drop-outs of all kinds, whose draws go by the row of the whole batch."""
    changes = {"optimizer__name": "sgd", "optimizer__schedule": "constant", "optimizer__weight_decay": 0.0}
    changes |= {"data__jobs": 200, "model__implementation": "scan"}
    found = []
    for devices in (1, 8):
        config = config_of(mesh__devices=devices, **changes)
        task = make_task(config)
        made = make_plan(config, task)
        state = create_state(made.make, made.abstract_batch, made.mesh)
        step = make_train_step(task, made.optimizer, made.mesh, seed=0)
        for t in range(3):
            state, _ = step(state, meshes.put(made.mesh, task.train_batch(0, t, slice(None))))
        metrics = split_metrics(made, make_eval_step(task, made.mesh), state.params, state.model_state, "validation")
        found.append((jax.device_get(state.params), jax.device_get(state.model_state), whole(metrics)))
    one, other = found
    for a, b in zip(jax.tree.leaves(one[:2]), jax.tree.leaves(other[:2]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    orders = [np.argsort(forecasts.id) for forecasts in (one[2], other[2])]
    ids = [
        forecasts.id[order][forecasts.id[order] >= 0]
        for forecasts, order in zip((one[2], other[2]), orders, strict=True)
    ]
    np.testing.assert_array_equal(*ids)
    assert len(ids[0]) == 40
    tails = [forecasts.running[order][-40:] for forecasts, order in zip((one[2], other[2]), orders, strict=True)]
    np.testing.assert_allclose(*tails, atol=1e-5)


@pytest.mark.slow
def test_walking_forward_scores_each_tenth_beside_the_baselines(tmp_path, monkeypatch, capsys):
    """Each fold trains on what lies before; folds that are done are not done again."""
    monkeypatch.setattr(walk_forward, "TENTHS", range(6, 8))
    words = [
        "--config",
        CONFIG,
        "--config.loop.duration=4 steps",
        "--config.mesh.devices=1",
        "--workdir",
        str(tmp_path / "walk"),
    ]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(Path(__file__).parent.parent / "configs")
    assert walk_forward.main([*words, "--record", "walk"]) == 0
    found = json.loads((tmp_path / "experiments/results/walk.json").read_text())
    assert len(found["scores"]["accuracy/LSTM"]["values"]) == len(found["folds"]) == 2
    assert {"majority/", "gradient boosting/"} <= {name.partition("/")[2] + "/" for name in found["scores"]}
    for tenth in (6, 7):
        config = read_config(tmp_path / "walk" / str(tenth))
        assert list(config.data.parts) == [tenth / 10, (tenth + 1) / 10, (tenth + 2) / 10]
        assert config.loop.score_split == "test"
    monkeypatch.setattr(walk_forward.baselines, "main", lambda words: 1 / 0)
    assert walk_forward.main(words) == 0
    with pytest.raises(InputError, match="its task is 'language'"):
        walk_forward.main(["--config", "configs/lstm_source_text.py", "--workdir", str(tmp_path / "x")])
