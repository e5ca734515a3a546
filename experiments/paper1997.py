"""The experiments of Hochreiter & Schmidhuber 1997, as they were: python -m experiments.paper1997 --experiment 4 --lag 100

Without --experiment: the rows of the paper's tables. With --json, results are written trial by trial; a run that is stopped goes
on from FILE.state.npz when the same command is given again. The same seed gives the same trials.
"""

from experiments import launch

# isort: split
import argparse
import json
import shlex
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from common.errors import STOPPED, InputError
from common.processes import Signals
from common.record import cores, write_result
from experiments.arguments import parser
from lstm.paper1997 import net as nets
from lstm.paper1997 import run
from lstm.paper1997.learners import LEARNERS
from lstm.paper1997.run import TESTED, Trials
from lstm.paper1997.tables import ROWS, Row

SECONDS = 3.0  # between two looks at how far it is


def main(argv: list[str]) -> int:
    arguments = parser("experiments.paper1997", "Runs rows of the tables of the LSTM paper of 1997.")
    arguments.add_argument("--experiment", default="", help="1, 2a, 2b, 2c, 3a, 3b, 3c, 4, 5, 6a or 6b")
    arguments.add_argument("--lag", type=int, default=0, help="default: all lags of the experiment")
    arguments.add_argument("--variant", default="", help="part of the name of a row, as 'N = 3'; default: all")
    arguments.add_argument("--trials", type=int, default=0, help="default: as many as in the paper")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--learner", choices=list(LEARNERS), default="lstm")
    arguments.add_argument(
        "--limit", type=int, default=0, help="sequences after which a trial has failed, in whole looks"
    )
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the result here; of one row")
    flags = arguments.parse_args(argv)
    rows = chosen(flags)
    if not flags.experiment:
        show([(row, None) for row in rows])
        return 0
    if flags.trials < 0 or flags.limit < 0 or flags.seed < 0:
        raise InputError("--trials, --limit, --seed: 0 or more")
    if flags.json and len(rows) > 1:
        raise InputError(f"--json {flags.json}: of one row; these are {len(rows)}: add --lag or --variant")
    found = []
    with Signals() as signals:
        for row in rows:
            trials = run_row(row, flags, argv, signals)
            if trials is None:
                return STOPPED
            found.append((row, trials))
    show(found)
    return 0


def chosen(flags: argparse.Namespace) -> list[Row]:
    """The rows that the flags mean."""
    of_experiment = [row for row in ROWS if flags.experiment in ("", row.experiment)]
    if not of_experiment:
        known = ", ".join(dict.fromkeys(row.experiment for row in ROWS))
        raise InputError(f"--experiment {flags.experiment}: no such row; one of {known}")
    rows = [row for row in of_experiment if flags.lag in (0, row.lag) and flags.variant in row.variant]
    if not rows:
        flag = f"--variant {flags.variant!r}" if flags.variant else f"--lag {flags.lag}"
        raise InputError(f"{flag}: no such row; one of {', '.join(repr(name_of(row)) for row in of_experiment)}")
    return rows


