"""The worker of `bench unet` for PyTorch, run by the Python of .venv-peers: of this project it imports workers.py alone.

Memory format channels_last, bfloat16 by autocast, as PyTorch's own guides advise. It runs on a GPU where there is one,
in TensorFloat-32 where JAX does: unless JAX_DEFAULT_MATMUL_PRECISION is "highest".
"""

import os
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from experiments.workers import serve


class UNet(nn.Module):
    def __init__(self, classes: int = 2, width: int = 32, depth: int = 4):
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(double_conv(i, o) for i, o in zip([1, *widths[:-1]], widths, strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * o, o, 2, 2) for o in widths[:-1])
        self.merge = nn.ModuleList(double_conv(2 * o, o) for o in widths[:-1])
        self.logits = nn.Conv2d(width, classes, 1)

    def forward(self, x):
        skips = []
        for block in self.down[:-1]:
            skips.append(block(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.down[-1](x)
        for up, merge, skip in zip(self.up[::-1], self.merge[::-1], skips[::-1], strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.logits(x)


def double_conv(bands: int, features: int) -> nn.Sequential:
    parts = []
    for i in (bands, features):
        parts += [nn.Conv2d(i, features, 3, padding=1, bias=False), nn.BatchNorm2d(features), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts)


def prepare() -> tuple[str, str]:
    """Threads, seed, precision: as the candidates on JAX have them. The device, and its name as JAX gives it."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    exact = os.environ.get("JAX_DEFAULT_MATMUL_PRECISION") == "highest"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not exact
    torch.backends.cudnn.benchmark = True  # convolutions are tried out, as XLA does
    if os.environ.get("JAX_PLATFORMS") == "cpu" or not torch.cuda.is_available():
        return "cpu", "cpu"
    return "cuda", torch.cuda.get_device_name()


def main(dtype: str, batch: int, side: int, width: int) -> None:
    device, name = prepare()
    random = np.random.default_rng(0)
    image = torch.tensor(random.normal(size=(batch, 1, side, side)), dtype=torch.float32, device=device)
    image = image.contiguous(memory_format=torch.channels_last)
    label = torch.tensor(random.integers(0, 2, size=(batch, side, side)), device=device)
    model = UNet(width=width).to(device=device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    ready = {
        "device": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "compile_seconds": None,
        "versions": {"torch": torch.__version__, "python of torch": sys.version.split()[0]},
    }

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(image)
        loss = F.cross_entropy(logits.float(), label)
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the GPU

    serve(ready, {"step": step})


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
