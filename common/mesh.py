"""Devices, the mesh, and how state and batch lie on it.

The mesh has three axes. Rows of a batch are split over "data" and "fsdp" together; large parameters and their optimiser
state over "fsdp"; the height of images over "space". With fsdp = all devices the two first are one and the same axis.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from common.errors import InputError

DATA, FSDP, SPACE = "data", "fsdp", "space"
ROWS = (DATA, FSDP)
RUNS = "runs"  # of vmap, where several runs train in one program (common/together.py)
SMALLEST = (
    1024  # numbers: a parameter with fewer is whole on every device, since gathering it costs more than holding it
)


def make_mesh(devices: int = 0, fsdp: int = 1, space: int = 1) -> Mesh:
    """A mesh over the first `devices` devices (0: all), of those `space` for each image and `fsdp` for each copy of the state.

    Raises InputError where there are fewer devices, where they do not divide, and where an image would be split over
    processes, since each process reads whole rows.
    """
    # By process first: its rows are next to each other in a batch, and an image is split inside it.
    found = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if devices > len(found):
        raise InputError(f"config.mesh.devices={devices}: this machine has {len(found)}; use 0 for all")
    count = devices or len(found)
    if jax.process_count() > 1 and count != len(found):
        raise InputError(f"config.mesh.devices={devices}: {jax.process_count()} processes use all {count}; use 0")
    for name, size in (("fsdp", fsdp), ("space", space)):
        if size < 1 or count % (size if name == "fsdp" else fsdp * size):
            over = f" / fsdp {fsdp}" if name == "space" and fsdp > 1 else ""
            raise InputError(
                f"config.mesh.{name}={size}: does not divide the {count} devices in use{over}; take a divisor"
            )
    if len(jax.local_devices()) % space:
        raise InputError(
            f"config.mesh.space={space}: does not divide the {len(jax.local_devices())} devices of a process"
        )
    return mesh_over(found[:count], fsdp, space)


def local_mesh() -> Mesh:
    """A mesh of one device of this process."""
    return mesh_over(jax.local_devices()[:1])


def mesh_over(devices: Sequence[Any], fsdp: int = 1, space: int = 1) -> Mesh:
    """These devices, in this order. Axis types are Auto: under Explicit ones, the default of jax.make_mesh, Linen layers
    raise ShardingTypeError."""
    return Mesh(np.array(devices).reshape(-1, fsdp, space), (DATA, FSDP, SPACE), axis_types=(AxisType.Auto,) * 3)


def row_parts(mesh: Mesh) -> int:
    """Over how many devices the rows of a batch are split."""
    return mesh.shape[DATA] * mesh.shape[FSDP]


def row_axis() -> tuple[str, ...]:
    """In a function that is mapped over parts of the batch (shard_map, pmap), the axes of that map, while it is traced:
    for psum, pmean and axis_index. () where the function sees whole batches."""
    return tuple(name for name in jax.sharding.get_abstract_mesh().manual_axes if name in ROWS)


def over_runs() -> bool:
    """Whether the function that is being traced is mapped over runs."""
    try:
        jax.lax.axis_size(RUNS)
    except NameError:
        return False
    return True


def check_batch(mesh: Mesh, batch_size: int, accumulate: int, key: str) -> None:
    """Raises InputError where `batch_size` rows do not divide over the devices (and micro-batches)."""
    parts = row_parts(mesh) * accumulate
    if batch_size % parts:
        what = f"{row_parts(mesh)} devices" + (f" x {accumulate} micro-batches" if accumulate > 1 else "")
        raise InputError(
            f"{key}={batch_size}: does not divide over {what}; use a multiple of {parts}, or config.mesh.devices=N"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def rows(mesh: Mesh) -> NamedSharding:
    """Rows split over the devices that share a batch."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


def batch_shardings(mesh: Mesh, batch: dict[str, Any], spatial: tuple[str, ...] = ()) -> dict[str, NamedSharding]:
    """How a batch lies: rows are split, and the second axis (height) of the entries named in `spatial` over "space".

    Raises InputError for a height that does not divide.
    """
    for name in spatial:
        height = batch[name].shape[1]
        if height % mesh.shape[SPACE]:
            raise InputError(
                f"config.mesh.space={mesh.shape[SPACE]}: does not divide the height {height} of {name!r}; change the crop or tile"
            )
    whole, parted = PartitionSpec(ROWS), PartitionSpec(ROWS, SPACE)
    return {name: NamedSharding(mesh, parted if name in spatial else whole) for name in batch}


def fsdp_axis(shape: tuple[int, ...], parts: int) -> int:
    """The axis of a parameter that is split over "fsdp": the longest that divides, the last of equals; -1: it is whole."""
    if parts == 1 or int(np.prod(shape)) < SMALLEST:
        return -1
    axes = [axis for axis, size in enumerate(shape) if size % parts == 0]
    return max(axes, key=lambda axis: (shape[axis], axis), default=-1)


def parameter_spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """How a parameter, or what the optimiser holds of it, lies on the mesh."""
    axis = fsdp_axis(shape, mesh.shape[FSDP])
    return PartitionSpec() if axis < 0 else PartitionSpec(*[None] * axis, FSDP)


def put_whole(mesh: Mesh, value: int):
    """A number of the host as an int32 on every device."""
    return jax.make_array_from_process_local_data(replicated(mesh), np.asarray(value, np.int32))


def put(mesh: Mesh, batch: dict[str, Any], spatial: tuple[str, ...] = ()):
    """This process's rows of a batch (a dict of NumPy arrays) as global arrays, laid out by `batch_shardings`."""
    shardings = batch_shardings(mesh, batch, spatial)
    if jax.process_count() == 1:
        return jax.device_put(batch, shardings)  # all entries in one call: half the time
    return {name: jax.make_array_from_process_local_data(shardings[name], x) for name, x in batch.items()}
