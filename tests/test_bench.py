"""experiments.bench: turns, ratios, the file it writes, and its one-line errors."""

import json
import os

import numpy as np
import pytest

from common.errors import InputError
from experiments import bench, bench_land_cover, bench_lstm, bench_ops, bench_unet, workers


def test_take_turns_interleaves_and_leaves_the_warm_up_out():
    calls = []
    programs = {name: lambda name=name: calls.append(name) for name in ("a", "b")}
    times = bench_ops.take_turns(programs, rounds=3, warm_up=2)
    assert calls == ["a", "b"] * 5
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3}


def test_scores_are_medians_and_ratios_to_ours():
    rows = [bench_ops.row("c", "ours", [1, 2, 30], 0.1), bench_ops.row("c", "flax", [8, 6, 5], 0.2)]
    assert bench.scores(rows) == {"seconds/c/ours": [2.0], "seconds/c/flax": [6.0], "ratio/c/flax": [3.0]}


def test_unet_ops_runs_and_writes_its_result(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_ops, "UP_CONVS", [((1, 4, 4, 8), 4)])
    monkeypatch.setattr(bench_ops, "POOLS", [(1, 4, 4, 8)])
    monkeypatch.setattr(bench_ops, "CONVS", [((1, 4, 4, 8), 4)])
    path = tmp_path / "bench.json"
    bench.main(["unet_ops", "--rounds", "1", "--json", str(path)])
    result = json.loads(path.read_text())
    assert len(result["rows"]) == 3 * 2 * 2
    assert "ratio/up-conv 1x4x4x8 -> 4, float32/flax" in result["scores"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nothing"], "nothing"),
        (["unet", "--against", "keras"], "keras"),
        (["lstm", "--against", "haste"], "haste"),
        (["unet_ops", "--rounds", "0"], "rounds"),
    ],
)
def test_bad_arguments_are_said_in_one_line(words, named):
    with pytest.raises(InputError, match=named) as error:
        bench.main(words)
    assert "\n" not in str(error.value)


def test_missing_environment_of_pytorch_names_the_cure(monkeypatch):
    monkeypatch.setitem(os.environ, "PEERS_PYTHON", "/nowhere/python")
    with pytest.raises(InputError, match="make .venv-peers"):
        workers.torch_command("experiments.bench_torch")


@pytest.mark.slow
def test_ours_and_stock_flax_are_the_same_network():
    rows = bench_unet.measure(["flax"], 1)
    assert {row["parameters"] for row in rows} == {7_762_498}


@pytest.mark.slow
def test_lstm_candidates_take_turns_and_are_of_one_size(monkeypatch):
    monkeypatch.setattr(bench_lstm, "SHAPES", [(2, 5, 3, 4)])
    rows = bench_lstm.measure(["flax", "custom"], 1)
    assert [row["candidate"] for row in rows] == ["ours", "flax", "flax_optimized", "custom"] * 2
    assert {row["case"] for row in rows} == {"2,5,3,4 forward", "2,5,3,4 forward + backward"}
    assert all(row["parameters"] == 4 * 4 * (3 + 4 + 1) for row in rows)


def test_a_seam_is_what_tiles_add():
    whole = np.random.default_rng(0).integers(0, 100, (2, 12, 12)).astype(np.float32)
    found = bench_land_cover.steps(whole, whole, [6])
    assert found["seam_score"] == found["added_elsewhere"] == 0
    tiled = whole.copy()
    tiled[:, 6:] += 10  # the lower tiles are off by 10: a step of 10 at the join of rows, none at that of columns
    found = bench_land_cover.steps(tiled, whole, [6])
    assert found["added_at_joins"] == pytest.approx(5) and found["added_elsewhere"] == 0
    there = [np.abs(whole[:, 6] - whole[:, 5]).mean(), np.abs(whole[:, :, 6] - whole[:, :, 5]).mean()]
    assert found["seam_score"] == pytest.approx(5 / np.mean(there))


@pytest.mark.slow
def test_land_cover_runs_small():
    sizes = {"size": 260, "tile": 132, "cutout": 80, "seam_size": 96, "seam_tile": 32}
    run, cut_out, *seams = bench_land_cover.measure([], 1, **sizes)
    assert run["tiles"] == 49 and run["speed_ratio"] > 0 and run["peak_mb"] > 0
    assert cut_out["largest_difference"] <= 1e-5 and cut_out["share_same_class"] > 0.999
    assert seams[0]["seam_score"] > 2 * seams[-1]["seam_score"]
