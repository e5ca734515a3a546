"""The report of a run on made passages: accuracy against lag, gates along a passage, probes, gradients; other cells beside."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from common import config as configs
from common.errors import InputError
from common.run import Run, load_run
from lstm import inspect, pages, pictures
from lstm.data import sentences
from lstm.data.sentence_baselines import baselines
from lstm.data.sentences import FACTS, Passage

LECTURE = (
    "Steve is my co-worker. The bus was late on Friday. His wife, Lauren, lives in Vienna. She went to culinary school. "
    "We talked about flying on Monday. My cousin told me last week that she has a passion for cooking."
)
AGES = {"1 to 10": (1, 10), "11 to 25": (11, 25), "over 25": (26, 10**6)}  # words since it was told
MEANING = {
    "gender": "the subject's gender",
    "topic": "the subject's topic",
    "old": "the topic of the subject before (no longer of use)",
    "heard": "the topic of the last remark that does not matter",
}
FIT, HELD_OUT, ROWS = 600, 300, 6000  # passages to fit probes to and to read, and states to fit to, at most
BACK = 45  # words, of a gradient
Net = tuple[Any, Any]  # a LanguageModel and its parameters


def sections(
    run: Run, split: str, net_of: Callable[[Mapping[str, Any]], Any], source: Callable
) -> list[tuple[str, str]]:
    """(title, HTML) of a run. Runs of the same task with other cells, in folders beside this one, are drawn beside it
    where their `split` has been evaluated. net_of: section `model` -> LanguageModel; source: split -> Passages."""
    runs = {label(run.config.model): run, **beside(run)}
    nets = {name: (net_of(configs.kwargs(r.config.model)), r.params) for name, r in runs.items()}
    answers = {name: read_answers(r.workdir, split) for name, r in runs.items()}
    fit, held_out = passages_of(source("train"), FIT), passages_of(source(split), HELD_OUT)
    probes, units = probe_tables(nets, fit, held_out)
    own = next(iter(nets))
    return [
        ("Memory and lag", lag_section({name: a for name, a in answers.items() if a}, fit, held_out)),
        ("Gates and memories", gate_section(*nets[own], units[own])),
        ("Probes", probe_section(probes)),
        ("Gradients", gradient_section(nets, held_out)),
    ]


def label(model: ConfigDict) -> str:
    """What a run is called beside others: its cell, and the forget bias that its config names."""
    bias = dict(model.get("options") or {}).get("forget_bias")
    return f"{model['cell'].upper()}{'' if bias is None else f', forget bias {bias:g}'}"


def beside(run: Run) -> dict[str, Run]:
    """Finished runs of the same task with other cells: in folders beside this one, or (for WORKDIR/seed-0) with the same
    name beside its parent."""
    here = Path(run.workdir).resolve()
    places = [*here.parent.glob("*/config.json"), *here.parent.parent.glob(f"*/{here.name}/config.json")]
    found: dict[str, Run] = {}
    for path in sorted(set(places)):
        config = configs.from_json(path.read_text())
        if config.get("task", {}).get("name") != run.config.task.name or path.parent == here:
            continue
        name = label(config.model)
        if name == label(run.config.model) or name in found:
            continue
        try:
            found[name] = load_run(path.parent)
        except InputError:  # a run that has no checkpoint yet
            continue
    return found


def read_answers(workdir: Path, split: str) -> dict[str, Float[np.ndarray, "2 lags"]] | None:
    """right and asked of an evaluation, or None."""
    path = Path(workdir) / f"evaluation-{split}.npz"
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        return {name: np.asarray(arrays[f"answers.{name}"], np.float64) for name in ("right", "asked")}


def passages_of(source: Any, count: int) -> list[Passage]:
    return [source.passage(i) for i in range(min(count, len(source)))]


def padded(passages: Sequence[Passage]) -> Int[np.ndarray, "n t"]:
    longest = max(len(p.words) for p in passages)
    return np.stack([np.pad(p.words, (0, longest - len(p.words))) for p in passages])


def lag_section(answers: Mapping[str, Any], fit: Sequence[Passage], held_out: Sequence[Passage]) -> str:
    """Accuracy against lag, and what can be had without a memory."""
    curves = {
        question: {name: binned(a["right"][i], a["asked"][i]) for name, a in answers.items()}
        for i, question in enumerate(("pronoun", "topic"))
    }
    columns = ("accuracy/pronoun", "accuracy/topic", "nats_per_token")
    rows = {name: [scores.get(c) for c in columns] for name, scores in baselines(fit, held_out).items()}
    for name, a in answers.items():
        rows[name] = [*(a["right"].sum(1) / np.maximum(a["asked"].sum(1), 1)), None]
    text = (
        "A pronoun and the topic that a subject has a passion for can only be known from what was told some words before. "
        "Each answer is chosen among the words that fit: 2 pronouns, 5 topics. 'Last named' takes whatever was named last."
    )
    table = pages.score_table(["without a memory, and the nets", *columns], rows)
    return f"<p>{text}</p>{pages.lag_charts(curves)}<h3>Beside what needs no memory</h3>{table}"


def binned(right: Float[np.ndarray, " lags"], asked: Float[np.ndarray, " lags"], width: int = 5, least: int = 20):
    """(mean lag, accuracy) of each `width` lags with enough questions."""
    points = []
    for start in range(1, len(asked), width):
        own = slice(start, start + width)
        if asked[own].sum() >= least:
            lags = np.arange(len(asked))[own]
            points.append((float((lags * asked[own]).sum() / asked[own].sum()), right[own].sum() / asked[own].sum()))
    return points


def gate_section(net: Any, params: Any, units: Mapping[int, str]) -> str:
    """The lecture's passage with gates and memories over it."""
    rows, words, strong = lecture_rows(net, params, units)
    note = (
        "Each column is the net after it has read that word; bold words are answers that need the memory. The units shown are those "
        "whose memory says most about the subject's gender or topic (largest weights of a linear probe)."
    )
    return pages.heat_map(rows, words, note, strong)


