"""Metrics are sums and counts that merge: a mean over devices, micro-batches, hosts and a ragged last batch is exact.

A metric is a NamedTuple of arrays. On the device `+` over the leaves (`jax.tree.map(jnp.add, a, b)`) merges two of them;
on the host `merge` does, in float64 and int64, so that a sum over a large set neither rounds nor overflows.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int


def added(one, other):
    """Two metrics that are sums, field by field, in float64."""
    return type(one)(*(np.asarray(a, np.float64) + np.asarray(b, np.float64) for a, b in zip(one, other, strict=True)))


class Mean(NamedTuple):
    """A weighted mean as its two sums: `total` of the values, `count` of the weights. Both scalars."""

    total: Float[Array, ""]
    count: Float[Array, ""]

    def merge(self, other: "Mean") -> "Mean":
        return added(self, other)

    def compute(self) -> float:
        """The mean; NaN where nothing was counted."""
        return float(self.total) / float(self.count) if float(self.count) else float("nan")


class Confusions(NamedTuple):
    """Confusion matrices of images, `matrix[i, label, prediction]` in pixels; rows with `image` -1 are padding.

    An image may come in several parts (tiles): `merge` adds the parts of one image, so scores per image and over the
    whole set are both exact.
    """

    image: Int[Array, " rows"]
    matrix: Int[Array, "rows classes classes"]

    def merge(self, other: "Confusions") -> "Confusions":
        return Confusions(
            *(np.concatenate([np.asarray(a), np.asarray(b)]) for a, b in zip(self, other, strict=True))
        ).whole()

    def whole(self) -> "Confusions":
        """Without padding, a row for each image."""
        known = np.asarray(self.image) >= 0
        image, place = np.unique(np.asarray(self.image)[known], return_inverse=True)
        matrix = np.zeros((len(image), *np.shape(self.matrix)[1:]), np.int64)
        np.add.at(matrix, place, np.asarray(self.matrix, np.int64)[known])
        return Confusions(image, matrix)


class Calibration(NamedTuple):
    """Of answers by how sure they are, in equal bins of confidence: how many, the sum of their confidences, how many are right."""

    count: Float[Array, " bins"]
    sure: Float[Array, " bins"]
    right: Float[Array, " bins"]

    def merge(self, other: "Calibration") -> "Calibration":
        return added(self, other)

    def error(self) -> float:
        """The expected calibration error (Guo et al. 2017, eq. 3): the mean of |confidence - right| of the bins, by count.

        NaN where nothing was counted.
        """
        count = float(np.sum(self.count))
        return float(np.abs(np.subtract(self.right, self.sure)).sum()) / count if count else float("nan")


def merge(metrics, other):
    """Two dicts of metrics with the same names, added; None stands for nothing yet."""
    if metrics is None:
        return {name: m.whole() if isinstance(m, Confusions) else m for name, m in other.items()}
    return {name: metrics[name].merge(other[name]) for name in other}
