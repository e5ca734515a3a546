"""Random settings of a character LSTM on Python's own source: which matter?

python -m experiments.sweep --sweep configs/sweeps/text_random.py --workdir runs/text_random
"""

from common.config import variants
from common.sweeps import Sweep, log_uniform, random, uniform

BASE = "configs/lstm_source_text.py"
SPACE = {
    "optimizer.learning_rate": log_uniform(1e-3, 3e-2),
    "optimizer.clip": log_uniform(0.1, 10.0),
    "model.output_dropout": uniform(0.0, 0.5),
}


def get_sweep(variant: str = "") -> Sweep:
    smoke = "smoke" in variants(variant, {"smoke"})
    return Sweep(f"{BASE}:smoke", random(4, 0, SPACE)) if smoke else Sweep(BASE, random(24, 0, SPACE))
