"""Legends of land cover: codes with names, colours and groups; codes of a raster to class indices and back."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Num, Shaped, UInt8

from common.errors import InputError
from unet.images import IGNORE

NODATA = 254  # in a map of class indices: nothing is known here. IGNORE: something is, and it does not count.
CODES_SHOWN = 40  # in a message
UNKNOWN = 253  # while codes are looked up
MAX_CODE = 65535


class LandClass(NamedTuple):
    """A line of a legend. `group`: the coarser class it belongs to, Level I of NLCD. `alaska`: found there alone."""

    code: int
    name: str
    colour: tuple[int, int, int]
    group: str
    alaska: bool = False


class Legend(NamedTuple):
    """Land-cover classes; a class index is a place in `classes`."""

    name: str
    classes: tuple[LandClass, ...]

    @property
    def codes(self) -> tuple[int, ...]:
        return tuple(x.code for x in self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(x.name for x in self.classes)

    @property
    def colours(self) -> tuple[tuple[int, int, int], ...]:
        return tuple(x.colour for x in self.classes)

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(x.group for x in self.classes))

    @property
    def group_of(self) -> tuple[int, ...]:
        """Class index -> group index."""
        groups = self.groups
        return tuple(groups.index(x.group) for x in self.classes)

    @property
    def nodata(self) -> int:
        """The code that is written where there is no data."""
        return next(code for code in (0, 255, MAX_CODE) if code not in self.codes)

    def to_index(
        self,
        codes: Num[np.ndarray, "*shape"],
        *,
        nodata: float | None = None,
        ignore: Sequence[int] = (),
        where: str = "",
    ) -> UInt8[np.ndarray, "*shape"]:
        """Class indices; NODATA where the code is `nodata` (or not a number), IGNORE where it is one of `ignore`.

        Raises InputError for a code that is neither, with `where` it stands and how many pixels have it.
        """
        table = np.full(MAX_CODE + 1, UNKNOWN, np.uint8)
        table[list(self.codes)] = np.arange(len(self.classes))
        if codes.dtype in (np.uint8, np.uint16):
            index = table[codes]
        else:  # -9999 and 1.5 are no places in a table
            fits = (codes >= 0) & (codes <= MAX_CODE) & (codes == np.floor(codes))
            index = np.where(fits, table[np.where(fits, codes, 0).astype(np.uint16)], np.uint8(UNKNOWN))
        if len(ignore):
            index = np.where(np.isin(codes, ignore), np.uint8(IGNORE), index)
        missing = np.isnan(codes) if codes.dtype.kind == "f" else False
        if nodata is not None:
            missing = missing | (codes == nodata)
        index = np.where(missing, np.uint8(NODATA), index)
        if (index == UNKNOWN).any():
            raise self.unknown(codes[index == UNKNOWN], where)
        return index

    def unknown(self, codes: Num[np.ndarray, " n"], where: str) -> InputError:
        found, counts = np.unique(codes, return_counts=True)
        most = int(counts.argmax())
        rest = f" and {len(found) - 1} more are" if len(found) > 1 else " is"
        known = ", ".join(map(str, self.codes))
        said = f"{where or 'labels'}: code {found[most]:g} ({counts[most]:,} px){rest} not in legend {self.name!r} ({known}); "
        if len(found) > CODES_SHOWN:
            return InputError(f"{said}are these codes of land cover at all? Give the raster that holds them")
        these = ",".join(f"{code:g}" for code in found)
        return InputError(
            f"{said}name them (config.task.codes, or a CSV legend), or ignore them: config.data.ignore [{these}], --ignore in map_page"
        )

    def to_code(self, index: UInt8[np.ndarray, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
        """Codes of class indices, `nodata` for IGNORE and NODATA; uint8, or uint16 where a code is above 254."""
        table = np.full(256, self.nodata, self.dtype)
        table[: len(self.classes)] = self.codes
        return table[index]

    @property
    def dtype(self) -> np.dtype:
        """Of a raster of codes."""
        return np.dtype(np.uint8 if max(self.codes) < 255 and self.nodata <= 255 else np.uint16)

    def only(self, codes: Sequence[int]) -> "Legend":
        """The legend of these codes, in its own order. Raises InputError for a code that it has not."""
        for code in codes:
            if code not in self.codes:
                known = ", ".join(map(str, self.codes))
                raise InputError(f"config.data.codes: {code} is not in legend {self.name!r} ({known}); correct it")
        return make_legend(self.name, [x for x in self.classes if x.code in set(codes)])


def make_legend(name: str, classes: Sequence[LandClass], where: str = "") -> Legend:
    """Raises InputError for a legend without classes, with too many, with a code twice or out of range."""
    where = where or f"legend {name!r}"
    codes = [x.code for x in classes]
    if not 1 <= len(codes) < NODATA:
        raise InputError(f"{where}: {len(codes)} classes; expected 1 to {NODATA - 1}")
    for code in codes:
        if not 0 <= code < MAX_CODE:
            raise InputError(f"{where}: code {code}; expected 0 to {MAX_CODE - 1}")
        if codes.count(code) > 1:
            raise InputError(f"{where}: code {code} is there {codes.count(code)} times; keep one line")
    return Legend(name, tuple(classes))


NLCD = make_legend(
    "nlcd",
    [  # the palette of NLCD 2016 and later
        LandClass(11, "Open Water", (70, 107, 159), "Water"),
        LandClass(12, "Perennial Ice/Snow", (209, 222, 248), "Water"),
        LandClass(21, "Developed, Open Space", (222, 197, 197), "Developed"),
        LandClass(22, "Developed, Low Intensity", (217, 146, 130), "Developed"),
        LandClass(23, "Developed, Medium Intensity", (235, 0, 0), "Developed"),
        LandClass(24, "Developed, High Intensity", (171, 0, 0), "Developed"),
        LandClass(31, "Barren Land (Rock/Sand/Clay)", (179, 172, 159), "Barren"),
        LandClass(41, "Deciduous Forest", (104, 171, 95), "Forest"),
        LandClass(42, "Evergreen Forest", (28, 95, 44), "Forest"),
        LandClass(43, "Mixed Forest", (181, 197, 143), "Forest"),
        LandClass(51, "Dwarf Scrub", (175, 150, 60), "Shrubland", alaska=True),
        LandClass(52, "Shrub/Scrub", (204, 184, 121), "Shrubland"),
        LandClass(71, "Grassland/Herbaceous", (223, 223, 194), "Herbaceous"),
        LandClass(72, "Sedge/Herbaceous", (209, 209, 130), "Herbaceous", alaska=True),
        LandClass(73, "Lichens", (163, 204, 81), "Herbaceous", alaska=True),
        LandClass(74, "Moss", (130, 186, 158), "Herbaceous", alaska=True),
        LandClass(81, "Pasture/Hay", (220, 217, 57), "Planted/Cultivated"),
        LandClass(82, "Cultivated Crops", (171, 108, 40), "Planted/Cultivated"),
        LandClass(90, "Woody Wetlands", (184, 217, 235), "Wetlands"),
        LandClass(95, "Emergent Herbaceous Wetlands", (108, 159, 184), "Wetlands"),
    ],
)
NLCD_CONUS = make_legend("nlcd_conus", [x for x in NLCD.classes if not x.alaska])
ZION8 = make_legend(  # the codes of nlcd.tif, in the colours of one Level II class of each group
    "zion8",
    [
        LandClass(1, "Water", (70, 107, 159), "Water"),
        LandClass(2, "Developed", (235, 0, 0), "Developed"),
        LandClass(3, "Barren", (179, 172, 159), "Barren"),
        LandClass(4, "Forest", (28, 95, 44), "Forest"),
        LandClass(5, "Shrubland", (204, 184, 121), "Shrubland"),
        LandClass(6, "Herbaceous", (223, 223, 194), "Herbaceous"),
        LandClass(7, "Cultivated", (171, 108, 40), "Cultivated"),
        LandClass(8, "Wetlands", (184, 217, 235), "Wetlands"),
    ],
)
SLOVENIA = make_legend(
    "slovenia",
    [
        LandClass(1, "Cultivated", (171, 108, 40), "Cultivated"),
        LandClass(2, "Forest", (28, 95, 44), "Forest"),
        LandClass(3, "Grassland", (150, 200, 80), "Grassland"),
        LandClass(4, "Shrubland", (204, 184, 121), "Shrubland"),
        LandClass(8, "Artificial surface", (235, 0, 0), "Artificial surface"),
    ],
)
LEGENDS = {x.name: x for x in (NLCD, NLCD_CONUS, ZION8, SLOVENIA)}


def read_legend(name: str, root: str | Path = "") -> Legend:
    """A legend by its name, or from a CSV file (relative to `root`) with the columns code, name, colour and maybe group.

    colour: #rrggbb, or three numbers 0 to 255 with spaces between. group: left out or empty, the class's own name.
    Raises InputError for a name that is no legend and no file, and for a line that is wrong.
    """
    if name in LEGENDS:
        return LEGENDS[name]
    path = Path(root) / name
    if path.suffix.lower() != ".csv":
        raise InputError(
            f"legend {name!r}: not one of {', '.join(LEGENDS)}, nor a .csv file; correct config.task.legend (--legend in map_page)"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); set config.data.legend to a UTF-8 CSV file") from error
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    lacking = [column for column in ("code", "name", "colour") if column not in (reader.fieldnames or [])]
    if lacking:
        raise InputError(f"{path}: no column {lacking[0]!r} in its first line; expected code,name,colour,group")
    classes = [read_class(line, f"{path}, line {reader.line_num}") for line in reader]
    return make_legend(path.stem, classes, str(path))


def read_class(line: dict[str | None, str | list[str] | None], where: str) -> LandClass:
    """A line of a CSV legend. Raises InputError that names `where` it stands."""
    code, name = (str(line.get(key) or "").strip() for key in ("code", "name"))
    if not code.isdecimal():
        raise InputError(f"{where}: code {code!r}; expected a whole number")
    if not name:
        raise InputError(f"{where}: no name; give class {code} one")
    if None in line:
        raise InputError(f"{where}: more cells than columns; put quotes around a name with a comma")
    colour = read_colour(str(line.get("colour") or "").strip(), where)
    return LandClass(int(code), name, colour, str(line.get("group") or "").strip() or name)


def read_colour(text: str, where: str) -> tuple[int, int, int]:
    """(red, green, blue) of '#rrggbb' or 'r g b'."""
    try:
        if text.startswith("#") and len(text) == 7:
            red, green, blue = bytes.fromhex(text[1:])
        else:
            red, green, blue = map(int, text.split())
    except ValueError:
        red = green = blue = -1
    if not all(0 <= x <= 255 for x in (red, green, blue)):
        raise InputError(f"{where}: colour {text!r}; expected #rrggbb, or three numbers 0 to 255: 70 107 159")
    return red, green, blue
