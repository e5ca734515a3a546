"""Images of any size by tiles of one shape, so that one compiled function serves them all.

A network with 'valid' convolutions maps a tile of T px to its inner t px: the outputs lie side by side and the context
missing at the border is mirrored, the overlap-tile strategy of Ronneberger et al. 2015, figure 2. A 'same' network maps
T to T and sees zeros beyond a tile's edges: neighbouring tiles overlap and are cut where both have the most context.
"""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Num, Shaped

from common.errors import InputError
from unet.images import IGNORE


class Span(NamedTuple):
    """A tile along one axis: it reads from `start_in` (negative: mirrored) and answers for keep_start:keep_stop."""

    start_in: int
    keep_start: int
    keep_stop: int

    def kept(self, margin: int = 0) -> slice:
        """Where the pixels that it answers for lie in its input, or in its output, `margin` px smaller at each edge."""
        start = self.keep_start - self.start_in - margin
        return slice(start, start + self.keep_stop - self.keep_start)


def plan(length: int, tile_in: int, tile_out: int, overlap: int = 0, align: int = 1) -> list[Span]:
    """Tiles for an axis of `length` px: every pixel is kept by exactly one of them.

    `tile_out` < `tile_in` is a 'valid' network: `overlap` plays no part, and tiled equals whole where the tiles start
    at multiples of `align`, the product of all strides (2 ** depth): pooling is equivariant to those shifts alone.
    `tile_out` == `tile_in` is a 'same' one: tiles lie inside the image and at least `overlap` px of context are cut
    from every inner edge; an image smaller than the tile lies in the middle of its mirror images.
    Raises InputError where the tile is too small for the overlap or for the alignment.
    """
    if length < 1 or tile_out < 1 or tile_out > tile_in or (tile_in - tile_out) % 2:
        raise InputError(f"tiles of {tile_in} -> {tile_out} px cannot cover {length} px; sizes > 0, an even difference")
    margin = (tile_in - tile_out) // 2
    stride = (tile_out if margin else tile_out - 2 * overlap) // align * align
    if stride < 1:
        cut = 0 if margin else overlap
        raise InputError(
            f"a tile of {tile_in} px (output {tile_out}) is too small for an overlap of {cut} and steps of {align}"
        )
    if length <= tile_out:
        first = -margin if margin else -((tile_in - length) // 2 // align * align)
        return [Span(first, 0, length)]
    count = 1 + -(-(length - tile_out) // stride)
    starts = list(range(0, (count - 1) * stride, stride))
    if margin:  # outputs are equally good everywhere: cut at the stride; the last tile passes the border by < `align`
        cuts = [k * stride for k in range(1, count)]
        starts.append(-(-(length - tile_out) // align) * align)
    else:  # cut half-way through what two tiles share; the last tile ends with the image
        starts.append(length - tile_out)
        cuts = [(a + tile_out + b) // 2 for a, b in itertools.pairwise(starts)]
    return [Span(s - margin, a, b) for s, a, b in zip(starts, [0, *cuts], [*cuts, length], strict=True)]


def mirror(start: int, size: int, length: int) -> np.ndarray:
    """Places start:start+size of an axis of `length`, mirrored at its ends as often as it takes ('reflect')."""
    if length == 1:
        return np.zeros(size, np.intp)
    period = 2 * (length - 1)
    place = np.arange(start, start + size) % period
    return np.minimum(place, period - place)


def read_tile(
    image: Shaped[np.ndarray, "H W *C"], y: int, x: int, height: int, width: int
) -> Shaped[np.ndarray, "h w *C"]:
    """The window of height x width px from (y, x) on, mirrored where it leaves the image, by any distance."""
    rows, columns = image.shape[:2]
    if y >= 0 and x >= 0 and y + height <= rows and x + width <= columns:
        return image[y : y + height, x : x + width]
    return image[mirror(y, height, rows)][:, mirror(x, width, columns)]


def predict_rows(
    apply: Callable[[np.ndarray], Any],
    image: Num[np.ndarray, "H W C"],
    *,
    tile: int,
    out: int,
    overlap: int = 0,
    batch_size: int = 1,
    align: int = 1,
) -> Iterator[tuple[int, Float32[np.ndarray, "h W K"]]]:
    """Strips (y, probabilities [h, W, K]) from top to bottom, each as soon as it is finished.

    `apply` maps [batch_size, tile, tile, C] float32 to [batch_size, out, out, K]: one shape, the last batch is padded.
    In memory lie the image, one strip and two batches, however large the image is.
    """
    height, width = image.shape[:2]
    margin = (tile - out) // 2
    rows, columns = plan(height, tile, out, overlap, align), plan(width, tile, out, overlap, align)
    strip = None
    for (row, column), probabilities in _answers(apply, image, rows, columns, tile, batch_size):
        if strip is None:
            strip = np.empty((row.keep_stop - row.keep_start, width, probabilities.shape[-1]), np.float32)
        strip[:, column.keep_start : column.keep_stop] = probabilities[row.kept(margin), column.kept(margin)]
        if column is columns[-1]:
            yield row.keep_start, strip
            strip = None


def _answers(apply, image, rows, columns, tile, batch_size):
    """((row span, column span), output) of each tile. A batch is started before the one before it is read."""
    tiles = itertools.product(rows, columns)
    waiting = None
    while group := list(itertools.islice(tiles, batch_size)):
        inputs = np.zeros((batch_size, tile, tile, image.shape[-1]), np.float32)
        for place, (row, column) in enumerate(group):
            inputs[place] = read_tile(image, row.start_in, column.start_in, tile, tile)
        started = (group, apply(inputs))
        if waiting:
            yield from zip(waiting[0], np.asarray(waiting[1]), strict=False)
        waiting = started
    yield from zip(waiting[0], np.asarray(waiting[1]), strict=False)


def predict_tiled(
    apply: Callable[[np.ndarray], Any],
    image: Num[np.ndarray, "H W C"],
    *,
    tile: int,
    out: int,
    overlap: int = 0,
    batch_size: int = 1,
    align: int = 1,
) -> Float32[np.ndarray, "H W K"]:
    """Probabilities of a whole image, by tiles: `predict_rows`, joined."""
    settings = {"tile": tile, "out": out, "overlap": overlap, "batch_size": batch_size, "align": align}
    return np.concatenate([strip for _, strip in predict_rows(apply, image, **settings)])


@runtime_checkable
class Sized(Protocol):
    """Whole examples, whose height and width are known without decoding them."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    def size(self, index: int) -> tuple[int, int]: ...


class Tiles:
    """A source of tiles of one shape over a source of whole images, in order of the images, for exact evaluation.

    A row: "image" float32 [tile, tile, C], "label" int32 [out, out] (IGNORE outside the kept core, so that every
    labelled pixel counts once over all rows), "image_id" int32. Images of any sizes may be mixed. The last `keep`
    images stay decoded; threads that want one image at the same time decode it once.
    """

    def __init__(self, source: Sized, *, tile: int, out: int, overlap: int = 0, align: int = 1, keep: int = 2):
        self.source, self.tile, self.out, self.keep = source, tile, out, keep
        self.rows: list[tuple[int, Span, Span]] = []
        for index in range(len(source)):
            height, width = source.size(index)
            spans = itertools.product(plan(height, tile, out, overlap, align), plan(width, tile, out, overlap, align))
            self.rows += [(index, row, column) for row, column in spans]
        self._decoded: OrderedDict[int, list] = OrderedDict()  # image -> [its own lock, example or None]
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, row, column = self.rows[index]
        example = self._example(number)
        margin = (self.tile - self.out) // 2
        label = np.full((self.out, self.out), IGNORE, np.int32)
        core = example["label"][row.keep_start : row.keep_stop, column.keep_start : column.keep_stop]
        label[row.kept(margin), column.kept(margin)] = core
        image = read_tile(example["image"], row.start_in, column.start_in, self.tile, self.tile)
        return {"image": image, "label": label, "image_id": np.int32(number)}

    def _example(self, number: int) -> dict[str, Any]:
        with self._lock:
            slot = self._decoded.setdefault(number, [threading.Lock(), None])
            self._decoded.move_to_end(number)
            while len(self._decoded) > self.keep:
                self._decoded.popitem(last=False)
        with slot[0]:  # decoding holds this image's lock alone: other images are decoded at the same time
            if slot[1] is None:
                slot[1] = self.source[number]
            return slot[1]
