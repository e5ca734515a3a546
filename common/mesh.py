"""Devices, the mesh, and how state and batch lie on it."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from common.errors import InputError

DATA = "data"


def make_mesh(devices: int = 0) -> Mesh:
    """A mesh of one axis, "data", over the first `devices` devices (0: all). Raises InputError where there are fewer.

    Axis types are Auto: under Explicit ones, the default of jax.make_mesh, Linen layers raise ShardingTypeError.
    """
    found = jax.devices()
    if devices > len(found):
        raise InputError(f"config.mesh.devices={devices}: this machine has {len(found)}; use 0 for all")
    chosen = np.array(found[: devices or len(found)])
    return Mesh(chosen, (DATA,), axis_types=(AxisType.Auto,))


def check_batch(mesh: Mesh, batch_size: int, accumulate: int, key: str) -> None:
    """Raises InputError where `batch_size` rows do not divide over the devices (and micro-batches)."""
    parts = mesh.devices.size * accumulate
    if batch_size % parts:
        what = f"{mesh.devices.size} devices" + (f" x {accumulate} micro-batches" if accumulate > 1 else "")
        raise InputError(
            f"{key}={batch_size}: does not divide over {what}; use a multiple of {parts}, or config.mesh.devices=N"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def rows(mesh: Mesh) -> NamedSharding:
    """Rows split over the mesh axis "data"."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def put_whole(mesh: Mesh, value: int):
    """A number of the host as an int32 on every device."""
    return jax.make_array_from_process_local_data(replicated(mesh), np.asarray(value, np.int32))


def put(mesh: Mesh, batch):
    """This process's rows of a batch (a dict of NumPy arrays) as global arrays with rows split over the devices."""
    sharding = rows(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
