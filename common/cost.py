"""What a step costs on a device: bytes of each part of its state, and seconds at least, from what makers publish."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from common.collectives import Collective, collectives
from common.errors import InputError
from common.mesh import FSDP, SPACE, batch_shardings, fsdp_axis
from common.program import Program, flops, traffic
from common.state import TrainState
from common.task import Task

GB, TERA = 10**9, 10**12


class Device(NamedTuple):
    """A device as its maker publishes it. float32, bfloat16: FLOP/s of dense matrix products whose arguments are of that
    type, at JAX's default precision (TF32 on GPUs, bfloat16 in one pass on TPUs). memory: bytes; bandwidth: of it, bytes/s.

    link: bytes/s that it sends to the `neighbours` devices of its machine or pod; network: to those beyond.
    """

    float32: float
    bfloat16: float
    memory: float
    bandwidth: float
    link: float
    neighbours: int
    network: float


# Sources. NVIDIA's data sheets of H100 (SXM), H200 (SXM), A100 80GB (SXM) and L4: dense rates, half of those "with sparsity";
# NVLink 900 and 600 GB/s both ways are 450 and 300 one way; PCIe 4.0 x16 for the L4. Network: DGX H100, H200 and A100 user
# guides, one port of 400 or 200 Gb/s for each GPU; 100 Gb/s for 8 L4 of a cloud machine. Google's pages on TPU v5e, v5p and
# v6e: their inter-chip bandwidth both ways (400, 1200, 800 GB/s) is halved; 50, 50 and 100 Gb/s between slices. CPU core:
# two AVX-512 units and AMX at 3 GHz, and what one core draws from memory. Not looked up again, but set down as known: TF32 rates
# (but the A100's), the v6e's bandwidth and links, network rates, the L4's link, and the CPU core.
DEVICES = {
    "H100 SXM": Device(494.7 * TERA, 989.4 * TERA, 80 * GB, 3350 * GB, 450 * GB, 8, 50 * GB),
    "H200 SXM": Device(494.7 * TERA, 989.4 * TERA, 141 * GB, 4800 * GB, 450 * GB, 8, 50 * GB),
    "A100 80GB": Device(156 * TERA, 312 * TERA, 80 * GB, 2039 * GB, 300 * GB, 8, 25 * GB),
    "L4": Device(60.5 * TERA, 121 * TERA, 24 * GB, 300 * GB, 32 * GB, 8, 1.56 * GB),
    "TPU v5e": Device(197 * TERA, 197 * TERA, 16 * GB, 819 * GB, 200 * GB, 256, 6.25 * GB),
    "TPU v5p": Device(459 * TERA, 459 * TERA, 95 * 2**30, 2765 * GB, 600 * GB, 8960, 6.25 * GB),
    "TPU v6e": Device(918 * TERA, 918 * TERA, 32 * GB, 1638 * GB, 400 * GB, 256, 12.5 * GB),
    "CPU core": Device(0.192 * TERA, 6.1 * TERA, 4 * GB, 15 * GB, 15 * GB, 64, 1.56 * GB),
}


class Seconds(NamedTuple):
    """Of one step, at least: compute and memory side by side, then the links."""

    compute: float
    memory: float
    links: float

    @property
    def step(self) -> float:
        return max(self.compute, self.memory) + self.links


def seconds(device: Device, dtype: str, work: float, moved: float, sent: Sequence[Collective], share: float = 1.0):
    """Seconds of a step of `work` FLOPs that moves `moved` bytes in memory and sends what `sent` lists, with no latency.

    share: of the peaks that a step reaches; at 1 no step can be faster. Raises InputError for a dtype without a rate.
    """
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"config.model.dtype={dtype!r}: no device states a rate for it; use 'float32' or 'bfloat16'")
    links = sum(c.times * c.sent / link_of(device, c) for c in sent)
    return Seconds(work / (getattr(device, dtype) * share), moved / (device.bandwidth * share), links)


def link_of(device: Device, collective: Collective) -> float:
    """Bytes/s of the slowest link that a ring of each group needs; devices are numbered machine by machine."""
    near = all(len({member // device.neighbours for member in group}) == 1 for group in collective.groups)
    return device.link if near else device.network


def state_bytes(state: TrainState, task: Task, mesh: Mesh) -> dict[str, tuple[int, int]]:
    """{part: (bytes of the whole, bytes on a device)} of an abstract state with its shardings, and of a batch."""
    laid = batch_shardings(mesh, task.abstract_batch, task.spatial if mesh.shape[SPACE] > 1 else ())
    batch = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=laid[name]) for name, x in task.abstract_batch.items()
    }
    parts = {
        "parameters": state.params,
        "optimizer state": state.opt_state,
        "averaged parameters": state.ema,
        "model state": (state.step, state.model_state),
        "batch": batch,
    }
    return {name: (bytes_of(tree), bytes_of(tree, on_device=True)) for name, tree in parts.items()}


def bytes_of(tree: Any, on_device: bool = False) -> int:
    """Of all leaves; on_device: of what one device holds of them."""

    def size(x) -> int:
        shape = x.sharding.shard_shape(x.shape) if on_device else x.shape
        return math.prod(shape) * np.dtype(x.dtype).itemsize

    return sum(size(x) for x in jax.tree.leaves(tree))


def gathered_bytes(params: Any, mesh: Mesh) -> int:
    """Bytes of the parameters that a step gathers on each device."""
    parted = [x for x in jax.tree.leaves(params) if fsdp_axis(x.shape, mesh.shape[FSDP]) >= 0]
    return bytes_of(parted)


def whole_parameters(params: Any, parts: int) -> list[tuple[str, tuple[int, ...], int]]:
    """(name, shape, bytes) of the parameters that are not split over `parts` devices: small, or no axis divides."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), tuple(x.shape), bytes_of(x))
        for path, x in jax.tree_util.tree_leaves_with_path(params)
        if fsdp_axis(x.shape, parts) < 0
    ]


def step_costs(program: Program) -> dict[str, Any]:
    """FLOPs, bytes of memory traffic and FLOPs per byte of a step on one device, and its collectives."""
    work, moved = flops(program), traffic(program)
    return {"flops": work, "traffic": moved, "intensity": work / moved, "collectives": collectives(program)}


def by_purpose(sent: Sequence[Collective]) -> list[dict[str, Any]]:
    """Collectives of a step with one kind, purpose and size of groups together: how many, bytes, bytes sent."""
    rows: dict[tuple, dict[str, Any]] = {}
    for c in sent:
        key = (c.kind, c.purpose, c.size, c.known)
        empty = {"times": 0, "bytes": 0, "sent": 0.0}
        row = rows.setdefault(key, dict(zip(("kind", "purpose", "devices", "known"), key, strict=True)) | empty)
        row["times"] += c.times
        row["bytes"] += c.times * c.bytes
        row["sent"] += c.times * c.sent
    return list(rows.values())


def expected(costs: Mapping[str, Any], held: int, dtype: str, share: float = 1.0) -> dict[str, dict[str, Any]]:
    """For each known device: seconds of a step, and the share of its memory that `held` bytes take."""
    table = {}
    for name, device in DEVICES.items():
        times = seconds(device, dtype, costs["flops"], costs["traffic"], costs["collectives"], share)
        table[name] = {**times._asdict(), "step": times.step, "memory_used": held / device.memory}
    return table