def lecture_rows(net: Any, params: Any, units: Mapping[int, str]) -> tuple[list[pages.Row], list[str], list[int]]:
    """Rows, words, and the places of the answers of LECTURE."""
    tokens = sentences.read(LECTURE)
    trace = {
        name: np.asarray(x[0]) for name, x in inspect.model_traces(net, params, jnp.asarray(tokens[None]))[-1].items()
    }
    told = pages.told_probabilities(net, params, tokens[None])[0]
    answers = [sentences.WORDS[w] for w in (*sentences.PRONOUNS, *sentences.POSSESSIVES)]
    strong = [t for t, word in enumerate(tokens) if word in answers or tokens[t - 1] == sentences.WORDS["for"]]
    return pages.memory_rows(trace, list(units), told, units), [sentences.VOCABULARY[t] for t in tokens], strong


def states_of(net: Any, params: Any, passages: Sequence[Passage]) -> dict[str, Float[np.ndarray, "n t h"]]:
    """The memories of a net's top layer along passages: c where there is one, and h."""
    trace = inspect.model_traces(net, params, jnp.asarray(padded(passages)))[-1]
    return {name: np.asarray(trace[name]) for name in ("c", "h") if name in trace}


def told_facts(passages: Sequence[Passage], fact: str) -> tuple[Any, Any, Any]:
    """(index [n, 2] of passage and place, fact, age) of all words after which the fact is known, and told before."""
    rows = [
        (n, t, passage.facts[fact][t], passage.ages[fact][t])
        for n, passage in enumerate(passages)
        for t in np.flatnonzero((passage.facts[fact] >= 0) & (passage.ages[fact] > 0))
    ]
    table = np.array(rows, np.int64).reshape(-1, 4)
    return table[:, :2], table[:, 2], table[:, 3]


