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
    assert code == 0 and "4 jobs submitted" in err
    wait_for(lambda: running(workdir))
    _, _, err = finish(start(path, workdir, *words))
    assert "4 jobs submitted" not in err
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
    assert "0 jobs submitted" in err


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
    assert code == 0 and "2 jobs submitted" in err
    wait_for(lambda: not sweep_slurm.queued(workdir))
    assert finish(start(path, workdir, "--status"))[0] == 0
    found = marks(workdir)
    assert len(found) == 6 and all(finishes(mark) == 1 for mark in found.values())


def test_without_slurm_it_says_so(tmp_path, files, monkeypatch):  # noqa: F811
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(InputError, match="no sbatch on this machine"):
        sweep.main(["--sweep", str(files("[{'seed': 1}]")), "--workdir", str(tmp_path / "s"), "--launcher", "slurm"])
