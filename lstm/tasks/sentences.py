"""The lecture's example as a Task: a word-level language model over made passages whose truth is known."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from common import config as configs
from common.errors import InputError
from common.metrics import Mean, added
from common.task import Task
from lstm.data import sentences
from lstm.language_model import LanguageModel
from lstm.tasks import sentence_pages

LAGS = {"short": (1, 10), "medium": (11, 25), "long": (26, 10**6)}  # words since the answer was told
QUESTIONS = ("pronoun", "topic")


class Answers(NamedTuple):
    """Right answers and questions by lag, [pronoun or topic, lag]: sums that merge."""

    right: Float[Array, "2 lags"]
    asked: Float[Array, "2 lags"]

    def merge(self, other: "Answers") -> "Answers":
        return added(self, other)


def options(*, embedding: float = 3.0, answer_weight: float = 10.0) -> dict[str, float]:
    """The section `task`. embedding: words start from U(-embedding, embedding). answer_weight: of the answers in the training
    loss; two or three words of a passage are answers, and what the other sixty leave to chance drowns them.

    The usual small start (0.1) is a saddle: words that are nearly the same put nearly nothing into the memory, and what
    the topic is takes several times as many steps to be kept.
    """
    return locals()


def reading(
    *,
    batch_size: int = 32,
    eval_batch_size: int = 0,
    threads: int = 2,
    cache_mb: int = 0,
    length: int = 64,
    passages: int = 1_000_000,
    eval_passages: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """The section `data`: passages of a split, those of training made as they are read, each of `length` words at most.

    seed: of all splits, which share no stream of random numbers; not that of the run, so that runs are comparable.
    """
    for name, count in (("passages", passages), ("eval_passages", eval_passages)):
        if count < 1:
            raise InputError(f"config.data.{name}={count}: at least 1")
    return locals()


def make_task(
    *, task: Mapping[str, Any], model: Mapping[str, Any], data: Mapping[str, Any], augment: Mapping[str, Any]
) -> Task:
    """The Task of a config. Raises InputError for keys and values that do not fit."""
    if augment:
        raise InputError(f"config.augment.{next(iter(augment))}: made passages are not augmented; leave it out")
    options_ = configs.call(options, "task", task)
    spread, answer_weight = options_["embedding"], options_["answer_weight"]
    data = configs.call(reading, "data", data)
    net = language_model(model)
    source = functools.cache(
        lambda split: sentences.Passages(
            split,
            seed=data["seed"],
            length=data["length"],
            passages=data["passages" if split == "train" else "eval_passages"],
        )
    )
    source("train")

    def init(key, batch):
        params = net.init({"params": key}, batch["tokens"][:, :-1])["params"]
        first = jax.random.fold_in(key, 1)
        words = jax.random.uniform(first, params["embedding"].shape, minval=-spread, maxval=spread)
        return {**params, "embedding": words}, {}

    def logits_of(params, batch, **how):
        return net.apply({"params": params}, batch["tokens"][:, :-1], **how)[0]

    def loss(params, model_state, batch, key):
        logits = logits_of(params, batch, train=True, rngs={"dropout": key})
        weights = words_that_count(batch) * jnp.where(batch["question"][:, 1:] > 0, answer_weight, 1.0)
        total, count = token_loss(logits, batch["tokens"][:, 1:], weights)
        return total, count, means(answers(logits, batch)), model_state

    def evaluate(params, model_state, batch):
        logits = logits_of(params, batch)
        total, count = token_loss(logits, batch["tokens"][:, 1:], words_that_count(batch))
        return {
            "loss": Mean(total, count),
            "answers": answers(logits, batch),
            "passages": Mean(*[batch["mask"].sum()] * 2),
        }

    rows = {name: jax.ShapeDtypeStruct((data["batch_size"], data["length"]), jnp.int32) for name in ROWS}
    return Task(
        abstract_batch={**rows, "count": jax.ShapeDtypeStruct((data["batch_size"],), jnp.int32)},
        init=init,
        loss=loss,
        evaluate=evaluate,
        predict=lambda params, model_state, tokens: jax.nn.softmax(net.apply({"params": params}, tokens)[0]),
        train_source=source,
        eval_source=source,
        scores=score,
        predict_array=likely_words,
        picture=lambda run, split, metrics: sentence_pages.picture(net, run.params, source),
        pages=lambda run, split, metrics: sentence_pages.sections(run, split, language_model, source),
    )


ROWS = ("tokens", "question", "lag")


def language_model(model: Mapping[str, Any]) -> LanguageModel:
    """The network of the section `model`; the vocabulary is that of the grammar."""
    if "vocabulary" in model:
        raise InputError("config.model.vocabulary: made passages have their own; leave it out")
    return configs.call(LanguageModel, "model", {**model, "vocabulary": len(sentences.VOCABULARY)})


def words_that_count(batch) -> Float[Array, "b t"]:
    """1 for each word that is predicted: all but the first of a passage, and none of a copy that fills a batch."""
    place = jnp.arange(1, batch["tokens"].shape[1])
    real = (place[None] < batch["count"][:, None]).astype(jnp.float32)
    return real * batch["mask"][:, None] if "mask" in batch else real


def token_loss(logits, targets, weights) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sum of nats, and how many tokens that is."""
    nats = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return (nats * weights).sum(), weights.sum()


def answers(logits, batch) -> Answers:
    """The best of the words that a question leaves to choose from, beside the right one."""
    question, lag, target = (batch[name][:, 1:] for name in ("question", "lag", "tokens"))
    among = jnp.asarray(sentences.choices())[question]
    best = jnp.argmax(jnp.where(among, logits, -jnp.inf), axis=-1)
    asked = words_that_count(batch) * (question > 0)
    kind = (question == sentences.TOPIC).astype(jnp.int32)
    empty = jnp.zeros((len(QUESTIONS), batch["tokens"].shape[1]))
    return Answers(empty.at[kind, lag].add(asked * (best == target)), empty.at[kind, lag].add(asked))


def means(found: Answers) -> dict[str, Mean]:
    return {f"accuracy/{name}": Mean(found.right[i].sum(), found.asked[i].sum()) for i, name in enumerate(QUESTIONS)}


def score(metrics) -> dict[str, float]:
    """Flat scores of merged metrics."""
    found, table = metrics["answers"], {}
    for i, name in enumerate(QUESTIONS):
        right, asked = np.asarray(found.right[i], np.float64), np.asarray(found.asked[i], np.float64)
        table[f"accuracy/{name}"] = share(right, asked)
        for bin_, (low, high) in LAGS.items():
            table[f"accuracy/{name}/{bin_}"] = share(right[low : high + 1], asked[low : high + 1])
    nats = metrics["loss"].compute()
    return {"loss": nats, "nats_per_token": nats, **table, "examples": float(metrics["passages"].count)}


def share(right, asked) -> float:
    return float(right.sum() / asked.sum()) if asked.sum() else float("nan")


def likely_words(apply, text: str) -> dict[str, float]:
    """The five likeliest next words after a text, with their probabilities."""
    probabilities = np.asarray(apply(jnp.asarray(sentences.read(text)[None])))[0, -1]
    return {sentences.VOCABULARY[i]: float(probabilities[i]) for i in np.argsort(-probabilities)[:5]}
