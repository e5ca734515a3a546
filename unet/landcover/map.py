"""Land-cover maps of scenes of any size, GeoTIFF to GeoTIFF: what happens, in order.

Reading, predicting and writing overlap. Memory does not grow with the scene. Rows of tiles are finished one after another, each
a file of its own, and joined at the end: a killed run goes on with the next one, and several processes share a map.
"""

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import not_ours
from unet.landcover import blend as blending
from unet.landcover import cog, parts
from unet.landcover.blend import Part, Piece, Read, Tiling
from unet.landcover.legend import NODATA, Legend

BLENDS = ("cut", "gaussian")
THREADS, WAITING = 2, 4  # of reading; pieces that wait to be written
EVERY = 30  # seconds between lines of progress


def predict_map(
    apply: Callable,
    scene: Any,
    output: Path,
    legend: Legend,
    *,
    tile: int,
    out: int,
    overlap: int,
    align: int,
    batch_size: int = 1,
    blend: str = "cut",
    shard: tuple[int, int] = (1, 1),
    confidence: bool = False,
    probabilities: bool = False,
    sieve: int = 0,
    made_of: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Writes the land-cover map of a scene to OUTPUT/NAME.tif: codes of the legend, as a cloud-optimised GeoTIFF.

    apply: [batch_size, tile, tile, bands] float32 -> probabilities [batch_size, out, out, classes], jitted.
    tile, out, overlap, align: as in `unet.tiling.plan`. blend: 'cut', tiles side by side, which is exact in 'valid' mode; or
    'gaussian' in 'same' mode, overlapping by 2 * `overlap` px (0: half a tile).
    confidence: also NAME_confidence.tif, the largest probability in percent. probabilities: also NAME_probabilities.tif, all of
    them. Both are the model's, before the sieve. sieve: regions of fewer px become what surrounds them.
    shard: (i, n) predicts the i-th of n shares and returns []; one call without it then joins them to the same bytes as one run.
    made_of: what else must be the same when a run goes on: the model's step, say, and the input files' sizes and times.
    Returns the paths written. Raises InputError, and leaves no half of a map under its name.
    """
    tiling = Tiling(tile, out, overlap, align, batch_size, blend, len(legend.classes), confidence, probabilities)
    check(scene, tiling, shard, sieve)
    products = cog.products(legend, tiling)
    targets = [output / f"{scene.name}{product.ending}.tif" for product in products]
    with parts.writing(output):
        strange = [target for target in targets if target.exists() and not cog.is_ours(target)]
    if strange:
        raise not_ours(strange[0])
    folder = output / f".{scene.name}.parts"
    parts.open_folder(folder, facts(scene, legend, tiling, made_of or {}))
    every = blending.plan_parts(scene.height, tiling)
    share = every[shard[0] - 1 :: shard[1]]
    todo = parts.missing(folder, share)
    if len(todo) < len(share):
        say(f"{scene.name}: goes on, {len(share) - len(todo)} of {len(share)} parts are done")
    predict_parts(apply, scene, folder, todo, tiling)
    if shard[1] > 1:
        left = len(parts.missing(folder, every))
        what = f"{left} to do in other shards" if left else "all there: the same command without --shard writes the map"
        say(f"{scene.name}: shard {shard[0]}/{shard[1]} done; of {len(every)} parts {what}")
        return []
    say(f"{scene.name}: joins {len(every)} parts")
    made = [
        cog.write_cog(folder, every, product, target, scene, 0 if product.ending else sieve)
        for product, target in zip(products, targets, strict=True)
    ]
    cog.put_in_place(list(zip(made, targets, strict=True)))
    shutil.rmtree(folder)
    return targets


def check(scene: Any, tiling: Tiling, shard: tuple[int, int], sieve: int) -> None:
    """Raises InputError for options that do not fit each other or the scene."""
    if scene.crs is None:
        raise InputError(
            f"{scene.name}: no CRS, so its map would lie nowhere; set one (gdal_edit.py -a_srs EPSG:CODE FILE)"
        )
    if tiling.blend not in BLENDS:
        raise InputError(f"blend={tiling.blend!r}: use 'cut' or 'gaussian'")
    if tiling.blend == "gaussian" and tiling.out < tiling.tile:
        raise InputError("blend='gaussian': a 'valid' network needs no blending, its tiles are exact; use blend='cut'")
    if not 1 <= shard[0] <= shard[1]:
        raise InputError(f"--shard {shard[0]}/{shard[1]}: write I/N with I from 1 to N")
    if tiling.classes >= NODATA:
        raise InputError(f"a legend of {tiling.classes} classes: at most {NODATA - 1}")
    cog.check_sieve(sieve)
    tiling.spans(scene.height), tiling.spans(scene.width)


def facts(scene: Any, legend: Legend, tiling: Tiling, made_of: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same for all parts of a map."""
    place = {"crs": scene.crs.to_wkt(), "transform": list(scene.transform)[:6]}
    size = {"height": scene.height, "width": scene.width, "bands": scene.bands}
    return {"scene": scene.name, **size, **place, "codes": legend.codes, **tiling._asdict(), **made_of}


def predict_parts(apply: Callable, scene: Any, folder: Path, todo: Sequence[Part], tiling: Tiling) -> None:
    """Predicts parts and writes them: reading by threads ahead, the device in the middle, writing by a thread behind."""
    writer = parts.Writer(folder, scene.width, tiling.bands, scene.crs, scene.transform)
    ahead = THREADS + 2 * tiling.batch_size
    jobs = blending.jobs(todo, tiling.spans(scene.width))
    reads = in_threads(lambda job: read(scene, job, tiling), jobs, THREADS, ahead)
    pieces = blending.predict(apply, reads, scene.width, tiling)
    written = in_threads(lambda piece: write(writer, piece), pieces, 1, WAITING)
    done, begin, spoken = 0, time.monotonic(), time.monotonic()
    try:
        for last in written:
            done += last
            if time.monotonic() - spoken > EVERY:
                spoken = time.monotonic()
                left = (spoken - begin) * (len(todo) - done) / max(done, 1) / 60
                say(f"{scene.name}: {done} of {len(todo)} parts" + (f", {left:.0f} minutes to go" if done else ""))
    finally:
        written.close()
        reads.close()
        writer.abandon()


def in_threads(work: Callable, items: Iterable, threads: int, ahead: int) -> Iterator:
    """work(item) of each item in order, by threads, with at most `ahead` of them begun and not yet taken."""
    items = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        begun = deque(pool.submit(work, item) for item in islice(items, ahead))
        try:
            while begun:
                result = begun.popleft().result()
                begun.extend(pool.submit(work, item) for item in islice(items, 1))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)


def read(scene: Any, job: Read, tiling: Tiling) -> Read:
    """The tile's pixels; none where it has no valid pixel to answer for."""
    image, valid = scene.read(job.row.start_in, job.column.start_in, tiling.tile, tiling.tile)
    return job._replace(image=image, valid=valid) if blending.needs(job, valid, tiling) else job


def write(writer: parts.Writer, piece: Piece) -> bool:
    writer.add(piece)
    return piece.last


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
