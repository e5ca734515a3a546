"""What a sweep tries: lists of overrides from small combinators, or a space that a study samples.

    grid({"optimizer.learning_rate": [1e-3, 1e-2], "seed": range(3)})        every pair: 6 runs
    zipped({"model.width": [8, 16], "optimizer.learning_rate": [1e-2, 3e-3]}) first with first: 2 runs
    random(20, 0, {"optimizer.learning_rate": log_uniform(1e-4, 1e-1)})       20 draws from seed 0
    chain(a, b)                                                               a's runs, then b's
    product(a, b)                                                             every run of a with every one of b

An override is a config key and its value; a run is a dict of them. Same call, same list.
"""

import dataclasses
import hashlib
import inspect
import itertools
import json
import math
import random as generators
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common.config import load_module
from common.errors import InputError

Overrides = dict[str, Any]  # {"optimizer.learning_rate": 0.01, "seed": 1}
NAME = 100  # characters of a run's name at most


@dataclasses.dataclass(frozen=True)
class Draw:
    """Where one value comes from. kind: 'float' or 'int' between low and high (log: evenly in the logarithm), or 'choice'."""

    kind: str
    low: float = 0
    high: float = 0
    log: bool = False
    values: tuple = ()

    def at(self, share: float) -> Any:
        """The value at `share` in [0, 1) of the range. Floats have 4 digits, so that names of runs can be read."""
        if self.kind == "choice":
            return self.values[int(share * len(self.values))]
        if self.kind == "int":
            if self.log:
                top = math.log((self.high + 1) / self.low)
                return min(int(self.low * math.exp(share * top)), int(self.high))
            return int(self.low + math.floor(share * (self.high - self.low + 1)))
        value = self.low * (self.high / self.low) ** share if self.log else self.low + share * (self.high - self.low)
        return min(max(float(f"{value:.4g}"), self.low), self.high)


def uniform(low: float, high: float) -> Draw:
    return bounded(Draw("float", float(low), float(high)), "uniform")


def log_uniform(low: float, high: float) -> Draw:
    return bounded(Draw("float", float(low), float(high), log=True), "log_uniform")


def integers(low: int, high: int, *, log: bool = False) -> Draw:
    """Whole numbers from low to high, both among them."""
    return bounded(Draw("int", int(low), int(high), log=log), "integers")


def choice(values: Iterable[Any]) -> Draw:
    values = tuple(values)
    if not values:
        raise InputError("choice([]): nothing to choose from; give at least one value")
    return Draw("choice", values=values)


def bounded(draw: Draw, name: str) -> Draw:
    if not (math.isfinite(draw.low) and math.isfinite(draw.high) and draw.low < draw.high):
        raise InputError(f"{name}({draw.low:g}, {draw.high:g}): the first number must be below the second")
    if draw.log and draw.low <= 0:
        raise InputError(f"{name}({draw.low:g}, {draw.high:g}): a logarithmic range begins above 0")
    return draw


def grid(axes: Mapping[str, Iterable[Any]]) -> list[Overrides]:
    """Every combination; the last key changes fastest. Raises InputError for a value that is there twice."""
    columns = [[{key: value} for value in values_of("grid", key, values)] for key, values in axes.items()]
    return product(*columns)


def zipped(axes: Mapping[str, Iterable[Any]]) -> list[Overrides]:
    """The first values of all keys, then the second ones, and so on. Raises InputError where lengths differ."""
    columns = {key: values_of("zipped", key, values) for key, values in axes.items()}
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"zipped: keys have different numbers of values: {lengths}; use grid for all combinations")
    return distinct([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)], "zipped")


def chain(*lists: Iterable[Any]) -> list[Overrides]:
    """One list after the other. Raises InputError for a run that is in two of them."""
    return distinct(itertools.chain(*runs_of("chain", lists)), "chain")


def product(*lists: Iterable[Any]) -> list[Overrides]:
    """Every run of each list with every run of the others. Raises InputError where two of them set one key."""
    runs: list[Overrides] = [{}]
    for other in runs_of("product", lists):
        for a, b in itertools.product(runs[:1], other[:1]):
            if both := sorted(set(a) & set(b)):
                raise InputError(f"product: {both[0]!r} is set in two of the lists; set each key in one of them")
        runs = [{**a, **b} for a in runs for b in other]
    return distinct(runs, "product")


def random(count: int, seed: int, space: Mapping[str, Any]) -> list[Overrides]:
    """`count` different runs drawn from `space`. A longer list begins with the shorter one, and each key has draws of
    its own: a key more changes no value of the others. Raises InputError where the space has fewer runs."""
    for key, draw in space.items():
        if not isinstance(draw, Draw):
            raise InputError(f"random: {key!r} is {draw!r}; expected uniform, log_uniform, integers or choice")
    # Only random() is used: what it gives for a seed is promised for all versions of Python.
    streams = {key: generators.Random(f"{seed}/{key}") for key in space}
    found: dict[str, Overrides] = {}
    for _ in range(100 * count):
        if len(found) == count:
            break
        run = {key: draw.at(streams[key].random()) for key, draw in space.items()}
        found.setdefault(identity(run), run)
    if len(found) < count:
        raise InputError(f"random: {count} runs asked for, but only {len(found)} different ones were found; use grid")
    return list(found.values())


