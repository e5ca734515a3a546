"""The list of a sweep, kept in WORKDIR/sweep.json: what its runs share, and what each changes."""

import contextlib
import copy
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from common import config as configs
from common.errors import InputError
from common.files import write_text
from common.sweeps import Overrides, Study, Sweep, run_names, text_of
from experiments.sweep.runs import Run, alone, read_mark, write_mark

TRAIN = "experiments.train"
OURS = ("loop.score_split", "loop.eval_split", "loop.best")  # what runs are compared by is one for all of them
FREE = ("mesh", "data.root", "data.threads", "data.cache_mb", "loop.log", "loop.save", "loop.keep")


@dataclasses.dataclass(frozen=True)
class Book:
    """A sweep in its folder. common: overrides of all runs, as texts. metric: 'max NAME' or 'min NAME' on `split`.

    runs: those of the sweep file (none for a study: its trials become runs one by one). left_out: runs of this folder
    that are not in the sweep file any more; they are kept, and not started.
    """

    workdir: Path
    base: str
    config: ConfigDict
    common: Mapping[str, str]
    metric: str
    split: str
    runs: Sequence[Run]
    left_out: Sequence[Run]
    study: Study | None
    module: str = TRAIN


def open_book(sweep: Sweep, workdir: Path, overrides: Mapping[str, str], module: str = "", write: bool = True) -> Book:
    """The sweep in its folder, every override checked; `overrides` (from the command line) are of all runs.

    module: what trains a run; empty: as the folder has it, else experiments.train.
    Without `write`, nothing is written. Raises InputError for a key or value that is wrong, and where the folder holds a
    sweep of another base config.
    """
    common = {key: text_of(value) for key, value in sweep.common.items()} | dict(overrides)
    refuse_ours([*common, *(key for run in sweep.runs for key in run), *(sweep.study.space if sweep.study else ())])
    if sweep.metric:
        common["loop.best"] = sweep.metric
    config = configs.load_config(sweep.base)
    for key, text in common.items():
        with contextlib.nullcontext() if key in overrides else blamed_on(sweep):
            configs.override(config, key, text)
    metric, split = config.loop.get("best", "min loss"), config.loop.get("eval_split", "validation")
    # experiments.train scores loop.score_split at the end of each run: in a search that is not the test part.
    common["loop.score_split"] = split
    configs.override(config, "loop.score_split", split)
    check_runs(config, sweep, overrides)
    book = Book(workdir, sweep.base, config, common, metric, split, (), (), sweep.study, module)
    if not write:
        return enter(book, sweep.runs)
    with alone(workdir):
        book = enter(book, sweep.runs)
        for run in (*book.runs, *book.left_out):
            make_run(run)
        write_text(workdir / "sweep.json", json.dumps(described(book), indent=1) + "\n")
    return book


