"""The net that follows a stream of jobs: at each submission the chances of how it ends, and of when, given how."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict
from jaxtyping import Array, Bool, Float, Int

from common import keys
from common.errors import InputError
from lstm.model import check_hidden, check_rate, dropped, stack_of


class JobModel(nn.Module):
    """Events -> `Stack` -> head: arrays of `lstm.data.job_windows.Steps.read` -> (logits, hazards, carry), float32.

    logits [B, T, K]: of the classes, at a submission. hazards [B, T, bins - 1, K]: log-odds that the job ends in a bin of run
    time as this class, given that it has not ended before (discrete-time hazard; Gensheimer & Narasimhan 2019, arXiv
    1805.00917, section 2, one for each class). In the last bin it ends surely.

    An event is its numbers, and the embeddings of its names (0: unseen), through a layer of `width` rectified units, which the
    stack reads. The head, `head` rectified units, reads the stack's outputs and the event once more. hidden: () for no
    recurrence at all, a net that sees one event at a time.

    identity_dropout: share of the names that training reads as unseen, so that new users and programs are scored sensibly.
    input_dropout: of the stack's inputs; output_dropout: of its outputs, and of the head. The rest: as in `Stack`.
    """

    names: tuple[int, ...]
    classes: int
    bins: int
    embed: int = 16
    width: int = 64
    head: int = 64
    hidden: tuple[int, ...] = (64,)
    cell: str = "lstm"
    options: Mapping[str, Any] = FrozenDict()
    identity_dropout: float = 0.1
    input_dropout: float = 0.2
    dropout: float = 0.0
    output_dropout: float = 0.2
    variational: bool = False
    recurrent_dropout: float = 0.0
    weight_drop: float = 0.0
    implementation: str = "auto"
    chunk: int = 0
    dtype: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "options", FrozenDict(self.options))  # flax hashes modules
        for name in ("identity_dropout", "input_dropout", "output_dropout"):
            check_rate(name, getattr(self, name))
        for name in ("embed", "width", "head"):
            if getattr(self, name) < 1:
                raise InputError(f"config.model.{name}={getattr(self, name)}: at least 1")
        if self.hidden:
            check_hidden(self.hidden)
            stack_of(self, parent=None)
        super().__post_init__()

    def initial_carry(self, batch: int) -> tuple[Any, ...]:
        """Zeros, one row a stream; () without recurrence."""
        return stack_of(self, parent=None).initial_carry(batch) if self.hidden else ()

    @nn.compact
    def __call__(
        self,
        numbers: Float[Array, "b t f"],
        ended: Float[Array, "b t e"],
        names: Int[Array, "b t n"],
        submitted: Bool[Array, "b t"],
        valid: Bool[Array, "b t"],
        carry: tuple[Any, ...] | None = None,
        *,
        resets: Bool[Array, "b t"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t k"], Float[Array, "b t bins k"], tuple[Any, ...]]:
        drop = lambda x, rate: dropped(self.make_rng("dropout"), x, rate) if train and rate else x
        if train and self.identity_dropout:
            names = jnp.where(
                keys.bernoulli(self.make_rng("dropout"), 1 - self.identity_dropout, names.shape), names, 0
            )
        embed = lambda i, size: nn.Embed(size, self.embed, embedding_init=nn.initializers.normal(0.1), name=f"embed{i}")
        embedded = [embed(i, size)(names[..., i]) for i, size in enumerate(self.names)]
        x = jnp.concatenate([numbers, ended, submitted[..., None].astype(numbers.dtype), *embedded], axis=-1)
        features = [x]
        if self.hidden:
            z = drop(nn.relu(nn.Dense(self.width, name="input")(x)), self.input_dropout)
            y, carry = stack_of(self, name="stack")(z, carry, mask=valid, resets=resets, train=train)
            features = [drop(y, self.output_dropout), x]
        q = nn.relu(nn.Dense(self.head, name="head")(jnp.concatenate(features, axis=-1)))
        q = drop(q, self.output_dropout)
        logits = nn.Dense(self.classes, name="classes")(q)
        hazards = nn.Dense((self.bins - 1) * self.classes, name="hazards")(q)
        hazards = hazards.reshape(*hazards.shape[:-1], self.bins - 1, self.classes)
        left = jnp.arange(self.bins, 1, -1)  # bins that are left: log-odds of an even share of them
        return logits, hazards - jnp.log(left - 1.0)[None, None, :, None], carry if self.hidden else ()


def log_survival(hazards: Float[Array, "*rows bins k"]) -> Float[Array, "*rows bins+1 k"]:
    """Log of the chance that a job of each class still runs at the start of each bin; 0 at the first."""
    steps = jnp.cumsum(jax.nn.log_sigmoid(-hazards), axis=-2)
    return jnp.concatenate([jnp.zeros_like(steps[..., :1, :]), steps], axis=-2)


def still_running(
    logits: Float[Array, "*rows k"], hazards: Float[Array, "*rows bins k"]
) -> Float[Array, "*rows bins+1 k"]:
    """The chances of the classes, given that a job still runs at the start of each bin (Bayes' rule); the first are those at
    submission."""
    return jax.nn.softmax(logits[..., None, :] + log_survival(hazards), axis=-1)


def time_nats(
    hazards: Float[Array, "*rows bins k"], label: Int[Array, "*rows"], place: Int[Array, "*rows"]
) -> Float[Array, "*rows"]:
    """Nats of the bin `place` in which a job of class `label` ended, given the class."""
    own = jnp.take_along_axis(hazards, label[..., None, None], axis=-1)[..., 0]
    bins = jnp.arange(own.shape[-1]).reshape((1,) * label.ndim + (-1,))
    outlived = (jax.nn.log_sigmoid(-own) * (bins < place[..., None])).sum(-1)
    ends = (jax.nn.log_sigmoid(own) * (bins == place[..., None])).sum(-1)
    return -(outlived + ends)


def alive_nats(
    logits: Float[Array, "*rows k"], hazards: Float[Array, "*rows bins k"], place: Int[Array, "*rows"]
) -> Float[Array, "*rows"]:
    """Nats of a job that has outlived `place` bins and has not ended yet: of all that may still become of it."""
    chances = jax.nn.log_softmax(logits, axis=-1) + jnp.take_along_axis(
        log_survival(hazards), place[..., None, None], axis=-2
    ).squeeze(-2)
    return -jax.nn.logsumexp(chances, axis=-1)
