"""bench lstm: one LSTM layer over a whole sequence, forward and forward + backward, float32; candidates take turns.

Every candidate is a process in an environment of its own. Backward: gradients of parameters and inputs, from a given
gradient of all outputs. flax: nn.RNN over LSTMCell and over OptimizedLSTMCell. keras: Keras 3 on JAX. Ours is what `auto`
picks; scan, hoisted, custom, cudnn: that implementation in its place.
"""

from collections.abc import Sequence
from typing import Any

from experiments.bench_ops import row
from experiments.workers import Worker, jax_command, same_device, take_turns, torch_command

SHAPES = [(32, 100, 128, 256), (20, 35, 650, 650), (64, 200, 64, 128), (8, 1000, 16, 64), (1, 1000, 8, 32)]
LARGE = [(32, 100, 128, 256), (128, 128, 1024, 1024), (20, 35, 650, 650), (64, 200, 64, 128), (8, 1000, 16, 64)]
PROGRAMS = ("forward", "forward + backward")
IMPLEMENTATIONS = ("scan", "hoisted", "custom", "cudnn")
CANDIDATES = {"flax": ("flax", "flax_optimized")} | {name: (name,) for name in ("torch", "keras", *IMPLEMENTATIONS)}


def measure(peers: Sequence[str], rounds: int, large: bool = False) -> list[dict[str, Any]]:
    """One row a shape (batch, time, input, hidden), program and candidate: median and fastest seconds, compile seconds."""
    rows = []
    for shape in LARGE if large else SHAPES:
        text = ",".join(map(str, shape))
        workers = {}
        try:
            for candidate in ("ours", *(name for peer in peers for name in CANDIDATES[peer])):
                workers[candidate] = Worker(candidate, command(candidate, text))
            same_device(workers)
            times = {program: take_turns(workers, program, rounds) for program in PROGRAMS}
        finally:
            for worker in workers.values():
                worker.close()
        for program in PROGRAMS:
            for candidate, worker in workers.items():
                facts = dict(worker.ready)
                seconds = (facts.pop("compile_seconds") or {}).get(program)
                rows.append(row(f"{text} {program}", candidate, times[program][candidate], seconds, **facts))
    return rows


def command(candidate: str, shape: str) -> list[str]:
    if candidate == "torch":
        return torch_command("experiments.bench_lstm_torch", shape)
    return jax_command("experiments.bench_lstm_jax", candidate, shape)
