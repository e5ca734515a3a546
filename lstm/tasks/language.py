"""Language modelling as a Task: truncated back-propagation through time with the carry in model_state."""

import functools
import inspect
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from common import config as configs
from common.errors import InputError
from common.metrics import Mean, added
from common.task import Task
from lstm.data import text as texts
from lstm.data.streams import LONGER, Streams, Windows
from lstm.language_model import LanguageModel
from lstm.tasks import language_files, language_pages


class PerToken(NamedTuple):
    """total: nats of the targets that are token v; count: how many those are. Both [V]."""

    total: Float[Array, " v"]
    count: Float[Array, " v"]

    def merge(self, other: "PerToken") -> "PerToken":
        return added(self, other)


def language(*, eval_length: int = 512, eval_context: int = 128, ar: float = 0.0, tar: float = 0.0) -> dict[str, Any]:
    """The section `task` of a language model's config.

    eval_length, eval_context: evaluation reads windows of eval_length tokens that count, after eval_context that give
    them a history, each from a fresh carry. ar, tar: weights of the mean square of the last layer's outputs after drop-out,
    and of the mean square of the differences of successive outputs before it (Merity et al. 2018, section 4.5).
    """
    if eval_length < 1 or eval_context < 0:
        raise InputError(f"config.task.eval_length={eval_length}, eval_context={eval_context}: at least 1, and 0")
    return locals()


def reading(
    *,
    batch_size: int = 32,
    eval_batch_size: int = 0,
    threads: int = 2,
    bptt: int = 64,
    shift: bool = True,
    variable_bptt: bool = False,
    restart: float = 0.0,
    **source: Any,
) -> dict[str, Any]:
    """The section `data`: how the training text is read here, and in `source` the arguments of `lstm.data.text.make_corpus`.

    batch_size: parallel streams. bptt, shift, variable_bptt, restart: as in `lstm.data.streams.Streams`. eval_batch_size: 0 for
    batch_size. threads: of reading; may differ on resuming.
    """
    return locals()


class Parts(NamedTuple):
    """What a config's sections name. The text is read when one of the functions is first called, and kept.

    With both config.model.vocabulary and config.data.alphabet given, `net` and `vocabulary` need no data.
    """

    options: Mapping[str, Any]
    data: Mapping[str, Any]
    net: Any
    vocabulary: Any
    corpus: Any


def open_parts(*, task: Mapping[str, Any], model: Mapping[str, Any], data: Mapping[str, Any]) -> Parts:
    """Checks the keys. Raises InputError for one that is wrong; `net()` for a vocabulary that the model cannot hold."""
    options = configs.call(language, "task", task)
    known = tuple(inspect.signature(reading).parameters)
    configs.check_keys(LanguageModel, "model", {"vocabulary": 0, **model})
    data = reading(**data)
    source = texts.check_keys(data["source"], also=known)
    size = model.get("vocabulary", 0)
    corpus = functools.cache(lambda: texts.make_corpus(**source))
    fixed = source.get("alphabet", "") and source.get("level", "characters") == "characters"

    @functools.cache
    def vocabulary() -> texts.Vocabulary:
        if fixed:
            return texts.make_vocabulary([], "characters", source["alphabet"], source.get("unknown", False))
        return corpus().vocabulary

    @functools.cache
    def net() -> LanguageModel:
        entries = size if size and not fixed else len(vocabulary().entries)
        if size and size < entries:
            raise too_large(entries, size, source)
        return LanguageModel(**{**model, "vocabulary": size or entries})

    @functools.cache
    def checked() -> texts.Corpus:
        found = len(corpus().vocabulary.entries)
        if size and found > size:
            raise too_large(found, size, source)
        return corpus()

    return Parts(options, data, net, vocabulary, checked)


def open_run(config: Any) -> tuple[LanguageModel, texts.Vocabulary]:
    """The net and the vocabulary of a run's config."""
    sections = {name: configs.kwargs(config[name]) for name in ("task", "model", "data")}
    sections["task"].pop("name")
    parts = open_parts(**sections)
    return parts.net(), parts.vocabulary()


