"""Batches for truncated back-propagation through time, and windows that score every token of a text once."""

import bisect
import threading

import numpy as np
from jaxtyping import Int32, Integer

from common.errors import InputError

LONGER = 20  # steps by which a drawn length may exceed bptt


class Streams:
    """A text as `batch_size` parallel streams, read on by about `bptt` tokens each step.

    Epoch e reads the text once, from an offset (drawn from (seed, e) where `shift`, else 0) round its end, cut into
    batch_size contiguous streams of equal length L; the few tokens that do not fill a stream, or a last step, are left
    out. Step t of an epoch holds the next tokens of every stream, so that the carry of one step is the start of the next.

    Fixed lengths: bptt each, L // bptt steps an epoch. `variable` (Merity et al. 2018, section 4.1): lengths from
    (seed, e), bptt with probability 0.95, else half of it, then normal with deviation 5; at least 5, at most bptt + 20;
    the last one of an epoch ends with the streams.

    restart: share of the streams, drawn from (seed, step), whose state begins anew at a step though their text goes on. A net
    that has hardly ever begun anew may go astray for hundreds of tokens where it has to: in evaluation, and after a prompt.
    """

    def __init__(
        self,
        tokens: Integer[np.ndarray, " N"],
        *,
        batch_size: int,
        bptt: int,
        shift: bool = False,
        variable: bool = False,
        restart: float = 0.0,
    ):
        self.tokens, self.batch_size, self.bptt, self.shift, self.variable = tokens, batch_size, bptt, shift, variable
        self.restart = restart
        if not 0 <= restart < 1:
            raise InputError(f"config.data.restart={restart}: a share is at least 0 and below 1")
        self.width = bptt + LONGER if variable else bptt
        self.length = (len(tokens) - 1) // batch_size
        if min(bptt, batch_size) < 1 or self.length < bptt:
            raise InputError(
                f"config.data.batch_size={batch_size}, bptt={bptt}: the training text has {len(tokens)} tokens, fewer "
                f"than one batch ({batch_size * bptt + 1}); use a longer text, or smaller numbers"
            )
        self.starts: dict[int, list[int]] = {}  # seed -> first step of each epoch, as far as they are known
        self.lock = threading.Lock()

    def __len__(self) -> int:
        """Examples of an epoch: its steps (variable: on average) times the batch size."""
        half = max(self.bptt // 2, 5)
        mean = 0.95 * self.bptt + 0.05 * half if self.variable else self.bptt
        return max(int(self.length / mean), 1) * self.batch_size

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Row `index` of the first epoch with seed 0, step after step."""
        step, row = divmod(index, self.batch_size)
        return {name: x[0] for name, x in self.batch(0, step, slice(row, row + 1)).items()}

    def epoch_lengths(self, seed: int, epoch: int) -> Int32[np.ndarray, " steps"]:
        """How many tokens each step of an epoch reads."""
        if not self.variable:
            return np.full(self.length // self.bptt, self.bptt, np.int32)
        rng = np.random.default_rng((seed, epoch, 1))
        count = self.length // 5 + 1
        base = np.where(rng.random(count) < 0.95, self.bptt, self.bptt / 2)
        drawn = np.clip(rng.normal(base, 5.0).astype(np.int32), 5, self.width)
        ends = np.cumsum(drawn)
        last = int(np.searchsorted(ends, self.length))
        drawn[last] -= ends[last] - self.length
        return drawn[: last + 1]

    def place(self, seed: int, step: int) -> tuple[int, int]:
        """The epoch of a step, and which of its steps that is."""
        if not self.variable:
            return divmod(step, self.length // self.bptt)
        with self.lock:  # threads read ahead
            starts = self.starts.setdefault(seed, [0])
            while starts[-1] <= step:
                starts.append(starts[-1] + len(self.epoch_lengths(seed, len(starts) - 1)))
        epoch = bisect.bisect_right(starts, step) - 1
        return epoch, step - starts[epoch]

    def batch(self, seed: int, step: int, rows: slice) -> dict[str, np.ndarray]:
        """These rows of the batch of a step: a function of (seed, step).

        "inputs", "targets" int32 [rows, width], each target the token after its input; "reset" bool [rows]: the streams
        start anew. Variable lengths add "mask" bool [rows, width], true where a token counts, and "rate" float32 [rows],
        length / bptt, by which the learning rate is multiplied.
        """
        epoch, number = self.place(seed, step)
        lengths = self.epoch_lengths(seed, epoch)
        offset = int(np.random.default_rng((seed, epoch, 0)).integers(len(self.tokens))) if self.shift else 0
        streams = np.arange(self.batch_size)[rows] * self.length + offset + int(lengths[:number].sum())
        read = np.take(self.tokens, streams[:, None] + np.arange(self.width + 1)[None], mode="wrap").astype(np.int32)
        batch = {"inputs": read[:, :-1], "targets": read[:, 1:], "reset": np.full(len(streams), number == 0)}
        if self.restart:
            drawn = np.random.default_rng((seed, step, 1)).random(self.batch_size) < self.restart
            batch["reset"] |= drawn[rows]
        if self.variable:
            mask = np.arange(self.width)[None] < lengths[number]
            batch["mask"] = np.repeat(mask, len(streams), axis=0)
            batch["rate"] = np.full(len(streams), lengths[number] / self.bptt, np.float32)
        return batch


class Windows:
    """A text in windows of one shape, for scoring: window k holds tokens k * length to (k + 1) * length as targets, with up
    to `context` tokens before them, and every token but the very first is a target once.

    An example: "inputs", "targets" int32 [context + length]; "counted" bool, where a target is this window's own.
    """

    def __init__(self, tokens: Integer[np.ndarray, " N"], *, length: int, context: int):
        self.tokens, self.context = tokens, context
        self.targets = len(tokens) - 1
        self.own = length

    def __len__(self) -> int:
        return (max(self.targets, 0) + self.own - 1) // self.own

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        first = index * self.own
        start = max(first - self.context, 0)
        # Behind the end of the text, and behind this window's own tokens at its beginning, nothing counts.
        places = start + np.arange(self.context + self.own)
        read = np.take(self.tokens, start + np.arange(self.context + self.own + 1), mode="clip").astype(np.int32)
        counted = (places >= first) & (places < min(first + self.own, self.targets))
        return {"inputs": read[:-1], "targets": read[1:], "counted": counted}
