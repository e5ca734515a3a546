"""What U-Net and LSTM share: config, data, mesh, state, steps, checkpoints, loop, log, report."""


def load_run(workdir, step=None):
    """Opens a run folder: `run = common.load_run("runs/brain"); run.predict(image)`. See common.run.load_run."""
    from common import run  # jax is imported on use, so that an entry point can set XLA's flags first

    return run.load_run(workdir, step)
