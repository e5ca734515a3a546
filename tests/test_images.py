"""Readers of images and masks, on files written by other libraries, and every way in which such files are wrong."""

import struct
import zlib

import imagecodecs
import numpy as np
import PIL.Image
import pytest
import tifffile

from common.errors import InputError
from unet import images
from unet.images import image_size, normalise, read_image, read_mask

rng = np.random.default_rng(0)
GREY = rng.integers(0, 256, (11, 7), dtype=np.uint8)
RGB = rng.integers(0, 256, (11, 7, 3), dtype=np.uint8)
WIDE = rng.integers(0, 65536, (11, 7), dtype=np.uint16)
BANDS = rng.integers(0, 65536, (11, 7, 5), dtype=np.uint16)
FLOAT = rng.normal(size=(11, 7, 4)).astype(np.float32)


def png(path, array, **options):
    PIL.Image.fromarray(array).save(path, **options)
    return path


def tiff(path, array, **options):
    tifffile.imwrite(path, array, **options)
    return path


def npy(path, array, **options):
    np.save(path, array, **options)
    return path


def refused(*parts):
    """The message is one line that holds all of the parts."""
    return pytest.raises(InputError, match="(?s)" + "".join(f"(?=.*{part})" for part in parts) + r"[^\n]*$")


WRITERS = {
    "grey.png": lambda p: (png(p, GREY), GREY[..., None]),
    "rgb.png": lambda p: (png(p, RGB), RGB),
    "wide.png": lambda p: (png(p, WIDE), WIDE[..., None]),
    "bits.png": lambda p: (png(p, GREY > 99), (GREY > 99)[..., None].astype(np.uint8)),
    "grey.tif": lambda p: (tiff(p, GREY), GREY[..., None]),
    "rgb.tiff": lambda p: (tiff(p, RGB, photometric="rgb"), RGB),
    "bands.tif": lambda p: (tiff(p, BANDS, photometric="minisblack", planarconfig="contig"), BANDS),
    "planes.tif": lambda p: (
        tiff(p, BANDS.transpose(2, 0, 1), photometric="minisblack", planarconfig="separate"),
        BANDS,
    ),
    "pages.tif": lambda p: (tiff(p, FLOAT.transpose(2, 0, 1), photometric="minisblack"), FLOAT),
    "packed.tif": lambda p: (tiff(p, BANDS[..., 0], compression="lzw"), BANDS[..., :1]),
    "grey.npy": lambda p: (npy(p, WIDE), WIDE[..., None]),
    "float.npy": lambda p: (npy(p, FLOAT), FLOAT),
}


@pytest.mark.parametrize("name", WRITERS)
def test_reads_what_other_libraries_wrote(tmp_path, name):
    path, expected = WRITERS[name](tmp_path / name)
    found = read_image(path, bands=expected.shape[-1])
    assert found.dtype == expected.dtype and np.array_equal(found, expected)
    assert image_size(path) == expected.shape


def test_jpeg_is_close_and_palette_is_its_colours(tmp_path):
    smooth = np.tile(np.linspace(20, 230, 32).astype(np.uint8)[:, None, None], (1, 32, 3))
    PIL.Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg", 3).astype(int) - smooth).max() < 6
    PIL.Image.fromarray(smooth).convert("P", palette=PIL.Image.Palette.ADAPTIVE).save(tmp_path / "p.png")
    assert image_size(tmp_path / "p.png") == (32, 32, 3)
    assert np.abs(read_image(tmp_path / "p.png").astype(int) - smooth).max() < 6


def test_sixteen_bit_colour_png_keeps_its_bits(tmp_path):
    deep = BANDS[..., :3].copy()
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(deep))
    found = read_image(tmp_path / "deep.png", 3)
    assert found.dtype == np.uint16 and np.array_equal(found, deep)


def test_opaque_alpha_is_left_out_and_other_alpha_is_not(tmp_path):
    alpha = np.concatenate([RGB, np.full((11, 7, 1), 255, np.uint8)], -1)
    assert np.array_equal(read_image(png(tmp_path / "a.png", alpha), 3), RGB)
    alpha[3, 3, 3] = 7
    with refused("b.png", "4 bands, expected 3", "config.model.bands=4"):
        read_image(png(tmp_path / "b.png", alpha), 3)


