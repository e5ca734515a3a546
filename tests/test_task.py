"""Segmentation as a Task: what comes out of its functions together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import loop
from common.config import load_config
from common.metrics import Confusions, Mean, merge
from experiments.tasks import make_task


def task_of(variant="configs/unet_brain.py:smoke", **overrides):
    return make_task(load_config(variant, {name.replace("__", "."): value for name, value in overrides.items()}))


def first_batch(task, rows=4):
    source = task.train_source("train")
    rng = np.random.default_rng(0)
    examples = [task.crop(source[i], rng) for i in range(rows)]
    batch = {name: jnp.stack([e[name] for e in examples]) for name in ("image", "label")}
    return jax.vmap(task.augment)(jax.random.split(jax.random.key(0), rows), batch)


def test_a_training_batch_is_what_the_abstract_batch_says():
    for padding, crop, out in (("same", "[64, 48]", (64, 48)), ("valid", "[76, 60]", (36, 20))):
        task = task_of(model__padding=padding, data__crop=crop, task__tile="76")
        batch = first_batch(task, rows=8)
        for name, expected in task.abstract_batch.items():
            assert (batch[name].shape, batch[name].dtype) == (expected.shape, expected.dtype)
        assert batch["label"].shape[1:] == out


def test_an_ignored_pixel_has_no_gradient_and_a_counted_one_has():
    task = task_of(model__norm="none")
    batch = first_batch(task)
    params, state = task.init(jax.random.key(0), batch)
    label = batch["label"].at[:, :, 32:].set(255)

    def loss_of_image(image):
        total, count, *_ = task.loss(params, state, {"image": image, "label": label}, jax.random.key(1))
        return total / count

    # Beyond the receptive field of any counted pixel (depth 2: less than 24 px) the input has no influence.
    grad = np.abs(np.asarray(jax.grad(loss_of_image)(batch["image"])))
    assert grad[:, :, :32].max() > 0
    assert grad[:, :, 56:].max() == 0


def test_turned_images_give_turned_answers_when_averaged_over_turns():
    plain, averaged = task_of(), task_of(task__average="turns")
    batch = first_batch(plain)
    params, state = plain.init(jax.random.key(0), batch)
    image, turned = batch["image"], jnp.rot90(batch["image"], axes=(1, 2))
    p, q = (averaged.predict(params, state, x) for x in (image, turned))
    np.testing.assert_allclose(jnp.rot90(p, axes=(1, 2)), q, atol=1e-5)
    assert not np.allclose(
        jnp.rot90(plain.predict(params, state, image), axes=(1, 2)), plain.predict(params, state, turned), atol=1e-4
    )
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-5)


def test_balanced_weights_come_from_the_training_masks():
    plain, balanced = (
        task_of(task__loss__name="cross_entropy"),
        task_of(task__balance="median_frequency", task__loss__name="cross_entropy"),
    )
    batch = first_batch(plain)
    params, state = plain.init(jax.random.key(0), batch)
    key = jax.random.key(0)
    counts = [task.loss(params, state, batch, key)[1] for task in (plain, balanced)]
    assert counts[0] == batch["label"].size
    assert counts[1] != counts[0]


def test_scores_of_tiles_are_those_of_the_image():
    tiled = task_of(task__tile="32", task__overlap="12", model__depth="1", model__norm="none")
    whole = task_of(task__tile="64", task__overlap="12", model__depth="1", model__norm="none")
    params, state = whole.init(jax.random.key(0), first_batch(whole))
    found = []
    for task in (whole, tiled):
        source, merged = task.eval_source("validation"), None
        step = jax.jit(task.evaluate)
        for i in range(len(source)):
            row = {name: np.asarray(x)[None] for name, x in source[i].items()}
            merged = merge(merged, jax.device_get(step(params, state, {**row, "mask": np.ones(1, np.float32)})))
        found.append(merged)
    # A pixel at least 12 px from a tile's inner edge sees all that it sees in the whole image (depth 1: 8 px).
    np.testing.assert_array_equal(found[0]["confusions"].matrix, found[1]["confusions"].matrix)
    assert np.isclose(found[0]["loss"].count, found[1]["loss"].count)


def test_padding_rows_count_nothing():
    task = task_of()
    source = task.eval_source("validation")
    params, state = task.init(jax.random.key(0), first_batch(task))
    rows = [source[i] for i in (0, 1)]
    batch = {name: jnp.stack([r[name] for r in rows]) for name in rows[0]}
    one = task.evaluate(params, state, {**batch, "mask": np.array([1, 0], np.float32)})
    assert float(one["loss"].count) == batch["label"][0].size
    assert list(np.asarray(one["confusions"].image)) == [0, -1]
    assert np.asarray(one["confusions"].matrix)[1].sum() == 0


def test_a_collapse_is_said_with_its_causes():
    task = task_of()
    matrix = np.zeros((1, 4, 4), np.int64)
    matrix[0, :, 1] = 1000
    metrics = {"loss": Mean(1.0, 1.0), "confusions": Confusions(np.array([0]), matrix)}
    (line,) = task.alarms(metrics)
    assert "'grey'" in line and "learning rate" in line and "check_data" in line
    matrix[0] = np.eye(4) * 1000
    assert task.alarms(metrics) == []


def test_a_relu_on_the_logits_would_trigger_the_alarm(tmp_path, capsys):
    config = load_config("configs/unet_brain.py:smoke", {"loop.duration": "20 steps", "loop.eval": "10 steps"})
    task = make_task(config)

    def dead(params, model_state, batch):
        zeros = {**params, "logits": jax.tree.map(jnp.zeros_like, params["logits"])}
        return task.evaluate(zeros, model_state, batch)

    assert loop.train(config, task._replace(evaluate=dead), tmp_path) == 0
    assert "every pixel is predicted as 'background'" in capsys.readouterr().err


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_bfloat16_keeps_float32_parameters_and_losses(padding):
    task = task_of(model__dtype="bfloat16", model__padding=padding, data__crop="[60, 60]", task__tile="60")
    batch = first_batch(task)
    params, state = task.init(jax.random.key(0), batch)
    total, count, metrics, new_state = task.loss(params, state, batch, jax.random.key(1))
    assert total.dtype == count.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves((params, new_state))} == {jnp.dtype("float32")}
    exact = task_of(model__padding=padding, data__crop="[60, 60]", task__tile="60")
    reference = exact.loss(params, state, batch, jax.random.key(1))[0]
    np.testing.assert_allclose(total, reference, rtol=0.02)
