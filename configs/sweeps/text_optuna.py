"""The same space as text_random.py, searched by Optuna: later trials learn from earlier ones, and bad ones end early.

python -m experiments.sweep --sweep configs/sweeps/text_optuna.py --workdir runs/text_optuna
"""

from common.config import variants
from common.sweeps import Study, Sweep
from configs.sweeps.text_random import BASE, SPACE


def get_sweep(variant: str = "") -> Sweep:
    if "smoke" in variants(variant, {"smoke"}):
        return Sweep(f"{BASE}:smoke", study=Study(SPACE, trials=4))
    # More evaluations than the base config has, for the pruner to see.
    return Sweep(BASE, study=Study(SPACE, trials=40), common={"loop.eval": "10%"})