def runs_of(name: str, lists: Iterable[Iterable[Any]]) -> list[list[Overrides]]:
    """The lists of runs. Raises InputError for what is none, like the dict that grid takes."""
    found = [list(runs) for runs in lists]
    if not all(isinstance(run, Mapping) for runs in found for run in runs):
        raise InputError(f"{name}: expected lists of runs; use grid({{...}})")
    return found


def values_of(name: str, key: str, values: Iterable[Any]) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InputError(f"{name}: {key!r} is {values!r}; expected a list of values")
    values = list(values)
    if not values:
        raise InputError(f"{name}: {key!r} has no values")
    return values


def distinct(runs: Iterable[Overrides], name: str) -> list[Overrides]:
    runs = list(runs)
    seen = set()
    for run in runs:
        if (own := identity(run)) in seen:
            raise InputError(f"{name}: the run {own} is there twice; leave one out")
        seen.add(own)
    return runs


def identity(run: Overrides) -> str:
    """The same text for the same overrides, in whatever order."""
    return json.dumps(run, sort_keys=True, default=as_plain)


def as_plain(value: Any) -> Any:
    """A NumPy number as Python's."""
    if hasattr(value, "item"):
        return value.item()
    raise InputError(f"the value {value!r} of a sweep is neither a number nor a text nor a list")


@dataclasses.dataclass(frozen=True)
class Study:
    """A search by Optuna over `space`. `trials` in all, of all launchers that share `storage` (empty: a file in the
    sweep's folder; else an address that Optuna knows, where `name` must be this search's own). sampler: tpe or random;
    pruner: none, median, halving or hyperband."""

    space: Mapping[str, Draw]
    trials: int
    sampler: str = "tpe"
    pruner: str = "median"
    seed: int = 0
    storage: str = ""
    name: str = "sweep"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What get_sweep() of a sweep file returns.

    base: a config, like 'configs/unet_brain.py:smoke'. runs: what differs in each; or a study. common: overrides of all
    runs. metric: 'max NAME' or 'min NAME' by which runs are compared, and the best checkpoint of each is chosen;
    empty: the config's loop.best. file: set by load_sweep, for messages.
    """

    base: str
    runs: Sequence[Overrides] = ()
    study: Study | None = None
    common: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metric: str = ""
    file: str = ""


def load_sweep(spec: str) -> Sweep:
    """The sweep of 'configs/sweeps/NAME.py[:variant]'. Raises InputError where the file or what it gives is wrong."""
    path, _, variant = spec.partition(":")
    module = load_module(path, "--sweep", "get_sweep", "configs/sweeps/brain_rates.py")
    takes_variant = bool(inspect.signature(module.get_sweep).parameters)
    if variant and not takes_variant:
        raise InputError(
            f"--sweep {spec}: this sweep has no variants (its get_sweep takes no argument); use --sweep {path}"
        )
    sweep = module.get_sweep(variant) if takes_variant else module.get_sweep()
    if not isinstance(sweep, Sweep):
        raise InputError(f"--sweep {path}: get_sweep gave a {type(sweep).__name__}; expected a common.sweeps.Sweep")
    if bool(sweep.runs) == bool(sweep.study):
        raise InputError(f"--sweep {path}: expected either runs or a study, and not both")
    distinct(sweep.runs, f"--sweep {path}")
    return dataclasses.replace(sweep, file=path)


def text_of(value: Any) -> str:
    """A value as --config.key=VALUE takes it."""
    if isinstance(value, list | tuple):
        return repr([as_plain(v) if hasattr(v, "item") else v for v in value])
    return str(as_plain(value) if hasattr(value, "item") else value)


def run_names(runs: Sequence[Overrides], taken: Mapping[str, Overrides] | None = None) -> list[str]:
    """A name for each run, a readable file name: 'learning_rate=0.01,seed=1'. A run that is among `taken` keeps its name.

    Keys are cut to their last part where that is clear among the run's own; a name that is too long or meets another one
    ends in a hash of the overrides.
    """
    known = {identity(run): name for name, run in (taken or {}).items()}
    used = {name.casefold() for name in (taken or {})}
    names = []
    for run in runs:
        own = identity(run)
        name = known.get(own) or readable(run)
        if own not in known and name.casefold() in used:
            name = f"{name[: NAME - 9]}-{digest(own)}"
        used.add(name.casefold())
        names.append(name)
    return names


def readable(run: Overrides) -> str:
    lasts = [key.rpartition(".")[2] for key in run]
    keys = [last if lasts.count(last) == 1 else key for key, last in zip(run, lasts, strict=True)]
    texts = ["-".join(map(text_of, v)) if isinstance(v, list | tuple) else text_of(v) for v in run.values()]
    text = ",".join(f"{key}={value}" for key, value in zip(keys, texts, strict=True)) or "base"
    name = re.sub(r"[^A-Za-z0-9._=,+-]+", "_", text)
    return name if len(name) <= NAME else f"{name[: NAME - 9]}-{digest(identity(run))}"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