def too_large(found: int, size: int, source: Mapping[str, Any]) -> InputError:
    words = source.get("level", "characters") == "words"
    cure = f", or config.data.max_words={size}" if words else ""
    return InputError(
        f"config.model.vocabulary={size}: the training text has {found} different {'words' if words else 'characters'}; "
        f"use 0 (as many as there are){cure}"
    )


def make_task(
    *, task: Mapping[str, Any], model: Mapping[str, Any], data: Mapping[str, Any], augment: Mapping[str, Any]
) -> Task:
    """The Task of a language model's config. Raises InputError for keys and values that do not fit."""
    configs.check_keys(lambda: None, "augment", augment)
    parts = open_parts(task=task, model=model, data=data)
    options, reads, net = parts.options, parts.data, parts.net
    windows = {"length": options["eval_length"], "context": options["eval_context"]}

    @functools.cache
    def streams(split: str) -> Streams:
        how = {name: reads[name] for name in ("batch_size", "bptt", "shift", "restart")}
        return Streams(parts.corpus().of(split), variable=reads["variable_bptt"], **how)

    def init(key, batch):
        params = net().init({"params": key}, batch["inputs"])["params"]
        return params, {"carry": fresh_carry(net(), params, batch["inputs"].shape[0])}

    def loss(params, model_state, batch, key):
        fresh = fresh_carry(net(), params, batch["inputs"].shape[0])
        carry = jax.tree.map(lambda new, old: jnp.where(batch["reset"][:, None], new, old), fresh, model_state["carry"])
        counted = batch.get("mask", jnp.ones(batch["inputs"].shape, bool))
        logits, carry, outputs = net().apply(
            {"params": params},
            batch["inputs"],
            carry,
            mask=batch.get("mask"),
            train=True,
            with_outputs=True,
            rngs={"dropout": key},
        )
        nats, right = token_scores(logits, batch["targets"])
        total, count = (nats * counted).sum(), counted.sum().astype(nats.dtype)
        penalty = activation_penalty(outputs, counted, options["ar"], options["tar"])
        metrics = {"nats_per_token": Mean(total, count), "accuracy": Mean((right & counted).sum() * 1.0, count)}
        return total + count * penalty, count, metrics, {"carry": jax.lax.stop_gradient(carry)}

    def evaluate(params, model_state, batch):
        counted = batch["counted"] & (batch["mask"] > 0)[:, None]
        logits, _ = net().apply({"params": params}, batch["inputs"])
        nats, right = token_scores(logits, batch["targets"])
        count = counted.sum().astype(nats.dtype)
        sums = [
            jnp.zeros(logits.shape[-1]).at[batch["targets"]].add(x)
            for x in (nats * counted, counted.astype(nats.dtype))
        ]
        return {
            "loss": Mean((nats * counted).sum(), count),
            "accuracy": Mean((right & counted).sum() * 1.0, count),
            "tokens": PerToken(*sums),
        }

    def predict(params, model_state, tokens):
        """log p of tokens [B, 1:], each given those before it in its row."""
        logits, _ = net().apply({"params": params}, tokens[:, :-1])
        return -token_scores(logits, tokens[:, 1:])[0]

    return Task(
        abstract_batch=abstract_batch(reads),
        init=init,
        loss=loss,
        evaluate=evaluate,
        predict=predict,
        train_source=streams,
        train_batch=lambda seed, step, rows: streams("train").batch(seed, step, rows),
        eval_source=lambda split: Windows(parts.corpus().of(split), **windows),
        scores=lambda metrics: scores(metrics, parts.data["source"].get("level", "characters")),
        alarms=lambda metrics: alarms(metrics),
        check=lambda: check(parts, streams),
        predict_array=lambda apply, text: language_files.log_probabilities(
            apply, parts.vocabulary(), text, "text", windows
        ),
        predict_files=lambda apply, paths, output, **how: language_files.predict_files(
            apply, parts.vocabulary(), paths, output, windows, **how
        ),
        pages=lambda run, split, metrics: language_pages.pages(
            net(), run.params, parts.vocabulary(), parts.corpus().of(split), metrics
        ),
    )


