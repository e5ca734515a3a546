"""Files of texts or series in, a table of classes and probabilities out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import find_inputs, plan_outputs, write_text
from lstm.data.reviews import words
from lstm.tasks.classify_data import Reader

TEXT_ENDINGS = (".txt", ".csv", ".tsv", ".txt.gz", ".csv.gz", ".tsv.gz")
SERIES_ENDINGS = (".ts", ".csv", ".tsv", ".ts.gz", ".csv.gz", ".tsv.gz")


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
    is_ours = lambda path: path.read_text(errors="replace").startswith(head)
    inputs = find_inputs(paths, TEXT_ENDINGS if reader.texts else SERIES_ENDINGS, "texts" if reader.texts else "series")
    planned = plan_outputs(inputs, Path(output), ".tsv", is_ours)
    jobs = {target: readable(reader, path) for target, path in planned.items()}
    for target, rows in jobs.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        lines = [head + ("\ttext" if reader.texts else "")]
        for (place, item), found in zip(rows, answer([item for _, item in rows]), strict=True):
            chances = found["probabilities"]
            shown = [" ".join(item.split())] if reader.texts else []
            lines.append("\t".join([place, class_names[int(chances.argmax())], *(f"{p:.4f}" for p in chances), *shown]))
        write_text(target, "\n".join(lines) + "\n")
    return list(jobs)


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
