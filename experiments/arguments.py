"""The command line of every entry point: argparse, and `--config.a.b=VALUE` or `--config.a.b VALUE`."""

import argparse
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
