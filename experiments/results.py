"""Rebuilds the README's tables from experiments/results/*.json: python -m experiments.results

A table stands between `<!-- results:NAME -->` and `<!-- end -->`; NAME is a function below.
"""

from experiments import launch

# isort: split
import json
import re
import statistics
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


def beside_baselines(name: str, network: str, head: str, scores: list[str]) -> str:
    """A row for each baseline of a result, then the network's."""
    result = read(name)
    if "baselines" not in result:
        raise InputError(f"{RESULTS / name}.json: no baselines; run experiments.baselines --record {name}")
    # A class that is in neither labels nor predictions has no F1.
    cell = lambda found, score: f"{found[score]:.3f}" if score in found else ""
    rows = [[other] + [cell(found, s) for s in scores] for other, found in result["baselines"].items()]
    seeds = len(result["seeds"])
    budget = (
        f"{seeds} seeds, {result['minutes'] / seeds:.0f} minutes each"
        if seeds > 1
        else f"{result['minutes']:.1f} minutes"
    )
    rows.append([f"**{network}** ({budget})"] + [value(result["scores"][s]) for s in scores])
    return markdown([head, *scores], rows)


def brain() -> str:
    names = ["dice/foreground", "dice/grey", "dice/white", "dice/other", "iou/mean"]
    return beside_baselines("unet_brain", "U-Net", "held-out slices", names)


def land_cover() -> str:
    return beside_baselines("unet_land_cover", "U-Net", "held-out blocks", ["agreement", "f1/macro", "iou/mean"])


def land_cover_classes() -> str:
    """F1 of each class."""
    names = [name for name in read("unet_land_cover")["scores"] if name.startswith("dice/")]
    table = beside_baselines("unet_land_cover", "U-Net", "F1, held-out blocks", names)
    return table.replace("dice/", "")


def em() -> str:
    result = read("unet_em")
    names = ["rand_fscore", "info_fscore", "pixel_error", "iou/membrane", "iou/cell", "accuracy"]
    row = [f"U-Net, width {result['config']['model']['width']}, {result['minutes']:.0f} minutes"]
    return markdown(["slices 24-29", *names], [row + [value(result["scores"][n], 4) for n in names]])


def source_text() -> str:
    names = ["nats_per_character", "bits_per_character", "perplexity"]
    return beside_baselines("lstm_source_text", "LSTM", "held-out files", names)


def scene() -> str:
    """The map of a large scene: time beside the bare forward pass, memory, difference to the whole image."""
    run, cut_out, *_ = read("bench_land_cover")["rows"]
    cells = {
        "forward pass alone": f"{run['forward_seconds']:.0f} s",
        "the whole run": f"{run['map_seconds']:.0f} s",
        "of that, forward pass": f"{100 * run['speed_ratio']:.0f} %",
        "pixels computed that are kept": f"{100 * run['share_used']:.0f} %",
        "Mpx/s": f"{run['megapixels_per_second']:.2f}",
        "peak memory": f"{run['peak_mb'] / 1000:.2f} GB",
        "largest difference to the whole image": f"{cut_out['largest_difference']:.1g}",
    }
    return markdown(["scene, network, tiles", *cells], [[run["case"], *cells.values()]])


def seams() -> str:
    """What the joins of tiles add to the differences between neighbours."""
    rows = []
    for row in read("bench_land_cover")["rows"][2:]:
        cells = [f"{row[name]:.3f}" for name in ("step_at_joins", "added_at_joins", "added_elsewhere")]
        rows.append([row["case"].removeprefix("seams, "), *cells, f"{row['seam_score']:.4f}"])
    return markdown(["tiles", "differ anyway, %", "added at joins, %", "elsewhere, %", "seam score"], rows)


# Result, score, digits, what ours is, and the numbers beside it with their source.
SEQUENCES = [
    (
        "lstm_shakespeare",
        "nats_per_character",
        3,
        "tiny Shakespeare, validation, nats per character",
        "6-layer transformer of 10.7 M parameters 1.470 (nanoGPT); minGRU 1.548 (Feng et al. 2024)",
    ),
    ("lstm_ptb", "perplexity", 1, "Penn Treebank, 2 x 200, test perplexity", "114.5 (Zaremba et al. 2014, 2 x 200)"),
    (
        "lstm_imdb",
        "accuracy",
        4,
        "IMDB reviews, test accuracy",
        "plain LSTM 0.865, pre-trained SA-LSTM 0.928 (Dai & Le 2015)",
    ),
    (
        "lstm_imdb_pretrained",
        "accuracy",
        4,
        "the same, pre-trained as a language model of the reviews",
        "pre-trained SA-LSTM 0.928 (Dai & Le 2015)",
    ),
    (
        "lstm_sst2",
        "accuracy",
        4,
        "SST-2, sentences alone, test accuracy",
        "CNN-rand 0.835, trained on phrases too (Kim 2014)",
    ),
    (
        "lstm_vowels",
        "accuracy",
        4,
        "Japanese Vowels, test accuracy",
        "LSTM-FCN 0.99, MLSTM-FCN 1.00 (Karim et al. 2019)",
    ),
]


