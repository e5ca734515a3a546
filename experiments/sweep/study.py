"""Searches by Optuna: trials become runs of the sweep, one by one. All launchers that share a storage share the search.

A trial is the run `trial-NUMBER`. One whose launcher died is taken over by whoever starts the sweep next in the same
folder: its run goes on from its checkpoint, under the same number.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from common.errors import InputError
from common.sweeps import Draw, text_of
from experiments.sweep.book import Book, make_run
from experiments.sweep.local import Source
from experiments.sweep.runs import TO_DO, Run, State, alone, read_metrics, scores, state, status

try:
    import optuna
    from optuna.trial import FrozenTrial, Trial, TrialState
    from sqlalchemy.exc import SQLAlchemyError
except ImportError:
    raise InputError("a study needs Optuna: pip install 'optuna>=4' (the extra `sweep`)") from None

SAMPLERS: Mapping[str, Callable[[int], Any]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, constant_liar=True),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}
PRUNERS: Mapping[str, Callable[[], Any]] = {
    "none": optuna.pruners.NopPruner,
    "median": optuna.pruners.MedianPruner,
    "halving": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
}
OWNER = "workdir"  # attribute of a trial: the sweep folder whose run it is


def study_source(book: Book) -> Source:
    """The trials of the book's study as a source of runs. Raises InputError for an unknown sampler, pruner or storage."""
    study = open_study(book)
    owner = str(book.workdir.resolve())
    tried: set[str] = set()

    def take() -> list[Run] | None:
        with alone(book.workdir):
            trials = study.get_trials(deepcopy=False)
            for trial in trials:
                if trial.state == TrialState.RUNNING and is_ours(trial, book, owner):
                    run = run_of(book, trial)
                    make_run(run)
                    if run.name not in tried and status(run.folder) in TO_DO:
                        tried.add(run.name)
                        return [run]
            # One whose launcher died while it asked has not all values: it is lost, and does not count.
            if sum(trial.params.keys() == book.study.space.keys() for trial in trials) >= book.study.trials:
                return None
            # A sampler of its own for each trial: two launchers with one seed would draw the same values.
            study.sampler = make_sampler(book, len(trials))
            trial = study.ask({key: distribution(draw) for key, draw in book.study.space.items()})
            trial.set_user_attr(OWNER, owner)
            run = run_of(book, trial)
            make_run(run)
            tried.add(run.name)
            return [run]

    seen: dict[str, int] = {}

    def watch(run: Run, now: State) -> bool:
        count = len(scores(read_metrics(run.folder), book.metric, book.split))
        if seen.get(run.name) == count:
            return False  # nothing new: the lock of the study is for those who have something to tell
        seen[run.name] = count
        with alone(book.workdir):
            return report(study, book, run)

    def done(run: Run, now: State) -> None:
        with alone(book.workdir):
            settle(study, book, run, now)

    for trial in study.get_trials(deepcopy=False):  # ended, while the launcher that would have told it was dead
        run = run_of(book, trial)
        if trial.state == TrialState.RUNNING and is_ours(trial, book, owner) and run.folder.is_dir():
            done(run, state(run.folder, book.metric, book.split))
    return Source(take, watch, done)


def open_study(book: Book):
    given = book.study
    for name, known, key in ((given.sampler, SAMPLERS, "sampler"), (given.pruner, PRUNERS, "pruner")):
        if name not in known:
            raise InputError(f"Study.{key}={name!r}: no such {key}; known: {', '.join(known)}")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    storage = given.storage
    if not storage:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        storage = JournalStorage(JournalFileBackend(str(book.workdir / "study.journal")))
    direction = "maximize" if book.metric.startswith("max ") else "minimize"
    try:
        return optuna.create_study(
            study_name=given.name,
            storage=storage,
            sampler=make_sampler(book, 0),
            pruner=PRUNERS[given.pruner](),
            direction=direction,
            load_if_exists=True,
        )
    except (ImportError, ValueError, optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        raise InputError(f"Study.storage={given.storage!r}: {str(error).splitlines()[0]}") from None


def make_sampler(book: Book, number: int):
    return SAMPLERS[book.study.sampler](book.study.seed * 1_000_003 + number)


def distribution(draw: Draw):
    """A draw in Optuna's words. It takes no lists: they become texts, as the command line has them."""
    if draw.kind == "choice":
        scalar = lambda value: isinstance(value, bool | int | float | str)
        return optuna.distributions.CategoricalDistribution([v if scalar(v) else text_of(v) for v in draw.values])
    if draw.kind == "int":
        return optuna.distributions.IntDistribution(int(draw.low), int(draw.high), log=draw.log)
    return optuna.distributions.FloatDistribution(draw.low, draw.high, log=draw.log)


def run_of(book: Book, trial: Trial | FrozenTrial) -> Run:
    name = f"trial-{trial.number:05d}"
    return Run(name, book.workdir / "runs" / name, dict(trial.params))


def is_ours(trial: FrozenTrial, book: Book, owner: str) -> bool:
    """Whether the run of a trial is in this folder. One without an owner, whose launcher died between asking and saying
    so, is ours where the whole study is."""
    own = trial.user_attrs.get(OWNER, "" if book.study.storage else owner) == owner
    return own and trial.params.keys() == book.study.space.keys()


def report(study, book: Book, run: Run) -> bool:
    """Tells the study the run's new scores; true where it says to prune the run."""
    frozen = trial_of(study, run)
    if frozen.state != TrialState.RUNNING:
        return False
    found = scores(read_metrics(run.folder), book.metric, book.split)
    new = {step: score for step, score in found.items() if step not in frozen.intermediate_values}
    trial = Trial(study, frozen._trial_id)  # no public name gives a trial that another process has asked for
    for step, score in sorted(new.items()):
        trial.report(score, step)
    return bool(new) and trial.should_prune()


def settle(study, book: Book, run: Run, now: State) -> None:
    """Tells the study how a run has ended; one that can go on is not told, it stays running."""
    if now.status not in ("finished", "pruned", "failed") or trial_of(study, run).state != TrialState.RUNNING:
        return
    report(study, book, run)
    if now.status == "finished" and now.score is not None:
        study.tell(trial_of(study, run).number, now.score)
    else:
        study.tell(trial_of(study, run).number, state=TrialState.PRUNED if now.status == "pruned" else TrialState.FAIL)


def trial_of(study, run: Run) -> FrozenTrial:
    return study.get_trials(deepcopy=False)[int(run.name.removeprefix("trial-"))]
