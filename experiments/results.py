"""Rebuilds the README's tables from experiments/results/*.json: python -m experiments.results

A table stands between `<!-- results:NAME -->` and `<!-- end -->`; NAME is a function below.
"""

from experiments import launch

# isort: split
import json
import re
from pathlib import Path

from common.errors import InputError

RESULTS = Path("experiments/results")


def main(argv: list[str]) -> int:
    for path in [Path("README.md"), *sorted(Path("docs").glob("*.md"))]:
        text = path.read_text()
        new = re.sub(
            r"(<!-- results:(\w+) -->\n).*?(<!-- end -->)", lambda m: m[1] + table(m[2]) + m[3], text, flags=re.S
        )
        if new != text:
            path.write_text(new)
            print(f"rebuilt: {path}")
    return 0


def table(name: str) -> str:
    if name not in TABLES:
        raise InputError(f"results:{name}: no such table; known: {', '.join(TABLES)}")
    return TABLES[name]()


def read(name: str) -> dict:
    path = RESULTS / f"{name}.json"
    if not path.exists():
        raise InputError(f"{path}: no such result; run the experiment with --record {name}")
    return json.loads(path.read_text())


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def value(score: dict, digits: int = 3) -> str:
    text = f"{score['mean']:.{digits}f}"
    return f"{text} ± {score['std']:.{digits}f}" if score.get("std") is not None else text


def brain() -> str:
    result = read("unet_brain")
    names = ["dice/foreground", "dice/grey", "dice/white", "dice/other", "iou/mean"]
    rows = [[f"U-Net, {len(result['seeds'])} seeds"] + [value(result["scores"][n]) for n in names]]
    rows += [[name] + [f"{scores[n]:.3f}" for n in names] for name, scores in result["baselines"].items()]
    return markdown(["test slices", *names], rows)


TABLES = {"brain": brain}


if __name__ == "__main__":
    launch.run(main)
