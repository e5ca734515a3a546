"""Training from start to end on the toy task: resume, signals, alarms, early stop, logs. Kills of a real run: test_resume.py."""

import json
import math

import jax
import numpy as np
import pytest

from common import loop
from common.checkpoint import Checkpoints
from common.errors import InputError
from common.evaluate import split_metrics
from common.log import Clock, read_lines
from common.plan import make_plan
from common.state import abstract_state, create_state
from common.step import make_eval_step
from experiments import arguments
from tests.toy import make_config, make_task


def final_state(workdir, config, task):
    plan = make_plan(config, task)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.restore(checkpoints.latest(), abstract_state(plan.make, plan.abstract_batch, plan.mesh))


def scores_of(workdir):
    """The lines of metrics.jsonl without what depends on the clock."""
    return [{k: v for k, v in line.items() if k not in Clock.NAMES} for line in read_lines(workdir / "metrics.jsonl")]


def equal(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


class Stop(BaseException):
    """The end of the process, at a chosen moment."""


def stop_at(task, calls):
    """The task whose training source ends the program at its `calls`-th reading."""
    source, count = task.train_source("train"), [0]

    class Deadly:
        def __len__(self):
            return len(source)

        def __getitem__(self, i):
            count[0] += 1
            if count[0] > calls:
                raise Stop
            return source[i]

    return task._replace(train_source=lambda split: Deadly())


@pytest.mark.parametrize("calls", [30, 75, 140, 200, 300])
def test_a_broken_and_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path, calls):
    config, task = make_config(data__cache_mb=0), make_task()
    assert loop.train(config, task, tmp_path / "whole", quiet=True) == 0
    with pytest.raises(Stop):
        loop.train(config, stop_at(task, calls), tmp_path / "broken", quiet=True)
    assert loop.train(config, task, tmp_path / "broken", quiet=True) == 0
    equal(final_state(tmp_path / "whole", config, task), final_state(tmp_path / "broken", config, task))
    assert scores_of(tmp_path / "whole") == scores_of(tmp_path / "broken")
    assert json.loads((tmp_path / "broken" / "run.json").read_text())["starts"] == 2


def test_log_lines_are_the_means_since_the_line_before(tmp_path):
    config, task = make_config(loop__log="1 steps"), make_task()
    loop.train(config, task, tmp_path / "each", quiet=True)
    loop.train(make_config(loop__log="5 steps"), task, tmp_path / "fifth", quiet=True)
    each = [line for line in scores_of(tmp_path / "each") if line["split"] == "train"]
    fifth = [line for line in scores_of(tmp_path / "fifth") if line["split"] == "train"]
    assert [line["step"] for line in each] == list(range(1, 41))
    assert [line["step"] for line in fifth] == list(range(5, 41, 5))
    kept = np.array([line["kept"] for line in each])
    weighted = np.array([line["loss"] for line in each]) * kept  # every batch has 8 rows: the share kept is the weight
    for i, line in enumerate(fifth):
        part = slice(5 * i, 5 * i + 5)
        assert np.isclose(line["loss"], weighted[part].sum() / kept[part].sum(), rtol=1e-6)
        assert np.isclose(line["learning_rate"], np.mean([e["learning_rate"] for e in each[part]]), rtol=1e-6)


def test_saves_and_evaluations_land_on_their_steps_and_the_last_one(tmp_path):
    config = make_config(loop__duration="39 steps", loop__keep=99)
    loop.train(config, make_task(), tmp_path, quiet=True)
    lines = [line["step"] for line in scores_of(tmp_path) if line["split"] == "validation"]
    assert lines == [10, 20, 30, 39]
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert {7, 14, 21, 28, 35, 39} <= set(checkpoints.steps())


def test_masked_evaluation_is_the_mean_over_every_example_once():
    task = make_task()
    for batch_size in (4, 8, 16):
        plan = make_plan(make_config(data__eval_batch_size=batch_size, mesh__devices=4), task)
        state = create_state(plan.make, plan.abstract_batch, plan.mesh)
        metrics = split_metrics(plan, make_eval_step(task, plan.mesh), state.params, state.model_state, "validation")
        source = task.eval_source("validation")
        errors = source.x @ np.asarray(state.params["w"], np.float64) - source.y
        assert metrics["loss"].count == 13
        assert np.isclose(metrics["loss"].compute(), np.mean(errors**2), rtol=1e-5)


