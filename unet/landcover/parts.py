"""The finished parts of a map as files of their own, so that a killed run goes on, and several processes share one map."""

import contextlib
import dataclasses
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError
from unet.landcover.blend import Part, Piece
from unet.landcover.geo import profile_of, raised, rasterio
from unet.landcover.grid import Grid

BLOCK = 256  # px, a side of the blocks of a part's file
MANIFEST = "manifest.json"


def path_of(folder: Path, part: Part) -> Path:
    return folder / f"{part.number:05d}.tif"


def aside(path: Path) -> Path:
    """A name beside `path` that no other process takes."""
    return path.with_name(f".{path.stem}.{socket.gethostname()}.{os.getpid()}{path.suffix}")


def missing(folder: Path, parts: Sequence[Part]) -> list[Part]:
    return [part for part in parts if not path_of(folder, part).exists()]


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Errors of writing become one InputError that names the file."""
    try:
        yield
    except (*raised(), OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: cannot be written ({reason}); check the rights and the free space of --output"
        ) from error


def open_folder(folder: Path, facts: Mapping[str, Any]) -> None:
    """Makes the folder of parts, or checks that it is of the same map. Raises InputError that shows the difference."""
    path = folder / MANIFEST
    facts = json.loads(json.dumps(facts))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            aside(path).write_text(json.dumps(facts, indent=1), encoding="utf-8")
            with contextlib.suppress(FileExistsError):  # another process of the same map was first
                os.link(aside(path), path)
            aside(path).unlink()
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); remove the folder {folder} to begin anew") from None
    changes = [
        f"{key} {old.get(key)!r}, now {facts.get(key)!r}" for key in {**old, **facts} if old.get(key) != facts.get(key)
    ]
    if changes:
        raise InputError(
            f"{folder}: holds parts of another map ({'; '.join(changes)}); give the same command to go on with it, "
            "or remove this folder to begin anew"
        )


@dataclasses.dataclass
class Writer:
    """Writes pieces into the files of their parts, in order; a file gets its name when it is whole and on the disk.

    georeference: crs and transform of the map, so that a part can be looked at, too.
    """

    folder: Path
    width: int
    bands: int
    crs: Any
    transform: Any
    path: Path | None = None
    dataset: Any = None
    failed: bool = False

    def add(self, piece: Piece) -> None:
        """Raises InputError where the file cannot be written, and from then on: no part without one of its pieces gets its name."""
        module, part = rasterio(), piece.part
        if self.failed:
            raise InputError(f"{path_of(self.folder, part)}: a piece before could not be written")
        self.failed = True
        with writing(path_of(self.folder, part)):
            if self.dataset is None:
                self.path = aside(path_of(self.folder, part))
                self.dataset = module.open(self.path, "w", **self.profile(part))
            height, width = piece.values.shape[1:]
            window = module.windows.Window(piece.column, piece.row - part.start, width, height)
            self.dataset.write(piece.values, window=window)
            if piece.last:
                self.dataset.close()
                self.dataset = None
                sync(self.path, (part.stop - part.start) * self.width * self.bands)
                self.path.replace(path_of(self.folder, part))
        self.failed = False

    def profile(self, part: Part) -> dict[str, Any]:
        windows, height = rasterio().windows, part.stop - part.start
        transform = windows.transform(windows.Window(0, part.start, self.width, height), self.transform)
        grid = Grid(self.crs, transform, height, self.width)
        return {**profile_of(grid, BLOCK, interleave="band"), "count": self.bands, "dtype": "uint8"}

    def abandon(self) -> None:
        """Removes what is not finished."""
        if self.dataset is not None:
            self.dataset.close()
            self.path.unlink(missing_ok=True)


def sync(path: Path, size: int = 0) -> None:
    """Waits until a file is on the disk. Raises OSError where it has less than `size` bytes: GDAL may keep a full disk to itself."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        if os.fstat(file.fileno()).st_size < size:
            raise OSError("no space left on the device")