@contextlib.contextmanager
def blamed_on(sweep: Sweep) -> Iterator[None]:
    """What is wrong with a key inside is said to be in the sweep file: nobody has typed it as a flag."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{sweep.file or 'the sweep'}: {str(error).removeprefix('--')}") from None


def refuse_ours(keys: Sequence[str]) -> None:
    for key in keys:
        if key in OURS:
            raise InputError(
                f"config.{key}: a sweep compares its runs by one score of config.loop.eval_split, and leaves the test part "
                "alone: set metric=... in the sweep file, or the split in the base config"
            )


def check_runs(config: ConfigDict, sweep: Sweep, overrides: Mapping[str, str]) -> None:
    """Raises InputError for the first run that the config does not take."""
    samples = sweep.runs or [{key: draw.at(share) for key, draw in sweep.study.space.items()} for share in (0, 0.999)]
    for run in samples:
        trial = copy.deepcopy(config)
        for key, value in run.items():
            if key in overrides:
                raise InputError(f"--config.{key}: the sweep sets this key in its runs; change the sweep file")
            with blamed_on(sweep):
                configs.override(trial, key, text_of(value))


def enter(book: Book, runs: Sequence[Overrides]) -> Book:
    """The book with its runs, and those that the folder has; these keep their names. Raises InputError where the folder
    holds another sweep."""
    path = book.workdir / "sweep.json"
    old = json.loads(path.read_text()) if path.exists() else {"runs": {}, "module": TRAIN}
    if "config" in old:
        changes = configs.difference(ConfigDict(old["config"]), book.config, FREE)
        if old["study"] != (study := described(book)["study"]):
            changes.append(f"study: {old['study']} -> {study}")
        if changes:
            raise InputError(
                f"--workdir {book.workdir}: holds another sweep ({'; '.join(changes)}); use another folder"
            )
    names = run_names(runs, old["runs"])
    folder = book.workdir / "runs"
    now = [Run(name, folder / name, dict(run)) for name, run in zip(names, runs, strict=True)]
    left = [Run(name, folder / name, run) for name, run in old["runs"].items() if name not in names]
    return dataclasses.replace(book, runs=now, left_out=left, module=book.module or old["module"])


def make_run(run: Run) -> None:
    """The run's folder, with its overrides in it."""
    run.folder.mkdir(parents=True, exist_ok=True)
    if not (run.folder / "sweep-run.json").exists():
        write_mark(run.folder, {"overrides": json.loads(json.dumps(run.overrides, default=text_of)), "starts": []})


def described(book: Book) -> dict[str, Any]:
    """What sweep.json holds."""
    study = book.study and {
        "space": {key: dataclasses.asdict(draw) for key, draw in book.study.space.items()},
        "sampler": book.study.sampler,
        "pruner": book.study.pruner,
        "seed": book.study.seed,
    }
    return json.loads(
        json.dumps(
            {
                "base": book.base,
                "module": book.module,
                "common": dict(book.common),
                "metric": book.metric,
                "split": book.split,
                "study": study,
                "runs": {run.name: run.overrides for run in (*book.runs, *book.left_out)},
                "config": json.loads(configs.to_json(book.config)),
            },
            default=text_of,
        )
    )


def all_runs(book: Book) -> list[Run]:
    """Those of the list, or the trials of the study that have a folder."""
    if not book.study:
        return [*book.runs, *book.left_out]
    folders = sorted(path.parent for path in (book.workdir / "runs").glob("*/sweep-run.json"))
    return [Run(folder.name, folder, read_mark(folder)["overrides"]) for folder in folders]


def command_of(folder: Path) -> tuple[str, list[str]]:
    """The module and the words that train a run: `python -m MODULE WORDS`."""
    sweep = read_sweep(folder)
    return sweep["module"], train_words(sweep["base"], folder, sweep["common"], read_mark(folder)["overrides"])


def given(common: Mapping[str, str], overrides: Mapping[str, Any]) -> dict[str, str]:
    """All overrides of a run, as texts."""
    return {**common, **{key: text_of(value) for key, value in overrides.items()}}


def train_words(base: str, folder: Path, common: Mapping[str, str], overrides: Mapping[str, Any]) -> list[str]:
    words = [f"--config.{key}={text}" for key, text in given(common, overrides).items()]
    return ["--config", base, "--workdir", str(folder), *words, "--quiet"]


def run_config(book: Book, run: Run) -> ConfigDict:
    """The config of a run whose folder need not be there."""
    return configs.load_config(book.base, given(book.common, run.overrides))


def config_of(folder: Path) -> ConfigDict:
    """The config of a run."""
    sweep = read_sweep(folder)
    return configs.load_config(sweep["base"], given(sweep["common"], read_mark(folder)["overrides"]))


def read_sweep(folder: Path) -> dict[str, Any]:
    path = folder.parent.parent / "sweep.json"
    if not path.exists():
        raise InputError(f"{folder}: is not a run of a sweep ({path} is missing)")
    return json.loads(path.read_text())
