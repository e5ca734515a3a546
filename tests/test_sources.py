"""Folder and TFDS sources, their splits, and what is said where files do not fit."""

import functools
import sys

import numpy as np
import PIL.Image
import pytest
import tifffile

from common import tfds_sets
from tests.test_images import refused
from unet import sources
from unet.folder import check_folder, folder_source
from unet.sources import check, make_source, pixel_counts

CLASSES = 3


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(array).save(path)


@pytest.fixture
def folder(tmp_path):
    """Ten images of 20 + i x 30 with masks of three classes and a stripe that does not count."""
    for i in range(10):
        rng = np.random.default_rng(i)
        mask = rng.integers(0, CLASSES, (20 + i, 30), dtype=np.uint8)
        mask[:2] = 255
        write(tmp_path / f"images/s{i}.png", rng.integers(0, 256, (20 + i, 30), dtype=np.uint8))
        write(tmp_path / f"masks/s{i}.png", mask)
    return tmp_path


@pytest.fixture
def make(folder):
    return functools.partial(make_source, source="folder", root=str(folder), classes=CLASSES, bands=1)


@pytest.fixture
def findings(folder):
    return functools.partial(check, source="folder", root=str(folder), classes=CLASSES, bands=1)


def names(source):
    return [source.name(i) for i in range(len(source))]


def test_an_example(make, folder):
    source = make("train", split_by="block", blocks={"train": (2, 5)})
    assert names(source) == ["s2", "s3", "s4"] and [source.size(i) for i in range(3)] == [(22, 30), (23, 30), (24, 30)]
    example = source[1]
    assert example["image"].dtype == np.float32 and example["image"].shape == (23, 30, 1)
    assert abs(example["image"].mean()) < 1e-5 and abs(example["image"].std() - 1) < 1e-5
    assert example["label"].dtype == np.int32
    assert np.array_equal(example["label"], np.asarray(PIL.Image.open(folder / "masks/s3.png")))
    counts = pixel_counts(source, CLASSES)
    assert counts.sum() == (20 + 21 + 22) * 30 and counts.min() > 500


@pytest.mark.parametrize("seed", [0, 1])
def test_fractions_put_every_image_in_one_split(make, seed):
    splits = {name: names(make(name, split_seed=seed)) for name in ("train", "validation", "test")}
    assert sorted(sum(splits.values(), [])) == [f"s{i}" for i in range(10)]
    assert [len(v) for v in splits.values()] == [7, 1, 2] or [len(v) for v in splits.values()] == [7, 2, 1]
    assert splits["train"] == names(make("train", split_seed=seed))
    assert splits["train"] != names(make("train", split_seed=seed + 7))


def test_blocks_and_lists(make, folder):
    blocks = {"train": (0, 7), "validation": (8, 10)}
    assert names(make("validation", split_by="block", blocks=blocks)) == ["s8", "s9"]
    (folder / "train.txt").write_text("s3\ns1.png\n\ns7\n")
    (folder / "val.txt").write_text("s2\n")
    assert names(make("train", split_by="list")) == ["s1", "s3", "s7"]
    lists = {"train": "train.txt", "validation": "val.txt"}
    assert names(make("validation", split_by="list", lists=lists)) == ["s2"]
    (folder / "val.txt").write_text("s3\n")
    with refused("val.txt", "'s3' is in the list of train too"):
        make("train", split_by="list", lists=lists)
    (folder / "train.txt").write_text("s33\n")
    with refused("train.txt", "'s33' is no image"):
        make("train", split_by="list")
    with refused("test.txt", "cannot be read"):
        make("test", split_by="list")


def test_split_by_folder_and_other_names(tmp_path):
    for split, count in (("train", 3), ("validation", 1)):
        for i in range(count):
            write(tmp_path / f"set/{split}/scan/{i}.jpg", np.full((9, 9, 3), 9, np.uint8))
            write(tmp_path / f"set/{split}/truth/{i}_mask.png", np.full((9, 9), i % 2 * 255, np.uint8))
    options = {"folder": "set", "images": "scan", "masks": "truth", "mask_suffix": "_mask", "mask_values": "binary"}
    options |= {"split_by": "folder", "classes": 2, "bands": 3, "root": str(tmp_path)}
    source = make_source("train", source="folder", **options)
    assert len(source) == 3 and source[1]["label"].min() == 1
    assert len(make_source("validation", source="folder", **options)) == 1
    with refused("test/scan", "no such folder"):
        make_source("test", source="folder", **options)
    assert check_folder(**options) == []


