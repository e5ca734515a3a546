"""Sequences of unlike length as batches: buckets of like length in training, one shape in evaluation."""

import bisect
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from common.errors import InputError


class Sequences:
    """Labelled sequences: inputs[i] is int32 [n] or float32 [n, C]; raw[i] what it was made of, places[i] where that stands."""

    def __init__(
        self,
        inputs: Sequence[np.ndarray],
        labels: Int[np.ndarray, " n"],
        raw: Sequence[Any] = (),
        places: Sequence[str] = (),
    ):
        self.inputs, self.labels, self.raw, self.places = inputs, labels, raw, places
        self.lengths = np.array([len(x) for x in inputs], np.int32)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Example `index` as it is: inputs [n, ...], length, label, id."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        facts = {"length": self.lengths[index], "label": np.int32(self.labels[index]), "id": np.int32(index)}
        return {"inputs": self.inputs[index], **facts}

    def name(self, index: int) -> str:
        return self.places[index] if len(self.places) else str(index)


def padded(inputs: Sequence[np.ndarray], steps: int) -> np.ndarray:
    """Sequences as one array [rows, steps, ...]; what is not there is 0."""
    rows = np.zeros((len(inputs), steps, *inputs[0].shape[1:]), inputs[0].dtype)
    for row, values in zip(rows, inputs, strict=True):
        row[: len(values)] = values
    return rows


class Padded:
    """Sequences as rows of one shape: those of an evaluation."""

    def __init__(self, source: Sequences, steps: int):
        self.source, self.steps = source, steps

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.source[index]
        return {**example, "inputs": padded([example["inputs"]], self.steps)[0]}


def check_bounds(bounds: Sequence[int], steps: int) -> tuple[int, ...]:
    """The bounds of the buckets, ascending, the last one `steps`. Raises InputError for bounds that are not below it."""
    if list(bounds) != sorted(set(bounds)) or any(not 0 < bound <= steps for bound in bounds):
        raise InputError(
            f"config.data.buckets={list(bounds)}: expected growing lengths up to config.data.max_length={steps}"
        )
    return tuple(dict.fromkeys([*bounds, steps]))


class Buckets:
    """Batches of sequences of like length, padded to the bound of their bucket: a function of (seed, step).

    Each epoch is a fresh permutation, sorted into buckets, cut into batches, whose order is drawn as well; every example
    is in it once. Where the batches are more than the examples fill, the rows on top are copies with mask 0. A batch that
    spans two buckets gets the bound of its longest, so there are no more shapes than bounds.
    """

    def __init__(self, source: Sequences, batch_size: int, bounds: Sequence[int]):
        """bounds: ascending; the last one is at least the longest sequence's length."""
        self.source, self.batch_size = source, batch_size
        self.bounds = np.asarray(bounds)
        self.bucket = np.searchsorted(self.bounds, source.lengths)
        self.batches = -(-len(source) // batch_size)
        self.epoch = functools.lru_cache(maxsize=4)(self.draw)  # threads may draw one twice: the same

    def __len__(self) -> int:
        """Examples of an epoch, its copies among them: what a duration in epochs counts."""
        return self.batches * self.batch_size

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row `index` of the first epoch with seed 0."""
        step, row = divmod(index, self.batch_size)
        return {name: x[0] for name, x in self.batch(0, step, slice(row, row + 1)).items()}

    def draw(self, seed: int, epoch: int) -> Int32[np.ndarray, "batches rows"]:
        """The examples of each batch of an epoch; -1 - i for a copy of example i."""
        rng = np.random.default_rng((seed, epoch))
        order = rng.permutation(len(self.source)).astype(np.int32)
        order = order[np.argsort(self.bucket[order], kind="stable")]
        copies = np.resize(order[::-1], len(self) - len(order))
        return rng.permutation(np.concatenate([order, -1 - copies]).reshape(self.batches, self.batch_size))

    def batch(self, seed: int, step: int, rows: slice) -> dict[str, np.ndarray]:
        """Rows of the global batch of a step: inputs [rows, bound, ...], length, label, mask (0 for a copy)."""
        epoch, place = divmod(step, self.batches)
        whole = self.epoch(seed, epoch)[place]
        steps = int(self.bounds[self.bucket[np.where(whole < 0, -1 - whole, whole)].max()])
        chosen = whole[rows]
        real = np.where(chosen < 0, -1 - chosen, chosen)
        return {
            "inputs": padded([self.source.inputs[i] for i in real], steps),
            "length": self.source.lengths[real],
            "label": self.source.labels[real].astype(np.int32),
            "mask": (chosen >= 0).astype(np.float32),
        }


def bound_of(steps: int, bounds: Sequence[int]) -> int:
    """The smallest bound that holds a sequence of `steps` steps."""
    return bounds[min(bisect.bisect_left(bounds, steps), len(bounds) - 1)]
