"""Sequence classification, of texts and of series, as a Task: the functions of a config's sections task, model and data."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from common import config as configs
from common.errors import InputError
from common.metrics import Mean
from common.task import Task
from lstm import scores as scoring
from lstm.classifier import Classifier
from lstm.data.buckets import Padded, bound_of, check_bounds, padded
from lstm.tasks import classify_files, classify_pages
from lstm.tasks.classify_data import Reader, open_reader, open_sources, reading


def classification(*, class_names: tuple[str, ...], label_smoothing: float = 0.0) -> dict[str, Any]:
    """The section `task` of a classifier's config.

    class_names: one for each class, as the labels of the data call them. label_smoothing: the share of a target that is
    spread over all classes (Szegedy et al. 2016, section 7), in training.
    """
    if len(class_names) < 2 or len(set(class_names)) < len(class_names):
        raise InputError(f"config.task.class_names={list(class_names)}: expected two names at least, each once")
    if not 0 <= label_smoothing < 1:
        raise InputError(f"config.task.label_smoothing={label_smoothing}: at least 0 and below 1")
    return {"class_names": tuple(map(str, class_names)), "label_smoothing": label_smoothing}


def make_task(
    *, task: Mapping[str, Any], model: Mapping[str, Any], data: Mapping[str, Any], augment: Mapping[str, Any]
) -> Task:
    """The Task of a classifier's config. Raises InputError for keys, values and sizes that do not fit."""
    configs.check_keys(lambda: None, "augment", augment)
    options = configs.call(classification, "task", task)
    names = options["class_names"]
    reads = reading(**data)
    reader = open_reader(reads, configs.check_keys(Classifier, "model", model), names)
    net = configs.call(Classifier, "model", {"classes": len(names), **model})
    if net.classes != len(names):
        raise InputError(f"config.model.classes={net.classes}: config.task.class_names has {len(names)}; leave it out")
    sequences, batches = open_sources(reads, reader)

    def init(key, batch):
        return net.init({"params": key}, batch["inputs"], batch["length"])["params"], {}

    def loss(params, model_state, batch, key):
        logits = net.apply({"params": params}, batch["inputs"], batch["length"], train=True, rngs={"dropout": key})
        nats = cross_entropy(logits, batch["label"], options["label_smoothing"])
        count = batch["mask"].sum()
        right = (logits.argmax(-1) == batch["label"]) * batch["mask"]
        return (nats * batch["mask"]).sum(), count, {"accuracy": Mean(right.sum(), count)}, model_state

    def evaluate(params, model_state, batch):
        logits = net.apply({"params": params}, batch["inputs"], batch["length"])
        nats = cross_entropy(logits, batch["label"])
        answers = scoring.Answers(
            jnp.where(batch["mask"] > 0, batch["id"], -1), batch["label"], jax.nn.softmax(logits, axis=-1)
        )
        return {"loss": Mean((nats * batch["mask"]).sum(), batch["mask"].sum()), "answers": answers}

    def predict(params, model_state, inputs):
        """{"inputs" [B, T(, C)], "length" [B]} -> {"probabilities" [B, K], "shares" [B, T]: see `Classifier`}."""
        logits, shares = net.apply({"params": params}, inputs["inputs"], inputs["length"], with_weights=True)
        return {"probabilities": jax.nn.softmax(logits, axis=-1), "shares": shares}

    bounds = check_bounds(reads["buckets"], reads["max_length"])
    whole = lambda metrics: scoring.Answers(*(getattr(metrics["answers"], f) for f in scoring.Answers._fields))
    answer = lambda apply, arrays: answers_of(apply, arrays, bounds, reads["eval_batch_size"] or reads["batch_size"])
    return Task(
        abstract_batch=abstract_batch(net, reads),
        init=init,
        loss=loss,
        evaluate=evaluate,
        predict=predict,
        train_source=lambda split: batches() if split == "train" else sequences(split),
        train_batch=lambda seed, step, rows: batches().batch(seed, step, rows),
        eval_source=lambda split: Padded(sequences(split), reads["max_length"]),
        scores=lambda metrics: {
            "loss": metrics["loss"].compute(),
            **scoring.scores(metrics["answers"], names),
        },
        alarms=lambda metrics: alarms(metrics, names),
        check=reader.check,
        predict_array=lambda apply, x: answer(apply, [encoded(x, reader, net)])[0]["probabilities"],
        predict_files=lambda apply, paths, output, **_: classify_files.predict_files(
            lambda items: answer(apply, reader.encode(items)), reader, paths, output, names
        ),
        picture=lambda run, split, metrics: classify_pages.picture(
            samples(run.apply, whole(metrics), sequences(split), answer, reader, count=4), names, reader.texts
        ),
        pages=lambda run, split, metrics: classify_pages.pages(
            run,
            split,
            whole(metrics),
            samples(run.apply, whole(metrics), sequences(split), answer, reader, count=9),
            names,
            reader.texts,
        ),
    )


