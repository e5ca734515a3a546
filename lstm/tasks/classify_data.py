"""What a classifier reads: one record of functions, for texts and for series alike."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common import config as configs
from common.errors import InputError
from lstm.data import reviews, series
from lstm.data.buckets import Buckets, Sequences, check_bounds
from lstm.data.labelled import CUTS, SPLITS, UNCUT, Labelled, NoPart, Refuse, cut, fail, keys_of

FINDINGS = 20  # lines of a check, at most, for each part


def reading(
    *,
    batch_size: int = 32,
    eval_batch_size: int = 0,
    threads: int = 2,
    max_length: int = 256,
    buckets: tuple[int, ...] = (),
    keep: str = "end",
    max_words: int = 0,
    vocabulary_file: str = "",
    standardise: bool = True,
    **source: Any,
) -> dict[str, Any]:
    """The section `data`: how sequences are read here, and in `source` the arguments of a source's builder.

    max_length: steps, at most. keep: which part of a longer one is read: 'start', 'end' or 'both'; '': it is an error.
    buckets: lengths to which batches of shorter sequences are padded; () for max_length alone.
    max_words: entries of a text's vocabulary, 0 for config.model.vocabulary. vocabulary_file: a file with an entry a line, below
    config.data.root, in place of the words of the training part. standardise: channels of series get mean 0 and deviation 1,
    by the training part. eval_batch_size: 0 for batch_size. threads: of reading; may differ on resuming.
    """
    return locals()


class Reader(NamedTuple):
    """labelled(split) -> Labelled, as read; encode(items) -> arrays [n] or [n, C], standardised or as tokens, cut;
    kept(item) -> which of its words or steps those are; check() -> lines; inputs(path) -> [(place, item)] of a file to
    predict; texts: whether items are texts."""

    labelled: Callable[[str], Labelled]
    encode: Callable[[Sequence[Any]], list[np.ndarray]]
    kept: Callable[[Any], np.ndarray]
    check: Callable[[], list[str]]
    inputs: Callable[[Path], list[tuple[str, Any]]]
    texts: bool


def open_reader(reads: Mapping[str, Any], model: Mapping[str, Any], class_names: Sequence[str]) -> Reader:
    """The reader of a config's `data` (as `reading` gives it). Nothing is read yet. Raises InputError for wrong keys."""
    source = reads["source"]
    name = source.get("source", "")
    kind = name.partition(":")[0]
    module = next((m for m in (reviews, series) if kind in m.BUILDERS), None)
    if module is None or (kind != name) != (kind == "tfds"):
        known = [*reviews.BUILDERS, *series.BUILDERS]
        near = configs.nearest(kind, ["tfds:NAME" if k == "tfds" else k for k in known])
        raise InputError(f"config.data.source={name!r}: {near}")
    keys = keys_of(module.BUILDERS[kind])
    for key in source:
        if key not in keys:
            near = configs.nearest(key, [*keys, *inspect.signature(reading).parameters])
            raise InputError(f"config.data.{key}: source {name!r} has no such key; {near}")
    size, needed = ("vocabulary", "texts") if module is reviews else ("channels", "series")
    if not model.get(size):
        raise InputError(f"config.model.{size}={model.get(size, 0)}: the source {name!r} gives {needed}; set it")
    if reads["keep"] not in (*CUTS, ""):
        raise InputError(f"config.data.keep={reads['keep']!r}: {configs.nearest(reads['keep'], CUTS)}")
    make = text_reader if module is reviews else series_reader
    return make(reads, source, model[size], tuple(class_names))


