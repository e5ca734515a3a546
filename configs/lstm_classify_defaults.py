"""What the configs of sequence classification share, each key with its meaning; the rest is in configs/lstm_defaults.py."""

from ml_collections import ConfigDict

from configs.lstm_defaults import defaults


def classify() -> ConfigDict:
    """The keys of texts and series alike."""
    config = defaults()
    config.task.name = "classify"
    config.task.class_names = ["negative", "positive"]  # as the labels of the data call them
    config.task.label_smoothing = 0.0

    config.model.hidden = [128]
    config.model.bidirectional = True
    config.model.pooling = "max"  # or last, mean, attention, mean_max, concat (last, mean and max)
    config.model.attention = 0  # units of attention pooling; 0: as many as the outputs have
    config.model.word_dropout = 0.0  # of steps: the stack reads them as 0
    config.model.input_dropout = 0.0  # of the embedded words, or of the values
    config.model.output_dropout = 0.0  # of what the pooling gives

    config.data.max_length = 256  # steps, at most
    config.data.buckets = []  # lengths that batches of shorter sequences are padded to
    config.data.keep = "end"  # of a longer sequence: start, end or both; "": it is an error

    config.loop.eval = "1 epochs"
    config.loop.save = "1 epochs"
    config.loop.best = "max accuracy"
    return config


def texts() -> ConfigDict:
    """The defaults of text classification."""
    config = classify()
    config.model.vocabulary = 20000  # entries of the embedding
    config.model.embed = 128
    config.model.embedding_dropout = 0.0  # of whole words, the same in every row of a batch
    config.data.max_words = 0  # of the training part's words, the most frequent; 0: model.vocabulary
    config.data.vocabulary_file = ""  # an entry a line, below root, in place of the training part's words
    return config


def series() -> ConfigDict:
    """The defaults of series classification."""
    config = classify()
    config.model.channels = 1  # values a step
    config.data.keep = ""
    config.data.standardise = True  # channels to mean 0 and deviation 1, by the training part
    return config


def smoke(config: ConfigDict, source: str) -> ConfigDict:
    """The same experiment in seconds on any machine: made data, a tiny net, a few steps."""
    own = ("root", "batch_size", "eval_batch_size", "threads", "keep", "max_words", "vocabulary_file", "standardise")
    config.data = ConfigDict({name: config.data[name] for name in own if name in config.data})
    config.data.source = source
    config.data.batch_size = 16
    config.data.eval_batch_size = 32
    config.data.max_length = 32
    config.data.buckets = [12, 20]
    config.model.hidden = [16]
    if source == "made":
        config.task.class_names = ["negative", "positive"]
        config.model.vocabulary = 64
        config.model.embed = 16
        config.data.vocabulary_file = ""
        config.data.max_words = 0
    else:
        config.task.class_names = ["slow", "quick", "quicker"]
        config.model.channels = 2
    for name in ("word_dropout", "input_dropout", "dropout", "output_dropout", "embedding_dropout", "weight_drop"):
        if name in config.model:
            config.model[name] = 0.0
    config.optimizer.learning_rate = 1e-2
    config.optimizer.ema = 0.0
    config.loop.duration = "8 epochs"
    config.loop.eval = "25%"
    config.loop.save = "25%"
    config.loop.eval_split = "validation"
    config.loop.score_split = "test"
    config.loop.best = "max accuracy"
    return config
