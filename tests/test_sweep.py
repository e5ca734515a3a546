"""A sweep as a user has it: killed at random, started again, shared by launchers; its table and page; searches."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.errors import InputError
from common.gpus import find_gpus
from common.sweeps import Study, Sweep, grid, integers
from experiments.sweep import __main__ as sweep
from experiments.sweep import runs as sweep_runs
from experiments.sweep import worker as sweep_worker
from experiments.sweep.book import open_book
from experiments.sweep.page import seed_groups
from experiments.sweep.slots import find_cores, make_slots

BASE = """
from ml_collections import ConfigDict
def get_config(variant=""):
    return ConfigDict({"seed": 0, "model": {"width": 8}, "optimizer": {"learning_rate": 0.1, "clip": 1.0}, "data": {},
        "loop": {"duration": "10 steps", "best": "min loss", "eval_split": "validation", "score_split": "test"}})
"""
RATES = [0.05, 0.06, 0.07, 0.08, 0.09, 0.11, 0.12, 0.13]
START = (
    "import sys; from experiments.sweep.__main__ import main; sys.exit(main(sys.argv[1:], module='tests.sweep_stub'))"
)


@pytest.fixture
def files(tmp_path):
    """A function that writes a sweep file with this expression for its runs or its study, and gives its path."""

    def write(expression):
        (tmp_path / "base.py").write_text(BASE)
        path = tmp_path / "sweep.py"
        path.write_text(
            "from common.sweeps import *\ndef get_sweep(variant=''):\n"
            f"    return Sweep({str(tmp_path / 'base.py')!r}, {expression})\n"
        )
        return path

    return write


def start(path, workdir, *words):
    command = [sys.executable, "-c", START, "--sweep", str(path), "--workdir", str(workdir), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def marks(workdir):
    return {p.parent.name: sweep_runs.read_mark(p.parent) for p in sorted(workdir.glob("runs/*/sweep-run.json"))}


def finishes(mark):
    return sum(s.get("code") == 0 for s in mark["starts"])


def alive(workdir):
    """{name: process} of the runs that train just now."""
    found = {name: mark["starts"][-1] for name, mark in marks(workdir).items() if mark["starts"]}
    return {
        name: s["pid"] for name, s in found.items() if "code" not in s and sweep_runs.is_held(workdir / "runs" / name)
    }


def table(workdir):
    return {row["run"]: row for row in csv.DictReader((workdir / "runs.csv").open())}


@pytest.mark.slow
def test_32_runs_8_of_them_killed_and_started_again_each_finish_once(tmp_path, files):
    path = files(f"grid({{'optimizer.learning_rate': {RATES}, 'seed': range(4)}})")
    workdir = tmp_path / "sweep"
    luck = random.Random()

    first = start(path, workdir, "--processes", "4")
    killed = set()
    while len(killed) < 8:
        assert first.poll() is None
        time.sleep(luck.random() * 0.2)
        if left := {name: pid for name, pid in alive(workdir).items() if name not in killed}:
            name = luck.choice(sorted(left))
            os.kill(left[name], signal.SIGKILL)
            while (ended := sweep_runs.status(workdir / "runs" / name)) == "running":
                time.sleep(0.01)
            if ended == "killed":  # and had not finished by itself just before
                killed.add(name)
    code, out, err = finish(first)
    assert code == 75 and "8 killed" in out and "24 finished" in out, out + err
    now = table(workdir)
    assert {name for name in now if now[name]["status"] == "killed"} == killed

    # The second start: its launcher is killed, too, as soon as one of the runs has gone on.
    second = start(path, workdir, "--processes", "2")
    while not alive(workdir):
        assert second.poll() is None
        time.sleep(0.01)
    second.kill()
    second.communicate(timeout=60)
    while alive(workdir):  # what it had started saves and stops
        time.sleep(0.01)

    # The third start: two launchers at once.
    ends = [finish(process) for process in [start(path, workdir, "--processes", "2") for _ in range(2)]]
    assert 0 in [code for code, _, _ in ends], ends

    found = marks(workdir)
    assert len(found) == 32
    assert [name for name, mark in found.items() if finishes(mark) != 1] == []
    assert all(len(found[name]["starts"]) >= 2 for name in killed)
    starts = {name: len(mark["starts"]) for name, mark in found.items()}

    code, out, err = finish(start(path, workdir))  # nothing is left to do
    assert code == 0 and "started" not in err, err
    assert starts == {name: len(mark["starts"]) for name, mark in marks(workdir).items()}
    rows = table(workdir)
    for rate in RATES:
        for seed in range(4):
            row = rows[f"learning_rate={rate},seed={seed}"]
            assert row["status"] == "finished" and int(row["step"]) == 10 and int(row["starts"]) == starts[row["run"]]
            assert float(row["loss"]) == pytest.approx(abs(rate - 0.1) + seed / 100 + 0.1)
    losses = [float(row["loss"]) for row in rows.values()]
    assert losses == sorted(losses)
    assert "32 runs: 32 finished" in out and "learning_rate=0.09,seed=0" in out


def test_ctrl_c_stops_the_runs_which_save_and_the_same_command_goes_on(tmp_path, files):
    path = files("grid({'optimizer.learning_rate': [0.1], 'seed': range(6)})")
    process = start(path, tmp_path / "s", "--processes", "2")
    while len(alive(tmp_path / "s")) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert code == 75 and "the same command goes on" in err
    assert alive(tmp_path / "s") == {}
    codes = [m["starts"][-1]["code"] for m in marks(tmp_path / "s").values() if m["starts"]]
    assert 75 in codes and set(codes) <= {0, 75}
    code, _, _ = finish(start(path, tmp_path / "s", "--processes", "2"))
    assert code == 0
    assert all(finishes(mark) == 1 for mark in marks(tmp_path / "s").values())


def test_a_failed_run_says_why_and_is_not_started_again_unless_asked(tmp_path, files):
    path = files("[{'optimizer.learning_rate': rate} for rate in (0.1, 5.0)]")
    for words, starts in ((), 1), ((), 1), (("--retry",), 2):
        code, out, err = finish(start(path, tmp_path / "s", *words))
        assert code == 1
        assert "the loss at step 1 is nan" in out
        assert len(marks(tmp_path / "s")["learning_rate=5.0"]["starts"]) == starts
    page = (tmp_path / "s" / "report.html").read_text()
    assert "Failed runs" in page and "the loss at step 1 is nan" in page


def test_runs_can_be_added_and_removed_ones_are_kept_but_another_base_is_refused(tmp_path, files):
    workdir = tmp_path / "s"
    assert finish(start(files("grid({'optimizer.learning_rate': [0.1, 0.2]})"), workdir))[0] == 0
    path = files("grid({'optimizer.learning_rate': [0.2, 0.3]})")
    code, out, err = finish(start(path, workdir))
    assert code == 0 and "not in the sweep file: 1 run of this folder" in err
    assert "learning_rate=0.1 (not in the sweep file)" in out
    assert {name: len(m["starts"]) for name, m in marks(workdir).items()} == {
        "learning_rate=0.1": 1,
        "learning_rate=0.2": 1,
        "learning_rate=0.3": 1,
    }
    assert len(table(workdir)) == 3
    with pytest.raises(InputError, match=r"another sweep \(model.width: 8 -> 4\)"):
        sweep.main(["--sweep", str(path), "--workdir", str(workdir), "--config.model.width=4"])


@pytest.mark.parametrize(
    ("expression", "words", "message"),
    [
        (
            "[{'optimizer.learning_rat': 1}]",
            [],
            "sweep.py: config.optimizer.learning_rat: .*did you mean 'learning_rate'",
        ),
        ("[{'seed': 1}], common={'optimizer.lr': 1}", [], "sweep.py: config.optimizer.lr: .*known: clip"),
        ("[{'seed': 1}]", ["--config.optimizer.lr=1"], "^--config.optimizer.lr: "),
        ("[{'optimizer.learning_rate': 'high'}]", [], "expected float"),
        ("[{'seed': 1}]", ["--config.seed=2"], "the sweep sets this key"),
        ("[{'seed': 1}]", ["--config.loop.score_split=test"], "leaves the test part alone"),
        ("[{'seed': 1}, {'seed': 1}]", [], "is there twice"),
        ("[]", [], "either runs or a study"),
        ("study=Study({'optimizer.learning_rat': uniform(0, 1)}, trials=2)", [], "did you mean 'learning_rate'"),
        ("study=Study({'seed': integers(0, 9)}, trials=2, sampler='tpee')", [], "known: tpe, random"),
        ("study=Study({'seed': integers(0, 9)}, trials=2, storage='mysqll://a')", [], "Study.storage='mysqll://a'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(tmp_path, files, expression, words, message):
    with pytest.raises(InputError, match=message) as said:
        sweep.main(["--sweep", str(files(expression)), "--workdir", str(tmp_path / "s"), *words])
    assert "\n" not in str(said.value)
    assert not list(tmp_path.glob("s/runs/*"))


def test_dry_run_prints_commands_that_are_whole_and_writes_nothing(tmp_path, files, capsys):
    path = files("grid({'model.width': [4, 8], 'seed': [3]})")
    assert (
        sweep.main(["--sweep", str(path), "--workdir", str(tmp_path / "s"), "--dry_run", "--config.optimizer.clip=2"])
        == 0
    )
    out = capsys.readouterr().out
    assert out.count("python -m experiments.train --config") == 2
    assert "--config.model.width=4 --config.seed=3 --quiet" in out and "--config.optimizer.clip=2" in out
    assert "\n2 runs: 2 to start; 1 process of " in out
    assert not (tmp_path / "s").exists()


def test_dry_run_tells_what_is_done_and_what_goes_together(tmp_path, files, capsys):
    path = files("grid({'model.width': [4, 8], 'seed': range(3)})")
    words = ["--sweep", str(path), "--workdir", str(tmp_path / "s")]
    _, given, overrides = sweep.parse(words)
    book = open_book(given, tmp_path / "s", overrides)
    for run, code in zip(book.runs, [0, 1, 75], strict=False):
        sweep_runs.begin(run.folder)
        sweep_runs.end(run.folder, code, 1.0)
    assert sweep.main([*words, "--dry_run", "--processes", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "python" not in line] == [
        "finished  width=4,seed=0",
        "failed    width=4,seed=1",
        "stopped   width=4,seed=2",
        "waiting   width=8,seed=0",
        "waiting   width=8,seed=1",
        "waiting   width=8,seed=2",
        f"6 runs: 1 finished, 1 failed, 4 to start; 2 processes of {slot_names(2)}",
    ]
    by_width = lambda given: [[i for i, c in enumerate(given) if c.model.width == w] for w in (4, 8)]
    with pytest.MonkeyPatch.context() as patch:
        together = SimpleNamespace(groups=by_width)
        patch.setitem(sys.modules, "common.together", together)
        patch.setitem(sys.modules, "common.pays", SimpleNamespace(warning=lambda *_: ""))
        sweep.main([*words, "--dry_run", "--together", "2", "--launcher", "slurm", "--parallel", "5"])
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("2 runs in one program:") == 1
    assert lines[-1] == "6 runs: 1 finished, 1 failed, 4 to start; 3 jobs, at most 5 at once"


def slot_names(count):
    return ", ".join(dict.fromkeys(slot.name for slot in make_slots(count, 0, [], find_cores())))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--partition", "main", "--time", "5", "--cpus", "1"], "--partition, --time, --cpus need --launcher slurm"),
        (["--wait"], "--wait needs --launcher slurm"),
        (["--launcher", "slurm", "--processes", "2", "--threads", "1"], "--processes, --threads need --launcher local"),
    ],
)
def test_flags_of_the_other_launcher_are_refused(tmp_path, files, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        sweep.main(["--sweep", str(files("[{'seed': 1}]")), "--workdir", str(tmp_path / "s"), *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_a_run_is_as_far_as_its_newest_checkpoint(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    assert sweep_runs.state(tmp_path, "min loss", "validation").step == 0
    (tmp_path / "checkpoints" / "000003.json").write_text("{}")
    (tmp_path / "checkpoints" / ".000009.json").write_text("{}")  # not committed
    assert sweep_runs.state(tmp_path, "min loss", "validation").step == 3
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 5, "split": "validation", "loss": 1.0}))
    assert sweep_runs.state(tmp_path, "min loss", "validation").step == 5


def test_a_process_that_cannot_even_start_is_said(tmp_path, files):
    workdir = tmp_path / "s"
    path = files("[{'seed': 1}]")
    (workdir / "runs" / "seed=1").mkdir(parents=True)
    (workdir / "runs" / "seed=1" / "sweep-run.json").write_text("{")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.sweep.worker", str(workdir / "runs" / "seed=1")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "not JSON" in done.stderr
    with pytest.raises(InputError, match="no sweep here yet"):
        sweep.main(["--sweep", str(path), "--workdir", str(workdir), "--status"])


def test_names_in_a_folder_stay_when_new_runs_would_make_them_ambiguous(tmp_path, files):
    files("[]")
    base = str(tmp_path / "base.py")
    open_book(Sweep(base, grid({"optimizer.clip": [1.0]})), tmp_path / "s", {})
    both = [{"optimizer.clip": 2.0}, {"optimizer.clip": 1.0}]
    assert [run.name for run in open_book(Sweep(base, both), tmp_path / "s", {}).runs] == ["clip=2.0", "clip=1.0"]


def test_a_study_is_resumed_with_its_trials_and_pruned(tmp_path, files):
    pytest.importorskip("optuna")
    path = files("study=Study({'optimizer.learning_rate': log_uniform(0.01, 1.0)}, trials=10, pruner='none')")
    workdir = tmp_path / "s"
    process = start(path, workdir, "--processes", "2")
    while sum(map(finishes, marks(workdir).values())) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    for pid in alive(workdir).values():
        os.kill(pid, signal.SIGKILL)
    process.kill()
    process.communicate(timeout=60)
    ends = [finish(process) for process in [start(path, workdir) for _ in range(2)]]
    assert 0 in [code for code, _, _ in ends], ends
    assert finish(start(path, workdir))[0] == 0
    found = marks(workdir)
    assert len(found) == 10 and all(finishes(mark) == 1 for mark in found.values())
    assert len({mark["overrides"]["optimizer.learning_rate"] for mark in found.values()}) == 10

    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    study = optuna.load_study(
        study_name="sweep", storage=JournalStorage(JournalFileBackend(str(workdir / "study.journal")))
    )
    rows = table(workdir)
    trials = [
        trial for trial in study.trials if trial.params
    ]  # one that was killed as it asked has none, and does not count
    assert len(trials) == 10 and len(study.trials) <= 11
    for trial in trials:
        assert trial.state == optuna.trial.TrialState.COMPLETE
        assert trial.value == pytest.approx(float(rows[f"trial-{trial.number:05d}"]["loss"]))
        assert len(trial.intermediate_values) == 10


def test_bad_trials_are_pruned_and_the_study_knows(tmp_path, files):
    pytest.importorskip("optuna")
    from experiments.sweep.study import study_source

    files("[]")
    study = Study({"seed": integers(0, 1000)}, trials=7)
    book = open_book(Sweep(str(tmp_path / "base.py"), study=study), tmp_path / "s", {})
    source = study_source(book)

    def lines(run, *losses):
        text = [json.dumps({"step": i + 1, "split": "validation", "loss": loss}) for i, loss in enumerate(losses)]
        (run.folder / "metrics.jsonl").write_text("\n".join(text))

    def ends(run, code):
        sweep_runs.begin(run.folder)
        sweep_runs.end(run.folder, code, 1.0)
        source.done(run, sweep_runs.state(run.folder, book.metric, book.split))

    for _ in range(5):  # as many as the median wants to see
        [run] = source.take()
        lines(run, 1.0, 0.5)
        assert not source.watch(run, None)
        ends(run, 0)
    [good], [bad] = source.take(), source.take()
    assert source.take() is None
    lines(good, 0.9)
    lines(bad, 1.1)
    assert not source.watch(good, None)
    assert source.watch(bad, None)
    sweep_runs.note_pruned(bad.folder)
    source.done(bad, sweep_runs.state(bad.folder, book.metric, book.split))
    ends(good, 1)
    assert sweep_runs.status(bad.folder) == "pruned" and not sweep_runs.may_start(bad.folder)
    assert study_source(book).take() is None
    assert [trial_state(book, i) for i in range(7)] == [*5 * ["COMPLETE"], "FAIL", "PRUNED"]


def trial_state(book, number):
    from experiments.sweep.study import open_study

    return open_study(book).trials[number].state.name


def test_runs_train_together_in_groups_each_with_an_end_of_its_own(tmp_path, files, monkeypatch):
    calls = []

    def train_together(given, make_task, workdirs, quiet):
        assert all(sweep_runs.is_held(folder) for folder in workdirs)
        calls.append([config.seed for config in given])
        for config, folder in zip(given, workdirs, strict=True):
            if config.seed == 2:
                print(f"error: {folder}: the loss is nan", file=sys.stderr)
        return [[0, 75, 1][config.seed] for config in given]

    by_width = lambda given: [[i for i, c in enumerate(given) if c.model.width == w] for w in (4, 8)]
    monkeypatch.setitem(sys.modules, "common.together", SimpleNamespace(train_together=train_together, groups=by_width))
    monkeypatch.setitem(sys.modules, "common.pays", SimpleNamespace(warning=lambda *_: "it does not pay"))
    path = files("grid({'model.width': [4, 8], 'seed': range(4)})")
    words = ["--sweep", str(path), "--workdir", str(tmp_path / "s"), "--together", "3"]
    flags, given, overrides = sweep.parse(words)
    book = open_book(given, flags.workdir, overrides)
    units = sweep.units_of(book, flags)
    assert [[run.name for run in unit] for unit in units] == [
        ["width=4,seed=0", "width=4,seed=1", "width=4,seed=2"],
        ["width=4,seed=3"],
        ["width=8,seed=0", "width=8,seed=1", "width=8,seed=2"],
        ["width=8,seed=3"],
    ]
    folders = [run.folder for run in units[0]]
    old = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR2)]
    try:
        assert sweep_worker.main([*map(str, folders), "--together"]) == 1
        assert sweep_worker.main([*map(str, folders[:2]), "--together"]) == 75
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGUSR2), old, strict=True):
            signal.signal(number, handler)
    assert calls == [[0, 1, 2], [1]]  # what is finished is left out
    assert [[s["code"] for s in sweep_runs.read_mark(f)["starts"]] for f in folders] == [[0], [75, 75], [1]]
    states = [sweep_runs.state(folder, book.metric, book.split) for folder in folders]
    assert [(s.status, s.error) for s in states] == [("finished", ""), ("stopped", ""), ("failed", "the loss is nan")]


def test_a_gpu_or_its_cores_for_each_process():
    cores = [4, 5, 6, 7]
    assert [slot.cores for slot in make_slots(2, 0, [], cores)] == [(4, 5), (6, 7)]
    assert [slot.cores for slot in make_slots(0, 1, [], cores)] == [(4,), (5,), (6,), (7,)]
    assert [slot.gpu for slot in make_slots(0, 0, ["0", "3"], cores)] == ["0", "3"]
    shared = make_slots(4, 0, ["0", "1"], cores)
    assert [slot.gpu for slot in shared] == ["0", "1", "0", "1"]
    assert shared[0].environment({})["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.450"
    assert shared[0].environment({})["CUDA_VISIBLE_DEVICES"] == "0"
    assert "SLURM_STEP_NUM_TASKS" not in shared[0].environment({"SLURM_STEP_NUM_TASKS": "2"})
    assert find_gpus({"CUDA_VISIBLE_DEVICES": "2,5"}) == ["2", "5"]
    assert find_gpus({"CUDA_VISIBLE_DEVICES": "2,5", "JAX_PLATFORMS": "cpu"}) == []
    with pytest.raises(InputError, match="4 cores"):
        make_slots(1, 5, [], cores)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process")
def test_a_process_stays_on_the_cores_of_its_slot():
    own = find_cores()
    [slot] = make_slots(1, 1, [], own[-1:])
    with slot.pinned():
        said = subprocess.run(
            [sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"],
            capture_output=True,
            text=True,
            check=True,
        )
    assert said.stdout.strip() == str({own[-1]})
    assert find_cores() == own


def test_seeds_are_grouped_by_everything_else():
    runs = {str(i): sweep_runs.Run(str(i), Path(), o) for i, o in enumerate(grid({"a": [1, 2], "seed": [0, 1, 2]}))}
    runs["x"] = sweep_runs.Run("x", Path(), {"a": 3, "seed": 0})
    scores = {name: 10.0 * run.overrides["a"] + run.overrides["seed"] for name, run in runs.items()}
    assert seed_groups(runs, scores) == [("a=1", [10.0, 11.0, 12.0]), ("a=2", [20.0, 21.0, 22.0])]


@pytest.mark.slow
def test_a_real_sweep_scores_the_validation_part_only(tmp_path, python):
    words = [
        "--sweep",
        "configs/sweeps/brain_rates.py:smoke",
        "--workdir",
        str(tmp_path),
        "--config.loop.duration=20 steps",
    ]
    done = subprocess.run([python, "-m", "experiments.sweep", *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path)
    assert len(rows) == 4
    for name, row in rows.items():
        folder = tmp_path / "runs" / name
        assert {p.name for p in folder.glob("evaluation-*.json")} == {"evaluation-validation.json"}
        assert json.loads((folder / "run.json").read_text())["command"].startswith(
            "python -m experiments.train --config"
        )
        best = json.loads((folder / "evaluation-validation.json").read_text())["dice/foreground"]
        assert float(row["dice/foreground"]) == pytest.approx(best, abs=1e-5)
    page = (tmp_path / "report.html").read_text()
    assert "Parallel coordinates" in page and "Spread over seeds" in page
