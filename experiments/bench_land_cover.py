"""bench land_cover: the map of a made scene, 20,000 x 20,000 px of 6 bands of 16 bits, beside the bare forward pass on the same tiles.

A U-Net of width 16 with random weights, in a process of its own, whose peak memory is reported. The map is made in shares, and
the bare forward pass takes turns with them. Also: how far tiles are from the whole image on a cut-out, and how visible seams are.
"""

from experiments import launch

# isort: split
import itertools
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.workers import Worker, jax_command, serve
from unet.landcover import geo
from unet.landcover.legend import NLCD_CONUS
from unet.landcover.made import write_made
from unet.landcover.map import predict_map
from unet.landcover.scene import open_scene
from unet.model import UNet, output_size, valid_output
from unet.tiling import plan

BANDS, WIDTH, DEPTH = 6, 16, 3
CLASSES = len(NLCD_CONUS.classes)
SMALLEST = 92  # px that a 'valid' network of that depth takes
SHARES = 4  # of the map; the bare forward pass is timed before, between and after them
SIZES = {
    "size": 20_000,
    "tile": 764,  # -> 676, in steps of 672: 76 % of the pixels computed are kept
    "cutout": 1000,
    "seam_size": 1536,
    "seam_tile": 256,
}


def measure(peers: Sequence[str], rounds: int, **sizes: int) -> list[dict[str, Any]]:
    """Rows: the whole run and its ratio to the bare forward pass; the cut-out; the seams of each way to join tiles."""
    sizes = {**SIZES, **sizes}
    with tempfile.TemporaryDirectory() as folder:
        for name, side in (("scene", sizes["size"]), ("seams", sizes["seam_size"])):
            write_made(Path(folder) / f"{name}.tif", Path(folder) / f"{name}_codes.tif", 0, side, side)
        words = (folder, str(rounds), json.dumps(sizes))
        worker = Worker("the map", jax_command("experiments.bench_land_cover", *words))
        rows = worker.ready["rows"]
        worker.close()
    return rows


def network(padding: str) -> Callable:
    """Probabilities of images, jitted as those of a run are; random weights."""
    net = UNet(classes=CLASSES, bands=BANDS, width=WIDTH, depth=DEPTH, padding=padding)
    variables = net.init(jax.random.key(0), jnp.zeros((1, SMALLEST, SMALLEST, BANDS)))
    jitted = jax.jit(lambda variables, images: jax.nn.softmax(net.apply(variables, images)))
    return lambda images: jitted(variables, images)


def tiles_of(tile: int, padding: str, overlap: int = 0) -> dict[str, int]:
    return {"tile": tile, "out": output_size(tile, DEPTH, padding), "overlap": overlap, "align": 2**DEPTH}


def whole_run(folder: Path, rounds: int, size: int, tile: int) -> dict[str, Any]:
    """Seconds of the map from reading to the finished COG, beside as many bare forward passes."""
    apply = network("valid")
    settings = tiles_of(tile, "valid")
    scene = open_scene(folder / "scene.tif")
    inputs = scene.read(0, 0, tile, tile)[0][None]
    jax.block_until_ready(apply(inputs))  # compiled before anything is timed, as it would be for the second scene

    def bare() -> list[float]:
        times = []
        for _ in range(rounds):
            begin = time.perf_counter()
            jax.block_until_ready(apply(inputs))
            times.append(time.perf_counter() - begin)
        return times

    passes, shares = bare(), []
    for share in [*((i, SHARES) for i in range(1, SHARES + 1)), (1, 1)]:
        begin = time.perf_counter()
        predict_map(apply, scene, folder / "maps", NLCD_CONUS, shard=share, **settings)
        shares.append(time.perf_counter() - begin)
        passes += bare()
    tiles = len(plan(size, tile, settings["out"], 0, 2**DEPTH)) ** 2
    forward, seconds = tiles * statistics.mean(passes), sum(shares)
    return {
        "case": f"{size} x {size} x {BANDS}, valid, width {WIDTH}, depth {DEPTH}, {tile} -> {settings['out']}",
        "tiles": tiles,
        "forward_seconds": forward,
        "map_seconds": seconds,
        "join_seconds": shares[-1],
        "speed_ratio": forward / seconds,
        "megapixels_per_second": size * size / seconds / 1e6,
        "share_used": size * size / (tiles * tile * tile),
        "peak_mb": peak_mb(),
    }


