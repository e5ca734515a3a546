"""Will this job fail? The status of jobs from a scheduler's log as a Task: chances at submission, and while a job runs."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from common import config as configs
from common import data as batches
from common.errors import InputError
from common.task import Task
from lstm import job_scores as scoring
from lstm.data.job_events import NAMES
from lstm.data.job_windows import Streams, Windows, known_jobs
from lstm.job_model import JobModel
from lstm.job_scores import Forecasts
from lstm.scores import Answers, collapsed, confusion
from lstm.tasks import jobs_live, jobs_pages, jobs_pictures
from lstm.tasks.jobs_data import Data, as_json, open_data
from lstm.tasks.jobs_traced import INPUTS, abstract_batch, traced


def jobs(
    *,
    class_names: tuple[str, ...],
    bad: tuple[str, ...] = (),
    bins: int = 12,
    first_bin: float = 10.0,
    last_bin: float = 86_400.0,
    time_weight: float = 0.2,
    temperature: float = 0.0,
    eval_length: int = 512,
    eval_context: int = 512,
    move_hours: float = 0.1,
    per_node: int = 1,
) -> dict[str, Any]:
    """The section `task`.

    class_names: how a job may end. bad: those of them that are a bad end; () for all but the first. bins: of the run time, the
    first from 0 to first_bin seconds, the last from last_bin on, the others between in equal ratios. time_weight: of the
    nats of when a job ends, beside those of how. temperature: that logits are divided by; 0: the one that is best on
    the validation part, once training has ended. eval_length, eval_context: events of a window of evaluation that
    count, and those before them. move_hours: what it costs to move a job, in hours of its processors. per_node: processors
    of a node.
    """
    found = dict(locals())
    if len(class_names) < 2 or len(set(class_names)) < len(class_names):
        raise InputError(f"config.task.class_names={list(class_names)}: expected two names at least, each once")
    for name in bad:
        if name not in class_names:
            raise InputError(f"config.task.bad: {name!r} is no class; {configs.nearest(name, class_names)}")
    if bins < 3 or not 0 < first_bin < last_bin:
        raise InputError(f"config.task.bins={bins}, first_bin={first_bin}, last_bin={last_bin}: 3 at least, rising")
    if temperature < 0 or time_weight < 0 or eval_length < 1 or eval_context < 0 or move_hours < 0 or per_node < 1:
        raise InputError(
            "config.task: temperature, time_weight, eval_context, move_hours from 0; eval_length, per_node 1"
        )
    return found | {"bad": tuple(bad) or tuple(class_names[1:])}


def edges_of(options: Mapping[str, Any]) -> np.ndarray:
    """Where the bins of run times begin, in seconds; the first is 0."""
    return np.concatenate([[0.0], np.geomspace(options["first_bin"], options["last_bin"], options["bins"] - 1)])


def make_task(
    *,
    task: Mapping[str, Any],
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    augment: Mapping[str, Any],
    facts: Mapping[str, Any] | None = None,
) -> Task:
    """The Task of a config of jobs. facts: those that a run keeps; without them the training part of the log tells them.

    Raises InputError for keys and values that do not fit.
    """
    configs.check_keys(lambda: None, "augment", augment)
    options = configs.call(jobs, "task", task)
    names, edges = options["class_names"], edges_of(options)
    opened = open_data(data, names, facts)
    reads = opened.reads
    if reads["train_on"] != "train" and not options["temperature"]:
        raise InputError(
            f"config.data.train_on={reads['train_on']!r}: leaves nothing to find config.task.temperature by; set it to that of "
            "a run which holds the validation part out (its facts.json)"
        )
    fixed = {"names": (1,) * len(NAMES), "classes": len(names), "bins": len(edges)}
    for key in fixed:
        if key in model:
            raise InputError(f"config.model.{key}: follows from the log and from config.task; leave it out")
    configs.call(JobModel, "model", {**model, **fixed})
    temperature = options["temperature"] or (facts or {}).get("temperature", 1.0)

    @functools.cache
    def net() -> JobModel:
        sizes = tuple(len(opened.facts().names[name]) + 1 for name in NAMES)
        return JobModel(**{**model, **fixed, "names": sizes})

    @functools.cache
    def streams() -> Streams:
        how = {name: reads[name] for name in ("batch_size", "bptt", "restart")}
        return Streams(opened.steps(edges), opened.part("train"), **how)

    @functools.cache
    def windows(split: str) -> Windows:
        part = opened.part(split)
        part = part._replace(until=np.inf) if split == "test" else part
        known_jobs(opened.log(), part, f"the {split} part")  # or there is nothing to score
        return Windows(opened.steps(edges), part, length=options["eval_length"], context=options["eval_context"])

    def answer(run_apply: Callable, split: str, change: Callable = lambda batch: batch) -> Forecasts:
        return forecasts_of(run_apply, windows(split), reads["eval_batch_size"] or reads["batch_size"], change)

    def open_feed(run_apply: Callable, **how: Any) -> jobs_live.Feed:
        return jobs_live.Feed(run_apply, net().initial_carry(1), opened, edges, **how)

    def report(run, split, metrics):
        validation = (
            answer(run.apply, "validation")
            if split != "validation" and "validation" in opened.parts() and reads["train_on"] == "train"
            else None
        )
        kinds = [kind for kind, _ in opened.history().submitted_names()]
        shown = {**options, "faults": opened.wrong()}
        again = lambda change: answer(run.apply, split, change)
        return jobs_pages.pages(
            opened.log(),
            opened.parts(),
            split,
            whole(metrics),
            validation,
            again,
            kinds,
            edges,
            names,
            options["bad"],
            shown,
        )

    return Task(
        abstract_batch=abstract_batch(names, reads),
        **traced(net, temperature=temperature, time_weight=options["time_weight"]),
        train_source=lambda split: streams() if split == "train" else windows(split),
        train_batch=lambda seed, step, rows: streams().batch(seed, step, rows),
        eval_source=windows,
        scores=lambda metrics: {
            **scoring.scores(whole(metrics), names, options["bad"]),
            "time_nats": metrics["time_nats"].compute(),
            **decided_scores(whole(metrics), (facts or {}).get("offsets"), names),
        },
        alarms=lambda metrics: alarms(whole(metrics), names),
        check=lambda: check(opened, streams, windows),
        facts=lambda: as_json(opened.facts(), opened),
        finish=lambda run_apply: calibration(run_apply, answer, opened, options, temperature),
        predict_files=lambda apply, paths, output, *, probabilities=True, running=False: jobs_live.predict_files(
            lambda: open_feed(apply, running=running), opened, options, paths, output
        ),
        live=lambda apply, file, out, errors, **how: jobs_live.follow(
            open_feed(apply, **how), opened, options, file, out, errors
        ),
        picture=lambda run, split, metrics: jobs_pictures.picture(
            opened.log(), whole(metrics), edges, names, options["bad"], options
        ),
        pages=report,
    )


def whole(metrics: Mapping[str, Any]) -> Forecasts:
    return Forecasts(*(np.asarray(getattr(metrics["forecasts"], field)) for field in Forecasts._fields))


def forecasts_of(apply: Callable, windows: Windows, batch_size: int, change: Callable) -> Forecasts:
    """The answers to all jobs of some windows; change(batch) -> batch before the model reads it."""
    found = []
    for rows in batches.eval_batches(windows, batch_size=batch_size):
        batch = change(rows)
        result = jax.device_get(apply({name: batch[name] for name in INPUTS}))
        counted = batch["counted"] & (batch["mask"] > 0)[:, None]
        probabilities, running = (np.asarray(result[name])[counted] for name in ("probabilities", "running"))
        found.append(Forecasts(batch["job"][counted], batch["label"][counted], probabilities, running))
    return Forecasts(*(np.concatenate(fields) for fields in zip(*found, strict=True)))


def calibration(
    run_apply: Callable, answer: Callable, opened: Data, options: Mapping[str, Any], temperature: float
) -> dict[str, Any]:
    """What the validation part tells once training has ended: the temperature (Guo et al. 2017, section 4.2), and the offsets of
    `scoring.offsets`. {} where there is no such part, or the config has a temperature. temperature: that of the answers."""
    if options["temperature"] or "validation" not in opened.parts():
        return {}
    found = answer(run_apply, "validation")
    known = np.asarray(found.label) >= 0
    logs, labels = np.log(np.maximum(found.probabilities[known], 1e-9)), found.label[known]
    nats = lambda log_t: -log_softmax(logs / np.exp(log_t), axis=-1)[np.arange(len(labels)), labels].mean()
    best = float(np.exp(minimize_scalar(nats, bounds=(-2.0, 2.0), method="bounded").x))
    scaled = np.exp(log_softmax(logs / best, axis=-1))
    return {"temperature": best * temperature, "offsets": [float(x) for x in scoring.offsets(scaled, labels)]}


def decided_scores(found: Forecasts, offsets: Any, names: tuple[str, ...]) -> dict[str, float]:
    """Macro-F1 of the decisions by `offsets`, where there are such."""
    if offsets is None:
        return {}
    moved = found._replace(probabilities=scoring.shifted(found.probabilities, np.asarray(offsets)))
    return {"f1/macro_decided": scoring.scores(moved, names, ())["f1/macro"]}


def alarms(found: Forecasts, names: tuple[str, ...]) -> list[str]:
    """A warning where one class is predicted everywhere."""
    known = scoring.rows_of(found, scoring.is_known(found))
    place = collapsed(confusion(Answers(known.id, known.label, known.probabilities)), share=1.0)
    if place is None:
        return []
    return [
        f"every job is predicted to end as {names[place]!r}. Where this class is most of the log that may be right: look at "
        "auprc/ and f1/macro_decided; else a learning rate that is too high (config.optimizer.learning_rate; try a tenth)"
    ]


def check(opened: Data, streams: Callable, windows: Callable) -> list[str]:
    """What is wrong with the log, a line each."""
    try:
        opened.facts()
        streams()
        for split in opened.parts():
            windows(split)
    except InputError as error:
        return [str(error)]
    return []
