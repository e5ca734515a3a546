"""Sections of a report on jobs: what to do on a risk, how early it is known, whether it is right, and what it comes from."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from common.chart import short
from common.report import number_table, value_text
from lstm.data.job_events import Log
from lstm.data.job_windows import Part
from lstm.job_decision import (
    THRESHOLDS,
    Answer,
    Decision,
    Ends,
    best_threshold,
    cases_of,
    decision_of,
    ends_of,
    importances,
    moves,
    reliability,
)
from lstm.job_scores import Forecasts, bad_classes, calibration, running_scores, scores
from lstm.job_workload import Groups, Workload, workload_of
from lstm.tasks.jobs_pictures import LONGEST, case_section, clipped, curves, date, duration, percent, rounded

EVERY = "every job, at submission"
DAY = "%Y-%m-%d"
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def pages(
    log: Log,
    parts: Mapping[str, Part],
    split: str,
    forecasts: Forecasts,
    validation: Forecasts | None,
    answer: Answer | None,
    kinds: Sequence[str],
    edges: Float64[np.ndarray, " bins"],
    names: Sequence[str],
    bad: Sequence[str],
    options: Mapping[str, Any],
) -> list[tuple[str, str]]:
    """The sections (title, HTML) of a run on a split of `parts`.

    forecasts, validation: answers to the jobs of the split and of the validation part, which the threshold is chosen on; without
    it the split chooses. answer(change): the answers to the split where the model reads change(batch); None: what needs it
    is left out. kinds: of the columns of "numbers". edges: of run times, in seconds. names: of the classes; bad: of bad ends.
    options: move_hours, per_node, and faults, lines on what was wrong with the log.
    """
    ends = ends_of(log, forecasts, names, bad)
    chosen_on = ends if validation is None else ends_of(log, validation, names, bad)
    sections = [
        ("The decision", decision_section(ends, chosen_on, split, edges, bad, options)),
        ("How early", early_section(log, forecasts, edges, names, bad)),
        ("Calibration", calibration_section(ends)),
        ("The workload", workload_section(log, parts, split, names, bad, options.get("faults", ()))),
    ]
    if answer is not None:
        table = importance_table(scores(forecasts, names, bad), importances(answer, kinds, names, bad))
        sections.append(("What carries the risk", table))
    cases = cases_of(log, ends, forecasts, names, bad)
    if cases:
        moved = moves(answer, kinds, names, bad, [case.job for case in cases]) if answer is not None else {}
        sections.append(("Three jobs", case_section(log, cases, ends, edges, names, moved, options)))
    return sections


def cards(facts: Mapping[str, tuple[str, str]]) -> str:
    """{what: (value, note)}."""
    each = "".join(
        f'<div class="card"><span>{html.escape(what)}</span><b>{html.escape(value)}</b><small>{html.escape(note)}</small></div>'
        for what, (value, note) in facts.items()
    )
    return f'<div class="cards">{each}</div>'


# The decision -------------------------------------------------------------------------------------------------------------


def decision_section(
    ends: Ends, chosen_on: Ends, split: str, edges: np.ndarray, bad: Sequence[str], options: Mapping[str, Any]
) -> str:
    """Node-hours saved and lost against the threshold, and what becomes of the threshold that was chosen."""
    if not len(ends.job):
        return f"<p>No job of {html.escape(split)} has a known end.</p>"
    all_hours = float((ends.run / 3600 * ends.processors).sum()) / options["per_node"]
    found = decision_of(ends, edges, THRESHOLDS, options)
    policies = {}
    for name, first in (("from the threshold on, at any time", False), ("the same, at submission alone", True)):
        threshold = best_threshold(decision_of(chosen_on, edges, THRESHOLDS, options, first))
        policies[name] = decision_of(ends, edges, np.array([threshold]), options, first)
    perfect = ends._replace(risk=np.repeat(ends.bad[:, None].astype(float), len(edges), 1))
    policies[EVERY] = decision_of(ends, edges, np.zeros(1), options, True)
    policies["knowing each end, at submission"] = decision_of(perfect, edges, np.ones(1), options, True)
    best = next(iter(policies.values()))
    where = "the validation part" if chosen_on is not ends else f"{split} itself, so that this is too rosy"
    lines = {
        name: list(zip(THRESHOLDS.tolist(), getattr(found, name).tolist(), strict=True))
        for name in ("saved", "lost", "net")
    }
    counts = {
        "moved": list(zip(THRESHOLDS.tolist(), (found.moved / len(ends.job)).tolist(), strict=True)),
        "in vain": list(zip(THRESHOLDS.tolist(), (found.moved_in_vain / len(ends.job)).tolist(), strict=True)),
    }
    every = policies[EVERY]
    gains = {
        "by risk": list(zip((found.moved / len(ends.job)).tolist(), found.net.tolist(), strict=True)),
        "at random, at submission": [(0.0, 0.0), (1.0, float(every.net[0]))],
    }
    mark = {"mark": float(best.threshold[0]), "note": "chosen"} if np.isfinite(best.threshold[0]) else {}
    charts = curves("node-hours against the threshold", lines, **mark)
    charts += curves("net against the share of the jobs moved", gains)
    charts += curves("share of the jobs against the threshold", counts, **mark)
    named = " or ".join(map(html.escape, bad))
    return (
        f"<p>A job is stopped or moved as soon as its risk to end as {named} reaches a threshold: when it is submitted, or while it "
        "runs. Saved is what a job that ends badly would still have used. Lost is what a job that would have ended well had used "
        f"until then, since it is done again, and {options['move_hours']:g} h of its processors for each job that is moved. "
        "What jobs use where they are moved to is not counted: they need it anyhow.</p>"
        f"{cards(outcome(best, len(ends.job), all_hours))}"
        f"<p>{sentence(best, where, split, len(ends.job), all_hours)} To move every job when it is submitted would net "
        f"{rounded(every.net[0])}: the forecasts add {rounded(best.net[0] - every.net[0])}.{left_out(ends)}</p>"
        f'<div class="charts">{charts}</div><h3>Beside other rules</h3>{policy_table(policies, all_hours)}'
    )


def outcome(found: Decision, jobs: int, hours: float) -> dict[str, tuple[str, str]]:
    moved, vain = int(found.moved[0]), int(found.moved_in_vain[0])
    return {
        "net node-hours": (rounded(found.net[0]), f"{percent(found.net[0] / hours if hours else np.nan)} of all"),
        "saved": (rounded(found.saved[0]), "node-hours"),
        "lost": (rounded(found.lost[0]), "node-hours"),
        "jobs moved": (short(moved), f"of {short(jobs)}, {short(vain)} of them in vain"),
    }


def sentence(found: Decision, where: str, split: str, jobs: int, hours: float) -> str:
    where, split = html.escape(where), html.escape(split)
    if not np.isfinite(found.threshold[0]):
        return f"On {where} no threshold saves more than it costs: no job is moved."
    return (
        f"A threshold of {found.threshold[0]:.2f} is best on {where}. On {split} it moves {short(int(found.moved[0]))} of "
        f"{short(jobs)} jobs, {short(int(found.moved_in_vain[0]))} of them in vain: {rounded(found.saved[0])} node-hours are "
        f"saved, {rounded(found.lost[0])} lost, net {rounded(found.net[0])}, "
        f"{percent(found.net[0] / hours if hours else np.nan)} of the {rounded(hours)} that these jobs used."
        + (" To move none would have been better." if found.net[0] < 0 else "")
    )


def left_out(ends: Ends) -> str:
    text = f" Left out, since their end is not known: {short(ends.unknown)}." if ends.unknown else ""
    return text + (f" Of unknown size, taken as one processor: {short(ends.unsized)}." if ends.unsized else "")


def policy_table(policies: Mapping[str, Decision], hours: float) -> str:
    rows = []
    for name, found in policies.items():
        numbers = [rounded(x[0]) for x in (found.saved, found.lost, found.net)]
        counts = [short(int(x[0])) for x in (found.moved, found.moved_in_vain)]
        threshold = f"{found.threshold[0]:.2f}" if np.isfinite(found.threshold[0]) else "never"
        rows.append([name, threshold, *counts, *numbers, percent(found.net[0] / hours if hours else np.nan)])
    head = ["moves", "threshold", "moved", "in vain", "saved", "lost", "net", "of all hours"]
    return number_table(head, rows)


# How early, how right -----------------------------------------------------------------------------------------------------


def early_section(log: Log, forecasts: Forecasts, edges: np.ndarray, names: Sequence[str], bad: Sequence[str]) -> str:
    """Scores of the jobs that still run after a while, by the risk then and by that at submission."""
    run = np.where(np.asarray(forecasts.id) >= 0, log.jobs.run[np.asarray(forecasts.id)], np.nan)
    first = np.repeat(np.asarray(forecasts.probabilities)[:, None], len(edges), 1)
    then = running_scores(forecasts, run, edges, names, bad)
    before = running_scores(forecasts._replace(running=first), run, edges, names, bad)
    labels = [duration(edge).replace(" ", "\N{NO-BREAK SPACE}") if edge else "0" for edge in edges]
    line = lambda table, name: [(i, s[name]) for i, s in enumerate(table.values()) if name in s]
    charts = "".join(
        curves(title, {"risk then": line(then, name), "risk at submission": line(before, name)}, labels=labels)
        for name, title in (("auroc", "AUROC"), ("recall", "recall at precision 0.9"))
    )
    rows = []
    for label, now, old in zip(labels, then.values(), before.values(), strict=True):
        texts = [value_text(s.get(name)) for name in ("auroc", "recall") for s in (now, old)]
        rows.append([label, short(int(now["jobs"])), percent(now.get("bad", np.nan)), *texts])
    head = ["ran at least", "jobs", "end badly", "AUROC", "at submission", "recall", "at submission"]
    return (
        "<p>Of the jobs that ran at least so long: how well the risk that is told at that moment parts those that end badly, and how "
        "many of them are found where 9 of 10 that are named do. Beside it the risk that was told of the same jobs at submission: "
        "what lies between is what the running time tells. From left to right the jobs are fewer and others.</p>"
        f'<div class="charts">{charts}</div><details><summary>All numbers</summary>{number_table(head, rows)}</details>'
    )


def calibration_section(ends: Ends) -> str:
    """How many jobs end badly of those with the same risk."""
    points = reliability(ends)
    if not points:
        return "<p>No job has a known end.</p>"
    low, high = points[0][0], points[-1][0]
    lines = {"as it should be": [(low, low), (high, high)], "ended badly": [(x, y) for x, y, _ in points]}
    shares = {"share of the jobs": [(x, share) for x, _, share in points]}
    facts = {
        "calibration error": (value_text(calibration(ends.risk[:, 0], ends.bad).error()), "of the risk at submission"),
        "mean risk": (percent(ends.risk[:, 0].mean()), ""),
        "ended badly": (percent(ends.bad.mean()), f"of {short(len(ends.job))} jobs"),
    }
    charts = curves("share that ended badly against the risk", lines) + curves("jobs against the risk", shares)
    return f'{cards(facts)}<div class="charts">{charts}</div>'


# The workload -------------------------------------------------------------------------------------------------------------


def workload_section(
    log: Log, parts: Mapping[str, Part], split: str, names: Sequence[str], bad: Sequence[str], faults: Sequence[str]
) -> str:
    """What the whole log holds."""
    load = workload_of(log, len(names), bad_classes(names, bad))
    part = parts[split]
    period = lambda first, last: f"{date(first, DAY)} to {date(last, DAY)}"
    own = period(log.jobs.submit[part.first], log.jobs.submit[part.last - 1])
    facts = {
        "jobs": (short(load.jobs), period(load.first, load.last)),
        f"jobs of {split}": (short(part.last - part.first), own),
        "processor-hours": (rounded(load.hours), ""),
        "without a known end": (short(load.unknown), "jobs"),
    }
    if load.users is not None:
        facts["users"] = (short(load.user_count), half_text(load))
    if load.programs is not None:
        facts["programs"] = (short(load.program_count), "")
    tables = {
        "By processors": load.sizes,
        "By run time": load.runs,
        "By waiting time": load.waits,
        "The busiest users": load.users,
        "The busiest programs": load.programs,
    }
    shown = [
        f"<details{' open' if title == 'By processors' else ''}><summary>{title}</summary>"
        + (group_table(groups, load, names) if groups is not None else "<p>The log does not tell.</p>")
        + "</details>"
        for title, groups in tables.items()
    ]
    hours = load.by_hour.classes
    lines = {name: [(h, float(hours[h, k])) for h in range(24)] for k, name in enumerate(names)}
    wrong = "".join(f"<li>{html.escape(line)}</li>" for line in faults)
    return (
        f"{cards(facts)}<h3>Jobs by hour of the day and weekday</h3>{arrival_table(load)}"
        f'<div class="charts" style="margin:22px 0">{curves("share of each class by hour of submission", lines)}</div>{"".join(shown)}'
        + (f"<h3>What was wrong with the log</h3><ul>{wrong}</ul>" if wrong else "")
    )


def half_text(load: Workload) -> str:
    if not load.half:
        return "no bad end"
    return f"half of the bad ends are of {load.half} ({percent(load.half / load.user_count)} of the users)"


def arrival_table(load: Workload) -> str:
    """Jobs of each hour and weekday, shaded by the root of their share of the most."""
    head = "".join(f"<th>{hour}</th>" for hour in range(24))
    most = max(int(load.arrivals.max()), 1)
    rows = ""
    for name, counts in zip(WEEKDAYS, load.arrivals.tolist(), strict=True):
        shade = lambda n: f"background:rgb(var(--heat) / {0.75 * (n / most) ** 0.5:.2f})"
        cells = "".join(f'<td style="{shade(n)}">{short(n)}</td>' for n in counts)
        rows += f"<tr><th>{name}</th>{cells}</tr>"
    return f'<div class="scroll"><table class="matrix dense"><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def group_table(groups: Groups, load: Workload, names: Sequence[str]) -> str:
    """Jobs, hours and shares of the classes of each group."""
    bar = lambda x: f'{percent(x)}<span class="bar"><i style="width:{100 * x:.0f}%"></i></span>'
    rows = ""
    for name, jobs, hours, shares in zip(*groups, strict=True):
        ended = "".join(f"<td>{percent(share)}</td>" for share in shares)
        of_hours = hours / load.hours if load.hours else 0.0
        title = f' title="{html.escape(name)}"' if len(name) > LONGEST else ""
        rows += (
            f"<tr><th{title}>{html.escape(clipped(name))}</th><td>{short(int(jobs))}</td><td>{bar(jobs / load.jobs)}</td>"
            f"<td>{bar(of_hours)}</td>{ended}</tr>"
        )
    head = "".join(f"<th>{html.escape(h)}</th>" for h in ("", "jobs", "of all jobs", "of all hours", *names))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


# What carries the risk, and three jobs ------------------------------------------------------------------------------------


def importance_table(own: Mapping[str, float], found: Mapping[str, Mapping[str, float]]) -> str:
    """Scores as they are, and with one kind of inputs mixed between jobs, the most important first."""
    value = lambda s, name: s.get(name, np.nan)
    order = sorted(found, key=lambda kind: -value(found[kind], "loss"))
    rows = [["as it is", value_text(own.get("loss")), "", value_text(own.get("auroc/bad")), ""]]
    for kind in order:
        change = [value(found[kind], name) - value(own, name) for name in ("loss", "auroc/bad")]
        texts = [f"{x:+.4f}" if np.isfinite(x) else "" for x in change]
        rows.append(
            [kind, value_text(found[kind].get("loss")), texts[0], value_text(found[kind].get("auroc/bad")), texts[1]]
        )
    return (
        "<p>One kind of inputs at a time is mixed between the jobs of a batch: the more the answers suffer, the more the model "
        "leans on it. Kinds that tell the same can stand in for each other. names: user, group, program, queue and partition, as "
        "embedded; ended: what the stream tells of jobs that ended; past: these, and all numbers but time and request, at once.</p>"
        + number_table(["mixed", "loss, nats", "change", "AUROC of a bad end", "change"], rows)
    )
