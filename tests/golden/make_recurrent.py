"""Weights and outputs of the recurrent layers of PyTorch and Keras: what lstm.convert is held against.

`python tests/golden/make_recurrent.py`, where both are installed (KERAS_BACKEND=jax will do), writes recurrent.npz;
made with PyTorch 2.13.0 and Keras 3.15.1. Each case: the output y for the input x [2, 5, 3], and the weights in order.
"""

import os
import sys
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("recurrent.npz")
X = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)


def torch_cases():
    """{'torch/CASE/NAME': array} of nn.LSTM, nn.GRU and nn.RNN."""
    import torch

    torch.manual_seed(0)
    nets = {
        "lstm": torch.nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True),
        "projection": torch.nn.LSTM(3, 4, proj_size=2, batch_first=True),
        "gru": torch.nn.GRU(3, 4, batch_first=True),
        "rnn": torch.nn.RNN(3, 4, batch_first=True),
    }
    arrays = {}
    for case, net in nets.items():
        with torch.no_grad():
            arrays[f"torch/{case}/y"] = net(torch.from_numpy(X))[0].numpy()
        arrays |= {f"torch/{case}/{name}": x.numpy() for name, x in net.state_dict().items()}
    return arrays


def keras_cases():
    """{'keras/CASE/LAYER-PLACE': array} of keras.layers.LSTM, two layers of it and one in Bidirectional."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(1)
    arrays = {}
    one, two = (keras.layers.LSTM(width, return_sequences=True) for width in (4, 5))
    both = keras.layers.Bidirectional(keras.layers.LSTM(4, return_sequences=True))
    for case, layers in {"lstm": [one, two], "bidirectional": [both]}.items():
        net = keras.Sequential(layers)
        net(X)
        for n, layer in enumerate(net.layers):  # biases are born 0 and 1: make all of them count
            weights = [rng.normal(size=w.shape, scale=0.5).astype(np.float32) for w in layer.get_weights()]
            layer.set_weights(weights)
            arrays |= {f"keras/{case}/{n}-{place}": w for place, w in enumerate(weights)}
        arrays[f"keras/{case}/y"] = np.asarray(net(X))
    return arrays


if __name__ == "__main__":
    # One library at a time where they live in different environments: what the file has of the other is kept.
    made = dict(np.load(FILE)) if FILE.exists() else {}
    for name in sys.argv[1:] or ["torch", "keras"]:
        made |= {"torch": torch_cases, "keras": keras_cases}[name]()
    np.savez_compressed(FILE, **(made | {"x": X}))
