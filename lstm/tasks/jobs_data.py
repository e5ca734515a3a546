"""What the status of jobs is predicted from: the section `data` of a config, and the log that it names, read once."""

import functools
import inspect
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common import config as configs
from common.errors import InputError
from common.processes import is_first
from lstm.data.job_events import NAMES, Log, encode, in_order
from lstm.data.job_history import STREAMS, History
from lstm.data.job_windows import Facts, Part, Steps, facts_of, parts_of
from lstm.data.jobs import STATUSES, Faults, Job, class_of, kind_of_path, lines_of, read_jobs
from lstm.data.made_jobs import CLASSES, made_jobs

SOURCES = ("log", "made")
OF_LOG = ("source", "root", "log", "kind", "columns", "statuses", "users", "jobs", "made_seed", "stream", "scratch")
HEADER = 200  # lines of comment at the head of a log that are kept: they tell where its times begin


def reading(
    *,
    source: str = "log",
    root: str = "data",
    log: str = "",
    kind: str = "",
    columns: Mapping[str, str] | None = None,
    statuses: Mapping[str, str] | None = None,
    users: int = 40,
    jobs: int = 20_000,
    made_seed: int = 0,
    stream: str = "user",
    parts: tuple[float, ...] = (0.7, 0.8, 1.0),
    train_on: str = "train",
    known_after: int = 5,
    scratch: str = "",
    batch_size: int = 32,
    eval_batch_size: int = 0,
    threads: int = 2,
    bptt: int = 64,
    restart: float = 0.0,
) -> dict[str, Any]:
    """The section `data`.

    source: 'log', the file `log` below `root` (kind: swf, sacct or csv; '': by its name; columns: of a CSV, {field of a Job: its
    column}; statuses: {word of the log: class, '' for not ended}, over those that are usual); or 'made': a made log of
    `jobs` jobs by `users` users, from made_seed.
    stream: the field that sequences go by: user, group, program, queue, partition, or machine for one sequence.
    parts, train_on: see `parts_of`. known_after: jobs of the training part from which on a name is known. scratch: folder of
    the files that hold the encoded log; '': where the system keeps such.
    batch_size, bptt, restart: as in `Streams`. eval_batch_size: 0 for batch_size. threads: of reading.
    """
    found = dict(locals())
    for name, known in (("source", SOURCES), ("stream", STREAMS)):
        if found[name] not in known:
            raise InputError(f"config.data.{name}={found[name]!r}: {configs.nearest(found[name], known)}")
    if source == "log" and not log:
        raise InputError("config.data.log='': name the file of a scheduler's log, below config.data.root")
    return found


class Data(NamedTuple):
    """Functions that read when they are first called, and keep: the log, its parts, what the training part tells, steps.

    wrong(): lines on what was wrong with the log; faults: what a History was told that is strange. header(): the log's lines of comment.
    history(users): a fresh History of the config's classes and stream. chances(): the true chances of a made log's jobs [n, K].
    """

    reads: Mapping[str, Any]
    log: Callable[[], Log]
    parts: Callable[[], Mapping[str, Part]]
    facts: Callable[[], Facts]
    wrong: Callable[[], list[str]]
    faults: Faults
    header: Callable[[], list[str]]
    history: Callable[..., History]
    chances: Callable[[], np.ndarray]
    kind: Callable[[], str]

    def part(self, split: str) -> Part:
        """Raises InputError for a split that the log has no jobs for."""
        return part_of(self.parts(), self.reads, split)

    def steps(self, edges: np.ndarray) -> Steps:
        return Steps(self.log(), self.facts(), edges)


def part_of(parts: Mapping[str, Part], reads: Mapping[str, Any], split: str) -> Part:
    if split not in parts:
        raise InputError(f"config.data.parts={list(reads['parts'])}: leaves no jobs for the split {split!r}")
    return parts[split]


