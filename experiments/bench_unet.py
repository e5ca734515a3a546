"""bench unet: one U-Net training step, every candidate in a process and an environment of its own; they take turns.

Depth 4, 'same', BatchNorm, 2 classes, one band, cross-entropy, SGD with momentum.
"""

from collections.abc import Sequence
from typing import Any

from experiments.bench_ops import row
from experiments.workers import Worker, jax_command, same_device, take_turns, torch_command

DTYPES = ("float32", "bfloat16")
SIZE = (2, 256, 32)  # batch, side, width
LARGE = (16, 256, 64)  # of those that fill a GPU


def measure(peers: Sequence[str], rounds: int, large: bool = False) -> list[dict[str, Any]]:
    """One row a dtype and candidate: median and fastest seconds of a step, compile seconds, parameters."""
    size = LARGE if large else SIZE
    case = "training step, batch {}, side {}, width {}".format(*size) if large else "training step"
    rows = []
    for dtype in DTYPES:
        workers = {}
        try:
            for candidate in ("ours", *peers):  # one after another: compile times are taken alone
                workers[candidate] = Worker(candidate, command(candidate, dtype, size))
            same_device(workers)
            counts = {candidate: worker.ready["parameters"] for candidate, worker in workers.items()}
            if len(set(counts.values())) > 1:
                raise RuntimeError(f"the candidates are not the same network: parameters {counts}")
            times = take_turns(workers, "step", rounds, warm_up=3)
        finally:
            for worker in workers.values():
                worker.close()
        for candidate, worker in workers.items():
            seconds = worker.ready.pop("compile_seconds")
            rows.append(row(f"{case}, {dtype}", candidate, times[candidate], seconds, **worker.ready))
    return rows


def command(candidate: str, dtype: str, size: Sequence[int]) -> list[str]:
    words = (dtype, *map(str, size))
    if candidate == "torch":
        return torch_command("experiments.bench_torch", *words)
    return jax_command("experiments.bench_flax", candidate, *words)
