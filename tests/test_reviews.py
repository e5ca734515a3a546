"""Labelled texts: words, vocabularies, files, what is refused; and batches of like length."""

import gzip

import numpy as np
import pytest

from common import tfds_sets
from common.data import batches_by_step
from common.errors import InputError
from lstm.data import labelled, reviews
from lstm.data.buckets import Buckets, Padded, Sequences, bound_of, check_bounds
from lstm.data.labelled import NoPart, hold_out, table
from lstm.data.text import make_vocabulary

NAMES = ("bad", "good")


def read(split, root, **options):
    return reviews.read(split, source="table", class_names=NAMES, root=str(root), **options)


def write(path, text):
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_words_are_lower_case_with_marks_apart():
    text = "It's GREAT<br /><br />Don\u2019t miss 'Alien' (1979)... wo n't, caf\u00e9!"
    expected = "it's great don't miss 'alien ' ( 1979 ) . . . wo n't , caf\u00e9 !"
    assert reviews.words(text) == expected.split()
    assert reviews.words("<br />") == []


def test_the_vocabulary_is_that_of_a_language_model_of_the_same_texts():
    texts = ["a b c a", "A! d", "b a"]
    vocabulary = reviews.vocabulary_of(texts, 6)
    # a 4, <eos> 3, b 2, then ! and c by name; <unk> always has a place
    assert vocabulary.entries == ("a", "<eos>", "b", "!", "c", "<unk>")
    document = "".join(reviews.line(text) for text in texts)
    assert vocabulary == make_vocabulary([("x", document)], "words", max_words=5)
    tokens = reviews.encode(["b d zzz A"], vocabulary, max_length=9, keep="end")[0]
    assert tokens.tolist() == [2, 5, 5, 0]
    assert len(reviews.vocabulary_of(texts, 100).entries) == 7  # no more than there are
    assert len(reviews.vocabulary_of(["<unk> a"], 3).entries) <= 3


@pytest.mark.parametrize(("keep", "expected"), [("start", [0, 1, 2]), ("end", [4, 5, 6]), ("both", [0, 1, 6])])
def test_cutting(keep, expected):
    assert labelled.cut(np.arange(7), 3, keep).tolist() == expected
    assert labelled.cut(np.arange(3), 3, keep).tolist() == [0, 1, 2]
    assert labelled.cut(np.arange(14).reshape(7, 2), 3, keep)[:, 0].tolist() == [2 * i for i in expected]


def test_csv_with_quotes_and_line_breaks(tmp_path):
    write(tmp_path / "train.csv", 'id,text,label\r\n1,"so, so ""fine""\nreally",good\r\n2,dull,bad\r\n')
    part = read("train", tmp_path, held_out=0.0)
    assert part.items == ['so, so "fine"\nreally', "dull"]
    assert part.labels.tolist() == [1, 0]
    assert [p.rsplit(":", 1)[1] for p in part.places] == ["2", "4"]


def test_tsv_takes_quotes_as_they_are(tmp_path):
    write(tmp_path / "train.tsv.gz", 'text\tlabel\n"half a quote\tgood\nplain\tbad\n')
    part = read("train", tmp_path, train="train.tsv.gz", held_out=0.0)
    assert part.items == ['"half a quote', "plain"]


def test_parts_come_from_files_of_their_own_or_are_held_out(tmp_path):
    rows = "".join(f"word{i},{NAMES[i % 2]}\n" for i in range(40))
    write(tmp_path / "train.csv", "text,label\n" + rows)
    write(tmp_path / "test.csv", "text,label\nnew,good\n")
    parts = {split: read(split, tmp_path, held_out=0.2) for split in ("train", "validation", "test")}
    assert [len(parts[s].items) for s in parts] == [24, 8, 8]
    assert sorted(sum((p.items for p in parts.values()), [])) == sorted(f"word{i}" for i in range(40))
    for part in parts.values():
        assert 2 * part.labels.sum() == len(part.labels)  # class by class
    assert parts["train"].items == read("train", tmp_path, held_out=0.2).items
    assert read("test", tmp_path, held_out=0.2, test="test.csv").items == ["new"]
    assert len(read("train", tmp_path, held_out=0.2, test="test.csv").items) == 32
    with pytest.raises(NoPart, match=r"config.data.held_out \(now 0.0\)"):
        read("validation", tmp_path, held_out=0.0)


