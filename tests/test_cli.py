"""The command line as a user has it: exit codes, one-line errors, what a run folder holds, from training to picture."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

import common
from common.errors import InputError
from common.log import read_lines
from experiments import check_data, evaluate, predict, report, train

SMOKE = ["--config", "configs/unet_brain.py:smoke", "--quiet"]


def command(python, *words):
    done = subprocess.run([python, "-m", *words], capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished smoke run."""
    workdir = tmp_path_factory.mktemp("runs") / "smoke"
    assert train.main([*SMOKE, "--workdir", str(workdir), "--config.optimizer.learning_rate", "1e-2"]) == 0
    return workdir


def test_a_smoke_run_learns(run):
    scores = json.loads((run / "evaluation-test.json").read_text())
    assert scores["dice/foreground"] > 0.8
    assert scores["examples"] == 16
    assert {"loss", "accuracy", "dice/grey", "iou/mean", "iou/background", "f1/macro"} <= set(scores)


def test_a_run_folder_holds_what_design_says(run):
    assert {"config.json", "run.json", "metrics.jsonl", "checkpoints", "tensorboard"} <= {p.name for p in run.iterdir()}
    about = json.loads((run / "run.json").read_text())
    assert {"command", "commit", "versions", "machine", "devices", "seed"} <= set(about)
    lines = read_lines(run / "metrics.jsonl")
    assert {line["split"] for line in lines} == {"train", "validation"}
    assert {"loss", "learning_rate", "grad_norm", "accuracy", "examples_per_second"} <= set(lines[0])
    assert list((run / "tensorboard").glob("events*"))


def test_evaluate_again_gives_the_same(run):
    before = json.loads((run / "evaluation-test.json").read_text())
    assert evaluate.main(["--workdir", str(run), "--split", "test"]) == 0
    assert json.loads((run / "evaluation-test.json").read_text()) == before


def test_report_is_one_page_with_nothing_beside_it(run):
    assert report.main(["--workdir", str(run)]) == 0
    page = (run / "report.html").read_text()
    for word in ("Confusion", "white", "Samples", "dice/foreground", "data:image/png;base64"):
        assert word in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page


def test_predict_and_load_run_agree_on_an_image_of_another_size(run, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (100, 147), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    words = [
        "--workdir",
        str(run),
        "--input",
        str(tmp_path / "a.png"),
        "--output",
        str(tmp_path / "out"),
        "--probabilities",
    ]
    assert predict.main(words) == 0
    classes = Image.open(tmp_path / "out" / "a.png")
    assert classes.mode == "P" and classes.size == (147, 100)
    loaded = common.load_run(run)
    probabilities = loaded.predict(image)
    assert probabilities.shape == (100, 147, 4)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(classes), probabilities.argmax(-1))
    np.testing.assert_allclose(np.load(tmp_path / "out" / "a.npy"), probabilities, atol=1e-3)
    with pytest.raises(InputError, match=r"\[height, width, 1\]"):
        loaded.predict(np.zeros((10, 10, 3)))


def test_fine_tuning_starts_from_another_run(run, tmp_path):
    words = [
        *SMOKE,
        "--workdir",
        str(tmp_path / "b"),
        "--config.loop.duration",
        "2 steps",
        "--config.optimizer.learning_rate",
        "0.0",
    ]
    assert train.main([*words, "--init_from", str(run)]) == 0
    old, new = common.load_run(run), common.load_run(tmp_path / "b")
    np.testing.assert_array_equal(old.params["logits"]["kernel"], new.params["logits"]["kernel"])
    other = [*words, "--workdir", str(tmp_path / "c"), "--config.model.width=4", "--init_from", str(run)]
    with pytest.raises(InputError, match="do not fit.*--allow_missing"):
        train.main(other)
    assert train.main([*other, "--allow_missing"]) == 0


