"""The layers of a U-Net that XLA does badly on CPUs, done well: values and gradients equal lax's own.

What was measured, and what was tried in vain: docs/decisions.md. `python -m experiments.bench unet_ops` repeats it.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

NHWC = ("NHWC", "HWIO", "NHWC")
Padding = Literal["same", "valid"]


def compiler_options(dtype: str) -> dict[str, bool]:
    """jax.jit(compiler_options=...) for a program that computes in `dtype`: on CPUs, bfloat16 convolutions go to oneDNN.

    XLA cannot write such a program to the compilation cache (jax 0.12), so float32, which gains nothing, does without.
    """
    known = tuple(int(part) for part in jax.__version__.split(".")[:2]) >= (0, 12)
    if dtype != "bfloat16" or jax.default_backend() != "cpu" or not known:
        return {}
    return {"xla_cpu_experimental_onednn_custom_call": True}


def conv3x3(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c o"], padding: Padding = "same"
) -> Float[Array, "b p q o"]:
    """3x3 convolution, stride 1; 'valid' loses one pixel at each border. On CPUs both gradients take a faster way than
    lax's rule; weight gradients are summed in float32 at least. ValueError where 'valid' would leave no pixel."""
    if padding not in ("same", "valid"):
        raise ValueError(f"padding is 'same' or 'valid', not {padding!r}")
    if padding == "valid" and min(x.shape[1:3]) < 3:
        raise ValueError(f"a valid 3x3 convolution needs at least 3x3 pixels, not {x.shape[1]}x{x.shape[2]}")
    border = 1 if padding == "same" else 0
    if jax.default_backend() == "cpu":
        return _conv3x3_cpu(border, x, kernel)
    return _convolve(x, kernel, border)


def _convolve(x: Array, kernel: Array, border: int) -> Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), [(border, border)] * 2, dimension_numbers=NHWC)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv3x3_cpu(border: int, x: Array, kernel: Array) -> Array:
    return _convolve(x, kernel, border)


def _conv3x3_fwd(border: int, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, border), (x, kernel)


def _conv3x3_bwd(border: int, saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = saved
    # A forward convolution with the turned kernel: XLA:CPU hands only that form to oneDNN.
    grad_x = _convolve(grad, kernel[::-1, ::-1].swapaxes(2, 3), 2 - border)
    return grad_x, _weight_gradient(x, grad, border).astype(kernel.dtype)


_conv3x3_cpu.defvjp(_conv3x3_fwd, _conv3x3_bwd)


def _weight_gradient(x: Array, grad: Array, border: int) -> Array:
    """[3, 3, c, o]: the sum over pixels (r, j) of x[r, j + d] * grad[r - a, j], as one matmul a block of rows.

    The three shifts along the width widen x to 3 c columns, the three along the height widen the gradient to 3 o: a third
    of the copies of im2col, into a matmul of better shape, in blocks that stay in cache.
    """
    (_, height, _, c), (_, _, width, o) = x.shape, grad.shape
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    if c < 8:  # too few columns for a matmul: lax's own rule, in `dtype`
        kernel = jnp.zeros((3, 3, c, o), dtype)
        return jax.linear_transpose(lambda k: _convolve(x.astype(dtype), k, border), kernel)(grad.astype(dtype))[0]
    block = min(8, height)
    spare = -height % block  # rows of zeros fill the last block
    outer = 2 - border  # rows of zeros around the gradient, where a shift leaves it
    x = jnp.pad(x, ((0, 0), (0, spare), (0, 0), (0, 0)))
    grad = jnp.pad(grad, ((0, 0), (outer, outer + spare), (0, 0), (0, 0)))

    def add_block(total: Array, start: Array) -> tuple[Array, None]:
        rows = lax.dynamic_slice_in_dim(x, start, block, axis=1)
        rows = jnp.pad(rows, ((0, 0), (0, 0), (border, border), (0, 0)))
        rows_grad = lax.dynamic_slice_in_dim(grad, start, block + 2, axis=1)
        wide = jnp.concatenate([rows[:, :, d : d + width] for d in range(3)], axis=-1)
        tall = jnp.concatenate([rows_grad[:, 2 - a : 2 - a + block] for a in range(3)], axis=-1)
        # A bfloat16 block is summed in float32 inside the matmul and rounded once: a float32 result would take twice
        # the time with the oneDNN option, which turns the factors into float32 first.
        return total + jnp.einsum("bhwo,bhwc->oc", tall, wide).astype(dtype), None

    total, _ = lax.scan(add_block, jnp.zeros((3 * o, 3 * c), dtype), jnp.arange(0, height + spare, block))
    return total.reshape(3, o, 3, c).transpose(0, 2, 3, 1)


def max_pool2(x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
    """2x2 maximum, stride 2, of four strided slices. Where values tie the gradient is split between them
    (reduce_window's goes to the first). ValueError unless height and width are even."""
    if x.shape[1] % 2 or x.shape[2] % 2:
        raise ValueError(f"2x2 pooling needs an even height and width, not {x.shape[1]}x{x.shape[2]}")
    dtype = x.dtype
    if jax.default_backend() == "cpu":
        x = x.astype(jnp.promote_types(dtype, jnp.float32))  # exact; strided bfloat16 maxima take five times as long
    top = jnp.maximum(x[:, ::2, ::2], x[:, ::2, 1::2])
    return jnp.maximum(top, jnp.maximum(x[:, 1::2, ::2], x[:, 1::2, 1::2])).astype(dtype)


def up_conv2(x: Float[Array, "b h w c"], kernel: Float[Array, "2 2 c o"]) -> Float[Array, "b 2*h 2*w o"]:
    """2x2 up-convolution, stride 2: out[2i+a, 2j+b] = x[i, j] @ kernel[a, b]. Equals lax.conv_transpose with the kernel
    flipped, whose weight gradient takes XLA:CPU twenty times as long."""
    batch, height, width, c = x.shape
    o = kernel.shape[-1]
    # One matmul for each parity of the rows: its columns (b, o) already lie as the pixels of an output row do.
    # Flat, it takes XLA:CPU half the time; elsewhere not, since flattening gathers x where its height is split over devices.
    x = x.reshape(-1, c) if jax.default_backend() == "cpu" else x
    rows = [jnp.dot(x, kernel[a].swapaxes(0, 1).reshape(c, 2 * o)) for a in range(2)]
    rows = [part.reshape(batch, height, 1, 2 * width, o) for part in rows]
    return jnp.concatenate(rows, axis=2).reshape(batch, 2 * height, 2 * width, o)
