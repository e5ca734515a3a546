"""Text: files and their faults, sources, vocabularies, streams by hand, windows that count each token once."""

import gzip
import math
import sys
import sysconfig

import numpy as np
import pytest

from common.errors import InputError
from lstm.data import text
from lstm.data.streams import LONGER, Streams, Windows

CHARACTERS = {"level": "characters"}


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# Files


def test_line_breaks_byte_order_mark_and_gzip_read_alike(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwö\r\n".encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("one\ntwö\n".encode()))
    assert text.read_text(tmp_path / "a.txt") == text.read_text(tmp_path / "b.txt.gz") == "one\ntwö\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("latin.txt", b"caf\xe9 au lait", r"latin.txt: not UTF-8 at byte 3 \(0xe9\)"),
        ("latin.txt.gz", gzip.compress(b"0123456\xff", mtime=0), r"latin.txt.gz: not UTF-8 at byte 7 \(0xff\)"),
        ("empty.txt", b"", "empty.txt: the file is empty"),
        ("blank.txt", b" \n \n", "blank.txt: the file is empty"),
        ("cut.txt.gz", gzip.compress(b"x" * 5000, mtime=0)[:-9], "cut.txt.gz: not a whole gzip file"),
        ("plain.txt.gz", b"not packed", "plain.txt.gz: not a whole gzip file"),
    ],
)
def test_a_faulty_file_is_named_with_its_fault(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        text.make_corpus(source="files", root=str(tmp_path), file=name)
    one_line(error)


def test_files_folders_and_patterns(tmp_path):
    for name in ("b.txt", "a.txt", "sub/c.txt", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    names = lambda what, pattern="*.txt": [
        p.relative_to(tmp_path).as_posix() for p in text.find_files(what, str(tmp_path), pattern, "config.data.file")
    ]
    assert names("a.txt") == names(str(tmp_path / "a.txt")) == ["a.txt"]
    assert names(".") == ["a.txt", "b.txt", "sub/c.txt"]
    assert names(".", "*.md") == ["notes.md"]
    assert names("[ab].txt") == names(str(tmp_path / "[ab].txt")) == ["a.txt", "b.txt"]
    for what, message in (("d.txt", "no such file"), ("sub/*.md", "no such file"), ("", "name a text file")):
        with pytest.raises(InputError, match=message) as error:
            names(what)
        assert "config.data.file" in one_line(error)
    with pytest.raises(InputError, match="config.data.pattern='\\*.csv'"):
        names(".", "*.csv")


# Splits and sources


def test_own_text_is_cut_into_blocks_across_files():
    documents = [("a", "0123456"), ("b", "789abcdefghij")]
    parts = text.cut(documents, 0.2, 0.1)
    joined = {split: "".join(piece for _, piece in pieces) for split, pieces in parts.items()}
    assert joined == {"train": "0123456789abcd", "validation": "efgh", "test": "ij"}
    assert parts["train"] == [("a", "0123456"), ("b", "789abcd")]
    assert set(text.cut(documents, 0.2, 0.0)) == {"train", "validation"}
    with pytest.raises(InputError, match="validation=0.6"):
        text.cut(documents, 0.6, 0.4)


def test_held_out_files_of_their_own(tmp_path):
    for name, content in (("train", "abcabcabcabcabc"), ("valid", "cab")):
        (tmp_path / f"{name}.txt").write_text(content)
    corpus = text.make_corpus(
        source="files", root=str(tmp_path), file="train.txt", validation_file="valid.txt", test=0.2
    )
    assert {split: len(x) for split, x in corpus.tokens.items()} == {"train": 12, "test": 3, "validation": 3}
    with pytest.raises(InputError, match="the split 'dev'"):
        corpus.of("dev")


def test_the_standard_library_is_cut_by_whole_files_and_always_the_same():
    parts = text.source_text()
    assert parts == text.source_text()
    names = {split: [name for name, _ in documents] for split, documents in parts.items()}
    assert len(sum(names.values(), [])) == len(set(sum(names.values(), [])))
    assert "argparse.py" in names["train"] and all(len(names[split]) >= 3 for split in names)
    assert 2e6 < sum(len(t) for documents in parts.values() for _, t in documents) < 6e6
    assert all(code.isascii() for documents in parts.values() for _, code in documents)


def test_tabs_of_the_standard_library_become_blanks(tmp_path, monkeypatch):
    """Debian's gettext.py has one; the demo's alphabet has none."""
    for name in sorted(n for n in sys.stdlib_module_names if not n.startswith("_"))[:80]:
        (tmp_path / f"{name}.py").write_text("if x:\n\ty\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    documents = [code for part in text.source_text().values() for _, code in part]
    assert documents == ["if x:\n        y\n"] * 80


def test_tiny_shakespeare_is_cut_as_by_nanogpt(data_root):
    corpus = text.make_corpus(source="tiny_shakespeare", root=str(data_root))
    assert {split: len(x) for split, x in corpus.tokens.items()} == {"train": 1003854, "validation": 111540}
    assert len(corpus.vocabulary.entries) == 65
    assert text.decode(corpus.vocabulary, corpus.of("train")[:14]) == "First Citizen:"


def test_penn_treebank_has_its_known_counts(data_root):
    corpus = text.make_corpus(source="ptb", level="words", root=str(data_root))
    assert {split: len(x) for split, x in corpus.tokens.items()} == {
        "train": 929589,
        "validation": 73760,
        "test": 82430,
    }
    assert len(corpus.vocabulary.entries) == 10000
    assert corpus.of("train").dtype == np.uint16
    assert text.decode(corpus.vocabulary, corpus.of("test")[:8]).startswith(
        "no it was n't black monday \n".replace(" \n", "\n")
    )


def test_a_key_of_another_source_is_refused():
    with pytest.raises(InputError, match="config.data.sentence: source 'made' .* did you mean 'sentences'"):
        text.check_keys({"source": "made", "sentence": 3})
    with pytest.raises(InputError, match="did you mean 'source_text'"):
        text.check_keys({"source": "source_txt"})
    with pytest.raises(InputError, match="did you mean 'words'"):
        text.check_keys({"source": "made", "level": "word"})


# Tokens


def test_characters_and_back():
    vocabulary = text.make_vocabulary([("a", "hello\nwörld")], "characters")
    assert vocabulary.entries == tuple(sorted(set("hello\nwörld")))
    assert vocabulary.entries[vocabulary.start] == "\n"
    assert text.decode(vocabulary, text.encode(vocabulary, "low\nröd", "x")) == "low\nröd"
    with pytest.raises(InputError, match=r"x: the character 'z' \(line 2, column 3\) is not in the vocabulary of 9"):
        text.encode(vocabulary, "hello\nröz", "x")
    lenient = text.make_vocabulary([("a", "abc")], "characters", unknown=True)
    assert list(text.encode(lenient, "cab\U0001f600z", "x")) == [2, 0, 1, 3, 3]
    assert text.make_vocabulary([("a", "abc")], "characters", alphabet="cba").entries == ("a", "b", "c")


def test_words_and_back():
    vocabulary = text.make_vocabulary([("a", "b a b\nc b d\n")], "words")
    assert vocabulary.entries == ("b", "<eos>", "a", "c", "d", "<unk>")
    tokens = text.encode(vocabulary, "a b\nnew b", "x")
    assert list(tokens) == [2, 0, 1, 5, 0]
    assert text.decode(vocabulary, tokens) == "a b\n<unk> b "
    few = text.make_vocabulary([("a", "b a b\nc b d\n")], "words", max_words=3)
    assert few.entries == ("b", "<eos>", "a", "<unk>")


def test_made_sentences_have_the_loss_that_is_said():
    corpus = text.make_corpus(source="made", level="words", sentences=20000)
    columns = text.encode(corpus.vocabulary, "", "x"), corpus.of("train").reshape(-1, 7)
    nats = 0.0
    for column in columns[1].T:
        share = np.unique(column, return_counts=True)[1] / len(column)
        nats -= (share * np.log(share)).sum()
    assert math.isclose(nats, sum(math.log(len(words)) for words in text.MADE), rel_tol=1e-3)


# Streams


def test_streams_by_hand():
    streams = Streams(np.arange(20, dtype=np.uint8), batch_size=3, bptt=2)
    assert (streams.length, len(streams)) == (6, 9)  # 19 pairs: 3 streams of 6, 3 steps of 2
    expected = [[[0, 1], [6, 7], [12, 13]], [[2, 3], [8, 9], [14, 15]], [[4, 5], [10, 11], [16, 17]]]
    for step in range(7):
        batch = streams.batch(0, step, slice(0, 3))
        assert set(batch) == {"inputs", "targets", "reset"}
        np.testing.assert_array_equal(batch["inputs"], expected[step % 3])
        np.testing.assert_array_equal(batch["targets"], batch["inputs"] + 1)
        assert batch["reset"].tolist() == [step % 3 == 0] * 3
        assert batch["inputs"].dtype == np.int32
    part = streams.batch(0, 4, slice(1, 3))
    np.testing.assert_array_equal(part["inputs"], expected[1][1:])
    assert streams[4]["inputs"].tolist() == [8, 9]


@pytest.mark.parametrize("variable", [False, True])
def test_each_epoch_reads_on_and_reads_every_pair_once(variable):
    count = 1013
    streams = Streams(np.arange(count, dtype=np.uint16), batch_size=4, bptt=12, shift=True, variable=variable)
    step, offsets = 0, []
    for epoch in range(5):
        seen, expected = [], None
        while True:
            batch = streams.batch(3, step, slice(0, 4))
            if bool(batch["reset"][0]) and seen:
                break
            kept = batch["mask"] if variable else np.ones_like(batch["inputs"], bool)
            assert kept.any(axis=1).all() and (kept == kept[:1]).all()
            inputs, targets = batch["inputs"][:, kept[0]], batch["targets"][:, kept[0]]
            np.testing.assert_array_equal(targets, (inputs + 1) % count)
            if expected is not None:
                np.testing.assert_array_equal(inputs[:, 0], expected)  # goes on where the last step ended
            expected = targets[:, -1]
            seen.extend(inputs.reshape(-1).tolist())
            offsets += [int(inputs[0, 0])] if batch["reset"][0] else []
            step += 1
        assert len(seen) == len(set(seen))
        assert len(seen) >= count - 1 - 4 - (0 if variable else 4 * 11), epoch
    assert len(set(offsets)) == 5


def test_a_batch_is_a_function_of_seed_and_step():
    make = lambda: Streams(np.arange(5000, dtype=np.uint16), batch_size=8, bptt=20, shift=True, variable=True)
    forward = [
        make_batch for streams in [make()] for make_batch in (streams.batch(1, t, slice(0, 8)) for t in range(120))
    ]
    fresh = make()
    for step in (119, 3, 64, 65):
        for name, value in fresh.batch(1, step, slice(2, 6)).items():
            np.testing.assert_array_equal(value, forward[step][name][2:6])
    other = fresh.batch(2, 3, slice(0, 8))
    assert not np.array_equal(other["inputs"], forward[3]["inputs"])


def test_drawn_lengths_are_those_of_merity():
    streams = Streams(np.zeros(2_000_000, np.uint8), batch_size=1, bptt=70, variable=True)
    lengths = streams.epoch_lengths(0, 0)
    assert lengths.sum() == streams.length
    full = lengths[:-1]
    assert full.min() >= 5 and full.max() <= 70 + LONGER
    short = full < 52  # half of 70 plus or minus 5, and 70 plus or minus 5, do not meet there
    assert abs(short.mean() - 0.05) < 0.01
    assert abs(full[short].mean() - 34.5) < 0.5 and abs(full[~short].mean() - 69.5) < 0.2  # rounded down
    assert abs(full[~short].std() - 5) < 0.2
    batch = streams.batch(0, 7, slice(0, 1))
    assert batch["inputs"].shape == (1, 90)
    assert batch["mask"].sum() == lengths[7]
    np.testing.assert_allclose(batch["rate"], lengths[7] / 70)
    assert abs(len(streams) - len(lengths)) / len(lengths) < 0.02


def test_a_text_shorter_than_a_batch_is_refused():
    with pytest.raises(InputError, match="the training text has 40 tokens, fewer than one batch") as error:
        Streams(np.zeros(40, np.uint8), batch_size=4, bptt=10)
    one_line(error)
    assert len(Streams(np.zeros(41, np.uint8), batch_size=4, bptt=10)) == 4


# Windows


@pytest.mark.parametrize(
    ("count", "length", "context"), [(50, 7, 0), (50, 7, 3), (50, 7, 20), (8, 7, 3), (5, 10, 4), (2, 1, 0)]
)
def test_windows_count_every_token_once_with_its_history(count, length, context):
    windows = Windows(np.arange(count, dtype=np.uint8), length=length, context=context)
    counted = []
    for i in range(len(windows)):
        row = windows[i]
        assert row["inputs"].shape == row["targets"].shape == row["counted"].shape == (length + context,)
        own = row["targets"][row["counted"]]
        np.testing.assert_array_equal(own, row["inputs"][row["counted"]] + 1)
        counted.extend(own.tolist())
        history = int(np.argmax(row["counted"]))  # tokens before the first that counts, its own input aside
        assert history == min(context, int(own[0]) - 1)
    assert counted == list(range(1, count))


def test_streams_begin_anew_at_a_share_of_the_steps():
    tokens = np.arange(4000) % 7
    streams = Streams(tokens, batch_size=8, bptt=10, restart=0.25)
    first = [streams.batch(3, step, slice(0, 8))["reset"] for step in range(streams.length // 10)]
    assert first[0].all()  # the start of the epoch
    assert 0.15 < np.mean(first[1:]) < 0.35
    again = streams.batch(3, 5, slice(2, 4))["reset"]
    np.testing.assert_array_equal(again, first[5][2:4])  # a function of (seed, step), whatever rows are asked for
    assert not Streams(tokens, batch_size=8, bptt=10).batch(3, 5, slice(0, 8))["reset"].any()
    with pytest.raises(InputError, match="restart"):
        Streams(tokens, batch_size=8, bptt=10, restart=1.0)
