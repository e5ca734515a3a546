"""Walking forward through the Atlas log: train on what lies before, find the temperature on the next tenth, test on that after it.

python -m experiments.sweep --sweep configs/sweeps/jobs_walk_forward.py --workdir runs/atlas_walk
for run in runs/atlas_walk/*/; do python -m experiments.baselines --workdir $run; done
"""

from common.config import variants
from common.sweeps import Sweep, grid

BASE = "configs/lstm_jobs_atlas.py:select"


def get_sweep(variant: str = "") -> Sweep:
    if "smoke" in variants(variant, {"smoke"}):
        return Sweep(f"{BASE},smoke", grid({"data.parts": [[0.4, 0.6, 0.8], [0.6, 0.8, 1.0]]}))
    tenths = range(3, 9)
    parts = [[n / 10, (n + 1) / 10, (n + 2) / 10] for n in tenths]
    return Sweep(BASE, grid({"data.parts": parts, "loop.score_split": ["test"]}))
