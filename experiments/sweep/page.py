"""The page of a sweep, WORKDIR/report.html: which runs are best, what each key does, how much of it is chance."""

import html
import shlex
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.chart import line_chart
from common.files import write_text
from common.log import command_line
from common.report import document, number_table, value_text
from common.sweeps import text_of
from experiments.sweep.book import Book, all_runs, train_words
from experiments.sweep.charts import goodness, make_axis, parallel, scatter
from experiments.sweep.runs import Run, State, read_metrics, scores
from experiments.sweep.table import counted, counts_text, in_order, ranked

BEST = 10  # runs in the first table
CURVES = 6
SEED = "seed"


def write_page(book: Book, states: Mapping[str, State]) -> Path:
    """Writes the page from what the run folders hold, and returns its path."""
    runs = {run.name: run for run in all_runs(book)}
    found = {name: states[name].score for name in states if states[name].score is not None and name in runs}
    found = {name: found[name] for name in found if states[name].status in ("finished", "pruned")}
    top = [name for name in ranked(book, states) if name in runs]
    keys = swept(runs.values())
    drawn = [key for key in keys if key != SEED] or keys  # a seed is no quantity
    parts = [
        ("Best runs", best_section(book, runs, states, top, keys)),
        ("Parallel coordinates", parallel_section(book, runs, found, drawn)),
        ("Key by key", marginal_section(book, runs, found, drawn, top[0] if top else "")),
        ("Spread over seeds", seed_section(book, runs, states, top)),
        ("Curves of the best", curve_section(book, runs, top)),
        ("Failed runs", failed_section(states)),
        ("All runs", all_section(book, states)),
    ]
    name = book.workdir.resolve().name
    page = document(f"{name}: sweep", head(book, name, states, top), [(title, body) for title, body in parts if body])
    path = book.workdir / "report.html"
    write_text(path, page)
    return path


def swept(runs: Sequence[Run]) -> list[str]:
    """The keys that have more than one value."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for key, value in run.overrides.items():
            values.setdefault(key, set()).add(text_of(value))
    return [key for key, texts in values.items() if len(texts) > 1]


def value_of(book: Book, run: Run, key: str) -> Any:
    """The run's value of a key; the base config's where it does not set it."""
    if key in run.overrides:
        return run.overrides[key]
    value = book.config
    for part in key.split("."):
        value = value[part]
    return value


def last(key: str, keys: Sequence[str]) -> str:
    """A key's last part, where that is clear among `keys`."""
    lasts = [k.rpartition(".")[2] for k in keys]
    short = key.rpartition(".")[2]
    return short if lasts.count(short) == 1 else key


def head(book: Book, name: str, states: Mapping[str, State], top: Sequence[str]) -> str:
    facts = {
        "config": book.base,
        "compared by": f"{book.metric} of {book.split}",
        "runs": counts_text(Counter(s.status for s in states.values())),
        "hours": f"{sum(s.seconds for s in states.values()) / 3600:.2f}",
    }
    if book.study:
        facts["search"] = f"{book.study.sampler}, pruned by {book.study.pruner}, {book.study.trials} trials"
    if top:
        facts[f"best {book.metric.split()[1]}"] = value_text(states[top[0]].score)
    cells = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in facts.items())
    return f'<h1>{html.escape(name)}</h1><pre class="command">{html.escape(shlex.join(command_line()))}</pre><dl>{cells}</dl>'


def best_section(book: Book, runs: Mapping[str, Run], states: Mapping[str, State], top: Sequence[str], keys) -> str:
    """The best runs, and the command that trains the best one again."""
    if not top:
        return ""
    head = ["run", *(last(key, keys) for key in keys), book.metric.split()[1], "at step", "minutes"]
    rows = []
    for name in top[:BEST]:
        s = states[name]
        values = [text_of(value_of(book, runs[name], key)) for key in keys]
        rows.append([name, *values, value_text(s.score), str(s.best_step), f"{s.seconds / 60:.1f}"])
    table = number_table(head, rows)
    given = {key: text for key, text in book.common.items() if key != "loop.score_split"}
    words = train_words(book.base, book.workdir / "best", given, runs[top[0]].overrides)[:-1]
    command = shlex.join(["python", "-m", book.module, *words])
    return (
        f"{table}<h3>The best one again</h3><p>This trains it in a folder of its own, and scores the config's loop.score_split "
        f"at the end. The runs of the sweep have scored '{html.escape(book.split)}' only.</p>"
        f'<pre class="command">{html.escape(command)}</pre>'
    )


