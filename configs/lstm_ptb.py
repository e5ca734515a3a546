"""Penn Treebank by words (Mikolov's version): Zaremba et al. 2014 (arXiv 1409.2329) and AWD-LSTM (Merity et al. 2018, arXiv
1708.02182).

    DATA_ROOT=... python -m experiments.train --config configs/lstm_ptb.py --workdir runs/ptb               2 x 200, 2 cores
    DATA_ROOT=... python -m experiments.train --config configs/lstm_ptb.py:zaremba --workdir runs/ptb_zaremba  the paper's
    DATA_ROOT=... python -m experiments.train --config configs/lstm_ptb.py:medium --workdir runs/ptb_medium  2 x 650, a GPU
    DATA_ROOT=... python -m experiments.train --config configs/lstm_ptb.py:awd --workdir runs/ptb_awd        a GPU

Needs DATA_ROOT/ptb/ptb.{train,valid,test}.txt.gz (docs/language.md). Test perplexities of the papers: 114.5, 82.7, 58.8
(without fine-tuning).
"""

from common.config import variants
from configs.lstm_defaults import language, smoke_language


def get_config(variant: str = ""):
    names = variants(variant, {"smoke", "small", "zaremba", "medium", "awd"})
    config = language()
    config.task.eval_context = 256
    config.model.vocabulary = 10000
    config.data.source = "ptb"
    config.data.level = "words"
    config.data.batch_size = 20
    config.data.eval_batch_size = 4  # 768 x 4 words x 10,000 logits
    config.data.shift = False
    config.optimizer.name = "sgd"
    config.optimizer.warmup = "0 steps"
    config.loop.log = "100 steps"
    config.loop.eval = "1 epochs"
    config.loop.save = "1 epochs"
    if "awd" in names:
        awd(config)
    elif "medium" in names:
        zaremba(config, width=650, bptt=35, dropout=0.5, scale=0.05, epochs=39, hold=6, factor=1.2)
    elif "zaremba" in names:
        zaremba(config, width=200, bptt=20, dropout=0.0, scale=0.1, epochs=13, hold=4, factor=2.0)
    else:
        small(config)
    return smoke_language(config) if "smoke" in names else config


def small(config) -> None:
    """The paper's small net with what came after it: tied weights, a little drop-out, one smooth decay of the rate."""
    config.model.embed = 200
    config.model.hidden = [200, 200]
    config.model.tied = True
    for place in ("input_dropout", "dropout", "output_dropout"):
        config.model[place] = 0.2
    config.data.bptt = 35
    config.optimizer.learning_rate = 20.0
    config.optimizer.clip = 0.25
    config.loop.duration = "12 epochs"


def zaremba(config, width: int, bptt: int, dropout: float, scale: float, epochs: int, hold: int, factor: float) -> None:
    config.model.embed = width
    config.model.hidden = [width, width]
    for place in ("input_dropout", "dropout", "output_dropout"):
        config.model[place] = dropout
    config.model.init_scale = scale
    config.data.bptt = bptt
    # The paper's rate of 1 and largest norm of 5 are for a loss that is a sum over the steps; here it is their mean.
    config.optimizer.learning_rate = 1.0 * bptt
    config.optimizer.clip = 5.0 / bptt
    config.optimizer.schedule = "decay"
    config.optimizer.hold = f"{hold} epochs"
    config.optimizer.decay_every = "1 epochs"
    config.optimizer.factor = factor
    config.loop.duration = f"{epochs} epochs"


def awd(config) -> None:
    """The command of salesforce/awd-lstm-lm's README for this data set."""
    config.task.ar = 2.0
    config.task.tar = 1.0
    config.model.embed = 400
    config.model.hidden = [1150, 1150, 400]
    config.model.tied = True
    config.model.variational = True
    config.model.embedding_dropout = 0.1
    config.model.input_dropout = 0.4
    config.model.dropout = 0.25
    config.model.output_dropout = 0.4
    config.model.weight_drop = 0.5
    config.data.bptt = 70
    config.data.variable_bptt = True
    config.optimizer.learning_rate = 30.0
    config.optimizer.schedule = "constant"
    config.optimizer.clip = 0.25
    config.optimizer.weight_decay = 1.2e-6
    config.optimizer.average_after = 5  # NT-ASGD
    config.loop.duration = "500 epochs"