def run_row(row: Row, flags: argparse.Namespace, argv: Sequence[str], signals: Signals) -> list[dict[str, Any]] | None:
    """Runs a row to its end, and writes it; None where a signal came first."""
    learner, limit = LEARNERS[flags.learner], flags.limit or row.limit
    # Each trial is a program of its own, the same for all: on CPUs no slower than all in one, it uses all cores, and what it
    # rounds does not go by who runs beside it.
    groups = [run.start(row, learner, flags.seed, np.array([i])) for i in range(flags.trials or row.trials)]
    state = flags.json.with_name(f"{flags.json.name}.state.npz") if flags.json else None
    key = f"experiment {name_of(row)}, {flags.learner}, seed {flags.seed}, {len(groups)} trials"
    settings = settings_of(row, flags.learner)
    groups, before = restored(state, key, settings, groups)
    # Compiled here, or each thread would.
    advance = jax.jit(partial(run.advance, row, learner), donate_argnums=0).lower(groups[0], np.int32(1)).compile()
    finish = jax.jit(partial(run.finished, row, learner)).lower(groups[0]).compile()
    begin, rounds, results = time.monotonic(), 1, {}
    with ThreadPoolExecutor(cores()) as pool:
        while True:
            at, rest = time.monotonic(), limit - max(int(group.count) for group in groups)
            rounds = max(1, min(rounds, -(-rest // run.per_round(row))))  # or where a trial fails would go by the clock
            go = lambda group, n=np.int32(rounds): jax.block_until_ready(advance(group, n)) if busy(group) else group
            groups = list(pool.map(go, groups))
            turn = time.monotonic() - at
            count = max(int(group.count) for group in groups)
            ended = [i for i, group in enumerate(groups) if i not in results and (count >= limit or not busy(group))]
            tested = pool.map(lambda i, groups=groups: finish(groups[i]), ended)
            results |= {i: outcome(i, groups[i], test) for i, test in zip(ended, tested, strict=True)}
            trials = [results[i] for i in sorted(results)]
            minutes = before + (time.monotonic() - begin) / 60
            solved = sum(trial["solved"] for trial in trials)
            print(f"{key}: {count:,} sequences, {solved} solved, {minutes:.1f} minutes", flush=True)
            if flags.json:
                save(state, key, settings, groups, minutes)
                if ended:
                    write(flags.json, row, settings | {"limit": limit}, flags.seed, argv, trials, minutes)
            if len(trials) == len(groups):
                break
            if signals.stop_now():
                return None
            rounds = max(1, round(rounds * min(SECONDS / max(turn, 1e-3), 4.0)))
    if state:
        state.unlink()
    return trials


def passed_of(group: Trials) -> list[int]:
    """Of the one trial of a group."""
    return [int(each) for each in group.trials.passed[0]]


def busy(group: Trials) -> bool:
    return passed_of(group)[-1] == 0


def outcome(number: int, group: Trials, tested: tuple[jax.Array, jax.Array]) -> dict[str, Any]:
    """What became of a trial."""
    passed, (wrong, mse) = passed_of(group), tested
    trial = {"trial": number, "solved": not busy(group), "sequences": passed[-1] or int(group.count)}
    if len(passed) > 1:
        trial["stages"] = passed
    return trial | {"wrong": int(wrong[0]), "mse": float(mse[0])}


def settings_of(row: Row, learner: str) -> dict[str, Any]:
    """What a record says of how a row was run."""
    criterion = {"kind": type(row.criterion).__name__, **row.criterion._asdict()}
    given = {name: getattr(row, name) for name in ("rate", "scale", "gate_in", "gate_out")}
    return {"learner": learner, "net": LEARNERS[learner].net(row), **given, "criterion": criterion}


def name_of(row: Row) -> str:
    return f"{row.experiment}, lag {row.lag}" + (f", {row.variant}" if row.variant else "")


# Files --------------------------------------------------------------------------------------------------------------------------


def as_arrays(groups: Sequence[Trials]) -> list[np.ndarray]:
    """What changes in trials."""
    keys = lambda leaf: jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return [np.asarray(keys(leaf)) for group in groups for leaf in jax.tree.leaves((group.trials, group.count))]


def save(path: Path, key: str, settings: dict[str, Any], groups: Sequence[Trials], minutes: float) -> None:
    aside = path.with_name(f".{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with aside.open("wb") as file:
        np.savez(file, *as_arrays(groups), key=key, settings=json.dumps(settings), minutes=minutes)
    aside.replace(path)


def restored(path: Path | None, key: str, settings: dict[str, Any], groups: list[Trials]) -> tuple[list[Trials], float]:
    """Groups as they were saved, and the minutes that they took; as given where nothing was."""
    if path is None or not path.exists():
        return groups, 0.0
    with np.load(path, allow_pickle=False) as file:
        if str(file["key"]) != key:
            raise InputError(f"{path}: is of {file['key']}, not of {key}; name another --json, or remove it")
        if str(file["settings"]) != json.dumps(settings):
            raise InputError(f"{path}: is of other settings of {key}; name another --json, or remove it")
        arrays = iter([file[f"arr_{i}"] for i in range(len(file.files) - 3)])
        minutes = float(file["minutes"])

    def back(leaf: jax.Array) -> jax.Array:
        array = jax.numpy.asarray(next(arrays))
        return jax.random.wrap_key_data(array) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else array

    found = []
    for group in groups:
        trials, count = jax.tree.map(back, (group.trials, group.count))
        found.append(group._replace(trials=trials, count=count))
    return found, minutes


def write(
    path: Path,
    row: Row,
    config: dict[str, Any],
    seed: int,
    argv: Sequence[str],
    trials: list[dict[str, Any]],
    minutes: float,
) -> None:
    scores = {name: [trial[name] for trial in trials] for name in ("solved", "sequences", "wrong")}
    write_result(
        path,
        name=path.stem,
        config=config,
        overrides=[],
        command=shlex.join(["python", "-m", "experiments.paper1997", *argv]),
        minutes=minutes,
        seeds=[seed],
        scores=scores,
        selected_on="nothing is selected",
        curve=[],
        experiment=row.experiment,
        lag=row.lag,
        variant=row.variant,
        table=row.table,
        paper=row.paper,
        tested=row.criterion.strings if row.table == 1 else TESTED,
        trials=trials,
    )


# Screen -------------------------------------------------------------------------------------------------------------------------


def show(found: Sequence[tuple[Row, list[dict[str, Any]] | None]]) -> None:
    """A line for each row; with trials, what they needed."""
    table = Table(*("table", "experiment", "lag", "variant", "weights", "paper: sequences", "solved", "here", "solved"))
    for row, trials in found:
        needed = row.paper["sequences"]
        paper = " / ".join(f"{n:,.0f}" for n in (needed if isinstance(needed, tuple) else (needed,)))
        ours = share = ""
        if trials:
            counts = [trial["sequences"] for trial in trials if trial["solved"]]
            ours = f"{np.mean(counts):,.0f} ({min(counts):,} to {max(counts):,})" if counts else "none"
            share = f"{len(counts)} of {len(trials)}"
        cells = [
            row.table,
            row.experiment,
            row.lag,
            row.variant,
            nets.weights(row.net),
            paper,
            f"{row.paper['solved']:.0%}",
        ]
        table.add_row(*map(str, cells), ours, share)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # in a file or a pipe nothing is cut
    console.print(table)


if __name__ == "__main__":
    launch.run(main)
