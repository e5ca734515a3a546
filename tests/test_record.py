"""common.record: whole files, JSON without NaN, the frame of a result."""

import json
import re

import numpy as np
import pytest

from common import record

FRAME = {
    "name", "config", "overrides", "command", "commit", "machine", "versions", "minutes", "seeds", "scores",
    "selected_on", "curve",
}  # fmt: skip


def test_write_json_turns_what_json_lacks_into_null(tmp_path):
    path = tmp_path / "new" / "a.json"
    record.write_json(path, {"a": float("nan"), "b": [np.float32("inf"), 0.5], "c": {"d": (1, "x", None, True)}})
    assert json.loads(path.read_text()) == {"a": None, "b": [None, 0.5], "c": {"d": [1, "x", None, True]}}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_write_json_leaves_the_old_file_whole_where_it_fails(tmp_path):
    path = tmp_path / "a.json"
    record.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        record.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_write_result_has_the_frame_and_the_spread_over_seeds(tmp_path):
    path = tmp_path / "r.json"
    record.write_result(
        path,
        name="r",
        config={"seed": 0},
        overrides=["--config.seed=0"],
        command="python -m experiments.train",
        minutes=1.23456,
        seeds=[0, 1, 2],
        scores={"dice": [0.5, 0.7, 0.9], "one": [2]},
        selected_on="validation",
        curve=[{"step": 1, "loss": float("nan")}],
    )
    result = json.loads(path.read_text())
    assert set(result) == FRAME
    assert result["scores"]["dice"] == {
        "mean": pytest.approx(0.7),
        "std": pytest.approx(0.2),
        "values": [0.5, 0.7, 0.9],
    }
    assert result["scores"]["one"] == {"mean": 2.0, "std": None, "values": [2.0]}
    assert result["curve"] == [{"step": 1, "loss": None}]


def test_machine_and_versions():
    machine = record.machine()
    assert machine["cores"] >= 1 and machine["processor"] and machine["accelerators"] == []
    assert {"python", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"} <= set(record.versions())
    assert all(re.match(r"\d+\.\d+", version) for version in record.versions().values())


def test_commit_is_empty_outside_git(monkeypatch, tmp_path):
    assert re.fullmatch(r"([0-9a-f]{40}(-dirty)?)?", record.commit())
    (tmp_path / "common").mkdir()
    monkeypatch.setattr(record, "__file__", str(tmp_path / "common" / "record.py"))
    assert record.commit() == ""
