"""The worker of `bench lstm` for this project's recurrence and for its peers on JAX: Flax and Keras."""

from experiments import launch

# isort: split
import functools
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.bench_lstm import IMPLEMENTATIONS
from experiments.workers import serve
from lstm import auto
from lstm.cells import LSTM
from lstm.recurrence import recurrence


def ours(shape, x, implementation="auto"):
    cell = LSTM(shape[3])
    needs = dict.fromkeys(("mask", "resets", "recurrent_mask", "zoneout"), False)
    choice = auto.choose(cell, shape, needs)
    run = lambda params, x: recurrence(cell, params, x, implementation=implementation)[0]
    facts = {"implementation": choice.implementation, "why": choice.why} if implementation == "auto" else {}
    return run, cell.init(jax.random.key(0), shape[2]), facts


def flax(shape, x, cell=nn.LSTMCell):
    layer = nn.RNN(cell(shape[3]))
    return layer.apply, jax.jit(layer.init)(jax.random.key(0), x), {}


def keras(shape, x):
    os.environ["KERAS_BACKEND"] = "jax"
    import keras as peer

    layer = peer.layers.LSTM(shape[3], return_sequences=True)
    layer.build(x.shape)
    state = [variable.value for variable in layer.non_trainable_variables]

    def run(params, x):
        return layer.stateless_call(params, state, x)[0]

    return run, [v.value for v in layer.trainable_variables], {"versions": {"keras": peer.__version__}}


CANDIDATES = {
    "ours": ours,
    "flax": flax,
    "flax_optimized": lambda shape, x: flax(shape, x, nn.OptimizedLSTMCell),
    "keras": keras,
} | {name: functools.partial(ours, implementation=name) for name in IMPLEMENTATIONS}


def main(argv: list[str]) -> int:
    candidate, shape = argv[0], tuple(int(n) for n in argv[1].split(","))
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=shape[:3]), "float32")
    grad = jnp.asarray(random.normal(size=(*shape[:2], shape[3])), "float32")
    run, params, facts = CANDIDATES[candidate](shape, x)

    def backward(params, x, grad):
        value, pull = jax.vjp(run, params, x)
        return value, pull(grad)

    programs, seconds = {}, {}
    for name, function, arguments in (
        ("forward", run, (params, x)),
        ("forward + backward", backward, (params, x, grad)),
    ):
        begin = time.perf_counter()
        program = jax.jit(function).lower(*arguments).compile()
        seconds[name] = time.perf_counter() - begin
        programs[name] = lambda program=program, arguments=arguments: jax.block_until_ready(program(*arguments))
    parameters = sum(p.size for p in jax.tree.leaves(params))
    device = jax.devices()[0].device_kind
    serve({"device": device, "parameters": parameters, "compile_seconds": seconds, **facts}, programs)
    return 0


if __name__ == "__main__":
    launch.run(main)
