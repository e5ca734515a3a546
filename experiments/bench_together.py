"""bench together: 16 LSTM language models that train in one program, beside the same ones one after another."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from common import stacked
from common.pays import product_flops
from common.plan import Plan, make_plan
from common.state import create_state
from common.step import NEVER, make_train_step
from configs.lstm_defaults import language
from experiments.bench_ops import row, take_turns
from experiments.tasks import make_task

RUNS = 16
HIDDEN = (8, 16, 32, 64, 128, 256, 512)
BATCH, TIME, CHARACTERS = 16, 32, 64


def config_of(hidden: int) -> ConfigDict:
    """A character model of one layer, as wide as its embedding; its optimiser is that of every LSTM config."""
    config = language()
    config.model.hidden = [hidden]
    config.model.embed = hidden
    config.data.source = "made"
    config.data.alphabet = "".join(chr(ord("0") + i) for i in range(CHARACTERS))
    config.data.batch_size = BATCH
    config.data.bptt = TIME
    config.mesh.devices = 1
    return config


def measure(peers: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """One row a size and way: seconds of one step of all runs, from batches on the host to metrics on the host."""
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are those of a first run
    rows = []
    for hidden in HIDDEN:
        config = config_of(hidden)
        plan = make_plan(config, make_task(config), examples=BATCH * 10_000)
        facts = {
            "product_flops": product_flops(plan),
            "parameters": sum(x.size for x in jax.tree.leaves(jax.eval_shape(plan.make, plan.abstract_batch).params)),
        }
        programs, seconds = {}, {}
        for name, prepare in (("ours", together), ("one after another", one_after_another)):
            begin = time.perf_counter()
            programs[name] = prepare(plan)
            programs[name]()
            seconds[name] = time.perf_counter() - begin
        times = take_turns(programs, rounds)
        case = f"{RUNS} LSTMs of hidden {hidden}, batch {BATCH}, time {TIME}"
        rows += [row(case, name, times[name], seconds[name], **facts) for name in programs]
    return rows


def batch_of(seed: int) -> dict[str, np.ndarray]:
    tokens = np.random.default_rng(seed).integers(CHARACTERS, size=(BATCH, TIME + 1), dtype=np.int32)
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "reset": np.zeros(BATCH, bool)}


def together(plan: Plan) -> Callable[[], Any]:
    """A step of all runs in one program; each has a seed, a learning rate and batches of its own."""
    step = stacked.make_steps(plan, BATCH * 10_000, same_seed=False)
    states = stacked.fresh(plan, range(RUNS))
    rates = {"learning_rate": np.geomspace(1e-3, 1e-2, RUNS, dtype=np.float32)}
    constants = stacked.put(plan, (None, np.arange(RUNS, dtype=np.int32), rates))
    never = stacked.put(plan, np.full(RUNS, NEVER, np.int32))
    batches = [batch_of(seed) for seed in range(RUNS)]

    def run():
        nonlocal states
        batch = stacked.put(plan, stacked.side_by_side(batches))
        states, metrics = step(states, batch, *constants, never)
        return jax.device_get(metrics)

    return run


def one_after_another(plan: Plan) -> Callable[[], Any]:
    """A step of each run by the program of a lone one, compiled once."""
    step = make_train_step(plan.task, plan.optimizer, plan.mesh, seed=0)
    states = [create_state(plan.make, plan.abstract_batch, plan.mesh)] * RUNS
    states = [jax.tree.map(lambda x: x.copy(), state) for state in states]
    batches = [batch_of(seed) for seed in range(RUNS)]

    def run():
        for slot in range(RUNS):
            states[slot], metrics = step(states[slot], stacked.put(plan, batches[slot]))
            jax.device_get(metrics)

    return run