def abstract_batch(reads: Mapping[str, Any]) -> dict[str, Any]:
    """Shapes and types of a training batch."""
    rows, width = reads["batch_size"], reads["bptt"] + (LONGER if reads["variable_bptt"] else 0)
    shapes = {"inputs": ((rows, width), jnp.int32), "targets": ((rows, width), jnp.int32), "reset": ((rows,), bool)}
    if reads["variable_bptt"]:
        shapes |= {"mask": ((rows, width), bool), "rate": ((rows,), jnp.float32)}
    return {name: jax.ShapeDtypeStruct(*x) for name, x in shapes.items()}


def fresh_carry(net: LanguageModel, params: Any, rows: int) -> Any:
    return net.apply({"params": params}, rows, method="initial_carry")


def token_scores(
    logits: Float[Array, "b t v"], targets: Int[Array, "b t"]
) -> tuple[Float[Array, "b t"], Bool[Array, "b t"]]:
    """Nats of each target, -log p, and whether it was the likeliest (one of them)."""
    own = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - own, own >= logits.max(axis=-1)


def activation_penalty(
    outputs: Mapping[str, Float[Array, "b t o"]], counted: Bool[Array, "b t"], ar: float, tar: float
) -> Float[Array, ""] | float:
    """ar x the mean square of the dropped outputs, plus tar x that of the steps of the raw ones, over what counts."""

    def mean_square(x, kept):
        weight = kept.astype(x.dtype)[..., None]
        return (x**2 * weight).sum() / (jnp.maximum(weight.sum(), 1) * x.shape[-1])

    penalty = 0.0
    if ar:
        penalty += ar * mean_square(outputs["dropped"], counted)
    if tar:
        raw = outputs["raw"]
        penalty += tar * mean_square(raw[:, 1:] - raw[:, :-1], counted[:, 1:] & counted[:, :-1])
    return penalty


def scores(metrics: Mapping[str, Any], level: str) -> dict[str, float]:
    """loss and nats_per_token, bits_per_token, perplexity, accuracy; for characters those names too; examples: tokens."""
    nats = metrics["loss"].compute()
    found = {"loss": nats, "nats_per_token": nats, "bits_per_token": nats / math.log(2)}
    found |= {"perplexity": math.exp(min(nats, 700.0)), "accuracy": metrics["accuracy"].compute()}
    if level == "characters":
        found |= {"nats_per_character": nats, "bits_per_character": nats / math.log(2)}
    return {**found, "examples": float(metrics["loss"].count)}


def alarms(metrics: Mapping[str, Any]) -> list[str]:
    """A warning where the model is worse than knowing nothing."""
    nats, entries = metrics["loss"].compute(), len(metrics["tokens"].count)
    if nats <= math.log(entries):
        return []
    return [
        f"{nats:.2f} nats a token are more than an even guess among {entries} takes ({math.log(entries):.2f}). Usual causes: a "
        "learning rate that is too high (config.optimizer.learning_rate; try a tenth, with config.optimizer.clip=1.0), or "
        "held-out text of another kind than the training text"
    ]


def check(parts: Parts, streams: Any) -> list[str]:
    """What is wrong with the text, a line each."""
    try:
        parts.net()
        parts.corpus()
        streams("train")
    except InputError as error:
        return [str(error)]
    held_out = [split for split in ("validation", "test") if split in parts.corpus().tokens]
    short = [split for split in held_out if len(parts.corpus().of(split)) < 2]
    return [f"config.data: the split {split!r} has fewer than 2 tokens; hold more text out" for split in short]
