"""A tiny task for tests of common/: noisy linear regression with a drop-out, batch statistics and an ignored share of rows."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from common import keys
from common.mesh import row_axis
from common.metrics import Mean
from common.task import Task

WIDTH = 3
TRUTH = np.array([1.0, -2.0, 0.5])


class Points:
    def __init__(self, count, seed, dtype=np.float32):
        rng = np.random.default_rng(seed)
        self.x = rng.normal(size=(count, WIDTH)).astype(dtype)
        self.y = (self.x @ TRUTH + 0.1 * rng.normal(size=count)).astype(dtype)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"x": self.x[i], "y": self.y[i], "row": np.int32(i)}


def make_task(dtype=jnp.float32, batch_size=8, poison=None):
    """poison: the training row whose target is infinite."""
    train = Points(40, 0, np.dtype(dtype))
    if poison is not None:
        train.y[poison] = np.inf
    splits = {"train": train, "validation": Points(13, 1, np.dtype(dtype))}

    def init(key, batch):
        return {"w": jax.random.normal(key, (WIDTH,), dtype), "b": jnp.zeros((), dtype)}, {
            "mean": jnp.zeros((WIDTH,), dtype)
        }

    def errors(params, model_state, batch):
        return (batch["x"] - model_state["mean"][None]) @ params["w"] + params["b"] - batch["y"]

    def loss(params, model_state, batch, key):
        seen = batch["x"].mean(0)
        seen = jax.lax.pmean(seen, row_axis()) if row_axis() else seen
        mean = 0.9 * model_state["mean"] + 0.1 * seen
        keep = keys.bernoulli(key, 0.8, batch["y"].shape)
        squares = jnp.where(keep, errors(params, model_state, batch) ** 2, 0.0)
        return (
            squares.sum(),
            keep.sum().astype(dtype),
            {"kept": Mean(keep.sum().astype(dtype), jnp.asarray(len(keep), dtype))},
            {"mean": mean},
        )

    def evaluate(params, model_state, batch):
        squares = errors(params, model_state, batch) ** 2 * batch["mask"]
        return {"loss": Mean(squares.sum(), batch["mask"].sum())}

    def augment(key, example):
        return {**example, "x": example["x"] + 0.01 * jax.random.normal(key, (WIDTH,), dtype)}

    return Task(
        abstract_batch={
            "x": jax.ShapeDtypeStruct((batch_size, WIDTH), dtype),
            "y": jax.ShapeDtypeStruct((batch_size,), dtype),
            "row": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        },
        init=init,
        loss=loss,
        evaluate=evaluate,
        predict=lambda params, model_state, x: x @ params["w"] + params["b"],
        train_source=splits.__getitem__,
        eval_source=splits.__getitem__,
        augment=augment,
        scores=lambda metrics: {name: m.compute() for name, m in metrics.items()},
    )


def make_config(**changes):
    config = ConfigDict(
        {
            "seed": 0,
            "task": {"name": "toy"},
            "model": {},
            "data": {"batch_size": 8, "threads": 1},
            "augment": {},
            "optimizer": {"name": "adamw", "learning_rate": 0.05, "warmup": "10%", "clip": 1.0, "ema": 0.9},
            "loop": {"duration": "40 steps", "log": "5 steps", "eval": "10 steps", "save": "7 steps"},
            "mesh": {"devices": 1},
        }
    )
    for key, value in changes.items():
        *sections, name = key.split("__")
        section = config
        for part in sections:
            section = section[part]
        section[name] = value
    return config