def test_tiff_images_with_npy_masks(tmp_path):
    bands = np.random.default_rng(0).integers(0, 9999, (12, 10, 5), dtype=np.uint16)
    for place in ("images", "masks"):
        (tmp_path / place).mkdir()
    tifffile.imwrite(tmp_path / "images/a.tif", bands, planarconfig="contig")
    np.save(tmp_path / "masks/a.npy", bands[..., 0].astype(np.int64) % 2)
    fractions = {"train": 1.0}
    source = make_source("train", source="folder", root=str(tmp_path), classes=2, bands=5, fractions=fractions)
    assert source[0]["image"].shape == (12, 10, 5) and source.size(0) == (12, 10)
    assert np.array_equal(source.read(0)[0], bands)


# Bad input: each raises on reading, and check names all of it.


def test_image_without_mask_and_mask_without_image(make, findings, folder):
    (folder / "masks/s3.png").unlink()
    (folder / "images/s5.png").unlink()
    (folder / "images/s6.png").unlink()
    with refused("images/s3.png", "no mask 's3'", "config.data.mask_suffix"):
        make("train")
    found = findings()
    assert len(found) == 3 and "masks/s6.png: no image of that name" in found[2]


def test_sizes_that_differ(make, findings, folder):
    write(folder / "masks/s4.png", np.zeros((24, 31), np.uint8))
    with refused("masks/s4.png: 24x31", "s4.png is 24x30", "must have the size"):
        make("train", split_by="block", blocks={"train": (4, 5)})[0]
    assert len(findings()) == 1


def test_classes_bands_nan_and_broken_files(make, findings, folder):
    write(folder / "masks/s0.png", np.full((20, 30), 7, np.uint8))
    write(folder / "images/s1.png", np.zeros((21, 30, 3), np.uint8))
    (folder / "images/s2.png").unlink()
    np.save(folder / "images/s2.npy", np.full((22, 30), np.nan, np.float32))
    broken = folder / "images/s3.png"
    broken.write_bytes(broken.read_bytes()[:300])
    (folder / "masks/s4.png").write_bytes(b"\x89PNG")
    every = make("train", split_by="block", blocks={"train": (0, 10)})
    for index, part in enumerate(("class 7", "3 bands, expected 1", "660 pixels", "truncated", "truncated")):
        with refused(f"s{index}", part):
            every[index]
    found = findings()
    assert len(found) == 5 and all("\n" not in line for line in found)
    assert all(any(f"s{i}." in line for line in found) for i in range(5))


def test_check_reads_headers_of_all_files_when_time_is_up(findings, folder):
    write(folder / "masks/s9.png", np.zeros((5, 5), np.uint8))
    write(folder / "masks/s0.png", np.full((20, 30), 7, np.uint8))
    assert ["s9.png" in line for line in findings()] == [True, False]
    options = {"root": str(folder), "classes": CLASSES, "bands": 1}
    assert len(check_folder(seconds=0.0, **options)) == 1


def test_masks_of_0_and_255_say_how_to_declare_them(folder):
    for i in range(10):
        write(folder / f"masks/s{i}.png", np.where(np.arange(30) > 9, 255, 0).astype(np.uint8)[None].repeat(20 + i, 0))
    options = {"source": "folder", "root": str(folder), "classes": 2, "bands": 1}
    assert "config.data.mask_values=binary" in check(**options)[0]
    assert check(**options, mask_values="binary") == []


