"""Labelled series: `.ts` files (aeon, sktime), CSV tables with a row a step, made series; and their standardisation."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from common.errors import InputError
from lstm.data.labelled import (
    SPLITS,
    Labelled,
    Refuse,
    class_index,
    collect,
    fail,
    from_files,
    kind_of,
    known_split,
    table,
)
from lstm.data.text import read_text

Row = tuple[str, str | None, Float32[np.ndarray, "T C"]]  # place, label (None: not given), values


# .ts ----------------------------------------------------------------------------------------------------------------------


def read_ts(path: Path, refuse: Refuse) -> Iterator[Row]:
    """The series of a `.ts` file: lines that start with # or @ are its header; then one series a line, channels parted by
    ':', values by ',', the label last (unless @classLabel is false). What is wrong with a series goes to `refuse`."""
    labelled, channels, begun = True, 0, False
    for number, text in enumerate(read_text(path).split("\n"), 1):
        line, place = text.strip(), f"{path}:{number}"
        if not line or line.startswith("#"):
            continue
        if line.startswith("@"):
            name, *values = line[1:].lower().split()
            if (name, values[:1]) == ("timestamps", ["true"]):
                raise InputError(
                    f"{place}: series with time stamps are not read; sample them evenly, @timeStamps false"
                )
            if name in ("classlabel", "targetlabel"):
                labelled = values[:1] != ["false"]
            channels = int(values[0]) if name == "dimensions" and values and values[0].isdecimal() else channels
            begun = begun or name == "data"
        elif not begun:
            raise InputError(f"{place}: expected '@data' before the first series; is this a .ts file?")
        else:
            parts = line.split(":")
            if labelled and len(parts) < 2:
                refuse(f"{place}: no label; a line is channels parted by ':', then the label")
                continue
            label = parts.pop() if labelled else None
            channels = channels or len(parts)
            if len(parts) != channels:
                refuse(f"{place}: {len(parts)} channels, expected {channels}; check the ':' of this line")
                continue
            values = check_channels([part.split(",") if part.strip() else [] for part in parts], place, refuse)
            if values is not None:
                yield place, label, values


def check_channels(channels: Sequence[Sequence[str]], place: str, refuse: Refuse) -> Float32[np.ndarray, "T C"] | None:
    """The numbers of a series, channel by channel in text, as [T, C]; None where `refuse` was told what is wrong."""
    lengths = [len(values) for values in channels]
    if min(lengths) == 0:
        refuse(f"{place}: a sequence without steps; remove it")
    elif min(lengths) != max(lengths):
        refuse(f"{place}: ragged channels, {min(lengths)} to {max(lengths)} values; bring them to one length")
    else:
        return numbers(channels, place, refuse)
    return None


def numbers(rows: Sequence[Sequence[str]], place: str, refuse: Refuse) -> Float32[np.ndarray, "T C"] | None:
    """Texts [C][T] as float32 [T, C]; None where one is not a finite number."""
    try:
        values = np.array(rows, np.float64)
    except ValueError:
        strange = next(text for row in rows for text in row if not is_number(text))
        refuse(f"{place}: {strange.strip()!r} is not a number; fill the gap or remove the series")
        return None
    if not np.isfinite(values).all():
        refuse(f"{place}: a value is NaN or infinite; fill the gap or remove the series")
        return None
    return values.T.astype(np.float32)


def is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


# CSV ----------------------------------------------------------------------------------------------------------------------


def read_csv(
    path: Path, refuse: Refuse, *, series: str, time: str, label: str, channels: Sequence[str], labelled: bool = True
) -> Iterator[Row]:
    """The series of a table with a row a step: rows with the same `series` belong together, ordered by the number in `time`
    ('': as they stand), `label` is the same in all of them. channels: columns of values, in this order; () for all others.
    """
    needed = [name for name in (series, time, label if labelled else "", *channels) if name]
    groups: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for place, row in table(path, needed):
        groups.setdefault(row[series], []).append((place, row))
    for name, rows in groups.items():
        place = f"{rows[0][0]} (series {name!r})"
        columns = list(channels) or [c for c in rows[0][1] if c not in (series, time, label)]
        if not columns:
            raise InputError(f"{path}: no columns of values beside {series!r}, {time!r} and {label!r}")
        if time:
            times = [row[time] for _, row in rows]
            strange = next((place for place, row in rows if not is_number(row[time])), None)
            if strange or len(set(map(float, times))) < len(times):
                refuse(f"{strange or place}: config.data.time={time!r} must hold a number of its own for each step")
                continue
            rows = sorted(rows, key=lambda item: float(item[1][time]))
        labels = list(dict.fromkeys(row[label] for _, row in rows)) if labelled else [None]
        if len(labels) > 1:
            refuse(f"{place}: two labels, {labels[0]!r} and {labels[1]!r}; a series has one")
            continue
        strange = next((p for p, row in rows if not all(is_number(row[c]) for c in columns)), None)
        values = numbers([[row[c] for _, row in rows] for c in columns], strange or place, refuse)
        if values is not None:
            yield place, labels[0], values


# Sources ------------------------------------------------------------------------------------------------------------------


def from_series(
    split: str,
    *,
    root: str,
    class_names: Sequence[str],
    channels: int,
    refuse: Refuse = fail,
    train: str = "train.ts",
    validation: str = "",
    test: str = "",
    held_out: float = 0.1,
    held_out_from: str = "spread",
    series: str = "series",
    time: str = "time",
    label: str = "label",
    columns: tuple[str, ...] = (),
) -> Labelled:
    """`.ts` or CSV files (also .gz) below `root`; series [T, C] as items.

    train, validation, test, held_out, held_out_from: as for texts. series, time, label, columns: the columns of a CSV table
    (see `read_csv`); columns: of values, () for all that are left.
    """

    def read(path: Path) -> Labelled:
        rows = read_any(path, refuse, series=series, time=time, label=label, columns=columns)
        return checked(rows, class_names, channels, refuse)

    files = {"train": train, "validation": validation, "test": test}
    return from_files(split, read, root=Path(root), files=files, held_out=held_out, held_out_from=held_out_from)


def read_any(
    path: Path,
    refuse: Refuse = fail,
    *,
    series: str = "series",
    time: str = "time",
    label: str = "label",
    columns: Sequence[str] = (),
    labelled: bool = True,
) -> Iterator[Row]:
    """The series of a `.ts` file or a table, by its ending."""
    kind = kind_of(path)
    if kind == ".ts":
        return read_ts(path, refuse)
    if kind in (".csv", ".tsv", ".tab"):
        return read_csv(path, refuse, series=series, time=time, label=label, channels=columns, labelled=labelled)
    raise InputError(f"{path}: not a file of series; expected .ts, .csv or .tsv, or one of them with .gz")


def checked(rows: Iterator[Row], names: Sequence[str], channels: int, refuse: Refuse) -> Labelled:
    """Rows of (place, label, values) with labels as class indices and as many channels as the model has."""

    def good():
        for place, label, values in rows:
            if label is None:
                raise InputError(f"{place}: the file has no labels (@classLabel false); training and scoring need them")
            index = class_index(label, names, place, refuse)
            if values.shape[1] != channels:
                refuse(f"{place}: {values.shape[1]} channels, config.model.channels={channels}; they must agree")
            elif index is not None:
                yield values, index, place

    return collect(good())


def made_series(split: str, *, class_names: Sequence[str], channels: int, count: int = 256, **_: Any) -> Labelled:
    """Made series of 10 to 30 steps: waves in noise whose frequency tells the class. No series is in two splits."""
    rng = np.random.default_rng((1, SPLITS.index(known_split(split))))
    items, labels = [], []
    for _number in range(count if split == "train" else count // 4):
        label, steps = int(rng.integers(len(class_names))), int(rng.integers(10, 31))
        phase = rng.uniform(0, 2 * np.pi, channels)
        wave = np.sin((0.25 + 0.25 * label) * np.arange(steps)[:, None] + phase)
        items.append((3 + 2 * (wave + 0.2 * rng.normal(size=wave.shape))).astype(np.float32))
        labels.append(label)
    return Labelled(items, np.array(labels, np.int32), [f"made-{split}:{i}" for i in range(len(items))])


BUILDERS: dict[str, Callable[..., Labelled]] = {"series": from_series, "made_series": made_series}


def read(
    split: str, *, source: str, class_names: Sequence[str], channels: int, refuse: Refuse = fail, **options: Any
) -> Labelled:
    """The labelled series of a split of a source. Raises InputError for whatever is wrong with them (see `Refuse`)."""
    return BUILDERS[source](split, class_names=class_names, channels=channels, refuse=refuse, **options)


def standard(
    items: Sequence[Float32[np.ndarray, "_ C"]],
) -> tuple[Float32[np.ndarray, " C"], Float32[np.ndarray, " C"]]:
    """Mean and deviation of each channel over all steps of all series; a channel that does not vary keeps its scale."""
    steps = np.concatenate([np.asarray(x, np.float64) for x in items])
    deviation = steps.std(0)
    return steps.mean(0).astype(np.float32), np.where(deviation > 1e-12, deviation, 1).astype(np.float32)
