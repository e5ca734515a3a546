import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from common.optimizer import make_optimizer


def duration(text, key):
    number, unit = text.split()
    return int(number) if unit == "steps" else int(number)


def make(steps=100, **options):
    return make_optimizer(steps=steps, duration=duration, **options)


def first_update(optimizer, params, grads):
    update, _ = optimizer.update(grads, optimizer.init(params), params)
    return update


def test_schedules_start_warm_up_and_end():
    for name in ("cosine", "linear", "polynomial"):
        schedule = make(learning_rate=2.0, schedule=name, warmup="10 steps", end=0.1).schedule
        assert float(schedule(0)) == 0
        assert np.isclose(schedule(5), 1.0)
        assert np.isclose(schedule(10), 2.0)
        assert np.isclose(schedule(100), 0.2, atol=1e-6)
    assert float(make(learning_rate=2.0, schedule="constant").schedule(77)) == 2.0


def test_zero_gradient_shrinks_kernels_and_leaves_biases():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zero = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    for name in ("sgd", "adamw"):
        update = first_update(make(name=name, learning_rate=0.1, weight_decay=0.5, schedule="constant"), params, zero)
        np.testing.assert_allclose(update["kernel"], -0.05, rtol=1e-6)
        np.testing.assert_array_equal(update["bias"], 0)


def test_clip_bounds_the_global_norm_before_the_direction():
    grads = {"a": jnp.full((3,), 10.0), "b": jnp.full((4,), -10.0)}
    update = first_update(
        make(name="sgd", momentum=0.0, learning_rate=1.0, clip=1.0, schedule="constant"), grads, grads
    )
    norm = np.sqrt(sum(float((u**2).sum()) for u in jax.tree.leaves(update)))
    assert np.isclose(norm, 1.0, rtol=1e-5)


def test_momentum_is_that_of_the_paper():
    # v <- m v + g; p <- p - lr v, over three steps of a constant gradient.
    optimizer = make(name="sgd", momentum=0.99, learning_rate=0.1, schedule="constant")
    params, grad = jnp.zeros(()), jnp.ones(())
    state = optimizer.init(params)
    for _ in range(3):
        update, state = optimizer.update(grad, state, params)
        params = params + update
    assert np.isclose(params, -0.1 * (1 + 1.99 + 1 + 0.99 * 1.99), rtol=1e-5)


def test_unknown_names():
    with pytest.raises(InputError, match="'admw'.*did you mean 'adamw'"):
        make(name="admw")
    with pytest.raises(InputError, match="'cosin'.*did you mean 'cosine'"):
        make(schedule="cosin")


def test_decay_holds_and_then_falls_in_stairs():
    # Zaremba et al. 2014, medium model: 1.0 for 6 epochs, then divided by 1.2 after each (here 10 steps an epoch).
    options = {"schedule": "decay", "hold": "60 steps", "decay_every": "10 steps", "factor": 1.2}
    schedule = make(name="sgd", momentum=0.0, learning_rate=1.0, **options).schedule
    for step in range(100):
        assert np.isclose(float(schedule(step)), 1.2 ** -max(step // 10 - 5, 0), rtol=1e-6)
    assert np.isclose(float(jax.jit(schedule)(jnp.int32(65))), 1 / 1.2, rtol=1e-6)
    warm = make(learning_rate=1.0, warmup="20 steps", **options).schedule
    assert np.isclose(warm(10), 0.5) and np.isclose(warm(59), 1.0) and np.isclose(warm(60), 1 / 1.2)  # from step 0
    late = make(learning_rate=1.0, warmup="70 steps", **options).schedule
    assert np.isclose(late(75), 1.2**-2) and np.isclose(late(35), 0.5)
    with pytest.raises(InputError, match="config.optimizer.factor=0.0"):
        make(schedule="decay", factor=0.0)
    with pytest.raises(InputError, match="'decoy'.*did you mean 'decay'"):
        make(schedule="decoy")
