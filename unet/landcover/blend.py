"""From tiles to pieces of a map: cut side by side, or blended by Gaussian weights that slide along a row of tiles.

Nothing here grows with the raster: two batches are in flight, and the sums of the blending are one tile wide.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, UInt8

from common.errors import InputError
from unet.landcover.legend import NODATA
from unet.tiling import Span, plan

PART_ROWS = 8  # steps of a blended part: the tile rows at its edges are predicted twice, an eighth more work
UNKNOWN = 255  # of percentages


class Part(NamedTuple):
    """Rows start:stop of the map and the tile rows that they are made of: the unit of resuming and of shards."""

    number: int
    start: int
    stop: int
    rows: tuple[Span, ...]


class Read(NamedTuple):
    """A tile: `image` [tile, tile, C] and which of its pixels are `valid`; None where no pixel is needed from it."""

    part: Part
    row: Span
    column: Span
    last: bool  # of its part
    image: np.ndarray | None = None
    valid: np.ndarray | None = None


class Piece(NamedTuple):
    """A finished window of a part: uint8 [N, h, w] of class indices, then percentages as asked for."""

    part: Part
    row: int
    column: int
    values: np.ndarray
    last: bool


class Tiling(NamedTuple):
    """How a raster is cut into tiles, and what is kept of each pixel.

    confidence: the largest probability, in percent. probabilities: all of them, in percent.
    """

    tile: int
    out: int
    overlap: int
    align: int
    batch_size: int
    blend: str
    classes: int
    confidence: bool
    probabilities: bool

    @property
    def bands(self) -> int:
        return 1 + self.confidence + self.classes * self.probabilities

    def spans(self, length: int) -> list[Span]:
        overlap = self.overlap
        if self.blend == "gaussian":
            overlap = overlap or self.tile // 4  # steps of half a tile
        return plan(length, self.tile, self.out, overlap, self.align)


def plan_parts(height: int, tiling: Tiling) -> list[Part]:
    """A row of tiles each; of blended tiles as many as PART_ROWS steps, and all that reach into them."""
    spans = tiling.spans(height)
    if tiling.blend == "cut":
        return [Part(n, s.keep_start, s.keep_stop, (s,)) for n, s in enumerate(spans)]
    edges = [0, *(s.start_in for s in spans[PART_ROWS::PART_ROWS]), height]
    parts = []
    for start, stop in zip(edges, edges[1:], strict=False):
        rows = tuple(s for s in spans if s.start_in < stop and s.start_in + tiling.tile > start)
        parts.append(Part(len(parts), start, stop, rows))
    return parts


def jobs(parts: Iterable[Part], columns: Sequence[Span]) -> Iterator[Read]:
    """Every tile of the parts, column by column; not read yet."""
    for part in parts:
        for column in columns:
            for row in part.rows:
                yield Read(part, row, column, last=column is columns[-1] and row is part.rows[-1])


def batches(reads: Iterable[Read], size: int) -> Iterator[list[Read]]:
    """Reads with at most `size` images. None spans two parts, so that a part is a function of its place alone."""
    group, images = [], 0
    for read in reads:
        group.append(read)
        images += read.image is not None
        if images == size or read.last:
            yield group
            group, images = [], 0


def predict(apply: Callable, reads: Iterable[Read], width: int, tiling: Tiling) -> Iterator[Piece]:
    """The pieces of the parts that `reads` belong to, in their order. A batch is started before the one before it is waited for."""
    start = Cut(apply, tiling) if tiling.blend == "cut" else Sliding(apply, width, tiling)
    waiting = list
    for group in batches(reads, tiling.batch_size):
        started = start(group)
        yield from waiting()
        waiting = started
    yield from waiting()


def run(apply: Callable, group: Sequence[Read], tiling: Tiling) -> Any:
    """Starts a batch, padded to the one compiled shape: probabilities [B, out, out, K]; None where there is no image."""
    images = [read.image for read in group if read.image is not None]
    if not images:
        return None
    inputs = np.zeros((tiling.batch_size, *images[0].shape), np.float32)
    for place, image in enumerate(images):
        inputs[place] = image
    probabilities = apply(inputs)
    expected = (tiling.batch_size, tiling.out, tiling.out, tiling.classes)
    if probabilities.shape != expected:
        raise InputError(f"the model gives {probabilities.shape} and the legend and tiles say {expected}")
    return probabilities


@partial(jax.jit, static_argnames=("confidence", "probabilities"))
def summarise(x: Float[Array, "*b h w k"], *, confidence: bool, probabilities: bool) -> UInt8[Array, "*b n h w"]:
    """What is kept of probabilities: class indices, then percentages as asked for, as bands."""
    percent = lambda p: jnp.round(100 * jnp.clip(p, 0, 1)).astype(jnp.uint8)
    bands = [jnp.argmax(x, -1).astype(jnp.uint8)[..., None]]
    if confidence:
        bands.append(percent(x.max(-1, keepdims=True)))
    if probabilities:
        bands.append(percent(x))
    return jnp.moveaxis(jnp.concatenate(bands, -1), -1, -3)


def masked(values: UInt8[np.ndarray, "n h w"], valid: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "n h w"]:
    """The values, with no data where a pixel is not valid."""
    if valid.all():
        return values
    fill = np.full((len(values), 1, 1), UNKNOWN, np.uint8)
    fill[0] = NODATA
    return np.where(valid[None], values, fill)


class Cut:
    """Tiles side by side: each answers for its core alone. Called with a batch, gives the call that waits for its pieces."""

    def __init__(self, apply: Callable, tiling: Tiling):
        self.apply, self.tiling = apply, tiling
        self.kept = {"confidence": tiling.confidence, "probabilities": tiling.probabilities}

    def __call__(self, group: Sequence[Read]) -> Callable[[], Iterator[Piece]]:
        probabilities = run(self.apply, group, self.tiling)
        values = None if probabilities is None else summarise(probabilities, **self.kept)
        return lambda: self.wait(group, values)

    def wait(self, group: Sequence[Read], values: Any) -> Iterator[Piece]:
        values = None if values is None else iter(np.asarray(values))
        for read in group:
            height, width = (span.keep_stop - span.keep_start for span in (read.row, read.column))
            valid = np.zeros((height, width), bool)
            piece = np.zeros((self.tiling.bands, height, width), np.uint8)
            if read.image is not None:
                valid = read.valid[read.row.kept(), read.column.kept()]
                margin = (self.tiling.tile - self.tiling.out) // 2
                piece = next(values)[:, read.row.kept(margin), read.column.kept(margin)]
            yield Piece(read.part, read.row.keep_start, read.column.keep_start, masked(piece, valid), read.last)


def needs(read: Read, valid: Bool[np.ndarray, "t t"], tiling: Tiling) -> bool:
    """Whether a tile has to be predicted: whether one of the pixels that it answers for is valid."""
    if tiling.blend == "cut":
        valid = valid[read.row.kept(), read.column.kept()]
    return bool(valid.any())


class Sliding:
    """Blends the tiles of a part: weighted sums [rows of the part, tile, K] on the device, which slide along the columns.

    Called with a batch, gives the call that waits for the pieces that it finished: those left of the next column of tiles.
    """

    def __init__(self, apply: Callable, width: int, tiling: Tiling):
        self.apply, self.width, self.tiling = apply, width, tiling
        self.kept = {"confidence": tiling.confidence, "probabilities": tiling.probabilities}
        self.columns = tiling.spans(width)
        self.weight = gaussian(tiling.tile)
        self.norm = total_weight(self.columns, self.weight)
        self.part = None

    def open(self, part: Part) -> None:
        """Sums of nothing, for the rows of a part."""
        tile = self.tiling.tile
        self.part, self.first = part, part.rows[0].start_in
        self.norm_rows = total_weight(part.rows, self.weight)
        self.total = jnp.zeros((len(self.norm_rows), tile, self.tiling.classes), jnp.float32)
        self.valid = np.zeros((len(self.norm_rows), tile), bool)

    def __call__(self, group: Sequence[Read]) -> Callable[[], Iterator[Piece]]:
        probabilities = run(self.apply, group, self.tiling)
        finished, place = [], 0
        for read in group:
            if read.part is not self.part:
                self.open(read.part)
            if read.image is not None:
                top = read.row.start_in - self.first
                self.total = add(self.total, probabilities, place, top, self.weight)
                self.valid[top : top + self.tiling.tile] |= read.valid
                place += 1
            if read.row is read.part.rows[-1]:
                finished.append(self.finish(read))
        return lambda: wait(probabilities, finished)

    def finish(self, read: Read) -> Piece:
        """Everything left of the next column, not waited for; then the sums slide there."""
        here = self.columns.index(read.column)
        left = read.column.start_in
        start = 0 if here == 0 else left
        stop = self.width if here == len(self.columns) - 1 else self.columns[here + 1].start_in
        rows = slice(read.part.start - self.first, read.part.stop - self.first)
        window = (rows, slice(start - left, stop - left))
        valid = self.valid[window].copy()
        values = np.zeros((self.tiling.bands, *valid.shape), np.uint8)
        if valid.any():
            at = left - self.columns[0].start_in
            norm = self.norm[at : at + self.tiling.tile]
            values = average(self.total, self.norm_rows, norm, **self.kept)
        if stop < self.width:
            self.total = slide(self.total, stop - left)
            self.valid = np.pad(self.valid[:, stop - left :], ((0, 0), (0, stop - left)))
        return Piece(read.part, read.part.start, start, (values, window, valid), read.last)


def wait(probabilities: Any, finished: Sequence[Piece]) -> Iterator[Piece]:
    jax.block_until_ready(probabilities)  # else all tiles of a column would be in flight
    for piece in finished:
        values, window, valid = piece.values
        if isinstance(values, jax.Array):
            values = np.asarray(values)[:, *window]
        yield piece._replace(values=masked(values, valid))


def gaussian(tile: int) -> Float32[np.ndarray, " t"]:
    """Weights along a side of a tile: a bell with a standard deviation of an eighth of it."""
    place = np.arange(tile) - (tile - 1) / 2
    return np.exp(-0.5 * (place / (tile / 8)) ** 2).astype(np.float32)


def total_weight(spans: Sequence[Span], weight: Float32[np.ndarray, " t"]) -> Float32[np.ndarray, " n"]:
    """The sum of the tiles' weights at each place from the first tile's start on."""
    first, tile = spans[0].start_in, len(weight)
    total = np.zeros(spans[-1].start_in - first + tile, np.float32)
    for span in spans:
        total[span.start_in - first :][:tile] += weight
    return total


@partial(jax.jit, donate_argnums=0)
def add(total: Float[Array, "h t k"], probabilities, place, top, weight: Float[Array, " t"]) -> Float[Array, "h t k"]:
    """The sums with tile `place` of a batch in them, from row `top` on."""
    tile = lax.dynamic_index_in_dim(probabilities, place, keepdims=False)
    weighted = tile * weight[:, None, None] * weight[None, :, None]
    old = lax.dynamic_slice_in_dim(total, top, len(weight))
    return lax.dynamic_update_slice_in_dim(total, old + weighted, top, 0)


@partial(jax.jit, static_argnames=("confidence", "probabilities"))
def average(total: Float[Array, "h t k"], rows: Float[Array, " h"], columns: Float[Array, " t"], **kept: bool):
    """What is kept of the weighted means; the weights of a pixel are the product of those along both sides."""
    return summarise(total / (rows[:, None, None] * columns[None, :, None]), **kept)


@partial(jax.jit, donate_argnums=0)
def slide(total: Float[Array, "h t k"], step) -> Float[Array, "h t k"]:
    """The sums seen from `step` columns further right; nothing is known of what comes in."""
    columns = jnp.arange(total.shape[1])
    return jnp.where((columns < total.shape[1] - step)[None, :, None], jnp.roll(total, -step, 1), 0)