def abstract_batch(net: Classifier, reads: Mapping[str, Any]) -> dict[str, Any]:
    """Shapes and types of the widest training batch."""
    shape = (reads["batch_size"], reads["max_length"])
    inputs = (shape, jnp.int32) if net.vocabulary else ((*shape, net.channels), jnp.float32)
    rows = {"length": jnp.int32, "label": jnp.int32, "mask": jnp.float32}
    shapes = {"inputs": inputs, **{name: (shape[:1], kind) for name, kind in rows.items()}}
    return {name: jax.ShapeDtypeStruct(*x) for name, x in shapes.items()}


def cross_entropy(logits: Float[jax.Array, "b k"], label, smoothing: float = 0.0) -> Float[jax.Array, " b"]:
    """Nats of each label; with `smoothing`, of a target that has this share of it spread evenly over all classes."""
    logs = jax.nn.log_softmax(logits, axis=-1)
    own = jnp.take_along_axis(logs, label[:, None], axis=-1)[:, 0]
    return -((1 - smoothing) * own + smoothing * logs.mean(-1))


def alarms(metrics: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """A warning where one class is predicted everywhere."""
    found = scoring.collapsed(scoring.confusion(metrics["answers"]))
    if found is None:
        return []
    return [
        f"every example is predicted as {names[found]!r}. Usual causes: a learning rate that is too high "
        "(config.optimizer.learning_rate; try a tenth), too few steps so far, or labels that do not belong to their examples "
        "(experiments.check_data)"
    ]


def encoded(x: Any, reader: Reader, net: Classifier) -> np.ndarray:
    """One raw example as the model reads it. Raises InputError where it is none."""
    if reader.texts:
        if not isinstance(x, str):
            raise InputError(f"an input of type {type(x).__name__}: expected a text, as a str")
    else:
        x = np.asarray(x, np.float32)
        if x.ndim != 2 or x.shape[1] != net.channels or not np.isfinite(x).all():
            raise InputError(f"a series of shape {x.shape}: expected finite numbers [steps, {net.channels}]")
    found = reader.encode([x])[0]
    if not len(found):
        raise InputError(f"the {'text has no words' if reader.texts else 'series has no steps'}")
    return found


def answers_of(
    apply: Callable, arrays: Sequence[np.ndarray], bounds: Sequence[int], batch_size: int
) -> list[dict[str, np.ndarray]]:
    """probabilities [K] and shares [n] of each array: short ones and long ones in batches of their own, so that as few
    shapes as there are bounds are compiled."""
    found: list[Any] = [None] * len(arrays)
    order = sorted(range(len(arrays)), key=lambda i: len(arrays[i]))
    batch_size = batch_size if len(arrays) > 1 else 1
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        rows = [arrays[i] for i in chosen] + [arrays[chosen[-1]]] * (batch_size - len(chosen))
        length = np.array([len(x) for x in rows], np.int32)
        given = {"inputs": padded(rows, bound_of(int(length.max()), bounds)), "length": length}
        result = jax.device_get(apply(given))
        for row, i in enumerate(chosen):
            shares = result["shares"][row, : length[row]]
            found[i] = {"probabilities": np.asarray(result["probabilities"][row]), "shares": np.asarray(shares)}
    return found


def samples(
    apply, answers: scoring.Answers, source, answer: Callable, reader: Reader, count: int
) -> list[dict[str, Any]]:
    """`count` examples of a split with their answers: two thirds of them the most wrong ones, the others spread over the
    right ones from the least sure to the surest."""
    real = np.asarray(answers.id) >= 0
    ids, label = np.asarray(answers.id)[real], np.asarray(answers.label)[real]
    probabilities = np.asarray(answers.probabilities)[real]
    own = probabilities[np.arange(len(label)), label]
    order = np.argsort(own, kind="stable")
    wrong = [i for i in order if probabilities[i].argmax() != label[i]][: -(-2 * count // 3)]
    right = [i for i in order if probabilities[i].argmax() == label[i]]
    spread = np.unique(np.linspace(0, len(right) - 1, min(count - len(wrong), len(right))).astype(int)) if right else []
    chosen = [int(ids[i]) for i in [*wrong, *(right[i] for i in spread)]]
    results = answer(apply, [source.inputs[i] for i in chosen])
    facts = lambda i: {"raw": source.raw[i], "name": source.name(i), "label": int(source.labels[i])}
    return [
        {**facts(i), **result, "inputs": source.inputs[i], "kept": reader.kept(source.raw[i])}
        for i, result in zip(chosen, results, strict=True)
    ]
