"""Where runs of a sweep go on this machine: one slot for each GPU, or for a number of CPU cores."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence

from common.errors import InputError

# By these a process would take itself for one of many that train one run. A run of a sweep is alone in its process, also
# where the launcher is a task of SLURM, MPI or Kubernetes.
MANY = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "JOB_COMPLETION_INDEX")


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place for one process: its GPU (empty: none), the share of the GPU's memory it may take, its CPU cores (empty: any)."""

    gpu: str = ""
    share: float = 1.0
    cores: Sequence[int] = ()

    @property
    def name(self) -> str:
        return f"GPU {self.gpu}" if self.gpu else f"{len(self.cores)} cores" if self.cores else "CPU"

    @contextlib.contextmanager
    def pinned(self) -> Iterator[None]:
        """Processes that are started inside stay on the slot's cores (where the system can do that: Linux)."""
        if not self.cores or not hasattr(os, "sched_setaffinity"):
            yield
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cores)  # a new process has what the thread has that starts it
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """`environ`, with what keeps a process to this slot; what the user has set stays."""
        environ = {name: value for name, value in environ.items() if name not in MANY}
        own = {}
        if self.gpu:
            own["CUDA_VISIBLE_DEVICES"] = self.gpu
            if self.share < 1:
                own["XLA_PYTHON_CLIENT_MEM_FRACTION"] = environ.get(
                    "XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 * self.share:.3f}"
                )
        if self.cores:
            own |= {
                name: str(len(self.cores)) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
            }
        return {**environ, **own}


def make_slots(processes: int, threads: int, gpus: Sequence[str], cores: Sequence[int]) -> list[Slot]:
    """One slot for each process. 0 processes: one for each GPU; without GPUs, one for every `threads` cores (0: every 4).

    More processes than GPUs share them. Raises InputError for a negative number, or more threads than there are cores.
    """
    if processes < 0 or threads < 0:
        raise InputError(f"--processes {processes} --threads {threads}: expected numbers above 0")
    if threads > len(cores):
        raise InputError(f"--threads {threads}: this machine gives {len(cores)} cores to a process")
    count = processes or len(gpus) or max(1, len(cores) // (threads or 4))
    if gpus:
        share = 1 / -(-count // len(gpus))
        pinned = [parts(cores, threads, i) if threads else () for i in range(count)]
        return [Slot(gpus[i % len(gpus)], share, pinned[i]) for i in range(count)]
    width = threads or max(1, len(cores) // count)
    return [Slot(cores=parts(cores, width, i)) for i in range(count)]


def parts(cores: Sequence[int], width: int, place: int) -> tuple[int, ...]:
    """`width` cores for the process number `place`; after the last core comes the first."""
    return tuple(sorted(cores[(place * width + i) % len(cores)] for i in range(width)))


def find_cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
