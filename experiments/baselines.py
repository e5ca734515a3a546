"""Scores of simple methods beside a run: python -m experiments.baselines --workdir runs/imdb [--split test] [--record NAME]

Writes WORKDIR/baselines-SPLIT.json, which the report shows; with --record, adds the methods to experiments/results/NAME.json,
which `experiments.train --record NAME` has written. Runs of `classify` and `land_cover` configs; their data is read again.
"""

from experiments import launch

# isort: split
import json
from pathlib import Path

from common import config as configs
from common.errors import InputError
from common.record import write_json
from common.run import read_config
from experiments.arguments import parser
from experiments.evaluate import print_scores
from lstm.baselines import baselines as sequence_baselines
from lstm.data.labelled import NoPart
from lstm.tasks.classify import classification
from lstm.tasks.classify_data import open_reader, reading
from unet.landcover.baselines import baselines as land_cover_baselines
from unet.landcover.task import as_agreement, crops_of

SHOWN = ("loss", "accuracy", "agreement", "f1/macro", "iou/mean", "auroc")


def main(argv: list[str]) -> int:
    arguments = parser("experiments.baselines", "Scores simple methods on the data of a run.")
    arguments.add_argument("--workdir", required=True, type=Path, help="the run folder")
    arguments.add_argument("--split", default="", help="default: the config's loop.score_split")
    arguments.add_argument("--record", metavar="NAME", help="add them to experiments/results/NAME.json")
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
    rows = method({name: configs.kwargs(config[name]) for name in ("task", "model", "data")}, split)
    own = flags.workdir / f"evaluation-{split}.json"
    shown = {**rows, network: json.loads(own.read_text())} if own.exists() else rows
    for name, scores in shown.items():
        print_scores(f"{name}  {split}", {key: scores[key] for key in SHOWN if scores.get(key) is not None})
    table = {name: {key: s[key] for key in SHOWN if s.get(key) is not None} for name, s in shown.items()}
    write_json(flags.workdir / f"baselines-{split}.json", table)
    if flags.record:
        write_json(path, {**json.loads(path.read_text()), "baselines": rows})
    return 0


def of_sequences(sections, split: str) -> dict[str, dict[str, float]]:
    """{method: scores} of a `classify` config's data on a split, fitted to its training part."""
    own = {key: value for key, value in sections["task"].items() if key != "name"}
    options = configs.call(classification, "task", own)
    reader = open_reader(reading(**sections["data"]), sections["model"], options["class_names"])
    try:
        validation = reader.labelled("validation")
    except NoPart:
        validation = None
    parts = reader.labelled("train"), validation, reader.labelled(split)
    return sequence_baselines(*parts, options["class_names"], texts=reader.texts)


def of_scenes(sections, split: str) -> dict[str, dict[str, float]]:
    """{method: scores} of a `land_cover` config's scenes on a split, fitted to its training blocks."""
    crops, legend = crops_of(sections)
    rows = land_cover_baselines(crops, split, legend.names)
    return {name: as_agreement(scores) for name, scores in rows.items()}


METHODS = {"classify": ("LSTM", of_sequences), "land_cover": ("U-Net", of_scenes)}


if __name__ == "__main__":
    launch.run(main)
