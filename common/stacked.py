"""Several runs as one program: their states in one stack, the numbers in which they differ traced, the step under vmap.

All runs of a stack are at the same step, so `step` has no axis of runs; every other leaf has one, the first.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from common import data
from common.config import kwargs, steps, to_json
from common.errors import InputError
from common.mesh import RUNS
from common.optimizer import Optimizer, make_optimizer
from common.plan import Plan
from common.state import TrainState, state_maker
from common.step import train_step

AXES = TrainState(None, 0, 0, 0, 0)
SWITCHES = ("clip", "ema", "momentum", "weight_decay")  # 0 leaves the piece out: another program
NUMBERS = ("learning_rate", "end", "power", "factor", "b1", "b2", "eps", *SWITCHES)


def groups(configs: Sequence[ConfigDict]) -> list[list[int]]:
    """Which runs can train in one program, as places in `configs`, in order; a run that can with no other is a group.

    They are equal in all but `seed` and these numbers of the section `optimizer`: learning_rate, end, power, factor, b1,
    b2, eps; and clip, weight_decay, momentum, ema where none of them is 0, which leaves that piece of the chain out.
    Durations (warmup, hold, ...), names and whole numbers shape the program, so they are the same; so is the seed where
    batches come in buckets of like length, since it orders their shapes. A run whose state or images are split over devices
    (config.mesh.fsdp, config.mesh.space) trains alone.
    """
    found: dict[str, list[int]] = {}
    for place, config in enumerate(configs):
        found.setdefault(program(config) or f"alone {place}", []).append(place)
    return list(found.values())


def program(config: ConfigDict) -> str:
    """What runs of one program have in common; '' for a run that trains alone."""
    sections = json.loads(to_json(config))
    if any(sections["mesh"].get(name, 1) > 1 for name in ("fsdp", "space")) or not traceable_seed(config):
        return ""
    if not sections["data"].get("buckets"):  # with them the batches of two seeds differ in shape at one step
        del sections["seed"]
    optimizer = sections["optimizer"]
    for name in NUMBERS:
        if is_number(optimizer.get(name)):
            optimizer[name] = "a number" if optimizer[name] or name not in SWITCHES else "off"
    return json.dumps(sections, sort_keys=True)


def on_one_device(config: ConfigDict) -> ConfigDict:
    """The config with a mesh of the first device; its run folder keeps the mesh that was asked for."""
    sections = json.loads(to_json(config))
    return ConfigDict({**sections, "mesh": {"devices": 1}})


def traceable_seed(config: ConfigDict) -> bool:
    """Whether the seed can be traced: as an int32 it gives the keys that it gives as a Python number."""
    return is_number(config.seed) and 0 <= config.seed < 2**31


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def differing(sections: Sequence[ConfigDict]) -> tuple[str, ...]:
    """Which of NUMBERS are not the same in all of the sections `optimizer`: those that must be traced."""
    return tuple(name for name in NUMBERS if len({section.get(name) for section in sections}) > 1)


def numbers_of(plans: Sequence[Plan], names: Sequence[str]) -> dict[str, jax.Array]:
    """{name: one value for each run}, of weak type: like the Python numbers that they stand for they widen nothing."""
    values = {name: [float(plan.config.optimizer[name]) for plan in plans] for name in names}
    return {name: jnp.stack([jnp.asarray(value) for value in own]) for name, own in values.items()}


def optimizer_with(plan: Plan, examples: int, numbers: Mapping[str, Any]) -> Optimizer:
    """The optimiser of a run, with `numbers` in place of its config's. examples: size of the training split."""

    def duration(text: str, key: str) -> int:
        batch_size = plan.config.data.batch_size
        return steps(text, examples=examples, batch_size=batch_size, total=plan.steps, key=key)

    section = {**kwargs(plan.config.optimizer), **numbers}
    return make_optimizer(**section, steps=plan.steps, duration=duration)


def make_steps(plan: Plan, examples: int, *, same_seed: bool) -> Callable:
    """train_step of all runs under one jit: (states, batch, places, seeds, numbers, averaging_from) -> (states, metrics).

    states is donated. same_seed: batch and seeds are one for all, so that what does not depend on the run (augmentation,
    masks of drop-out) is computed once. Else batch holds what each seed reads and seeds one a run; places are those of the
    runs' batches in it, None where they are in order. averaging_from and each of numbers have one value for each run.
    """

    def one(state, batch, seed, numbers, averaging_from):
        optimizer = optimizer_with(plan, examples, numbers)
        return train_step(state, batch, averaging_from, task=plan.task, optimizer=optimizer, seed=seed)

    shared = None if same_seed else 0
    mapped = jax.vmap(one, in_axes=(AXES, shared, shared, 0, 0), out_axes=(AXES, 0), axis_name=RUNS)

    def step(states, batch, places, seeds, numbers, averaging_from):
        if places is not None:
            batch = jax.tree.map(lambda x: x[places], batch)
        return mapped(states, batch, seeds, numbers, averaging_from)

    return jax.jit(step, donate_argnums=0, compiler_options=dict(plan.task.compiler_options))


