"""LLNL's Atlas log: 43,778 jobs of 131 users, November 2006 to June 2007; how the last 20 % end. docs/jobs.md has more.

    DATA_ROOT=... python -m experiments.train --config configs/lstm_jobs_atlas.py --workdir runs/atlas

Trains on all of the first 80 % for a fixed number of epochs. `:select` holds the last tenth of all jobs before the test part out: the
settings were found by that, and the temperature.
"""

from common.config import variants
from configs.lstm_jobs import get_config as jobs
from configs.lstm_jobs import smoke


def get_config(variant: str = ""):
    names = variants(variant, {"select", "smoke"})
    config = jobs("log")
    config.data.log = "hpc-job-logs/LLNL-Atlas-2006-2.1-cln.swf.gz"
    config.task.per_node = 8
    config.data.known_after = 5
    config.model.hidden = [192]
    config.model.width = config.model.head = 192
    config.model.input_dropout = config.model.output_dropout = config.model.identity_dropout = 0.3
    config.loop.duration = "8 epochs"
    if "select" in names:
        config.loop.score_split = "validation"
    else:
        config.data.train_on = "train+validation"
        config.task.temperature = 1.0  # that of `:select`
        config.loop.eval = "100%"  # of the training part: only the last checkpoint counts
        config.loop.save = "50%"
        config.loop.eval_split = "train"
    return smoke(config) if "smoke" in names else config
