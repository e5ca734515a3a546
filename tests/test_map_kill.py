"""A land-cover map whose process is killed goes on where it was, to the same bytes."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

pytest.importorskip("rasterio")
ROOT = Path(__file__).parents[1]


def start(python, output, blend, seconds):
    words = [python, "-m", "tests.map_stub", str(output), blend, str(seconds)]
    return subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def finish(process):
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    return said


@pytest.mark.parametrize("blend", ["cut", "gaussian"])
def test_a_killed_map_goes_on_to_the_same_bytes(tmp_path, python, blend):
    finish(start(python, tmp_path / "whole", blend, 0))
    folder = tmp_path / "killed" / ".made.parts"
    process = start(python, tmp_path / "killed", blend, 0.05)
    begin = time.monotonic()
    while len(list(folder.glob("0*.tif"))) < 2 and process.poll() is None and time.monotonic() - begin < 100:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("0*.tif")}
    assert len(kept) >= 2 and not list((tmp_path / "killed").glob("*.tif"))
    again = finish(start(python, tmp_path / "killed", blend, 0))
    assert f"goes on, {len(kept)} of" in again
    for name in ("made.tif", "made_confidence.tif"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "killed").iterdir()) == ["made.tif", "made_confidence.tif"]
