"""Text: files, the source of Python's standard library, tiny Shakespeare, Penn Treebank; vocabularies; tokens.

A source gives {split: [(name, text), ...]}. `Corpus` holds the tokens of each split, its documents end to end. Characters are
code points; words are what blanks part, with one <eos> for each line break.
"""

import gzip
import inspect
import sys
import sysconfig
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer, UInt

from common import config as configs
from common.errors import InputError

EOS, UNKNOWN_WORD, UNKNOWN_CHARACTER = "<eos>", "<unk>", "\ufffd"
Documents = Sequence[tuple[str, str]]


class Vocabulary(NamedTuple):
    """entries: what token i stands for. level: 'characters' or 'words'. unknown: the token of what is not here; -1: none."""

    entries: tuple[str, ...]
    level: str
    unknown: int

    @property
    def start(self) -> int:
        """The token that stands before a text: the line break (words: <eos>), or the first entry where there is none."""
        mark = EOS if self.level == "words" else "\n"
        return self.entries.index(mark) if mark in self.entries else 0


class Corpus(NamedTuple):
    """tokens: split -> its tokens in order, the smallest unsigned type that holds them. characters: split -> how many
    characters those are."""

    vocabulary: Vocabulary
    tokens: Mapping[str, UInt[np.ndarray, " N"]]
    characters: Mapping[str, int]

    def of(self, split: str) -> UInt[np.ndarray, " N"]:
        """The tokens of a split. Raises InputError where this text has no such split."""
        if split not in self.tokens:
            raise InputError(f"the split {split!r}: this text has none; {configs.nearest(split, self.tokens)}")
        return self.tokens[split]


# Reading ------------------------------------------------------------------------------------------------------------------


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, or of one in gzip (NAME.gz); line breaks become "\\n". Raises InputError for one that is
    missing, empty, damaged or not UTF-8; the byte offset is that of the text, unpacked."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a whole gzip file ({error}); fetch it again, or drop the ending .gz") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a text file") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        cure = f"convert it: iconv -f latin1 -t utf-8 {path.name}"
        raise InputError(f"{path}: not UTF-8 at byte {error.start} (0x{data[error.start]:02x}); {cure}") from None
    if not text.strip():
        raise InputError(f"{path}: the file is empty; name one with text in it")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def find_files(name: str, root: str, pattern: str, key: str) -> list[Path]:
    """The files that `name` stands for, below `root`: itself, all of a folder that match `pattern`, or a pattern's. key: what
    the user set to it."""
    place = Path(root) / Path(name).expanduser()  # an absolute name stays as it is
    if not name:
        raise InputError(f"{key}='': name a text file, a folder of them, or a pattern like 'books/*.txt'")
    if place.is_file():
        return [place]
    found = sorted(p for p in place.rglob(pattern) if p.is_file()) if place.is_dir() else []
    if not place.exists() and any(c in name for c in "*?["):
        anchor = Path(place.anchor or ".")
        found = sorted(p for p in anchor.glob(str(place.relative_to(anchor) if place.anchor else place)) if p.is_file())
    if not found:
        if key.startswith("--"):
            raise InputError(f"{key} {name}: no such file or folder, or none in it that matches {pattern}")
        why = f"no file there matches config.data.pattern={pattern!r}" if place.is_dir() else "no such file or folder"
        raise InputError(f"{key}={name!r}: {why} ({place}); check config.data.root={root!r}")
    return found


def read_all(name: str, root: str, pattern: str, key: str) -> Documents:
    return [(str(path), read_text(path)) for path in find_files(name, root, pattern, f"config.data.{key}")]


def cut(documents: Documents, validation: float, test: float) -> dict[str, Documents]:
    """The documents, end to end, in three blocks: the last `test` and the `validation` before it are held out."""
    if min(validation, test) < 0 or validation + test >= 1:
        raise InputError(f"config.data.validation={validation}, test={test}: fractions that leave a part to train on")
    total = sum(len(text) for _, text in documents)
    edges = [0, *(int(total * share + 1e-6) for share in (1 - validation - test, 1 - test)), total]
    parts: dict[str, list] = {"train": [], "validation": [], "test": []}
    place = 0
    for name, text in documents:
        for split, start, stop in zip(parts, edges[:-1], edges[1:], strict=True):
            piece = text[max(start - place, 0) : max(stop - place, 0)]
            if piece:
                parts[split].append((name, piece))
        place += len(text)
    return {split: pieces for split, pieces in parts.items() if pieces}


