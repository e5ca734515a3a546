"""Scores a run on a split: python -m experiments.evaluate --workdir runs/brain --split test"""

from experiments import launch

# isort: split
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from common.evaluate import split_metrics
from common.processes import is_first
from common.record import write_json
from common.run import Run, load_run, open_plan
from common.step import make_eval_step
from experiments.arguments import parser


def main(argv: list[str]) -> int:
    arguments = parser(
        "experiments.evaluate", "Scores a run's best checkpoint on a split; writes WORKDIR/evaluation-SPLIT.json."
    )
    arguments.add_argument("--workdir", required=True, type=Path, help="the run folder")
    arguments.add_argument("--split", default="", help="default: the config's loop.score_split")
    flags = arguments.parse_args(argv)
    run = load_run(flags.workdir)
    split = flags.split or run.config.loop.score_split
    scores = evaluate_run(run, split)
    print_scores(f"{flags.workdir}  {split}  step {run.step}", scores)
    return 0


def evaluate_run(run: Run, split: str) -> dict[str, float]:
    """Scores of `split`; writes evaluation-SPLIT.json and the merged metrics as evaluation-SPLIT.npz."""
    plan = open_plan(run)
    eval_step = make_eval_step(run.task, plan.mesh)
    metrics = split_metrics(plan, eval_step, run.params, run.model_state, split)
    scores = {name: float(value) for name, value in run.task.scores(metrics).items()}
    scores.update(run.task.scores_of_images(run.apply, split))
    if not is_first():
        return scores
    arrays = {f"{name}.{field}": getattr(m, field) for name, m in metrics.items() for field in m._fields}
    aside = run.workdir / f".evaluation-{split}.npz"
    np.savez_compressed(aside, **arrays)
    aside.rename(run.workdir / f"evaluation-{split}.npz")
    write_json(run.workdir / f"evaluation-{split}.json", scores)
    return scores


def print_scores(title: str, scores: dict[str, float]) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("score")
    table.add_column("value", justify="right")
    for name, value in scores.items():
        table.add_row(name, f"{value:.4f}" if value != int(value) or abs(value) <= 1 else f"{int(value)}")
    Console().print(table)


if __name__ == "__main__":
    launch.run(main)
