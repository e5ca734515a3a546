"""A finished (or running) run folder, opened: `run = common.load_run(workdir); run.predict(x)`."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from common import config as configs
from common.checkpoint import Checkpoints
from common.errors import InputError
from common.files import write_text
from common.mesh import local_mesh
from common.plan import Plan, make_plan
from common.state import TrainState, abstract_state
from common.task import Task


@dataclasses.dataclass(frozen=True)
class Run:
    """workdir, its config and task, and the parameters of `step` (the best checkpoint where one was chosen)."""

    workdir: Path
    config: ConfigDict
    task: Task
    step: int
    params: Any
    model_state: Any

    @functools.cached_property
    def apply(self) -> Callable:
        """Inputs -> outputs of the model on a batch, jitted; for U-Net images [B,H,W,C] -> probabilities [B,H',W',K]."""
        jitted = jax.jit(self.task.predict, compiler_options=dict(self.task.compiler_options))
        return lambda inputs: jitted(self.params, self.model_state, inputs)

    def predict(self, x: Any) -> Any:
        """The model's answer for one raw example of any size; for U-Net probabilities [H, W, classes] of an image [H, W, bands]."""
        return self.task.predict_array(self.apply, x)


def read_config(workdir: Path) -> ConfigDict:
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise InputError(f"--workdir {workdir}: no run here (config.json is missing); experiments.train makes one")
    return configs.from_json(path.read_text())


def read_facts(workdir: Path) -> dict[str, Any] | None:
    """What a run keeps of its training data; None where it keeps nothing. Raises InputError for a damaged file."""
    path = Path(workdir) / "facts.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON ({error}); the file is damaged, train in another folder") from None


def write_facts(workdir: Path, facts: dict[str, Any]) -> None:
    """Adds facts to those that a run keeps."""
    write_text(Path(workdir) / "facts.json", json.dumps({**(read_facts(workdir) or {}), **facts}))


def load_run(workdir: str | Path, step: int | None = None) -> Run:
    """Opens a run folder; `step` for one checkpoint instead of the best. Raises InputError where there is none."""
    from experiments.tasks import make_task  # the one place that knows every task; common knows none

    workdir = Path(workdir)
    config = read_config(workdir)
    task = make_task(config, read_facts(workdir))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        known = step is None or step in checkpoints.steps()
        step = checkpoints.best() if step is None else step
        if step is None or not known:
            raise InputError(f"--workdir {workdir}: no checkpoint {'' if step is None else step}yet; train first")
        state = restore_eval(checkpoints, step, task)
    return Run(workdir, config, task, step, state.eval_params, state.model_state)


def restore_eval(checkpoints: Checkpoints, step: int, task: Task) -> TrainState:
    """Parameters (and their average) and model state of a checkpoint, on one device of this process."""
    averaged = any(name.startswith("ema/") for name in checkpoints.manifest(step)["leaves"])

    def make(batch):
        params, model_state = task.init(jax.random.key(0), batch)
        return TrainState(0, params, model_state, (), params if averaged else {})

    abstract = abstract_state(make, task.abstract_batch, local_mesh())
    return checkpoints.restore(step, abstract, ("params", "model_state", "ema"))


def open_plan(run: Run) -> Plan:
    """The plan of a run, to evaluate it; the length of the training split does not matter for that.

    On as many devices as there are here and divide its batch, whatever it was trained on.
    """
    config = ConfigDict(run.config.to_dict())
    section = config.data
    batch = section.get("eval_batch_size", 0) or section.batch_size
    asked = config.mesh.devices or len(jax.devices())
    devices = len(jax.devices())
    if jax.process_count() == 1:
        devices = max(n for n in range(1, min(asked, devices) + 1) if batch % n == 0)
    config.mesh = {"devices": devices}
    config.data.batch_size = batch  # the plan checks that the rows of training divide, too
    config.optimizer.accumulate = 1
    return make_plan(config.lock(), run.task, examples=1)
