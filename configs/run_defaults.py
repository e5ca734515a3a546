"""The sections `loop` and `mesh` of every config, each key with its meaning: how a run goes, and on which devices."""

from ml_collections import ConfigDict


def add_run(config: ConfigDict) -> None:
    """Adds both. They are the sections that may differ when a run is started again."""
    config.loop = ConfigDict()  # the fields of common.plan.Loop
    config.loop.duration = "20 epochs"  # or steps, examples
    config.loop.log = "10 steps"
    config.loop.eval = "5%"
    config.loop.save = "5%"
    config.loop.eval_split = "validation"
    config.loop.score_split = "test"  # what is scored once, at the end
    config.loop.best = "min loss"  # the score of eval_split that chooses the best checkpoint
    config.loop.patience = 0  # evaluations without a better score after which the run ends; 0: never
    config.loop.keep = 2  # checkpoints beside the best one
    config.loop.driver = "jit"  # or "pmap": the devices of one process, states whole on each
    config.loop.stall = 1800  # seconds without a step after which a run of several processes ends; 0: never

    config.mesh = ConfigDict()  # the arguments of common.mesh.make_mesh
    config.mesh.devices = 0  # 0: all
    config.mesh.fsdp = 1  # devices over which parameters and optimiser state are split
    config.mesh.space = 1  # devices over which the height of an image is split
