"""Sets a process up before jax is imported, and turns exceptions into exit codes. Import this first in an entry point."""

import ctypes
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from common.errors import InputError

STARTED = time.monotonic()  # a time limit counts from here


def prepare_process() -> None:
    """Allocator thresholds and the compilation cache. (What XLA needs to be told, a Task says for its own programs.)"""
    if "jax" in sys.modules:
        raise RuntimeError("experiments.launch must be imported before jax")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    keep_freed_memory()
    # Programs that ask for oneDNN cannot be cached (docs/decisions.md): no news to who runs them, and it reads like a lack of memory.
    warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry.*std::bad_alloc", UserWarning)
    cache = os.environ.get("COMPILE_CACHE", str(Path.home() / ".cache" / "unet-lstm"))
    if cache != "off":
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    if virtual_devices(os.environ) > 1:
        import jax  # its configuration alone: no environment variable sets this

        # On few cores two programs with collectives in flight can wait for each other's threads for ever: one at a time.
        # jax reads this once, when it opens the CPU: too late where a mesh is made.
        jax.config.update("jax_cpu_enable_async_dispatch", False)


def virtual_devices(environ: Mapping[str, str]) -> int:
    """How many devices the CPU is asked to be, by XLA_FLAGS or JAX_NUM_CPU_DEVICES."""
    forced = re.findall(r"--xla_force_host_platform_device_count=(\d+)", environ.get("XLA_FLAGS", ""))
    asked = environ.get("JAX_NUM_CPU_DEVICES", "").strip()
    return max(int(forced[-1]) if forced else 1, int(asked) if asked.isdigit() else 1)


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
    line = ""
    # Those that never came as far as common.processes have no others to tell; importing it here would bring jax to --help.
    others = lambda: sys.modules.get("common.processes")
    try:
        code = main(sys.argv[1:])
    except InputError as error:
        line = str(error)
        print(f"error: {line}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        line = "interrupted"
        code = 128 + signal.SIGINT
    except RuntimeError as error:
        if others() and type(error).__name__ == "JaxRuntimeError":
            others().await_word()  # a collective fails where another process is gone: the watch knows which, and ends this one
        raise
    if others():
        others().leave(code or 0, line)
    sys.exit(code or 0)


prepare_process()
