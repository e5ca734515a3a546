"""NVIDIA GPUs of this machine, found without opening one: a process that opens a GPU takes its memory."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path


def find_gpus(environ: Mapping[str, str]) -> list[str]:
    """The GPUs that a process may see, as CUDA_VISIBLE_DEVICES names them."""
    if environ.get("JAX_PLATFORMS", "") == "cpu":
        return []
    if "CUDA_VISIBLE_DEVICES" in environ:
        return [name for name in environ["CUDA_VISIBLE_DEVICES"].replace(" ", "").split(",") if name not in ("", "-1")]
    if tool := shutil.which("nvidia-smi"):
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
        if listed.returncode == 0:
            return [str(i) for i in range(sum(line.startswith("GPU ") for line in listed.stdout.splitlines()))]
    driver = Path("/proc/driver/nvidia/gpus")
    return [str(i) for i in range(len(list(driver.iterdir())))] if driver.is_dir() else []
