import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import mesh as meshes
from common.errors import InputError
from common.plan import make_plan
from common.state import create_state, transplant
from common.step import make_eval_step, make_train_step, train_step
from experiments import launch
from tests.toy import make_config, make_task


def batch_of(task, rows=8):
    source = task.train_source("train")
    examples = [source[i] for i in range(rows)]
    return {name: np.stack([e[name] for e in examples]) for name in examples[0]}


def run(steps=10, devices=1, **changes):
    """Parameters after some steps, and their metrics, in float64."""
    task = make_task(jnp.float64)
    plan = make_plan(make_config(mesh__devices=devices, **changes), task)
    state = create_state(plan.make, plan.abstract_batch, plan.mesh)
    step = make_train_step(task, plan.optimizer, plan.mesh, seed=0)
    for _ in range(steps):
        state, metrics = step(state, meshes.put(plan.mesh, batch_of(task)))
    return jax.device_get(state), jax.device_get(metrics)


def test_devices_and_micro_batches_give_the_gradient_of_the_whole_batch(x64):
    plain = dataclasses.replace(run()[0], model_state={})
    for devices in (2, 8):
        state, _ = run(devices=devices)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), plain, dataclasses.replace(state, model_state={})
        )


def test_accumulated_gradient_divides_by_the_count_of_the_whole_batch(x64):
    task = make_task(jnp.float64)

    # No drop-out, no batch statistics: micro-batches with different counts must still give the mean over all rows.
    def loss(params, model_state, batch, key):
        kept = (batch["row"] % 3 > 0).astype(jnp.float64)
        squares = (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2 * kept
        return squares.sum(), kept.sum(), {}, model_state

    task = task._replace(loss=loss, augment=None)
    batch = batch_of(task)
    results = []
    for accumulate in (1, 2, 4):
        plan = make_plan(make_config(optimizer__accumulate=accumulate), task)
        state = create_state(plan.make, plan.abstract_batch, plan.mesh)
        new, metrics = train_step(state, batch, task=task, optimizer=plan.optimizer, seed=0)
        results.append((new.params, metrics["loss"]))
    for other in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), results[0], other)


def test_loss_falls_and_the_average_follows():
    task = make_task()
    plan = make_plan(make_config(), task)
    state = create_state(plan.make, plan.abstract_batch, plan.mesh)
    step = make_train_step(task, plan.optimizer, plan.mesh, seed=0)
    losses = []
    for _ in range(40):
        state, metrics = step(state, meshes.put(plan.mesh, batch_of(task)))
        losses.append(float(metrics["loss"].total / metrics["loss"].count))
    assert losses[-1] < 0.2 * losses[0]
    gap = float(jnp.abs(state.ema["w"] - state.params["w"]).max())
    assert 0 < gap < 0.5


def test_average_is_the_recursion_with_a_ramp():
    task = make_task()._replace(augment=None)
    plan = make_plan(make_config(), task)
    state = create_state(plan.make, plan.abstract_batch, plan.mesh)
    expected = np.asarray(state.params["w"], np.float64)
    for t in range(30):
        state, _ = train_step(state, batch_of(task), task=task, optimizer=plan.optimizer, seed=0)
        decay = min(0.9, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * np.asarray(state.params["w"], np.float64)
    np.testing.assert_allclose(state.ema["w"], expected, rtol=1e-5)


def test_one_compilation_for_all_steps():
    traces = []
    task = make_task()
    counted = task._replace(loss=lambda *a: traces.append(1) or task.loss(*a))
    plan = make_plan(make_config(mesh__devices=2), counted)
    state = create_state(plan.make, plan.abstract_batch, plan.mesh)
    step = make_train_step(counted, plan.optimizer, plan.mesh, seed=0)
    for _ in range(4):
        state, _ = step(state, meshes.put(plan.mesh, batch_of(counted)))
    assert len(traces) == 1
    assert step._cache_size() == 1


def test_state_is_donated():
    task = make_task()
    plan = make_plan(make_config(), task)
    state = create_state(plan.make, plan.abstract_batch, plan.mesh)
    step = make_train_step(task, plan.optimizer, plan.mesh, seed=0)
    step(state, meshes.put(plan.mesh, batch_of(task)))
    assert state.params["w"].is_deleted()


def test_rows_draw_their_own_keys_and_steps_differ():
    drawn = []
    task = make_task()._replace(augment=lambda key, row: {**row, "x": row["x"] + jax.random.normal(key, (3,))})

    def loss(params, model_state, batch, key):
        drawn.append(np.asarray(batch["x"]))
        return (batch["x"] @ params["w"]).sum(), jnp.float32(8), {}, model_state

    plan = make_plan(make_config(), task._replace(loss=loss))
    state = create_state(plan.make, plan.abstract_batch, plan.mesh)
    batch = {name: np.zeros_like(x) for name, x in batch_of(task).items()}
    with jax.disable_jit():
        for at in (0, 1, 0):
            train_step(
                dataclasses.replace(state, step=jnp.int32(at)), batch, task=plan.task, optimizer=plan.optimizer, seed=0
            )
    first, second, again = drawn[0], drawn[1], drawn[2]
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(np.round(np.concatenate([first, second])[:, 0], 6))) == 16


def test_evaluation_counts_masked_rows_out():
    task = make_task()
    plan = make_plan(make_config(mesh__devices=8), task)
    state = create_state(plan.make, plan.abstract_batch, plan.mesh)
    batch = {**batch_of(task), "mask": np.array([1, 1, 1, 0, 0, 0, 0, 0], np.float32)}
    batch["y"][3:] = 1e6
    metrics = make_eval_step(task, plan.mesh)(state.params, state.model_state, meshes.put(plan.mesh, batch))
    expected = (batch["x"][:3] @ np.asarray(state.params["w"]) - batch["y"][:3]) ** 2
    assert float(metrics["loss"].count) == 3
    np.testing.assert_allclose(float(metrics["loss"].total), expected.sum(), rtol=1e-5)


def test_a_batch_that_does_not_divide_is_named():
    with pytest.raises(
        InputError, match="config.data.batch_size=6: does not divide over 4 devices; use a multiple of 4"
    ):
        make_plan(make_config(mesh__devices=4, data__batch_size=6), make_task())
    with pytest.raises(InputError, match="2 devices x 8 micro-batches; use a multiple of 16"):
        make_plan(make_config(mesh__devices=2, optimizer__accumulate=8), make_task())
    with pytest.raises(InputError, match="config.mesh.devices=99: this machine has 8"):
        make_plan(make_config(mesh__devices=99), make_task())


def test_transplant_names_what_does_not_fit():
    source = {"a": jnp.ones(2), "head": jnp.ones(3)}
    target = {"a": jnp.zeros(2), "head": jnp.zeros(4), "new": jnp.zeros(1)}
    params, missing = transplant(source, target)
    np.testing.assert_array_equal(params["a"], 1)
    np.testing.assert_array_equal(params["head"], 0)
    assert [line.split(":")[0] for line in missing] == ["head", "new"]


@pytest.mark.parametrize(
    ("environ", "count"),
    [
        ({}, 1),
        ({"JAX_NUM_CPU_DEVICES": "4"}, 4),
        ({"XLA_FLAGS": "--xla_a=1 --xla_force_host_platform_device_count=8"}, 8),
        ({"JAX_NUM_CPU_DEVICES": "", "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}, 1),
    ],
)
def test_the_devices_that_a_cpu_is_asked_to_be_are_known_before_jax_is(environ, count):
    assert launch.virtual_devices(environ) == count
