"""What is known of a log at a moment: the state that makes the numbers of a job at its submission, and of one that ended.

No leak by construction. `History` is told of a submission when it happens and of an end when that has happened; the numbers
of a submission are made from the job's own request and from this state alone. A number that the log does not give
(processors, time limit, memory) is taken from the last job of the same user and program, else of the user, else it is 0;
that it is missing is not shown: in LLNL's Atlas log the requested processors are missing for jobs that were cancelled before
they began, so that a flag would give the answer away.
"""

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any, NamedTuple

from lstm.data.job_summary import LONG_AGO, REQUESTS, Summary, log1p, one_hot
from lstm.data.jobs import Job

DAY, WEEK, MONDAY = 86_400.0, 604_800.0, 4 * 86_400.0  # 1970-01-05 was a Monday
STREAMS = ("user", "group", "program", "queue", "partition", "machine")
MACHINE = 0.02  # how much the newest outcome counts in the machine's shares
SIZES, PROGRAMS, MOST = 16, 256, 65_536  # kept of a pair, of a user, of the machine: programs, jobs that ended
KINDS = ("time", "request", "user", "user and program", "program", "same size", "machine", "predecessor")


class Event(NamedTuple):
    """One step of a stream: at `time` job `number` (its place in the log) was submitted, or had ended. numbers: those of
    `submitted_names` or `ended_names`."""

    stream: str
    time: float
    number: int
    submitted: bool
    numbers: list[float]
    job: Job


class Open(NamedTuple):
    """A job that has not ended: its class once it does (-1: not known), and the processors that it asked for."""

    job: Job
    label: int
    processors: float


class Pair:
    """One user's jobs of one program: all, by their size, and what the last one asked for."""

    def __init__(self, classes: int):
        self.all, self.sizes, self.asked = Summary(classes), OrderedDict(), {}


class User:
    """One user's jobs: all, by program, what the last one asked for, and when something last happened."""

    def __init__(self, classes: int):
        self.all, self.programs, self.asked, self.last_event = Summary(classes), OrderedDict(), {}, -math.inf


def entry(of: OrderedDict, key: Any, make: Callable[[], Any], limit: int) -> Any:
    """of[key], made where it is missing; the `limit` most recently used are kept."""
    if key in of:
        of.move_to_end(key)
    else:
        of[key] = make()
        if len(of) > limit:
            of.popitem(last=False)
    return of[key]