def parallel_section(book: Book, runs: Mapping[str, Run], found: Mapping[str, float], keys: Sequence[str]) -> str:
    if len(found) < 2 or not keys:
        return ""
    rows = {name: [*(value_of(book, runs[name], key) for key in keys), found[name]] for name in found}
    names = [*(last(key, keys) for key in keys), book.metric.split()[1]]
    axes = [make_axis(name, [row[i] for row in rows.values()]) for i, name in enumerate(names[:-1])]
    axes.append(make_axis(names[-1], list(found.values()), few=1))
    good = goodness(found, book.metric)
    pruned = " Pruned runs have the score that they had." if book.study else ""
    return (
        f"<p>A line is a run; the stronger its colour, the better its rank; the best one is blue.{pruned}</p>"
        f"{parallel(axes, [(name, rows[name], good[name]) for name in rows])}"
    )


def marginal_section(
    book: Book, runs: Mapping[str, Run], found: Mapping[str, float], keys: Sequence[str], best: str
) -> str:
    """The score against each key, all other keys whatever they are."""
    if len(found) < 2:
        return ""
    y = make_axis(book.metric.split()[1], list(found.values()), few=1)
    charts = []
    for key in keys:
        points = [(name, value_of(book, runs[name], key), score) for name, score in found.items()]
        charts.append(scatter(make_axis(last(key, keys), [value for _, value, _ in points]), y, points, best))
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""


def seed_groups(runs: Mapping[str, Run], scores: Mapping[str, float]) -> list[tuple[str, list[float]]]:
    """Scores of the runs that differ in the seed only, with what they have in common; groups of one are left out."""
    groups: dict[str, list[float]] = {}
    for name, score in scores.items():
        rest = {key: value for key, value in runs[name].overrides.items() if key != SEED}
        if SEED in runs[name].overrides:
            text = ", ".join(f"{key}={text_of(value)}" for key, value in sorted(rest.items()))
            groups.setdefault(text or "base config", []).append(score)
    return [(text, values) for text, values in groups.items() if len(values) > 1]


def seed_section(book: Book, runs: Mapping[str, Run], states: Mapping[str, State], top: Sequence[str]) -> str:
    groups = seed_groups(runs, {name: states[name].score for name in top})
    if not groups:
        return ""
    sign = -1 if book.metric.startswith("max ") else 1
    groups.sort(key=lambda group: sign * statistics.mean(group[1]))
    rows = [
        [
            text,
            value_text(statistics.mean(v)),
            value_text(statistics.stdev(v)),
            value_text(min(v)),
            value_text(max(v)),
            len(v),
        ]
        for text, v in groups
    ]
    note = "<p>Mean and standard deviation (n - 1) over the runs that differ in the seed only, the best mean first.</p>"
    return note + number_table(["", "mean", "std", "least", "most", "seeds"], rows)


def curve_section(book: Book, runs: Mapping[str, Run], top: Sequence[str]) -> str:
    series = {
        name: sorted(scores(read_metrics(runs[name].folder), book.metric, book.split).items()) for name in top[:CURVES]
    }
    chart = line_chart(f"{book.metric.split()[1]}, {book.split}", series)
    return chart and f'<div class="wide">{chart}</div>'


def failed_section(states: Mapping[str, State]) -> str:
    failed = [(name, s.error) for name, s in states.items() if s.status == "failed"]
    items = "".join(f"<h3>{html.escape(name)}</h3><p>{html.escape(error)}</p>" for name, error in failed)
    return f"{items}<p>--retry starts them again.</p>" if failed else ""


def all_section(book: Book, states: Mapping[str, State]) -> str:
    head = ["run", "status", book.metric.split()[1], "at step", "step", "starts", "minutes"]
    rows = []
    for name in in_order(book, states):
        s = states[name]
        at = "" if s.best_step is None else s.best_step
        rows.append([name, s.status, value_text(s.score), at, f"{s.step}/{s.steps}", s.starts, f"{s.seconds / 60:.1f}"])
    return f"<details><summary>{counted(len(rows), 'run')} (also in runs.csv)</summary>{number_table(head, rows)}</details>"
