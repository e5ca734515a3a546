"""Real runs that are killed: by kill -9 at random moments (a save among them), by SIGTERM; and moved to other devices."""

import random
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from common import loop
from common.checkpoint import Checkpoints
from common.config import load_config
from common.log import Clock, read_lines
from common.plan import make_plan
from common.state import abstract_state
from experiments.tasks import make_task

CONFIG = "configs/unet_brain.py:smoke"
STEPS = 60
OVERRIDES = {"loop.duration": f"{STEPS} steps", "loop.save": "3 steps", "loop.eval": "20 steps", "loop.log": "5 steps"}


def start(python, workdir):
    words = [f"--config.{key}={value}" for key, value in OVERRIDES.items()]
    command = [python, "-m", "experiments.train", "--config", CONFIG, "--workdir", str(workdir), *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, said = process.communicate(timeout=300)
    return process.returncode, said


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None and not condition():
        time.sleep(0.002)


def steps_of(workdir):
    return sorted(int(p.stem) for p in (workdir / "checkpoints").glob("[0-9]*.json"))


def final_state(workdir):
    config = load_config(CONFIG, OVERRIDES)
    plan = make_plan(config, make_task(config))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.restore(STEPS, abstract_state(plan.make, plan.abstract_batch, plan.mesh))


def curve(workdir):
    return [{k: v for k, v in line.items() if k not in Clock.NAMES} for line in read_lines(workdir / "metrics.jsonl")]


@pytest.mark.slow
def test_killed_at_random_moments_the_run_ends_the_same_bit_for_bit(tmp_path, python):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert finish(start(python, whole))[0] == 0

    # Once while a checkpoint is being written ...
    process = start(python, broken)
    wait_for(lambda: list((broken / "checkpoints").glob("*tmp*")), process)
    process.kill()
    finish(process)
    # ... and once at a random moment after a few more steps.
    done = max(steps_of(broken), default=0)
    process = start(python, broken)
    wait_for(lambda: max(steps_of(broken), default=0) > done + 3, process)
    time.sleep(random.random() * 0.5)
    process.kill()
    code, _ = finish(process)
    assert code == -signal.SIGKILL
    assert max(steps_of(broken)) < STEPS

    assert finish(start(python, broken))[0] == 0
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)),
        final_state(whole),
        final_state(broken),
    )
    assert curve(whole) == curve(broken)


def test_sigterm_saves_and_exits_75_and_the_same_command_goes_on(tmp_path, python):
    process = start(python, tmp_path)
    wait_for(lambda: steps_of(tmp_path), process)
    process.send_signal(signal.SIGTERM)
    code, said = finish(process)
    assert code == 75, said
    assert "saved; the same command goes on" in said
    stopped = max(steps_of(tmp_path))
    assert 0 < stopped < STEPS
    code, said = finish(start(python, tmp_path))
    assert code == 0, said
    assert max(steps_of(tmp_path)) == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("devices", [8, 2, 1])
def test_restored_onto_other_devices_the_curve_goes_on_the_same_in_float64(tmp_path, x64, devices):
    # Batch statistics and Adam amplify float32 rounding to 1e-3 within 50 steps: only float64 can show parity.
    overrides = {
        "model.dtype": "float64",
        "model.width": "4",
        "loop.eval": "6 steps",
        "loop.save": "6 steps",
        "loop.log": "1 steps",
        "optimizer.ema": "0.9",
        "augment.rotate": "0.0",  # images are resampled in float32; flips are exact
        "augment.scale": "0.0",
    }

    def train(workdir, steps, on):
        config = load_config(
            CONFIG,
            {**overrides, "loop.duration": f"{steps} steps", "mesh.devices": str(on), "optimizer.schedule": "constant"},
        )
        with config.unlocked():
            config.model.param_dtype = "float64"
            config.optimizer.warmup = "0 steps"
        assert loop.train(config, make_task(config), workdir, quiet=True) == 0

    train(tmp_path / "one", 12, 1)
    train(tmp_path / "moved", 6, 8)
    train(tmp_path / "moved", 12, devices)
    for a, b in zip(curve(tmp_path / "one"), curve(tmp_path / "moved"), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if isinstance(a[name], float):
                np.testing.assert_allclose(a[name], b[name], rtol=1e-10, atol=1e-10, err_msg=f"{name} at {a['step']}")
