"""Every test runs with 8 CPU devices, checked shapes and strict broadcasting, and shares one compilation cache."""

import os
import sys
from pathlib import Path

os.environ.setdefault("COMPILE_CACHE", str(Path.home() / ".cache" / "unet-lstm-tests"))

from jaxtyping import install_import_hook

import tests.checker  # noqa: F401  the hook finds it by name
from experiments import launch  # noqa: F401  sets the compilation cache before jax is imported

install_import_hook(["common", "unet", "lstm"], "tests.checker.checked").__enter__()

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
# Eight devices on few cores: two programs with collectives in flight at once can wait for each other's threads for ever.
jax.config.update("jax_cpu_enable_async_dispatch", False)
jax.config.update("jax_numpy_rank_promotion", "raise")

DATA = Path(os.environ.get("DATA_ROOT", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def data_root():
    """The folder of real data sets; tests that use it skip where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}: set DATA_ROOT")
    return DATA


@pytest.fixture
def x64():
    """Float64 for one test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def python():
    """The interpreter, for tests that start processes."""
    return sys.executable
