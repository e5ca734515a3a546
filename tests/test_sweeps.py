"""Lists of runs: the combinators against itertools, draws inside their range and spread as they should be, names."""

import itertools
import math
import re
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import sweeps
from common.errors import InputError
from common.sweeps import chain, choice, grid, integers, log_uniform, product, random, run_names, uniform, zipped

keys = st.lists(
    st.sampled_from(["a.x", "a.y", "b.x", "seed", "long.section.name"]), min_size=1, max_size=4, unique=True
)
values = st.lists(st.integers(-5, 5) | st.floats(-3, 3) | st.sampled_from(["u", "v w", "x/y"]), min_size=1, max_size=4)
unique_values = values.map(lambda found: list({sweeps.identity({"": v}): v for v in found}.values()))
axes = keys.flatmap(lambda names: st.fixed_dictionaries(dict.fromkeys(names, unique_values)))


@given(axes)
def test_a_grid_has_every_combination_once_the_last_key_fastest(given_axes):
    expected = [dict(zip(given_axes, row, strict=True)) for row in itertools.product(*given_axes.values())]
    assert grid(given_axes) == expected
    assert product(*(grid({key: column}) for key, column in given_axes.items())) == expected


@given(axes)
def test_names_are_unique_stable_and_fit_every_file_system(given_axes):
    runs = grid(given_axes)
    names = run_names(runs)
    assert len({name.casefold() for name in names}) == len(runs)
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._=,+-]*", name) and len(name) <= sweeps.NAME for name in names)
    known = dict(zip(names, runs, strict=True))
    assert run_names(runs[::-1], known) == names[::-1]


def test_names_can_be_read():
    assert run_names([{"optimizer.learning_rate": 0.01, "seed": 1}]) == ["learning_rate=0.01,seed=1"]
    assert run_names([{"model.dropout": 0.1, "augment.dropout": 0.2}]) == ["model.dropout=0.1,augment.dropout=0.2"]
    assert run_names([{"model.hidden": [64, 32]}, {}]) == ["hidden=64-32", "base"]
    first, second = run_names([{"a.x": 1}, {"b.x": 1}])
    assert first == "x=1" and re.fullmatch(r"x=1-[0-9a-f]{8}", second)
    long = run_names([{"data.file": "/a" * 90}, {"data.file": "/a" * 90 + "b"}])
    assert len(set(long)) == 2 and max(map(len, long)) <= 100


def test_zipped_and_chain_are_what_their_names_say():
    assert zipped({"a": [1, 2], "b": ["x", "y"]}) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert chain(grid({"a": [1]}), zipped({"b": [2]})) == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grid({"a": [1, 1]}), "there twice"),
        (lambda: chain(grid({"a": [1]}), grid({"a": [1, 2]})), "there twice"),
        (lambda: zipped({"a": [1, 2], "b": [1]}), "different numbers of values"),
        (lambda: product(grid({"a": [1]}), grid({"a": [2]})), "'a' is set in two"),
        (lambda: product(grid({"a": [1]}), {"seed": [1]}), r"product: expected lists of runs; use grid\(\{"),
        (lambda: chain(grid({"a": [1]}), {"a": 1}), "chain: expected lists of runs"),
        (lambda: grid({"a": "text"}), "expected a list"),
        (lambda: grid({"a": []}), "no values"),
        (lambda: random(5, 0, {"a": choice([1, 2])}), "only 2 different"),
        (lambda: random(1, 0, {"a": [1, 2]}), "expected uniform"),
        (lambda: log_uniform(0, 1), "above 0"),
        (lambda: uniform(2, 1), "below the second"),
        (lambda: uniform(math.nan, 1), "below the second"),
        (lambda: choice([]), "nothing to choose"),
        (lambda: grid({"a": [object()]}), "neither a number"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(make, message):
    with pytest.raises(InputError, match=message) as said:
        make()
    assert "\n" not in str(said.value)


def test_the_same_call_gives_the_same_list_for_ever():
    # Written down once: a sweep that is started again next year must find its runs.
    space = {"r": log_uniform(1e-4, 1e-1), "d": uniform(0, 1), "k": integers(1, 9), "c": choice("xyz")}
    assert random(2, 0, space) == [
        {"r": 0.02146, "d": 0.7369, "k": 8, "c": "y"},
        {"r": 0.002096, "d": 0.1194, "k": 4, "c": "z"},
    ]


@given(st.integers(0, 1000), st.integers(1, 20), st.integers(0, 20))
def test_longer_lists_begin_with_shorter_ones_and_keys_do_not_disturb_each_other(seed, count, more):
    space = {"r": log_uniform(1e-4, 1e-1), "d": uniform(0, 1)}
    assert random(count + more, seed, space)[:count] == random(count, seed, space)
    with_key = random(count, seed, {"new": uniform(5, 6), **space})
    assert [run["r"] for run in with_key] == [run["r"] for run in random(count, seed, space)]


@given(st.floats(0, 1, exclude_max=True), st.floats(1e-6, 1e3), st.floats(1.001, 1e4))
def test_draws_stay_inside_their_range(share, low, factor):
    for draw in (uniform(low, low * factor), log_uniform(low, low * factor)):
        assert draw.low <= draw.at(share) <= draw.high
    for draw in (integers(2, 9), integers(2, 9, log=True)):
        assert draw.at(share) in range(2, 10)


def test_draws_are_spread_as_they_should_be():
    runs = random(2000, 3, {"u": uniform(-1, 3), "l": log_uniform(1e-4, 1e2), "k": integers(1, 3), "s": uniform(0, 1)})
    assert statistics.mean(run["u"] for run in runs) == pytest.approx(1, abs=0.1)
    assert statistics.mean(math.log10(run["l"]) for run in runs) == pytest.approx(-1, abs=0.15)
    counts = [sum(run["k"] == k for run in runs) for k in (1, 2, 3)]
    assert min(counts) > 580 and sum(counts) == 2000


def test_seeds_differ():
    space = {"u": uniform(0, 1)}
    assert random(5, 0, space) != random(5, 1, space)


@pytest.mark.parametrize("name", ["brain_rates", "text_random", "text_optuna"])
def test_the_sweeps_that_come_along_have_a_smoke_variant(name):
    whole, smoke = (sweeps.load_sweep(f"configs/sweeps/{name}.py{variant}") for variant in ("", ":smoke"))
    assert smoke.base == f"{whole.base}:smoke"
    if whole.study:
        assert smoke.study.trials <= 4 < whole.study.trials
    else:
        assert len(smoke.runs) <= 4 < len(whole.runs)
    with pytest.raises(InputError, match="did you mean 'smoke'"):
        sweeps.load_sweep(f"configs/sweeps/{name}.py:smok")


def test_a_sweep_may_take_no_variant_and_then_refuses_one(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from common.sweeps import *\ndef get_sweep():\n    return Sweep('base.py', [{'seed': 1}])\n")
    assert list(sweeps.load_sweep(str(path)).runs) == [{"seed": 1}]
    with pytest.raises(InputError, match="this sweep has no variants"):
        sweeps.load_sweep(f"{path}:smoke")
