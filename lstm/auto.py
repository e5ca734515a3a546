"""Which implementation of the recurrence runs: what each supports, and a small table of what was measured."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from common.mesh import over_runs
from lstm.cells import LSTM, Cell


class Choice(NamedTuple):
    """What `auto` picked, and why, in one line."""

    implementation: str
    unroll: int
    why: str


class Row(NamedTuple):
    """A measured shape (batch, time, input, hidden) with its fastest implementation and unroll, forward + backward."""

    shape: tuple[int, int, int, int]
    implementation: str
    unroll: int


# Measured by `python -m experiments.bench lstm`, the GPU's on an H100; see docs/decisions.md. A shape takes the row nearest to it.
TABLE: dict[str, list[Row]] = {
    "cpu": [
        Row((32, 100, 128, 256), "custom", 2),
        Row((20, 35, 650, 650), "custom", 2),
        Row((64, 200, 64, 128), "custom", 1),
        Row((8, 1000, 16, 64), "custom", 1),
        Row((1, 1000, 8, 32), "scan", 1),
    ],
    "gpu": [
        Row((32, 100, 128, 256), "custom", 4),
        Row((128, 128, 1024, 1024), "cudnn", 1),
    ],
}


def unsupported(implementation: str, cell: Cell, needs: Mapping[str, bool], dtype: str) -> str:
    """The first of what is asked for that `implementation` does not support; '' where it supports all."""
    if implementation in ("scan", "hoisted"):
        return ""
    if not isinstance(cell, LSTM):
        return f"the {type(cell).__name__} cell"
    if not cell.plain:
        changed = [name for name, value in vars(cell).items() if value != getattr(LSTM(1), name)]
        return ", ".join(f"{n}={getattr(cell, n)}" for n in changed if n not in ("hidden", "forget_bias"))
    if implementation == "custom":
        return "zoneout" if needs["zoneout"] else ""
    if jax.default_backend() not in ("gpu", "cuda"):
        return f"the backend {jax.default_backend()!r}"
    if jnp.dtype(dtype) != jnp.float32:
        return f"dtype={dtype}"
    if over_runs():
        return "several runs in one program (jax.experimental.rnn has no batching rule)"
    return next((name for name in ("mask", "resets", "recurrent_mask", "zoneout") if needs[name]), "")


def choose(cell: Cell, shape: tuple[int, int, int, int], needs: Mapping[str, bool], dtype: str = "float32") -> Choice:
    """The implementation for a cell, a shape (batch, time, input, hidden) and what is needed, and why."""
    backend = jax.default_backend()
    lacking = unsupported("custom", cell, needs, dtype)
    if lacking:
        name = "scan" if backend == "cpu" else "hoisted"
        return Choice(name, unroll(name, shape), f"custom does not support {lacking}")
    if backend not in TABLE:
        return Choice(
            "custom",
            unroll("custom", shape),
            f"nothing is measured on {backend!r}; few operations a step are usually fastest there",
        )
    row = min(TABLE[backend], key=lambda row: distance(row.shape, shape))
    lacking = unsupported(row.implementation, cell, needs, dtype)
    if lacking:
        return Choice("custom", unroll("custom", shape), f"{row.implementation} does not support {lacking}")
    return Choice(
        row.implementation, row.unroll, f"fastest at {row.shape} on {backend}, the measured shape nearest to {shape}"
    )


def distance(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """Between two shapes, in logarithms; the state (batch x hidden) decides most."""
    logs = lambda s: (2 * math.log(max(s[0] * s[3], 1)), 0.5 * math.log(s[1]), 0.5 * math.log(max(s[2], 1)))
    return sum((x - y) ** 2 for x, y in zip(logs(a), logs(b), strict=True))


def unroll(implementation: str, shape: tuple[int, int, int, int]) -> int:
    """Steps in one turn of the loop, where nobody says."""
    if implementation != "custom":
        return 1
    if jax.default_backend() != "cpu":
        return 4
    return 2 if shape[0] * shape[3] >= 4096 else 1
