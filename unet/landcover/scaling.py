"""Numbers of a sensor to numbers of a network: a shift and a gain for each band, and indices of two bands."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Num

from common.errors import InputError

SCALINGS = ("percentiles", "given", "reflectance")
INDICES = {"ndvi": ("nir", "red"), "ndwi": ("green", "nir"), "ndbi": ("swir", "nir")}  # (a - b) / (a + b)


class Scaling(NamedTuple):
    """A band becomes (raw - shift) * gain + base. `indices`: places (a, b) of bands; of the scaled ones where they are
    reflectance, else of the raw ones: a difference of bands that were stretched one by one says nothing."""

    shift: Float32[np.ndarray, " C"]
    gain: Float32[np.ndarray, " C"]
    base: Float32[np.ndarray, " C"]
    indices: tuple[tuple[int, int], ...] = ()
    reflectance: bool = False


def unscaled(bands: int) -> Scaling:
    return Scaling(np.zeros(bands, np.float32), np.ones(bands, np.float32), np.zeros(bands, np.float32))


def given_scaling(scaling: str, gain: Sequence[float], offset: Sequence[float], bands: int) -> Scaling:
    """'given': (raw - offset) / gain. 'reflectance': raw * gain + offset. One number serves all bands.

    Raises InputError where their count is not that of the bands, and for a gain of 0.
    """
    values = {}
    for name, numbers in (("gain", gain), ("offset", offset)):
        if len(numbers) not in (1, bands):
            raise InputError(
                f"config.data.{name}={list(numbers)}: scaling={scaling!r} takes 1 number or one for each of {bands} bands"
            )
        values[name] = np.broadcast_to(np.asarray(numbers, np.float64), bands)
        if not np.isfinite(values[name]).all() or (name == "gain" and (values[name] == 0).any()):
            raise InputError(f"config.data.{name}={list(numbers)}: expected numbers, a gain not 0")
    nothing = np.zeros(bands, np.float32)
    if scaling == "given":
        shift, gains, base = values["offset"], 1 / values["gain"], nothing
    else:
        shift, gains, base = nothing, values["gain"], values["offset"]
    return Scaling(
        shift.astype(np.float32), gains.astype(np.float32), base.astype(np.float32), (), scaling == "reflectance"
    )


def percentile_scaling(sample: Num[np.ndarray, "n C"], percentiles: Sequence[float], where: Sequence[str]) -> Scaling:
    """The two percentiles of each band become -1 and 1; nothing is clipped.

    Raises InputError where they are the same; `where` names the bands.
    """
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise InputError(f"config.data.percentiles={list(percentiles)}: expected two growing numbers, 0 to 100")
    ends = np.percentile(sample.astype(np.float64), [low, high], axis=0)
    for name, a, b in zip(where, *ends, strict=True):
        if not b > a:
            raise InputError(
                f"{name}: percentiles {low:g} and {high:g} are both {a:g}; widen config.data.percentiles, or set scaling='given'"
            )
    gain = 2 / (ends[1] - ends[0])
    return Scaling(ends[0].astype(np.float32), gain.astype(np.float32), np.full(len(gain), -1, np.float32))


def index_places(indices: Sequence[str], roles: Mapping[str, int], bands: int) -> tuple[tuple[int, int], ...]:
    """Places of the two bands of each index. Raises InputError for an unknown index and a role that no band has."""
    places = []
    for name in indices:
        if name not in INDICES:
            raise InputError(f"config.data.indices: {name!r} is not one of {', '.join(INDICES)}; correct it")
        for role in INDICES[name]:
            if role not in roles:
                raise InputError(f"config.data.roles has no {role!r}, which {name!r} is made of; say which band it is")
            if not 0 <= roles[role] < bands:
                raise InputError(f"config.data.roles.{role}={roles[role]}: the scene has bands 0 to {bands - 1}")
        a, b = INDICES[name]
        places.append((roles[a], roles[b]))
    return tuple(places)


def scale(
    raw: Num[np.ndarray, "h w C"], valid: Bool[np.ndarray, "h w"], scaling: Scaling
) -> Float32[np.ndarray, "h w D"]:
    """Scaled bands, then indices; 0 where it is not valid."""
    height, width, bands = raw.shape
    shift, gain, base = (np.tile(x, width) for x in scaling[:3])  # whole rows at once: loops over 6 bands are slow
    with np.errstate(invalid="ignore", over="ignore"):  # what is not valid may be any number
        rows = np.subtract(raw.reshape(height, -1), shift, dtype=np.float32, casting="same_kind")
        rows *= gain
        rows += base
        image = rows.reshape(raw.shape)
        source = image if scaling.reflectance else raw
        indices = [ratio(source[..., a], source[..., b])[..., None] for a, b in scaling.indices]
    image = np.concatenate([image, *indices], -1) if indices else image
    if not valid.all():
        image[~valid] = 0
    return image


def ratio(a: Num[np.ndarray, "h w"], b: Num[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """(a - b) / (a + b), 0 where both are 0; within [-1, 1], also where a reflectance is below 0."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    total = a + b
    return np.clip((a - b) / np.where(total == 0, np.float32(1), total), -1, 1)
