"""Will this job fail? From a scheduler's log in Standard Workload Format, sacct's or CSV; by default from a made one.

    python -m experiments.train --config configs/lstm_jobs.py --workdir runs/jobs
    python -m experiments.train --config configs/lstm_jobs.py:log --workdir runs/mine --config.data.root=. \\
        --config.data.log=mine.swf.gz

`:log` reads a log; `:smoke` is over in seconds. docs/jobs.md has more.
"""

from ml_collections import ConfigDict

from common.config import variants
from configs.lstm_defaults import defaults
from lstm.data.jobs import COLUMNS


def get_config(variant: str = "") -> ConfigDict:
    names = variants(variant, {"log", "smoke"})
    config = defaults()
    config.task.name = "jobs"
    config.task.class_names = ["completed", "failed", "cancelled"]
    config.task.bad = []  # what counts as a bad end; []: all but the first
    config.task.bins = 12  # of the run time, in which a job's chance to end is worked out
    config.task.first_bin = 10.0  # s: where the second bin begins
    config.task.last_bin = 86400.0  # s: where the last one does
    config.task.time_weight = 0.2  # of the nats of when a job ends, beside those of how
    config.task.temperature = 0.0  # that logits are divided by; 0: what is best on the validation part, after training
    config.task.eval_length = 512  # events that count in a window of evaluation
    config.task.eval_context = 512  # events before them that give them a history
    config.task.move_hours = 0.1  # what moving a job costs, in hours of its processors
    config.task.per_node = 1  # processors of a node

    config.model.hidden = [128]
    config.model.embed = 16
    config.model.width = 128  # of an event, as the stack reads it
    config.model.head = 128  # of the layer before the answers
    config.model.identity_dropout = 0.1  # share of users, programs ... that training reads as unseen
    config.model.input_dropout = 0.2
    config.model.output_dropout = 0.2

    config.data.source = "log" if "log" in names else "made"
    config.data.log = ""  # the log's file, below root
    config.data.kind = ""  # swf, sacct or csv; "": by the file's name
    config.data.columns = ConfigDict(dict.fromkeys(COLUMNS, ""))  # of a CSV: {field of a Job: its column}
    config.data.statuses = ConfigDict()  # {word of the log: class, "" for not ended}, over the usual ones
    config.data.users = 40  # of the made log
    config.data.jobs = 400_000
    config.data.made_seed = 0
    config.data.stream = "user"  # what sequences go by: user, group, program, queue, partition, or machine
    config.data.parts = [0.7, 0.8, 1.0]  # shares of the jobs, in time, before the ends of train, validation and test
    config.data.train_on = "train"  # or "train+validation"
    config.data.known_after = 20  # jobs of the training part from which on a name is known
    config.data.scratch = ""  # the folder of the encoded log's files; "": where the system keeps such
    config.data.batch_size = 32
    config.data.bptt = 64  # events of each row in a step
    config.data.restart = 0.02  # share of the rows whose state begins anew at a step

    config.optimizer.weight_decay = 1e-4
    config.loop.duration = "8 epochs"
    config.loop.eval = "10%"
    config.loop.save = "10%"
    return smoke(config) if "smoke" in names else config


def smoke(config: ConfigDict) -> ConfigDict:
    """The same experiment in seconds: a small made log, a tiny net, a few steps."""
    config.task.class_names = ["completed", "failed", "cancelled"]
    config.task.bad = []
    config.task.temperature = 0.0
    config.task.eval_length, config.task.eval_context = 64, 64
    config.data.source, config.data.users, config.data.jobs = "made", 8, 1200
    config.data.stream, config.data.train_on = "user", "train"
    config.data.parts = [0.6, 0.8, 1.0]
    config.data.batch_size, config.data.bptt = 8, 16
    config.model.hidden, config.model.embed, config.model.width, config.model.head = [16], 4, 16, 16
    config.optimizer.learning_rate = 1e-2
    config.loop.duration, config.loop.eval, config.loop.save = "40 steps", "50%", "50%"
    config.loop.log = "5 steps"
    config.loop.eval_split, config.loop.score_split = "validation", "test"
    return config
