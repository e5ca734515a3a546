"""Batches as a function of (seed, step, process), evaluation batches, and the cache."""

import threading
import time

import numpy as np
import pytest

from common import data
from common.errors import InputError


class Numbers:
    """Example i is i; remembers what was read, by which thread."""

    def __init__(self, length, pause=0.0):
        self.length, self.pause, self.reads = length, pause, []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.reads.append((index, threading.get_ident()))
        time.sleep(self.pause)
        return {"number": index, "image": np.full((2, 3), index, np.float32)}


def crop(example, rng):
    return {**example, "draw": rng.integers(1 << 40)}


def global_batches(count, processes=1, start=0, threads=2, length=7, seed=3):
    """The first `count` global batches: rows of all processes, one after the other."""
    parts = [
        data.batches(
            Numbers(length),
            seed=seed,
            batch_size=4,
            process=p,
            processes=processes,
            crop=crop,
            start=start,
            threads=threads,
        )
        for p in range(processes)
    ]
    rows = [[next(part) for part in parts] for _ in range(count)]
    for part in parts:
        part.close()
    return [{key: np.concatenate([row[key] for row in group]) for key in group[0]} for group in rows]


def equal(a, b):
    return all(x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x) for x, y in zip(a, b, strict=True))


def test_batch_t_depends_on_seed_and_t_alone():
    whole = global_batches(9)
    assert whole[0]["image"].shape == (4, 2, 3)
    for processes, threads in ((2, 0), (4, 1), (1, 3)):
        assert equal(whole, global_batches(9, processes, threads=threads))
    for start in (1, 5, 8):  # beyond the first epoch too
        assert equal(whole[start:], global_batches(9 - start, processes=2, start=start))
    assert not equal(whole, global_batches(9, seed=4))


def test_each_epoch_is_the_whole_source_in_a_new_order():
    numbers = np.concatenate([batch["number"] for batch in global_batches(14)]).reshape(8, 7)
    assert all(sorted(epoch) == list(range(7)) for epoch in numbers.tolist())
    assert len({tuple(epoch) for epoch in numbers.tolist()}) == 8


def test_an_example_is_cropped_anew_each_time():
    draws = np.concatenate([batch["draw"] for batch in global_batches(14)])
    assert len(set(draws.tolist())) == draws.size


def test_reading_is_done_by_threads_ahead_and_stops_on_close():
    source = Numbers(64, pause=0.002)
    with data.batches(source, seed=0, batch_size=2, threads=2, buffer=4) as batches:
        next(batches)
        time.sleep(0.2)
        ahead = len(source.reads)
        assert 2 * 4 <= ahead <= 2 * 6
        assert threading.get_ident() not in {thread for _, thread in source.reads}
    time.sleep(0.1)
    assert len(source.reads) == ahead


def test_waited_is_the_time_the_consumer_waits():
    slow = data.batches(Numbers(8, pause=0.02), seed=0, batch_size=2, threads=1, buffer=1)
    [next(slow) for _ in range(5)]
    assert 0.15 < slow.waited < 1.0
    slow.close()
    quick = data.batches(Numbers(8), seed=0, batch_size=2)
    next(quick)
    before = quick.waited
    for _ in range(5):
        time.sleep(0.05)
        next(quick)
    assert quick.waited - before < 0.05
    quick.close()


def test_what_reading_raises_reaches_the_consumer():
    def refuse(example, rng):
        raise InputError("a.png: broken; replace it")

    with data.batches(Numbers(4), seed=0, batch_size=2, crop=refuse) as batches, pytest.raises(InputError) as caught:
        next(batches)
    assert str(caught.value) == "a.png: broken; replace it"


