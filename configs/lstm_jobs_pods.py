"""Pods of Alibaba's GPU cluster (2023): 8,152 in 149 days, which failed and which did not; a CSV without users.

Processors are thousandths of a GPU, of one GPU (num_gpu is not read); pods without a GPU count like the pod before.

    DATA_ROOT=... python -m experiments.train --config configs/lstm_jobs_pods.py --workdir runs/pods

'Running' and 'Pending' are states at the end of the trace: failed against the rest is what the log can tell. docs/jobs.md.
"""

from ml_collections import ConfigDict

from common.config import variants
from configs.lstm_jobs import get_config as jobs
from configs.lstm_jobs import smoke


def get_config(variant: str = ""):
    names = variants(variant, {"smoke"})
    config = jobs("log")
    config.task.class_names = ["other", "failed"]
    config.data.log = "hpc-job-logs/alibaba-gpu-2023-openb_pod_list_default.csv.gz"
    config.data.columns.update(
        id="name",
        submit="creation_time",
        start="scheduled_time",
        end="deletion_time",
        status="pod_phase",
        processors="gpu_milli",
        memory="memory_mib",
        program="cpu_milli",  # pods of one request are, most likely, of one kind
        queue="qos",
        partition="gpu_spec",
    )
    config.data.statuses = ConfigDict(
        {"Failed": "failed", "Succeeded": "other", "Running": "other", "Pending": "other"}
    )
    config.task.per_node = 1000  # node-hours are hours of a whole GPU
    config.data.stream = "queue"
    config.data.batch_size, config.data.bptt = 8, 32
    config.data.known_after = 5
    config.model.input_dropout = config.model.output_dropout = config.model.identity_dropout = 0.3
    return smoke(config) if "smoke" in names else config
