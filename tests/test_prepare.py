"""experiments.prepare: a folder becomes a TFDS data set that gives the same examples."""

import subprocess

import numpy as np
import PIL.Image
import pytest

from common.errors import InputError
from experiments import prepare
from unet.sources import make_source

HEAD = "from configs.unet_defaults import defaults\n\ndef get_config(variant=''):\n    config = defaults()\n"


@pytest.fixture
def config(tmp_path):
    """A config of a folder of eight images, 16 bits deep, of several sizes."""
    for i in range(8):
        rng = np.random.default_rng(i)
        for place, top, kind in (("images", 65536, np.uint16), ("masks", 2, np.uint8)):
            (tmp_path / place).mkdir(exist_ok=True)
            array = rng.integers(0, top, (64 + i, 70), dtype=kind)
            PIL.Image.fromarray(array).save(tmp_path / place / f"s{i}.png")
    lines = [f"config.data.root = {str(tmp_path)!r}", "config.data.source = 'folder'", "config.data.crop = [64, 64]"]
    lines += ["config.task.tile = 64", "config.task.overlap = 16", "return config"]
    (tmp_path / "config.py").write_text(HEAD + "".join(f"    {line}\n" for line in lines))
    return str(tmp_path / "config.py")


def test_a_prepared_folder_gives_the_same_examples(config, tmp_path, capsys):
    assert prepare.main(["--config", config, "--name", "own", "--output", str(tmp_path / "sets")]) in (0, None)
    assert "--config.data.source=tfds:own" in capsys.readouterr().out
    shape = {"classes": 2, "bands": 1}
    for split in ("train", "validation", "test"):
        files = make_source(split, source="folder", root=str(tmp_path), **shape)
        stored = make_source(split, source="tfds:own", root=str(tmp_path / "sets"), **shape)
        assert [stored.name(i) for i in range(len(stored))] == [files.name(i) for i in range(len(files))]
        for i in range(len(files)):
            assert np.array_equal(stored[i]["image"], files[i]["image"]) and stored.size(i) == files.size(i)
            assert np.array_equal(stored[i]["label"], files[i]["label"])


def test_refusals(config, tmp_path):
    arguments = ["--config", config, "--name", "own", "--output", str(tmp_path / "sets")]
    prepare.main([*arguments, "--splits", "test"])
    with pytest.raises(InputError, match="own/1.0.0: is there already"):
        prepare.main([*arguments, "--splits", "test"])
    with pytest.raises(InputError, match="split 'exam'.*--splits exam"):
        prepare.main([*arguments, "--splits", "exam"])
    PIL.Image.fromarray(np.zeros((66, 70), np.uint8)).save(tmp_path / "images/s2.png")
    with pytest.raises(InputError, match="image is uint8.*in example 0 it is uint16"):
        prepare.main(["--config", config, "--name", "mixed", "--output", str(tmp_path / "sets")])
    assert not list((tmp_path / "sets/mixed").glob("*"))


def test_the_command(config, tmp_path, python):
    command = [python, "-m", "experiments.prepare", "--config", config, "--name", "No Name"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith("error: name 'No Name'")
    assert "Traceback" not in done.stderr
