"""bench scale: what a step sends and holds on more and more devices, read from compiled programs, and the loop's own time.

Collectives and bytes come from `experiments.plan` with virtual devices, so they need no accelerators; each number of devices
is a process of its own. Host overhead: seconds of a turn of `common.loop.run_steps` less those of the compiled step alone.
"""

from experiments import launch

# isort: split
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from common import loop
from common import mesh as meshes
from common.checkpoint import Checkpoints
from common.config import load_config
from common.log import Log
from common.plan import Plan, make_plan
from common.processes import Signals
from common.state import create_state
from common.step import make_train_step
from experiments.plan import plan, virtual_devices
from experiments.tasks import make_task
from experiments.workers import Worker, jax_command, serve

COUNTS = (1, 2, 4, 8)
CASES = {
    "U-Net smoke": "configs/unet_brain.py:smoke",
    "U-Net": "configs/unet_brain.py",
    "LSTM": "configs/lstm_source_text.py",
}
SMALL = {"model.hidden": "[32]", "model.embed": "32", "data.batch_size": "8", "data.bptt": "16"}
STATE = ("parameters", "optimizer state", "averaged parameters")
PURPOSES = {"gradients, metrics": "gradient", "parameters": "fsdp", "gradients": "fsdp"}  # gathered and scattered
WINDOW = 100  # steps


def measure(peers: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """A row for each net, number of devices and way to split: collectives and bytes; and one of the host's overhead."""
    rows = []
    for words in [*(("devices", str(count)) for count in COUNTS), ("overhead", str(rounds))]:
        worker = Worker(" ".join(words), jax_command("experiments.bench_scale", *words))
        rows += worker.ready["rows"]
        worker.close()
    return rows


def scaling(count: int) -> list[dict[str, Any]]:
    """Rows of all nets on `count` devices: parameters whole on each (data parallel), and split over all (fsdp)."""
    rows = []
    for case, spec in CASES.items():
        for fsdp in {1: (1,)}.get(count, (1, count)):
            config = load_config(spec)
            config.mesh.devices, config.mesh.fsdp = count, fsdp
            rows.append(row(f"{case}, {count} {'fsdp' if fsdp > 1 else 'data'}", plan(config)))
    return rows


def row(case: str, facts: dict[str, Any]) -> dict[str, Any]:
    """What matters of a plan. state_share: what a device holds of parameters and optimiser, times the number of devices over
    which they are split, over the whole: 1 is even, and where nothing is split."""
    split = facts["mesh"][meshes.FSDP]
    state = [facts["bytes"][name] for name in STATE]
    share = sum(part["device"] for part in state) * split / sum(part["whole"] for part in state)
    sums = dict.fromkeys(("gradient", "fsdp", "other"), (0, 0))
    for sent in facts["sent"]:
        name = PURPOSES.get(sent["purpose"], "other")
        times, count = sums[name]
        sums[name] = (times + sent["times"], count + sent["bytes"])
    counted = {}
    for name, (times, count) in sums.items():
        counted |= {f"{name}_sends": times, f"{name}_bytes": count}
    return {
        "case": case,
        "parameter_bytes": facts["bytes"]["parameters"]["whole"],
        **counted,
        "sent_bytes": round(sum(sent["sent"] for sent in facts["sent"])),
        "state_share": share,
        "temporary_bytes": facts["temporary_bytes"],
        "compile_seconds": facts["compile_seconds"],
    }


class Interleaved(Log):
    """A log that times the loop's turns in windows, and lets the compiled step run alone between them."""

    def start(self, program: "Alone") -> None:
        self.program, self.mark = program, None
        self.turns: list[float] = []
        self.alone: list[float] = []

    def tick(self, step: int) -> None:
        super().tick(step)
        if step % WINDOW:
            return
        if self.mark is not None:  # the first window compiles
            self.turns.append((time.perf_counter() - self.mark) / WINDOW)
        self.alone.append(self.program.seconds())
        self.mark = time.perf_counter()


class Alone:
    """The compiled step of a plan, on a batch that lies on the device."""

    def __init__(self, run: Plan):
        self.state = create_state(run.make, run.abstract_batch, run.mesh)
        self.step = make_train_step(run.task, run.optimizer, run.mesh, seed=run.config.seed)
        rows = run.task.train_batch(run.config.seed, 0, slice(0, run.config.data.batch_size))
        self.batch = meshes.put(run.mesh, rows)
        self.seconds()

    def seconds(self) -> float:
        """Of one step, each waited for; the mean of a window."""
        begin = time.perf_counter()
        for _ in range(WINDOW):
            self.state, metrics = self.step(self.state, self.batch)
            jax.block_until_ready((self.state, metrics))
        return (time.perf_counter() - begin) / WINDOW


def overhead(rounds: int) -> list[dict[str, Any]]:
    """The row of a small LSTM on one device: medians over windows of the loop's turns, log lines among them."""
    config = load_config("configs/lstm_source_text.py:smoke", SMALL)
    config.mesh.devices = 1
    config.loop.duration = f"{(rounds + 1) * WINDOW} steps"
    config.loop.eval = config.loop.save = "100%"
    run = make_plan(config, make_task(config))
    alone = Alone(run)
    with (
        tempfile.TemporaryDirectory() as folder,
        Checkpoints(Path(folder) / "checkpoints", 1) as checkpoints,
        Signals() as signals,
    ):
        log = Interleaved(Path(folder), start=0, steps=run.steps, quiet=True)
        log.start(alone)
        state = create_state(run.make, run.abstract_batch, run.mesh)
        loop.run_steps(run, state, loop.Host(), checkpoints, log, signals)
        log.close()
    turn, step = statistics.median(log.turns), statistics.median(log.alone)
    facts = {"turn_ms": 1e3 * turn, "step_ms": 1e3 * step, "overhead_ms": 1e3 * (turn - step)}
    return [{"case": "host overhead, LSTM 32, batch 8 x 16", **facts}]


def main(argv: list[str]) -> int:
    what, number = argv[0], int(argv[1])
    if what == "devices":
        virtual_devices(number)
        rows = scaling(number)
    else:
        rows = overhead(number)
    serve({"rows": rows}, {})
    return 0


if __name__ == "__main__":
    launch.run(main)
