"""Your own text, by characters; `:words` by words.

    python -m experiments.train --config configs/lstm_text.py --workdir runs/mine --config.data.file /path/to/book.txt
    python -m experiments.sample --workdir runs/mine --prompt "It was"

A file (UTF-8, or NAME.gz), a folder of them, or a pattern like 'books/*.txt'. docs/language.md has every key.
"""

from common.config import variants
from configs.lstm_defaults import language, smoke_language


def get_config(variant: str = ""):
    names = variants(variant, {"smoke", "words"})
    config = language()
    config.model.hidden = [384, 384]
    config.model.dropout = 0.2
    config.model.output_dropout = 0.2
    config.data.file = ""  # below config.data.root, or absolute
    config.data.pattern = "*.txt"  # which files of a folder
    config.data.validation = 0.05  # the share of the text held out, from its end
    config.data.test = 0.05
    config.data.validation_file = ""  # or files of their own
    config.data.test_file = ""
    config.data.unknown = True  # a held-out part may have characters that the training part has not
    config.loop.duration = "20 epochs"
    if "words" in names:
        config.data.level = "words"
        config.data.max_words = 10000
        config.model.embed = 256
        config.model.hidden = [256, 256]
        config.model.tied = True
    config.data.restart = 0.02
    return smoke_language(config) if "smoke" in names else config
