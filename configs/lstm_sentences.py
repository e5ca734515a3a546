"""The lecture's example: who is meant, and what is it that she has a passion for? Made passages whose truth is known.

    python -m experiments.train  --config configs/lstm_sentences.py     --workdir runs/sentences/lstm
    python -m experiments.train  --config configs/lstm_sentences.py:rnn --workdir runs/sentences/rnn
    python -m experiments.report --workdir runs/sentences/lstm     # gates, memories, gradients, probes; both nets

Variants: rnn (the plain recurrent net with the same budget and its own best learning rate), forget0 (forget bias 0),
smoke.
docs/lecture.md says what the pages show.
"""

from ml_collections import ConfigDict

from common.config import variants
from configs.run_defaults import add_run


def get_config(variant: str = ""):
    names = variants(variant, {"rnn", "forget0", "smoke"})
    config = ConfigDict()
    config.seed = 0
    config.task = ConfigDict({"name": "sentences"})
    config.task.embedding = 3.0  # words start from U(-this, this): far apart, so that they leave a trace in the memory
    config.task.answer_weight = 10.0  # of the answers in the training loss; the other words count 1

    config.model = ConfigDict()  # the fields of lstm.model.LanguageModel, but the vocabulary
    config.model.embed = 64
    config.model.hidden = [128]
    config.model.cell = "lstm"
    config.model.options = ConfigDict({"forget_bias": 1.0})
    config.model.dtype = "float32"
    config.model.implementation = "auto"

    config.data = ConfigDict()
    config.data.batch_size = 32  # passages
    config.data.eval_batch_size = 100
    config.data.length = 96  # words, at most
    config.data.passages = 1_000_000  # different ones to train on; made as they are read
    config.data.eval_passages = 1000
    config.data.seed = 0  # of the passages, not of the run
    config.data.threads = 1
    config.data.cache_mb = 0

    config.augment = ConfigDict()

    config.optimizer = ConfigDict()  # the arguments of common.optimizer.make_optimizer
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "2%"
    config.optimizer.clip = 1.0

    add_run(config)
    config.loop.duration = "1500 steps"
    config.loop.log = "50 steps"
    config.loop.eval = "10%"
    config.loop.save = "10%"

    if "rnn" in names:
        config.model.cell = "rnn"
        config.model.options = ConfigDict()
    if "forget0" in names:
        config.model.options = ConfigDict({"forget_bias": 0.0})
    if "smoke" in names:
        config.model.hidden = [16]
        config.model.embed = 8
        config.data.batch_size = 8
        config.data.eval_batch_size = 8
        config.data.eval_passages = 16
        config.loop.duration = "20 steps"
        config.loop.log = "5 steps"
        config.loop.eval = "10 steps"
        config.loop.save = "10 steps"
    return config
