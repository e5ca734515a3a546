"""State by name, as much of it in memory as is allowed, the rest in an SQLite file; and the whole state of a feed in it."""

import json
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

from common.errors import InputError
from lstm.data.job_history import History, Open, Pair, User
from lstm.data.job_summary import Summary
from lstm.data.jobs import Job


def open_store(path: str | Path) -> sqlite3.Connection:
    """The SQLite file at `path`, made where it is missing; ':memory:' for none. What is written counts from `commit` on: after a
    kill the file is as it was committed last. Raises InputError for a file that is no such store, or is in another process's use."""
    try:
        store = sqlite3.connect(path)
        store.execute("PRAGMA locking_mode = EXCLUSIVE")  # two feeds that share a state would each spoil the other's
        store.execute("BEGIN EXCLUSIVE")
        store.execute("CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value)")
        store.commit()
    except sqlite3.Error as error:
        raise InputError(
            f"--state {path}: {error}; name one that a feed has written and none now uses, or a new one"
        ) from None
    return store


def get(store: sqlite3.Connection, name: str) -> Any:
    """A fact of the store, from JSON; None where it has none."""
    row = store.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    return None if row is None else json.loads(row[0])


def put(store: sqlite3.Connection, name: str, value: Any) -> None:
    store.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))


class Spilling(MutableMapping):
    """A dict of which the `limit` most recently used entries are in memory, the others in a table of a store.

    pack(value) -> text or bytes, unpack of it -> value. A value that was changed in place is kept as long as it is in memory; one
    taken out has to be put back.
    """

    def __init__(self, store: sqlite3.Connection, table: str, limit: int, pack: Callable, unpack: Callable):
        self.store, self.table, self.limit, self.pack, self.unpack = store, table, max(limit, 1), pack, unpack
        self.near: OrderedDict[str, Any] = OrderedDict()
        store.execute(f"CREATE TABLE IF NOT EXISTS {table} (name TEXT PRIMARY KEY, value)")

    def get(self, name: str, default: Any = None) -> Any:
        if name in self.near:
            self.near.move_to_end(name)
            return self.near[name]
        row = self.store.execute(f"SELECT value FROM {self.table} WHERE name = ?", (name,)).fetchone()
        if row is None:
            return default
        self[name] = found = self.unpack(row[0])
        return found

    def __getitem__(self, name: str) -> Any:
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        return found

    def __setitem__(self, name: str, value: Any) -> None:
        self.near[name] = value
        self.near.move_to_end(name)
        if len(self.near) > self.limit:
            self.write(*self.near.popitem(last=False))

    def __delitem__(self, name: str) -> None:
        known = name in self
        self.near.pop(name, None)
        self.store.execute(f"DELETE FROM {self.table} WHERE name = ?", (name,))
        if not known:
            raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return self.get(name) is not None

    def __iter__(self):
        far = (name for (name,) in self.store.execute(f"SELECT name FROM {self.table}").fetchall())
        return iter([*self.near, *(name for name in far if name not in self.near)])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def write(self, name: str, value: Any) -> None:
        self.store.execute(f"INSERT OR REPLACE INTO {self.table} VALUES (?, ?)", (name, self.pack(value)))

    def flush(self) -> None:
        """Writes what is in memory; it stays there."""
        for name, value in self.near.items():
            self.write(name, value)


# What a History holds, as JSON ------------------------------------------------------------------------------------------------


def pack_user(user: User) -> str:
    programs = [
        [name, pair.all.state(), pair.asked, [[size, summary.state()] for size, summary in pair.sizes.items()]]
        for name, pair in user.programs.items()
    ]
    return json.dumps([user.all.state(), user.asked, user.last_event, programs])


def unpack_user(text: str) -> User:
    whole, asked, last_event, programs = json.loads(text)
    user = User(1)
    user.all, user.asked, user.last_event = Summary.of_state(whole), asked, last_event
    for name, own, pair_asked, sizes in programs:
        pair = user.programs[name] = Pair(1)
        pair.all, pair.asked = Summary.of_state(own), pair_asked
        for size, summary in sizes:
            pair.sizes[size] = Summary.of_state(summary)
    return user


def pack_machine(history: History) -> dict[str, Any]:
    """All of a history but its users."""
    return {
        "programs": [[name, summary.state()] for name, summary in history.programs.items()],
        "open": [[number, list(job), label, asked] for number, (job, label, asked) in history.open.items()],
        "numbers": list(history.numbers.items()),
        "recent": list(history.recent.items()),
        "ends": history.ends,
        "starts": history.starts,
        "waiting": list(history.waiting.items()),
        **{name: getattr(history, name) for name in ("shares", "running", "queued", "rate", "rate_at", "count")},
    }


def unpack_machine(history: History, state: dict[str, Any]) -> None:
    """Puts it back into a fresh history."""
    for name, summary in state["programs"]:
        history.programs[name] = Summary.of_state(summary)
    for number, job, label, asked in state["open"]:
        history.open[number] = Open(Job(*job), label, asked)
    history.numbers = dict(state["numbers"])
    history.recent.update((name, (label, submit)) for name, (label, submit) in state["recent"])
    history.ends, history.starts = ([(time, number) for time, number in state[name]] for name in ("ends", "starts"))
    history.waiting = dict(state["waiting"])
    for name in ("shares", "running", "queued", "rate", "rate_at", "count"):
        setattr(history, name, state[name])
