"""What a number needs beside it: machine, versions, commit; and the one frame of experiments/results/*.json."""

import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from common.files import write_text

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "ml-collections",
    "numpy",
    "scipy",
)


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory in GB, accelerators, system."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9 if hasattr(os, "sysconf") else None
    accelerators = [d.device_kind for d in jax.devices() if d.platform != "cpu"]
    return {
        "processor": model,
        "cores": cores(),
        "memory_gb": round(memory, 1) if memory else None,
        "accelerators": accelerators,
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Python's version and those of the packages that compute."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        found[name] = importlib.metadata.version(name)
    return found


def commit() -> str:
    """The commit of this checkout, '-dirty' where tracked files differ from it; '' outside git."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")


def finite(tree: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(tree, Mapping):
        return {name: finite(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    if isinstance(tree, float | np.floating):
        return float(tree) if math.isfinite(tree) else None
    return tree


def write_json(path: Path, tree: Any) -> None:
    """Writes a tree of plain values as JSON; the file is whole or not there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(finite(tree), indent=1, allow_nan=False) + "\n")


def write_result(
    path: Path,
    *,
    name: str,
    config: Any,
    overrides: Sequence[str],
    command: str,
    minutes: float,
    seeds: Sequence[int],
    scores: Mapping[str, Sequence[float]],
    selected_on: str,
    curve: Sequence[Mapping[str, Any]],
    **more: Any,
) -> None:
    """Writes a measured result. scores: name -> one value for each seed; mean and spread (n - 1) are added here."""
    table = {}
    for score, values in scores.items():
        values = [float(v) for v in values]
        std = float(np.std(values, ddof=1)) if len(values) > 1 else None
        table[score] = {"mean": float(np.mean(values)), "std": std, "values": values}
    write_json(
        path,
        {
            "name": name,
            "config": config,
            "overrides": list(overrides),
            "command": command,
            "commit": commit(),
            "machine": machine(),
            "versions": versions(),
            "minutes": round(minutes, 2),
            "seeds": list(seeds),
            "scores": table,
            "selected_on": selected_on,
            "curve": list(curve),
            **more,
        },
    )
