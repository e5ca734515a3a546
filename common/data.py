"""Batches as a function of (seed, step, process), read ahead by threads; a cache for sources.

A source is anything with `__len__` and `__getitem__`; an example is a flat dict of NumPy arrays and numbers.
"""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np

from common.errors import InputError
from common.task import Source

Example = dict[str, Any]
ENDLESS = 1 << 62  # steps


class Batches(Iterator):
    """An iterator over batches that are read ahead by threads. `waited` is the time its consumer waited, in seconds."""

    def __init__(self, view: grain.MapDataset, *, threads: int, buffer: int):
        self.waited = 0.0
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(buffer, threads) if threads else 0)
        self._rows = iter(view.to_iter_dataset(options))

    def __next__(self) -> Example:
        began = time.perf_counter()
        batch = next(self._rows)
        self.waited += time.perf_counter() - began
        return batch

    def close(self) -> None:
        """Stops the threads after the batch that each is reading."""
        self._rows.close()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def batches(
    source: Source,
    *,
    seed: int,
    batch_size: int,
    process: int = 0,
    processes: int = 1,
    crop: Callable[[Example, np.random.Generator], Example] = lambda example, rng: example,
    start: int = 0,
    threads: int = 2,
    buffer: int = 8,
) -> Batches:
    """Endless batches for training from step `start` on: this process's rows of the global batches.

    Batch t is a function of (seed, t): the rows of all processes, one after the other, are the same for any number of
    processes and threads, and each epoch is a fresh order of the whole source. `crop(example, rng)` runs in the reading
    threads; its rng belongs to the example's place in the stream. Raises InputError for an empty source and for a batch
    that does not divide over the processes; what reading raises comes out of `next`.
    """
    rows = _rows_per_process(batch_size, processes, "config.data.batch_size")
    view = grain.MapDataset.source(_not_empty(source)).seed(seed).shuffle().repeat().random_map(crop)
    view = view.batch(rows, drop_remainder=True)[start * processes + process :: processes]
    return Batches(view, threads=threads, buffer=buffer)


def batches_by_step(
    train_batch: Callable[[int, int, slice], Example],
    *,
    seed: int,
    batch_size: int,
    process: int = 0,
    processes: int = 1,
    start: int = 0,
    threads: int = 2,
    buffer: int = 8,
) -> Batches:
    """Endless batches for training from step `start` on: `train_batch(seed, step, rows)` of this process's rows.

    For batches that are no independent draws of examples: streams of text, buckets of like length. `train_batch` runs in
    the reading threads, several steps at once and in any order. Raises as `batches` does.
    """
    count = _rows_per_process(batch_size, processes, "config.data.batch_size")
    rows = slice(process * count, (process + 1) * count)
    view = grain.MapDataset.range(start, ENDLESS).map(lambda step: train_batch(seed, int(step), rows))
    return Batches(view, threads=threads, buffer=buffer)


def eval_batches(
    source: Source, *, batch_size: int, process: int = 0, processes: int = 1, threads: int = 2, buffer: int = 4
) -> Batches:
    """Every example of the source once, in order: as many batches on every process, the last one filled with copies.

    Adds "mask", float32 [rows]: 1 for an example, 0 for a copy.
    """
    rows = _rows_per_process(batch_size, processes, "config.data.eval_batch_size")
    view = grain.MapDataset.source(_Filled(_not_empty(source), batch_size)).batch(rows)[process::processes]
    return Batches(view, threads=threads, buffer=buffer)


class _Filled:
    """A source as long as the next multiple of `batch_size`."""

    def __init__(self, source: Source, batch_size: int):
        self.source, self.length = source, -(-len(source) // batch_size) * batch_size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        real = index < len(self.source)
        return {**self.source[index if real else len(self.source) - 1], "mask": np.float32(real)}


def _not_empty(source: Source) -> Source:
    if not len(source):
        raise InputError("the data source is empty; check config.data.root and the split")
    return source


def _rows_per_process(batch_size: int, processes: int, key: str) -> int:
    if batch_size < 1 or batch_size % processes:
        cure = f"use a multiple of {processes}"
        raise InputError(f"{key}={batch_size}: does not divide over {processes} processes; {cure}")
    return batch_size // processes


class Cached:
    """A source that keeps the examples it has read, up to a budget of bytes; what does not fit is read each time."""

    def __init__(self, source: Source, budget: int):
        self.source, self.budget, self.held = source, budget, 0
        self._examples: dict[int, Example] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.source)

    def __getattr__(self, name: str) -> Any:  # size(i), name(i) and other facts of the source itself
        if name == "source":
            raise AttributeError(name)
        return getattr(self.source, name)

    def __getitem__(self, index: int) -> Example:
        found = self._examples.get(index)
        if found is not None:
            return dict(found)
        example = self.source[index]  # outside the lock, so that threads decode side by side
        size = sum(value.nbytes for value in example.values() if isinstance(value, np.ndarray))
        with self._lock:
            if index not in self._examples and self.held + size <= self.budget:
                for value in example.values():
                    if isinstance(value, np.ndarray):
                        value.setflags(write=False)  # a crop that writes into its input would change later epochs
                self._examples[index] = example
                self.held += size
        return dict(example)


def cached(source: Source, megabytes: float) -> Source:
    """`source` with its decoded examples kept in memory, `megabytes` at most (0: the source itself). Thread-safe."""
    return Cached(source, int(megabytes * 2**20)) if megabytes > 0 else source
