"""bench unet_ops: the layers of unet/ops.py beside nn.ConvTranspose, nn.max_pool and nn.Conv, forward + backward."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from common.record import cores
from unet import ops
from unet.ops import compiler_options

UP_CONVS = [((1, 128, 128, 128), 64), ((2, 32, 32, 256), 128)]
POOLS = [(1, 256, 256, 64), (2, 64, 64, 128)]
CONVS = [((2, 256, 256, 32), 32), ((2, 128, 128, 64), 64), ((2, 64, 64, 128), 128), ((2, 32, 32, 256), 256)]
CONVS += [((2, 16, 16, 512), 512), ((2, 256, 256, 64), 32)]
LARGE = 16  # times the batch: sizes that fill a GPU


def cases(times: int = 1) -> list[tuple[str, tuple, tuple | None, Callable, Callable]]:
    """(name, input shape, kernel shape, our layer, Flax's): layers are functions of input and kernel."""
    found: list[tuple[str, tuple, tuple | None, Callable, Callable]] = []
    more = lambda shape: (times * shape[0], *shape[1:])
    for shape, out in UP_CONVS:
        shape = more(shape)
        layer = nn.ConvTranspose(out, (2, 2), (2, 2), padding="VALID", use_bias=False)
        kernel = (2, 2, shape[-1], out)
        found.append((f"up-conv {text(shape)} -> {out}", shape, kernel, ops.up_conv2, stock(layer)))
    for shape in map(more, POOLS):
        pool = lambda x, _: nn.max_pool(x, (2, 2), (2, 2))
        found.append((f"max pool {text(shape)}", shape, None, lambda x, _: ops.max_pool2(x), pool))
    for shape, out in CONVS:
        shape = more(shape)
        layer = nn.Conv(out, (3, 3), use_bias=False)
        found.append((f"conv 3x3 {text(shape)} -> {out}", shape, (3, 3, shape[-1], out), ops.conv3x3, stock(layer)))
    return found


def stock(layer: nn.Module) -> Callable:
    layer = layer.clone(dtype=None)  # computes in the dtype of its arguments
    return lambda x, kernel: layer.apply({"params": {"kernel": kernel}}, x)


def text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def measure(peers: Sequence[str], rounds: int, large: bool = False) -> list[dict[str, Any]]:
    """One row a case, dtype and candidate: median and fastest seconds of value and gradients, compile seconds."""
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are those of a first run
    rows = []
    for dtype in ("float32", "bfloat16"):
        for name, shape, kernel_shape, ours, flax in cases(LARGE if large else 1):
            random = np.random.default_rng(0)
            arguments = [jnp.asarray(random.normal(size=s), dtype) for s in (shape, kernel_shape) if s is not None]
            layers = {"ours": ours} | ({"flax": flax} if "flax" in peers else {})
            programs = {c: compiled(layer, arguments, dtype) for c, layer in layers.items()}
            times = take_turns({c: program for c, (program, _) in programs.items()}, rounds)
            for candidate, (_, compile_seconds) in programs.items():
                rows.append(row(f"{name}, {dtype}", candidate, times[candidate], compile_seconds))
    return rows


def row(
    case: str, candidate: str, times: Sequence[float], compile_seconds: float | None, **more: Any
) -> dict[str, Any]:
    return {
        "case": case,
        "candidate": candidate,
        "seconds": float(np.median(times)),
        "fastest": min(times),
        "compile_seconds": compile_seconds,
        "threads": cores(),
        **more,
    }


def compiled(layer: Callable, arguments: Sequence[jax.Array], dtype: str) -> tuple[Callable[[], None], float]:
    """A function that runs the layer's value and gradients once, and the seconds its compilation took."""
    x, kernel = (*arguments, None)[:2]
    grad = jnp.asarray(np.random.default_rng(1).normal(size=jax.eval_shape(layer, x, kernel).shape), dtype)

    def run(x, kernel, grad):
        value, pull = jax.vjp(layer, x, kernel)
        return value, pull(grad)

    begin = time.perf_counter()
    program = jax.jit(run, compiler_options=compiler_options(dtype)).lower(x, kernel, grad).compile()
    compile_seconds = time.perf_counter() - begin
    return (lambda: jax.block_until_ready(program(x, kernel, grad)) and None), compile_seconds


def take_turns(programs: dict[str, Callable[[], Any]], rounds: int, warm_up: int = 2) -> dict[str, list[float]]:
    """Seconds of each call, candidates in turn."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(-warm_up, rounds):
        for name, program in programs.items():
            begin = time.perf_counter()
            program()
            if turn >= 0:
                times[name].append(time.perf_counter() - begin)
    return times
