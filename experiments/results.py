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
    rows = [[name] + [f"{scores[n]:.3f}" for n in names] for name, scores in result["baselines"].items()]
    rows.append([f"**U-Net** ({result['minutes']:.1f} minutes)"] + [value(result["scores"][n]) for n in names])
    return markdown(["held-out slices", *names], rows)


def em() -> str:
    result = read("unet_em")
    names = ["rand_fscore", "info_fscore", "pixel_error", "iou/membrane", "iou/cell", "accuracy"]
    row = [f"U-Net, width {result['config']['model']['width']}, {result['minutes']:.0f} minutes"]
    return markdown(["slices 24-29", *names], [row + [value(result["scores"][n], 4) for n in names]])


PEERS = {"flax": "stock Flax", "torch": "PyTorch"}


def bench_rows(name: str, peers: list[str]) -> str:
    """A row per case: milliseconds of ours, then for each peer milliseconds and how many times as long it takes."""
    scores = read(name)["scores"]
    cases = dict.fromkeys(key.split("/", 1)[1].rsplit("/", 1)[0] for key in scores)
    rows = []
    for case in cases:
        row = [case, f"{1e3 * scores[f'seconds/{case}/ours']['mean']:.1f} ms"]
        for peer in peers:
            ratio = scores.get(f"ratio/{case}/{peer}")
            row.append(
                f"{1e3 * scores[f'seconds/{case}/{peer}']['mean']:.1f} ms ({ratio['mean']:.2f}x)" if ratio else ""
            )
        rows.append(row)
    return markdown(["case", "this code", *(PEERS[p] for p in peers)], rows)


TABLES = {
    "brain": brain,
    "em": em,
    "speed": lambda: bench_rows("bench_unet", ["flax", "torch"]),
    "layers": lambda: bench_rows("bench_unet_ops", ["flax"]),
}


if __name__ == "__main__":
    launch.run(main)
