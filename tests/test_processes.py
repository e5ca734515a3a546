"""Several real processes on one machine: the same curve as one, and what happens when one of them is killed, stops or fails."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from common import loop, processes
from common.checkpoint import Checkpoints
from common.errors import InputError
from common.log import Clock, read_lines
from experiments.arguments import seconds
from experiments.tasks import make_task
from tests import small_configs
from tests.test_resume import steps_of, wait_for

STEPS = 300  # of the language model: long enough to be killed in the middle
LOOP = {"log": "1 steps", "eval": "100 steps", "save": "20 steps"}


def free_port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def words(name, workdir, steps):
    loop_words = [f"--config.loop.{key}={value}" for key, value in {**LOOP, "duration": f"{steps} steps"}.items()]
    return [
        "-m",
        "experiments.train",
        "--config",
        f"tests/small_configs.py:{name}",
        "--workdir",
        str(workdir),
        *loop_words,
    ]


def launch(command, count, cwd=None, changes=None):
    """`count` processes of one run."""
    port = free_port()
    env = os.environ | {"JAX_ENABLE_X64": "1", "PYTHONPATH": str(Path.cwd())}
    env.pop("XLA_FLAGS", None)
    more = lambda i: [
        "--coordinator",
        f"localhost:{port}",
        "--processes",
        str(count),
        "--process",
        str(i),
        *(changes or {}).get(i, []),
    ]
    pipe = {"stderr": subprocess.PIPE, "text": True}
    start = lambda i: subprocess.Popen([sys.executable, *command, *more(i)], **pipe, env=env, cwd=cwd)
    return [start(i) for i in range(count)]


def finish(running):
    said = [p.communicate(timeout=240)[1] for p in running]
    return [p.returncode for p in running], said


def alone(name, workdir, steps):
    config = small_configs.get_config(name)
    config.mesh.devices = 1
    config.loop.update({**LOOP, "duration": f"{steps} steps"})
    assert loop.train(config, make_task(config), workdir, quiet=True) == 0
    return workdir


def same_curve(one, other):
    a, b = (read_lines(folder / "metrics.jsonl") for folder in (one, other))
    for left, right in zip(a, b, strict=True):
        assert left.keys() == right.keys()
        for key in left.keys() - set(Clock.NAMES):
            if isinstance(left[key], float):
                np.testing.assert_allclose(
                    left[key], right[key], rtol=1e-10, atol=1e-10, err_msg=f"{key}, {left['step']}"
                )


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    jax.config.update("jax_enable_x64", True)
    yield alone("lstm", tmp_path_factory.mktemp("alone") / "lstm", STEPS)
    jax.config.update("jax_enable_x64", False)


def test_two_processes_equal_one_and_only_the_first_writes(tmp_path, one_process):
    codes, said = finish(launch(words("lstm", tmp_path, STEPS), 2))
    assert codes == [0, 0], said
    same_curve(one_process, tmp_path)
    assert f"step {STEPS}/{STEPS}" in said[0] and "step" not in said[1]


@pytest.mark.slow
def test_a_killed_process_is_named_and_the_rest_goes_on_alone(tmp_path, one_process):
    running = launch(words("lstm", tmp_path, STEPS), 2)
    wait_for(lambda: steps_of(tmp_path), running[0])
    running[1].kill()
    codes, said = finish(running)
    assert codes == [75, -signal.SIGKILL], said
    line = said[0].strip().splitlines()[-1]
    assert f"process 1 ({socket.gethostname()}, pid {running[1].pid}) has gone" in line and "fewer processes" in line
    assert 0 < max(steps_of(tmp_path)) < STEPS
    alone("lstm", tmp_path, STEPS)
    same_curve(one_process, tmp_path)


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_at_the_same_step_also_before_the_first(tmp_path):
    command = words("lstm", tmp_path, 1_000_000)  # too many to reach: a signal that is lost is seen
    for start in (1, 2):
        running = launch(command, 2)
        started = lambda n=start: (
            (tmp_path / "run.json").exists() and json.loads((tmp_path / "run.json").read_text())["starts"] == n
        )
        wait_for((lambda: steps_of(tmp_path)) if start == 1 else started, running[0])  # then: it restores and compiles
        before = max(steps_of(tmp_path))
        running[1].send_signal(signal.SIGTERM)
        codes, said = finish(running)
        assert codes == [75, 75], said
        assert "saved; the same command goes on" in said[0]
    assert max(steps_of(tmp_path)) <= before + 20


@pytest.mark.slow
def test_processes_stop_at_a_time_limit_and_go_on(tmp_path, one_process):
    codes, said = finish(launch([*words("lstm", tmp_path, STEPS), "--time_limit", "0:00:01"], 2))
    assert codes == [75, 75], said
    codes, said = finish(launch(words("lstm", tmp_path, STEPS), 2))
    assert codes == [0, 0], said
    same_curve(one_process, tmp_path)


@pytest.mark.slow
def test_several_processes_record_several_seeds(tmp_path):
    command = words("lstm", tmp_path / "runs", 20)
    command[command.index("--config") + 1] = str(Path("tests/small_configs.py").resolve()) + ":lstm"
    running = launch([*command, "--record", "two", "--seeds", "0,1"], 2, cwd=tmp_path)
    codes, said = finish(running)
    assert codes == [0, 0], said
    result = json.loads((tmp_path / "experiments/results/two.json").read_text())
    assert result["seeds"] == [0, 1] and len(result["scores"]["loss"]["values"]) == 2


def test_bad_input_that_one_process_meets_ends_all_with_its_line(tmp_path):
    shutil.rmtree(alone("lstm", tmp_path, 20) / "checkpoints")
    changed = [*words("lstm", tmp_path, 20), "--config.optimizer.learning_rate=0.5"]
    codes, said = finish(launch(changed, 2))
    assert codes == [1, 1]
    assert "holds a run of another config (optimizer.learning_rate" in said[0]
    assert "process 0" in said[1] and "holds a run of another config" in said[1]


def test_another_config_in_one_process_is_named(tmp_path):
    first, second = launch(words("lstm", tmp_path, 20), 2, changes={1: ["--config.optimizer.learning_rate=0.5"]})
    codes, said = finish([first, second])
    assert codes == [1, 1]
    assert all("another config than that of process 0 (optimizer.learning_rate: " in text for text in said)


def test_a_batch_that_does_not_divide_over_the_processes_is_named(tmp_path):
    codes, said = finish(launch([*words("lstm", tmp_path, 20), "--config.data.batch_size=9"], 2))
    assert codes == [1, 1] and all("config.data.batch_size=9: does not divide over 2" in text for text in said)


def test_processes_that_do_not_meet_are_told_so(tmp_path):
    command = [*words("lstm", tmp_path, 20), "--start_timeout", "5"]
    missing = launch(command, 2)
    missing[1].kill()
    codes, said = finish(missing)
    assert codes[0] == 1, said
    assert "did not meet" in said[0].strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count", "fsdp"), [("unet", 2, 1), ("unet", 4, 1), ("unet", 4, 4), ("lstm", 4, 1), ("lstm", 4, 2)]
)
def test_more_processes_equal_one(tmp_path, x64, name, count, fsdp):
    one = alone(name, tmp_path / "one", small_configs.STEPS)
    command = [*words(name, tmp_path / "more", small_configs.STEPS), f"--config.mesh.fsdp={fsdp}"]
    codes, said = finish(launch(command, count))
    assert codes == [0] * count, said
    same_curve(one, tmp_path / "more")
    with Checkpoints(tmp_path / "one" / "checkpoints") as a, Checkpoints(tmp_path / "more" / "checkpoints") as b:
        assert a.manifest(small_configs.STEPS)["leaves"] == b.manifest(small_configs.STEPS)["leaves"]


@pytest.mark.slow
def test_a_time_limit_saves_and_goes_on(tmp_path, one_process):
    command = [sys.executable, *words("lstm", tmp_path, STEPS)]
    env = os.environ | {"JAX_ENABLE_X64": "1"}
    stopped = subprocess.run(
        [*command, "--time_limit", "0:00:01"], env=env, capture_output=True, text=True, timeout=240
    )
    assert stopped.returncode == 75, stopped.stderr
    assert len(steps_of(tmp_path)) == 1 and max(steps_of(tmp_path)) < STEPS
    again = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0, again.stderr
    same_curve(one_process, tmp_path)


# SLURM itself


@pytest.mark.skipif(shutil.which("srun") is None, reason="no SLURM on this machine: srun is missing")
def test_srun_starts_two_processes_without_a_flag(tmp_path, one_process):
    if subprocess.run(["sinfo"], capture_output=True, timeout=30).returncode:
        pytest.skip("SLURM is not running: sinfo fails")
    env = os.environ | {"JAX_ENABLE_X64": "1"}
    command = ["srun", "-n", "2", sys.executable, *words("lstm", tmp_path, STEPS)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    same_curve(one_process, tmp_path)


# What the surroundings say

SLURM = {
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "CUDA_VISIBLE_DEVICES": "0,1,2,3",
}
FLAGS = {"coordinator": "a:1", "processes": 4, "process": 2}


@pytest.mark.parametrize(
    ("flags", "environ", "expected"),
    [
        ({}, {}, None),
        ({}, {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, None),  # a shell of salloc
        ({}, SLURM, {"cluster_detection_method": "slurm", "local_device_ids": [1]}),
        ({}, SLURM | {"CUDA_VISIBLE_DEVICES": ""}, {"cluster_detection_method": "slurm"}),  # none, or another maker's
        ({}, SLURM | {"CUDA_VISIBLE_DEVICES": "0"}, {"cluster_detection_method": "slurm", "local_device_ids": [0]}),
        (
            {},
            SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x8)", "SLURM_LOCALID": "0", "SLURM_NODEID": "5"},
            {"cluster_detection_method": "slurm", "local_device_ids": [0, 1, 2, 3]},
        ),
        (
            {"coordinator": "n0:99"},
            {
                "OMPI_COMM_WORLD_SIZE": "2",
                "OMPI_COMM_WORLD_RANK": "1",
                "OMPI_COMM_WORLD_LOCAL_RANK": "1",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
            }
            | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"},
            {"coordinator_address": "n0:99", "num_processes": 2, "process_id": 1, "local_device_ids": [2, 3]}
            | {"cluster_detection_method": "deactivate"},
        ),
        (
            FLAGS,
            SLURM,
            {
                "coordinator_address": "a:1",
                "num_processes": 4,
                "process_id": 2,
                "cluster_detection_method": "deactivate",
            },
        ),
        ({"coordinator": "a:1", "processes": 1, "process": 0}, {}, None),
        ({}, {"KUBERNETES_SERVICE_HOST": "x", "JOB_COMPLETION_INDEX": "0"}, {"cluster_detection_method": "k8s"}),
        ({}, {"TPU_WORKER_HOSTNAMES": "a,b"}, {}),
        ({}, {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ],
)
def test_where_a_process_finds_the_others(flags, environ, expected):
    given = {"coordinator": "", "processes": 0, "process": -1} | flags
    assert processes.settings(**given, environ=environ) == expected


@pytest.mark.parametrize(
    ("flags", "environ", "message"),
    [
        ({"coordinator": "node1"}, {}, "--coordinator node1: expected HOST:PORT"),
        (
            {"processes": 2, "process": 1},
            {},
            "--coordinator: missing; --coordinator, --processes, --process belong together",
        ),
        ({"coordinator": "a:1", "process": 1}, {}, "--processes: missing"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, {}, "--process 2: of --processes 2 the last is 1"),
        ({"coordinator": "a:1"}, {}, "needs --processes and --process"),
        ({}, {"OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI 5 does not tell where process 0 is"),
        ({}, SLURM | {"SLURM_STEP_TASKS_PER_NODE": "3(x3)"}, "3 processes on a node that see 4 GPUs"),
    ],
)
def test_flags_that_do_not_fit_are_named(flags, environ, message):
    with pytest.raises(InputError, match=message):
        processes.settings(**{"coordinator": "", "processes": 0, "process": -1} | flags, environ=environ)


def test_tasks_on_a_node():
    assert [processes.tasks_on_node("4(x2),3", node) for node in range(4)] == [4, 4, 3, 1]
    assert processes.tasks_on_node("", 0) == 1


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 5400), ("10:30", 630), ("2:00:05", 7205), ("1-0", 86400), ("2-03:04:05", 183845)]
)
def test_times_as_slurm_writes_them(text, expected):
    assert seconds(text) == expected
