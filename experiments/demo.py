"""The demo: trains U-Net on real brain slices, compares it with two baselines, writes a report. `make demo` runs it."""

from experiments import launch

# isort: split
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.record import write_json
from common.run import load_run
from experiments import train
from experiments.arguments import parser
from experiments.evaluate import evaluate_run
from experiments.report import report_run
from unet.baselines import baselines

CONFIG = "configs/unet_brain.py"


def main(argv: list[str]) -> int:
    arguments = parser("experiments.demo", "Trains U-Net on real brain slices and shows what it learned.")
    arguments.add_argument("--workdir", type=Path, default=Path("runs/demo/unet_brain"), help="the run folder")
    arguments.add_argument("--record", metavar="NAME", help="write experiments/results/NAME.json")
    flags = arguments.parse_args(argv)
    code = train.main(["--config", CONFIG, "--workdir", str(flags.workdir)])
    if code:
        return code
    run = load_run(flags.workdir)
    split = run.config.loop.score_split
    scores = evaluate_run(run, split)
    rows = compare(run, split, scores)
    path = report_run(run, split)
    if flags.record:
        others = {name: row for name, row in rows.items() if name != "U-Net"}
        train.record(flags.record, run.config, [run.config.seed], [(flags.workdir, scores)], baselines=others)
    show(rows, run.config.task.class_names, split)
    print(f"report: {path}")
    return 0


def compare(run, split: str, scores: dict[str, float]) -> dict[str, dict[str, float]]:
    """Scores of the baselines and of U-Net; kept in baselines-SPLIT.json, which the report shows."""
    path = run.workdir / f"baselines-{split}.json"
    names = list(run.config.task.class_names)
    if path.exists():
        rows = {name: row for name, row in json.loads(path.read_text()).items() if name != "U-Net"}
    else:
        rows = baselines(run.task.train_source("train"), run.task.train_source(split), class_names=names)
    rows["U-Net"] = scores
    shown = ["dice/foreground", *(f"dice/{name}" for name in names[1:]), "iou/mean", "accuracy"]
    rows = {row: {name: values[name] for name in shown} for row, values in rows.items()}
    write_json(path, rows)
    return rows


def show(rows: dict[str, dict[str, float]], names: list[str], split: str) -> None:
    table = Table(title=f"Brain tissue, {split} slices", title_justify="left")
    table.add_column("")
    for name in next(iter(rows.values())):
        table.add_column(name, justify="right")
    for row, values in rows.items():
        table.add_row(row, *(f"{value:.3f}" for value in values.values()), style="bold" if row == "U-Net" else None)
    Console().print(table)


if __name__ == "__main__":
    launch.run(main)
