"""The SLURM launcher on a real SLURM, where one is to be had: arrays, time limits, preemption, nothing submitted twice."""

import os
import shutil
import subprocess
import time

import pytest

from common.errors import InputError
from experiments.sweep import __main__ as sweep
from experiments.sweep import runs as sweep_runs
from experiments.sweep import slurm as sweep_slurm
from tests.test_sweep import files, finish, finishes, marks, start, table  # noqa: F401  files is a fixture


def ask(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def slurm_answers():
    return shutil.which("sbatch") and ask("sinfo", "-h").returncode == 0


needs_slurm = pytest.mark.skipif(not slurm_answers(), reason="no SLURM answers here (sbatch, sinfo)")


@pytest.fixture
def slow_steps(monkeypatch):
    monkeypatch.setenv("STUB_MOMENT", "0.5")


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def running(workdir):
    return {p.parent.name for p in workdir.glob("runs/*/metrics.jsonl") if sweep_runs.is_held(p.parent)}


def start_soon(workdir):
    """A requeued job waits for two minutes, unless somebody says otherwise."""
    for job in set(sweep_slurm.read_jobs(workdir).values()):
        ask("scontrol", "update", f"JobId={job}", "StartTime=now")


def ended(workdir):
    start_soon(workdir)
    return not sweep_slurm.queued(workdir)


@needs_slurm
def test_an_array_does_what_the_local_launcher_does_and_nothing_is_submitted_twice(tmp_path, files, slow_steps):  # noqa: F811
    path = files("grid({'optimizer.learning_rate': [0.1, 5.0], 'seed': range(2)})")
    workdir = tmp_path / "s"
    words = ("--launcher", "slurm", "--cpus", "1", "--parallel", "2")
    code, _, err = finish(start(path, workdir, *words))
    assert code == 0 and "submitted 4 jobs (SLURM's " in err
    wait_for(lambda: running(workdir))
    _, _, err = finish(start(path, workdir, *words))
    assert "submitted 4 jobs" not in err
    code, out, _ = finish(start(path, workdir, "--status"))
    assert code == 75 and "running" in out
    wait_for(lambda: not sweep_slurm.queued(workdir))
    code, out, _ = finish(start(path, workdir, "--status"))
    assert code == 1 and "2 finished, 2 failed" in out and "the loss at step 1 is nan" in out
    assert {name: finishes(mark) for name, mark in marks(workdir).items()} == {
        "learning_rate=0.1,seed=0": 1,
        "learning_rate=0.1,seed=1": 1,
        "learning_rate=5.0,seed=0": 0,
        "learning_rate=5.0,seed=1": 0,
    }
    _, _, err = finish(start(path, workdir, *words))
    assert "nothing to submit" in err


@needs_slurm
@pytest.mark.slow
@pytest.mark.parametrize("how", ["time limit", "preemption"])
def test_a_run_that_loses_its_node_saves_is_requeued_and_goes_on(tmp_path, files, slow_steps, how):  # noqa: F811
    partitions = ask("sinfo", "-h", "-o", "%P").stdout.split()
    if how == "preemption" and not {"main*", "hi"} <= set(partitions):
        pytest.skip("SLURM here has no partition 'hi' that preempts 'main'")
    path = files("grid({'optimizer.learning_rate': [0.1]})")
    workdir = tmp_path / "s"
    assert finish(start(path, workdir, "--launcher", "slurm", "--cpus", "1"))[0] == 0
    wait_for(lambda: running(workdir))
    [job] = sweep_slurm.read_jobs(workdir).values()
    if how == "time limit":  # the signal that SLURM sends before the time is over
        assert ask("scancel", "--signal=USR2", job).returncode == 0
    else:
        command = ["sbatch", "-p", "hi", "--exclusive", "-o", str(tmp_path / "hi.log"), "--wrap", "sleep 2"]
        assert ask(*command).returncode == 0
    folder = workdir / "runs" / "learning_rate=0.1"
    wait_for(lambda: sweep_runs.status(folder) == "stopped")
    wait_for(lambda: ended(workdir))
    [mark] = marks(workdir).values()
    assert [s["code"] for s in mark["starts"]] == [75, 0]
    code, _, _ = finish(start(path, workdir, "--status"))
    assert code == 0
    assert table(workdir)["learning_rate=0.1"]["step"] == "10"


@needs_slurm
@pytest.mark.slow
def test_a_study_is_shared_by_its_jobs(tmp_path, files):  # noqa: F811
    pytest.importorskip("optuna")
    path = files("study=Study({'optimizer.learning_rate': log_uniform(0.01, 1.0)}, trials=6, pruner='none')")
    workdir = tmp_path / "s"
    code, _, err = finish(start(path, workdir, "--launcher", "slurm", "--cpus", "1", "--parallel", "2"))
    assert code == 0 and "submitted 2 jobs (SLURM's " in err
    wait_for(lambda: not sweep_slurm.queued(workdir))
    assert finish(start(path, workdir, "--status"))[0] == 0
    found = marks(workdir)
    assert len(found) == 6 and all(finishes(mark) == 1 for mark in found.values())


def test_without_slurm_it_says_so(tmp_path, files, monkeypatch):  # noqa: F811
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(InputError, match="no sbatch on this machine"):
        sweep.main(["--sweep", str(files("[{'seed': 1}]")), "--workdir", str(tmp_path / "s"), "--launcher", "slurm"])


def test_without_srun_it_says_so(tmp_path, files, scripts, monkeypatch):  # noqa: F811
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", os.devnull)
    scripts(sbatch="exit 0")
    (tmp_path / "bin" / "srun").unlink()
    with pytest.raises(InputError, match="no srun on this machine"):
        sweep.main(["--sweep", str(files("[{'seed': 1}]")), "--workdir", str(tmp_path / "s"), "--launcher", "slurm"])


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A function that makes shell scripts with these lines, like `sbatch` and `squeue`; and `srun`, which submitit looks for."""

    def write(**lines):
        lines = {"srun": "exit 0", **lines}
        (tmp_path / "bin").mkdir(exist_ok=True)
        for name, line in lines.items():
            (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    return write


def test_what_sbatch_refuses_is_said_once_and_leaves_nothing(tmp_path, files, scripts, python):  # noqa: F811
    pytest.importorskip("submitit")
    scripts(sbatch="echo 'invalid partition' >&2; exit 1")
    path = files("[{'seed': 1}, {'seed': 2}]")
    words = ["--sweep", str(path), "--workdir", str(tmp_path / "s"), "--launcher", "slurm"]
    done = ask(python, "-m", "experiments.sweep", *words)
    assert done.returncode == 1
    assert done.stderr == "error: --launcher slurm: sbatch refused: invalid partition\n"
    assert list((tmp_path / "s" / "slurm").iterdir()) == []


def test_what_is_queued_is_said_with_its_number(tmp_path, files, scripts):  # noqa: F811
    pytest.importorskip("submitit")
    scripts(sbatch="echo 'Submitted batch job 71'", squeue="echo 71_0; echo 71_1")
    path = files("[{'seed': 1}, {'seed': 2}]")
    code, _, err = finish(start(path, tmp_path / "s", "--launcher", "slurm"))
    assert code == 0 and "submitted 2 jobs (SLURM's 71)" in err
    code, _, err = finish(start(path, tmp_path / "s", "--launcher", "slurm"))
    assert code == 0 and err.startswith("2 are in the queue already")
    code, out, err = finish(start(path, tmp_path / "s", "--status"))
    assert (code, err) == (75, "2 runs queued\n") and "2 runs: 2 queued" in out
