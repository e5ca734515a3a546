"""Sentiment, or any labels, of texts: your own CSV or TSV; `:sst2`, `:imdb`, `:tfds` for the sets everybody reports.

    python -m experiments.train --config configs/lstm_sentiment.py --workdir runs/mine --config.data.root /path/to/my/data \
        --config.data.train reviews.csv --config.task.class_names "['bad','good']"

docs/sentiment.md has every key; experiments.check_data says what is wrong with the data before anything is trained.
`:pretrained` (with imdb) is for parameters of a language model of the same reviews, --init_from RUN --allow_missing.
"""

from common.config import variants
from configs.lstm_classify_defaults import smoke, texts


def get_config(variant: str = ""):
    names = variants(variant, {"smoke", "sst2", "imdb", "tfds", "pretrained"})
    config = texts()
    config.model.pooling = "attention"
    config.model.word_dropout = 0.1
    config.model.input_dropout = 0.3
    config.model.output_dropout = 0.5
    config.data.batch_size = 32
    config.data.eval_batch_size = 128
    config.data.buckets = [32, 64, 128]
    if "sst2" in names:
        sst2(config)
    elif "imdb" in names or "tfds" in names:
        imdb(config)
        if "tfds" in names:
            from_tfds(config)
    else:
        from_files(config)
    if "pretrained" in names:
        pretrained(config)
    return smoke(config, "made") if "smoke" in names else config


def from_files(config) -> None:
    config.data.source = "table"
    config.data.train = "train.csv"  # below root; .csv, .tsv, each also .gz; the first line names the columns
    config.data.validation = ""  # empty: `held_out` of the training file, class by class
    config.data.test = ""
    config.data.text = "text"  # the columns
    config.data.label = "label"
    config.data.held_out = 0.1
    config.data.held_out_from = "spread"  # or "end": the last ones of each class, where neighbours are alike
    config.loop.duration = "8 epochs"


def sst2(config) -> None:
    """Whole sentences only, none of their phrases."""
    config.data.source = "sst2"
    config.data.max_length = 64
    config.data.buckets = [12, 20, 30, 40]
    strong(config)
    config.model.pooling = "mean"
    config.optimizer.weight_decay = 1.0
    config.loop.duration = "8 epochs"


def imdb(config) -> None:
    config.data.source = "imdb"
    config.data.max_length = 400
    config.data.buckets = [120, 160, 200, 250, 320]
    config.data.batch_size = 64
    config.data.held_out = 0.1
    config.model.dtype = "bfloat16"
    strong(config)
    config.optimizer.weight_decay = 2.0
    config.loop.duration = "5 epochs"


def strong(config) -> None:
    """What keeps a net without pre-trained vectors from learning its few thousand texts by heart: much drop-out, of whole
    words above all, and a decay that takes the vectors of rare words back to 0."""
    config.model.hidden = [64]
    config.model.pooling = "mean_max"
    config.model.embedding_dropout = 0.3
    config.model.word_dropout = 0.3
    config.model.input_dropout = 0.5
    config.optimizer.ema = 0.99


def from_tfds(config) -> None:
    config.data.source = "tfds:imdb_reviews"
    del config.data.held_out
    config.data.splits = {"train": "train[:90%]", "validation": "train[90%:]", "test": "test"}
    config.data.text_key = "text"
    config.data.label_key = "label"


def pretrained(config) -> None:
    """The stack of a language model: one way, the same widths, the same words (docs/sentiment.md)."""
    config.model.bidirectional = False
    config.model.pooling = "concat"
    config.model.hidden = [256]
