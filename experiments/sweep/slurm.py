"""The SLURM launcher: an array of jobs by submitit; each does what a process of the local launcher does.

A run of a list is a job; of a study, each job is a local launcher that takes trials until there are none. Before a job's
time is over, and where it is preempted, its run saves, and the job goes back into the queue: the same run goes on there.
"""

import argparse
import contextlib
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import InputError
from common.files import write_text
from experiments.sweep.book import Book
from experiments.sweep.runs import FAILED, Run, alone, worker_command
from experiments.sweep.table import Screen, counted

ARRAY = 1000  # jobs in one array at most: SLURM's own limit is 1001 unless the site has set another
POLL = 5.0  # seconds between two looks at the queue


class Job:
    """What a job does: `command` as a process of its own. submitit calls `checkpoint` before the job loses its node."""

    def __call__(self, command: Sequence[str], log: str) -> int:
        with Path(log).open("a") as file:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        while self.process.poll() is None:
            time.sleep(0.2)
        if self.process.returncode == FAILED:
            raise RuntimeError(f"failed: the last lines of {log} say why")  # so that SLURM's own tables show it, too
        return self.process.returncode

    def checkpoint(self, command: Sequence[str], log: str):
        """Lets the process save and end; gives what the requeued job is to do."""
        from submitit.helpers import DelayedSubmission

        self.process.send_signal(signal.SIGTERM)
        # Not wait(): this is a signal's handler, and poll() in the code that it interrupts may hold Popen's own lock.
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while self.process.returncode is None and os.waitid(os.P_PID, self.process.pid, flags) is None:
            time.sleep(0.1)
        return DelayedSubmission(Job(), command, log)


def launch(book: Book, flags: argparse.Namespace, units: Sequence[Sequence[Run]]) -> str:
    """Submits what is neither finished nor in the queue already; gives a line that says so. Raises InputError where SLURM
    or submitit is missing, or refuses."""
    arrays = []
    with alone(book.workdir):
        jobs = read_jobs(book.workdir)
        busy = queued(book.workdir)
        if book.study:
            names = [[f"worker-{i}"] for i in range(min(flags.parallel, book.study.trials))]
            work = [(study_command(flags), str(book.workdir / "slurm" / f"{name}.log")) for [name] in names]
        else:
            names = [[run.name for run in unit] for unit in units]
            work = [(worker_command(unit), str(unit[0].folder / "log.txt")) for unit in units]
        new = [(n, w) for n, w in zip(names, work, strict=True) if not busy & set(n)]
        for start in range(0, len(new), ARRAY):
            part = new[start : start + ARRAY]
            ids = submit(book, flags, [w for _, w in part])
            arrays.append(ids[0].partition("_")[0])
            jobs |= {name: job for (owned, _), job in zip(part, ids, strict=True) for name in owned}
            write_text(book.workdir / "slurm" / "jobs.json", json.dumps(jobs, indent=1) + "\n")
    said = [f"submitted {counted(len(new), 'job')} (SLURM's {', '.join(arrays)})"] if new else []
    if old := len(names) - len(new):
        said.append(f"{old} {'is' if old == 1 else 'are'} in the queue already")
    return ", ".join(said) or "nothing to submit"


def submit(book: Book, flags: argparse.Namespace, work: Sequence[tuple[list[str], str]]) -> list[str]:
    """One array; the ids of its jobs."""
    try:
        import submitit
    except ImportError:
        raise InputError("--launcher slurm needs submitit: pip install 'submitit>=1.5' (the extra `sweep`)") from None
    for program in ("sbatch", "srun"):
        if not shutil.which(program):
            raise InputError(
                f"--launcher slurm: no {program} on this machine; start the sweep where jobs are submitted"
            )
    folder = book.workdir / "slurm"
    folder.mkdir(parents=True, exist_ok=True)
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=10_000)
    executor.update_parameters(**parameters(book, flags))
    before, heard = set(folder.iterdir()), io.StringIO()
    try:
        with contextlib.redirect_stderr(heard):  # submitit prints there what the error below says
            jobs = executor.map_array(Job(), *zip(*work, strict=True))
        sys.stderr.write(heard.getvalue())
        return [job.job_id for job in jobs]
    except submitit.core.utils.FailedJobError as error:
        for path in set(folder.iterdir()) - before:  # a file for each job, which nobody reads now
            path.unlink()
        raise InputError(f"--launcher slurm: sbatch refused: {' '.join(str(error).split())}") from None


def parameters(book: Book, flags: argparse.Namespace) -> dict:
    """What submitit is told. Raises InputError for a --slurm that is not KEY=VALUE."""
    more = {"requeue": True}
    for word in flags.slurm:
        key, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"--slurm {word}: expected KEY=VALUE, an option of sbatch like account=me or mem=8G")
        more[key.lstrip("-")] = value
    given = {
        "name": book.workdir.resolve().name,
        "timeout_min": math.ceil(flags.time / 60),
        "slurm_array_parallelism": flags.parallel,
        "slurm_additional_parameters": more,
    }
    if flags.partition:
        given["slurm_partition"] = flags.partition
    if flags.gpus:
        given["gpus_per_node"] = flags.gpus
    if flags.cpus:
        given["cpus_per_task"] = flags.cpus
    return given


def study_command(flags: argparse.Namespace) -> list[str]:
    words = ["--sweep", flags.sweep, "--workdir", str(flags.workdir), "--processes", "1", *flags.given]
    return [sys.executable, "-m", "experiments.sweep", *words]


def read_jobs(workdir: Path) -> dict[str, str]:
    """{name of a run, or worker of a study: its job}."""
    path = workdir / "slurm" / "jobs.json"
    return json.loads(path.read_text()) if path.exists() else {}


def queued(workdir: Path) -> set[str]:
    """Names of the runs (or workers) whose job is in SLURM's queue, waiting or running."""
    jobs: Mapping[str, str] = read_jobs(workdir)
    if not jobs:
        return set()
    try:
        told = subprocess.run(["squeue", "-h", "-r", "-o", "%i"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(f"{workdir}: has jobs in SLURM, but squeue does not answer here: {error}") from None
    alive = set(told.stdout.split())
    return {name for name, job in jobs.items() if job in alive}


def wait(screen: Screen, workdir: Path) -> bool:
    """Shows the table until no job is left in the queue; false where Ctrl-C ended that: the jobs go on."""
    with screen:
        try:
            while queued(workdir):
                screen.refresh()
                time.sleep(POLL)
        except KeyboardInterrupt:
            screen.say("the jobs go on; the same command with --status shows them, scancel stops them")
            return False
    return True