def probe_tables(
    nets: Mapping[str, Net], fit: Sequence[Passage], held_out: Sequence[Passage]
) -> tuple[dict[str, dict[str, list[float]]], dict[str, dict[int, str]]]:
    """Accuracy of probes: fact -> 'NET memory' -> a number for each of AGES, then 'shuffled' and 'chance' rows; and for
    each net the units that say most: {unit: 'gender' or 'topic'}."""
    tables: dict[str, dict[str, list[float]]] = {fact: {} for fact in FACTS}
    units: dict[str, dict[int, str]] = {}
    for net_name, net in nets.items():
        known, unseen = states_of(*net, fit), states_of(*net, held_out)
        for fact in FACTS:
            where, values, _ = told_facts(fit, fact)
            some = np.random.default_rng(0).permutation(len(values))[:ROWS]
            where, values = where[some], values[some]
            places, truth, ages = told_facts(held_out, fact)
            if len({*values.tolist()}) < 2 or not len(truth):
                continue
            for memory, states in known.items():
                rows, read = states[tuple(where.T)], unseen[memory][tuple(places.T)]
                found, weights = inspect.probe(rows, values, read)
                tables[fact][f"{net_name} {memory}"] = by_age(found == truth, ages)
                if fact in ("gender", "topic") and memory == next(iter(known)):
                    for unit in inspect.telling_units(weights, 1 if fact == "gender" else 3):
                        units.setdefault(net_name, {}).setdefault(unit, fact)
            if net_name == next(iter(nets)):
                found, _ = inspect.probe(rows, values, read, shuffled=True)
                tables[fact]["control: shuffled facts"] = by_age(found == truth, ages)
                tables[fact]["chance: the commonest"] = by_age(np.bincount(values).argmax() == truth, ages)
    return tables, units


def by_age(right: Any, ages: Any) -> list[float]:
    """The share that is right for each of AGES."""
    chosen = [(ages >= low) & (ages <= high) for low, high in AGES.values()]
    return [float(right[c].mean()) if c.any() else float("nan") for c in chosen]


def probe_section(tables: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """One table for each fact."""
    text = (
        "How well a linear probe (logistic regression, fitted on other passages) reads a fact from the memories, by words since the fact "
        "was told. What is of use stays; of what isn't, the less the better the gates select."
    )
    parts = [
        f"<div><h3>{MEANING[fact]}</h3>{pages.score_table(['words ago', *AGES], order(rows), low=0.0)}</div>"
        for fact, rows in tables.items()
        if rows
    ]
    return f'<p>{text}</p><div class="wide">{"".join(parts)}</div>'


def order(rows: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """Nets first, then what they are held against."""
    against = [name for name in rows if name.startswith(("control", "chance"))]
    return {name: rows[name] for name in [n for n in rows if n not in against] + against}


def gradient_section(nets: Mapping[str, Net], held_out: Sequence[Passage]) -> str:
    """Gradients of the loss at questions about the topic that come late enough."""
    lags = BACK
    late = [
        (n, t - 1) for n, p in enumerate(held_out) for t in np.flatnonzero(p.question == sentences.TOPIC) if t > lags
    ]
    if not late:
        return ""
    late = late[:200]
    tokens = padded(held_out)[[n for n, _ in late]]
    first = next(iter(nets.values()))[0]
    return pages.gradient_charts(first, nets, tokens, np.array([t for _, t in late], np.int32), lags)


def picture(net: Any, params: Any, source: Callable) -> UInt8[np.ndarray, "h w 3"]:
    """The lecture's passage under the gates, for documents."""
    _, units = probe_tables(
        {"": (net, params)}, passages_of(source("train"), FIT), passages_of(source("validation"), 50)
    )
    rows, words, strong = lecture_rows(net, params, units[""])
    return pictures.heat_picture(rows, words, strong)