class History:
    """The state of a whole machine.

    classes: names of the classes. class_of(word): the class of a status, -1 where it is none. stream: the field of a job that
    streams go by, of STREAMS. users: where the state of each user is kept, a dict or the like.
    Memory: by users, the programs and sizes that are kept of each, and the jobs that have not ended.
    """

    def __init__(
        self,
        classes: Sequence[str],
        class_of: Callable[[str], int],
        *,
        stream: str = "user",
        users: MutableMapping[str, User] | None = None,
    ):
        self.classes, self.class_of, self.stream = tuple(classes), class_of, stream
        self.users = {} if users is None else users
        self.programs: OrderedDict[str, Summary] = OrderedDict()
        self.shares = [1 / len(classes)] * len(classes)
        self.open: dict[int, Open] = {}
        self.numbers: dict[str, int] = {}  # of the open jobs, by id
        self.recent: OrderedDict[str, tuple[int, float]] = (
            OrderedDict()
        )  # class and submission of jobs that ended, by id
        self.ends: list[tuple[float, int]] = []
        self.starts: list[tuple[float, int]] = []
        self.waiting: dict[int, float] = {}  # processors of the open jobs that have not started
        self.running = self.queued = self.rate = 0.0
        self.rate_at, self.count = -math.inf, 0

    # What happens -------------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> Event:
        """The job is submitted now, at job.submit. What ended up to then must have been told before (`ended_until`). What the
        record tells of later takes effect later."""
        number, now = self.count, job.submit
        user = self.user(job.user)
        pair, program = self.pair(user, job.program), self.program(job.program)
        asked = {name: wanted(job, name, pair, user) for name in REQUESTS}
        size = self.size(pair, asked["processors"])
        logs = [log1p(asked[name]) for name in REQUESTS]
        numbers = self.at_submission(job, logs, user, pair, program, size)
        for summary in (user.all, pair.all, program, size):
            summary.submit(number, now, logs)
        pair.asked, user.asked, user.last_event = asked, asked, max(now, user.last_event)
        self.users[job.user] = user
        self.rate, self.rate_at = self.rate_now(now) + 1, max(now, self.rate_at)
        self.count += 1
        self.open[number] = Open(job, -1, asked["processors"])
        if job.id:
            self.numbers[job.id] = number
        self.waiting[number] = asked["processors"]
        self.queued += asked["processors"]
        self.tell(number, job)
        return Event(self.stream_of(job), now, number, True, numbers, job)

    def tell(self, number: int, job: Job) -> None:
        """More of an open job: its start, its end and status, which take effect at their times."""
        start = self.open[number].job.start if math.isnan(job.start) else job.start  # a line of an end may leave it out
        known = self.open[number].job._replace(start=start, end=job.end, status=job.status)
        self.open[number] = self.open[number]._replace(job=known, label=self.class_of(job.status))
        if not math.isnan(job.start):
            heapq.heappush(self.starts, (job.start, number))
        if not math.isnan(job.end):
            heapq.heappush(self.ends, (job.end, number))

    def ended_until(self, now: float) -> Iterator[Event]:
        """The jobs that end up to `now`, in the order in which they do (at the same moment: as they were submitted)."""
        while self.ends and self.ends[0][0] <= now:
            time, number = heapq.heappop(self.ends)
            if number in self.open and self.open[number].job.end == time:  # the end that was told last
                self.start_until(time)
                yield self.end(time, number)
        self.start_until(now)

    def start_until(self, now: float) -> None:
        while self.starts and self.starts[0][0] <= now:
            processors = self.waiting.pop(heapq.heappop(self.starts)[1], None)
            if processors is not None:
                self.queued -= processors
                self.running += processors

    def end(self, time: float, number: int) -> Event:
        """Job `number` has ended at `time`."""
        job, label, processors = self.open.pop(number)
        if self.numbers.get(job.id) == number:
            del self.numbers[job.id]
        if self.waiting.pop(number, None) is None:
            self.running -= processors
        else:
            self.queued -= processors
        run = max(time - (job.submit if math.isnan(job.start) else job.start), 0.0)
        user = self.user(job.user)
        pair = self.pair(user, job.program)
        for summary in (user.all, pair.all, self.program(job.program), self.size(pair, processors)):
            summary.end(number, time, label, run)
        if label >= 0:
            self.shares = [share + MACHINE * ((k == label) - share) for k, share in enumerate(self.shares)]
        if job.id:
            self.recent[job.id] = label, job.submit
        if len(self.recent) > MOST:
            self.recent.popitem(last=False)
        limit = job.time_limit if job.time_limit > 0 else pair.asked.get("time_limit", 0.0)
        numbers = [
            *one_hot(label, len(self.classes)),
            log1p(run),
            log1p(time - job.submit),
            log1p(run) - log1p(limit),
            min(log1p(time - user.last_event), LONG_AGO),
            log1p(processors),
        ]
        user.last_event = max(time, user.last_event)
        self.users[job.user] = user
        return Event(self.stream_of(job), time, number, False, numbers, job)

    def has_ended(self, job: Job) -> bool:
        """Whether this job, by its id and submission, is one of those that ended lately."""
        return job.id in self.recent and self.recent[job.id][1] == job.submit

    # What is known ------------------------------------------------------------------------------------------------------

    def at_submission(
        self, job: Job, logs: Sequence[float], user: User, pair: Pair, program: Summary, size: Summary
    ) -> list[float]:
        """The numbers of `submitted_names`. logs: of the REQUESTS."""
        now = job.submit
        before = [log1p(pair.asked[name]) for name in REQUESTS] if pair.asked else logs
        changes = [new - old for new, old in zip(logs, before, strict=True)]
        return [
            *circle(now, DAY),
            *circle(now - MONDAY, WEEK),
            *logs,
            *changes,
            float(bool(pair.asked) and not any(changes)),
            *user.all.numbers(now, logs),
            *pair.all.numbers(now, logs),
            *program.numbers(now, logs),
            *size.numbers(now, logs),
            *self.shares,
            log1p(self.running),
            log1p(self.queued),
            log1p(len(self.open)),
            log1p(self.rate_now(now)),
            *self.predecessor(job, user),
        ]

    def submitted_names(self) -> list[tuple[str, str]]:
        """(kind, name) of each number of a submission; kind is one of KINDS."""
        summaries = [(kind, name) for kind in KINDS[2:6] for name in Summary.names(self.classes)]
        machine = [*(f"lately {c}" for c in self.classes), "running", "queued", "open", "submissions an hour"]
        before = ["none", "not known", "open", *self.classes, *(f"lately {c}" for c in self.classes)]
        return [
            *(("time", name) for name in ("hour, sine", "hour, cosine", "weekday, sine", "weekday, cosine")),
            *(("request", name) for name in REQUESTS),
            *(("request", f"{name}, change") for name in REQUESTS),
            ("request", "as before"),
            *summaries,
            *(("machine", name) for name in machine),
            *(("predecessor", name) for name in before),
        ]

    def ended_names(self) -> list[str]:
        """Of the numbers of a job that ended."""
        return [
            *self.classes,
            "run time",
            "since submission",
            "run time of limit",
            "since the last event",
            "processors",
        ]

    def predecessor(self, job: Job, user: User) -> list[float]:
        """Of the job that this one waits for: whether there is one, it is known, open, how it ended; and how its program lately
        ended."""
        classes = len(self.classes)
        number, (label, _) = self.numbers.get(job.after), self.recent.get(job.after, (None, None))
        if not job.after or (number is None and label is None):
            return [float(not job.after), float(bool(job.after)), 0.0, *[0.0] * classes, *[1 / classes] * classes]
        if number is None:
            return [0.0, 0.0, 0.0, *one_hot(label, classes), *one_hot(label, classes)]
        own = user.programs.get(self.open[number].job.program)
        return [0.0, 0.0, 1.0, *[0.0] * classes, *(own.all.fast if own else [1 / classes] * classes)]

    def stream_of(self, job: Job) -> str:
        return "" if self.stream == "machine" else getattr(job, self.stream)

    def rate_now(self, now: float) -> float:
        """Submissions in about the last hour."""
        return self.rate * math.exp(min(self.rate_at - now, 0.0) / 3600)

    def user(self, name: str) -> User:
        found = self.users.get(name)
        return User(len(self.classes)) if found is None else found

    def pair(self, user: User, program: str) -> Pair:
        return entry(user.programs, program, lambda: Pair(len(self.classes)), PROGRAMS)

    def program(self, name: str) -> Summary:
        return entry(self.programs, name, lambda: Summary(len(self.classes)), MOST)

    def size(self, pair: Pair, processors: float) -> Summary:
        return entry(pair.sizes, processors, lambda: Summary(len(self.classes)), SIZES)


def wanted(job: Job, name: str, pair: Pair, user: User) -> float:
    """What a job asks for, or the last job of the pair, else of the user, where the log does not say."""
    own = getattr(job, name)
    return own if own > 0 else pair.asked.get(name) or user.asked.get(name, 0.0)


def circle(time: float, period: float) -> tuple[float, float]:
    """Sine and cosine of the phase of `time` in a period."""
    angle = 2 * math.pi * (time % period) / period
    return math.sin(angle), math.cos(angle)
