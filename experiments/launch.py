"""Sets a process up before jax is imported, and turns exceptions into exit codes. Import this first in an entry point."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from common.errors import InputError

STOPPED = 75  # EX_TEMPFAIL: saved after SIGTERM or SIGINT; the same command goes on


def prepare_process() -> None:
    """Allocator thresholds and the compilation cache. (What XLA needs to be told, a Task says for its own programs.)"""
    if "jax" in sys.modules:
        raise RuntimeError("experiments.launch must be imported before jax")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    keep_freed_memory()
    cache = os.environ.get("COMPILE_CACHE", str(Path.home() / ".cache" / "unet-lstm"))
    if cache != "off":
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def keep_freed_memory() -> None:
    """glibc gives XLA's big temporary buffers back to the system after every call, and the next call faults them in
    again; with these thresholds it keeps them (docs/decisions.md). Nothing happens where the C library is another."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version"):
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)


def run(main: Callable[[list[str]], int | None]) -> None:
    """Runs an entry point: 0 done, 1 bad input (one line), 2 wrong usage, 75 stopped after saving."""
    try:
        code = main(sys.argv[1:])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    sys.exit(code or 0)


prepare_process()
