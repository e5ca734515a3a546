"""Makes a run's report: python -m experiments.report --workdir runs/brain, then open runs/brain/report.html"""

from experiments import launch

# isort: split
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from common.report import write_report
from common.run import Run, load_run
from experiments.arguments import parser
from experiments.evaluate import evaluate_run

WIDTH = 1000  # px, of a picture for documents


def main(argv: list[str]) -> int:
    arguments = parser("experiments.report", "Writes WORKDIR/report.html: one page that needs nothing beside it.")
    arguments.add_argument("--workdir", required=True, type=Path, help="the run folder")
    arguments.add_argument("--split", default="", help="whose samples to show; default: the config's loop.score_split")
    arguments.add_argument(
        "--picture", type=Path, metavar="FILE", help="also write a few answers side by side as a PNG"
    )
    flags = arguments.parse_args(argv)
    run = load_run(flags.workdir)
    print(report_run(run, flags.split))
    if flags.picture:
        split = flags.split or run.config.loop.score_split
        picture = Image.fromarray(run.task.picture(run, split, read_metrics(run.workdir / f"evaluation-{split}.npz")))
        flags.picture.parent.mkdir(parents=True, exist_ok=True)
        scale = WIDTH / picture.width
        size = (WIDTH, round(scale * picture.height))
        picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS).save(flags.picture)
    return 0


def report_run(run: Run, split: str = "") -> Path:
    """Writes the report of a run and returns its path; evaluates `split` first where that has not been done."""
    split = split or run.config.loop.score_split
    path = run.workdir / f"evaluation-{split}.npz"
    if not path.exists():
        evaluate_run(run, split)
    sections = run.task.pages(run, split, read_metrics(path)) if run.task.pages else []
    return write_report(run.workdir, sections, main=run.config.loop.best.split()[-1])


def read_metrics(path: Path) -> dict[str, SimpleNamespace]:
    """The merged metrics of an evaluation, {name: record of arrays}."""
    metrics: dict[str, SimpleNamespace] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            name, _, field = key.rpartition(".")
            vars(metrics.setdefault(name, SimpleNamespace()))[field] = arrays[key]
    return metrics


if __name__ == "__main__":
    launch.run(main)