def open_data(data: Mapping[str, Any], class_names: tuple[str, ...], facts: Mapping[str, Any] | None) -> Data:
    """The data of a config. facts: those of a run, whose training part then is not looked at for them. Nothing is read yet."""
    for key in data:
        known = inspect.signature(reading).parameters
        if key not in known:
            raise InputError(f"config.data.{key}: data has no such key; {configs.nearest(key, known)}")
    reads = reading(**data)
    path = Path(reads["root"]) / reads["log"]
    faults = Faults()  # of a feed

    @functools.cache
    def kind() -> str:
        if reads["source"] == "made":
            return "swf"  # which it can be written as
        return reads["kind"] or (facts or {}).get("kind") or kind_of_path(path)

    def history(users: Any = None) -> History:
        return history_of(reads, kind(), class_names, faults, users, strict=False)

    @functools.cache
    def opened() -> tuple[Log, Faults]:
        of = {name: reads[name] for name in OF_LOG}
        stat = path.stat() if reads["source"] == "log" and path.exists() else None
        return read_log(json.dumps([of, kind(), class_names, [stat.st_size, stat.st_mtime_ns] if stat else []]))

    def log() -> Log:
        return opened()[0]

    def parts() -> Mapping[str, Part]:
        return parts_of(log(), reads["parts"], reads["train_on"])

    @functools.cache
    def known_facts() -> Facts:
        if facts:
            scale = lambda name: tuple(np.asarray(x, np.float64) for x in facts[name])
            return Facts({n: list(facts["names"][n]) for n in NAMES}, scale("submitted"), scale("ended"))
        train = part_of(parts(), reads, "train")
        for line in never(log(), train, class_names):
            warn(reads, line)
        return facts_of(log(), train, reads["known_after"])

    def header() -> list[str]:
        if facts:
            return list(facts["header"])
        if reads["source"] == "made":
            return []
        lines = [line.rstrip("\n") for line in itertools.islice(lines_of(path), HEADER)]
        return list(itertools.takewhile(lambda line: line.startswith(";"), lines)) if kind() == "swf" else lines[:1]

    def chances() -> np.ndarray:
        return np.stack([made.chances for made in made_jobs(**made_options(reads))])

    wrong = lambda: opened()[1].report()
    return Data(reads, log, parts, known_facts, wrong, faults, header, history, chances, kind)


def history_of(
    reads: Mapping[str, Any],
    kind: str,
    class_names: tuple[str, ...],
    faults: Faults,
    users: Any = None,
    *,
    strict: bool = True,
) -> History:
    """A fresh History, which knows the words of all kinds of logs, and SWF's numbers where kind is 'swf' (an exit code of another log
    means the opposite). Those that are no status go to `faults`, as do, where it is not strict (a feed has to go on), those
    whose class is none of class_names."""
    words = {
        **STATUSES["sacct"],
        **STATUSES["csv"],
        **(STATUSES["swf"] if kind == "swf" else {}),
        **(reads["statuses"] or {}),
    }
    if not strict:
        words = {word: name for word, name in words.items() if not name or name in class_names}
    return History(
        class_names, lambda word: class_of(word, words, class_names, faults), stream=reads["stream"], users=users
    )


@functools.lru_cache(maxsize=1)
def read_log(key: str) -> tuple[Log, Faults]:
    """The log of [OF_LOG of the section data, kind, class names, size and time of the file], in JSON; and what was wrong with it.

    The last one is kept: a run is trained, calibrated and scored in one process.
    """
    reads, kind, names, _ = json.loads(key)
    faults = Faults()
    if reads["source"] == "made":
        if tuple(names) != CLASSES:
            raise InputError(f"config.task.class_names={names}: a made log has {list(CLASSES)}")
        jobs: Iterable[Job] = (made.job for made in made_jobs(**made_options(reads), chances=False))
    else:
        blocks = read_jobs(Path(reads["root"]) / reads["log"], kind, reads["columns"], faults=faults)
        jobs = in_order(itertools.chain.from_iterable(blocks), faults=faults)
    found = encode(jobs, history_of(reads, kind, tuple(names), faults), reads["scratch"])
    stream = reads["stream"]
    if found.names.get(stream) == [""]:
        raise InputError(
            f"config.data.stream={stream!r}: no job of the log has a {stream}; name its column (config.data.columns.{stream}), or "
            "let sequences go by something else (machine: all jobs are one)"
        )
    for line in faults.report():
        warn(reads, line)
    return found, faults


def warn(reads: Mapping[str, Any], line: str) -> None:
    if is_first():
        name = Path(reads["root"]) / reads["log"] if reads["source"] == "log" else "made log"
        print(f"warning: {name}: {line}", file=sys.stderr)


def made_options(reads: Mapping[str, Any]) -> dict[str, int]:
    return {"seed": reads["made_seed"], "users": reads["users"], "jobs": reads["jobs"]}


def never(log: Log, part: Part, class_names: tuple[str, ...]) -> list[str]:
    """A line for each class that no job of the training part ended with."""
    counts = np.bincount(np.maximum(log.jobs.label[part.first : part.last] + 1, 0), minlength=len(class_names) + 1)[1:]
    return [
        f"no job of the training part ended as {name!r}; it will hardly be predicted (config.task.class_names, data.statuses)"
        for name, count in zip(class_names, counts, strict=True)
        if not count
    ]


def as_json(facts: Facts, data: Data) -> dict[str, Any]:
    """Facts as they are kept beside a run, with the kind of the log and its head."""
    plain = lambda pair: [[float(x) for x in row] for row in pair]
    return {
        "kind": data.kind(),
        "header": data.header(),
        "names": facts.names,
        "submitted": plain(facts.submitted),
        "ended": plain(facts.ended),
    }
