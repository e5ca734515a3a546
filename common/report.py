"""One self-contained HTML page from a run folder: nothing is fetched, so it opens anywhere and for ever."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.chart import Number, line_chart, short
from common.errors import InputError
from common.files import write_text
from common.log import read_lines

STYLE = Path(__file__).with_name("report.css")
HEADLINES = ("dice/foreground", "iou/mean", "accuracy", "agreement", "f1/macro", "perplexity", "nats_per_token")
RATES = ("learning_rate", "grad_norm", "examples_per_second")


def write_report(workdir: str | Path, sections: Sequence[tuple[str, str]] = (), *, main: str = "") -> Path:
    """Writes WORKDIR/report.html and returns its path.

    `sections` are the model's own, (title, HTML), shown as they are; `main` names the score that the run was selected
    by. The rest comes from run.json, config.json, metrics.jsonl and evaluation-SPLIT.json, as far as they are there.
    Raises InputError where there is no run, or a file of it is not JSON.
    """
    workdir = Path(workdir)
    config = read_json(workdir / "config.json")
    if config is None:
        raise InputError(f"--workdir {workdir}: no run here (config.json is missing); experiments.train makes one")
    run = read_json(workdir / "run.json") or {}
    lines = read_lines(workdir / "metrics.jsonl")
    evaluations = {
        path.stem.removeprefix("evaluation-"): read_json(path) for path in sorted(workdir.glob("evaluation-*.json"))
    }
    parts = [
        ("Scores", score_section(evaluations, main)),
        *sections,
        ("Curves", curve_section(lines, main)),
        ("Configuration", config_section(config, run)),
    ]
    name = workdir.resolve().name
    page = document(name, header(name, run, lines), [(title, body) for title, body in parts if body])
    path = workdir / "report.html"
    write_text(path, page)
    return path


def read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text()) if path.exists() else None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON ({error}); the file is damaged") from None


def document(title: str, head: str, sections: Sequence[tuple[str, str]]) -> str:
    anchors = [f"s{i}" for i in range(len(sections))]
    links = "".join(f'<a href="#{a}">{html.escape(t)}</a>' for a, (t, _) in zip(anchors, sections, strict=True))
    body = "".join(
        f'<section id="{a}"><h2>{html.escape(t)}</h2>{b}</section>' for a, (t, b) in zip(anchors, sections, strict=True)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title)}</title><style>{STYLE.read_text(encoding='utf-8')}</style></head>\n"
        f"<body><header>{head}</header><nav>{links}</nav><main>{body}</main></body></html>\n"
    )


def header(name: str, run: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> str:
    """Name, command, and the facts of run.json in one row."""
    facts = {"step": f"{short(lines[-1]['step'])}" if lines else "", "started": run.get("started")}
    minutes = run.get("minutes", next((line["minutes"] for line in reversed(lines) if "minutes" in line), None))
    facts["minutes"] = f"{minutes:.1f}" if isinstance(minutes, int | float) else ""
    facts |= {key: said(run.get(key)) for key in ("commit", "machine", "devices", "seed")}
    commit, _, dirty = facts["commit"].partition("-")
    facts["commit"] = commit[:12] + (f"-{dirty}" if dirty else "")
    cells = "".join(
        f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(str(v))}</dd></div>"
        for k, v in facts.items()
        if v not in (None, "")
    )
    command = run.get("command", "")
    shown = f'<pre class="command">{html.escape(command)}</pre>' if command else ""
    return f"<h1>{html.escape(name)}</h1>{shown}<dl>{cells}</dl>"


def said(value: Any) -> str:
    """A value of run.json in words: numbers with their names, long lists counted."""
    if isinstance(value, Mapping):
        named = {name.replace("memory_gb", "GB"): v for name, v in value.items() if v not in (None, "", [])}
        return ", ".join(f"{v} {name}" if isinstance(v, int | float) else said(v) for name, v in named.items())
    if isinstance(value, list):
        return ", ".join(map(said, value)) if len(value) <= 2 else f"{said(value[0])} and {len(value) - 1} more"
    return "" if value is None else str(value)


def score_section(evaluations: Mapping[str, Mapping[str, Number | None]], main: str) -> str:
    """The headline scores of each split as cards, all scores as a table behind a click."""
    if not evaluations:
        return ""
    cards = []
    for split, scores in evaluations.items():
        for name in headlines(scores, main):
            note = f"{split}, {short(scores['examples'])} examples" if "examples" in scores else split
            cards.append(
                f'<div class="card"><span>{html.escape(name)}</span><b>{value_text(scores[name])}</b>'
                f"<small>{html.escape(note)}</small></div>"
            )
    names = list(dict.fromkeys(name for scores in evaluations.values() for name in scores))
    rows = [[name, *(value_text(scores.get(name)) for scores in evaluations.values())] for name in names]
    table = number_table(["score", *evaluations], rows)
    return f'<div class="cards">{"".join(cards)}</div><details><summary>All scores</summary>{table}</details>'


def headlines(names: Mapping[str, Any] | Sequence[str], main: str, most: int = 4) -> list[str]:
    """The scores that matter most among `names`: the one selected by, then the usual ones."""
    return [name for name in dict.fromkeys((main, *HEADLINES, "loss")) if name in names][:most]


def value_text(value: Number | None) -> str:
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    return short(value) if value == int(value) and abs(value) > 1 else f"{value:.4f}"


def number_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is names and whose others are numbers. All text is escaped."""
    top = "".join(f"<th>{html.escape(str(h))}</th>" for h in head)
    body = "".join(
        f"<tr><th>{html.escape(str(row[0]))}</th>{''.join(f'<td>{html.escape(str(c))}</td>' for c in row[1:])}</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def curve_section(lines: Sequence[Mapping[str, Any]], main: str) -> str:
    """Loss of all splits, the headline scores, and what only training has."""
    splits = list(dict.fromkeys(line["split"] for line in lines))
    seen = dict.fromkeys(name for line in lines for name in line)
    series = lambda name: {split: curve(lines, split, name) for split in splits}
    loss = series("loss")
    values = [y for points in loss.values() for _, y in points if y > 0]
    charts = [line_chart("loss", loss, log=bool(values) and max(values) > 20 * min(values))]
    charts += [line_chart(name, series(name)) for name in headlines(seen, main) if name != "loss"]
    charts += [line_chart(name.replace("_", " "), series(name)) for name in RATES if name in seen]
    return f'<div class="charts">{"".join(charts)}</div>' if any(charts) else ""


def curve(lines: Sequence[Mapping[str, Any]], split: str, name: str) -> list[tuple[Number, Number]]:
    return [(line["step"], line[name]) for line in lines if line["split"] == split and line.get(name) is not None]


def config_section(config: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """config.json section by section, then all of run.json, behind clicks."""
    leaves = dict(flat(config))
    groups: dict[str, list] = {}
    for key, value in leaves.items():
        section, _, rest = key.partition(".")
        groups.setdefault(section if rest else "", []).append([key, json.dumps(value)])
    tables = "".join(number_table([name or "run", ""], rows) for name, rows in groups.items())
    facts = number_table(["run.json", ""], [[key, json.dumps(value)] for key, value in flat(run)])
    return (
        f'<details><summary>config.json</summary><div class="wide">{tables}</div></details>'
        f'<details><summary>run.json</summary><div class="wide">{facts}</div></details>'
    )


def flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in tree.items():
        found += flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else [(f"{prefix}{key}", value)]
    return found
