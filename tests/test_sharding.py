"""The same curve on any number of devices: real tasks in float64, data parallel, fully sharded, split in space, under pmap."""

import functools

import jax
import numpy as np
import pytest

from common import loop
from common import mesh as meshes
from common.config import load_config
from common.errors import InputError
from common.evaluate import evaluate
from common.log import Clock, read_lines
from common.loop import open_batches
from common.plan import make_plan
from common.run import load_run, open_plan
from common.state import abstract_state, create_state
from common.step import make_eval_step, make_pmap_train_step, make_train_step
from experiments.evaluate import evaluate_run
from experiments.tasks import make_task
from tests.small_configs import STEPS, lstm, unet

CONFIGS = {"unet": unet, "lstm": lstm}


def curve(config, steps=STEPS, make=make_train_step, accumulate=1, **mesh):
    """(metrics of the steps [steps, names], the state at the end, scores of the validation part)."""
    config.mesh.update({"devices": 1} | mesh)
    config.optimizer.accumulate = accumulate
    task = make_task(config)
    plan = make_plan(config, task)
    state = create_state(plan.make, plan.abstract_batch, plan.mesh)
    step = make(task, plan.optimizer, plan.mesh, seed=0)
    losses = []
    with open_batches(plan, 0) as batches:
        for _ in range(steps):
            state, metrics = step(state, meshes.put(plan.mesh, next(batches), task.spatial))
            losses.append([float(m.total) / float(m.count) for m in metrics.values()])
    scores, _ = evaluate(plan, make_eval_step(task, plan.mesh), state, "validation")
    return np.array(losses), state, scores


@pytest.fixture(scope="module")
def alone():
    """The curves of one device, each made once."""

    @functools.cache
    def one(name, accumulate=1):
        return curve(CONFIGS[name](), accumulate=accumulate)

    return one


def same(found, expected):
    for a, b in zip(found[:2], expected[:2], strict=True):
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=1e-10, atol=1e-10), a, b
        )
    for key in expected[2]:
        np.testing.assert_allclose(found[2][key], expected[2][key], rtol=1e-10, err_msg=key)


WAYS = {
    "2": {"devices": 2},
    "4": {"devices": 4},
    "8": {"devices": 8},
    "fsdp 8": {"devices": 8, "fsdp": 8},
    "fsdp 2 of 4": {"devices": 4, "fsdp": 2},
    "pmap 4": {"devices": 4, "make": make_pmap_train_step},
    "2 x 2 micro-batches": {"devices": 2, "accumulate": 2},
    "fsdp 2 x space 2": {"devices": 4, "fsdp": 2, "space": 2},
}
SLOW = ("2", "4", "fsdp 8", "pmap 4", "2 x 2 micro-batches", "fsdp 2 x space 2")
slow = [pytest.param("unet", way, marks=pytest.mark.slow) for way in SLOW]


@pytest.mark.parametrize(
    ("name", "way"), [*(("lstm", w) for w in WAYS if "space" not in w), ("unet", "8"), ("unet", "fsdp 2 of 4"), *slow]
)
def test_the_same_curve_over_50_steps(x64, alone, name, way):
    found = curve(CONFIGS[name](), **WAYS[way])
    assert found[0].shape[0] == STEPS and len(np.unique(found[0][:, 1])) == STEPS  # no two gradient norms are alike
    same(found, alone(name, WAYS[way].get("accumulate", 1)))


@pytest.mark.slow
def test_float32_without_norms_over_30_steps():
    for name, config in (("unet", unet("none")), ("lstm", lstm())):
        config.model.dtype = "float32"
        if name == "unet":
            config.model.param_dtype = "float32"
        one, eight = (curve(config, steps=30, devices=devices) for devices in (1, 8))
        np.testing.assert_allclose(one[0], eight[0], rtol=1e-5, atol=1e-5, err_msg=name)


def test_an_image_split_over_devices_gives_the_same_and_only_borders_travel(x64):
    config = unet()
    one = curve(config, steps=4)
    found = curve(config, steps=4, devices=4, space=2)
    same(found, one)
    plan = make_plan(config, make_task(config))
    image = {"image": np.zeros((8, 16, 16, 1)), "label": np.zeros((8, 16, 16), np.int32)}
    batch = meshes.put(plan.mesh, image, ("image", "label"))
    assert batch["image"].sharding.shard_shape(image["image"].shape) == (4, 8, 16, 1)
    predict = jax.jit(plan.task.predict, out_shardings=batch["image"].sharding)
    text = predict.lower(found[1].params, found[1].model_state, batch["image"]).compile().as_text()
    assert "collective-permute" in text
    # XLA:CPU's fast up-convolution is flat, which gathers (unet/ops.py); the convolutions themselves exchange borders.
    assert text.count(" all-gather(") <= config.model.depth