def test_empty_and_missing_folders(make, findings, tmp_path, folder):
    assert findings() == []
    (tmp_path / "empty/images").mkdir(parents=True)
    (tmp_path / "empty/images/readme.txt").write_text("x")
    with refused("empty/images: no files of", "config.data.images"):
        make("train", folder="empty")
    with refused("nowhere/images: no such folder", "config.data.root"):
        make("train", folder="nowhere")
    assert len(findings(folder="nowhere")) == 1
    write(folder / "images/s1.jpg", np.zeros((21, 30), np.uint8))
    with refused("s1.png: has the name of s1.jpg"):
        make("train")


def test_crop_larger_than_an_image(findings):
    assert findings(crop=(20, 30)) == []
    found = findings(crop=(22, 30))
    assert len(found) == 2 and "images/s0.png: 20x30 is smaller than config.data.crop=[22, 30]" in found[0]


def test_wrong_splits(make):
    with refused("config.data.split_by='random'", "fraction, folder, list, block"):
        make("train", split_by="random")
    with refused("split 'tset'", "train, validation, test"):
        make("tset")
    with refused("config.data.blocks.train", "within 0 to 10"):
        make("train", split_by="block", blocks={"train": (0, 11)})
    with refused("config.data.blocks", "overlaps"):
        make("train", split_by="block", blocks={"train": (0, 5), "validation": (4, 6)})
    with refused("config.data.fractions", "at most 1"):
        make("train", fractions={"train": 0.9, "validation": 0.2})
    with refused("leaves no image of 10 for test"):
        make("test", fractions={"train": 1.0, "test": 0.0})


def test_unknown_keys_and_sources(make):
    with refused("config.data.mask_value: ", "did you mean 'mask_values'"):
        make("train", mask_value="binary")
    with refused("config.data.masks: source 'brain' has no such key"):
        make_source("train", source="brain", classes=4, bands=1, masks="x")
    for name in ("foldr", "tfds", "folder:x"):
        with refused(f"config.data.source='{name}'", "tfds:NAME"):
            make_source("train", source=name, classes=2, bands=1)
    with refused("config.data.classes"):
        sources.check_keys({"source": "folder", "classes": 3})


# TFDS


class Records:
    def __init__(self, count, seed=0):
        self.count, self.seed = count, seed

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng((self.seed, index))
        return {
            "image": rng.integers(0, 256, (10 + index, 12, 3), dtype=np.uint8),
            "label": rng.integers(1, 4, (10 + index, 12), dtype=np.uint8),
            "bands": rng.normal(size=(10 + index, 12, 4)).astype(np.float32),
            "wide": rng.integers(0, 65536, (10 + index, 12, 2), dtype=np.uint16),
            "name": f"r{index}",
        }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    place = tmp_path_factory.mktemp("sets")
    folder = tfds_sets.prepare({"train": Records(6), "test": Records(3, seed=1)}, "own_set", place)
    assert folder == place / "own_set/1.0.0"
    return place


def test_a_prepared_set_gives_back_what_was_written(prepared):
    for name in ("own_set", "own_set:1.0.0"):
        found = tfds_sets.tfds_source(name, "train", prepared)
        assert len(found) == 6
        for index in range(6):  # in order
            record, written = found[index], Records(6)[index]
            for key in ("image", "bands", "wide"):
                assert record[key].dtype == written[key].dtype and np.array_equal(record[key], written[key])
            assert np.array_equal(record["label"][..., 0], written["label"]) and record["name"] == b"r%d" % index
    assert len(tfds_sets.tfds_source("own_set", "train[:50%]", prepared)) == 3
    assert "tensorflow" not in sys.modules


