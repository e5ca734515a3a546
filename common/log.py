"""What a run tells: metrics.jsonl, TensorBoard files, a progress bar, run.json."""

import contextlib
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

from common.files import write_text
from common.processes import is_first
from common.record import commit, finite, machine, versions, write_json


class Log:
    """The log of one run folder; `quiet` leaves the screen alone. Of several processes only the first one writes and shows."""

    def __init__(self, workdir: Path, *, start: int, steps: int, quiet: bool = False):
        self.path = Path(workdir) / "metrics.jsonl"
        self.writes = is_first()
        if self.writes:
            cut_after(self.path, start)
            self.file = self.path.open("a")
            self.board = SummaryWriter(str(Path(workdir) / "tensorboard"), purge_step=start + 1 if start else None)
        self.console = Console(stderr=True)
        self.quiet = quiet = quiet or not self.writes
        self.steps = steps
        columns = (
            TextColumn("{task.description}", markup=False),
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
        if not self.writes:
            return
        line = {"step": step, "split": split, **finite({name: float(value) for name, value in scores.items()})}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        for name, value in scores.items():
            if math.isfinite(value):
                self.board.add_scalar(f"{split}/{name}", float(value), step)
        if self.progress and split == "train":
            self.progress.update(self.bar, note=note)
        elif note:
            self.say(f"step {step}/{self.steps}  {note}")

    def say(self, text: str, *, always: bool = False) -> None:
        """A line on the screen (above the bar); `always`: also where it is quiet."""
        if not self.quiet or (always and self.writes):
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self.progress:
            self.progress.stop()
        if self.writes:
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
    write_text(path, "".join(f"{line}\n" for line in kept))


def write_run_json(workdir: Path, *, seed: int, command: list[str], **more: Any) -> None:
    """run.json: how this run was started, and where. Written at each start, by the first process; `starts` counts them."""
    if not is_first():
        return
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
    return ["python", "-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]] if spec else ["python", *sys.argv]


class Clock:
    """The time of a run, without evaluating and saving: examples per second, share of it waited for data, minutes."""

    NAMES = (
        "examples_per_second",
        "waited_for_data",
    )  # of a log line: the only ones that differ between two equal runs

    def __init__(self, start: int, minutes: float):
        self.began = time.perf_counter()
        self.before = minutes
        self.busy = self.waited = 0.0  # seconds since the first step, which compiles
        self.mark: tuple[float, float, int] | None = None  # time, seconds waited and step of the last log line
        self.start = start

    def first_step(self, metrics, batches) -> None:
        """After each step; waits for the first one, so that its compilation is in no rate."""
        if self.mark is None:
            jax.block_until_ready(metrics)
            self.mark = (time.perf_counter(), batches.waited, self.start + 1)

    @contextlib.contextmanager
    def pause(self):
        began = time.perf_counter()
        yield
        at, waited, step = self.mark
        self.mark = (at + time.perf_counter() - began, waited, step)

    def window(self, step: int, batch_size: int, batches) -> dict[str, float]:
        """Rate and share since the last log line; NaN where that was before the first step."""
        at, waited, last = self.mark
        busy, wait = time.perf_counter() - at, batches.waited - waited
        self.mark = (time.perf_counter(), batches.waited, step)
        self.busy, self.waited = self.busy + busy, self.waited + wait
        if step == last:
            return dict.fromkeys(self.NAMES, math.nan)
        return {"examples_per_second": (step - last) * batch_size / busy, "waited_for_data": wait / busy}

    def minutes(self) -> float:
        return self.before + (time.perf_counter() - self.began) / 60

    def report(self) -> str:
        share = self.waited / self.busy if self.busy else 0.0
        return f"{self.minutes():.1f} minutes; steps waited for data {share:.1%} of their time"
