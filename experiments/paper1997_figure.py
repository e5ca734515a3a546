"""Draws how many sequences the experiments of 1997 need at each lag: python -m experiments.paper1997_figure FILE

From experiments/results/paper1997/*.json: the paper's mean, and ours with the range of its trials. An arrow: at least one trial had
not learned when it was stopped there.
"""

from experiments import launch

# isort: split
import json
import statistics
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.arguments import parser
from experiments.results import RESULTS

PANELS = {"adding (4)": ("4",), "long lags, as many distractors (2c)": ("2c",), "two sequences (3a, 3b)": ("3a", "3b")}
MARKS = {"paper": ("o", "black"), "lstm": ("s", "tab:blue"), "lstm_deaf": ("^", "tab:orange")}
NAMES = {"paper": "the paper", "lstm": "here", "lstm_deaf": "here, cells that hear inputs alone"}


def main(argv: list[str]) -> int:
    arguments = parser("experiments.paper1997_figure", "Draws sequences needed against the lag, from recorded results.")
    arguments.add_argument("file", type=Path, metavar="FILE", help="a picture: .png, .pdf or .svg")
    flags = arguments.parse_args(argv)
    results = [json.loads(path.read_text()) for path in sorted((RESULTS / "paper1997").glob("*.json"))]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for ax, (title, experiments) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        draw(ax, [r for r in results if r["experiment"] in experiments and r["config"]["learner"] in MARKS])
        ax.set(title=title, xlabel="lag (steps)", ylabel="sequences of training", xscale="log", yscale="log")
    named = {label: line for ax in figure.axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named, loc="outside lower center", ncols=len(named), fontsize=9, frameon=False)
    aside = flags.file.with_name(f".{flags.file.name}")
    figure.savefig(aside, dpi=130, format=flags.file.suffix.removeprefix("."))
    aside.replace(flags.file)
    return 0


def draw(ax: Axes, results: list[dict]) -> None:
    told = set()
    for result in results:
        learner, lag, paper = result["config"]["learner"], result["lag"], result["paper"]["sequences"]
        solved = [trial["sequences"] for trial in result["trials"] if trial["solved"]]
        points = [("paper", paper[-1] if isinstance(paper, list) else paper)]
        if solved:
            points.append((learner, statistics.mean(solved)))
            ax.vlines(lag, min(solved), max(solved), color=MARKS[learner][1], linewidth=1)
        for who, needed in points:
            mark, color = MARKS[who]
            fill = "none" if who == "paper" else color
            label = NAMES[who] if who not in told else None
            ax.plot([lag], [needed], mark, color=color, markerfacecolor=fill, label=label)
            told.add(who)
        if len(solved) < len(result["trials"]):
            ax.plot([lag], [result["config"]["limit"]], marker=r"$\uparrow$", color=MARKS[learner][1], markersize=12)


if __name__ == "__main__":
    launch.run(main)