def test_sigterm_saves_and_exits_75(tmp_path):
    import os
    import signal

    config, task = make_config(data__cache_mb=0, loop__save="1000 steps", loop__eval="1000 steps"), make_task()
    reads = [0]
    source = task.train_source("train")

    class Killing:
        def __len__(self):
            return len(source)

        def __getitem__(self, i):
            reads[0] += 1
            if reads[0] == 120:
                os.kill(os.getpid(), signal.SIGTERM)
            return source[i]

    assert loop.train(config, task._replace(train_source=lambda split: Killing()), tmp_path, quiet=True) == 75
    stopped = int(final_state(tmp_path, config, task).step)
    assert 0 < stopped < 40
    assert loop.train(config, task, tmp_path, quiet=True) == 0
    assert int(final_state(tmp_path, config, task).step) == 40
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    config = make_config(loop__save="1 steps")
    with pytest.raises(InputError, match="the loss at step .* is inf.*learning_rate.*check_data"):
        loop.train(config, make_task(poison=17), tmp_path, quiet=True)
    state = final_state(tmp_path, config, make_task()) if (tmp_path / "checkpoints").exists() else None
    if state is not None:
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.params))


def test_patience_ends_a_run_that_gets_no_better(tmp_path):
    config = make_config(loop__patience=2, loop__eval="2 steps", optimizer__learning_rate=0.0)
    assert loop.train(config, make_task()._replace(augment=None), tmp_path, quiet=True) == 0
    last = scores_of(tmp_path)[-1]["step"]
    assert last < 40


def test_a_workdir_of_another_config_is_refused_with_the_difference(tmp_path):
    loop.train(make_config(loop__duration="2 steps"), make_task(), tmp_path, quiet=True)
    with pytest.raises(InputError, match="another config .*optimizer.learning_rate: 0.05 -> 0.1"):
        loop.train(make_config(optimizer__learning_rate=0.1), make_task(), tmp_path, quiet=True)
    assert loop.train(make_config(loop__duration="4 steps", mesh__devices=2), make_task(), tmp_path, quiet=True) == 0


def test_best_must_name_a_score(tmp_path):
    with pytest.raises(InputError, match="no such score; did you mean 'loss'"):
        loop.train(make_config(loop__best="min lose"), make_task(), tmp_path, quiet=True)
    with pytest.raises(InputError, match="expected 'max NAME'"):
        make_plan(make_config(loop__best="loss"), make_task())


def test_best_checkpoint_is_the_one_of_the_best_score(tmp_path):
    config = make_config(loop__keep=1)
    loop.train(config, make_task(), tmp_path, quiet=True)
    lines = {line["step"]: line["loss"] for line in scores_of(tmp_path) if line["split"] == "validation"}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.best() == min(lines, key=lines.get)


def test_the_loop_makes_no_hidden_transfer(tmp_path, monkeypatch):
    # Under the guard only explicit transfers pass: device_get, make_array_from_process_local_data.
    real = loop.make_train_step

    def guarded(*args, **kwargs):
        step = real(*args, **kwargs)

        def call(state, batch):
            with jax.transfer_guard("disallow"):
                return step(state, batch)

        return call

    monkeypatch.setattr(loop, "make_train_step", guarded)
    assert loop.train(make_config(loop__duration="4 steps"), make_task(), tmp_path, quiet=True) == 0
    assert math.isfinite(scores_of(tmp_path)[-1]["loss"])


def test_overrides_of_both_forms_are_kept_for_the_record():
    words = ["--config", "configs/unet_brain.py:smoke", "--config.seed=3", "--config.data.batch_size", "4"]
    flags, config = arguments.parse_with_config(arguments.parser("x", ""), words)
    assert flags.overrides == ["--config.seed=3", "--config.data.batch_size=4"]
    assert config.seed == 3 and config.data.batch_size == 4
