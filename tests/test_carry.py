"""Recurrent tasks: batches by step, a carry in the state, scaled rates, NT-ASGD. On a running sum over streams of numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import loop
from common import mesh as meshes
from common.checkpoint import Checkpoints
from common.errors import InputError
from common.evaluate import evaluate
from common.mesh import row_axis
from common.metrics import Mean
from common.plan import make_plan
from common.run import Run, restore_eval
from common.state import create_state
from common.step import make_eval_step, make_train_step, train_step
from common.task import Task
from experiments import train
from tests.test_loop import Stop, equal, final_state, scores_of
from tests.toy import make_config

ROWS, LENGTH = 8, 5
KEEP = 0.9


class Streams:
    """Every row its own stream of numbers without an end, cut into pieces of LENGTH."""

    def __len__(self):
        return 4 * ROWS

    def __getitem__(self, i):
        return {"x": np.ones(LENGTH, np.float32)}


def train_batch(seed, step, rows, dtype=np.float64):
    """x and the noise of the target, [rows, LENGTH]; every row draws its own."""
    drawn = [np.random.default_rng([seed, step, row]).normal(size=(2, LENGTH)) for row in range(rows.start, rows.stop)]
    x, noise = np.swapaxes(np.asarray(drawn, dtype), 0, 1)
    return {"x": x, "noise": noise}


def make_task(dtype=jnp.float64, batch=None):
    """Learns w, b from sums so far (each number KEEP times as much as the next one): 2 sum + 1 + noise = w sum + b."""

    def sums(carry, x):
        def one(total, column):
            total = KEEP * total + column
            return total, total

        last, all_sums = jax.lax.scan(one, carry["sum"], x.T)
        return {"sum": last, "pieces": carry["pieces"] + 1}, all_sums.T

    def init(key, batch):
        rows = batch["x"].shape[0]
        carry = {"sum": jnp.zeros(rows, dtype), "pieces": jnp.zeros((rows, 1), jnp.int32)}
        return {"w": jnp.ones((), dtype), "b": jnp.zeros((1,), dtype)}, {"carry": carry, "seen": jnp.zeros((), dtype)}

    def loss(params, model_state, batch, key):
        carry, y = sums(model_state["carry"], batch["x"])
        squares = ((params["w"] - 2) * y + params["b"][0] - 1 - batch["noise"]) ** 2
        shards = jax.lax.axis_size(row_axis()) if row_axis() else 1
        state = {"carry": jax.lax.stop_gradient(carry), "seen": model_state["seen"] + squares.size * shards}
        return squares.sum(), jnp.asarray(squares.size, dtype), {}, state

    def evaluate(params, model_state, batch):
        fresh = jax.tree.map(lambda x: jnp.zeros((len(batch["mask"]), *x.shape[1:]), x.dtype), model_state["carry"])
        _, y = sums(fresh, batch["x"].astype(dtype))
        squares = (((params["w"] - 2) * y + params["b"][0] - 1) ** 2).mean(1) * batch["mask"]
        return {"loss": Mean(squares.sum(), batch["mask"].sum().astype(dtype))}

    return Task(
        abstract_batch={name: jax.ShapeDtypeStruct((ROWS, LENGTH), dtype) for name in ("x", "noise")},
        init=init,
        loss=loss,
        evaluate=evaluate,
        predict=lambda params, model_state, x: x * params["w"],
        train_source=lambda split: Streams(),
        eval_source=lambda split: Streams(),
        train_batch=batch or functools.partial(train_batch, dtype=dtype),
        scores=lambda metrics: {name: m.compute() for name, m in metrics.items()},
    )


def config_of(**changes):
    optimizer = {"name": "sgd", "momentum": 0.5, "learning_rate": 0.02, "schedule": "constant", "accumulate": 1}
    config = make_config(loop__duration="12 steps", loop__eval="3 steps", loop__save="2 steps", loop__log="1 steps")
    config.optimizer = {**optimizer, **{k[11:]: v for k, v in changes.items() if k.startswith("optimizer__")}}
    for key, value in changes.items():
        section, name = key.split("__")
        config[section][name] = value
    return config


def close(a, b, rtol=1e-10):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=1e-12), a, b)


def steps_of(task, count=4, batch=None, **changes):
    """The state after some steps, and the plan."""
    plan = make_plan(config_of(**changes), task)
    state = create_state(plan.make, plan.abstract_batch, plan.mesh)
    step = make_train_step(task, plan.optimizer, plan.mesh, seed=0)
    for t in range(count):
        state, _ = step(state, meshes.put(plan.mesh, (batch or train_batch)(0, t, slice(0, ROWS))))
    assert step._cache_size() == min(count, 1)
    return state, plan


def host_of(workdir):
    """What the host had decided at the last checkpoint."""
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        host = checkpoints.manifest(checkpoints.latest())["host"]
    return {name: value for name, value in host.items() if name != "minutes"}


def stopped(task, at):
    """The task whose batch of step `at` ends the program."""

    def batch(seed, step, rows):
        if step >= at:
            raise Stop
        return task.train_batch(seed, step, rows)

    return task._replace(train_batch=batch)


def expected_carry(steps):
    """The carry after `steps` pieces by a plain loop."""
    total = np.zeros(ROWS)
    for t in range(steps):
        for column in train_batch(0, t, slice(0, ROWS))["x"].T:
            total = KEEP * total + column
    return total


# The carry


def test_the_carry_follows_its_stream_and_lies_like_the_batch(x64):
    state, plan = steps_of(make_task(), mesh__devices=8)
    np.testing.assert_allclose(state.model_state["carry"]["sum"], expected_carry(4), rtol=1e-12)
    np.testing.assert_array_equal(state.model_state["carry"]["pieces"], np.full((ROWS, 1), 4))
    assert all(leaf.sharding.shard_shape(leaf.shape)[0] == 1 for leaf in jax.tree.leaves(state.model_state["carry"]))
    assert state.model_state["seen"].sharding.is_fully_replicated and state.params["w"].sharding.is_fully_replicated


@pytest.mark.parametrize(("devices", "accumulate"), [(8, 1), (2, 2), (1, 2), (1, 4)])
def test_devices_and_micro_batches_change_nothing(x64, devices, accumulate):
    plain, _ = steps_of(make_task())
    other, _ = steps_of(make_task(), mesh__devices=devices, optimizer__accumulate=accumulate)
    close(plain, other)


def test_evaluation_starts_from_a_fresh_carry(x64):
    task = make_task()
    state, plan = steps_of(task, mesh__devices=2)
    rows = 4  # not the rows of training
    batch = {"x": np.ones((rows, LENGTH)), "mask": np.ones(rows)}
    metrics = make_eval_step(task, plan.mesh)(state.eval_params, state.model_state, meshes.put(plan.mesh, batch))
    y = np.array([sum(KEEP**k for k in range(t + 1)) for t in range(LENGTH)])
    w, b = float(state.params["w"]), float(state.params["b"][0])
    np.testing.assert_allclose(metrics["loss"].total / metrics["loss"].count, np.mean((w * y + b - 2 * y - 1) ** 2))


@pytest.mark.parametrize("at", [3, 10])
def test_a_broken_and_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path, at):
    config, task = config_of(mesh__devices=2), make_task(jnp.float32)
    assert loop.train(config, task, tmp_path / "whole", quiet=True) == 0
    with pytest.raises(Stop):
        loop.train(config, stopped(task, at), tmp_path / "broken", quiet=True)
    assert loop.train(config, task, tmp_path / "broken", quiet=True) == 0
    whole, broken = (final_state(tmp_path / name, config, task) for name in ("whole", "broken"))
    equal(whole, broken)
    assert float(jnp.abs(whole.model_state["carry"]["sum"]).min()) > 0
    np.testing.assert_allclose(whole.model_state["carry"]["sum"], expected_carry(12), rtol=1e-5)
    assert scores_of(tmp_path / "whole") == scores_of(tmp_path / "broken")


def test_a_run_moves_from_8_devices_to_2_to_1(tmp_path, x64):
    task = make_task()
    for devices, steps in ((8, 4), (2, 8), (1, 12)):
        config = config_of(mesh__devices=devices, loop__duration=f"{steps} steps", loop__eval="4 steps")
        assert loop.train(config, task, tmp_path / "moved", quiet=True) == 0
    config = config_of(loop__eval="4 steps")
    loop.train(config, task, tmp_path / "one", quiet=True)
    close(final_state(tmp_path / "one", config, task), final_state(tmp_path / "moved", config, task))


def test_a_finished_run_opens_on_one_device_and_is_scored_on_any(tmp_path):
    config, task = config_of(mesh__devices=8), make_task(jnp.float32)
    loop.train(config, task, tmp_path, quiet=True)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state = restore_eval(checkpoints, 12, task)
    np.testing.assert_allclose(state.model_state["carry"]["sum"], expected_carry(12), rtol=1e-5)
    assert len(state.model_state["carry"]["sum"].sharding.device_set) == 1
    last = [line for line in scores_of(tmp_path) if line["split"] == "validation"][-1]
    for devices in (1, 8):
        plan = make_plan(config_of(mesh__devices=devices, data__eval_batch_size=16), task)
        scores, _ = evaluate(plan, make_eval_step(task, plan.mesh), state, "validation")
        assert np.isclose(scores["loss"], last["loss"], rtol=1e-5)


def test_init_from_takes_the_parameters_and_leaves_the_carry_fresh(tmp_path, monkeypatch):
    config, task = config_of(optimizer__ema=0.9), make_task(jnp.float32)
    state, plan = steps_of(task, optimizer__ema=0.9)
    run = Run(tmp_path, config, task, 4, state.eval_params, state.model_state)
    monkeypatch.setattr(train, "load_run", lambda source: run)
    fresh = create_state(plan.make, plan.abstract_batch, plan.mesh)
    new = train.initial_from(tmp_path, allow_missing=False)(fresh)
    equal(new.params, state.ema)
    equal(new.model_state, {**state.model_state, "carry": fresh.model_state["carry"]})
    assert float(jnp.abs(new.model_state["carry"]["sum"]).max()) == 0 < float(new.model_state["seen"])
    step = make_train_step(task, plan.optimizer, plan.mesh, seed=0)
    step(new, meshes.put(plan.mesh, task.train_batch(0, 0, slice(0, ROWS))))  # no buffer is in it twice


# Batches of other lengths, and their rate


def test_batches_of_different_lengths_take_one_program_each(x64):
    def batch(seed, step, rows):
        return {name: value[:, : 2 + step % 2] for name, value in train_batch(seed, step, rows).items()}

    plan = make_plan(config_of(), make_task(batch=batch))
    state = create_state(plan.make, plan.abstract_batch, plan.mesh)
    step = make_train_step(plan.task, plan.optimizer, plan.mesh, seed=0)
    with loop.open_batches(plan, 0) as batches:
        for t in range(6):
            state, _ = step(state, meshes.put(plan.mesh, next(batches)))
            assert step._cache_size() == min(t + 1, 2)
    assert float(state.model_state["seen"]) == ROWS * (2 + 3) * 3


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_a_rate_scales_the_update_after_clipping(x64, clip):
    def scaled(rate):
        return lambda *a: {**train_batch(*a), "rate": np.full(a[2].stop - a[2].start, rate, np.float32)}

    options = {"optimizer__clip": clip, "optimizer__momentum": 0.0}
    start, _ = steps_of(make_task(), 0, **options)
    plain, _ = steps_of(make_task(), 1, **options)
    expected = jax.tree.map(lambda a, b: a + 0.7 * (b - a), start.params, plain.params)
    for devices in (1, 8):
        state, _ = steps_of(make_task(), 1, batch=scaled(np.float32(0.7)), mesh__devices=devices, **options)
        close(state.params, expected, rtol=1e-7)  # the rate is float32
    if clip:
        move = jax.tree.map(lambda a, b: np.asarray(b - a), start.params, plain.params)
        norm = np.sqrt(sum((m**2).sum() for m in jax.tree.leaves(move)))
        np.testing.assert_allclose(norm, 0.02 * clip)


def test_the_rate_is_in_the_logged_learning_rate():
    task = make_task(jnp.float32)
    plan = make_plan(config_of(), task)
    state = create_state(plan.make, plan.abstract_batch, plan.mesh)
    batch = {**task.train_batch(0, 0, slice(0, ROWS)), "rate": np.full(ROWS, 0.5, np.float32)}
    _, metrics = train_step(state, batch, task=task, optimizer=plan.optimizer, seed=0)
    assert np.isclose(metrics["learning_rate"].total, 0.01)


# NT-ASGD


AVERAGE = {
    "optimizer__average_after": 2,
    "optimizer__learning_rate": 0.1,
    "optimizer__momentum": 0.0,
    "loop__duration": "24 steps",
    "loop__eval": "1 steps",
}


def loop_in_numpy(steps, after, rate):
    """(step of the trigger, mean of the parameters from there on, scores) of SGD on the toy task, by the paper's loop."""
    w, b, total, scores, trigger, kept = 1.0, 0.0, np.zeros(ROWS), [], None, []
    for step in range(1, steps + 1):
        batch = train_batch(0, step - 1, slice(0, ROWS))
        y = np.zeros((ROWS, LENGTH))
        for i in range(LENGTH):
            total = KEEP * total + batch["x"][:, i]
            y[:, i] = total
        error = (w - 2) * y + b - 1 - batch["noise"]
        w, b = w - rate * np.mean(2 * error * y), b - rate * np.mean(2 * error)
        kept = [*kept, (w, b)] if trigger else [(w, b)]
        mean_w, mean_b = np.mean(kept, axis=0)
        ones = np.array([sum(KEEP**k for k in range(i + 1)) for i in range(LENGTH)])
        score = np.mean(((mean_w - 2) * ones + mean_b - 1) ** 2)
        if trigger is None and len(scores) > after and score > min(scores[:-after]):
            trigger = step
        scores.append(score)
    return trigger, (mean_w, mean_b), scores


