"""The worker of `bench lstm` for PyTorch, run by the Python of .venv-peers: it imports nothing of this project."""

import json
import os
import sys
import time

import numpy as np
import torch

TURN = 0.02  # as in experiments/workers.py


def main(shape: str) -> None:
    batch, steps, width, hidden = (int(n) for n in shape.split(","))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    x = torch.tensor(random.normal(size=(batch, steps, width)), dtype=torch.float32, requires_grad=True)
    grad = torch.tensor(random.normal(size=(batch, steps, hidden)), dtype=torch.float32)
    model = torch.nn.LSTM(width, hidden, batch_first=True)

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def backward() -> None:
        for leaf in (x, *model.parameters()):
            leaf.grad = None
        model(x)[0].backward(grad)

    programs = {"forward": forward, "forward + backward": backward}
    versions = {"torch": torch.__version__, "python of torch": sys.version.split()[0]}
    parameters = sum(p.numel() for p in model.parameters()) - 4 * hidden  # it has a second bias, of no use
    print(json.dumps({"parameters": parameters, "compile_seconds": None, "versions": versions}), flush=True)
    repeats: dict[str, int] = {}
    for line in sys.stdin:
        name = line.strip()
        begin = time.perf_counter()
        for _ in range(repeats.get(name, 1)):
            programs[name]()
        seconds = (time.perf_counter() - begin) / repeats.get(name, 1)
        repeats[name] = max(1, round(TURN / max(seconds, 1e-6)))
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
