"""The local launcher: a queue of runs, one process in each slot, a clean end when it is asked to stop."""

import dataclasses
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence

from experiments.sweep.runs import (
    HELD,
    STOPPED,
    TO_DO,
    Run,
    State,
    last_words,
    note_pruned,
    startable,
    status,
    worker_command,
)
from experiments.sweep.slots import Slot
from experiments.sweep.table import Screen

TURN = 0.1  # seconds between two looks at the processes
LOOK = 1.0  # and between two looks into the folders of those that run


@dataclasses.dataclass(frozen=True)
class Source:
    """Where runs come from. take: the next ones, to be trained in one process, or None. watch: true where a run is to be
    pruned. done: is told each run that has ended, however it did."""

    take: Callable[[], Sequence[Run] | None]
    watch: Callable[[Run, State], bool] = lambda run, state: False
    done: Callable[[Run, State], None] = lambda run, state: None


@dataclasses.dataclass
class Child:
    runs: Sequence[Run]
    slot: Slot
    process: subprocess.Popen
    pruned: bool = False


class Stop:
    """Whether a signal has asked to stop: SIGINT, SIGTERM, or SIGUSR2, which SLURM sends before a job's time is over.
    `kill`: SIGINT came after that."""

    def __enter__(self) -> "Stop":
        self.asked = self.kill = False
        self.old = {s: signal.signal(s, self.catch) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
        return self

    def catch(self, number, frame) -> None:
        self.kill = self.kill or (self.asked and number == signal.SIGINT)
        self.asked = True

    def __exit__(self, *_) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)


def list_source(units: Sequence[Sequence[Run]], retry: bool = False) -> Source:
    """What is left of a list: each run is looked at again right before it starts, as other launchers may share the list."""
    queue = deque(units)
    allowed = startable(retry)

    def take() -> Sequence[Run] | None:
        while queue:
            if runs := [run for run in queue.popleft() if status(run.folder) in allowed]:
                return runs
        return None

    return Source(take)


def launch_local(source: Source, slots: Sequence[Slot], screen: Screen) -> bool:
    """Runs everything that `source` gives; true where a signal stopped it.

    The first SIGINT or SIGTERM stops all runs, which save; a SIGINT after that kills them.
    """
    free, children = list(slots), []
    told, looked = None, 0.0
    with Stop() as stop, screen:
        while True:
            while free and not stop.asked and (runs := source.take()):
                children.append(start(runs, free.pop(0)))
                screen.started(runs, children[-1].slot.name)
            if not children:
                return stop.asked
            time.sleep(TURN)
            due = signal.SIGKILL if stop.kill else signal.SIGTERM if stop.asked else None
            if due != told:
                told = due
                screen.say("killed" if stop.kill else "stopping: the runs save and end; Ctrl-C again kills them")
                for child in children:
                    child.process.send_signal(due)
            for child in [c for c in children if c.process.poll() is not None]:
                children.remove(child)
                free.append(child.slot)
                settle(child, source, screen)
            if time.monotonic() - looked > LOOK:
                looked = time.monotonic()
                look(children, source, screen)


def start(runs: Sequence[Run], slot: Slot) -> Child:
    """A worker for the runs; it has a session of its own, so that Ctrl-C reaches it through the launcher alone."""
    command = [*worker_command(runs), "--parent", str(os.getpid())]
    with (runs[0].folder / "log.txt").open("a") as log, slot.pinned():
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=slot.environment(os.environ),
            start_new_session=True,
        )
    return Child(runs, slot, process)


def look(children: Sequence[Child], source: Source, screen: Screen) -> None:
    """Reads how far the running ones are; stops those that are to be pruned."""
    screen.refresh()
    for child in children:
        if not child.pruned and source.watch(child.runs[0], screen.states[child.runs[0].name]):
            child.pruned = True
            child.process.send_signal(signal.SIGTERM)


def settle(child: Child, source: Source, screen: Screen) -> None:
    """What is due once a process has ended."""
    for run in child.runs:
        if child.pruned and status(run.folder) in ("stopped", "killed"):
            note_pruned(run.folder)
        code = child.process.returncode
        if code > 0 and code not in (STOPPED, HELD) and status(run.folder) in TO_DO:
            screen.say(f"{run.name}: could not start: {last_words(run.folder)}")
        screen.ended(run)
        source.done(run, screen.states[run.name])
