"""Python's standard library by characters: the demo. Its text is on every machine that runs Python.

    python -m experiments.train --config configs/lstm_source_text.py --workdir runs/source_text
    python -m experiments.sample --workdir runs/source_text --prompt "def "

About 3 MB of modules (lstm.data.text.source_text); every 20th file is held out for validation, and another for the test.
"""

from common.config import variants
from configs.lstm_defaults import language, smoke_language

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))  # printable ASCII, whatever the version of Python


def get_config(variant: str = ""):
    names = variants(variant, {"smoke"})
    config = language()
    config.model.vocabulary = len(ALPHABET)
    config.model.embed = 64
    config.model.hidden = [384]
    config.model.dtype = "bfloat16"
    config.data.source = "source_text"
    config.data.alphabet = ALPHABET
    config.data.batch_size = 16
    config.data.restart = 0.02
    config.data.bptt = 64
    config.data.eval_batch_size = 32
    config.optimizer.learning_rate = 6e-3
    config.optimizer.b2 = 0.99
    config.loop.duration = "1800 steps"
    config.loop.eval = "25%"
    config.loop.save = "25%"
    return smoke_language(config) if "smoke" in names else config
