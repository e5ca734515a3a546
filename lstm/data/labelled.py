"""Labelled examples from files: tables, labels against class names, and parts held out by a fixed rule."""

import csv
import inspect
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from common import config as configs
from common.errors import InputError
from lstm.data.text import read_text

SPLITS = ("train", "validation", "test")
Refuse = Callable[[str], None]


def fail(message: str) -> None:
    """What a reader does with a fault unless told otherwise; `list.append` in its place collects them."""
    raise InputError(message)


class NoPart(InputError):
    """The data has no examples for a split."""


class Labelled(NamedTuple):
    """Examples as they were read: texts or arrays [T, C], class indices, and where each stands ('file:line')."""

    items: list[Any]
    labels: Int[np.ndarray, " n"]
    places: list[str]

    def pick(self, places: Int[np.ndarray, " m"]) -> "Labelled":
        return Labelled([self.items[i] for i in places], self.labels[places], [self.places[i] for i in places])


def known_split(split: str) -> str:
    """`split`, if it is one of SPLITS."""
    if split not in SPLITS:
        raise InputError(f"split {split!r}: {configs.nearest(split, SPLITS)}")
    return split


def keys_of(builder: Callable) -> list[str]:
    """The keys of config.data that a builder of `Labelled` takes."""
    elsewhere = ("split", "class_names", "channels", "refuse", "_", "source", "root")  # come from other places
    return ["source", "root", *(name for name in inspect.signature(builder).parameters if name not in elsewhere)]


def cut(steps: np.ndarray, most: int, keep: str) -> np.ndarray:
    """At most `most` tokens, or steps of a series [T, C]: those at the start, at the end, or half at each."""
    if len(steps) <= most:
        return steps
    if keep == "both":
        return np.concatenate([steps[: (most + 1) // 2], steps[len(steps) - most // 2 :]])
    return steps[:most] if keep == "start" else steps[-most:]


CUTS = ("start", "end", "both")
UNCUT = "raise it, or set config.data.keep to 'start', 'end' or 'both'"  # the cure for one that is too long


def collect(rows: Iterator[tuple[Any, int, str]]) -> Labelled:
    """Rows of (item, class index, place) as one record."""
    found = list(rows)
    labels = np.array([label for _, label, _ in found], np.int32)
    return Labelled([item for item, _, _ in found], labels, [place for *_, place in found])


def kind_of(path: Path) -> str:
    """'.csv' of a.csv and a.csv.gz."""
    return Path(path.stem).suffix.lower() if path.suffix == ".gz" else path.suffix.lower()


def table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, {column: text}) of each row of a CSV file, or a TSV file, where a quote is a character like any other.

    The first line names the columns; a row may have line breaks inside quotes, its place is its first line. Raises
    InputError where one of `columns` is missing or a row has more or fewer fields than the header.
    """
    tsv = kind_of(path) in (".tsv", ".tab")
    style = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tsv else {"delimiter": ","}
    csv.field_size_limit(1 << 30)
    reader = csv.reader(io.StringIO(read_text(path), newline=""), **style)
    header, begin = None, 1
    try:
        for fields in reader:
            place, begin = f"{path}:{begin}", reader.line_num + 1
            if header is None:
                header = check_header(path, [name.strip() for name in fields], columns, tsv)
            elif fields and len(fields) != len(header):
                cure = "quote texts that hold commas" if not tsv else "a text must not hold tabs"
                raise InputError(f"{place}: {len(fields)} fields, the header has {len(header)}; {cure}")
            elif fields:
                yield place, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}:{begin}: not a table ({error}); check its quotes") from None


def check_header(path: Path, header: list[str], columns: Sequence[str], tsv: bool) -> list[str]:
    for name in columns:
        if name not in header:
            shown = ", ".join(header[:12]) if len(header) > 1 else f"one column, {header[0][:60]!r}"
            cure = f"columns are separated by {'tabs' if tsv else 'commas'} and named in the first line"
            raise InputError(f"{path}: no column {name!r}; it has {shown}; {cure}; see config.data")
    return header


def class_index(
    text: str, class_names: Sequence[str], place: str, refuse: Refuse, key: str = "config.task.class_names"
) -> int | None:
    """The place of a label among the class names; None where it is not one of them and `refuse` returns."""
    if text.strip() in class_names:
        return list(class_names).index(text.strip())
    refuse(f"{place}: label {text.strip()!r} is no class; {key} is {list(class_names)}")
    return None


def hold_out(labels: Int[np.ndarray, " n"], share: float, order: str, parts: int) -> Int[np.ndarray, " n"]:
    """0 for each example that stays, 1 ... `parts` for those that are held out: `share` of each class in each part.

    order: 'spread', a fixed draw; 'end', the last of each class as they stand in the file, for files whose neighbours
    are alike (reviews of one film, words of one recording). A function of the labels alone.
    """
    if order not in ("spread", "end"):
        raise InputError(f"config.data.held_out_from={order!r}: {configs.nearest(order, ('spread', 'end'))}")
    if not 0 <= share * parts < 1:
        raise InputError(
            f"config.data.held_out={share}: nothing would be left for training; use less than {1 / parts:.2g}"
        )
    part = np.zeros(len(labels), np.int32)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        if order == "spread":
            places = np.random.default_rng((0, int(label))).permutation(places)
        count = round(share * len(places))
        for number in range(parts):
            stop = len(places) - number * count
            part[places[stop - count : stop]] = 1 + number
    return part


def from_files(
    split: str,
    read: Callable[[Path], Labelled],
    *,
    root: Path,
    files: Mapping[str, str],
    held_out: float,
    held_out_from: str,
) -> Labelled:
    """The examples of a split: those of its file, or, where `files` names none for it, those held out of the training file.

    Raises NoPart where it has no examples.
    """
    known_split(split)
    without = [name for name in SPLITS[1:] if not files[name]]
    if split != "train" and split not in without:
        return read(root / files[split])
    whole = read(root / files["train"])
    if not without:
        return whole
    part = hold_out(whole.labels, held_out, held_out_from, len(without))
    number = 0 if split == "train" else 1 + without.index(split)
    chosen = whole.pick(np.flatnonzero(part == number))
    if not chosen.items:
        cure = f"name a file in config.data.{split}, or set config.data.held_out (now {held_out})"
        raise NoPart(f"{root / files['train']}: no examples for the part {split!r}; {cure}")
    return chosen
