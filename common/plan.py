"""A run worked out from its config, before anything is read: what training, evaluation and load_run share."""

import dataclasses
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from common import config as configs
from common import mesh as meshes
from common.errors import InputError
from common.optimizer import Optimizer, make_optimizer
from common.state import state_maker
from common.task import Task


@dataclasses.dataclass(frozen=True)
class Loop:
    """The section `loop` of a config. Durations are texts: '300 steps', '10 epochs', '5000 examples', '5%'.

    best: 'max NAME' or 'min NAME', the score of eval_split by which the best checkpoint is chosen.
    patience: evaluations without a better score after which the run ends; 0 never.
    driver: 'jit', or 'pmap' for the devices of one process. stall: seconds without a step after which a run of several
    processes ends with a line that names what holds it; 0: never.
    score_split: what is scored once at the end. keep: checkpoints kept beside the best one.
    """

    duration: str
    log: str = "10 steps"
    eval: str = "10%"
    save: str = "10%"
    eval_split: str = "validation"
    score_split: str = "validation"
    best: str = "min loss"
    patience: int = 0
    keep: int = 2
    driver: str = "jit"
    stall: int = 1800


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run, worked out from its config: what train, evaluate and load_run share."""

    config: ConfigDict
    task: Task
    loop: Loop
    mesh: Any
    optimizer: Optimizer
    steps: int
    every: dict[str, int]
    make: Callable
    abstract_batch: Any


def make_plan(
    config: ConfigDict, task: Task, loop_section: ConfigDict | None = None, examples: int | None = None
) -> Plan:
    """Checks every section, and makes the mesh and the optimiser. `examples`: size of the training split, read if None."""
    loop = configs.call(Loop, "loop", config.loop)
    mesh = configs.call(meshes.make_mesh, "mesh", config.mesh)
    batch_size = config.data.batch_size
    if examples is None:
        examples = len(task.train_source("train"))
    duration = lambda text, key, total=None: configs.steps(
        text, examples=examples, batch_size=batch_size, total=total, key=key
    )
    steps = duration(loop.duration, "loop.duration")
    every = {name: max(duration(getattr(loop, name), f"loop.{name}", steps), 1) for name in ("log", "eval", "save")}
    optimizer = configs.call(
        make_optimizer,
        "optimizer",
        config.optimizer,
        steps=steps,
        duration=lambda text, key: duration(text, key, steps),
    )
    if mesh.shape[meshes.SPACE] > 1 and not task.spatial:
        raise InputError(f"config.mesh.space={mesh.shape[meshes.SPACE]}: the batches of this task are no images; use 1")
    meshes.check_batch(mesh, batch_size, optimizer.accumulate, "config.data.batch_size")
    if loop.driver not in ("jit", "pmap"):
        raise InputError(f"config.loop.driver={loop.driver!r}: use 'jit' or 'pmap'")
    if loop.best.split()[0] not in ("max", "min") or len(loop.best.split()) != 2:
        raise InputError(
            f"config.loop.best={loop.best!r}: expected 'max NAME' or 'min NAME', like 'max dice/foreground'"
        )
    make = state_maker(task.init, optimizer, seed=config.seed, ema=optimizer.averages)
    return Plan(config, task, loop, mesh, optimizer, steps, every, make, task.abstract_batch)
