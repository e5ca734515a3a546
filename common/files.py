"""Files that come in and go out: what --input names, what it becomes, and text written aside before it gets its name."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from common.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Writes aside, then renames: the file is whole or not there."""
    aside = path.with_name(f".{path.name}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def find_inputs(paths: Iterable[str | Path], endings: Sequence[str], what: str) -> list[Path]:
    """The files among `paths`, and those in its folders that have one of `endings` (lower case), each once.

    Raises InputError for a path that is not there, and for a folder without such files, `what` they are called.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(
                p for p in path.iterdir() if p.name.lower().endswith(tuple(endings)) and not p.name.startswith(".")
            )
            if not files:
                raise InputError(f"--input {path}: no {what} in this folder; known endings: {', '.join(endings)}")
        elif path.is_file():
            files = [path]
        else:
            raise InputError(f"--input {path}: no such file or folder")
        for file in files:
            found.setdefault(file.resolve(), file)
    if not found:
        raise InputError(f"--input: no {what} given; name files, or folders of them")
    return list(found.values())


def plan_outputs(
    inputs: Sequence[Path], output: Path, ending: str, is_ours: Callable[[Path], bool]
) -> dict[Path, Path]:
    """{OUTPUT/NAME`ending`: the input that becomes it}; NAME is the input's without its ending (and .gz).

    Raises InputError where two inputs meet in one file, and for a file in the way that is not `is_ours`.
    """
    jobs: dict[Path, Path] = {}
    for path in inputs:
        target = output / f"{path.name.removesuffix('.gz').rsplit('.', 1)[0]}{ending}"
        if target in jobs:
            raise InputError(f"{jobs[target]} and {path} would both become {target}; rename one of them")
        if target.exists() and not is_ours(target):
            raise not_ours(target)
        jobs[target] = path
    return jobs


def not_ours(path: Path) -> InputError:
    return InputError(f"{path}: exists and was not made by predict; choose another --output")
