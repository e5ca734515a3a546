"""Two real experiments made small and put in float64: what tests of parity train, in a process (--config FILE:lstm) or in ours."""

from configs import lstm_source_text, unet_brain

STEPS = 50


def get_config(variant: str):
    return {"unet": unet, "lstm": lstm}[variant]()


def unet(norm: str = "batch"):
    config = unet_brain.get_config("smoke")
    config.model.update({"width": 8, "depth": 1, "dtype": "float64", "param_dtype": "float64", "norm": norm})
    config.model.dropout = 0.1
    config.data.update({"crop": [16, 16], "count": 16})
    config.task.update({"tile": 16, "overlap": 0})
    config.augment.update({"rotate": 0.0, "scale": 0.0})  # images are resampled in float32; flips are exact
    config.loop.duration = f"{STEPS} steps"
    return config


def lstm():
    """With its carry, drop-outs of all kinds, and streams that begin anew."""
    config = lstm_source_text.get_config("smoke")
    config.model.update({"hidden": [16, 16], "embed": 16, "dtype": "float64", "dropout": 0.2, "weight_drop": 0.1})
    config.model.update({"input_dropout": 0.1, "embedding_dropout": 0.1, "recurrent_dropout": 0.1})
    config.data.update({"bptt": 6, "batch_size": 8, "restart": 0.1})
    config.task.update({"eval_length": 64, "eval_context": 8})
    config.loop.duration = f"{STEPS} steps"
    return config