def make_evaluations(plan: Plan, count: int) -> Callable:
    """task.evaluate of all runs under one jit: (params, model_state, batch) -> {"SLOT/NAME": metric}, the batch being
    the same for all. So named, the metrics of each run merge as those of one alone do."""
    mapped = jax.vmap(plan.task.evaluate, in_axes=(0, 0, None), axis_name=RUNS)

    def evaluate(params, model_state, batch):
        metrics = mapped(params, model_state, batch)
        return {
            f"{slot}/{name}": jax.tree.map(lambda x, slot=slot: x[slot], metric)
            for slot in range(count)
            for name, metric in metrics.items()
        }

    return jax.jit(evaluate, compiler_options=dict(plan.task.compiler_options))


def of_slot(metrics: Mapping[str, Any], slot: int) -> dict[str, Any]:
    """{name: metric} of one run, of what `make_evaluations` gives."""
    return {name.partition("/")[2]: metric for name, metric in metrics.items() if name.partition("/")[0] == str(slot)}


def fresh(plan: Plan, seeds: Sequence[int]) -> TrainState:
    """The states of runs of these seeds at step 0, born under jit on the plan's device, one after another: with the values
    that each has alone."""

    def make(seed):
        batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), plan.abstract_batch)
        return state_maker(plan.task.init, plan.optimizer, seed=seed, ema=plan.optimizer.averages)(batch)

    def all_of(seeds):
        return jax.lax.map(make, seeds).replace(step=jnp.zeros((), jnp.int32))

    return jax.jit(all_of)(put(plan, np.array(seeds, np.int32)))


@jax.jit
def stack(states: Sequence[TrainState]) -> TrainState:
    """Runs at the same step as one stack."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    return stacked.replace(step=states[0].step)


@jax.jit
def pick(states: TrainState, place: int | jax.Array) -> TrainState:
    """One run of a stack, in buffers of its own."""
    own = jax.tree.map(lambda x: x[place], states.replace(step=()))
    return own.replace(step=jnp.copy(states.step))


def put(plan: Plan, tree: Any) -> Any:
    """Values of the host on the device of the plan."""
    return jax.device_put(tree, plan.mesh.devices.flat[0])


class SideBySide:
    """The batches of several readers, stacked; what data.Batches is to one run."""

    def __init__(self, readers: Sequence[data.Batches]):
        self.readers = readers

    @property
    def waited(self) -> float:
        return sum(reader.waited for reader in self.readers)

    def __next__(self) -> dict[str, np.ndarray]:
        return side_by_side([next(reader) for reader in self.readers])

    def close(self) -> None:
        for reader in self.readers:
            reader.close()


def side_by_side(batches: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """{name: [seeds, rows, ...]}. Raises InputError for batches that are not of one shape."""
    shapes = [jax.tree.map(np.shape, batch) for batch in batches]
    if any(other != shapes[0] for other in shapes):
        raise InputError(
            "runs of different seeds have batches of different shapes at one step (config.data.buckets cuts each run's in an "
            "order of its own), so they cannot train together; train them without --together, or with one bucket"
        )
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def open_batches(plan: Plan, seeds: Sequence[int], start: int) -> data.Batches | SideBySide:
    """The batches from step `start` on of runs with these (different) seeds, stacked; of a single seed, as they are."""
    task, section = plan.task, plan.config.data
    threads = section.get("threads", 2)
    place = {"batch_size": section.batch_size, "start": start}
    if task.train_batch is not None:

        def read(_, step, rows):
            found = [task.train_batch(seed, step, rows) for seed in seeds]
            return side_by_side(found) if len(found) > 1 else found[0]

        return data.batches_by_step(read, seed=0, threads=threads, **place)
    few = {"threads": min(threads, 1), "buffer": 2} if len(seeds) > 1 else {"threads": threads}
    readers = [
        data.batches(task.train_source("train"), seed=seed, crop=task.crop, **place, **few)
        for seed in seeds
    ]  # fmt: skip
    return SideBySide(readers) if len(readers) > 1 else readers[0]
