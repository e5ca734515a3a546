"""The rows of the paper's nine tables: which net learns which task how, when it is done, and what the paper found.

Hochreiter & Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997, section 5. What the text leaves open was
chosen here; docs/paper1997.md says so.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from lstm.paper1997 import tasks
from lstm.paper1997.net import Net
from lstm.paper1997.tasks import Example


class Recent(NamedTuple):
    """Done at the first sequence at which at most `wrong` of the last `window` had an output that was off by more than `tolerance`,
    and their mean absolute error is below `mean`."""

    tolerance: float
    mean: float = float("inf")
    wrong: int = 0
    window: int = 2000


class Tested(NamedTuple):
    """Done where, after a multiple of `every` sequences, fewer than wrong[-1] of `sequences` new ones have an output that is off by
    more than `tolerance`, and their mean absolute error at the end is below mean[-1]. Weights rest meanwhile.

    The pairs before the last are earlier stages, which are noted (ST1 of experiments 3a and 3b). everywhere: outputs are judged at all
    steps that have a target, not at the end alone. unless: no test is made where more than this many of the last `every` sequences
    of training were wrong, which spares tests that cannot well be passed.
    """

    tolerance: float
    sequences: int
    unless: int
    wrong: tuple[int, ...] = (1,)
    mean: tuple[float, ...] = (float("inf"),)
    every: int = 100
    everywhere: bool = False


class Legal(NamedTuple):
    """Done where, after a multiple of `every` sequences, at each step of each string of training and test set all symbols that may
    come next are more active than all others."""

    strings: int = 256  # of each set
    sets: int = 3  # pairs of sets; trial i has pair i % sets
    every: int = 100


class Row(NamedTuple):
    """A row of a table. variant: what tells it from others of its experiment and lag. example: from a key (of experiment 1 also of
    the strings of the training set). rate: of learning. scale, gate_in, gate_out: see `net.init`. limit: sequences of training
    after which a trial has failed. paper: 'sequences' needed on average (a number for each stage), 'solved' (share of the
    trials), 'wrong' (of 2,560 after training)."""

    table: int
    experiment: str
    lag: int
    variant: str
    net: Net
    example: Callable[..., Example]
    rate: float
    scale: float
    criterion: Recent | Tested | Legal
    trials: int
    limit: int
    paper: dict[str, float | tuple[float, ...]]
    gate_in: tuple[float, ...] = ()
    gate_out: tuple[float, ...] = ()


def reber(blocks: int, cells: int, rate: float, **paper: float) -> Row:
    return Row(
        1,
        "1",
        9,
        f"{blocks} blocks of {cells}, rate {rate}",
        net=Net(7, 7, blocks, cells, biased=("in", "out")),
        example=tasks.reber,
        rate=rate,
        scale=0.2,
        gate_out=(-1.0, -2.0, -3.0, -4.0)[:blocks],
        criterion=Legal(),
        trials=30,
        limit=200_000,
        paper=paper,
    )


def long_lag(experiment: str, **paper: float) -> Row:
    return Row(
        2,
        experiment,
        100,
        "",
        net=Net(101, 101, 1, 1, layered=True, cross_entropy=True),
        example=partial(tasks.long_lag, p=100, regular=experiment == "2a"),
        rate=1.0,
        scale=0.2,
        criterion=Tested(0.25, 10_000, unless=0, everywhere=experiment == "2a"),
        trials=18,
        limit=5_000_000,
        paper={**paper, "solved": 1.0},
    )


def very_long_lag(q: int, p: int, sequences: int) -> Row:
    return Row(
        3,
        "2c",
        q,
        f"{p} distractors",
        net=Net(p + 4, 2, 2, 1),
        example=partial(tasks.very_long_lag, q=q, p=p),
        rate=0.01,
        scale=0.2,
        criterion=Tested(0.2, 10_000, unless=0, every=500),
        trials=20,
        limit=5_000_000,
        paper={"sequences": sequences, "solved": 1.0},
    )


# experiment: table, rate, criterion, noise of informative elements and of targets
NOISE = {
    "3a": (4, 1.0, Tested(0.2, 256, unless=0, wrong=(1, 1), mean=(float("inf"), 0.01)), {}),
    "3b": (5, 1.0, Tested(0.2, 256, unless=6, wrong=(6, 6), mean=(float("inf"), 0.04)), {"signal_noise": 0.2}),
    "3c": (6, 0.1, Tested(0.1, 256, unless=3, wrong=(1,), mean=(0.015,)), {"target_noise": 0.1}),
}


def two_sequences(experiment: str, lag: int, informative: int, sequences: tuple[float, ...], wrong: float) -> Row:
    table, rate, criterion, noise = NOISE[experiment]
    return Row(
        table,
        experiment,
        lag,
        f"N = {informative}",
        net=Net(1, 1, 3, 1, biased=("in", "out", "cell")),
        example=partial(tasks.two_sequences, lag=lag, informative=informative, **noise),
        rate=rate,
        scale=0.1,
        gate_in=(-1.0, -3.0, -5.0),
        gate_out=(-2.0, -4.0, -6.0),
        criterion=criterion,
        trials=10,
        limit=10_000_000,
        paper={"sequences": sequences, "solved": 1.0, "wrong": 2560 * wrong},
    )


def pairs(lag: int, criterion: Recent, *, product: bool, **paper: float) -> Row:
    return Row(
        8 if product else 7,
        "5" if product else "4",
        lag,
        f"n = {criterion.wrong + 1}" if product else "",
        net=Net(2, 1, 2, 2, ("in", "out", "cell"), output_bias=True, linear=not product, cross_entropy=product),
        example=partial(tasks.marked_pairs, lag=lag, product=product),
        rate=0.1 if product else 0.5,
        scale=0.1,
        gate_in=() if product else (-3.0, -6.0),
        criterion=criterion,
        trials=10,
        limit=5_000_000,
        paper={**paper, "solved": 1.0},
    )


def temporal_order(experiment: str, symbols: int, rate: float, trials: int, **paper: float) -> Row:
    return Row(
        9,
        experiment,
        100,
        f"{2**symbols} classes",
        net=Net(8, 2**symbols, symbols, 2, biased=("in", "out", "cell"), output_bias=True),
        example=partial(tasks.temporal_order, symbols=symbols),
        rate=rate,
        scale=0.1,
        gate_in=(-2.0, -4.0, -6.0)[:symbols],
        criterion=Recent(0.3, mean=0.1),
        trials=trials,
        limit=5_000_000,
        paper={**paper, "solved": 1.0},
    )


ROWS = (
    reber(4, 1, 0.1, sequences=39_740, solved=1.0),
    reber(3, 2, 0.1, sequences=21_730, solved=1.0),
    reber(3, 2, 0.2, sequences=14_060, solved=0.97),
    reber(4, 1, 0.5, sequences=9_500, solved=0.97),
    reber(3, 2, 0.5, sequences=8_440, solved=1.0),
    long_lag("2a", sequences=5_040),
    long_lag("2b", sequences=5_680),
    very_long_lag(50, 50, 30_000),
    very_long_lag(100, 100, 31_000),
    very_long_lag(200, 200, 33_000),
    very_long_lag(500, 500, 38_000),
    very_long_lag(1000, 1000, 49_000),
    very_long_lag(1000, 500, 49_000),
    very_long_lag(1000, 200, 75_000),
    very_long_lag(1000, 100, 135_000),
    very_long_lag(1000, 50, 203_000),
    two_sequences("3a", 100, 3, (27_380, 39_850), 0.000195),
    two_sequences("3a", 100, 1, (58_370, 64_330), 0.000117),
    two_sequences("3a", 1000, 3, (446_850, 452_460), 0.000078),
    two_sequences("3b", 100, 3, (41_740, 43_250), 0.00828),
    two_sequences("3b", 100, 1, (74_950, 78_430), 0.0150),
    two_sequences("3b", 1000, 1, (481_060, 485_080), 0.01207),
    two_sequences("3c", 100, 3, (269_650,), 0.00558),
    two_sequences("3c", 100, 1, (565_640,), 0.00441),
    pairs(100, Recent(0.04, mean=0.01), product=False, sequences=74_000, wrong=1),
    pairs(500, Recent(0.04, mean=0.01), product=False, sequences=209_000, wrong=0),
    pairs(1000, Recent(0.04, mean=0.01), product=False, sequences=853_000, wrong=1),
    pairs(100, Recent(0.04, wrong=139), product=True, sequences=482_000, wrong=139),
    pairs(100, Recent(0.04, wrong=12), product=True, sequences=1_273_000, wrong=14),
    temporal_order("6a", 2, 0.5, 20, sequences=31_390, wrong=1),
    temporal_order("6b", 3, 0.1, 10, sequences=571_100, wrong=2),
)