def test_fully_sharded_state_takes_its_share_of_each_device():
    config = load_config("configs/lstm_source_text.py", {"mesh.devices": "8", "mesh.fsdp": "8"})
    plan = make_plan(config, make_task(config), examples=1000)
    leaves = jax.tree.leaves(abstract_state(plan.make, plan.abstract_batch, plan.mesh))
    whole = sum(x.size * x.dtype.itemsize for x in leaves)
    held = sum(int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in leaves)
    assert held <= 1.1 / 8 * whole


@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 3, 64, 128), 3), ((64, 64), 1), ((4096, 6), 0), ((1023,), -1), ((37, 41), -1), ((), -1)]
)
def test_the_axis_that_is_split(shape, axis):
    assert meshes.fsdp_axis(shape, 8) == axis
    assert meshes.fsdp_axis(shape, 1) == -1


def test_checkpoints_move_between_all_ways(x64, tmp_path):
    def train(workdir, steps, **mesh):
        config = lstm()
        config.mesh.update({"devices": 1} | mesh)
        config.loop.update({"duration": f"{steps} steps", "eval": "3 steps", "save": "3 steps", "log": "1 steps"})
        config.loop.driver = "pmap" if mesh.get("devices") == 2 else "jit"
        config.optimizer.update({"schedule": "constant", "warmup": "0 steps", "ema": 0.9})
        assert loop.train(config, make_task(config), workdir, quiet=True) == 0

    train(tmp_path / "one", 12)
    for steps, mesh in (
        (3, {"devices": 8, "fsdp": 8}),
        (6, {"devices": 4, "fsdp": 2}),
        (9, {"devices": 2}),
        (12, {"devices": 8}),
    ):
        train(tmp_path / "moved", steps, **mesh)
    for a, b in zip(*(read_lines(tmp_path / name / "metrics.jsonl") for name in ("one", "moved")), strict=True):
        for key in a.keys() - set(Clock.NAMES):
            if isinstance(a[key], float):
                np.testing.assert_allclose(a[key], b[key], rtol=1e-10, atol=1e-10, err_msg=f"{key} at {a['step']}")


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ({"devices": 8, "fsdp": 3}, "config.mesh.fsdp=3: does not divide the 8 devices in use"),
        ({"devices": 8, "fsdp": 4, "space": 4}, "config.mesh.space=4: does not divide the 8 devices in use / fsdp 4"),
        ({"devices": 99}, "config.mesh.devices=99: this machine has 8"),
        ({"devices": 8, "space": 8, "fsdp": 1, "crop": [20, 20]}, "config.mesh.space=8: does not divide the height 20"),
    ],
)
def test_a_mesh_that_does_not_fit_is_named(mesh, message):
    config = unet()
    config.data.crop = mesh.get("crop", [16, 16])
    config.mesh.update({name: size for name, size in mesh.items() if name != "crop"})
    with pytest.raises(InputError, match=message):
        task = make_task(config)
        plan = make_plan(config, task)
        make_train_step(task, plan.optimizer, plan.mesh, seed=0)


def test_space_is_for_images_and_pmap_for_rows_alone():
    config = lstm()
    config.mesh.update({"devices": 8, "space": 2})
    with pytest.raises(InputError, match="config.mesh.space=2: the batches of this task are no images"):
        make_plan(config, make_task(config))
    config.mesh.update({"space": 1, "fsdp": 2})
    plan = make_plan(config, make_task(config))
    with pytest.raises(InputError, match="config.loop.driver='pmap': splits rows only"):
        make_pmap_train_step(plan.task, plan.optimizer, plan.mesh, seed=0)


def test_a_run_of_many_devices_is_opened_and_scored_on_fewer(tmp_path):
    config = lstm()
    config.model.dtype = "float32"
    config.mesh.update({"devices": 8, "fsdp": 8})
    config.loop.update({"duration": "4 steps", "eval": "4 steps", "save": "4 steps"})
    assert loop.train(config, make_task(config), tmp_path, quiet=True) == 0
    run = load_run(tmp_path)
    scores = evaluate_run(run, "validation")
    last = [line for line in read_lines(tmp_path / "metrics.jsonl") if line["split"] == "validation"][-1]
    np.testing.assert_allclose(scores["loss"], last["loss"], rtol=1e-5)
    run.config.data.eval_batch_size = 6  # does not divide over 8
    assert open_plan(run).mesh.devices.size == 6
