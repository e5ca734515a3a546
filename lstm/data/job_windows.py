"""Parts of a log by time, what a training part tells of its scales and names, and the batches of training and evaluation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from common.errors import InputError
from lstm.data.job_events import NAMES, Log

SPLITS = ("train", "validation", "test")
LIMIT = 6.0  # deviations at which a number is cut


class Part(NamedTuple):
    """The jobs [first, last) of a log, in order of submission, and the moment at which what is known of them is looked at:
    when the next part begins (after the last one: never)."""

    first: int
    last: int
    until: float


def parts_of(log: Log, shares: Sequence[float], train_on: str) -> dict[str, Part]:
    """The part of each split. shares: of the jobs that lie before the end of train, validation and test. train_on: 'train', or
    'train+validation': training reads both.

    Raises InputError for shares that do not rise, and for a part without jobs.
    """
    if len(shares) != 3 or not 0 < shares[0] <= shares[1] <= shares[2] <= 1 or shares[0] == shares[2]:
        raise InputError(f"config.data.parts={list(shares)}: three shares that rise to at most 1, like [0.7, 0.8, 1.0]")
    if train_on not in ("train", "train+validation"):
        raise InputError(f"config.data.train_on={train_on!r}: 'train' or 'train+validation'")
    ends = [round(share * len(log)) for share in shares]
    until = lambda last: float(log.jobs.submit[last]) if last < len(log) else np.inf
    found = {name: Part(a, b, until(b)) for name, a, b in zip(SPLITS, [0, *ends], ends, strict=False) if b > a}
    if train_on == "train+validation" and "validation" in found:
        found["train"] = Part(0, ends[1], until(ends[1]))
    return found


class Facts(NamedTuple):
    """What the training part tells: names that occur in it, each embedded by its place + 1 (0: unseen); mean and deviation of
    the numbers of submissions and of ends."""

    names: dict[str, list[str]]
    submitted: tuple[np.ndarray, np.ndarray]
    ended: tuple[np.ndarray, np.ndarray]


def facts_of(log: Log, part: Part, least: int) -> Facts:
    """Facts of a part. least: jobs that a name must occur in. Raises InputError where no job of the part has ended in it."""
    chosen, known, names = slice(part.first, part.last), known_jobs(log, part, "the training part"), {}
    for column, name in enumerate(NAMES):
        counts = np.bincount(log.jobs.codes[chosen, column], minlength=len(log.names[name]))
        names[name] = [n for n, count in zip(log.names[name], counts, strict=True) if count >= max(least, 1) and n]
    step = max(part.last // 200_000, 1)  # as many rows as a scale needs
    return Facts(names, scale(log.submitted[part.first : part.last : step]), scale(log.ended[known[::step]]))


def known_jobs(log: Log, part: Part, what: str = "a part") -> Int64[np.ndarray, " n"]:
    """The jobs of a part whose class is known when the part is over. Raises InputError where there is none."""
    jobs = np.arange(part.first, part.last)
    found = jobs[(log.jobs.label[jobs] >= 0) & (log.jobs.end[jobs] <= part.until)]
    if not len(found):
        raise InputError(f"config.data.parts: no job of {what} has ended in it with a known class; give it more")
    return found


def places_of(names: Sequence[str]) -> dict[str, int]:
    """{name: its place in the embedding}; 0, that of unseen ones, is no name's."""
    return {name: place for place, name in enumerate(names, 1)}


