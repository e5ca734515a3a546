"""Jobs, forward in time: python -m experiments.walk_forward --config configs/lstm_jobs_atlas.py:select --workdir runs/walk [--record NAME]

A fold for each of some tenths of a log: trains on what lies before, chooses checkpoint and temperature on the next tenth, and
scores the one after that, with the baselines beside. Folds that are done are not done again.
"""

from experiments import launch

# isort: split
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.config import to_json
from common.errors import InputError
from common.log import command_line
from common.record import write_result
from experiments import baselines, train
from experiments.arguments import parse_with_config, parser
from experiments.train import minutes_of

TENTHS = range(3, 9)  # that a fold trains on
SHOWN = ("accuracy", "f1/macro", "auroc/bad", "auprc/bad", "loss")


def main(argv: list[str]) -> int:
    arguments = parser(
        "experiments.walk_forward", "Trains and scores a config of jobs on tenths of its log, one after another."
    )
    arguments.add_argument("--workdir", required=True, type=Path, help="a run folder for each fold goes in here")
    arguments.add_argument("--record", metavar="NAME", help="write experiments/results/NAME.json")
    flags, config = parse_with_config(arguments, argv)
    if config.task.name != "jobs":
        raise InputError(f"--config {flags.config}: its task is {config.task.name!r}; this walks through logs of jobs")
    folds, minutes = [], 0.0
    for tenth in TENTHS:
        run = flags.workdir / str(tenth)
        parts = f"--config.data.parts={[tenth / 10, (tenth + 1) / 10, (tenth + 2) / 10]}"
        words = [
            "--config",
            flags.config,
            *flags.overrides,
            parts,
            "--config.loop.score_split=test",
            "--workdir",
            str(run),
        ]
        code = train.main(words)
        if code:
            return code
        found = run / "baselines-test.json"
        if not found.exists():
            baselines.main(["--workdir", str(run)])
        folds.append(json.loads(found.read_text()))
        minutes += minutes_of(run)
    scores = {f"{score}/{method}": [fold[method][score] for fold in folds] for method in folds[0] for score in SHOWN}
    show(folds)
    if flags.record:
        write_result(
            Path("experiments/results") / f"{flags.record}.json",
            name=flags.record,
            config=json.loads(to_json(config)),
            overrides=flags.overrides,
            command=" ".join(command_line()),
            minutes=minutes,
            seeds=[config.seed],
            scores=scores,
            selected_on="each fold's validation part",
            curve=[],
            folds=[{"tenths": tenth, **fold} for tenth, fold in zip(TENTHS, folds, strict=True)],
        )
    return 0


def show(folds: list[dict[str, dict[str, float]]]) -> None:
    table = Table("accuracy", *(f"tenth {tenth + 2}" for tenth in TENTHS), "mean")
    for method in folds[0]:
        found = [fold[method]["accuracy"] for fold in folds]
        table.add_row(method, *(f"{x:.3f}" for x in found), f"{sum(found) / len(found):.3f}")
    Console().print(table)


if __name__ == "__main__":
    launch.run(main)
