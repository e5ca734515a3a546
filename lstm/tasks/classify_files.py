"""Files of texts or series in, a table of classes and probabilities out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError
from lstm.data.labelled import kind_of
from lstm.data.reviews import words
from lstm.tasks.classify_data import Reader

TEXT_ENDINGS = (".txt", ".csv", ".tsv")
SERIES_ENDINGS = (".ts", ".csv", ".tsv")


def predict_files(
    answer: Callable[[Sequence[Any]], list[dict[str, Any]]],
    reader: Reader,
    paths: Sequence[str | Path],
    output: str | Path,
    class_names: Sequence[str],
) -> list[Path]:
    """Classifies every text or series in files, and in folders of them; returns the paths written.

    a.txt (a text a line), a.csv, a.tsv or a.ts (each also with .gz) becomes OUTPUT/a.tsv: a line for each example with its
    place, the likeliest class, the probability of each class and, of texts, the beginning. Raises InputError, before
    anything is written, for what cannot be read, for two inputs of one name, and where a file in the way is not an
    earlier answer of the same classes.
    """
    head = "\t".join(["place", "class", *(f"p({name})" for name in class_names)])
    jobs: dict[Path, list[tuple[str, Any]]] = {}
    inputs = find(paths, TEXT_ENDINGS if reader.texts else SERIES_ENDINGS)
    for path in inputs:
        target = Path(output) / f"{path.name.removesuffix('.gz').rsplit('.', 1)[0]}.tsv"
        if target in jobs:
            raise InputError(f"{path}: another input becomes {target} too; rename one of them")
        if target.exists() and not target.read_text(errors="replace").startswith(head):
            raise InputError(f"{target}: exists and was not made by predict; choose another --output")
        jobs[target] = readable(reader, path)
    for target, rows in jobs.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        lines = [head + ("\ttext" if reader.texts else "")]
        for (place, item), found in zip(rows, answer([item for _, item in rows]), strict=True):
            chances = found["probabilities"]
            shown = [" ".join(item.split())] if reader.texts else []
            lines.append("\t".join([place, class_names[int(chances.argmax())], *(f"{p:.4f}" for p in chances), *shown]))
        aside = target.with_name(f".{target.name}.partial")
        aside.write_text("\n".join(lines) + "\n")
        aside.replace(target)
    return list(jobs)


def find(paths: Sequence[str | Path], endings: Sequence[str]) -> list[Path]:
    """The files among `paths`, and those in its folders that have one of `endings`."""
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"--input {path}: no such file or folder")
        files = sorted(p for p in path.iterdir() if kind_of(p) in endings) if path.is_dir() else [path]
        if not files:
            raise InputError(f"--input {path}: no files in this folder that end in {', '.join(endings)}")
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def readable(reader: Reader, path: Path) -> list[tuple[str, Any]]:
    """The examples of a file. Raises InputError where there are none, or one is empty."""
    rows = reader.inputs(path)
    if not rows:
        raise InputError(f"{path}: no examples in it")
    if reader.texts:
        empty = next((place for place, text in rows if not words(text)), None)
        if empty:
            raise InputError(f"{empty}: the text has no words; remove the row")
    return rows
