"""What a run tells: metrics.jsonl, TensorBoard files, a progress bar, run.json."""

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from common.record import commit, machine, versions, write_json


def number(value: float) -> float | None:
    """JSON has no NaN and no infinity: they become null."""
    return value if math.isfinite(value) else None


class Log:
    """The log of one run folder. Only process 0 makes one that writes; `quiet` leaves the screen alone."""

    def __init__(self, workdir: Path, *, start: int, steps: int, quiet: bool = False):
        self.path = Path(workdir) / "metrics.jsonl"
        cut_after(self.path, start)
        self.file = self.path.open("a")
        self.board = SummaryWriter(str(Path(workdir) / "tensorboard"), purge_step=start + 1 if start else None)
        self.console = Console(stderr=True)
        self.quiet = quiet
        self.steps = steps
        columns = (
            "[progress.description]{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        live = self.console.is_terminal and not quiet
        self.progress = Progress(*columns, console=self.console, transient=True) if live else None
        if self.progress:
            self.progress.start()
            self.bar = self.progress.add_task("step", total=steps, completed=start, note="")

    def tick(self, step: int) -> None:
        if self.progress:
            self.progress.update(self.bar, completed=step)

    def write(self, step: int, split: str, scores: Mapping[str, float], note: str = "") -> None:
        """One line of metrics.jsonl and the same numbers in TensorBoard; `note` goes to the screen."""
        line = {"step": step, "split": split, **{name: number(float(value)) for name, value in scores.items()}}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        for name, value in scores.items():
            if math.isfinite(value):
                self.board.add_scalar(f"{split}/{name}", float(value), step)
        if self.progress and split == "train":
            self.progress.update(self.bar, note=note)
        elif note:
            self.say(f"step {step}/{self.steps}  {note}")

    def say(self, text: str) -> None:
        """A line on the screen (above the bar)."""
        if not self.quiet:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self.progress:
            self.progress.stop()
        self.file.close()
        self.board.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line that a kill cut short is left out."""
    lines = []
    for text in Path(path).read_text().splitlines() if Path(path).exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def cut_after(path: Path, step: int) -> None:
    """Removes the lines after `step`: a resumed run writes them again, the same."""
    if not path.exists():
        return
    kept = [json.dumps(line) for line in read_lines(path) if line["step"] <= step]
    aside = path.with_name(f".{path.name}")
    aside.write_text("".join(f"{line}\n" for line in kept))
    aside.rename(path)


def write_run_json(workdir: Path, *, seed: int, command: list[str], **more: Any) -> None:
    """run.json: how this run was started, and where. Written at each start; `starts` counts them."""
    path = Path(workdir) / "run.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    write_json(
        path,
        {
            "command": " ".join(command),
            "commit": commit(),
            "versions": versions(),
            "machine": machine(),
            "devices": [str(d) for d in jax.devices()],
            "processes": jax.process_count(),
            "seed": seed,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "starts": before.get("starts", 0) + 1,
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            **more,
        },
    )


def command_line() -> list[str]:
    """What the user typed, as `python -m experiments.X ...`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["python", "-m", spec.name, *sys.argv[1:]] if spec else ["python", *sys.argv]


class Clock:
    """Time of the run: examples per second, minutes over all starts, share of time waited for data."""

    def __init__(self, start: int, minutes: float):
        self.started = self.window_start = time.perf_counter()
        self.window_step = start
        self.first = start
        self.before = minutes
        self.paused = 0.0
        self.after_compile: tuple[float, float, float] | None = None

    def step_done(self, step: int, metrics, batches) -> None:
        if self.after_compile is None:  # the first step compiles: the shares are of what comes after it
            jax.block_until_ready(metrics)
            self.window_start, self.window_step = time.perf_counter(), step
            self.after_compile = (time.perf_counter(), batches.waited, self.paused)

    def pause(self):
        return _Pause(self)

    def rate(self, step: int, batch_size: int) -> float:
        now = time.perf_counter()
        rate = (step - self.window_step) * batch_size / max(now - self.window_start, 1e-9)
        self.window_start, self.window_step = now, step
        return rate

    def minutes(self) -> float:
        return self.before + (time.perf_counter() - self.started) / 60

    def report(self, batches) -> str:
        began, waited, paused = self.after_compile
        busy = max(time.perf_counter() - began - (self.paused - paused), 1e-9)
        share = max(batches.waited - waited, 0.0) / busy
        return f"{self.minutes():.1f} minutes; waited for data {share:.1%} of the time between evaluations"


class _Pause:
    """Takes evaluation and saving out of the time that the examples per second are of."""

    def __init__(self, clock: Clock):
        self.clock = clock

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *_) -> None:
        took = time.perf_counter() - self.began
        self.clock.window_start += took
        self.clock.paused += took
