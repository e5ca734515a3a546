"""Predicts files: python -m experiments.predict --workdir runs/brain --input scans/ photo.png --output predictions"""

from experiments import launch

# isort: split
from pathlib import Path

from common.errors import InputError
from common.run import load_run
from experiments.arguments import parser


def main(argv: list[str]) -> int:
    arguments = parser("experiments.predict", "Predicts files, and folders of them, with a run's best checkpoint.")
    arguments.add_argument("--workdir", required=True, type=Path, help="the run folder")
    arguments.add_argument("--input", required=True, nargs="+", metavar="PATH", help="files, or folders of them")
    arguments.add_argument("--output", required=True, type=Path, help="the folder to write to; made if it is missing")
    arguments.add_argument("--probabilities", action="store_true", help="also write the probabilities, as NAME.npy")
    flags = arguments.parse_args(argv)
    run = load_run(flags.workdir)
    if run.task.predict_files is None:
        raise InputError(f"--workdir {flags.workdir}: its task, {run.config.task.name!r}, does not predict files")
    written = run.task.predict_files(run.apply, flags.input, flags.output, probabilities=flags.probabilities)
    for path in written:
        print(path)
    return 0


if __name__ == "__main__":
    launch.run(main)
