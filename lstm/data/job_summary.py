"""A running account of some jobs: of one user, of one program, of both."""

import math
from collections.abc import Sequence
from typing import Any

REQUESTS = ("processors", "time_limit", "memory")
USUAL = 0.02  # how much the newest job counts, at least, in what is usually asked for
FAST, SLOW = 0.2, 0.05  # how much the newest outcome counts in a running share
LONG_AGO = 16.0  # log(1 + seconds) of what never was: about 100 days
BURST = 60.0  # seconds between two submissions of one burst
MOST_OPEN = 65_536  # jobs; the oldest is forgotten: nobody ever told that it ended


def log1p(x: float) -> float:
    return math.log1p(x) if x > 0 else 0.0


def one_hot(place: int, count: int) -> list[float]:
    return [float(place == k) for k in range(count)]


class Summary:
    """Of the jobs of one user, program, or both: running shares of the classes that ended, the last two, how long they ran, what
    is open, and what they usually ask for."""

    __slots__ = (
        "burst",
        "ended",
        "fast",
        "last",
        "last_end",
        "last_run",
        "last_submit",
        "open",
        "run",
        "slow",
        "streak",
        "submitted",
        "usual",
    )

    def __init__(self, classes: int):
        self.fast, self.slow, self.run = [1 / classes] * classes, [1 / classes] * classes, [0.0] * classes
        self.last, self.last_end, self.last_submit = [-1, -1], -math.inf, -math.inf
        self.ended = self.submitted = self.streak = self.burst = 0
        self.last_run, self.usual = 0.0, [0.0] * len(REQUESTS)
        self.open: dict[int, float] = {}

    def end(self, number: int, time: float, label: int, run: float) -> None:
        """Job `number` ended at `time` as class `label` (-1: unknown) after `run` seconds."""
        self.open.pop(number, None)
        self.last_end = time
        if label < 0:
            return
        for shares, weight in ((self.fast, FAST), (self.slow, SLOW)):
            for k in range(len(shares)):
                shares[k] += weight * ((k == label) - shares[k])
        long = log1p(run)
        self.run[label] = self.run[label] + 0.3 * (long - self.run[label]) if self.run[label] else long
        self.ended += 1
        self.last_run = long
        self.streak = self.streak + 1 if self.last[0] == label else 1
        self.last = [label, self.last[0]]

    def submit(self, number: int, time: float, asked: Sequence[float]) -> None:
        """Job `number` is submitted at `time`; asked: the logs of its REQUESTS."""
        self.burst = self.burst + 1 if time - self.last_submit < BURST else 0
        self.submitted += 1
        weight = max(1 / self.submitted, USUAL)
        self.usual = [old + weight * (new - old) for old, new in zip(self.usual, asked, strict=True)]
        self.last_submit = time
        self.open[number] = time
        if len(self.open) > MOST_OPEN:
            del self.open[next(iter(self.open))]

    def numbers(self, now: float, asked: Sequence[float]) -> list[float]:
        """As `names`, at the moment `now`, for a job that asks for `asked`."""
        classes = len(self.fast)
        since = lambda time: min(log1p(now - time), LONG_AGO) if time > -math.inf else LONG_AGO
        oldest = log1p(now - next(iter(self.open.values()))) if self.open else 0.0
        newest = log1p(now - next(reversed(self.open.values()))) if self.open else 0.0
        return [
            *self.fast,
            *self.slow,
            *one_hot(self.last[0], classes),
            *one_hot(self.last[1], classes),
            *self.run,
            log1p(self.ended),
            log1p(self.submitted),
            log1p(len(self.open)),
            log1p(self.streak),
            log1p(self.burst),
            since(self.last_end),
            since(self.last_submit),
            oldest,
            newest,
            self.last_run,
            *(new - old if self.submitted else 0.0 for new, old in zip(asked, self.usual, strict=True)),
        ]

    @staticmethod
    def names(classes: Sequence[str]) -> list[str]:
        shares = [f"{what} {c}" for what in ("lately", "long", "last", "last but one", "run time") for c in classes]
        return shares + [
            "ended", "submitted", "open", "streak", "burst", "since end", "since submission", "oldest open", "newest open",
            "last run time", *(f"{name} against the usual" for name in REQUESTS)
        ]  # fmt: skip

    def state(self) -> list[Any]:
        """Itself as plain lists and numbers."""
        return [getattr(self, name) if name != "open" else list(self.open.items()) for name in sorted(self.__slots__)]

    @classmethod
    def of_state(cls, state: list[Any]) -> "Summary":
        made = cls(1)
        for name, value in zip(sorted(cls.__slots__), state, strict=True):
            setattr(made, name, value if name != "open" else {int(k): v for k, v in value})
        return made
