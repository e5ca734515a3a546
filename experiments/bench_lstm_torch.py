"""The worker of `bench lstm` for PyTorch, run by the Python of .venv-peers: of this project it imports workers.py and
bench_torch.py alone. It runs on a GPU where there is one."""

import sys

import numpy as np
import torch

from experiments.bench_torch import prepare
from experiments.workers import serve


def main(shape: str) -> None:
    batch, steps, width, hidden = (int(n) for n in shape.split(","))
    device, name = prepare()
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    random = np.random.default_rng(0)
    x = torch.tensor(random.normal(size=(batch, steps, width)), dtype=torch.float32, device=device, requires_grad=True)
    grad = torch.tensor(random.normal(size=(batch, steps, hidden)), dtype=torch.float32, device=device)
    model = torch.nn.LSTM(width, hidden, batch_first=True).to(device)

    def forward() -> None:
        with torch.no_grad():
            model(x)
        wait()

    def backward() -> None:
        for leaf in (x, *model.parameters()):
            leaf.grad = None
        model(x)[0].backward(grad)
        wait()

    programs = {"forward": forward, "forward + backward": backward}
    versions = {"torch": torch.__version__, "python of torch": sys.version.split()[0]}
    parameters = sum(p.numel() for p in model.parameters()) - 4 * hidden  # it has a second bias, of no use
    serve({"device": name, "parameters": parameters, "compile_seconds": None, "versions": versions}, programs)


if __name__ == "__main__":
    main(sys.argv[1])