def test_a_tfds_source(prepared):
    make = functools.partial(make_source, source="tfds:own_set", root=str(prepared), classes=3, bands=3, mask_offset=1)
    source = make("validation", splits={"validation": "train[2:]"})
    assert len(source) == 4 and names(source) == ["r2", "r3", "r4", "r5"] and source.size(0) == (12, 12)
    assert np.array_equal(source[1]["label"], Records(6)[3]["label"].astype(np.int32) - 1)
    assert source[1]["image"].shape == (13, 12, 3) and abs(source[1]["image"].mean()) < 1e-5
    resized = make("test", resize=(8, 20))
    assert resized.size(0) == (8, 20) and resized[0]["image"].shape == (8, 20, 3)
    assert set(np.unique(resized[0]["label"])) <= {0, 1, 2}
    assert len(make("test", image_key="bands")) == 3
    with refused("tfds:own_set example 0: 4 bands, expected 3"):
        make("test", image_key="bands")[0]
    with refused("no feature 'mask'", "config.data.mask_key", "label"):
        make("test", mask_key="mask")[0]
    with refused("mask value 3 is no class of 3", "config.data.mask_offset"):
        [make("train", mask_offset=0)[i] for i in range(5)]
    with refused("split 'valid'", "config.data.splits"):
        make("valid")
    assert "mask value 3" in check(source="tfds:own_set", root=str(prepared), classes=3, bands=3)[0]


def test_unknown_sets_and_splits(prepared):
    read = functools.partial(tfds_sets.tfds_source, data_dir=prepared)
    with refused("config.data.source=tfds:own_st", "no such set"):
        read("own_st", "train")
    with refused("tfds:oxford_iit_pet", "did you mean 'oxford_iiit_pet'"):
        read("oxford_iit_pet", "train")
    with refused("tfds:own_set: it has no split 'valid'", "known: test, train"):
        read("own_set", "valid")
    for split in ("train[:x]", "train[99:]"):
        with refused("tfds:own_set: split", "cannot be read"):
            read("own_set", split)
    with refused("tfds:own set", "write tfds:NAME"):
        read("own set", "train")


def fake_download(monkeypatch, script):
    monkeypatch.setattr(tfds_sets, "PREPARE", script)


def test_a_download_that_hangs_is_ended(tmp_path, monkeypatch):
    fake_download(monkeypatch, "import time\ntime.sleep(60)")
    with refused("tfds:oxford_iiit_pet: cannot be downloaded, nothing arrived for 1 s", "check the network"):
        tfds_sets.tfds_source("oxford_iiit_pet", "train", tmp_path, patience=1.0)


def test_a_download_that_fails_says_why(tmp_path, monkeypatch):
    fake_download(monkeypatch, "raise SystemExit('no route to host')")
    with refused("tfds:oxford_iiit_pet: cannot be downloaded", "no route to host"):
        tfds_sets.tfds_source("oxford_iiit_pet", "train", tmp_path)
    fake_download(monkeypatch, "")
    with refused("left no data set"):
        tfds_sets.tfds_source("oxford_iiit_pet", "train", tmp_path)


def test_a_download_goes_on_while_something_arrives(tmp_path, monkeypatch):
    script = "import sys, time\nfor i in range(8):\n    open(f'{sys.argv[2]}/{i}', 'w').write('x')\n    time.sleep(0.4)"
    fake_download(monkeypatch, script)
    with refused("left no data set"):
        tfds_sets.tfds_source("oxford_iiit_pet", "train", tmp_path, patience=1.5)
    assert len(list(tmp_path.glob("[0-9]"))) == 8


def test_prepare_refuses(prepared, tmp_path):
    with refused("own_set/1.0.0: is there already", "delete it"):
        tfds_sets.prepare({"train": Records(1)}, "own_set", prepared)
    with refused("name 'My Set'"):
        tfds_sets.prepare({"train": Records(1)}, "My Set", tmp_path)
    with refused("split 'train' has no examples"):
        tfds_sets.prepare({"train": Records(0)}, "empty", tmp_path)
    with refused("cannot be written"):
        tfds_sets.prepare({"train": Records(1)}, "own", "/proc/none")


def test_em_slices(data_root):
    blocks = {"train": (0, 24), "validation": (24, 30)}
    options = {"folder": "isbi2012-em/train", "images": "image", "masks": "label", "mask_values": "binary"}
    source = folder_source(
        "validation", root=str(data_root), classes=2, bands=1, split_by="block", blocks=blocks, **options
    )
    assert names(source) == [str(i) for i in range(24, 30)] and source.size(0) == (512, 512)
    assert 0.7 < source[0]["label"].mean() < 0.85  # cell interior
