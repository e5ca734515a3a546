"""Workers of a benchmark: every candidate in a process and an environment of its own, asked in turn.

A worker says one line of JSON when it is ready, then one line for each program that it is asked to run.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError

ROOT = Path(__file__).parents[1]
# The same for all: what experiments/launch.py asks of glibc, by environment, so that PyTorch has it too.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1)}
TURN = 0.02  # seconds: a program shorter than this runs several times in a turn
# Of a GPU's memory, taken at once by each candidate on JAX: its default of three quarters leaves the others none.
MEMORY = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.2"}


class Worker:
    """A candidate's process. `ready` is what it said first; `run(program)` gives the seconds that one run of it took."""

    def __init__(self, candidate: str, command: Sequence[str]):
        self.candidate = candidate
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        environment = MEMORY | os.environ | MALLOC | {"COMPILE_CACHE": "off", "OMP_NUM_THREADS": str(cores)}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # compile times are those of a first run
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([*command], stdin=pipe, stdout=pipe, text=True, env=environment, cwd=ROOT)
        self.ready = self.read()

    def read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker for {self.candidate} ended with {self.process.wait()}: see above")
        return json.loads(line)

    def run(self, program: str) -> float:
        self.process.stdin.write(f"{program}\n")
        self.process.stdin.flush()
        return self.read()["seconds"]

    def close(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def jax_command(module: str, *words: str) -> list[str]:
    return [sys.executable, "-m", module, *words]


def torch_command(module: str, *words: str) -> list[str]:
    """The same by the Python of PyTorch's own environment. Raises InputError where that is missing."""
    path = Path(os.environ.get("PEERS_PYTHON") or ROOT / ".venv-peers" / "bin" / "python")
    if not path.exists():
        raise InputError(f"{path.name}: no environment for PyTorch: run `make .venv-peers`, or set PEERS_PYTHON")
    return [str(path), "-m", module, *words]


def same_device(workers: Mapping[str, Worker]) -> None:
    """Raises RuntimeError where the candidates run on different devices, as a PyTorch without CUDA beside JAX on a GPU."""
    found = {name: worker.ready["device"] for name, worker in workers.items()}
    if len({device == "cpu" for device in found.values()}) > 1:
        raise RuntimeError(f"the candidates run on different devices: {found}")


def take_turns(workers: Mapping[str, Worker], program: str, rounds: int, warm_up: int = 2) -> dict[str, list[float]]:
    """Seconds of each run of `program`, the workers in turn."""
    times: dict[str, list[float]] = {name: [] for name in workers}
    for turn in range(-warm_up, rounds):
        for name, worker in workers.items():
            seconds = worker.run(program)
            if turn >= 0:
                times[name].append(seconds)
    return times


def serve(ready: dict[str, Any], programs: Mapping[str, Callable[[], Any]]) -> None:
    """A worker's side: a line for `ready`, then a timed turn of the program named by each line read, until the input ends."""
    print(json.dumps(ready), flush=True)
    repeats: dict[str, int] = {}
    for line in sys.stdin:
        name = line.strip()
        begin = time.perf_counter()
        for _ in range(repeats.get(name, 1)):
            programs[name]()
        seconds = (time.perf_counter() - begin) / repeats.get(name, 1)
        repeats[name] = max(1, round(TURN / max(seconds, 1e-6)))
        print(json.dumps({"seconds": seconds}), flush=True)