def test_the_end_is_held_out_of_each_class():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    assert hold_out(labels, 0.25, "end", 2).tolist() == [0, 0, 2, 1, 0, 0, 2, 2, 1, 1]
    with pytest.raises(InputError, match="held_out_from='ends'.*did you mean 'end'"):
        hold_out(labels, 0.1, "ends", 1)
    with pytest.raises(InputError, match=r"held_out=0.5: nothing would be left"):
        hold_out(labels, 0.5, "end", 2)


def test_sst2_and_imdb_layouts(tmp_path):
    for folder in ("sentence-classification", "imdb"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "sentence-classification" / "stsa.binary.dev.gz", "1 fine , really\n0 dull\n")
    options = {"root": str(tmp_path), "class_names": NAMES}
    part = reviews.read("validation", source="sst2", **options)
    assert (part.items, part.labels.tolist()) == (["fine , really", "dull"], [1, 0])
    lines = [f"{i // 10}\t7\t{i}\treview {i}\x85 with a strange mark" for i in range(20)]
    write(tmp_path / "imdb" / "train.tsv.gz", "\n".join(lines))
    train, held = (reviews.read(split, source="imdb", **options) for split in ("train", "validation"))
    assert held.items == [f"review {i}\x85 with a strange mark" for i in (9, 19)]
    assert len(train.items) == 18 and not set(train.items) & set(held.items)
    documents = reviews.imdb_documents(root=str(tmp_path))
    vocabulary = reviews.vocabulary_of(train.items, 9)
    assert vocabulary == make_vocabulary(documents["train"], "words", max_words=8) and len(vocabulary.entries) == 9
    assert documents["validation"][0][1].startswith("review 9 with a strange mark\nreview 19")