def text_reader(reads: Mapping[str, Any], source: Mapping[str, Any], size: int, names: tuple[str, ...]) -> Reader:
    labelled = functools.cache(lambda split: reviews.read(split, class_names=names, **source))
    most = reads["max_words"] or size
    if most > size:
        raise InputError(
            f"config.data.max_words={most}: more than config.model.vocabulary={size}; set it to that at most"
        )

    @functools.cache
    def vocabulary():
        if reads["vocabulary_file"]:
            return reviews.vocabulary_from(Path(source.get("root", "data")) / reads["vocabulary_file"], size)
        return reviews.vocabulary_of(labelled("train").items, most)

    def encode(texts: Sequence[str]) -> list[np.ndarray]:
        return reviews.encode(texts, vocabulary(), max_length=reads["max_length"], keep=reads["keep"])

    def check() -> list[str]:
        found = check_parts(lambda split, refuse: reviews.read(split, class_names=names, refuse=refuse, **source))
        try:
            found or vocabulary()
        except InputError as error:
            return [str(error)]
        return found

    def kept(text: str) -> np.ndarray:
        return cut(np.arange(len(reviews.words(text))), reads["max_length"], reads["keep"] or "end")

    column = source.get("text", "text")
    return Reader(labelled, encode, kept, check, lambda path: reviews.read_inputs(path, column), True)


def series_reader(reads: Mapping[str, Any], source: Mapping[str, Any], size: int, names: tuple[str, ...]) -> Reader:
    most, keep = reads["max_length"], reads["keep"]
    columns = {k: source[k] for k in ("series", "time", "label", "columns") if k in source}

    def read(split: str, refuse: Refuse = fail) -> Labelled:
        part = series.read(split, class_names=names, channels=size, refuse=refuse, **source)
        for place, item in zip(part.places, part.items, strict=True):
            check_length(place, item, refuse)
        return part

    def check_length(place: str, item: np.ndarray, refuse: Refuse = fail) -> None:
        if len(item) > most and not keep:
            refuse(f"{place}: {len(item)} steps, config.data.max_length={most}; {UNCUT}")

    labelled = functools.cache(read)
    scale = functools.cache(lambda: series.standard(labelled("train").items))

    def encode(items: Sequence[np.ndarray]) -> list[np.ndarray]:
        items = [cut(x, most, keep or "end") for x in items]
        if not reads["standardise"]:
            return items
        mean, deviation = scale()
        return [(x - mean) / deviation for x in items]

    def inputs(path: Path) -> list[tuple[str, Any]]:
        rows = [(place, values) for place, _, values in series.read_any(path, **columns, labelled=False)]
        for place, values in rows:
            check_length(place, values)
            if values.shape[1] != size:
                raise InputError(f"{place}: {values.shape[1]} channels, config.model.channels={size}")
        return rows

    kept = lambda item: cut(np.arange(len(item)), most, keep or "end")
    return Reader(labelled, encode, kept, lambda: check_parts(read), inputs, False)


def check_parts(read: Callable[[str, Callable], Any]) -> list[str]:
    """What is wrong with the training part, and with the others as far as there are any; a line each."""
    found: list[str] = []
    for split in SPLITS:
        lines: list[str] = []
        try:
            part = read(split, lines.append)
            if split == "train" and not lines and len(set(part.labels.tolist())) < 2:
                lines.append("config.data: all examples of the training part are of one class; check the labels")
        except NoPart as error:
            lines += (
                [str(error)] if split == "train" else []
            )  # whoever evaluates on a part that is not there is told so
        except InputError as error:
            lines.append(str(error))
        more = [f"... and {len(lines) - FINDINGS} more in the part {split!r}"] if len(lines) > FINDINGS else []
        found += [line for line in [*lines[:FINDINGS], *more] if line not in found]
    return found


def open_sources(reads: Mapping[str, Any], reader: Reader) -> tuple[Callable[[str], Sequences], Callable[[], Buckets]]:
    """(sequences(split), the training batches), each read when it is first asked for, and kept."""
    bounds = check_bounds(reads["buckets"], reads["max_length"])

    @functools.cache
    def sequences(split: str) -> Sequences:
        part = reader.labelled(split)
        return Sequences(reader.encode(part.items), part.labels, part.items, part.places)

    return sequences, functools.cache(lambda: Buckets(sequences("train"), reads["batch_size"], bounds))
