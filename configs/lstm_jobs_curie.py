"""A sample of CEA's Curie log: 29,998 jobs of 238 users in 23 days, of which 97 % completed. docs/jobs.md has more.

DATA_ROOT=... python -m experiments.train --config configs/lstm_jobs_curie.py --workdir runs/curie
"""

from common.config import variants
from configs.lstm_jobs import get_config as jobs
from configs.lstm_jobs import smoke


def get_config(variant: str = ""):
    names = variants(variant, {"smoke"})
    config = jobs("log")
    config.data.log = "hpc-job-logs/CEA-Curie-sample.swf.gz"
    config.task.per_node = 16
    config.data.known_after = 5
    config.model.input_dropout = config.model.output_dropout = config.model.identity_dropout = 0.3
    return smoke(config) if "smoke" in names else config