def test_a_tfds_set_reads_like_a_file(tmp_path):
    class Texts:
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return {"text": f"caf\u00e9 number {i}", "label": np.int64(i % 2)}

    tfds_sets.prepare({"train": Texts(), "test": Texts()}, "tiny_reviews", tmp_path)
    options = {"source": "tfds:tiny_reviews", "root": str(tmp_path), "class_names": NAMES}
    part = reviews.read("test", **options)
    assert part.items[2] == "caf\u00e9 number 2" and part.labels.tolist() == [0, 1, 0, 1]
    with pytest.raises(InputError, match="no feature 'review'; set config.data.text_key to one of"):
        reviews.read("test", text_key="review", **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text,label\ncaf\xe9,good\n", r"train.csv: not UTF-8 .*byte 14"),
        (b"", r"train.csv: the file is empty"),
        (b"texts,label\nx,good\n", r"train.csv: no column 'text'; it has texts, label"),
        (
            b"text;label\nx;good\n",
            r"no column 'text'; it has one column, 'text;label'; columns are separated by commas",
        ),
        (b"text,label\nfine,good\nodd,goood\n", r"train.csv:3: label 'goood' is no class.*\['bad', 'good'\]"),
        (b"text,label\nfine,good\n <br /> ,bad\n", r"train.csv:3: the text ' <br /> ' has no words"),
        (b"text,label\nso, so,good\n", r"train.csv:2: 3 fields, the header has 2; quote texts"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_in_one_line(tmp_path, content, message):
    write(tmp_path / "train.csv", content)
    with pytest.raises(InputError, match=message) as error:
        read("train", tmp_path, held_out=0.0)
    assert "\n" not in str(error.value)


def test_an_unknown_label_in_the_test_part_and_all_findings_at_once(tmp_path):
    write(tmp_path / "test.csv", "text,label\nfine,good\nodd,great\n...,?\n, bad\n")
    with pytest.raises(InputError, match=r"test.csv:3: label 'great' is no class"):
        read("test", tmp_path, test="test.csv")
    lines = []
    part = read("test", tmp_path, test="test.csv", refuse=lines.append)
    assert part.items == ["fine"]
    assert [line.split(": ")[0].rsplit(":", 1)[1] for line in lines] == ["3", "4", "5"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="train.csv"):
        list(table(tmp_path / "train.csv", ("text",)))


def test_a_vocabulary_file_must_fit(tmp_path):
    path = write(tmp_path / "words.txt", "the\na\nthe\n<unk>\n")
    assert reviews.vocabulary_from(path, 4).entries == ("the", "a", "<unk>", "<eos>")
    with pytest.raises(InputError, match=r"words.txt: 4 entries, config.model.vocabulary=3; set it to 4"):
        reviews.vocabulary_from(path, 3)


def test_made_texts_do_not_meet():
    train, test = (reviews.read(s, source="made", class_names=NAMES) for s in ("train", "test"))
    assert len(train.items) == 512 and len(test.items) == 128
    assert train.items[:20] != test.items[:20]
    for text, label in zip(train.items, train.labels, strict=True):
        last = text.removesuffix(" .").split(" , ")[-1].split()
        assert label == (last[-1] in reviews.GOOD) ^ ("not" in last)


# Batches ------------------------------------------------------------------------------------------------------------------


def made(count=53, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 30, count)
    inputs = [np.full(n, i + 1, np.int32) for i, n in enumerate(lengths)]
    return Sequences(inputs, rng.integers(0, 2, count).astype(np.int32))


def epoch(buckets, seed, number):
    steps = range(number * buckets.batches, (number + 1) * buckets.batches)
    return [buckets.batch(seed, step, slice(None)) for step in steps]


def test_every_example_once_an_epoch_in_its_bucket():
    source = made()
    buckets = Buckets(source, 8, (8, 16, 30))
    assert (buckets.batches, len(buckets)) == (7, 56)
    for number in range(3):
        seen = []
        for batch in epoch(buckets, 0, number):
            assert batch["inputs"].shape[0] == 8 and batch["inputs"].shape[1] in (8, 16, 30)
            for row, length, label, mask in zip(
                *(batch[k] for k in ("inputs", "length", "label", "mask")), strict=True
            ):
                example = int(row[0]) - 1
                assert length == source.lengths[example] and label == source.labels[example]
                assert (row[:length] == example + 1).all() and (row[length:] == 0).all()
                seen += [example] if mask else []
            longest = batch["length"].max()
            assert batch["inputs"].shape[1] == min(b for b in (8, 16, 30) if b >= longest)
        assert sorted(seen) == list(range(53))
    padding = lambda b: sum((x["inputs"] == 0).sum() for x in epoch(b, 0, 0))
    assert padding(buckets) < 0.6 * padding(Buckets(source, 8, (30,)))


def test_batches_are_a_function_of_seed_and_step():
    one, other = (Buckets(made(), 8, (8, 16, 30)) for _ in range(2))
    for step in (20, 3, 9):  # in any order
        a, b = one.batch(4, step, slice(None)), other.batch(4, step, slice(None))
        assert all(np.array_equal(a[name], b[name]) for name in a)
    ids = lambda seed, number: [int(r[0]) for b in epoch(one, seed, number) for r in b["inputs"]]
    assert ids(0, 0) != ids(0, 1) and ids(0, 0) != ids(1, 0)
    widths = [batch["inputs"].shape[1] for batch in epoch(one, 0, 0)]
    assert widths != sorted(widths) or [b["inputs"].shape[1] for b in epoch(one, 0, 1)] != widths


def test_two_processes_read_the_rows_of_one():
    buckets = Buckets(made(), 8, (8, 16, 30))
    rows = []
    for process in range(2):
        options = {"seed": 0, "batch_size": 8, "process": process, "processes": 2, "start": 5, "threads": 2}
        with batches_by_step(buckets.batch, **options) as stream:
            rows.append([next(stream) for _ in range(4)])
    for step in range(4):
        whole = buckets.batch(0, 5 + step, slice(None))
        for name, value in whole.items():
            np.testing.assert_array_equal(np.concatenate([rows[0][step][name], rows[1][step][name]]), value)


def test_fewer_examples_than_rows():
    buckets = Buckets(made(3), 8, (30,))
    batch = buckets.batch(0, 0, slice(None))
    assert batch["mask"].sum() == 3 and batch["inputs"].shape == (8, 30)


def test_rows_of_an_evaluation_have_one_shape():
    source = made()
    rows = Padded(source, 30)
    assert len(rows) == 53 and rows[4]["inputs"].shape == (30,) and rows[4]["id"] == 4
    assert (rows[4]["inputs"] > 0).sum() == rows[4]["length"] == source.lengths[4]


def test_bounds():
    assert (
        check_bounds((8, 16), 30) == (8, 16, 30)
        and check_bounds((8, 30), 30) == (8, 30)
        and check_bounds((), 9) == (9,)
    )
    for wrong in ((16, 8), (8, 40), (0, 8), (8, 8)):
        with pytest.raises(InputError, match="growing lengths up to config.data.max_length=30"):
            check_bounds(wrong, 30)
    assert [bound_of(n, (8, 16)) for n in (1, 8, 9, 16)] == [8, 8, 16, 16]
