"""Tiny Shakespeare by characters, nanoGPT's 90/10 split.

    DATA_ROOT=... python -m experiments.train --config configs/lstm_shakespeare.py --workdir runs/shakespeare

Needs DATA_ROOT/char-lm/tinyshakespeare.txt.gz (docs/language.md). There is no test part: the best checkpoint is chosen, and
scored, on the validation part, as everybody does who reports it.
"""

from common.config import variants
from configs.lstm_defaults import language, smoke_language

ALPHABET = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def get_config(variant: str = ""):
    names = variants(variant, {"smoke"})
    config = language()
    config.model.vocabulary = len(ALPHABET)
    config.model.embed = 128
    config.model.hidden = [512, 512]
    config.model.input_dropout = 0.05
    config.model.dropout = 0.35
    config.model.output_dropout = 0.3
    config.model.variational = True
    config.model.weight_drop = 0.3
    config.model.dtype = "bfloat16"
    config.data.source = "tiny_shakespeare"
    config.data.alphabet = ALPHABET
    config.data.batch_size = 64
    config.data.bptt = 64
    config.data.eval_batch_size = 32
    config.optimizer.learning_rate = 3e-3
    config.optimizer.b2 = 0.99
    config.optimizer.weight_decay = 1e-2
    config.optimizer.ema = 0.998
    config.loop.duration = "14 epochs"
    config.loop.eval = "1 epochs"
    config.loop.save = "1 epochs"
    config.loop.score_split = "validation"
    return smoke_language(config) if "smoke" in names else config
