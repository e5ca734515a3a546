"""The functions of a task of jobs that are traced: what the net and its losses make of a batch of events."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from common.metrics import Mean
from lstm.data.job_events import NAMES
from lstm.data.job_history import History
from lstm.job_model import JobModel, alive_nats, still_running, time_nats
from lstm.job_scores import Forecasts

INPUTS = ("numbers", "ended", "names", "submitted", "valid")  # what the model reads of a batch


def traced(net: Callable[[], JobModel], *, temperature: float, time_weight: float) -> dict[str, Callable]:
    """Fields of a Task, by name. net: the model, once it is known how many names there are. temperature, time_weight: as in the
    section `task`."""

    def apply(params, batch, carry=None, **how):
        return net().apply({"params": params}, *(batch[name] for name in INPUTS), carry, **how)

    def init(key, batch):
        params = net().init({"params": key}, *(batch[name] for name in INPUTS))["params"]
        return params, {"carry": net().initial_carry(batch["valid"].shape[0])}

    def loss(params, model_state, batch, key):
        logits, hazards, carry = apply(
            params, batch, model_state["carry"], resets=batch["reset"], train=True, rngs={"dropout": key}
        )
        nats, times, alive, ended = parts_of_loss(logits, hazards, batch)
        count = ended.sum()
        total = nats.sum() + time_weight * (times.sum() + alive.sum())
        right = ((logits.argmax(-1) == batch["label"]) * ended).sum()
        metrics = {"nats": Mean(nats.sum(), count), "accuracy": Mean(right, count)}
        return total, count, metrics, {"carry": jax.lax.stop_gradient(carry)}

    def predict(params, model_state, inputs):
        """{of INPUTS, "carry"} -> {"probabilities" [B, T, K], "running" [B, T, bins, K], "carry"}: the chances at submissions,
        those given that the job still runs at the start of each bin, and the state after the last event."""
        logits, hazards, carry = apply(params, inputs, inputs.get("carry"))
        running = still_running(logits / temperature, hazards)
        return {"probabilities": running[..., 0, :], "running": running, "carry": carry}

    def evaluate(params, model_state, batch):
        logits, hazards, _ = apply(params, batch)
        counted = batch["counted"] & (batch["mask"] > 0)[:, None]
        nats, times, _, ended = parts_of_loss(logits / temperature, hazards, batch)
        running = still_running(logits / temperature, hazards)
        flat = lambda x: x.reshape(-1, *x.shape[2:])
        found = Forecasts(
            flat(jnp.where(counted, batch["job"], -1)), flat(batch["label"]), flat(running[..., 0, :]), flat(running)
        )
        mean = lambda x: Mean((x * counted).sum(), (ended * counted).sum())
        return {"loss": mean(nats), "time_nats": mean(times), "forecasts": found}

    return {"init": init, "loss": loss, "predict": predict, "evaluate": evaluate}


def abstract_batch(names: tuple[str, ...], reads: Mapping[str, Any]) -> dict[str, Any]:
    """Shapes and types of a training batch."""
    shape, history = (reads["batch_size"], reads["bptt"]), History(names, lambda word: -1)
    width = lambda columns: (*shape, len(columns))
    shapes = {
        "submitted": (shape, bool),
        "numbers": (width(history.submitted_names()), jnp.float32),
        "ended": (width(history.ended_names()), jnp.float32),
        "names": (width(NAMES), jnp.int32),
        "valid": (shape, bool),
        "job": (shape, jnp.int32),
        "label": (shape, jnp.int32),
        "bin": (shape, jnp.int32),
        "reset": (shape, bool),
    }
    return {name: jax.ShapeDtypeStruct(*x) for name, x in shapes.items()}


def parts_of_loss(logits, hazards, batch) -> tuple[Any, Any, Any, Any]:
    """Of each event [B, T]: nats of how a job ended, and of when; nats of one that has not ended, of how long it has lasted; 1 where
    it is a submission whose end is known. Ends, and what is no event, have 0 everywhere."""
    submitted, label = batch["submitted"], jnp.maximum(batch["label"], 0)
    ended = (submitted & (batch["label"] >= 0)).astype(jnp.float32)
    nats = -jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), label[..., None], axis=-1)[..., 0]
    alive = alive_nats(logits, hazards, batch["bin"]) * submitted
    return nats * ended, time_nats(hazards, label, batch["bin"]) * ended, alive * (1 - ended), ended
