"""LLNL's Atlas log: 43,778 jobs of 131 users, November 2006 to June 2007; how the last 20 % end. docs/jobs.md has more.

DATA_ROOT=... python -m experiments.train --config configs/lstm_jobs_atlas.py --workdir runs/atlas
"""

from common.config import variants
from configs.lstm_jobs import get_config as jobs
from configs.lstm_jobs import smoke


def get_config(variant: str = ""):
    names = variants(variant, {"smoke"})
    config = jobs("log")
    config.data.log = "hpc-job-logs/LLNL-Atlas-2006-2.1-cln.swf.gz"
    config.task.per_node = 8
    return smoke(config) if "smoke" in names else config
