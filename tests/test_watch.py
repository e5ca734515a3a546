"""The watch over several processes, without jax: real processes that die, stop, hang, fail or end well."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

SCRIPT = """
import sys, time
from pathlib import Path
from common import watch

process, count, door, what = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
watch.BEAT, watch.LOST = 0.2, 2.0

def exchange(text):
    if process == 0:
        door.with_suffix(".aside").write_bytes(text)
        door.with_suffix(".aside").rename(door)
    while not door.exists():
        time.sleep(0.01)
    return door.read_bytes()

own = watch.Watch(process, count, exchange)
Path(f"{door}.{process}").touch()
while not all(Path(f"{door}.{i}").exists() for i in range(count)):
    time.sleep(0.01)
time.sleep(0.5)
if what == "stall":
    own.note = ("reading the batch of step 7", time.monotonic()) if process == 1 else ("in step 7", time.monotonic())
    own.stall = 1.0
if what == "fail" and process == 1:
    own.leave(1, "data.csv: no such file")
if what == "raise" and process == 1:
    raise ValueError("unexpected")
if what == "end":
    time.sleep(0.5 * process)
    own.leave(0, "")
    sys.exit(0)
time.sleep(30)
"""


def launch(tmp_path, what, count=3, missing=None):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = lambda i: [sys.executable, str(script), str(i), str(count), str(tmp_path / "door"), what]
    env = {"PYTHONPATH": ".", "PATH": ""}
    start = lambda i: subprocess.Popen(command(i), stderr=subprocess.PIPE, text=True, env=env)
    if missing is not None:
        (tmp_path / f"door.{missing}").touch()
    running = [start(i) for i in range(count) if i != missing]
    while not all((tmp_path / f"door.{i}").exists() for i in range(count)):
        assert all(p.poll() is None for p in running)
        time.sleep(0.01)
    time.sleep(0.2)  # until process 0 has heard of all
    return running


def finish(running):
    said = [p.communicate(timeout=20)[1] for p in running]
    return [p.returncode for p in running], said


@pytest.mark.parametrize("victim", [0, 2])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_dies_or_falls_silent_is_named_by_all_others(tmp_path, victim, how):
    running = launch(tmp_path, "wait")
    running[victim].send_signal(how)
    rest = [p for i, p in enumerate(running) if i != victim]
    codes, said = finish(rest)
    running[victim].kill()
    running[victim].communicate()
    assert codes == [75, 75]
    for text in said:
        assert f"process {victim} (" in text.split(";")[0] and f"pid {running[victim].pid}" in text.split(";")[0]
        assert "The same command goes on from the last checkpoint" in text
        assert len(text.strip().splitlines()) == 1


def test_what_holds_a_run_is_named(tmp_path):
    codes, said = finish(launch(tmp_path, "stall"))
    assert codes == [75, 75, 75]
    for text in said:
        assert (
            "nothing has moved for 1 s (config.loop.stall): process 1 (" in text
            and "reading the batch of step 7" in text
        )
        assert "in step 7" not in text


def test_an_error_of_one_ends_all_with_its_line(tmp_path):
    codes, said = finish(launch(tmp_path, "fail"))
    assert codes == [1, 1, 1]
    assert all("process 1 (" in said[i] and "data.csv: no such file" in said[i] for i in (0, 2))


def test_a_traceback_of_one_ends_all(tmp_path):
    codes, said = finish(launch(tmp_path, "raise"))
    assert codes == [1, 1, 1]
    assert "ValueError: unexpected" in said[1] and "process 1 (" in said[0] and "ended with an error" in said[2]


def test_all_may_end_in_any_order(tmp_path):
    codes, said = finish(launch(tmp_path, "end"))
    assert codes == [0, 0, 0] and said == ["", "", ""]


def test_a_stranger_on_the_port_changes_nothing(tmp_path):
    running = launch(tmp_path, "wait", count=2)
    port = json.loads((tmp_path / "door").read_text())["port"]
    wrong = b'[1]\n{"word": "no", "name": "x"}\n{"left": 1, "line": "end"}\n'
    for text in (b"[" * 60000 + b"\n", b"x" * 200000, b"GET / HTTP/1.1\r\n\r\n", wrong, b""):
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port)) as stranger:
            stranger.sendall(text)
    time.sleep(3)  # longer than the silence after which the other one would be lost
    assert [p.poll() for p in running] == [None, None]
    for process in running:
        process.kill()
        process.communicate()


def test_a_process_that_does_not_find_the_watch_is_missed(tmp_path):
    running = launch(tmp_path, "wait", count=3, missing=2)
    codes, said = finish(running)
    assert codes == [75, 75]
    assert all("only 1 of 2 other processes have found the way to this one's port" in text for text in said)
