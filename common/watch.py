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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.errors import STOPPED, InputError

BEAT = 2.0  # seconds between two signs of life
LOST = 30.0  # seconds of silence after which a process counts as lost


@dataclasses.dataclass
class Peer:
    """A process as process 0 sees it."""

    name: str
    heard: float
    doing: str
    since: float
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
            target = lambda: self.listen(Hub(server, door["word"], processes - 1))
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
        """The thread of every process but the first: tells how it is, and hears of the others. first: that one's name."""
        link.settimeout(0.2)
        heard, told, rest = time.monotonic(), 0.0, b""
        while True:
            with contextlib.suppress(queue.Empty):
                send(link, self.outbox.get_nowait())
                return drain(link)
            now = time.monotonic()
            if now - told > BEAT:
                told = now
                send(link, self.state())  # where the other side is gone, recv says so
            if now - heard > LOST:
                return self.end(
                    f"nothing has been heard of {first} for {LOST:.0f} s: it hangs or its machine is lost", STOPPED
                )
            messages, rest = receive(link, rest)
            if messages is None:
                return self.end(f"{first} has gone", STOPPED)
            heard = time.monotonic() if messages else heard
            for message in messages:
                if "end" in message:
                    return self.end(message["end"], message["code"])
                if "left" in message:
                    return None  # process 0 is done, and nobody listens any more

    def listen(self, hub: "Hub") -> None:
        """The thread of process 0: hears all others, and passes on what ends the run."""
        beat = 0.0
        while True:
            ending = hub.hear()
            with contextlib.suppress(queue.Empty):
                last = self.outbox.get_nowait()
                return hub.part({"end": last["line"], "code": last["left"]} if last["line"] else {"left": last["left"]})
            now = time.monotonic()
            if not ending and now - beat > BEAT:
                beat = now
                hub.tell({"beat": 1})
                line = hub.silent(now) or self.stalled(hub.present(), now)
                ending = (line, STOPPED) if line else None
            if ending:
                line, code = ending
                hub.part({"end": line, "code": code})
                return self.end(line, code)

    def stalled(self, others: Sequence[Peer], now: float) -> str:
        """The line for a run that does not move: what holds it is a process that waits for no other one."""
        what, since = self.note
        everyone = [Peer(self.name, now, what, since), *others]
        if not self.stall or len(everyone) < self.processes or min(now - p.since for p in everyone) < self.stall:
            return ""
        active = [p for p in everyone if not p.doing.startswith(("waiting", "in step"))] or everyone
        told = "; ".join(f"{p.name} is {p.doing} since {now - p.since:.0f} s" for p in active)
        return f"nothing has moved for {self.stall:.0f} s (config.loop.stall): {told}"

    def end(self, line: str, code: int) -> None:
        """Ends this process, whatever its main thread waits for."""
        if self.ended.is_set():
            return
        cure = ". The same command goes on from the last checkpoint, also with fewer processes"
        told = f"error: {line}; {self.name} ends, too{cure if code == STOPPED else ''}"
        print(told, file=sys.stderr, flush=True)
        os._exit(code)


class Hub:
    """Process 0's links to all others. Who does not know the `word` is not heard."""

    def __init__(self, server: socket.socket, word: str, others: int):
        self.server, self.word, self.others = server, word, others
        self.began = time.monotonic()
        self.chooser = selectors.DefaultSelector()
        self.chooser.register(server, selectors.EVENT_READ)
        self.rests: dict[socket.socket, bytes] = {}
        self.peers: dict[socket.socket, Peer] = {}

    def present(self) -> list[Peer]:
        return [peer for peer in self.peers.values() if not peer.left]

    def tell(self, message: Mapping[str, Any]) -> None:
        for link, peer in self.peers.items():
            if not peer.left:
                send(link, message)

    def part(self, message: Mapping[str, Any]) -> None:
        """The last word to all."""
        self.tell(message)
        for link, peer in self.peers.items():
            if not peer.left:
                drain(link)

    def hear(self) -> tuple[str, int] | None:
        """Takes what comes within a fifth of a second: (line, exit status) where it ends the run."""
        for ready, _ in self.chooser.select(0.2):
            link = ready.fileobj
            if link is self.server:
                with contextlib.suppress(OSError):  # gone again already
                    link, _ = self.server.accept()
                    self.chooser.register(link, selectors.EVENT_READ)
                    self.rests[link] = b""
                continue
            messages, self.rests[link] = receive(link, self.rests[link])
            if messages is None:
                self.chooser.unregister(link)
                del self.rests[link]
                link.close()
                peer = self.peers.get(link)
                if peer and not peer.left:
                    peer.left = True
                    return f"{peer.name} has gone", STOPPED
                continue
            for message in messages:
                if ending := self.note(link, message):
                    return ending
        return None

    def note(self, link: socket.socket, message: Mapping[str, Any]) -> tuple[str, int] | None:
        if message.get("word") == self.word:
            self.peers[link] = Peer(message["name"], time.monotonic(), "starting", time.monotonic())
        peer = self.peers.get(link)
        if peer is None:
            return None
        peer.heard = time.monotonic()
        if "left" in message:
            peer.left = True
            return (message["line"], message["left"]) if message["line"] else None
        if "doing" in message:
            peer.doing, peer.since = message["doing"], time.monotonic() - message["for"]
        return None

    def silent(self, now: float) -> str:
        if len(self.peers) < self.others and now - self.began > LOST:
            found = f"{len(self.peers)} of {self.others} other processes"
            return f"only {found} have found the way to this one's port {self.server.getsockname()[1]}: a firewall?"
        for peer in self.present():
            if now - peer.heard > LOST:
                return f"nothing has been heard of {peer.name} for {LOST:.0f} s: it hangs or its machine is lost"
        return ""


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


def drain(link: socket.socket) -> None:
    """Closes a link after its last word. With something unread it would be cut, and the word lost: so it is read until the
    other side closes, for a second at most."""
    with contextlib.suppress(OSError):
        link.shutdown(socket.SHUT_WR)
        link.settimeout(1.0)
        end = time.monotonic() + 1.0
        while time.monotonic() < end and link.recv(65536):
            pass


def receive(link: socket.socket, rest: bytes) -> tuple[list[dict[str, Any]] | None, bytes]:
    """(messages that have come, the start of the next one) after what was left of the last time; None: the other side is gone."""
    try:
        data = link.recv(65536)
    except TimeoutError:
        return [], rest
    except OSError:
        data = b""
    if not data:
        return None, rest
    *lines, rest = (rest + data).split(b"\n")
    try:
        messages = [json.loads(line) for line in lines]
    except (ValueError, RecursionError):
        return None, rest  # none of ours: something on the network that tries ports
    ours = all(isinstance(m, dict) for m in messages) and len(rest) < 65536
    return (messages if ours else None), rest
