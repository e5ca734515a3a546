"""The demo: a U-Net on real brain slices and an LSTM on Python's own source, each beside baselines, each with a report.

`make demo` runs it; the run folders are WORKDIR/unet_brain and WORKDIR/lstm_source_text.
"""

from experiments import launch

# isort: split
import json
import math
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.record import write_json
from common.run import Run, load_run
from experiments import sample, train
from experiments.arguments import parser
from experiments.evaluate import evaluate_run
from experiments.report import report_run
from lstm import ngram
from unet.baselines import baselines as segmentation_baselines

Scores = dict[str, float]


def main(argv: list[str]) -> int:
    arguments = parser("experiments.demo", "Trains a U-Net and an LSTM and shows what they learned.")
    arguments.add_argument("--workdir", type=Path, default=Path("runs/demo"), help="holds a run folder for each model")
    arguments.add_argument(
        "--record", action="store_true", help="write experiments/results/{unet_brain,lstm_source_text}.json"
    )
    flags = arguments.parse_args(argv)
    shown = []
    for name, model, title, baselines, columns in (
        ("unet_brain", "U-Net", "Brain tissue, {split} slices", brain_baselines, brain_columns),
        ("lstm_source_text", "LSTM", "Python source, {split} files", text_baselines, text_columns),
    ):
        workdir = flags.workdir / name
        code = train.main(["--config", f"configs/{name}.py", "--workdir", str(workdir)])
        if code:
            return code
        run = load_run(workdir)
        split = run.config.loop.score_split
        scores = evaluate_run(run, split)
        rows = compare(run, split, scores, model, baselines, columns(run))
        path = report_run(run, split)
        if flags.record:
            others = {row: values for row, values in rows.items() if row != model}
            train.record(name, run.config, [run.config.seed], [(workdir, scores)], baselines=others)
        shown.append((title.format(split=split), model, rows, path))
    for title, model, rows, path in shown:
        show(title, model, rows)
        print(f"report: {path}\n")
    print("what the LSTM writes after 'def ':\n")
    return sample.main(["--workdir", str(flags.workdir / "lstm_source_text"), "--prompt", "def ", "--length", "300"])


def compare(
    run: Run,
    split: str,
    scores: Scores,
    model: str,
    baselines: Callable[[Run, str], dict[str, Scores]],
    columns: list[str],
) -> dict[str, Scores]:
    """The columns of the baselines and of the model; kept in baselines-SPLIT.json, which the report shows."""
    path = run.workdir / f"baselines-{split}.json"
    if path.exists():
        rows = {name: row for name, row in json.loads(path.read_text()).items() if name != model}
    else:
        rows = baselines(run, split)
    rows[model] = scores
    rows = {row: {name: values[name] for name in columns} for row, values in rows.items()}
    write_json(path, rows)
    return rows


def brain_columns(run: Run) -> list[str]:
    names = list(run.config.task.class_names)
    return ["dice/foreground", *(f"dice/{name}" for name in names[1:]), "iou/mean", "accuracy"]


def brain_baselines(run: Run, split: str) -> dict[str, Scores]:
    source = run.task.train_source
    return segmentation_baselines(source("train"), source(split), class_names=list(run.config.task.class_names))


def text_columns(run: Run) -> list[str]:
    return ["nats_per_character", "bits_per_character", "perplexity"]


def text_baselines(run: Run, split: str) -> dict[str, Scores]:
    """An even guess, letter frequencies, and the n-gram whose order is best on the validation part."""
    tokens = {part: run.task.eval_source(part).tokens for part in ("train", "validation", split)}
    entries = run.config.model.vocabulary
    given = tokens["train"], tokens["validation"], tokens[split], entries
    best = ngram.baseline(*given)
    nats = {
        "even guess": math.log(entries),
        "letter frequencies": ngram.baseline(*given, orders=(0,))["nats_per_token"],
        f"{best['order']:.0f}-gram": best["nats_per_token"],
    }
    return {
        name: {"nats_per_character": x, "bits_per_character": x / math.log(2), "perplexity": math.exp(x)}
        for name, x in nats.items()
    }


def show(title: str, model: str, rows: dict[str, Scores]) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in next(iter(rows.values())):
        table.add_column(name, justify="right")
    for row, values in rows.items():
        table.add_row(row, *(f"{value:.3f}" for value in values.values()), style="bold" if row == model else None)
    Console().print(table)


if __name__ == "__main__":
    launch.run(main)