def scale(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each column; one that does not vary keeps its scale."""
    rows = np.asarray(rows, np.float64)
    deviation = rows.std(0)
    return rows.mean(0), np.where(deviation > 1e-6, deviation, 1.0)


def scaled(rows: np.ndarray, of: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return np.clip((rows - of[0]) / of[1], -LIMIT, LIMIT).astype(np.float32)


class Steps:
    """The steps of a log as a model reads them.

    edges: of the bins of run times, in seconds, from 0; the last bin has no end.
    """

    def __init__(self, log: Log, facts: Facts, edges: Float64[np.ndarray, " bins"]):
        self.log, self.facts, self.edges = log, facts, edges
        self.places = {}  # code of the log -> place in the embedding
        for name in NAMES:
            known = places_of(facts.names[name])
            self.places[name] = np.array([known.get(text, 0) for text in log.names[name]], np.int32)

    def names(self, jobs: Int64[np.ndarray, "*s"]) -> Int32[np.ndarray, "*s 5"]:
        codes = self.log.jobs.codes[jobs]
        return np.stack([self.places[name][codes[..., i]] for i, name in enumerate(NAMES)], axis=-1)

    def read(
        self, events: Int64[np.ndarray, "*s"], valid: Bool[np.ndarray, "*s"], until: float
    ) -> dict[str, np.ndarray]:
        """The arrays of events [...]: "submitted" bool; "numbers" float32 [..., F] of submissions and "ended" [..., E] of ends, 0
        elsewhere; "names" int32 [..., 5]; "valid" bool; "job" int32, its number; and of submissions what came of them, as known
        at `until`: "label" int32, -1 where unknown, "bin" int32, of its run time (without a label: bins that
        it has outlived; 0 where no start is known).
        """
        jobs, submission = events // 2, (events % 2 == 1) & valid
        ending = (events % 2 == 0) & valid
        columns = self.log.jobs
        known = (columns.label[jobs] >= 0) & (columns.end[jobs] <= until)
        start, end = columns.start[jobs], columns.end[jobs]
        begun = np.where(np.isnan(start), np.where(end <= until, columns.submit[jobs], np.inf), start)
        run = np.maximum(np.where(end <= until, end, min(until, columns.submit[-1])) - begun, 0)
        place = np.searchsorted(self.edges, run, side="right").astype(np.int32) - 1
        return {
            "submitted": submission,
            "numbers": scaled(self.log.submitted[jobs], self.facts.submitted) * submission[..., None],
            "ended": scaled(self.log.ended[jobs], self.facts.ended) * ending[..., None],
            "names": self.names(jobs),
            "valid": valid,
            "job": jobs.astype(np.int32),
            "label": np.where(submission & known, columns.label[jobs], -1),
            "bin": place,
        }


class Streams:
    """Batches of truncated back-propagation: the streams of a log, one after the other, in `batch_size` rows of equal length.

    Epoch e puts the streams in an order drawn from (seed, e), starts at a place drawn from it, and cuts what they hold of the
    part into rows; step t of it is the next `bptt` events of every row. "reset" bool [rows, bptt]: a stream begins, or the
    row does; also, drawn from (seed, step), in a share `restart` of the rows at the first event of a step.
    """

    def __init__(self, steps: Steps, part: Part, *, batch_size: int, bptt: int, restart: float):
        if not 0 <= restart < 1:
            raise InputError(f"config.data.restart={restart}: a share is at least 0 and below 1")
        self.steps, self.part, self.batch_size, self.bptt, self.restart = steps, part, batch_size, bptt, restart
        log = steps.log
        inside = (log.times(log.events) <= part.until) & (log.events // 2 < part.last)
        self.events = log.events[inside]
        before = np.concatenate([[0], np.cumsum(inside)])
        begins = before[log.begins]
        self.begins, self.lengths = begins[:-1], np.diff(begins)
        self.per_epoch = len(self.events) // max(batch_size * bptt, 1)
        if min(bptt, batch_size) < 1 or self.per_epoch < 1:
            raise InputError(
                f"config.data.batch_size={batch_size}, bptt={bptt}: the training part has {len(self.events)} events (a submission "
                f"or an end), fewer than one batch ({batch_size * bptt}); use a longer log, or smaller numbers"
            )

    def __len__(self) -> int:
        return self.per_epoch * self.batch_size

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        step, row = divmod(index, self.batch_size)
        return {name: x[0] for name, x in self.batch(0, step, slice(row, row + 1)).items()}

    def batch(self, seed: int, step: int, rows: slice) -> dict[str, np.ndarray]:
        """These rows of the batch of a step: a function of (seed, step)."""
        epoch, number = divmod(step, self.per_epoch)
        rng = np.random.default_rng((seed, epoch, 2))
        order = rng.permutation(len(self.lengths))
        offset = int(rng.integers(len(self.events)))
        lengths = self.lengths[order]
        ends = np.cumsum(lengths)
        length = len(self.events) // self.batch_size
        starts = np.arange(self.batch_size)[rows] * length + offset + number * self.bptt
        places = (starts[:, None] + np.arange(self.bptt)[None]) % len(self.events)
        stream = np.searchsorted(ends, places, side="right")
        inside = places - (ends[stream] - lengths[stream])
        events = self.events[self.begins[order][stream] + inside]
        batch = self.steps.read(events, np.ones(events.shape, bool), self.part.until)
        reset = inside == 0
        drawn = np.random.default_rng((seed, step, 3)).random(self.batch_size) < self.restart
        reset[:, 0] |= drawn[rows] | (number == 0)
        return {**batch, "reset": reset}


class Windows:
    """The submissions of a part, each once: windows of `context` + `length` events of one stream, of which those of the part
    among the last `length` count ("counted" bool)."""

    def __init__(self, steps: Steps, part: Part, *, length: int, context: int):
        self.steps, self.length, self.context, self.until = steps, length, context, part.until
        log = steps.log
        self.counts = (log.events % 2 == 1) & (log.events // 2 >= part.first) & (log.events // 2 < part.last)
        places = np.flatnonzero(self.counts)
        stream, first = np.unique(np.searchsorted(log.begins, places, side="right") - 1, return_index=True)
        last = np.append(first[1:], len(places)) - 1
        # Begin of the stream, first event that counts, one after the last.
        self.windows: list[tuple[int, int, int]] = [
            (begin, a, min(a + length, end + 1))
            for begin, start, end in zip(
                *(x.tolist() for x in (log.begins[stream], places[first], places[last])), strict=True
            )
            for a in range(start, end + 1, length)
        ]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        begin, first, last = self.windows[index]
        start = max(first - self.context, begin)
        places = start + np.arange(self.context + self.length)
        valid = places < last
        places = np.minimum(places, last - 1)
        batch = self.steps.read(self.steps.log.events[places], valid, self.until)
        return {**batch, "counted": valid & (places >= first) & self.counts[places]}