def sequences() -> str:
    """A row for each recorded result of a sequence task, with its baselines."""
    rows = []
    for name, score, digits, what, published in SEQUENCES:
        if not (RESULTS / f"{name}.json").exists():
            continue
        result = read(name)
        seeds = len(result["seeds"])
        ours = f"**{value(result['scores'][score], digits)}** ({seeds} seed{'s' * (seeds > 1)}, {result['minutes']:.0f} minutes)"
        baselines = [
            f"{other} {scores[score]:.{digits}f}"
            for other, scores in result.get("baselines", {}).items()
            if score in scores
        ]
        rows.append([what, ours, "; ".join(baselines), published])
    return markdown(["task", "LSTM, this code", "baselines, same split", "published"], rows)


def sentences() -> str:
    """Accuracy of the memory questions by lag, LSTM and plain recurrent net."""
    bins = ["short", "medium", "long"]
    rows = []
    for name, label in (("lstm_sentences", "LSTM"), ("lstm_sentences_rnn", "plain recurrent net")):
        found = read(name)["scores"]
        cells = [f"{found[f'accuracy/{kind}/{b}']['mean']:.3f}" for kind in ("pronoun", "topic") for b in bins]
        rows.append([label, *cells])
    spans = ["up to 10 words", "11 to 25", "26 and more"]
    return markdown(["test passages", *(f"{kind}, {span}" for kind in ("pronoun", "topic") for span in spans)], rows)


def jobs(name: str) -> str:
    """A row for each method on a log: scores, and by how much the LSTM leads, with the interval over users."""
    result = read(name)
    if "baselines" not in result:
        raise InputError(f"{RESULTS / name}.json: no baselines; run experiments.baselines --record {name}")
    scores = ["accuracy", "f1/macro", "auroc/bad", "auprc/bad", "loss"]
    rows = []
    for method, found in result["baselines"].items():
        if method == "LSTM":
            continue
        lead = "{lead/accuracy:+.3f} ({lead/accuracy/low:+.3f} to {lead/accuracy/high:+.3f})".format(**found)
        rows.append([method, *(f"{found[s]:.3f}" if s in found else "" for s in scores), lead])
    seeds = f"{len(result['seeds'])} seeds, {result['minutes'] / len(result['seeds']):.1f} minutes each"
    rows.append([f"**LSTM** ({seeds})", *(value(result["scores"][s]) for s in scores), ""])
    return markdown(["the last jobs of the log", *scores, "LSTM's lead in accuracy"], rows)


PEERS = {
    "flax": "stock Flax",
    "flax_optimized": "Flax OptimizedLSTMCell",
    "torch": "PyTorch",
    "keras": "Keras on JAX",
    "one after another": "one after another",
}


def bench_rows(names: list[str], peers: list[str]) -> str:
    """A row per case: milliseconds of ours, then for each peer milliseconds and how many times as long it takes."""
    scores = {key: score for name in names for key, score in read(name)["scores"].items()}
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


def implementations() -> str:
    """A row per case: milliseconds of each implementation of the recurrence on a GPU."""
    rows: dict[str, dict[str, str]] = {}
    for row in read("bench_lstm_implementations_gpu")["rows"]:
        rows.setdefault(row["case"], {})[row["candidate"]] = f"{1e3 * row['seconds']:.1f} ms"
    columns = {
        "cudnn": "cudnn",
        "custom 4": "custom, 4 steps a turn",
        "custom 1": "custom, 1 step",
        "hoisted 1": "hoisted, 1 step",
    }
    return markdown(
        ["case", *columns.values()], [[case, *(found.get(c, "") for c in columns)] for case, found in rows.items()]
    )


def scale() -> str:
    """What a step sends and holds, by number of devices; the rows of several devices."""
    kilo = lambda count: f"{count / 1000:,.1f} kB"
    rows = []
    for row in read("bench_scale")["rows"]:
        if "gradient_sends" not in row or ", 1 " in row["case"]:
            continue
        sends = [f"{row[f'{kind}_sends']} ({kilo(row[f'{kind}_bytes'])})" for kind in ("gradient", "other", "fsdp")]
        state = f"{row['state_share']:.3f} / N" if row["case"].endswith("fsdp") else "whole"
        rows.append([row["case"], kilo(row["parameter_bytes"]), *sends, state])
    head = [
        "net, devices, way",
        "parameters",
        "sums of gradients and metrics",
        "of BatchNorm and the norm",
        "gathers and scatters",
    ]
    return markdown([*head, "state on a device"], rows)


def overhead() -> str:
    found = next(row for row in read("bench_scale")["rows"] if "overhead_ms" in row)
    cells = [f"{found[name]:.2f} ms" for name in ("turn_ms", "step_ms", "overhead_ms")]
    return markdown(["", "a turn of the loop", "the compiled step alone", "the host's own"], [[found["case"], *cells]])