def test_band_counts_that_differ(tmp_path):
    with refused("a.png", "3 bands, expected 1", "config.model.bands=3"):
        read_image(png(tmp_path / "a.png", RGB), bands=1)
    with refused("b.tif", "5 bands, expected 4"):
        read_image(tiff(tmp_path / "b.tif", BANDS, photometric="minisblack", planarconfig="contig"), bands=4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pixels_that_are_not_numbers(tmp_path, bad):
    array = FLOAT.copy()
    array[4, 5, 2] = bad
    for path in (npy(tmp_path / "a.npy", array), tiff(tmp_path / "a.tif", array, planarconfig="contig")):
        with refused(path.name, "1 pixels are NaN or infinite", "row 4, column 5", "fill them"):
            read_image(path)


def truncated(path):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    return path


def noise(shape):
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "lzw.tif", "a.npy"])
def test_truncated_files(tmp_path, name):
    path = tmp_path / name
    if name.endswith("tif"):
        tiff(path, noise((60, 50)), compression="lzw" if name == "lzw.tif" else None)
    else:
        (npy if name.endswith("npy") else png)(path, noise((60, 50)))
    truncated(path)
    with refused(name, "broken or truncated", "replace or remove it"):
        read_image(path)
    with refused(name, "broken or truncated"):
        read_mask(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.npy"])
@pytest.mark.parametrize("content", [b"", b"not an image at all", b"\x89PNG\r\n\x1a\n", b"II*\x00\x08\x00\x00\x00"])
def test_files_that_are_something_else(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    for read in (image_size, read_image, read_mask):
        with refused(name, "cannot be read"):
            read(tmp_path / name)


def test_damaged_bytes_give_an_image_or_an_input_error(tmp_path):
    """Whatever a byte is turned into: no other exception."""
    originals = [png(tmp_path / "a.png", noise((9, 8))), tiff(tmp_path / "a.tif", noise((9, 8)), compression="zlib")]
    originals += [npy(tmp_path / "a.npy", noise((9, 8)))]
    random = np.random.default_rng(2)
    for path in originals:
        data = path.read_bytes()
        for place in random.integers(0, len(data), 40):
            path.write_bytes(data[:place] + bytes([random.integers(256)]) + data[place + 1 :])
            try:
                read_image(path, 1)
                read_mask(path)
            except InputError as error:
                assert "\n" not in str(error)


def test_missing_and_unknown_files(tmp_path):
    with refused("none.png", "no such file"):
        read_image(tmp_path / "none.png")
    (tmp_path / "a.xcf").write_bytes(b"x")
    with refused("a.xcf", "not one of .png", "convert it"):
        read_image(tmp_path / "a.xcf")


def test_nothing_is_unpickled(tmp_path):
    trap = np.array([{"a": 1}], dtype=object)
    np.save(tmp_path / "a.npy", trap, allow_pickle=True)
    with refused("a.npy"):
        read_image(tmp_path / "a.npy")
    npy(tmp_path / "b.npy", np.zeros((3, 3), np.complex64))
    with refused("b.npy", "complex64"):
        read_image(tmp_path / "b.npy")


def test_size_is_checked_before_decoding(tmp_path, monkeypatch):
    files = [png(tmp_path / "a.png", GREY), tiff(tmp_path / "a.tif", GREY), npy(tmp_path / "a.npy", GREY)]
    monkeypatch.setattr(images, "decode", lambda path: pytest.fail("decoded"))
    for path in files:
        with refused(path.name, "11x7x1 is more than 50 pixels", "cut it"):
            read_image(path, max_pixels=50)
        with refused(path.name, "more than 50 pixels"):
            read_mask(path, max_pixels=50)


def test_a_header_that_claims_a_huge_image(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    claim = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", claim) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with refused("a.png", "more than .* pixels"):
        read_image(tmp_path / "a.png")


def test_index_masks(tmp_path):
    mask = (GREY % 4).astype(np.uint8)
    mask[0, 0] = 255
    paths = [png(tmp_path / "a.png", mask), npy(tmp_path / "a.npy", mask.astype(np.int64))]
    paths += [tiff(tmp_path / "a.tif", mask.astype(np.uint16)), tiff(tmp_path / "f.tif", mask.astype(np.float32))]
    palette = PIL.Image.fromarray(mask)
    palette.putpalette(list(range(256)) * 3)  # a palette does not change the indices
    palette.save(tmp_path / "p.png")
    for path in [*paths, tmp_path / "p.png"]:
        found = read_mask(path, "index", classes=4)
        assert found.dtype == np.uint8 and np.array_equal(found, mask)


def test_a_class_outside_the_range(tmp_path):
    mask = np.zeros((11, 7), np.uint8)
    mask[2, 3] = 5
    with refused("a.png", "class 5 at row 2, column 3", "expected 0 to 3", "config.model.classes=6"):
        read_mask(png(tmp_path / "a.png", mask), classes=4)
    with refused("b.npy", "class -1"):
        read_mask(npy(tmp_path / "b.npy", mask.astype(np.int16) - (mask == 5) * 6), classes=4)
    with refused("c.npy", "class 300"):
        read_mask(npy(tmp_path / "c.npy", mask.astype(np.int16) * 60))
    with refused("d.npy", "fractions"):
        read_mask(npy(tmp_path / "d.npy", mask / 2), classes=4)
    with refused("e.png", "2, 3, 4, 5 ...", "mask_values=nonzero"):  # numbers of objects
        read_mask(png(tmp_path / "e.png", np.arange(9, dtype=np.uint8).reshape(3, 3)), classes=2)


def test_masks_of_0_and_255(tmp_path):
    path = png(tmp_path / "a.png", np.where(GREY > 99, 255, 0).astype(np.uint8))
    with refused("a.png", "0, 255 only, expected 0 and 1", "config.data.mask_values=binary", "index.ignore"):
        read_mask(path, classes=2)
    white = png(tmp_path / "w.png", np.full((3, 3), 255, np.uint8))
    with refused("w.png", "config.data.mask_values=binary"):
        read_mask(white, classes=2)
    assert np.array_equal(read_mask(path, "binary", classes=2), GREY > 99)
    assert np.array_equal(read_mask(path, "index+ignore", classes=2), np.where(GREY > 99, 255, 0))
    assert np.array_equal(read_mask(path, classes=3), np.where(GREY > 99, 255, 0))  # where 255 is not labelled
    assert read_mask(white, "binary", classes=2).min() == 1


def test_binary_masks_of_other_kinds(tmp_path):
    truth = GREY > 99
    PIL.Image.fromarray(truth).convert("P").save(tmp_path / "p.png")
    files = [png(tmp_path / "b.png", truth), tmp_path / "p.png", npy(tmp_path / "b.npy", truth)]
    files += [npy(tmp_path / "w.npy", truth * np.uint16(65535))]
    files += [png(tmp_path / "rgb.png", np.repeat(truth[..., None] * np.uint8(255), 3, -1))]
    for path in files:
        assert np.array_equal(read_mask(path, "binary", classes=2), truth), path
    with refused("g.png", "mask_values=binary", "values"):
        read_mask(png(tmp_path / "g.png", GREY), "binary")
    with refused("j.jpg", "JPEG blurs masks"):
        read_mask(png(tmp_path / "j.jpg", np.where(noise((40, 40)) > 99, 255, 0).astype(np.uint8)), "binary")
    assert np.array_equal(read_mask(tmp_path / "g.png", "nonzero", classes=2), GREY > 0)


COLOURS = ((0, 0, 0), (255, 0, 10), (10, 0, 255), (7, 7, 7))


def test_colour_masks(tmp_path):
    truth = (GREY % 4).astype(np.uint8)
    coloured = np.array(COLOURS, np.uint8)[truth]
    palette = PIL.Image.fromarray(truth)
    palette.putpalette(np.array(COLOURS, np.uint8).reshape(-1).tolist())
    palette.save(tmp_path / "p.png")
    alpha = np.concatenate([coloured, noise((11, 7, 1))], -1)
    for path in (png(tmp_path / "a.png", coloured), tmp_path / "p.png", png(tmp_path / "rgba.png", alpha)):
        assert np.array_equal(read_mask(path, "colours", COLOURS, classes=4), truth)
    coloured[3, 2] = (1, 2, 3)
    with refused("b.png", r"\[1, 2, 3\]", "row 3, column 2", "config.data.mask_colours"):
        read_mask(png(tmp_path / "b.png", coloured), "colours", COLOURS)
    with refused("config.data.mask_colours"):
        read_mask(tmp_path / "b.png", "colours")
    with refused("b.png", "a mask of 3 bands", "mask_values=colours"):
        read_mask(tmp_path / "b.png", classes=4)
    with refused("config.data.mask_values='color'"):
        read_mask(tmp_path / "b.png", "color")


def test_normalise():
    image = np.stack([WIDE, WIDE // 7 + 5, np.full_like(WIDE, 3)], -1)
    found = normalise(image)
    assert found.dtype == np.float32
    assert np.abs(found.mean((0, 1))).max() < 1e-5 and np.allclose(found.std((0, 1)), (1, 1, 0), atol=1e-5)
    assert np.allclose(normalise(GREY[..., None], "range"), GREY[..., None] / 255)
    assert np.allclose(normalise(WIDE[..., None], "range"), WIDE[..., None] / 65535)
    assert np.array_equal(normalise(FLOAT, "range"), FLOAT)
    assert np.array_equal(normalise(WIDE[..., None], "none"), WIDE[..., None].astype(np.float32))
    with refused("config.data.normalise='zscore'", "image, range, none"):
        normalise(FLOAT, "zscore")


def test_normalise_large_values_in_float64():
    image = (1e6 + rng.normal(size=(50, 50, 1))).astype(np.float32)
    assert abs(normalise(image).std() - 1) < 1e-3
