"""bench unet: one U-Net training step, every candidate in a process and an environment of its own; they take turns.

Width 32, depth 4, 'same', 256 x 256 x 1, batch 2, BatchNorm, 2 classes, cross-entropy, SGD with momentum. A worker says
one line of JSON when it is ready, then one line for each step that it is asked for.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError
from experiments.bench_ops import row, take_turns

ROOT = Path(__file__).parents[1]
DTYPES = ("float32", "bfloat16")
# The same for all: what experiments/launch.py asks of glibc, by environment, so that PyTorch has it too.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1)}


def measure(peers: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """One row a dtype and candidate: median and fastest seconds of a step, compile seconds, parameters."""
    rows = []
    for dtype in DTYPES:
        workers = {}
        try:
            for candidate in ("ours", *peers):  # one after another: compile times are taken alone
                workers[candidate] = Worker(candidate, dtype)
            counts = {candidate: worker.ready["parameters"] for candidate, worker in workers.items()}
            if len(set(counts.values())) > 1:
                raise RuntimeError(f"the candidates are not the same network: parameters {counts}")
            times = take_turns({candidate: worker.step for candidate, worker in workers.items()}, rounds, warm_up=3)
        finally:
            for worker in workers.values():
                worker.close()
        for candidate, worker in workers.items():
            seconds = worker.ready.pop("compile_seconds")
            rows.append(row(f"training step, {dtype}", candidate, times[candidate], seconds, **worker.ready))
    return rows


class Worker:
    """A candidate's process. `ready` is what it said first; `step()` returns when its step is done."""

    def __init__(self, candidate: str, dtype: str):
        self.candidate = candidate
        if candidate == "torch":
            command = [peers_python(), str(ROOT / "experiments" / "bench_torch.py"), dtype]
        else:
            command = [sys.executable, "-m", "experiments.bench_flax", candidate, dtype]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        environment = os.environ | MALLOC | {"COMPILE_CACHE": "off", "OMP_NUM_THREADS": str(cores)}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # compile times are those of a first run
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=ROOT)
        self.ready = self.read()

    def read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker for {self.candidate} ended with {self.process.wait()}: see above")
        return json.loads(line)

    def step(self) -> dict[str, Any]:
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def peers_python() -> str:
    """The Python of PyTorch's own environment."""
    path = Path(os.environ.get("PEERS_PYTHON") or ROOT / ".venv-peers" / "bin" / "python")
    if not path.exists():
        raise InputError(f"{path.name}: no environment for PyTorch: run `make .venv-peers`, or set PEERS_PYTHON")
    return str(path)


def serve(ready: dict[str, Any], step: Callable[[], float]) -> None:
    """A worker's side: a line for `ready`, then one step for each line read, until the input ends."""
    print(json.dumps(ready), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"loss": step()}), flush=True)