# Sources ------------------------------------------------------------------------------------------------------------------


def from_files(
    *,
    root: str,
    file: str,
    pattern: str = "*.txt",
    validation_file: str = "",
    test_file: str = "",
    validation: float = 0.05,
    test: float = 0.05,
) -> dict[str, Documents]:
    """Own text. file: a file (UTF-8, or NAME.gz), a folder whose files match `pattern`, or a pattern; below `root` or
    absolute. validation_file, test_file: files of their own; else these fractions of the end of `file` are held out."""
    documents = read_all(file, root, pattern, "file")
    if not validation_file and not test_file:
        return cut(documents, validation, test)
    parts = cut(documents, 0.0 if validation_file else validation, 0.0 if test_file else test)
    for split, name in (("validation", validation_file), ("test", test_file)):
        if name:
            parts[split] = read_all(name, root, pattern, f"{split}_file")
    return parts


def tiny_shakespeare(*, root: str) -> dict[str, Documents]:
    """root/char-lm/tinyshakespeare.txt.gz (karpathy/char-rnn), cut 90/10 as nanoGPT does: 1,003,854 characters to train on,
    111,540 for validation, no test part."""
    return cut(read_all("char-lm/tinyshakespeare.txt.gz", root, "", "source"), 0.1, 0.0)


def penn_treebank(*, root: str) -> dict[str, Documents]:
    """root/ptb/ptb.{train,valid,test}.txt.gz (Mikolov et al. 2010): 929,589 / 73,760 / 82,430 words, <eos> among them."""
    files = {"train": "train", "validation": "valid", "test": "test"}
    return {split: read_all(f"ptb/ptb.{name}.txt.gz", root, "", "source") for split, name in files.items()}


