"""The web map as a user has it: a real browser opens map.html from the disk, drags, zooms, and its pixels are looked at.

The browser is driven through its own pipe (--remote-debugging-pipe): no package is needed, and the mouse is a mouse.
"""

import base64
import io
import json
import os
import select
import shutil
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

from experiments import map_page
from unet.landcover.legend import ZION8

rasterio = pytest.importorskip("rasterio")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser: chromium is not in PATH")

WIDTH, HEIGHT, SIDE = 1200, 600, 256  # px: of the window, and of the scene
LEFT, TOP, PIXEL = 300_000, 4_100_000, 30
BACKGROUND = (154, 160, 168)  # of the page, where no tile is
LABELS, PREDICTED = (
    [ZION8.colours[code - 1] for code in codes] for codes in ((1, 4), (2, 5))
)  # of the west, of the east
PATIENCE = 20  # seconds, for what comes after a tile is loaded and an animation is over


class Browser:
    """A window of WIDTH x HEIGHT. `problems`: what a console would show; `asked`: the addresses that were fetched."""

    def __init__(self, folder):
        for name in ("in", "out"):
            os.mkfifo(folder / name)
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        words += ["--force-color-profile=srgb", "--disable-background-networking", "--no-first-run"]
        words += [f"--user-data-dir={folder / 'profile'}", "--remote-debugging-pipe", "about:blank"]
        # The pipe is file 3 and file 4, which a shell can open and subprocess can not.
        shell = ["sh", "-c", 'exec "$0" "$@" 3<in 4>out', CHROMIUM, *words]
        with (folder / "said").open("w") as said:
            self.process = subprocess.Popen(shell, cwd=folder, stdout=said, stderr=said)
        self.to = (folder / "in").open("wb", buffering=0)
        self.back = (folder / "out").open("rb", buffering=0)
        self.number, self.rest, self.session = 0, b"", {}
        self.problems, self.asked = [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def close(self):
        self.to.close()
        self.back.close()
        self.process.terminate()
        self.process.wait(PATIENCE)

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params, **self.session}
        self.to.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self.message()
            self.note(answer)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def message(self):
        while b"\0" not in self.rest:
            ready = select.select([self.back], [], [], 3 * PATIENCE)[0]
            more = os.read(self.back.fileno(), 1 << 20) if ready else b""
            assert more, "the browser is gone or says nothing"
            self.rest += more
        text, self.rest = self.rest.split(b"\0", 1)
        return json.loads(text)

    def note(self, message):
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(params["exceptionDetails"].get("exception", params["exceptionDetails"]))
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(params["args"])
        if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"])
        if method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])

    def open(self, address):
        self.problems.clear()
        self.asked.clear()
        self.call("Page.navigate", url="about:blank")  # else another address of the same file would not load it anew
        self.call("Page.navigate", url=address)
        self.until(lambda: self.value("document.readyState") == "complete" and self.value("typeof map") == "object")

    def value(self, script):
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self):
        data = self.call("Page.captureScreenshot", format="png")["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))

    def mouse(self, kind, x, y, **more):
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def drag(self, start, end):
        """With the left button, in steps, and at rest before it lets go: else the map would slide on."""
        self.mouse("mouseMoved", *start)
        self.mouse("mousePressed", *start, button="left", buttons=1, clickCount=1)
        for share in np.linspace(0, 1, 9)[1:]:
            self.mouse(
                "mouseMoved", *(a + share * (b - a) for a, b in zip(start, end, strict=True)), button="left", buttons=1
            )
        time.sleep(0.3)
        self.mouse("mouseMoved", *end, button="left", buttons=1)
        self.mouse("mouseReleased", *end, button="left", clickCount=1)

    def click(self, selector):
        box = f"document.querySelector('{selector}').getBoundingClientRect()"
        place = [self.value(f"{box}.{a} + {box}.{b} / 2") for a, b in (("left", "width"), ("top", "height"))]
        self.mouse("mouseMoved", *place)
        self.mouse("mousePressed", *place, button="left", buttons=1, clickCount=1)
        self.mouse("mouseReleased", *place, button="left", clickCount=1)

    def until(self, true):
        end = time.monotonic() + PATIENCE
        while not (found := true()) and time.monotonic() < end:
            time.sleep(0.05)
        return found


# The place in the scene, in shares of its sides, of what is looked at: five columns on each half, three rows.
PLACES = [
    (column, row) for column in (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95) for row in (0.2, 0.6, 0.8)
]


def on_screen(browser, places):
    """Where the page has places of the scene: rasterio says their longitude and latitude, Leaflet where it draws those."""
    east, north = zip(*[(LEFT + x * SIDE * PIXEL, TOP - y * SIDE * PIXEL) for x, y in places], strict=True)
    longitudes, latitudes = rasterio.warp.transform("EPSG:32612", "EPSG:4326", east, north)
    pairs = [list(pair) for pair in zip(latitudes, longitudes, strict=True)]
    script = "map(({x, y}) => [Math.round(x), Math.round(y)])"
    return browser.value(f"{pairs}.map((place) => map.latLngToContainerPoint(place)).{script}")


def bare(browser, points):
    """Whether nothing of the page lies over the map, nor throws a shadow on it, at each of the points."""
    corners = "[[-12, -12], [-12, 12], [12, -12], [12, 12]]"
    there = "document.elementFromPoint(x + a, y + b)?.classList.contains('leaflet-container')"
    return browser.value(f"{points}.map(([x, y]) => {corners}.every(([a, b]) => {there}))")


def mistakes(browser, divider, left=LABELS, right=PREDICTED, opacity=0.85, below=BACKGROUND):
    """Places of the scene that do not show the colour of `left` or `right`, whichever side of the divider they are on."""
    points, found = on_screen(browser, PLACES), []
    picture = browser.picture().astype(float)
    seen = [
        (place, (x, y))
        for place, (x, y), free in zip(PLACES, points, bare(browser, points), strict=True)
        if free and 45 < y < HEIGHT - 45 and abs(x - divider) > 30
    ]
    assert len(seen) >= 8  # else nothing is proved
    for (column, _), (x, y) in seen:
        colours = left if x < divider else right
        expected = below
        if colours:
            expected = opacity * np.array(colours[column > 0.5], float) + (1 - opacity) * np.array(below, float)
        if np.abs(picture[y, x] - expected).max() > 2:
            found.append(((x, y), picture[y, x].tolist(), list(expected)))
    return found


def check(browser, divider, **how):
    browser.until(lambda: not mistakes(browser, divider, **how))
    assert mistakes(browser, divider, **how) == []


def write(path, *bands):
    """The scene: each band has a western half of one value and an eastern half of another."""
    return write_raster(path, np.array(bands, np.uint8).repeat(SIDE // 2, 1)[:, None].repeat(SIDE, 1))


def write_raster(path, values, crs="EPSG:32612", left=LEFT, top=TOP, pixel=PIXEL):
    place = {"crs": crs, "transform": rasterio.transform.from_origin(left, top, pixel, pixel), "nodata": 0}
    shape = dict(zip(("count", "height", "width"), values.shape, strict=True))
    with rasterio.open(path, "w", driver="GTiff", dtype=values.dtype, **shape, **place) as file:
        file.write(values)
    return str(path)


def page_of(folder, *more):
    files = ["--map", write(folder / "map.tif", (2, 5)), "--labels", write(folder / "labels.tif", (1, 4))]
    assert map_page.main([*files, *more, "--legend", "zion8", "--output", str(folder / "page")]) == 0
    return (folder / "page" / "map.html").as_uri()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Labels: water, forest; predicted: developed, shrubland."""
    return page_of(tmp_path_factory.mktemp("webmap"))


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture
def browser(window):
    """Afterwards the console has to be empty, and nothing fetched that is not on the disk."""
    yield window
    assert window.problems == []
    assert window.asked and all(url.startswith(("file:", "data:", "about:")) for url in window.asked)


def test_the_divider_parts_labels_from_prediction(browser, address):
    browser.open(address)
    middle = HEIGHT // 2
    check(browser, WIDTH / 2)
    browser.drag((WIDTH // 2, middle), (0, middle))
    check(browser, 0)  # all of it predicted
    browser.drag((0, middle), (WIDTH - 1, middle))
    check(browser, WIDTH)  # all of it labels
    browser.drag((WIDTH - 1, middle), (1000, middle))
    browser.drag((1000, middle), (500, middle))  # also from where the panel is
    check(browser, 500)


def test_the_map_moves_and_zooms_below_the_divider(browser, address):
    browser.open(address)
    check(browser, WIDTH / 2)
    at = lambda x: browser.picture()[450, x].tolist()
    before = browser.value("map.getZoom()")
    assert at(200) == list(BACKGROUND)
    browser.click(".leaflet-control-zoom-in")
    assert browser.until(lambda: at(200) != list(BACKGROUND))
    check(browser, WIDTH / 2)
    assert browser.value("map.getZoom()") == before + 1
    (west, _), (east, _) = on_screen(browser, [(0, 0.5), (1, 0.5)])
    assert west < 200 and east - west > 1000
    water = at(200)
    assert at(560) == water
    browser.drag((500, 450), (800, 450))
    assert abs(on_screen(browser, [(0, 0.5)])[0][0] - west - 300) <= 1
    check(browser, WIDTH / 2)
    assert at(200) == list(BACKGROUND) and at(560) == water
    browser.mouse("mouseWheel", 620, 450, deltaX=0, deltaY=300)
    assert browser.until(lambda: browser.value("map.getZoom()") < before + 1)
    check(browser, WIDTH / 2)


def test_the_panel_chooses_what_is_shown_and_the_address_remembers(browser, address):
    browser.open(f"{address}#swipe=0.4&opacity=1")
    check(browser, 480, opacity=1)
    for name, value in (("left", "map"), ("right", "")):
        browser.value(f"element('{name}').value = '{value}'; element('{name}').dispatchEvent(new Event('input'))")
    check(browser, 480, left=PREDICTED, right=None, opacity=1)
    zoom = browser.value("map.getZoom()") + 1
    browser.click(".leaflet-control-zoom-in")
    address_now = lambda: browser.value("location.hash")
    assert browser.until(lambda: f"left=map&right=&at={zoom}/" in address_now())
    browser.open(address + address_now())
    check(browser, 480, left=PREDICTED, right=None, opacity=1)
    assert browser.value("map.getZoom()") == zoom


def test_the_cursor_names_both_classes(browser, address):
    browser.open(address)
    visible = "getComputedStyle(element('status')).display !== 'none'"
    assert not browser.value(visible)
    browser.mouse("mouseMoved", *on_screen(browser, [(0.25, 0.25)])[0])
    text = "original labels: Water \u00b7 predicted labels: Developed"
    assert browser.until(lambda: browser.value("element('classes').textContent") == text)
    browser.mouse("mouseMoved", *on_screen(browser, [(0.75, 0.75)])[0])
    text = "original labels: Forest \u00b7 predicted labels: Shrubland"
    assert browser.until(lambda: browser.value("element('classes').textContent") == text)
    x, y = LEFT + 0.75 * SIDE * PIXEL, TOP - 0.75 * SIDE * PIXEL
    (longitude,), (latitude,) = rasterio.warp.transform("EPSG:32612", "EPSG:4326", [x], [y])
    north, west = (float(part[:8]) for part in browser.value("element('place').textContent").split(", "))
    assert abs(north - latitude) < 1e-3 and abs(west + longitude) < 1e-3
    browser.mouse("mouseMoved", 1000, 30)
    assert browser.until(lambda: not browser.value(visible))


def test_true_colour_lies_below_where_there_is_one(browser, address, tmp_path):
    row = "element('image-row').getBoundingClientRect().height"
    browser.open(address)
    assert browser.value(row) == 0
    photo = write(tmp_path / "photo.tif", (10, 10), (200, 200), (90, 90))
    browser.open(page_of(tmp_path, "--image", photo))
    assert browser.value(row) > 0
    check(browser, WIDTH / 2, below=(10, 200, 90))
    browser.click("#image")
    check(browser, WIDTH / 2)


def test_no_tile_is_asked_for_that_is_not_there(browser, tmp_path):
    """Three of four tiles hold nothing, and the scene ends where tiles end."""
    size = 2 * 20037508.342789244 / 2**12  # metres of a tile of zoom 12
    codes = np.zeros((1, 1024, 1024), np.uint8)
    codes[:, :256, :256] = 4
    place = {"crs": "EPSG:3857", "left": 760 * size - 20037508.342789244, "top": 20037508.342789244 - 1592 * size}
    mapped = write_raster(tmp_path / "map.tif", codes, **place, pixel=size / 256)
    assert map_page.main(["--map", mapped, "--legend", "zion8", "--output", str(tmp_path / "page")]) == 0
    browser.open((tmp_path / "page" / "map.html").as_uri())
    for zoom in ("in", "in", "out", "out"):
        browser.click(f".leaflet-control-zoom-{zoom}")
        time.sleep(0.5)
    loaded = "[...document.querySelectorAll('.leaflet-tile')].every((tile) => tile.complete && tile.naturalWidth)"
    assert browser.until(lambda: browser.value(loaded))
    assert {"11/380/796", "12/760/1592"} == {url[-15:-4].lstrip("/") for url in browser.asked if "tiles/" in url}
