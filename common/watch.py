"""The watch over a run of several processes: who is there, what each is at, and a line for all when one is gone or hangs.

Every process keeps one TCP connection to process 0. A process that dies closes it at once, since its kernel does; one whose
machine is lost, or that is stopped, falls silent. Clocks are monotonic ones of each machine: a clock that jumps changes nothing.
"""

import atexit
import contextlib
import dataclasses
import json
import os
import queue
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from common.errors import InputError

GONE = 75  # exit status of the processes that are left: the same command goes on from the last checkpoint
BEAT = 2.0  # seconds between two signs of life
LOST = 30.0  # seconds of silence after which a process counts as lost


@dataclasses.dataclass
class Peer:
    """A process as process 0 sees it."""

    name: str
    heard: float
    doing: str = ""
    since: float = 0.0
    left: bool = False


class Watch:
    """This process's end of the watch: one connection to process 0, or there one from each, and a thread.

    exchange: gives every process the bytes of process 0, 1,024 of them.
    """

    def __init__(self, process: int, processes: int, exchange: Callable[[bytes], bytes]):
        self.processes = processes
        self.note = ("starting", time.monotonic())
        self.stall = 0.0
        self.ended = threading.Event()  # this process has said goodbye
        self.outbox: queue.Queue = queue.Queue()
        self.name = f"process {process} ({socket.gethostname()}, pid {os.getpid()})"
        server = socket.create_server(("", 0)) if process == 0 else None
        port = server.getsockname()[1] if server else 0
        door = json.dumps({"hosts": addresses(), "port": port, "word": secrets.token_hex(8), "name": self.name})
        door = json.loads(exchange(door.ljust(1024).encode()))
        if server:
            target = lambda: self.listen(server, door["word"])
        else:
            link = connect(door)
            send(link, {"word": door["word"], "name": self.name})
            target = lambda: self.report(link, door["name"])
        self.thread = threading.Thread(target=target, name="watch", daemon=True)
        self.thread.start()
        atexit.register(self.leave, 1, "ended with an error")  # of nobody's making: its traceback has been printed

    def leave(self, code: int, line: str) -> None:
        """Tells the others that this process ends; with a `line` they end too, and this one at once: it would else wait for
        them in the farewell of jax.distributed."""
        if self.ended.is_set():
            return
        self.outbox.put({"left": code, "line": f"{self.name}: {line}" if line else ""})
        self.ended.set()
        self.thread.join(2 * BEAT)
        if line:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def state(self) -> dict[str, Any]:
        what, since = self.note
        return {"doing": what, "for": time.monotonic() - since}

    def report(self, link: socket.socket, first: str) -> None:
        """The thread of every process but the first: tells how it is, and hears of the others."""
        link.settimeout(BEAT)
        heard, rest = time.monotonic(), b""
        while True:
            with contextlib.suppress(queue.Empty):
                send(link, self.outbox.get_nowait())
                return None
            if not send(link, self.state()):
                break
            end = time.monotonic() + BEAT
            while time.monotonic() < end and not self.ended.is_set():
                link.settimeout(0.2)
                try:
                    data = link.recv(65536)
                except TimeoutError:
                    continue
                except OSError:
                    data = b""
                if not data:
                    return self.end(f"{first} has gone", GONE)
                heard, rest = time.monotonic(), rest + data
                *lines, rest = rest.split(b"\n")
                for message in map(json.loads, lines):
                    if "end" in message:
                        return self.end(message["end"], message["code"])
                    if message.get("left") is not None:
                        return None  # process 0 is done; nobody hears this one any more
            if time.monotonic() - heard > LOST:
                return self.end(
                    f"nothing has been heard of {first} for {LOST:.0f} s: it hangs or its machine is lost", GONE
                )
        return self.end(f"{first} has gone", GONE)

    def listen(self, server: socket.socket, word: str) -> None:
        """The thread of process 0: hears all others, and passes on what ends the run."""
        chooser = selectors.DefaultSelector()
        chooser.register(server, selectors.EVENT_READ)
        rests: dict[socket.socket, bytes] = {}
        known: dict[socket.socket, Peer] = {}
        links = lambda: [link for link, peer in known.items() if not peer.left]
        beat = 0.0
        while True:
            for ready, _ in chooser.select(0.2):
                if ready.fileobj is server:
                    link, _ = server.accept()
                    chooser.register(link, selectors.EVENT_READ)
                    rests[link] = b""
                    continue
                link = ready.fileobj
                try:
                    data = link.recv(65536)
                except OSError:
                    data = b""
                if not data:
                    chooser.unregister(link)
                    peer = known.get(link)
                    if peer and not peer.left:
                        return self.end_all(f"{peer.name} has gone", GONE, links())
                    continue
                *lines, rests[link] = (rests[link] + data).split(b"\n")
                for message in map(json.loads, lines):
                    if "word" in message:
                        if message["word"] == word:
                            known[link] = Peer(message["name"], time.monotonic())
                        continue
                    peer = known.get(link)
                    if peer is None:
                        continue
                    peer.heard = time.monotonic()
                    if "left" in message:
                        peer.left = True
                        if message["line"]:
                            return self.end_all(message["line"], message["left"], links())
                    else:
                        peer.doing, peer.since = message["doing"], time.monotonic() - message["for"]
            with contextlib.suppress(queue.Empty):
                last = self.outbox.get_nowait()
                for link in links():
                    send(link, {"end": last["line"], "code": last["left"]} if last["line"] else {"left": last["left"]})
                return None
            now = time.monotonic()
            if now - beat > BEAT:
                beat = now
                for link in links():
                    send(link, {"beat": 1})
                line = self.silent(known, now) or self.stalled(known, now)
                if line:
                    return self.end_all(line, GONE, links())

    def silent(self, known: Mapping[Any, Peer], now: float) -> str:
        for peer in known.values():
            if not peer.left and now - peer.heard > LOST:
                return f"nothing has been heard of {peer.name} for {LOST:.0f} s: it hangs or its machine is lost"
        return ""

    def stalled(self, known: Mapping[Any, Peer], now: float) -> str:
        """The line for a run that does not move: what holds it is a process that waits for no other one."""
        what, since = self.note
        everyone = [Peer(self.name, now, what, since), *(peer for peer in known.values() if not peer.left)]
        if not self.stall or len(everyone) < self.processes or min(now - p.since for p in everyone) < self.stall:
            return ""
        active = [p for p in everyone if not p.doing.startswith(("waiting", "in step"))] or everyone
        told = "; ".join(f"{p.name} is {p.doing} since {now - p.since:.0f} s" for p in active)
        return f"nothing has moved for {self.stall:.0f} s (config.loop.stall): {told}"

    def end_all(self, line: str, code: int, links: list[socket.socket]) -> None:
        for link in links:
            send(link, {"end": line, "code": code})
        self.end(line, code)

    def end(self, line: str, code: int) -> None:
        """Ends this process, whatever its main thread waits for."""
        if self.ended.is_set():
            return
        cure = "the same command goes on from the last checkpoint, also with fewer processes"
        print(
            f"error: {line}; this one ({self.name}) ends" + (f": {cure}" if code == GONE else ""),
            file=sys.stderr,
            flush=True,
        )
        os._exit(code)


def addresses() -> list[str]:
    """Where this machine may be reached: its name, and the address of its way out."""
    found = [socket.gethostname()]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # nothing is sent; the address is for documentation only (RFC 5737)
        found.append(probe.getsockname()[0])
    return [*found, "127.0.0.1"]


def connect(door: Mapping[str, Any]) -> socket.socket:
    """A connection to the watch of process 0. Raises InputError where no address of it can be reached."""
    for host in door["hosts"]:
        with contextlib.suppress(OSError):
            return socket.create_connection((host, door["port"]), timeout=10)
    raise InputError(f"process 0 cannot be reached at {', '.join(door['hosts'])}, port {door['port']}: a firewall?")


def send(link: socket.socket, message: Mapping[str, Any]) -> bool:
    """False where the other side is gone."""
    try:
        link.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        return False
    return True