def test_seeds_are_recorded(tmp_path, monkeypatch):
    configs = (tmp_path / "configs").resolve()
    shutil.copytree("configs", configs)
    monkeypatch.chdir(tmp_path)
    words = [*SMOKE, "--workdir", "runs/x", "--record", "x", "--seeds", "0,1", "--config.loop.duration", "4 steps"]
    assert train.main(words) == 0
    result = json.loads((tmp_path / "experiments" / "results" / "x.json").read_text())
    keys = "name config overrides command commit machine versions minutes seeds scores selected_on curve"
    assert set(keys.split()) <= set(result)
    assert result["seeds"] == [0, 1]
    values = result["scores"]["dice/foreground"]["values"]
    assert len(values) == 2 and values[0] != values[1]
    assert np.isclose(result["scores"]["dice/foreground"]["std"], np.std(values, ddof=1))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config.model.widht", "3"], "did you mean 'width'"),
        (["--config.model.width", "abc"], "expected int"),
        (["--config.data.batch_size", "6", "--config.mesh.devices", "4"], "does not divide over 4 devices"),
        (["--config.data.crop", "[65, 80]"], "crop"),
        (["--config.task.average", "flip"], "did you mean 'flips'"),
        (["--config.model.classes", "3"], "config.model.classes=3: config.task.class_names has 4"),
        (["--config.model.padding", "valid", "--config.model.depth", "4"], "config.data.crop=64: .*nearest"),
        (["--config.model.norm", "layer"], "config.model.norm='layer'"),
        (["--config.task.loss.name", "dise"], "did you mean 'dice'"),
        (["--config.loop.best", "max dice"], "no such score"),
        (["--config.optimizer.warmup", "5"], "expected a duration like"),
        (["--config.data.source", "folders"], "config.data.source='folders'"),
    ],
)
def test_wrong_configs_are_said_in_one_line(tmp_path, words, message):
    with pytest.raises(InputError, match=message) as error:
        train.main([*SMOKE, "--workdir", str(tmp_path / "w"), *words])
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "w").glob("checkpoints/*.json"))


def test_exit_codes(tmp_path, python):
    code, _, said = command(python, "experiments.train", *SMOKE, "--workdir", str(tmp_path), "--config.model.widht=3")
    assert (code, said) == (1, "error: --config.model.widht: there is no key 'model.widht'; did you mean 'width'?\n")
    code, _, said = command(
        python, "experiments.train", *SMOKE, "--workdir", str(tmp_path), "--config.augment.flip", "False", "word"
    )
    assert code == 2 and "unrecognized argument: word" in said
    code, out, _ = command(python, "experiments.train", "--help")
    assert code == 0 and "--config" in out
    code, _, said = command(python, "experiments.predict", "--workdir", str(tmp_path), "--input", "x", "--output", "y")
    assert code == 1 and "no run here" in said and "Traceback" not in said


def test_check_data_lists_all_findings(tmp_path, capsys):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for i in range(12):
        Image.fromarray(np.zeros((80, 80, 3), np.uint8)).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(np.full((80, 80), 255 * (i % 2), np.uint8)).save(tmp_path / "masks" / f"{i}.png")
    (tmp_path / "masks" / "2.png").unlink()
    words = [
        "--config",
        "configs/unet_folder.py",
        "--config.data.root",
        str(tmp_path),
        "--config.data.crop",
        "[64, 64]",
    ]
    with pytest.raises(InputError, match="findings"):
        check_data.main(words)
    assert "no mask '2'" in capsys.readouterr().out
    (tmp_path / "images" / "2.png").unlink()
    assert check_data.main([*words, "--config.data.mask_values", "binary"]) == 0


def test_tensorflow_is_never_imported(run, tmp_path, python):
    code = (
        "import sys; from experiments import train, evaluate, predict, report, prepare, check_data; import common.tfds_sets, common.data; "
        f"code = train.main({[*SMOKE, '--workdir', str(tmp_path / 'w'), '--config.loop.duration', '2 steps']!r}); "
        "import tensorflow_datasets; print(code, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split()[-2:] == ["0", "False"]
