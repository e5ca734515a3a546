"""Writes text with a language model: python -m experiments.sample --workdir runs/source_text --prompt "def " """

from experiments import launch

# isort: split
import sys
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.run import Run, load_run
from experiments.arguments import parser
from lstm import decode
from lstm.data import text as texts
from lstm.tasks.language import open_run
from lstm.tasks.language_pages import may_be_drawn


def main(argv: list[str]) -> int:
    arguments = parser(
        "experiments.sample", "Writes text with a run's best checkpoint, to the terminal as it is drawn."
    )
    arguments.add_argument("--workdir", required=True, type=Path, help="the run folder")
    prompts = arguments.add_mutually_exclusive_group()
    prompts.add_argument("--prompt", default="", metavar="TEXT", help="what the text begins with")
    prompts.add_argument("--prompt_file", type=Path, metavar="FILE", help="the same from a UTF-8 file")
    arguments.add_argument("--length", type=int, default=500, help="characters or words to write (500)")
    arguments.add_argument(
        "--temperature", type=float, default=0.8, help="below 1 safer, above 1 wilder, 0 the likeliest"
    )
    arguments.add_argument("--top_k", type=int, default=0, help="draw from the k likeliest alone; 0: all")
    arguments.add_argument(
        "--top_p", type=float, default=1.0, help="draw from the likeliest that have this probability"
    )
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--number", type=int, default=1, help="texts to write; several are shown when all are done")
    flags = arguments.parse_args(argv)
    if flags.number < 1:
        raise InputError(f"--number {flags.number}: use 1 or more")
    prompt, name = flags.prompt, "--prompt"
    if flags.prompt_file:
        prompt, name = texts.read_text(flags.prompt_file), str(flags.prompt_file)
    how = {key: getattr(flags, key) for key in ("length", "temperature", "top_k", "top_p", "seed")}
    chunks = write(load_run(flags.workdir), prompt, name, flags.number, **how)
    if flags.number == 1:
        for (chunk,) in chunks:
            sys.stdout.write(chunk)
            sys.stdout.flush()
        print()
        return 0
    for number, parts in enumerate(zip(*chunks, strict=True), 1):
        print(f"--- {number} ---\n{''.join(parts)}")
    return 0


def write(run: Run, prompt: str, name: str, number: int, **how):
    """`number` texts, chunk by chunk, the prompt first: each time a list of one str a text. `how`: as in `generate`.
    Raises InputError where the run is of another task, and, with `name`, for characters that the model has not seen."""
    if run.config.task.name != "language":
        raise InputError(f"--workdir {run.workdir}: its task, {run.config.task.name!r}, does not write text")
    net, vocabulary = open_run(run.config)
    tokens = texts.encode(vocabulary, prompt, name) if prompt else np.zeros(0, np.int32)
    tokens = tokens if len(tokens) else [vocabulary.start]
    decode.check(**{key: value for key, value in how.items() if key != "seed"})
    yield [prompt + (" " if vocabulary.level == "words" and prompt and not prompt[-1].isspace() else "")] * number
    for chunk in decode.generate(
        net, run.params, [tokens] * number, allowed=may_be_drawn(vocabulary, net.vocabulary), **how
    ):
        yield [texts.decode(vocabulary, row) for row in chunk]


if __name__ == "__main__":
    launch.run(main)
