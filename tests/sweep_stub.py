"""A training script for tests of sweeps that costs nothing: steps that take a moment, a checkpoint, metrics.jsonl, exit codes.

It fails where the sweep breaks its promise: another process trains in the same folder, or the run finishes twice.
"""

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

STEPS, MOMENT = 10, float(os.environ.get("STUB_MOMENT", "0.03"))  # seconds of a step


def main(argv):
    given = {}
    words = iter(argv)
    for word in words:
        key, _, value = word.partition("=")
        given[key] = value if "=" in word or word == "--quiet" else next(words)
    folder = Path(given["--workdir"])
    rate, seed = float(given["--config.optimizer.learning_rate"]), int(given.get("--config.seed", 0))
    assert given["--config.loop.score_split"] == "validation"
    if rate > 1:
        print("error: the loss at step 1 is nan", file=sys.stderr)
        return 1
    with (folder / "alone").open("a") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where somebody else is here
        return train(folder, rate, seed)


def train(folder, rate, seed):
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    checkpoint = folder / "step"
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    (folder / "run.json").write_text(json.dumps({"steps": STEPS}))
    if (folder / "finishes").exists():
        return 0  # killed before it could be marked
    for step in range(done + 1, STEPS + 1):
        time.sleep(MOMENT)
        line = {"step": step, "split": "validation", "loss": abs(rate - 0.1) + seed / 100 + 1 / step}
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        (folder / "aside").write_text(str(step))
        (folder / "aside").replace(checkpoint)
        if stopped:
            return 75
    (folder / "finishes").open("x").close()  # raises where it is there
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
