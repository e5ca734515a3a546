"""Turns the data of a config once into a TFDS data set (array_record), for sets too big or slow to read as files.

    python -m experiments.prepare --config configs/unet_folder.py --name my_set

Images are stored as they are, before normalisation: integers of 8 bits as PNG, other bands as compressed arrays.
"""

from experiments import launch

# isort: split
from pathlib import Path

from common import tfds_sets
from common.errors import InputError
from common.task import Source
from experiments.arguments import parse_with_config, parser
from experiments.tasks import make_task


class Stored:
    """A source's examples as they are stored: unnormalised where it can give them so, and with their names."""

    def __init__(self, source: Source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        if hasattr(self.source, "read"):
            example = dict(zip(("image", "label"), self.source.read(index), strict=True))
        else:
            example = dict(self.source[index])
        return {**example, "name": self.source.name(index)} if hasattr(self.source, "name") else example


def main(argv: list[str]) -> int:
    arguments = parser("experiments.prepare", "Turns the data of a config into a TFDS data set on disk.")
    arguments.add_argument("--name", required=True, help="name of the data set: small letters, digits and _")
    arguments.add_argument("--output", type=Path, help="folder of TFDS data sets (default: config.data.root)")
    arguments.add_argument("--splits", default="train,validation,test", metavar="A,B", help="which splits to write")
    flags, config = parse_with_config(arguments, argv)
    output = flags.output or Path(config.data.root)
    names = [name.strip() for name in flags.splits.split(",") if name.strip()]
    if not names:
        arguments.error("--splits: name one at least")
    task = make_task(config)
    splits = {}
    for name in names:
        try:
            splits[name] = Stored(task.train_source(name))
        except InputError as error:
            raise InputError(f"{error} (of --splits {','.join(names)})") from error
    folder = tfds_sets.prepare(splits, flags.name, output, about=f"from {flags.config}")
    counts = ", ".join(f"{len(source)} {name}" for name, source in splits.items())
    print(f"{folder}: {counts}")
    print(
        f"read it with --config configs/unet_folder.py:tfds --config.data.source=tfds:{flags.name} --config.data.root={output}"
    )
    return 0


if __name__ == "__main__":
    launch.run(main)