@pytest.mark.parametrize(("length", "processes"), [(10, 1), (10, 2), (8, 2), (1, 4), (3, 4)])
def test_evaluation_reads_every_row_once_and_the_same_number_of_batches_everywhere(length, processes):
    parts = [
        list(data.eval_batches(Numbers(length), batch_size=4, process=p, processes=processes)) for p in range(processes)
    ]
    assert {len(part) for part in parts} == {-(-length // 4)}
    whole = [{k: np.concatenate([b[k] for b in group]) for k in group[0]} for group in zip(*parts, strict=True)]
    mask = np.concatenate([batch["mask"] for batch in whole])
    numbers = np.concatenate([batch["number"] for batch in whole])
    assert mask.dtype == np.float32 and mask.sum() == length
    assert numbers[mask == 1].tolist() == list(range(length))
    assert set(numbers[mask == 0].tolist()) <= {length - 1}


def test_bad_sizes_name_the_key_and_the_cure():
    with pytest.raises(InputError, match=r"config.data.batch_size=6: .* use a multiple of 4"):
        data.batches(Numbers(4), seed=0, batch_size=6, processes=4)
    with pytest.raises(InputError, match="config.data.eval_batch_size=3"):
        data.eval_batches(Numbers(4), batch_size=3, processes=2)
    with pytest.raises(InputError, match="empty"):
        data.batches(Numbers(0), seed=0, batch_size=2)
    with pytest.raises(InputError, match="empty"):
        data.eval_batches(Numbers(0), batch_size=2)


def test_cache_reads_once_within_its_budget():
    source = Numbers(6)
    source.size = lambda index: (2, 3)
    held = data.cached(source, 4 * 24 / 2**20)  # four images of 24 bytes
    for _ in range(3):
        assert [held[i]["number"] for i in range(6)] == list(range(6))
    reads = [index for index, _ in source.reads]
    assert [reads.count(i) for i in range(6)] == [1, 1, 1, 1, 3, 3]
    assert len(held) == 6 and held.size(0) == (2, 3)
    assert data.cached(source, 0) is source


def test_cache_cannot_be_changed_by_its_readers():
    held = data.cached(Numbers(2), 1)
    first = held[0]
    first["extra"] = 1
    with pytest.raises(ValueError, match="read-only"):
        first["image"][0] = 9
    assert set(held[0]) == {"number", "image"} and held[0]["image"][0, 0] == 0


def test_cache_under_threads():
    held = data.cached(Numbers(50, pause=0.0005), 1)
    wrong = []

    def read():
        wrong.extend(i for i in range(50) if held[i]["number"] != i)

    threads = [threading.Thread(target=read) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong and held.held == 50 * 24


def numbers(seed, step, rows):
    return {"place": np.array([[seed, step, row] for row in range(rows.start, rows.stop)])}


def batches_by_step(count, processes=1, start=0, threads=2):
    """The first `count` global batches of `numbers`: rows of all processes, one after the other."""
    groups = []
    for p in range(processes):
        place = {"process": p, "processes": processes}
        with data.batches_by_step(numbers, seed=3, batch_size=4, start=start, threads=threads, **place) as part:
            groups.append([next(part)["place"] for _ in range(count)])
    return [np.concatenate(rows) for rows in zip(*groups, strict=True)]


@pytest.mark.parametrize(
    ("processes", "start", "threads"), [(1, 0, 2), (2, 0, 0), (4, 0, 1), (1, 5, 2), (2, 1_000_000, 2)]
)
def test_batches_by_step_are_those_rows_of_that_step(processes, start, threads):
    for t, rows in enumerate(batches_by_step(7, processes, start, threads), start):
        assert rows.tolist() == [[3, t, row] for row in range(4)]


def test_batches_by_step_may_differ_in_shape_and_are_read_ahead_by_threads():
    seen = []

    def batch(seed, step, rows):
        seen.append(threading.get_ident())
        return {"x": np.zeros((rows.stop - rows.start, 1 + step % 3))}

    with data.batches_by_step(batch, seed=0, batch_size=2, threads=2, buffer=4) as batches:
        assert [next(batches)["x"].shape for _ in range(4)] == [(2, 1), (2, 2), (2, 3), (2, 1)]
        time.sleep(0.1)
        assert 5 <= len(seen) <= 10 and threading.get_ident() not in seen


def test_batches_by_step_pass_on_what_reading_raises_and_check_the_size():
    def refuse(seed, step, rows):
        raise InputError("a.txt: not UTF-8; convert it")

    with data.batches_by_step(refuse, seed=0, batch_size=2) as batches, pytest.raises(InputError, match="not UTF-8"):
        next(batches)
    with pytest.raises(InputError, match=r"config.data.batch_size=6: .* use a multiple of 4"):
        data.batches_by_step(numbers, seed=0, batch_size=6, processes=4)
