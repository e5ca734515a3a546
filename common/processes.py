"""Several processes as one run: how they find each other, agree on when to stop, and notice when one of them is gone.

jax.distributed connects them; it finds its way under SLURM, Open MPI, Kubernetes and on Cloud TPU, or takes three flags.
What it lacks is a word when a process dies: the others would wait in a collective until they are aborted. common/watch.py
has it.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from common.errors import InputError
from common.gpus import find_gpus
from common.watch import BEAT, LOST, Watch

# Of this process, as jax.distributed is: there can be one of each.
_watch: Watch | None = None
_asked = 0  # how often all processes have asked whether to stop


def start(coordinator: str = "", processes: int = 0, process: int = -1, timeout: int = 300) -> None:
    """Connects this process to the others of its run; does nothing where it is alone. Before jax opens its devices.

    coordinator: HOST:PORT of process 0; processes, process: how many, and which is this. What is not given comes from the
    surroundings: SLURM (srun), Open MPI (mpirun), Kubernetes (an indexed Job), Cloud TPU. timeout: seconds to wait for the
    others. Raises InputError where the flags do not fit, and where the others do not come.
    """
    found = settings(coordinator, processes, process, os.environ)
    if found is None:
        return
    # Two programs with collectives in flight can wait for each other for ever on few cores: one at a time.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    where = found.get("coordinator_address", "the first one's node")
    late = f"the processes of this run did not meet within {timeout} s at {where}"
    timers = threading.Timer(timeout, not_met, (late,)), threading.Timer(10, waiting, (where, timeout))
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        jax.distributed.initialize(**found, initialization_timeout=timeout + 60)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the processes of this run did not meet: {first_line(error)}") from None
    finally:
        for timer in timers:
            timer.cancel()
    if jax.process_count() > 1:
        global _watch
        _watch = Watch(jax.process_index(), jax.process_count(), bytes_of_first)


def waiting(where: str, timeout: int) -> None:
    print(f"waiting for the other processes at {where}, up to {timeout} s", file=sys.stderr, flush=True)


def not_met(line: str) -> None:
    """Ends this process with a line. (When jax's own time is over, it aborts with a stack of C++.)"""
    print(f"error: {line}: is each of them running, and can it be reached there?", file=sys.stderr, flush=True)
    os._exit(1)


def bytes_of_first(text: bytes) -> bytes:
    """The bytes of process 0, as many as these."""
    return bytes(multihost_utils.broadcast_one_to_all(np.frombuffer(text, np.uint8)))


def text_of_first(text: str) -> str:
    """The text of process 0."""
    if jax.process_count() == 1:
        return text
    size = agreed(len(text.encode()))
    return bytes_of_first(text.encode()[:size].ljust(size)).decode()


def introduce(mesh: Mapping[str, int]) -> None:
    """A line from each of several processes: who it is, and what all work with."""
    if jax.process_count() == 1:
        return
    own = f"process {jax.process_index()} of {jax.process_count()} ({socket.gethostname()}), {jax.local_device_count()} devices"
    axes = " x ".join(f"{name} {size}" for name, size in mesh.items())
    print(f"{own}; all: {axes}" + ("" if is_first() else "; process 0 reports"), file=sys.stderr, flush=True)


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


def settings(coordinator: str, processes: int, process: int, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """The arguments of jax.distributed.initialize, or None for a process that is alone. Raises InputError for flags that do
    not fit, and where nothing tells what is needed."""
    number = lambda name: int(environ.get(name) or 0)
    if coordinator and ":" not in coordinator:
        raise InputError(f"--coordinator {coordinator}: expected HOST:PORT, like node1:1234")
    method = None
    if number("SLURM_STEP_NUM_TASKS") > 1:
        method, names = "slurm", ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID")
        beside = tasks_on_node(environ.get("SLURM_STEP_TASKS_PER_NODE", ""), number("SLURM_NODEID"))
    elif number("OMPI_COMM_WORLD_SIZE") > 1:
        method, names = "ompi", ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
        beside = number("OMPI_COMM_WORLD_LOCAL_SIZE")
        if not coordinator and "OMPI_MCA_orte_hnp_uri" not in environ:
            raise InputError("Open MPI 5 does not tell where process 0 is: give --coordinator HOST:PORT of its node")
    if processes or process >= 0:
        flags = {"--coordinator": coordinator, "--processes": processes > 0, "--process": process >= 0}
        missing = [flag for flag, value in flags.items() if not value]
        if missing:
            raise InputError(f"{' and '.join(missing)}: missing; {', '.join(flags)} belong together")
        if process >= processes:
            raise InputError(f"--process {process}: of --processes {processes} the last is {processes - 1}")
        if processes == 1:
            return None
        given = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}
        return {**given, "cluster_detection_method": "deactivate"}
    if method:
        count, own, local = (number(name) for name in names)
        gpus = len(find_gpus(environ))
        more = {"local_device_ids": local_devices(gpus, local, beside)} if gpus else {}
        if coordinator:
            given = {"coordinator_address": coordinator, "num_processes": count, "process_id": own}
            return {**given, **more, "cluster_detection_method": "deactivate"}
        return {"cluster_detection_method": method, **more}
    if coordinator:
        raise InputError(
            f"--coordinator {coordinator}: needs --processes and --process too, outside SLURM and Open MPI"
        )
    if "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ:
        return {"cluster_detection_method": "k8s"}
    if "," in environ.get("TPU_WORKER_HOSTNAMES", "") or number("MEGASCALE_NUM_SLICES") > 1:
        return {}
    return None


def tasks_on_node(counts: str, node: int) -> int:
    """The entry of node `node` in SLURM's '4(x2),3'."""
    found = []
    for part in counts.split(",") if counts else []:
        size, _, times = part.partition("(x")
        found += [int(size)] * int(times.rstrip(")") or 1)
    return found[node] if node < len(found) else 1


def local_devices(visible: int, local: int, beside: int) -> list[int]:
    """The GPUs of process `local` of `beside` on a node, of the `visible` ones: all where it is alone or the scheduler has
    dealt them out, else its share. Raises InputError where they do not divide."""
    if beside <= 1 or visible < beside:
        return list(range(visible))
    if visible % beside:
        raise InputError(
            f"{beside} processes on a node that see {visible} GPUs: they do not divide; start one for each GPU, or for all"
        )
    share = visible // beside
    return list(range(local * share, (local + 1) * share))


def doing(what: str) -> None:
    """Notes what this process is at, for the line that names one that hangs. Cheap: nothing is sent."""
    if _watch:
        _watch.note = (what, time.monotonic())


def stall_after(seconds: float) -> None:
    """After how many seconds at one and the same thing a process counts as hanging; 0: never."""
    if _watch:
        _watch.stall = seconds


def leave(code: int, line: str = "") -> None:
    """Says to the others that this process ends on purpose: with 0 or 75 quietly, else with the line that explains it."""
    if _watch:
        _watch.leave(code, line)


def await_word() -> None:
    """After a collective has failed: gives the watch the time to say who is gone, and to end this process."""
    if _watch:
        time.sleep(LOST + 5 * BEAT)


def is_first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        doing(f"waiting for the others at {name!r}")
        multihost_utils.sync_global_devices(name)


def agreed(value: int) -> int:
    """What process 0 has."""
    return int(multihost_utils.broadcast_one_to_all(np.int64(value))) if jax.process_count() > 1 else value


class Signals:
    """SIGTERM and SIGINT ask the loop to save and stop; a second SIGINT stops at once.

    Of several processes each may get the signal; all stop at the same step, which jax's preemption service finds.
    """

    def __enter__(self) -> "Signals":
        self.caught = None
        # The preemption service has a handler of its own for SIGTERM.
        taken = (signal.SIGINT,) if jax.process_count() > 1 else (signal.SIGTERM, signal.SIGINT)
        self.old = {s: signal.signal(s, self.catch) for s in taken}
        return self

    def catch(self, number, frame) -> None:
        if self.caught == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.caught = number
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def stop(self) -> None:
        """As if SIGTERM had come."""
        if self.caught is None:
            self.catch(signal.SIGTERM, None)

    def stop_now(self) -> bool:
        """Whether to stop after this step; to be asked at every step, by all processes."""
        if jax.process_count() == 1:
            return self.caught is not None
        # The service stops at the number after the highest that it was asked with, and at no later one. So it counts the
        # questions: a signal before the first step of a resumed run, or between two runs, is then met too.
        global _asked
        _asked += 1
        return multihost_utils.reached_preemption_sync_point(_asked)

    def __exit__(self, *_) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)
