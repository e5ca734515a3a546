import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from unet.model import UNet, output_size

PAPER = {"classes": 2, "bands": 1, "width": 64, "depth": 4, "padding": "valid", "norm": "none", "dropout": 0.5}


def count(tree):
    return sum(np.prod(x.shape) for x in jax.tree.leaves(tree))


def shapes(side=188, **options):
    net = UNet(**{**PAPER, **options})
    image = jax.ShapeDtypeStruct((1, side, side, net.bands), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), image)


def small(**options):
    return UNet(**{"classes": 2, "width": 4, "depth": 2, **options})


def test_paper_net_has_31030658_parameters():
    assert count(shapes()["params"]) == 31_030_658


def test_paper_net_maps_572_to_388():
    net = UNet(**PAPER)
    image = jax.ShapeDtypeStruct((1, 572, 572, 1), jnp.float32)
    assert jax.eval_shape(net.apply, shapes(), image).shape == (1, 388, 388, 2)


def test_legal_sides_are_12_mod_16_from_188():
    legal = []
    for side in range(1, 640):
        try:
            assert output_size(side, 4, "valid") == side - 184
            legal.append(side)
        except InputError:
            pass
    assert legal == list(range(188, 640, 16))


def test_illegal_side_names_the_nearest():
    with pytest.raises(InputError, match=r"500.*\[492, 508\]"):
        output_size(500, 4, "valid")


def test_paper_start_is_normal_with_std_sqrt_2_over_n():
    params = UNet(**{**PAPER, "width": 16}).init(jax.random.key(0), jnp.zeros((1, 188, 188, 1)))["params"]
    for name, layer in params.items():
        kernel = np.asarray(layer["kernel"])
        incoming = kernel.shape[-2] if name.endswith("_up") else np.prod(kernel.shape[:-1])
        assert abs(kernel.std() / np.sqrt(2 / incoming) - 1) < 4 / np.sqrt(2 * kernel.size), name
        assert not np.any(layer["bias"])
        # Normal, not truncated: about 4.6 % lie beyond two standard deviations.
        if kernel.size > 1e5:
            assert abs(np.mean(np.abs(kernel) > 2 * kernel.std()) - 0.0455) < 0.003


def test_valid_net_depends_on_exactly_its_window():
    # One output pixel of the valid net sees no padding: shifting the window of a larger image shifts the output.
    net = small(padding="valid", norm="none")
    image = jax.random.normal(jax.random.key(1), (1, 60, 60, 1))
    variables = net.init(jax.random.key(0), image[:, :44, :44])
    whole = net.apply(variables, image)
    part = net.apply(variables, image[:, 8:52, 4:48])
    np.testing.assert_allclose(part, whole[:, 8 : 8 + part.shape[1], 4 : 4 + part.shape[2]], atol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (1, 5), (3, 40)])
@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_same_net_takes_any_size(size, norm):
    net = small(norm=norm)
    image = jnp.ones((2, *size, 1))
    logits = net.apply(net.init(jax.random.key(0), image), image)
    assert logits.shape == (2, *size, 2)


def test_options_change_what_they_name():
    base = count(shapes(width=8)["params"])
    assert count(shapes(width=16)["params"]) > 3 * base
    assert count(shapes(width=8, depth=3)["params"]) < base / 3
    assert count(shapes(width=8, bands=4)["params"]) == base + 3 * 9 * 8
    assert count(shapes(width=8, classes=5)["params"]) == base + 3 * (8 + 1)
    assert count(shapes(width=8, up="resize")["params"]) > base
    assert "batch_stats" in shapes(width=8, norm="batch")
    assert "batch_stats" not in shapes(width=8, norm="group")
    assert any("norm" in name for name in shapes(width=8, norm="group")["params"])


def test_dropout_acts_in_training_only():
    image = jax.random.normal(jax.random.key(1), (1, 32, 32, 1))
    net = small(norm="none", dropout=0.5)
    variables = net.init(jax.random.key(0), image)
    plain = net.apply(variables, image)
    np.testing.assert_array_equal(plain, net.apply(variables, image))
    a, b = (net.apply(variables, image, train=True, rngs={"dropout": jax.random.key(k)}) for k in (1, 2))
    assert not np.allclose(a, b)
    assert not np.allclose(a, plain)


def test_logits_take_both_signs_and_are_float32():
    image = jax.random.normal(jax.random.key(1), (1, 32, 32, 1))
    net = small(dtype="bfloat16")
    variables = net.init(jax.random.key(0), image)
    logits = net.apply(variables, image)
    assert logits.dtype == jnp.float32
    assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(variables))
    assert float(logits.min()) < 0 < float(logits.max())
    exact = small().apply(variables, image)
    np.testing.assert_allclose(logits, exact, atol=0.1)


def test_wrong_bands_and_options_are_named():
    with pytest.raises(InputError, match="3 bands.*takes 1.*config.model.bands"):
        small().init(jax.random.key(0), jnp.ones((1, 16, 16, 3)))
    for option in ({"norm": "layer"}, {"padding": "full"}, {"up": "bilinear"}):
        (value,) = option.values()
        with pytest.raises(InputError, match=value):
            small(**option).init(jax.random.key(0), jnp.ones((1, 44, 44, 1)))
