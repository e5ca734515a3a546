"""bench unet: one U-Net training step, every candidate in a process and an environment of its own; they take turns.

Width 32, depth 4, 'same', 256 x 256 x 1, batch 2, BatchNorm, 2 classes, cross-entropy, SGD with momentum.
"""

from collections.abc import Sequence
from typing import Any

from experiments.bench_ops import row
from experiments.workers import Worker, jax_command, take_turns, torch_command

DTYPES = ("float32", "bfloat16")


def measure(peers: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """One row a dtype and candidate: median and fastest seconds of a step, compile seconds, parameters."""
    rows = []
    for dtype in DTYPES:
        workers = {}
        try:
            for candidate in ("ours", *peers):  # one after another: compile times are taken alone
                workers[candidate] = Worker(candidate, command(candidate, dtype))
            counts = {candidate: worker.ready["parameters"] for candidate, worker in workers.items()}
            if len(set(counts.values())) > 1:
                raise RuntimeError(f"the candidates are not the same network: parameters {counts}")
            times = take_turns(workers, "step", rounds, warm_up=3)
        finally:
            for worker in workers.values():
                worker.close()
        for candidate, worker in workers.items():
            seconds = worker.ready.pop("compile_seconds")
            rows.append(row(f"training step, {dtype}", candidate, times[candidate], seconds, **worker.ready))
    return rows


def command(candidate: str, dtype: str) -> list[str]:
    if candidate == "torch":
        return torch_command("experiments.bench_torch", dtype)
    return jax_command("experiments.bench_flax", candidate, dtype)