def test_averaging_is_the_papers_loop(tmp_path, x64):
    config, task = config_of(**AVERAGE), make_task()
    loop.train(config, task, tmp_path, quiet=True)
    trigger, (w, b), scores = loop_in_numpy(24, after=2, rate=0.1)
    assert 4 < trigger < 20
    assert host_of(tmp_path)["averaging_from"] == trigger
    state = final_state(tmp_path, config, task)
    close(state.ema, {"w": w, "b": np.array([b])})
    assert state.eval_params is state.ema
    found = [line["loss"] for line in scores_of(tmp_path) if line["split"] == "validation"]
    np.testing.assert_allclose(found, scores, rtol=1e-9)


@pytest.mark.slow
def test_averaging_survives_a_kill_before_and_after_its_trigger(tmp_path):
    config, task = config_of(**AVERAGE, loop__save="3 steps"), make_task(jnp.float32)
    loop.train(config, task, tmp_path / "whole", quiet=True)
    trigger = host_of(tmp_path / "whole")["averaging_from"]
    for at in (trigger - 1, trigger + 4):
        broken = tmp_path / f"broken-{at}"
        with pytest.raises(Stop):
            loop.train(config, stopped(task, at), broken, quiet=True)
        loop.train(config, task, broken, quiet=True)
        equal(final_state(tmp_path / "whole", config, task), final_state(broken, config, task))
        assert host_of(broken) == host_of(tmp_path / "whole")
        assert scores_of(broken) == scores_of(tmp_path / "whole")


