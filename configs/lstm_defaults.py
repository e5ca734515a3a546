"""What the LSTM configs share, each key with its meaning. A config file starts from here and changes what it must."""

import os

from ml_collections import ConfigDict

from configs.run_defaults import add_run


def defaults() -> ConfigDict:
    """The sections and keys of every LSTM config; `language` adds those of a language model."""
    config = ConfigDict()
    config.seed = 0

    config.task = ConfigDict()
    config.task.name = ""

    config.model = ConfigDict()
    config.model.hidden = [256]  # units of each layer
    config.model.cell = "lstm"  # or peephole, cifg, layer_norm, gru, rnn, nig, nfg, nog, niaf, noaf, fgr
    config.model.dropout = 0.0  # between layers
    config.model.variational = False  # one drop-out mask a sequence, not one a step
    config.model.recurrent_dropout = 0.0  # of the output where it enters the recurrent matrix
    config.model.weight_drop = 0.0  # of the recurrent weights themselves
    config.model.implementation = "auto"  # or scan, hoisted, custom, cudnn
    config.model.chunk = 0  # steps between the states that the gradient keeps; 0: all are kept, -1: sqrt(steps) of them
    config.model.dtype = "float32"  # "bfloat16": of matrix products; state, parameters and losses stay float32

    config.data = ConfigDict()
    config.data.root = os.environ.get("DATA_ROOT", "data")
    config.data.batch_size = 32
    config.data.eval_batch_size = 0  # 0: batch_size
    config.data.threads = 2

    config.augment = ConfigDict()

    config.optimizer = ConfigDict()  # the arguments of common.optimizer.make_optimizer
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "2%"
    config.optimizer.hold = "0 steps"  # of schedule "decay": the full rate for so long,
    config.optimizer.decay_every = "1 epochs"  # then, and again each time this has passed,
    config.optimizer.factor = 2.0  # divided by it
    config.optimizer.clip = 1.0
    config.optimizer.weight_decay = 0.0
    config.optimizer.momentum = 0.0  # of sgd
    config.optimizer.b2 = 0.999  # of adam and adamw: how slowly the mean of squares forgets
    config.optimizer.ema = 0.0  # decay of an exponential average of the parameters, which is then evaluated
    config.optimizer.average_after = 0  # NT-ASGD: evaluations without a better score, then a mean is kept; 0: never
    config.optimizer.accumulate = 1

    add_run(config)
    config.loop.log = "20 steps"
    return config


def language() -> ConfigDict:
    """The defaults of a language model."""
    config = defaults()
    config.task.name = "language"
    config.task.eval_length = 512  # tokens that count in a window of evaluation
    config.task.eval_context = 128  # tokens before them that give them a history
    config.task.ar = 0.0  # weight of the mean square of the dropped outputs
    config.task.tar = 0.0  # weight of the mean square of the differences of successive outputs

    config.model.vocabulary = 0  # 0: as many entries as the text has
    config.model.embed = 128
    config.model.tied = False  # the embedding is the output matrix too: the last of `hidden` must be `embed`
    config.model.embedding_dropout = 0.0  # of whole entries of the embedding
    config.model.input_dropout = 0.0  # of the embedded tokens
    config.model.output_dropout = 0.0  # of the last layer's outputs
    config.model.init_scale = 0.0  # all parameters start in [-scale, scale]; 0: each kind as is usual
    config.model.learned_initial = False  # the first state is learned, not zero

    config.data.source = "files"  # or source_text, tiny_shakespeare, ptb, imdb, made
    config.data.level = "characters"  # or "words"
    config.data.alphabet = ""  # the characters of the vocabulary; empty: those of the training text
    config.data.unknown = False  # other characters become one entry of their own; False: they are an error
    config.data.max_words = 0  # entries at most, by frequency; 0: all
    config.data.bptt = 64  # tokens of each stream in a step
    config.data.shift = True  # each epoch cuts the streams elsewhere
    config.data.variable_bptt = False  # lengths drawn around bptt
    config.data.restart = 0.0  # share of the streams whose state begins anew at a step; for runs of few epochs, 0.02
    return config


def smoke_language(config: ConfigDict) -> ConfigDict:
    """The same experiment in seconds on any machine: made sentences, a tiny net, a few steps."""
    own = ("root", "batch_size", "eval_batch_size", "threads", "level", "bptt", "shift", "variable_bptt", "restart")
    config.data = ConfigDict({name: config.data[name] for name in own})
    config.data.source = "made"
    config.data.alphabet = ""
    config.data.batch_size = 16
    config.data.bptt = 24
    config.task.eval_length = 64
    config.task.eval_context = 32
    config.model.vocabulary = 0
    width = 48
    config.model.hidden = [width] * len(config.model.hidden)
    config.model.embed = width
    for name in ("dropout", "input_dropout", "output_dropout", "embedding_dropout", "weight_drop"):
        config.model[name] = min(config.model[name], 0.1)
    config.model.init_scale = 0.0
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-2
    config.optimizer.clip = 1.0
    config.loop.duration = "120 steps"
    config.loop.log = "10 steps"
    config.loop.eval = "60 steps"
    config.loop.save = "60 steps"
    config.loop.score_split = "test"
    return config
