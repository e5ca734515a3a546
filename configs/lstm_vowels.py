"""Japanese Vowels: which of nine men says /ae/, from 12 cepstrum channels of 7 to 29 steps (Kudo et al. 1999).

    DATA_ROOT=... python -m experiments.train --config configs/lstm_vowels.py --workdir runs/vowels

Trains on all 270 training utterances for a fixed number of steps; nothing is chosen by the test part. `:select` holds the
last fifth of each speaker's utterances out: the settings were found by that. docs/series.md has more.
"""

from common.config import variants
from configs.lstm_classify_defaults import series, smoke


def get_config(variant: str = ""):
    names = variants(variant, {"smoke", "select"})
    config = series()
    config.task.class_names = [str(speaker) for speaker in range(1, 10)]
    config.model.channels = 12
    config.model.hidden = [128]
    config.model.pooling = "mean"
    config.model.input_dropout = 0.1
    config.model.output_dropout = 0.5
    config.data.source = "series"
    config.data.train = "japanese-vowels/JapaneseVowels_TRAIN.ts.gz"
    config.data.validation = ""
    config.data.test = "japanese-vowels/JapaneseVowels_TEST.ts.gz"
    config.data.held_out = 0.0
    config.data.held_out_from = "end"
    config.data.max_length = 32
    config.data.batch_size = 30
    config.data.eval_batch_size = 90
    config.loop.duration = "100 epochs"
    config.loop.eval = "100%"  # of the training part: only the last checkpoint counts
    config.loop.save = "50%"
    config.loop.eval_split = "train"
    config.loop.best = "min loss"
    if "select" in names:
        config.data.held_out = 0.2
        config.loop.eval = "10%"
        config.loop.eval_split = "validation"
        config.loop.score_split = "validation"
    return smoke(config, "made_series") if "smoke" in names else config
