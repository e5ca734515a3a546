"""unet.ops against lax's own convolutions and windows, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unet import ops

TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "bfloat16": 2e-2}


def draw(seed, shape, dtype):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def lax_conv(x, kernel, padding):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), padding.upper(), dimension_numbers=numbers)


def lax_up_conv(x, kernel):
    return lax.conv_transpose(x, kernel[::-1, ::-1], (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def lax_max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def assert_close(got, expected, tolerance):
    got, expected = (np.asarray(a, np.float64) for a in (got, expected))
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max(initial=0)))


def check(function, reference, arguments, dtype):
    """Value and gradients of `function` on `dtype` arguments equal those of `reference` in float64, kinds kept."""
    with jax.enable_x64(True):
        exact = [a.astype("float64") for a in arguments]
        arguments = [a.astype(dtype) for a in arguments]
        expected, pull_expected = jax.vjp(reference, *exact)
        got, pull = jax.vjp(function, *arguments)
        grad = draw(9, expected.shape, dtype)
        assert got.dtype == dtype and got.shape == expected.shape
        assert_close(got, expected, TOLERANCE[dtype])
        for a, b in zip(pull(grad), pull_expected(grad.astype("float64")), strict=True):
            assert a.dtype == dtype
            assert_close(a, b, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    ("batch", "height", "width", "c", "o"),
    [(2, 11, 7, 9, 5), (1, 3, 3, 8, 1), (1, 16, 8, 12, 16), (2, 9, 4, 1, 3), (1, 17, 5, 3, 2)],
)
def test_conv3x3_equals_lax(batch, height, width, c, o, padding, dtype):
    # Values that bf16 holds exactly, so that only the arithmetic differs.
    x, kernel = (draw(s, shape, "bfloat16") for s, shape in enumerate([(batch, height, width, c), (3, 3, c, o)]))
    check(lambda x, k: ops.conv3x3(x, k, padding), lambda x, k: lax_conv(x, k, padding), [x, kernel], dtype)


@settings(max_examples=12, deadline=None)
@given(
    batch=st.integers(1, 2),
    height=st.integers(1, 18),
    width=st.integers(1, 6),
    c=st.sampled_from([1, 8]),
    padding=st.sampled_from(["same", "valid"]),
)
def test_conv3x3_of_any_shape(batch, height, width, c, padding):
    if padding == "valid":
        height, width = height + 2, width + 2
    x, kernel = draw(0, (batch, height, width, c), "float32"), draw(1, (3, 3, c, 2), "float32")
    check(lambda x, k: ops.conv3x3(x, k, padding), lambda x, k: lax_conv(x, k, padding), [x, kernel], "float64")


def test_weight_gradient_is_summed_in_float32():
    """A bf16 sum of 4096 ones stops at 256."""
    x = jnp.ones((1, 64, 64, 8), "bfloat16")
    kernel = jnp.zeros((3, 3, 8, 2), "bfloat16")
    grad = jax.grad(lambda k: ops.conv3x3(x, k).astype("float32").sum())(kernel)
    assert float(grad[1, 1, 0, 0]) == 4096


def test_conv3x3_under_vmap_and_jit():
    x, kernels = draw(0, (3, 2, 9, 8, 8), "float32"), draw(1, (3, 3, 3, 8, 4), "float32")

    def loss(conv):
        return lambda x, k: jnp.sin(conv(x, k, "same")).sum()

    got = jax.jit(jax.vmap(jax.grad(loss(ops.conv3x3), (0, 1))))(x, kernels)
    for i in range(3):
        for a, b in zip(got, jax.grad(loss(lax_conv), (0, 1))(x[i], kernels[i]), strict=True):
            assert_close(a[i], b, 1e-4)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_gradients_on_a_sharded_batch_equal_one_device():
    with jax.enable_x64(True):
        x = draw(0, (8, 16, 12, 8), "float64")
        kernels = draw(1, (3, 3, 8, 8), "float64"), draw(2, (2, 2, 8, 4), "float64")

        def loss(kernels, x):
            y = ops.max_pool2(jnp.sin(ops.conv3x3(x, kernels[0])))
            return jnp.square(ops.up_conv2(y, kernels[1])).sum()

        expected = jax.grad(loss, (0, 1))(kernels, x)
        mesh = Mesh(np.asarray(jax.devices()[:8]), ("data",))
        rows, everywhere = (NamedSharding(mesh, spec) for spec in (PartitionSpec("data"), PartitionSpec()))
        step = jax.jit(jax.grad(loss, (0, 1)), in_shardings=(everywhere, rows), out_shardings=(everywhere, rows))
        arguments = jax.device_put(kernels, everywhere), jax.device_put(x, rows)
        jax.tree.map(lambda a, b: assert_close(a, b, 1e-12), step(*arguments), expected)
        compiled = step.lower(*arguments).compile().as_text()
        assert "all-gather" not in compiled  # each device keeps to its own rows


@pytest.mark.parametrize("shape", [(1, 2, 8, 1), (2, 8, 2, 3)])
def test_conv3x3_refuses_what_leaves_no_pixel(shape):
    with pytest.raises(ValueError, match="at least 3x3"):
        ops.conv3x3(jnp.zeros(shape), jnp.zeros((3, 3, shape[-1], 2)), "valid")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", [(2, 6, 4, 3), (1, 2, 2, 1), (1, 8, 10, 5)])
def test_max_pool2_equals_reduce_window(shape, dtype):
    values = np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape)  # no ties
    check(ops.max_pool2, lax_max_pool, [jnp.asarray(values, "float32")], dtype)


def test_max_pool2_passes_the_whole_gradient_where_values_tie():
    grad = jax.grad(lambda x: ops.max_pool2(x).sum())(jnp.ones((1, 4, 4, 1)))
    np.testing.assert_allclose(grad.reshape(2, 2, 2, 2).sum((1, 3)), np.ones((2, 2)))


@pytest.mark.parametrize("shape", [(1, 3, 4, 1), (1, 4, 5, 1)])
def test_max_pool2_refuses_odd_sides(shape):
    with pytest.raises(ValueError, match="even"):
        ops.max_pool2(jnp.zeros(shape))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize(("batch", "height", "width", "c", "o"), [(2, 3, 5, 4, 3), (1, 1, 1, 1, 1), (1, 6, 2, 8, 4)])
def test_up_conv2_equals_conv_transpose(batch, height, width, c, o, dtype):
    x, kernel = draw(0, (batch, height, width, c), "bfloat16"), draw(1, (2, 2, c, o), "bfloat16")
    check(ops.up_conv2, lax_up_conv, [x, kernel], dtype)


def test_up_conv2_puts_each_kernel_corner_in_its_place():
    x, kernel = draw(0, (1, 2, 3, 2), "float32"), draw(1, (2, 2, 2, 5), "float32")
    out = ops.up_conv2(x, kernel)
    for a in range(2):
        for b in range(2):
            np.testing.assert_allclose(out[0, 2 + a, 4 + b], x[0, 1, 2] @ kernel[a, b], rtol=1e-5)
