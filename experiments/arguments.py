"""The command line of every entry point: argparse, and `--config.a.b=VALUE` or `--config.a.b VALUE`."""

import argparse
import re
from collections.abc import Sequence

from ml_collections import ConfigDict

from common.config import load_config


def parser(module: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"python -m {module}", description=description, allow_abbrev=False)


def parse_with_config(arguments: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace, ConfigDict]:
    """The flags, and the config of `--config FILE[:variant]` with its overrides; a left-over word is wrong usage (exit 2).

    flags.overrides lists them, as ['--config.section.key=VALUE', ...].
    """
    arguments.add_argument(
        "--config", required=True, metavar="FILE[:VARIANT,...]", help="a config file, like configs/unet_brain.py:smoke"
    )
    arguments.epilog = "Any key of the config can be set: --config.section.key=VALUE"
    flags, rest = arguments.parse_known_args(argv)
    overrides = []
    words = iter(rest)
    for word in words:
        if not word.startswith("--config."):
            arguments.error(f"unrecognized argument: {word}")
        key, equals, value = word.removeprefix("--config.").partition("=")
        if not equals:
            value = next(words, None)
            if value is None or value.startswith("--"):
                arguments.error(f"{word}: a value is missing; write {word}=VALUE")
        overrides.append((key, value))
    flags.overrides = [f"--config.{key}={value}" for key, value in overrides]
    return flags, load_config(flags.config, overrides)


def add_processes(arguments: argparse.ArgumentParser) -> None:
    """The flags of `common.processes.start`; none is needed under SLURM, Open MPI 4, Kubernetes and on Cloud TPU."""
    group = arguments.add_argument_group("several processes, where no scheduler tells")
    group.add_argument("--coordinator", default="", metavar="HOST:PORT", help="of process 0")
    group.add_argument("--processes", type=int, default=0, metavar="N", help="how many there are")
    group.add_argument("--process", type=int, default=-1, metavar="I", help="which one this is, from 0")
    group.add_argument(
        "--start_timeout", type=int, default=300, metavar="S", help="seconds to wait for the others (300)"
    )


def join_processes(flags: argparse.Namespace) -> None:
    from common import processes  # brings jax, which --help does not need

    processes.start(flags.coordinator, flags.processes, flags.process, flags.start_timeout)


def seconds(text: str) -> float:
    """Seconds in a time as SLURM writes it: MINUTES, MM:SS, HH:MM:SS, D-HH:MM:SS. For argparse: raises its ArgumentTypeError."""
    if not re.fullmatch(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected MINUTES, MM:SS, HH:MM:SS or D-HH:MM:SS")
    days, dash, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if dash:
        hours, minutes, rest = (*parts, 0, 0)[:3]
    else:
        hours, minutes, rest = {1: (0, parts[0], 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest
