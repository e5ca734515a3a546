"""Shows a land-cover map: python -m experiments.map_page --map maps/zion.tif --labels nlcd.tif --output page, then open
page/index.html (the report) or page/map.html (a web map)."""

from experiments import launch

# isort: split
import argparse
import html
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from common.chart import short
from common.errors import InputError
from common.files import write_text
from common.log import command_line
from common.report import document
from experiments.arguments import parser
from unet.landcover import pages, webmap
from unet.landcover.counts import Counts, count_agreement, count_change
from unet.landcover.grid import Grid, check_overlap, grid_of, pixel_size
from unet.landcover.legend import Legend, read_legend
from unet.pages import reliability_section

SIDE = 768  # px, at most, of the pictures in the report
MARK = '<p class="made">Made by experiments.map_page.</p>'  # a folder whose index.html has it may be written anew


def main(argv: list[str]) -> int:
    arguments = parser(
        "experiments.map_page", "Writes a report and a web map of a land-cover map, as a folder of files."
    )
    arguments.add_argument("--map", required=True, type=Path, help="the map: a GeoTIFF of class codes")
    arguments.add_argument("--labels", type=Path, help="the labels to compare it with, on any grid")
    arguments.add_argument(
        "--image",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="true colour: one file, or red, green and blue",
    )
    arguments.add_argument(
        "--bands", type=int, nargs=3, default=(1, 2, 3), metavar="N", help="which of one file: 1 2 3"
    )
    arguments.add_argument("--before", type=Path, help="a map of an earlier date: what has changed since")
    arguments.add_argument(
        "--confidence",
        type=percent,
        default=80,
        metavar="PERCENT",
        help="change counts where both maps are so sure (80)",
    )
    arguments.add_argument(
        "--legend", default="nlcd", metavar="NAME|CSV", help="nlcd, nlcd_conus, zion8, slovenia, a file"
    )
    arguments.add_argument("--ignore", type=int, nargs="+", default=[], metavar="CODE", help="labels that do not count")
    arguments.add_argument("--max_tiles", type=int, default=6000, help="of the web map, all layers and zooms (6000)")
    arguments.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="the folder to write")
    flags = arguments.parse_args(argv)
    if len(flags.image) not in (0, 1, 3):
        arguments.error("--image: give one file, or three: red, green, blue")
    if min(flags.bands) < 1 or flags.max_tiles < 1:
        arguments.error("--bands count from 1, and --max_tiles is at least 1")
    with new_folder(flags.output) as folder:
        made = write_page(folder, flags)
    print(flags.output / "index.html")
    print(f"{flags.output / 'map.html'} ({made})")
    return 0


def percent(text: str) -> int:
    value = int(text) if text.isdigit() else -1
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r}: expected 0 to 100")
    return value


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder aside, which becomes `output` when all went well; a page made before is replaced.

    Raises InputError where `output` is a file, holds something else, or cannot be written.
    """
    index = output / "index.html"
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output}: is a file; name a folder")
    if (
        output.is_dir()
        and any(output.iterdir())
        and not (index.is_file() and MARK in index.read_text(errors="replace"))
    ):
        raise InputError(f"--output {output}: exists and was not made by map_page; choose another folder")
    target = output.resolve()
    aside, old = target.with_name(f".{target.name}.part"), target.with_name(f".{target.name}.old")
    try:
        for left in (aside, old):  # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        aside.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        yield aside
        if target.exists():
            target.rename(old)
        aside.rename(target)
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written ({error.strerror}); choose another folder") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_page(folder: Path, flags: argparse.Namespace) -> str:
    """Writes the web map, then index.html; returns what was made of tiles, in words."""
    legend, grid = read_legend(flags.legend), grid_of(flags.map)
    for path in flags.image:
        check_overlap(path, grid, flags.map)
    sure = confidence_of(flags.map)
    counts = count_agreement(flags.map, legend, labels=flags.labels or "", confidence=sure or "", ignore=flags.ignore)
    layers = make_layers(flags, legend, grid)
    sections = [picture(layers, grid, legend), areas(counts, legend, bool(flags.labels))]
    if flags.labels:
        sections += pages.agreement_sections(counts.matrix, legend)
    if flags.labels and sure:
        sections.append(reliability_section(counts.calibration, f"agreement with {pages.reference(legend)}"))
    if flags.before:
        sections.append(change(flags, legend, sure))
    made = write_web_map(folder, flags, grid, legend, layers, counts)
    head = header(flags, legend, grid, sure)
    write_text(folder / "index.html", document(flags.map.stem, head, sections))
    return made


def confidence_of(path: Path) -> Path | None:
    """NAME_confidence.tif beside NAME.tif, where it is there."""
    beside = path.with_name(f"{path.stem}_confidence{path.suffix}")
    return beside if beside.is_file() else None


def make_layers(flags: argparse.Namespace, legend: Legend, grid: Grid) -> dict[str, webmap.Layer]:
    """The layers that there are, by name: image, labels, before, map."""
    found = []
    if flags.image:
        found.append(webmap.image_layer("true colour", flags.image, flags.bands, grid))
    if flags.labels:
        found.append(webmap.class_layer("labels", "original labels", flags.labels, legend, flags.ignore, own=False))
    if flags.before:
        found.append(webmap.class_layer("before", "before", flags.before, legend))
    found.append(webmap.class_layer("map", "predicted labels", flags.map, legend))
    return {layer.name: layer for layer in found}


def picture(layers: Mapping[str, webmap.Layer], grid: Grid, legend: Legend) -> pages.Section:
    small, shown = grid.coarser(SIDE), {}
    for name, layer in layers.items():
        with layer.open(small) as read:
            shown[name] = read(0, 0, small.height, small.width)
    rgb = shown["image"][..., :3] if "image" in shown else None
    title, body = pages.picture_section(rgb, shown.get("labels"), shown["map"], legend)
    return title, f'{body}<p style="margin-top:14px"><a href="map.html">The same as a map to move and zoom</a></p>'


def areas(counts: Counts, legend: Legend, labelled: bool) -> pages.Section:
    """Areas in hectares, whatever the size of a pixel, and what is in none of the classes."""
    rows, columns = counts.hectares.sum(1), counts.hectares.sum(0)
    title, body = pages.area_section(rows[:-2] if labelled else None, columns[:-2], 1.0, legend)
    said = [f"The raster covers {pages.hectares(rows.sum())} ha; {pages.hectares(columns[-1])} ha of it are not mapped"]
    if labelled:
        said.append(f"{pages.hectares(rows[-1])} ha have no label")
        said.append(f"{pages.hectares(rows[-2])} ha have a label that does not count")
    return title, f"<p>{', '.join(said)}.</p>{body}"


def change(flags: argparse.Namespace, legend: Legend, sure: Path | None) -> pages.Section:
    rasters = {flags.before: confidence_of(flags.before), flags.map: sure}
    used = [path for path in rasters.values() if path] if all(rasters.values()) else []
    counts = count_change(flags.before, flags.map, legend, confidences=used, least=flags.confidence)
    note = f"From {flags.before.name} to {flags.map.name}. "
    if used:
        unsure = pages.hectares(counts.hectares[-2, -2])
        note += (
            f"Only pixels count where both maps are at least {flags.confidence} % confident: {unsure} ha are left out."
        )
    else:
        lacking = next(path for path, beside in rasters.items() if not beside)
        note += f"All pixels count: {lacking.stem}_confidence{lacking.suffix} is not there, so nothing says how sure both maps are."
    return pages.change_section(counts.areas, legend, 1.0, note)


def write_web_map(
    folder: Path,
    flags: argparse.Namespace,
    grid: Grid,
    legend: Legend,
    layers: Mapping[str, webmap.Layer],
    counts: Counts,
) -> str:
    labelled, mapped = counts.hectares.sum(1)[:-2], counts.hectares.sum(0)[:-2]
    notes = {i: f"{pages.hectares(mapped[i])} ha" for i in range(len(mapped)) if labelled[i] + mapped[i] > 0}
    left = next((name for name in ("labels", "before") if name in layers), "")
    _, count, stopped = webmap.write_map(
        folder,
        flags.map.stem,
        grid,
        list(layers.values()),
        legend,
        left=left,
        right="map",
        notes=notes,
        max_tiles=flags.max_tiles,
    )
    made = f"{count} tiles"
    return f"{made}, coarser than the map: more would be more than --max_tiles {flags.max_tiles}" if stopped else made


def header(flags: argparse.Namespace, legend: Legend, grid: Grid, sure: Path | None) -> str:
    unit = grid.crs.linear_units if grid.crs.is_projected else "degree"
    facts = {
        "map": flags.map.name,
        "labels": flags.labels.name if flags.labels else "",
        "before": flags.before.name if flags.before else "",
        "confidence": sure.name if sure else "",
        "legend": f"{legend.name}, {len(legend.classes)} classes",
        "pixels": f"{short(grid.height)} \N{MULTIPLICATION SIGN} {short(grid.width)}",
        "pixel": f"{pixel_size(grid, grid.crs):.6g} {unit}",
        "CRS": grid.crs.to_string() if grid.crs.to_epsg() else grid.crs.to_wkt().split('"')[1],
        "ignored codes": ", ".join(map(str, flags.ignore)),
    }
    cells = "".join(f"<div><dt>{k}</dt><dd>{html.escape(v)}</dd></div>" for k, v in facts.items() if v)
    command = html.escape(shlex.join(command_line()))
    return f'<h1>{html.escape(flags.map.stem)}</h1><pre class="command">{command}</pre><dl>{cells}</dl>{MARK}'


if __name__ == "__main__":
    launch.run(main)
