"""IMDB's reviews by words, as a start for their classifier (Dai & Le 2015, arXiv 1511.01432; Howard & Ruder 2018).

    DATA_ROOT=... python -m experiments.train --config configs/lstm_reviews.py --workdir runs/reviews
    DATA_ROOT=... python -m experiments.train --config configs/lstm_sentiment.py:imdb,pretrained --workdir runs/imdb_pretrained \\
        --init_from runs/reviews --allow_missing

For a GPU: a step holds 82 million logits, about half a second on 2 cores, and an epoch has 1,400 steps. Same words, embedding and layers as
`lstm_sentiment.py:imdb,pretrained`.
"""

from common.config import variants
from configs.lstm_defaults import language, smoke_language


def get_config(variant: str = ""):
    names = variants(variant, {"smoke"})
    config = language()
    config.model.vocabulary = 20000
    config.model.embed = 128
    config.model.hidden = [256]
    config.model.embedding_dropout = 0.1
    config.model.input_dropout = 0.2
    config.model.output_dropout = 0.3
    config.data.source = "imdb"
    config.data.level = "words"
    config.data.max_words = 19999  # and <unk>: the 20,000 entries of the classifier
    config.data.batch_size = 64
    config.data.eval_batch_size = 8
    config.task.eval_length = 256
    config.task.eval_context = 64
    config.loop.duration = "4 epochs"
    config.loop.eval = "25%"
    config.loop.save = "5%"
    config.loop.score_split = "validation"
    return smoke_language(config) if "smoke" in names else config
