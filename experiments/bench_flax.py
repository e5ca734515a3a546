"""The worker of `bench unet` for this project's U-Net and for the same network from stock Flax layers."""

from experiments import launch

# isort: split
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from experiments.workers import serve
from unet.model import UNet
from unet.ops import compiler_options


class StockUNet(nn.Module):
    """The network as Flax's own layers say it: nn.Conv, nn.ConvTranspose, nn.max_pool, nn.BatchNorm."""

    dtype: str
    classes: int = 2
    width: int = 32
    depth: int = 4

    @nn.compact
    def __call__(self, x, train: bool = True):
        skips = []
        for level in range(self.depth):
            x = self.double_conv(x, self.width * 2**level)
            skips.append(x)
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = self.double_conv(x, self.width * 2**self.depth)
        for level in reversed(range(self.depth)):
            x = nn.ConvTranspose(self.width * 2**level, (2, 2), (2, 2), dtype=self.dtype)(x)
            x = self.double_conv(jnp.concatenate([skips[level], x], axis=-1), self.width * 2**level)
        return nn.Conv(self.classes, (1, 1), dtype=self.dtype)(x)

    def double_conv(self, x, features: int):
        for _ in range(2):
            x = nn.Conv(features, (3, 3), use_bias=False, dtype=self.dtype)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=False, momentum=0.9, dtype=self.dtype)(x))
        return x


def main(argv: list[str]) -> int:
    candidate, dtype = argv[:2]
    batch, side, width = map(int, argv[2:])
    make = {
        "ours": lambda: UNet(classes=2, bands=1, width=width, depth=4, dtype=dtype),
        "flax": lambda: StockUNet(dtype, width=width),
    }
    model = make[candidate]()
    random = np.random.default_rng(0)
    image = jnp.asarray(random.normal(size=(batch, side, side, 1)), "float32")
    label = jnp.asarray(random.integers(0, 2, size=(batch, side, side)), "int32")
    optimizer = optax.sgd(0.01, momentum=0.9)

    def loss(params, statistics, image, label):
        variables = {"params": params, "batch_stats": statistics}
        logits, updated = model.apply(variables, image, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype("float32"), label)
        return losses.mean(), updated["batch_stats"]

    @functools.partial(jax.jit, donate_argnums=0, compiler_options=compiler_options(dtype))
    def step(state, image, label):
        params, statistics, moments = state
        (value, statistics), grads = jax.value_and_grad(loss, has_aux=True)(params, statistics, image, label)
        updates, moments = optimizer.update(grads, moments, params)
        return (optax.apply_updates(params, updates), statistics, moments), value

    variables = jax.jit(model.init)(jax.random.key(0), image)
    state = variables["params"], variables["batch_stats"], optimizer.init(variables["params"])
    begin = time.perf_counter()
    program = step.lower(state, image, label).compile()
    ready = {
        "device": jax.devices()[0].device_kind,
        "parameters": sum(p.size for p in jax.tree.leaves(state[0])),
        "compile_seconds": time.perf_counter() - begin,
    }

    def advance() -> float:
        nonlocal state
        state, value = jax.block_until_ready(program(state, image, label))
        return float(value)

    serve(ready, {"step": advance})
    return 0


if __name__ == "__main__":
    launch.run(main)
