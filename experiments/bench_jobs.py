"""bench jobs: lines a second of a live feed of jobs, and its memory as lines go by; and how fast a log is read."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lstm.data.jobs import read_jobs
from lstm.data.made_jobs import made_jobs, write_swf

USERS = 10_000
LINES = int(os.environ.get("BENCH_LINES", "1_000_000"))
SPILLED = LINES // 10  # lines of the run in which most users are not in memory
NEAR = USERS // 20
PARTS = 10  # of a feed, each timed


def measure(peers: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """A row for each feed, and one for reading. Each is a process of its own and runs once, whatever `rounds`."""
    with tempfile.TemporaryDirectory() as folder:
        log, run = Path(folder) / "made.swf", Path(folder) / "run"
        write_swf(log, (made.job for made in made_jobs(seed=1, users=USERS, jobs=LINES, chances=False)))
        train = ["--config", "configs/lstm_jobs.py", "--config.loop.duration=20 steps", "--quiet"]
        start("train", *train, "--workdir", str(run)).wait()
        begin = time.perf_counter()
        jobs = sum(len(block) for block in read_jobs(log))
        seconds = time.perf_counter() - begin
        whole = feed(f"{LINES:,} lines of {USERS:,} users", run, log, LINES, [])
        some = feed(f"{SPILLED:,} lines, {NEAR} users in memory", run, log, SPILLED, ["--near", str(NEAR)])
        return [whole, some, {"case": "reading the log alone", "jobs_per_second": jobs / seconds}]


def start(module: str, *arguments: str, **pipes: Any) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", f"experiments.{module}", *arguments], **pipes)


def feed(case: str, run: Path, log: Path, lines: int, more: list[str]) -> dict[str, Any]:
    """Rates and memory of a feed that is given the first `lines` jobs of a log as fast as it takes them."""
    state = run / f"{lines}.sqlite"
    arguments = ["--workdir", str(run), "--input", "-", "--state", str(state), *more]
    process = start("predict", *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    writer = subprocess.Popen(["head", "-n", str(lines), str(log)], stdout=process.stdin)
    process.stdin.close()
    times, memory = [], []
    for count, _ in enumerate(answers(process)):
        if count % (lines // PARTS) == 0:
            times.append(time.perf_counter())
            memory.append(resident(process.pid))
    peak = max(memory)
    process.wait()
    writer.wait()
    rates = [lines / PARTS / (b - a) for a, b in zip(times, [*times[1:], time.perf_counter()], strict=True)]
    return {
        "case": case,
        "jobs_per_second": count / (time.perf_counter() - times[0]),
        "slowest_tenth": min(rates),
        "memory_at_a_tenth_mb": memory[1],
        "memory_at_half_mb": memory[PARTS // 2],
        "memory_at_the_end_mb": memory[-1],
        "peak_mb": peak,
        "state_file_mb": state.stat().st_size / 1e6,
    }


def answers(process: subprocess.Popen) -> Iterator[bytes]:
    """The lines that a feed writes after its first."""
    next(process.stdout)
    yield from process.stdout


def resident(process: int) -> float:
    """MB that a process holds."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1000
    raise RuntimeError(f"process {process} tells nothing of its memory")