def test_averaging_begins_without_a_compilation_and_is_said_once(tmp_path, monkeypatch, capsys):
    made, real = [], loop.make_train_step

    def make(*args, **kwargs):
        step = real(*args, **kwargs)
        made.append(step)

        def guarded(*a):
            with jax.transfer_guard("disallow"):
                return step(*a)

        return guarded

    monkeypatch.setattr(loop, "make_train_step", make)
    loop.train(config_of(**AVERAGE, mesh__devices=2), make_task(jnp.float32), tmp_path)
    assert host_of(tmp_path)["averaging_from"] is not None
    assert made[0]._cache_size() == 1
    said = capsys.readouterr().err
    assert said.count("averaging of the parameters begins") == 1


@pytest.mark.parametrize(
    ("best", "scores"), [("min loss", [3, 2, 1, 2.5, 1.5, 2]), ("max loss", [1, 2, 3, 1.5, 2.5, 2])]
)
def test_the_trigger_looks_past_the_last_evaluations(best, scores):
    plan = make_plan(config_of(optimizer__average_after=3, loop__best=best), make_task(jnp.float32))
    host = loop.Host()
    began = [loop.note_trigger(plan, host, {"loss": float(v)}, step) for step, v in enumerate(scores, 1)]
    # The sixth is worse than the best of the first two? No: 2 equals it. A seventh, worse than the best of three, begins.
    assert began == [False] * 6 and host.averaging_from is None
    assert loop.note_trigger(plan, host, {"loss": 2.0}, 7) and host.averaging_from == 7
    assert not loop.note_trigger(plan, host, {"loss": 9.0}, 8) and host.averaging_from == 7


def test_the_average_is_the_parameters_until_it_begins():
    task = make_task(jnp.float32)
    plan = make_plan(config_of(optimizer__average_after=1), task)
    state = create_state(plan.make, plan.abstract_batch, plan.mesh)
    for t in range(3):
        batch = task.train_batch(0, t, slice(0, ROWS))
        state, _ = train_step(state, batch, task=task, optimizer=plan.optimizer, seed=0)
        equal(state.ema, state.params)


def test_two_averages_at_once_are_refused():
    with pytest.raises(InputError, match=r"config.optimizer.average_after=5: excludes ema=0.9"):
        make_plan(config_of(optimizer__average_after=5, optimizer__ema=0.9), make_task(jnp.float32))
