"""Measured speed beside stock Flax and PyTorch: python -m experiments.bench NAME [--json FILE] [--against flax,torch]

Candidates take turns (A B C A B C ...), so that whatever else the machine does meets all of them; medians and their
ratios are reported.
"""

from experiments import launch

# isort: split
import functools
import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common.errors import InputError
from common.record import machine, versions, write_result
from experiments import bench_jobs, bench_land_cover, bench_lstm, bench_ops, bench_scale, bench_together, bench_unet
from experiments.arguments import parser
from experiments.plan import size

# name -> (function of the candidates to compare with and the number of rounds, those it knows)
BENCHMARKS: dict[str, tuple[Callable[[Sequence[str], int], list[dict[str, Any]]], tuple[str, ...]]] = {
    "unet_ops": (bench_ops.measure, ("flax",)),
    "unet": (bench_unet.measure, ("flax", "torch")),
    "lstm": (bench_lstm.measure, tuple(bench_lstm.CANDIDATES)),
    "scale": (bench_scale.measure, ()),
    "together": (bench_together.measure, ()),
    "land_cover": (bench_land_cover.measure, ()),
    "jobs": (bench_jobs.measure, ()),
}


def main(argv: list[str]) -> int:
    arguments = parser("experiments.bench", "Times this project's programs beside those of its peers.")
    arguments.add_argument("name", metavar="NAME", help=", ".join(BENCHMARKS))
    arguments.add_argument(
        "--against", metavar="A,B", help="peers: flax, torch, keras; lstm: scan, ... too (default: the first)"
    )
    arguments.add_argument("--rounds", type=int, default=15, help="timed turns of each candidate (default: 15)")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    arguments.add_argument("--large", action="store_true", help="unet, unet_ops, lstm: sizes that fill a GPU")
    flags = arguments.parse_args(argv)
    if flags.name not in BENCHMARKS:
        raise InputError(f"{flags.name}: no such benchmark; known: {', '.join(BENCHMARKS)}")
    if flags.rounds < 1:
        raise InputError(f"--rounds {flags.rounds}: at least 1")
    measure, known = BENCHMARKS[flags.name]
    peers = [name for name in flags.against.split(",") if name] if flags.against is not None else list(known[:1])
    for name in peers:
        if name not in known:
            raise InputError(f"--against {name}: {flags.name} can be compared with {', '.join(known) or 'nothing'}")
    if flags.large:
        if flags.name not in ("unet", "unet_ops", "lstm"):
            raise InputError(f"--large: {flags.name} has one size; leave it out")
        measure = functools.partial(measure, large=True)
    begin = time.perf_counter()
    rows = measure(peers, flags.rounds)
    (show if "candidate" in rows[0] else show_numbers)(flags.name, rows)
    if flags.json:
        write_result(
            flags.json,
            name=f"bench_{flags.name}",
            config={"rounds": flags.rounds, "against": peers, "large": flags.large, "precision": precision()},
            overrides=[],
            command=" ".join(["python -m experiments.bench", *argv]),
            minutes=(time.perf_counter() - begin) / 60,
            seeds=[0],
            scores=scores(rows),
            selected_on="nothing is selected",
            curve=[],
            rows=rows,
        )
    return 0


def precision() -> str:
    """Of float32 products, for all candidates alike: JAX's default is TensorFloat-32 on GPUs that have it."""
    return os.environ.get("JAX_DEFAULT_MATMUL_PRECISION") or "default"


def scores(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """'seconds/CASE/CANDIDATE' and 'ratio/CASE/CANDIDATE' (how many times as long as ours), medians; of rows without
    candidates each number, as 'NAME/CASE'."""
    if "candidate" not in rows[0]:
        return {f"{name}/{row['case']}": [value] for row in rows for name, value in row.items() if name != "case"}
    ours = {row["case"]: row["seconds"] for row in rows if row["candidate"] == "ours"}
    table = {}
    for row in rows:
        place = f"{row['case']}/{row['candidate']}"
        table[f"seconds/{place}"] = [row["seconds"]]
        if row["candidate"] != "ours":
            table[f"ratio/{place}"] = [row["seconds"] / ours[row["case"]]]
    return table


def summary(times: Sequence[float]) -> dict[str, float]:
    return {"seconds": statistics.median(times), "fastest": min(times)}


def show(name: str, rows: list[dict[str, Any]]) -> None:
    ours = {row["case"]: row["seconds"] for row in rows if row["candidate"] == "ours"}
    hardware = ", ".join([machine()["processor"], *machine()["accelerators"]])
    table = Table(title=f"bench {name}: {rows[0]['threads']} threads, {hardware}")
    for column in ("case", "candidate"):
        table.add_column(column, no_wrap=True)
    for column in ("median ms", "fastest ms", "times ours", "compile s"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["case"],
            row["candidate"],
            f"{1e3 * row['seconds']:.2f}",
            f"{1e3 * row['fastest']:.2f}",
            f"{row['seconds'] / ours[row['case']]:.2f}",
            f"{row['compile_seconds']:.1f}" if row["compile_seconds"] is not None else "-",
            end_section=row is rows[-1] or rows[rows.index(row) + 1]["case"] != row["case"],
        )
    console = Console(width=max(100, Console().width))
    console.print(table)
    peers = {f"{k} {v}" for row in rows for k, v in row.get("versions", {}).items()}
    shown = [f"{k} {v}" for k, v in versions().items() if k in ("python", "jax", "jaxlib", "flax")]
    console.print(", ".join([*shown, *sorted(peers)]), highlight=False)


def show_numbers(name: str, rows: list[dict[str, Any]]) -> None:
    """Rows without candidates, as they are: a table for each set of names."""
    for names, group in itertools.groupby(rows, key=tuple):
        table = Table(title=f"bench {name}")
        for column in names:
            table.add_column(
                column.replace("_", " "), no_wrap=column == "case", justify="right" if table.columns else "left"
            )
        for row in group:
            table.add_row(row["case"], *(size(row[n], "").replace(" ", "") for n in names[1:]))
        Console(width=max(140, Console().width)).print(table)


if __name__ == "__main__":
    launch.run(main)
