"""Your own labelled series: `.ts` (aeon, sktime) or a CSV table with a row a step.

    python -m experiments.train --config configs/lstm_series.py --workdir runs/mine --config.data.root /path/to/my/data \
        --config.data.train steps.csv --config.task.class_names "['walk','run']" --config.model.channels 3

docs/series.md has every key; experiments.check_data says what is wrong with the data before anything is trained.
"""

from common.config import variants
from configs.lstm_classify_defaults import series, smoke


def get_config(variant: str = ""):
    names = variants(variant, {"smoke"})
    config = series()
    config.task.class_names = ["0", "1"]
    config.model.pooling = "mean_max"
    config.model.output_dropout = 0.3
    config.data.source = "series"
    config.data.train = "train.ts"  # below root; .ts, .csv, .tsv, each also .gz
    config.data.validation = ""  # empty: `held_out` of the training file, class by class
    config.data.test = ""
    config.data.held_out = 0.15
    config.data.held_out_from = "spread"  # or "end": the last ones of each class, where neighbours are alike
    config.data.series = "series"  # columns of a table: which series a row belongs to,
    config.data.time = "time"  # what orders its rows (empty: as they stand),
    config.data.label = "label"  # its class,
    config.data.columns = []  # and the values; empty: all other columns
    config.loop.duration = "60 epochs"
    config.loop.eval = "5%"
    config.loop.save = "5%"
    return smoke(config, "made_series") if "smoke" in names else config