def peak_mb() -> float:
    """The most memory that this process has held. (getrusage counts that of the parent before it became this one, too.)"""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def cut_out(folder: Path, size: int, tile: int, side: int) -> dict[str, Any]:
    """The map's own tiles beside the whole image, on a cut-out in the middle of the scene."""
    apply = network("valid")
    out, align = output_size(tile, DEPTH, "valid"), 2**DEPTH
    margin, scene = (tile - out) // 2, open_scene(folder / "scene.tif")
    start, side = max(size - side, 0) // 2 // align * align, min(side, size)
    inputs = next(n for n in itertools.count(side + 2 * margin) if valid_output(n, DEPTH))
    image = scene.read(start - margin, start - margin, inputs, inputs)[0]
    whole = np.asarray(apply(image[None]))[0, :side, :side]
    tiled = np.empty_like(whole)
    spans = [s for s in plan(size, tile, out, 0, align) if s.keep_start < start + side and s.keep_stop > start]
    for row, column in itertools.product(spans, spans):
        image, _ = scene.read(row.start_in, column.start_in, tile, tile)
        answer = np.asarray(apply(image[None]))[0]
        target, source = zip(*(meeting(span, start, side, margin) for span in (row, column)), strict=True)
        tiled[target] = answer[source]
    window = geo.rasterio().windows.Window(start, start, side, side)
    with geo.rasterio().open(folder / "maps" / "scene.tif") as file:
        codes = file.read(1, window=window)
    return {
        "case": f"cut-out {side} x {side} of the same map, of {len(spans) ** 2} tiles",
        "largest_difference": float(np.abs(tiled - whole).max()),
        "classes_there": len(np.unique(codes)),
        "share_same_class": float((codes == np.array(NLCD_CONUS.codes)[whole.argmax(-1)]).mean()),
    }


def meeting(span: Any, start: int, side: int, margin: int) -> tuple[slice, slice]:
    """Where what a tile keeps lies in a cut-out, and in the tile's output."""
    first, last = max(span.keep_start, start), min(span.keep_stop, start + side)
    here = first - span.start_in - margin
    return slice(first - start, last - start), slice(here, here + last - first)


def seams(folder: Path, size: int, tile: int) -> list[dict[str, Any]]:
    """What tiles add to the differences between neighbours at their joins, beside the whole image predicted at once.

    A 'same' network: tiles side by side, with and without overlap, and blended. Score 0: no seam; 1: what tiles add at a join is
    as large as what differs there anyway.
    """
    apply = network("same")
    scene, rows = open_scene(folder / "seams.tif"), []
    whole = np.asarray(apply(scene.read(0, 0, size, size)[0][None]))[0]
    whole = np.rint(100 * np.moveaxis(whole, -1, 0))  # percent, as a map has it
    for name, blend, overlap in (
        ("side by side", "cut", 0),
        ("cut", "cut", tile // 8),
        ("gaussian", "gaussian", tile // 8),
        ("gaussian, half a tile", "gaussian", tile // 4),
    ):
        settings = tiles_of(tile, "same", overlap)
        output = folder / name.replace(" ", "-")
        written = predict_map(apply, scene, output, NLCD_CONUS, **settings, blend=blend, probabilities=True)
        with geo.rasterio().open(written[-1]) as file:
            percent = file.read().astype(np.float32)
        spans = plan(size, overlap=overlap, tile_in=tile, tile_out=tile, align=2**DEPTH)
        joins = {span.keep_start for span in spans[1:]}
        if blend == "gaussian":
            joins = {place for span in spans for place in (span.start_in, span.start_in + tile) if 0 < place < size}
        facts = steps(percent, whole, sorted(joins))
        rows.append({"case": f"seams, same, tile {tile}: {name}, overlap {overlap}", **facts})
    return rows


def steps(percent: np.ndarray, whole: np.ndarray, joins: Sequence[int]) -> dict[str, float]:
    """Of differences between neighbours, in percent: their size in the whole image at the joins, and what tiles add to them."""
    sizes, added, elsewhere = [], [], []
    for axis in (1, 2):
        there = np.diff(whole, axis=axis)
        more = np.abs(np.diff(percent, axis=axis) - there).mean((0, 3 - axis))
        here = np.isin(np.arange(1, percent.shape[axis]), joins)
        sizes += list(np.abs(there).mean((0, 3 - axis))[here])
        added += list(more[here])
        elsewhere += list(more[~here])
    size, joined, other = (float(np.mean(x)) for x in (sizes, added, elsewhere))
    return {"step_at_joins": size, "added_at_joins": joined, "added_elsewhere": other, "seam_score": joined / size}


def main(argv: list[str]) -> int:
    folder, rounds, sizes = Path(argv[0]), int(argv[1]), json.loads(argv[2])
    rows = [whole_run(folder, rounds, sizes["size"], sizes["tile"])]
    rows.append(cut_out(folder, sizes["size"], sizes["tile"], sizes["cutout"]))
    rows += seams(folder, sizes["seam_size"], sizes["seam_tile"])
    serve({"rows": rows}, {})
    return 0


if __name__ == "__main__":
    launch.run(main)
