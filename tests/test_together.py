"""Runs trained together against the same runs trained alone, in float64: states, logs, ends, resumes."""

import functools
import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from common import keys, loop, pays, stacked
from common.checkpoint import Checkpoints
from common.errors import InputError
from common.mesh import RUNS, over_runs
from common.plan import make_plan
from common.stacked import groups
from common.state import create_state
from common.step import NEVER, train_step
from common.together import train_together
from lstm import auto
from lstm.cells import LSTM
from tests import test_carry, toy
from tests.test_loop import final_state, scores_of

RUN = {"loop__duration": "20 steps", "loop__eval": "10 steps", "loop__save": "2 steps", "loop__keep": 20}
ALONE = {}  # folders of runs trained alone, which several tests compare with


def sweep(**columns):
    """Configs of the toy task, one for each place of the columns."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [toy.make_config(**{**RUN, **row}) for row in rows]


def two_seeds():
    return sweep(seed=[5, 1, 5], optimizer__learning_rate=[0.05, 0.05, 0.01])


def together(configs, task, folder):
    """Trains them in one program, in folders of their own."""
    folders = [folder / f"together-{i}" for i in range(len(configs))]
    return folders, train_together(configs, lambda config: task, folders, quiet=True)


def alone(config, task, factory):
    """The folder of this run, trained alone."""
    name = loop.configs.to_json(config)
    if name not in ALONE:
        workdir = factory.mktemp("alone")
        assert loop.train(config, task, workdir, quiet=True) == 0
        ALONE[name] = workdir
    return ALONE[name]


def close(a, b, rtol=1e-10):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=1e-12), a, b)


def same_run(config, task, one, other):
    """The folders hold the same final state, the same lines, the same checkpoints and the same decisions."""
    close(final_state(one, config, task), final_state(other, config, task))
    lines = [scores_of(one), scores_of(other)]
    a, b = ([(line["step"], line["split"], list(line)) for line in own] for own in lines)
    assert a == b
    close(*([[v for v in line.values() if isinstance(v, float)] for line in own] for own in lines))
    a, b = test_carry.host_of(one), test_carry.host_of(other)
    assert (a["best_step"], a["worse"], a["averaging_from"]) == (b["best_step"], b["worse"], b["averaging_from"])
    with Checkpoints(one / "checkpoints") as x, Checkpoints(other / "checkpoints") as y:
        assert x.steps() == y.steps()


def counted(task):
    """The task, and a list that gets the number of runs each time its loss is traced for several in one program."""
    traces = []

    def loss(*arguments):
        traces.append(jax.lax.axis_size(RUNS)) if over_runs() else None
        return task.loss(*arguments)

    return task._replace(loss=loss), traces


# Whole runs


def test_runs_together_are_the_runs_alone(tmp_path, x64, monkeypatch, tmp_path_factory):
    made, real = [], stacked.make_steps

    def make(*given, **options):
        made.append(real(*given, **options))
        return lambda *arguments: guarded(made[-1], *arguments)

    def guarded(step, *arguments):
        with jax.transfer_guard("disallow"):
            return step(*arguments)

    monkeypatch.setattr(stacked, "make_steps", make)
    configs = two_seeds()
    task, traces = counted(toy.make_task(jnp.float64))
    began = time.perf_counter()
    folders, codes = together(configs, task, tmp_path)
    took = (time.perf_counter() - began) / 60
    assert codes == [0, 0, 0]
    minutes = [Checkpoints(folder / "checkpoints").manifest(20)["host"]["minutes"] for folder in folders]
    assert 0 < sum(minutes) < took  # each has a share
    assert traces == [3] and [step._cache_size() for step in made] == [1]
    for config, folder in zip(configs, folders, strict=True):
        same_run(config, task, alone(config, task, tmp_path_factory), folder)
        names = {"checkpoints", "config.json", "metrics.jsonl", "run.json", "tensorboard"}
        assert {p.name for p in folder.iterdir()} == names and list((folder / "tensorboard").iterdir())
        kept = loop.configs.from_json((folder / "config.json").read_text())
        assert not loop.configs.difference(kept, config, free=())
    ends = [final_state(folder, config, task).params["w"] for folder, config in zip(folders, configs, strict=True)]
    assert len({float(w[0]) for w in ends}) == 3  # they are different runs


def test_carries_and_averaging_triggers_are_each_runs_own(tmp_path, x64, tmp_path_factory):
    configs = [test_carry.config_of(**{**test_carry.AVERAGE, "optimizer__learning_rate": rate}) for rate in (0.1, 0.02)]
    reads = []

    def batch(seed, step, rows):
        reads.append((seed, step))
        return test_carry.train_batch(seed, step, rows)

    configs.append(configs[0].copy_and_resolve_references())
    for config, seed in zip(configs, (0, 1, 1), strict=True):
        config.seed = seed
        config.loop.update({"eval": "2 steps", "save": "12 steps"})
    folders, codes = together(configs, test_carry.make_task(batch=batch), tmp_path)
    assert codes == [0, 0, 0]
    assert len(reads) == len(set(reads)) and {seed for seed, _ in reads} == {0, 1}  # each seed is read once
    task = test_carry.make_task()
    for config, folder in zip(configs[:2], folders, strict=False):
        same_run(config, task, alone(config, task, tmp_path_factory), folder)
    assert len({test_carry.host_of(folder)["averaging_from"] for folder in folders}) > 1


def test_runs_out_of_patience_leave_the_others_as_they_are(tmp_path, x64, capsys, tmp_path_factory):
    # The second ends first and keeps its slot; when the first has ended, one of three is left and moves.
    changes = {**RUN, "loop__patience": 2, "loop__eval": "2 steps", "optimizer__warmup": "0 steps"}
    changes["optimizer__ema"] = 0.5
    configs = [toy.make_config(**changes, optimizer__learning_rate=rate, seed=4) for rate in (0.3, -0.1, 0.05)]
    task, traces = counted(toy.make_task(jnp.float64)._replace(augment=None))
    folders = [tmp_path / str(i) for i in range(3)]
    assert train_together(configs, lambda config: task, folders) == [0, 0, 0]
    first, second, third = (scores_of(folder)[-1]["step"] for folder in folders)
    assert second < first < third == 20
    assert traces == [3, 1]
    assert f"step {first}: 1 of 3 runs are left; compiled anew" in capsys.readouterr().err
    for config, folder in zip(configs, folders, strict=True):
        same_run(config, task, alone(config, task, tmp_path_factory), folder)


def test_a_run_that_diverges_ends_with_its_line(tmp_path, x64, capsys, tmp_path_factory):
    configs, task = two_seeds(), toy.make_task(jnp.float64)
    configs[1].optimizer.learning_rate = 1e160
    folders, codes = together(configs, task, tmp_path)
    assert codes == [0, 1, 0]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "together-1: the loss at step" in said[0] and "config.optimizer.learning_rate" in said[0]
    with pytest.raises(InputError, match="the loss at step") as lone:
        loop.train(configs[1], task, tmp_path / "lone", quiet=True)
    assert str(lone.value) in said[0]
    assert scores_of(folders[1]) == scores_of(tmp_path / "lone")
    assert not list((folders[1] / "checkpoints").glob("*.json"))  # the state of step 2 is not kept
    for i in (0, 2):
        same_run(configs[i], task, alone(configs[i], task, tmp_path_factory), folders[i])


def interrupted(task, at, how):
    """The task whose training source does `how` at its `at`-th reading."""
    source, reads = task.train_source("train"), [0]

    class Interrupting:
        def __len__(self):
            return len(source)

        def __getitem__(self, i):
            reads[0] += 1
            if reads[0] == at:
                how()
            return source[i]

    return task._replace(train_source=lambda split: Interrupting())


def test_a_signal_saves_all_which_go_on_alone_or_together(tmp_path, x64, tmp_path_factory):
    configs, task = two_seeds(), toy.make_task(jnp.float64)
    for config in configs:
        config.data.cache_mb = 0

    def step_of(i):
        return int(final_state(folders[i], configs[i], task).step)

    kill = lambda: os.kill(os.getpid(), signal.SIGTERM)
    folders, codes = together(configs, interrupted(task, 60, kill), tmp_path)
    assert codes == [75] * 3
    assert 0 < step_of(0) == step_of(1) == step_of(2) < 12
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert loop.train(configs[0], task, folders[0], quiet=True) == 0  # one goes on alone to its end,
    assert loop.train(configs[1], interrupted(task, 8, kill), folders[1], quiet=True) == 75  # one for a while
    assert step_of(2) < step_of(1) < step_of(0) == 20
    task, traces = counted(task)
    assert together(configs, task, tmp_path)[1] == [0, 0, 0]
    assert traces == [1, 2]  # the one behind, until the two are equal
    plain = two_seeds()
    for config, folder in zip(plain, folders, strict=True):
        one = alone(config, task, tmp_path_factory)
        close(final_state(one, config, task), final_state(folder, config, task))
        a, b = scores_of(one), scores_of(folder)
        assert [line["step"] for line in a] == [line["step"] for line in b]
        close([line["loss"] for line in a], [line["loss"] for line in b])


def test_batches_of_other_shapes_are_refused_in_one_line(tmp_path):
    def batch(seed, step, rows):
        found = test_carry.train_batch(seed, step, rows, np.float32)
        return {name: x[:, : 3 + (seed + step) % 2] for name, x in found.items()}

    configs = [test_carry.config_of(loop__duration="3 steps", loop__save="3 steps") for _ in range(2)]
    task = test_carry.make_task(jnp.float32, batch=batch)
    assert together(configs, task, tmp_path / "one seed")[1] == [0, 0]  # a program for each shape
    configs[1].seed = 1
    with pytest.raises(InputError, match="batches of different shapes at one step"):
        together(configs, task, tmp_path / "two")


# Numbers


DECAY = {"schedule": ["decay"] * 2, "hold": ["2 steps"] * 2, "decay_every": ["2 steps"] * 2, "factor": [2.0, 3.0]}
SWEEPS = {
    "pieces": {
        "clip": [1, 0.1],
        "weight_decay": [0.1, 0.3],
        "ema": [0.5, 0.05],
        "b1": [0.0, 0.9],
        "b2": [0.9, 0.999],
        "eps": [1e-8, 0.1],
        "end": [0.0, 0.5],
    },
    "polynomial": {"schedule": ["polynomial"] * 2, "power": [0.9, 2.0], "name": ["lion"] * 2, "b1": [0.9, 0.5]},
    "decay": {**DECAY, "name": ["sgd"] * 2, "momentum": [0.5, 0.9]},
    "linear": {"schedule": ["linear"] * 2, "end": [0.1, 0.2], "accumulate": [2] * 2, "name": ["adam"] * 2},
}


@pytest.mark.parametrize(
    ("name", "seeds"), [("pieces", [3, 1]), ("polynomial", [0, 0]), ("decay", [0, 0]), ("linear", [3, 1])]
)
def test_every_number_acts_as_it_does_alone(x64, name, seeds):
    task = toy.make_task(jnp.float64)
    columns = {f"optimizer__{name}": values for name, values in SWEEPS[name].items()}
    configs = sweep(seed=seeds, **columns, loop__duration=["8 steps"] * 2)
    assert groups(configs) == [[0, 1]]
    plans = [make_plan(config, task) for config in configs]
    names = stacked.differing([config.optimizer for config in configs])
    assert set(names) == {key[11:] for key, (a, b) in columns.items() if a != b}
    step = stacked.make_steps(plans[0], 40, same_seed=seeds[0] == seeds[1])
    states = stacked.fresh(plans[0], seeds)
    seed = np.array(seeds, np.int32) if seeds[0] != seeds[1] else np.int32(seeds[0])
    numbers, never = stacked.numbers_of(plans, names), np.full(2, NEVER, np.int32)
    lone = [create_state(plan.make, plan.abstract_batch, plan.mesh) for plan in plans]
    close(stacked.pick(states, 1), lone[1])
    lone_steps = [
        jax.jit(functools.partial(train_step, task=task, optimizer=plan.optimizer, seed=seed))
        for plan, seed in zip(plans, seeds, strict=True)
    ]
    source = task.train_source("train")
    for t in range(6):
        batch = {name: np.stack([source[8 * (t % 5) + i][name] for i in range(8)]) for name in source[0]}
        given = batch if seeds[0] == seeds[1] else {name: np.stack([x, x]) for name, x in batch.items()}
        states, metrics = step(states, given, None, seed, numbers, never)
        for i in range(2):
            lone[i], expected = lone_steps[i](lone[i], batch)
            close(stacked.pick(states, i), lone[i])
            close(jax.tree.map(lambda x, i=i: x[i], metrics), expected)
    assert float(jnp.abs(lone[0].params["w"] - lone[1].params["w"]).max()) > 1e-6


# What can train together


def test_groups_keep_order_and_split_what_differs_in_more_than_numbers():
    make = toy.make_config
    configs = [
        make(),
        make(seed=1, optimizer__learning_rate=0.1),
        make(optimizer__clip=0.0),
        make(optimizer__clip=2),
        make(optimizer__warmup="20%"),
        make(optimizer__clip=0.0, optimizer__learning_rate=0.0),
        make(optimizer__name="sgd"),
        make(model__width=3),
        make(data__batch_size=16, seed=4),
        make(data__batch_size=16),
        make(optimizer__ema=0.0),
        make(optimizer__weight_decay=0.1),
    ]
    assert groups(configs) == [[0, 1, 3], [2, 5], [4], [6], [7], [8, 9], [10], [11]]
    assert groups([]) == []


def test_what_is_split_over_devices_and_seeds_beyond_int32_train_alone():
    make = toy.make_config
    configs = [make(mesh__fsdp=2), make(mesh__fsdp=2), make(mesh__space=2), make(seed=2**31), make(), make(seed=-1)]
    assert groups(configs) == [[0], [1], [2], [3], [4], [5]]
    assert groups([make(mesh__fsdp=1), make(mesh__fsdp=1)]) == [[0, 1]]


def test_runs_of_two_groups_are_refused(tmp_path):
    configs = [toy.make_config(), toy.make_config(optimizer__name="sgd")]
    with pytest.raises(InputError, match="2 runs do not fit in one program"):
        together(configs, toy.make_task(), tmp_path)


def test_the_numbers_that_are_traced_are_those_that_differ():
    sections = [ConfigDict({"learning_rate": rate, "b1": 0.9, "name": "adam"}) for rate in (1e-3, 1e-2)]
    assert stacked.differing(sections) == ("learning_rate",)
    assert stacked.differing(sections[:1]) == ()


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_a_traced_seed_gives_the_keys_of_the_number(seed):
    bits = lambda seed: jax.random.key_data(keys.at(seed, "train", 3))
    np.testing.assert_array_equal(jax.jit(jax.vmap(bits))(np.array([seed, 5], np.int32))[0], bits(seed))


# What depends on it


def test_a_recurrence_mapped_over_runs_leaves_cudnn_out(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    needs, chosen = dict.fromkeys(("mask", "resets", "recurrent_mask", "zoneout"), False), []

    def body(x, _):
        chosen.append(auto.choose(LSTM(1024), (128, 128, 1024, 1024), needs).implementation)
        return x, None

    loop_of = lambda x: jax.grad(lambda x: jax.lax.scan(body, x, None, length=2)[0])(x)
    jax.make_jaxpr(jax.vmap(jax.jit(loop_of), axis_name=stacked.RUNS))(jnp.ones(3))
    jax.make_jaxpr(jax.vmap(loop_of))(jnp.ones(3))
    assert chosen[0] == "custom" and chosen[-1] == "cudnn"


# Whether it pays


def test_products_of_a_step_are_counted_with_their_loops():
    def step(x, w, image, kernel):
        y = jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=5)[0]
        more = jax.jit(lambda x: x @ w)(y)
        return more, jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    shapes = ((2, 3), (3, 3), (1, 4, 4, 2), (3, 3, 2, 7))
    jaxpr = jax.make_jaxpr(step)(*(jnp.ones(shape) for shape in shapes)).jaxpr
    product, convolution = 2 * 2 * 3 * 3, 2 * 16 * 7 * 3 * 3 * 2
    assert sorted(pays.products(jaxpr, 1)) == [(product, 1), (product, 5), (convolution, 1)]


def test_where_it_does_not_pay_there_is_a_line(monkeypatch):
    config, task = toy.make_config(), toy.make_task()
    assert pays.product_flops(make_plan(config, task)) == 2 * 8 * 3
    warn = lambda runs=4: pays.warning(config, lambda config: task, runs)
    monkeypatch.setattr(pays, "PAYS_UP_TO", {"cpu": 48})
    assert warn() == ""
    monkeypatch.setattr(pays, "PAYS_UP_TO", {"cpu": 47})
    assert "4 runs of this size take longer together than one after another on this cpu" in warn()
    assert warn(1) == ""
    monkeypatch.setattr(pays, "PAYS_UP_TO", {})
    assert warn() == ""
