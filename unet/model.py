"""The U-Net family: the network of Ronneberger, Fischer and Brox (MICCAI 2015, arXiv 1505.04597) is one member of it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from common import keys
from common.errors import InputError
from common.mesh import row_axis
from unet import ops

# "N denotes the number of incoming nodes of one neuron" (section 3): a standard deviation of sqrt(2 / N).
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def up_normal(key, shape, dtype):
    """N(0, sqrt(2 / C)) for an up-convolution kernel [2, 2, C, O]: each of its outputs has C incoming nodes, not 4 C."""
    return jax.random.normal(key, shape, dtype) * jnp.asarray((2 / shape[2]) ** 0.5, dtype)


class Conv3x3(nn.Module):
    """3x3 convolution with bias, or without one where a norm follows."""

    features: int
    padding: str
    use_bias: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j o"]:
        kernel = self.param("kernel", he_normal, (3, 3, x.shape[-1], self.features), self.param_dtype)
        x = ops.conv3x3(x.astype(self.dtype), kernel.astype(self.dtype), self.padding)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
            x = x + bias[None, None, None].astype(self.dtype)
        return x


class UpConv2x2(nn.Module):
    """2x2 up-convolution, stride 2, with bias: every pixel becomes a block of 2x2."""

    features: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w o"]:
        kernel = self.param("kernel", up_normal, (2, 2, x.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        return ops.up_conv2(x.astype(self.dtype), kernel.astype(self.dtype)) + bias[None, None, None].astype(self.dtype)


class UNet(nn.Module):
    """U-Net: `depth` levels down and up, two 3x3 convolutions each, skips at every level, a 1x1 convolution to `classes`.

    padding: 'valid' crops the skips, as in the paper: the output is smaller than the input (`output_size`).
             'same' maps any height and width to the same height and width.
    norm:    'none' (the paper), 'batch' or 'group', after each 3x3 convolution.
    dropout: rate at the end of the contracting path: after the last two levels.
    up:      'conv' (2x2 up-convolution) or 'resize' (nearest neighbour, then a 3x3 convolution).
    remat:   the backward pass computes the inside of each pair of convolutions again instead of keeping it: less memory,
             about a third more time.
    dtype:   what is computed in; parameters are `param_dtype`, statistics of norms and logits are float32 at least.

    The 2015 network is UNet(classes=2, bands=1, width=64, depth=4, padding='valid', norm='none', dropout=0.5):
    31,030,658 parameters, 572 -> 388. Logits have no activation: a ReLU there would stop the learning.
    """

    classes: int
    bands: int = 1
    width: int = 64
    depth: int = 4
    padding: str = "same"
    norm: str = "batch"
    dropout: float = 0.0
    up: str = "conv"
    remat: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b i j k"]:
        """Logits [B, H', W', classes] of images [B, H, W, bands]. Raises InputError for bands or sides that do not fit."""
        if image.shape[-1] != self.bands:
            raise InputError(
                f"the image has {image.shape[-1]} bands and the model takes {self.bands}; set config.model.bands"
            )
        height, width = image.shape[1:3]
        x = image.astype(self.dtype)
        for side in (height, width):
            output_size(side, self.depth, self.padding)
        if self.padding == "same":  # any size: continue the border up to a multiple of 2^depth, and cut the logits
            block = 2**self.depth
            x = jnp.pad(x, ((0, 0), (0, -height % block), (0, -width % block), (0, 0)), mode="edge")

        block = nn.remat(UNet.double_conv, static_argnums=(2, 3, 4)) if self.remat else UNet.double_conv
        skips = []
        for level in range(self.depth):
            x = block(self, x, self.width * 2**level, f"down{level}", train)
            x = self.drop(x, train) if level == self.depth - 1 else x
            skips.append(x)
            x = ops.max_pool2(x)
        x = block(self, x, self.width * 2**self.depth, "bottom", train)
        x = self.drop(x, train)
        for level in reversed(range(self.depth)):
            x = self.upsample(x, self.width * 2**level, f"up{level}_up", train)
            x = jnp.concatenate([crop(skips[level], *x.shape[1:3]), x], axis=-1)
            x = block(self, x, self.width * 2**level, f"up{level}", train)
        logits = nn.Dense(
            self.classes, kernel_init=he_normal, dtype=self.dtype, param_dtype=self.param_dtype, name="logits"
        )(x)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        return logits if self.padding == "valid" else logits[:, :height, :width]

    def double_conv(self, x, features: int, name: str, train: bool):
        for part in ("a", "b"):
            x = self.conv(x, features, f"{name}{part}", train)
        return x

    def conv(self, x, features: int, name: str, train: bool):
        """Convolution, norm, ReLU."""
        kinds = {"dtype": jnp.dtype(self.dtype), "param_dtype": jnp.dtype(self.param_dtype)}
        x = Conv3x3(features, self.padding, use_bias=self.norm == "none", name=name, **kinds)(x)
        if self.norm == "batch":
            # The statistics of training are those of the whole batch, over however many devices it is split.
            how = {"use_running_average": not train, "momentum": 0.9, "axis_name": row_axis() or None}
            x = nn.BatchNorm(name=f"{name}_norm", **how, **kinds)(x)
        elif self.norm == "group":
            groups = next(g for g in (8, 4, 2, 1) if features % g == 0)
            x = nn.GroupNorm(num_groups=groups, name=f"{name}_norm", **kinds)(x)
        elif self.norm != "none":
            raise InputError(f"config.model.norm={self.norm!r}: use 'none', 'batch' or 'group'")
        return nn.relu(x)

    def drop(self, x, train: bool):
        if not (train and self.dropout):
            return x
        return jnp.where(keys.bernoulli(self.make_rng("dropout"), 1 - self.dropout, x.shape), x / (1 - self.dropout), 0)

    def upsample(self, x, features: int, name: str, train: bool):
        """Twice the height and width, half the channels."""
        if self.up == "conv":
            kinds = {"dtype": jnp.dtype(self.dtype), "param_dtype": jnp.dtype(self.param_dtype)}
            return UpConv2x2(features, name=name, **kinds)(x)
        if self.up != "resize":
            raise InputError(f"config.model.up={self.up!r}: use 'conv' or 'resize'")
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        kinds = {"dtype": jnp.dtype(self.dtype), "param_dtype": jnp.dtype(self.param_dtype)}
        return Conv3x3(features, "same", use_bias=True, name=name, **kinds)(x)


def crop(x: Float[Array, "b h w c"], height: int, width: int) -> Float[Array, "b {height} {width} c"]:
    """The central window of `height` x `width`."""
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    return x[:, top : top + height, left : left + width]


def output_size(side: int, depth: int, padding: str) -> int:
    """The side of the logits for an input side; 572 -> 388 for the paper's net.

    Raises InputError with the nearest legal sides where a 'valid' network cannot take `side`: every pooled side must be
    even and every side positive (at depth 4: 12 mod 16, from 188 on).
    """
    if padding == "same":
        return side
    if padding != "valid":
        raise InputError(f"config.model.padding={padding!r}: use 'valid' or 'same'")
    out = valid_output(side, depth)
    if out:
        return out
    legal = [s for s in range(max(side - 2**depth, 1), side + 60 * 2**depth) if valid_output(s, depth)]
    near = sorted(sorted(legal, key=lambda s: abs(s - side))[:2])
    raise InputError(
        f"a 'valid' U-Net of depth {depth} cannot take a side of {side} pixels; the nearest that it can: {near}"
    )


def valid_output(side: int, depth: int) -> int:
    """The output side of a 'valid' network, or 0 where `side` is not legal."""
    for _ in range(depth):
        side -= 4
        if side <= 0 or side % 2:
            return 0
        side //= 2
    side -= 4
    for _ in range(depth):
        if side <= 0:
            return 0
        side = 2 * side - 4
    return max(side, 0)
