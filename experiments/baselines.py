"""Scores of simple methods beside a run: python -m experiments.baselines --workdir runs/imdb [--split test] [--record NAME]

Writes WORKDIR/baselines-SPLIT.json, which the report shows; with --record, adds the methods to experiments/results/NAME.json,
which `experiments.train --record NAME` has written. Runs of `classify`, `land_cover` and `jobs` configs; their data is read
again. --beside adds other runs of the same jobs (a GRU, a net without recurrence) to the table.
"""

from experiments import launch

# isort: split
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from common import config as configs
from common.errors import InputError
from common.record import write_json
from common.run import read_config, read_facts
from experiments.arguments import parser
from experiments.evaluate import print_scores
from experiments.report import read_metrics
from lstm import job_table
from lstm.baselines import baselines as sequence_baselines
from lstm.data.labelled import NoPart
from lstm.job_baselines import baselines as job_baselines
from lstm.job_scores import Forecasts
from lstm.tasks.classify import classification
from lstm.tasks.classify_data import open_reader, reading
from lstm.tasks.jobs import jobs, whole
from lstm.tasks.jobs_data import open_data
from unet.landcover.baselines import baselines as land_cover_baselines
from unet.landcover.task import as_agreement, crops_of

SHOWN = ("loss", "accuracy", "agreement", "f1/macro", "iou/mean", "auroc", "auroc/bad", "auprc/bad", "brier")


def main(argv: list[str]) -> int:
    arguments = parser("experiments.baselines", "Scores simple methods on the data of a run.")
    arguments.add_argument("--workdir", required=True, type=Path, help="the run folder")
    arguments.add_argument("--split", default="", help="default: the config's loop.score_split")
    arguments.add_argument("--record", metavar="NAME", help="add them to experiments/results/NAME.json")
    arguments.add_argument("--beside", nargs="+", default=[], type=Path, metavar="RUN", help="of jobs: further runs")
    flags = arguments.parse_args(argv)
    config = read_config(flags.workdir)
    split = flags.split or config.loop.score_split
    path = Path("experiments/results") / f"{flags.record}.json"
    if flags.record and not path.exists():
        raise InputError(
            f"--record {flags.record}: {path} is missing; experiments.train --record {flags.record} writes it"
        )
    if flags.record:
        recorded = configs.from_json(json.dumps(json.loads(path.read_text())["config"]))
        changes = configs.difference(recorded, config, free=("seed", *configs.READING))
        if changes:
            raise InputError(f"--record {flags.record}: {path} is of another config ({'; '.join(changes)})")
        if split != config.loop.score_split:
            raise InputError(f"--record {flags.record}: has scores of {config.loop.score_split!r}, not of {split!r}")
    if config.task.name not in METHODS:
        raise InputError(f"config.task.name={config.task.name!r}: baselines are for {', '.join(METHODS)}")
    network, method = METHODS[config.task.name]
    if flags.beside and config.task.name != "jobs":
        raise InputError(f"--beside: for runs of jobs; this one's config.task.name is {config.task.name!r}")
    own = flags.workdir / f"evaluation-{split}.json"
    rows = method(config, split, [flags.workdir, *flags.beside])
    shown = {**rows, network: json.loads(own.read_text())} if own.exists() else rows
    for name, scores in shown.items():
        print_scores(f"{name}  {split}", {key: scores[key] for key in SHOWN if scores.get(key) is not None})
    table = {name: {key: s[key] for key in SHOWN if s.get(key) is not None} for name, s in shown.items()}
    write_json(flags.workdir / f"baselines-{split}.json", table)
    if flags.record:
        write_json(path, {**json.loads(path.read_text()), "baselines": rows})
    return 0


def sections_of(config: ConfigDict) -> dict[str, dict[str, Any]]:
    """task, model and data as keyword arguments, and the name of the task in its own section."""
    return {name: configs.kwargs(config[name]) for name in ("task", "model", "data")}


def of_sequences(config: ConfigDict, split: str, runs: Sequence[Path]) -> dict[str, dict[str, float]]:
    """{method: scores} of a `classify` config's data on a split, fitted to its training part."""
    sections = sections_of(config)
    own = {key: value for key, value in sections["task"].items() if key != "name"}
    options = configs.call(classification, "task", own)
    reader = open_reader(reading(**sections["data"]), sections["model"], options["class_names"])
    try:
        validation = reader.labelled("validation")
    except NoPart:
        validation = None
    parts = reader.labelled("train"), validation, reader.labelled(split)
    return sequence_baselines(*parts, options["class_names"], texts=reader.texts)


def of_scenes(config: ConfigDict, split: str, runs: Sequence[Path]) -> dict[str, dict[str, float]]:
    """{method: scores} of a `land_cover` config's scenes on a split, fitted to its training blocks."""
    crops, legend = crops_of(sections_of(config))
    rows = land_cover_baselines(crops, split, legend.names)
    return {name: as_agreement(scores) for name, scores in rows.items()}


def of_jobs(config: ConfigDict, split: str, runs: Sequence[Path]) -> dict[str, dict[str, float]]:
    """{method: scores} of the log of the first run on a split; the other runs are methods, too. All must have been evaluated."""
    sections = sections_of(config)
    options = configs.call(jobs, "task", {key: value for key, value in sections["task"].items() if key != "name"})
    data = open_data(sections["data"], options["class_names"], read_facts(runs[0]))
    log, parts, names = data.log(), data.parts(), options["class_names"]
    found = {net_name(config): forecasts(runs[0], split)}
    first = next(iter(found))
    for run in runs[1:]:
        other = read_config(run)
        changes = configs.difference(
            other, config, free=("seed", "model", "optimizer", "task.temperature", *configs.FREE)
        )
        if changes:
            raise InputError(f"--beside {run}: is of other jobs or classes ({'; '.join(changes)})")
        found[net_name(other)] = forecasts(run, split)
    if sections["data"]["source"] == "made":
        found["Bayes-optimal"] = found[first]._replace(probabilities=data.chances()[found[first].id].astype("float32"))
    methods = {**job_baselines(log, parts, split, names), **found}
    return job_table.table(methods, first, log, parts["train"], names, options["bad"])


def net_name(config: ConfigDict) -> str:
    """What a net is called in a table."""
    return config.model.cell.upper() if config.model.hidden else "no recurrence"


def forecasts(run: Path, split: str) -> Forecasts:
    """What a run has answered to the jobs of a split."""
    path = run / f"evaluation-{split}.npz"
    if not path.exists():
        raise InputError(f"{path} is missing; experiments.evaluate --workdir {run} --split {split} writes it")
    return job_table.in_order(whole(read_metrics(path)))


METHODS = {"classify": ("LSTM", of_sequences), "land_cover": ("U-Net", of_scenes), "jobs": ("LSTM", of_jobs)}


if __name__ == "__main__":
    launch.run(main)
