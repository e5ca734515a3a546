"""Learning rate x seed of the brain U-Net: which rate is best, and how much of that is chance.

python -m experiments.sweep --sweep configs/sweeps/brain_rates.py --workdir runs/brain_rates
"""

from common.config import variants
from common.sweeps import Sweep, grid

BASE = "configs/unet_brain.py"


def get_sweep(variant: str = "") -> Sweep:
    if "smoke" in variants(variant, {"smoke"}):
        return Sweep(f"{BASE}:smoke", grid({"optimizer.learning_rate": [1e-3, 1e-2], "seed": range(2)}))
    return Sweep(BASE, grid({"optimizer.learning_rate": [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2], "seed": range(3)}))