def walk() -> str:
    """Accuracy and macro-F1 of each method on each fold of a walk forward through a log."""
    result = read("lstm_jobs_atlas_walk")
    methods = [name.removeprefix("accuracy/") for name in result["scores"] if name.startswith("accuracy/")]
    rows = []
    for method in methods:
        accuracy, f1 = (result["scores"][f"{score}/{method}"] for score in ("accuracy", "f1/macro"))
        rows.append([method, *(f"{x:.3f}" for x in accuracy["values"]), f"{accuracy['mean']:.3f}", f"{f1['mean']:.3f}"])
    tenths = [f"tenth {fold['tenths'] + 2}" for fold in result["folds"]]
    return markdown(["accuracy", *tenths, "mean", "mean f1/macro"], rows)


def feed() -> str:
    """Jobs a second of a live feed of jobs and what its process holds, as lines go by."""
    rows = []
    for row in read("bench_jobs")["rows"]:
        memory = [row.get(f"memory_at_{when}_mb") for when in ("a_tenth", "half", "the_end")]
        rates = [f"{row[name]:,.0f}" if name in row else "" for name in ("jobs_per_second", "slowest_tenth")]
        rows.append([row["case"], *rates, *(f"{mb:.0f} MB" if mb else "" for mb in memory)])
    head = ["", "jobs a second", "in the slowest tenth", "held after a tenth", "after half", "at the end"]
    return markdown(head, rows)


def paper1997(others: bool = False) -> str:
    """What the paper of 1997 found, and this code, for each row of its tables that has been run; others: by other learners."""
    rows = []
    for path in (RESULTS / "paper1997").glob("*.json"):
        result = json.loads(path.read_text())
        learner = result["config"]["learner"]
        if (learner != "lstm") != others:
            continue
        trials, paper = result["trials"], result["paper"]["sequences"]
        # The stages of the criterion: of experiments 3a and 3b two, ST1 and ST2.
        theirs = paper if isinstance(paper, list) else [paper]
        stages = [trial.get("stages", [trial["sequences"]]) for trial in trials if trial["solved"]]
        means = " / ".join(f"{statistics.mean(each):,.0f}" for each in zip(*stages, strict=True))
        last = [each[-1] for each in stages]
        wrong = [trial["wrong"] for trial in trials if trial["solved"]]
        what = f"{result['experiment']}, lag {result['lag']}" + (f", {result['variant']}" if result["variant"] else "")
        cells = [
            *([learner] if others else []),
            f"{result['paper']['solved']:.0%}",
            f"{len(last)} of {len(trials)}",
            " / ".join(f"{n:,.0f}" for n in theirs),
            f"{means} ({min(last):,} to {max(last):,})" if last else f"none by {result['config']['limit']:,}",
            f"{result['paper']['wrong']:.1f}" if "wrong" in result["paper"] else "",
            f"{statistics.mean(wrong):.1f} ({max(wrong)})" if wrong else "",
            f"{result['minutes']:.1f}",
        ]
        rows.append((result["table"], result["lag"], what, *cells))
    head = ["table", "experiment"] + ["learner"] * others
    head += ["paper: solved", "here", "paper: sequences", "here", "paper: wrong", "here (most)", "minutes"]
    return markdown(head, [[str(table), *cells] for table, _, *cells in sorted(rows)])


TABLES = {
    "brain": brain,
    "land_cover": land_cover,
    "land_cover_classes": land_cover_classes,
    "scene": scene,
    "seams": seams,
    "em": em,
    "speed": lambda: bench_rows(["bench_unet"], ["flax", "torch"]),
    "speed_gpu": lambda: bench_rows(["bench_unet_gpu", "bench_unet_ops_gpu"], ["flax", "torch"]),
    "layers": lambda: bench_rows(["bench_unet_ops"], ["flax"]),
    "source_text": source_text,
    "sequences": sequences,
    "sentences": sentences,
    "jobs_atlas": lambda: jobs("lstm_jobs_atlas"),
    "jobs_curie": lambda: jobs("lstm_jobs_curie"),
    "jobs_pods": lambda: jobs("lstm_jobs_pods"),
    "jobs_made": lambda: jobs("lstm_jobs"),
    "jobs_walk": walk,
    "feed": feed,
    "paper1997": paper1997,
    "paper1997_others": lambda: paper1997(others=True),
    "scale": scale,
    "overhead": overhead,
    "together": lambda: bench_rows(["bench_together"], ["one after another"]),
    "recurrence": lambda: bench_rows(["bench_lstm"], ["flax", "flax_optimized", "torch", "keras"]),
    "recurrence_gpu": lambda: bench_rows(["bench_lstm_gpu"], ["flax", "flax_optimized", "torch"]),
    "implementations": implementations,
}


if __name__ == "__main__":
    launch.run(main)
