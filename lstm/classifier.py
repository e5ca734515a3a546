"""A classifier of sequences, as a Flax module: embedding or channels, `Stack`, pooling over the real steps, logits."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict
from jaxtyping import Array, Float, Int

from common import keys
from common.config import nearest
from common.errors import InputError
from lstm.model import check_rate, dropped, stack_of, symmetric

POOLINGS = ("last", "mean", "max", "attention", "mean_max", "concat")


class Classifier(nn.Module):
    """tokens [B, T] int32, or values [B, T, C] float32, with lengths [B] -> logits [B, classes], float32.

    vocabulary: entries of the embedding; 0: the inputs are `channels` real values a step. embed: its width.
    pooling: what the head sees of the outputs of the real steps:
        last       the output after the last step (bidirectional: and that of the way back, after the first step)
        mean, max  over the steps; mean_max: both; concat: last, mean and max (Howard & Ruder 2018, arXiv 1801.06146, 3.3)
        attention  sum of a_t h_t, a = softmax of v . tanh(W h_t + b) (Yang et al. 2016, equations 5 to 7)
    attention: units of W; 0: as many as the outputs have.
    word_dropout: share of steps that the stack reads as 0, the rest unscaled; in training.
    embedding_dropout: of whole words, the same ones in every row of a call (Gal & Ghahramani 2016).
    input_dropout, dropout, output_dropout: of the embedded words or values, between layers, and of what the head sees.
    The rest: as in `Stack`. Parameters: embedding [V, E], stack (both as in `LanguageModel`), attention, logits.

    What stands in padding changes no bit of the logits. A row of length 0 gives the head zeros.
    Raises InputError for values that cannot be.
    """

    classes: int
    vocabulary: int = 0
    channels: int = 0
    embed: int = 128
    hidden: tuple[int, ...] = (128,)
    cell: str = "lstm"
    options: Mapping[str, Any] = FrozenDict()
    bidirectional: bool = True
    pooling: str = "max"
    attention: int = 0
    word_dropout: float = 0.0
    embedding_dropout: float = 0.0
    input_dropout: float = 0.0
    dropout: float = 0.0
    output_dropout: float = 0.0
    variational: bool = False
    weight_drop: float = 0.0
    recurrent_dropout: float = 0.0
    zoneout: float | tuple[float, ...] = 0.0
    learned_initial: bool = False
    init_scale: float = 0.0
    implementation: str = "auto"
    chunk: int = 0
    dtype: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "options", FrozenDict(self.options))  # flax hashes modules
        if self.pooling not in POOLINGS:
            raise InputError(f"config.model.pooling={self.pooling!r}: {nearest(self.pooling, POOLINGS)}")
        for name in ("word_dropout", "embedding_dropout", "input_dropout", "output_dropout"):
            check_rate(name, getattr(self, name))
        if bool(self.vocabulary) == bool(self.channels):
            sizes = f"config.model.vocabulary={self.vocabulary}, channels={self.channels}"
            raise InputError(f"{sizes}: set the one for texts or the other for series, and leave the other 0")
        if self.embedding_dropout and not self.vocabulary:
            raise InputError(
                f"config.model.embedding_dropout={self.embedding_dropout}: series have no embedding; use 0"
            )
        super().__post_init__()

    def setup(self):
        if self.vocabulary:
            self.embedding = self.param("embedding", symmetric, (self.vocabulary, self.embed), self.init_scale or 0.1)
        self.stack = stack_of(self)
        if self.pooling == "attention":
            width = sum(self.stack.cells()[-1].outputs for _ in self.stack.names()[-1])
            self.attend = Attention(self.attention or width, self.dtype, name="attention")
        self.head = nn.Dense(self.classes, name="logits")

    def __call__(
        self,
        inputs: Int[Array, "b t"] | Float[Array, "b t c"],
        lengths: Int[Array, " b"],
        *,
        train: bool = False,
        with_weights: bool = False,
    ) -> Float[Array, "b k"] | tuple[Float[Array, "b k"], Float[Array, "b t"]]:
        """Logits; with_weights: and what share of the pooled outputs each step gave, which sums to 1 over the real steps.

        The share is a_t of attention; for max, mean_max and concat, of the maxima; for mean, one over the length; for last,
        1 at the last step.
        """
        mask = jnp.arange(inputs.shape[1])[None] < lengths[:, None]
        outputs, carry = self.stack(self.embed_inputs(inputs, train), lengths=lengths, train=train)
        pooled, weights = self.pool(outputs, carry, mask, lengths)
        if train and self.output_dropout:
            pooled = dropped(self.make_rng("dropout"), pooled, self.output_dropout)
        logits = self.head(pooled)
        return (logits, weights) if with_weights else logits

    def embed_inputs(self, inputs: Array, train: bool) -> Float[Array, "b t i"]:
        """What the first layer reads, with the drop-outs of training."""
        x = self.embedding[inputs] if self.vocabulary else inputs
        if train and self.word_dropout:
            kept = keys.bernoulli(self.make_rng("dropout"), 1 - self.word_dropout, (*x.shape[:2], 1))
            x = jnp.where(kept, x, 0)
        if train and self.embedding_dropout:
            ones = jnp.ones((self.vocabulary, 1))
            kept = dropped(self.make_rng("dropout"), ones, self.embedding_dropout, rows=False)
            x = x * kept[inputs]
        if train and self.input_dropout:
            x = dropped(self.make_rng("dropout"), x, self.input_dropout, shared=(1,) if self.variational else ())
        return x

    def pool(self, outputs, carry, mask, lengths) -> tuple[Float[Array, "b p"], Float[Array, "b t"]]:
        """(what the head sees, the share of each step)."""
        if self.pooling == "attention":
            return self.attend(outputs, mask)
        last = jnp.concatenate([c["h"] for c in (carry[-1] if self.bidirectional else carry[-1:])], axis=-1)
        last = jnp.where(lengths[:, None] > 0, last, 0.0)  # a learned initial state is no output
        mean = outputs.sum(1) / jnp.maximum(lengths, 1)[:, None]  # padded outputs are 0
        greatest = jnp.where(mask[..., None], outputs, -jnp.inf).max(1)
        greatest = jnp.where(lengths[:, None] > 0, greatest, 0.0)
        parts = {"last": [last], "mean": [mean], "max": [greatest], "mean_max": [mean, greatest]}
        pooled = jnp.concatenate(parts.get(self.pooling, [last, mean, greatest]), axis=-1)
        return pooled, step_shares(self.pooling, outputs, greatest, mask, lengths)


class Attention(nn.Module):
    """Attention pooling: outputs [B, T, O] and mask [B, T] -> (sum of a_t h_t [B, O], a [B, T])."""

    units: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, outputs: Float[Array, "b t o"], mask: Array) -> tuple[Float[Array, "b o"], Float[Array, "b t"]]:
        hidden = jnp.tanh(nn.Dense(self.units, dtype=self.dtype, name="hidden")(outputs))
        vector = self.param("vector", nn.initializers.lecun_normal(), (self.units, 1))[:, 0]
        scores = (hidden.astype(jnp.float32) * vector[None, None]).sum(-1)
        scores = jnp.where(mask, scores, -jnp.inf)
        top = jnp.max(scores, axis=1, keepdims=True)
        weights = jnp.where(mask, jnp.exp(scores - jnp.where(mask.any(1)[:, None], top, 0.0)), 0.0)
        # Numerator and denominator are one sum along the steps, so that padding cannot change the order of its terms.
        both = jnp.concatenate([outputs, jnp.ones_like(outputs[..., :1])], axis=-1)
        sums = (weights[..., None] * both).sum(1)
        total = jnp.maximum(sums[:, -1:], 1e-30)
        return sums[:, :-1] / total, weights / total


def step_shares(pooling: str, outputs, greatest, mask, lengths) -> Float[Array, "b t"]:
    """What share of the pooled outputs came from each step."""
    if pooling == "mean":
        return mask / jnp.maximum(lengths, 1)[:, None].astype(jnp.float32)
    if pooling == "last":
        return (jnp.arange(mask.shape[1])[None] == lengths[:, None] - 1).astype(jnp.float32)
    first = jnp.argmax((outputs == greatest[:, None]) & mask[..., None], axis=1)
    chosen = (jnp.arange(mask.shape[1])[None, :, None] == first[:, None]) & mask[..., None]
    return chosen.mean(-1, dtype=jnp.float32)