def source_text() -> dict[str, Documents]:
    """The source of Python's standard library: its public modules of one file (argparse.py to zipimport.py, about 120 of
    them, 3 MB), those in ASCII alone, in alphabetical order. Files 5, 25, 45, ... are for validation, 15, 35, ... for
    testing, each whole. The same on every machine with one version of Python; from version to version a few files change.
    Tabs become blanks: Debian's and Ubuntu's gettext.py has one.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    names = sorted(n for n in sys.stdlib_module_names if not n.startswith("_") and (folder / f"{n}.py").is_file())
    documents = [(f"{name}.py", (folder / f"{name}.py").read_bytes()) for name in names]
    documents = [(name, code.decode().expandtabs()) for name, code in documents if code.isascii() and code.strip()]
    if len(documents) < 50:
        raise InputError(f"{folder}: the standard library's source is not here; use config.data.source='files'")
    parts: dict[str, list] = {"train": [], "validation": [], "test": []}
    for place, document in enumerate(documents):
        parts[{5: "validation", 15: "test"}.get(place % 20, "train")].append(document)
    return parts


MADE = (
    ("the", "a", "every"),
    ("old", "small", "quiet", "clever", "tired"),
    ("fox", "sailor", "child", "teacher"),
    ("sees", "likes", "finds", "paints"),
    ("the", "a"),
    ("house", "river", "letter", "lamp", "boat"),
)


def made_text(*, sentences: int = 3000) -> dict[str, Documents]:
    """Made sentences, one a line, each word drawn evenly from its column of MADE: the best possible loss is known
    (sum of the logs of the columns' lengths, for each sentence)."""
    rng = np.random.default_rng(0)
    draw = lambda count: "".join(" ".join(rng.choice(w) for w in MADE) + "\n" for _ in range(count))
    counts = {"train": sentences, "validation": sentences // 10, "test": sentences // 10}
    return {split: [(f"made-{split}", draw(count))] for split, count in counts.items()}


def imdb(*, root: str, held_out: float = 0.1) -> dict[str, Documents]:
    """IMDB's reviews, a line each, without their labels: the parts of `lstm.data.reviews.from_imdb`."""
    from lstm.data.reviews import imdb_documents  # it imports this module

    return imdb_documents(root=root, held_out=held_out)


SOURCES = {
    "files": from_files,
    "source_text": source_text,
    "tiny_shakespeare": tiny_shakespeare,
    "ptb": penn_treebank,
    "imdb": imdb,
    "made": made_text,
}


def check_keys(options: Mapping[str, Any], also: Iterable[str] = ()) -> Mapping[str, Any]:
    """The keys of config.data that say where text comes from and how it is cut into tokens; raises InputError for one that
    the source does not have. 'root' may be set for every source."""
    source = options.get("source", "")
    if source not in SOURCES:
        raise InputError(f"config.data.source={source!r}: {configs.nearest(source, SOURCES)}")
    arguments = [p for f in (SOURCES[source], make_corpus) for p in inspect.signature(f).parameters if p != "options"]
    for key in options:
        if key not in {*arguments, "root"}:
            near = configs.nearest(key, [*arguments, *also])
            raise InputError(f"config.data.{key}: source {source!r} has no such key; {near}")
    if options.get("level", "characters") not in LEVELS:
        raise InputError(f"config.data.level={options['level']!r}: {configs.nearest(options['level'], LEVELS)}")
    return options


# Tokens -------------------------------------------------------------------------------------------------------------------

LEVELS = ("characters", "words")


def make_corpus(
    *,
    source: str,
    level: str = "characters",
    alphabet: str = "",
    unknown: bool = False,
    max_words: int = 0,
    root: str = "data",
    **options: Any,
) -> Corpus:
    """The tokens of a source. alphabet: the characters of the vocabulary; '': those of the training part. unknown: characters
    outside it become one entry of their own, else they are an error. max_words: only so many entries, the most frequent;
    the other words become <unk>; 0: all. Raises InputError for whatever is wrong with the data."""
    takes_root = "root" in inspect.signature(SOURCES[source]).parameters
    parts = SOURCES[source](**options, **({"root": root} if takes_root else {}))
    vocabulary = make_vocabulary(parts["train"], level, alphabet, unknown, max_words)
    tokens = {
        split: np.concatenate([encode(vocabulary, text, name) for name, text in documents])
        for split, documents in parts.items()
    }
    return Corpus(vocabulary, tokens, {s: sum(len(text) for _, text in d) for s, d in parts.items()})


def make_vocabulary(
    documents: Documents, level: str, alphabet: str = "", unknown: bool = False, max_words: int = 0
) -> Vocabulary:
    """The vocabulary of the training part. Characters by code point; words by how often they are there, then by name."""
    if level == "characters":
        entries = sorted(set(alphabet) or set().union(*(text for _, text in documents)))
        entries = [*entries, UNKNOWN_CHARACTER] if unknown and UNKNOWN_CHARACTER not in entries else entries
        return Vocabulary(tuple(entries), level, entries.index(UNKNOWN_CHARACTER) if unknown else -1)
    counts = Counter(word for _, text in documents for word in words(text))
    counts[UNKNOWN_WORD] += 0  # always an entry, of which there may be no example
    entries = sorted(counts, key=lambda word: (-counts[word], word))
    if max_words:
        kept = set(entries[:max_words]) | {EOS, UNKNOWN_WORD}
        entries = [word for word in entries if word in kept]
    return Vocabulary(tuple(entries), level, entries.index(UNKNOWN_WORD))


def words(text: str) -> list[str]:
    return text.replace("\n", f" {EOS} ").split()


def encode(vocabulary: Vocabulary, text: str, name: str) -> UInt[np.ndarray, " N"]:
    """The tokens of a text. Raises InputError, with `name` and the place, for a character that is not in the vocabulary."""
    kind = np.min_scalar_type(max(len(vocabulary.entries) - 1, 1))
    if vocabulary.level == "words":
        index = {word: place for place, word in enumerate(vocabulary.entries)}
        found = [index.get(word, vocabulary.unknown) for word in words(text)]
        return np.array(found, dtype=kind)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    known = np.array([ord(c) for c in vocabulary.entries], np.uint32)
    order = np.argsort(known)
    place = order[np.minimum(np.searchsorted(known[order], codes), len(known) - 1)]
    strange = known[place] != codes
    if strange.any() and vocabulary.unknown < 0:
        first = int(np.argmax(strange))
        line, column = text.count("\n", 0, first) + 1, first - text.rfind("\n", 0, first)
        raise InputError(
            f"{name}: the character {text[first]!r} (line {line}, column {column}) is not in the vocabulary of "
            f"{len(known)} characters; remove it, or train with config.data.unknown=True"
        )
    return np.where(strange, vocabulary.unknown, place).astype(kind)


def decode(vocabulary: Vocabulary, tokens: Integer[np.ndarray, " N"] | Sequence[int]) -> str:
    """The text of tokens: characters one after the other; words with blanks between, <eos> as a line break."""
    entries = [vocabulary.entries[int(t)] for t in tokens]
    if vocabulary.level == "characters":
        return "".join(entries)
    return "".join("\n" if word == EOS else f"{word} " for word in entries).replace(" \n", "\n")
