"""A language model as a Flax module: embedding, layers of an LSTM, logits over the vocabulary."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict
from jaxtyping import Array, Float, Int

from common.errors import InputError
from lstm.cells import make_cell, matmul, shifted
from lstm.model import Stack, check_hidden, check_rate, dropped, stack_of, symmetric


class LanguageModel(nn.Module):
    """Embedding, `Stack`, and logits over the vocabulary: tokens [B, T] -> (logits [B, T, V] float32, carry).

    embed:  width of the embedding. tied: the embedding is the output matrix too (Press & Wolf 2017, arXiv 1608.05859); the
            last layer is then as wide as the embedding.
    embedding_dropout: of whole words, the same ones in every row of a call (Gal & Ghahramani 2016, section 4.2).
    input_dropout, dropout, output_dropout: of the embedded words, between layers, and of the last layer's outputs;
            variational: one mask a sequence for each of the three.
    init_scale: 0 for the usual starts (embedding U(-0.1, 0.1), output bias 0), else U(-init_scale, init_scale) for all.
    The rest: as in `Stack`. Parameters: embedding [V, E], stack, output {kernel [O, V], bias [V]} (tied: bias alone).
    """

    vocabulary: int
    embed: int = 128
    hidden: tuple[int, ...] = (256,)
    cell: str = "lstm"
    options: Mapping[str, Any] = FrozenDict()
    tied: bool = False
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
        check_hidden(self.hidden)
        for name in ("embedding_dropout", "input_dropout", "output_dropout"):
            check_rate(name, getattr(self, name))
        self.layers()
        width = make_cell(self.cell, self.hidden[-1], **dict(self.options)).outputs
        if self.tied and width != self.embed:
            raise InputError(
                f"config.model.tied=True needs a last layer as wide as the embedding: config.model.embed={self.embed} and "
                f"the last of config.model.hidden gives {width}; set them equal, or tied=False"
            )
        super().__post_init__()

    @nn.nowrap
    def layers(self, **more: Any) -> Stack:
        """The stack that this model holds."""
        return stack_of(self, **more)

    def setup(self):
        self.embedding = self.param("embedding", symmetric, (self.vocabulary, self.embed), self.init_scale or 0.1)
        self.stack = self.layers()
        self.output = self.param("output", self.fresh_output)

    @nn.nowrap
    def fresh_output(self, key) -> dict[str, Any]:
        """The parameters of the last matrix: bias, and the kernel where it is not the embedding."""
        first, second = jax.random.split(key)
        scale, width = self.init_scale, self.stack.cells()[-1].outputs
        bias = symmetric(second, (self.vocabulary,), scale) if scale else jnp.zeros(self.vocabulary)
        if self.tied:
            return {"bias": bias}
        shape = (width, self.vocabulary)
        kernel = symmetric(first, shape, scale) if scale else nn.initializers.lecun_normal()(first, shape)
        return {"kernel": kernel, "bias": bias}

    def initial_carry(self, batch: int) -> tuple[Any, ...]:
        """As `Stack.initial_carry`."""
        return self.stack.initial_carry(batch) if self.scope else self.layers(parent=None).initial_carry(batch)

    def __call__(
        self,
        tokens: Int[Array, "b t"],
        carry: tuple[Any, ...] | None = None,
        *,
        mask: Array | None = None,
        resets: Array | None = None,
        train: bool = False,
        with_outputs: bool = False,
    ) -> tuple:
        """(logits, carry); with_outputs: and a dict of the last layer's outputs [B, T, O], "raw" and "dropped": before and
        after output_dropout, which activation regularisation (Merity et al. 2017, section 4) needs."""
        dropped_, end, raw = self.features(tokens, carry, mask=mask, resets=resets, train=train, with_raw=True)
        logits = self.logits(dropped_)
        return (logits, end, {"raw": raw, "dropped": dropped_}) if with_outputs else (logits, end)

    def features(
        self,
        tokens: Int[Array, "b t"],
        carry: tuple[Any, ...] | None = None,
        *,
        mask: Array | None = None,
        resets: Array | None = None,
        train: bool = False,
        with_raw: bool = False,
    ) -> tuple:
        """(outputs [B, T, O] of the last layer after drop-out, carry), with_raw: and those before it."""
        x = self.embedding[tokens]
        if train and self.embedding_dropout:
            ones = jnp.ones((self.vocabulary, 1))
            kept = dropped(self.make_rng("dropout"), ones, self.embedding_dropout, rows=False)
            x = x * kept[tokens]
        x = self.drop(x, self.input_dropout, train)
        raw, carry = self.stack(x, carry, mask=mask, resets=resets, train=train)
        outputs = self.drop(raw, self.output_dropout, train)
        return (outputs, carry, raw) if with_raw else (outputs, carry)

    def logits(self, outputs: Float[Array, "*rows o"]) -> Float[Array, "*rows v"]:
        """Logits of last-layer outputs [..., O]; float32."""
        kernel = self.embedding.T if self.tied else self.output["kernel"]
        return shifted(matmul(outputs, kernel.astype(self.dtype)), self.output["bias"])

    def drop(self, x: Float[Array, "b t n"], rate: float, train: bool) -> Float[Array, "b t n"]:
        if not (train and rate):
            return x
        return dropped(self.make_rng("dropout"), x, rate, shared=(1,) if self.variational else ())
