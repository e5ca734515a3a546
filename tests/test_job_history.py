"""What is known of a log at a moment: no leak, every number against a slow recomputation, hidden requests, bounds, the store."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm.data import job_history, job_store
from lstm.data.job_history import REQUESTS, History
from lstm.data.job_summary import Summary
from lstm.data.jobs import Job

NAN, CLASSES = math.nan, ("completed", "failed", "cancelled")
WORDS = {"1": 0, "0": 1, "5": 2, **{name: i for i, name in enumerate(CLASSES)}}  # any other word is of no class
GAPS = (0, 0, 1, 30, 59, 60, 500, 20_000)  # s between submissions
WAITS, RUNS = (0, 0, 5, 700, 30_000), (0, 1, 90, 4000, 90_000)
STATUSES = ("1", "1", "0", "5", "", "9")


def history_of(stream="user", users=None):
    return History(CLASSES, lambda word: WORDS.get(word, -1), stream=stream, users=users)


def told(jobs, history=None):
    """Events of a log in the order in which they become known, and when they do."""
    history = history_of() if history is None else history
    found = []
    for job in jobs:
        found += [*history.ended_until(job.submit), history.submit(job)]
    return [*found, *history.ended_until(math.inf)]


def plain(events):
    return [(e.stream, e.time, e.number, e.submitted, e.numbers) for e in events]


@st.composite
def logs(draw, most=10, early=False, unique=True):
    """Jobs of a few users and programs, in order of submission. early: some end before they were submitted."""
    pick = lambda values: draw(st.sampled_from(values))
    time, jobs = 1_704_067_200.0, []
    for place in range(draw(st.integers(2, most))):
        time += pick(GAPS)
        start = pick((NAN, *(time + wait for wait in WAITS)))
        begun = time if math.isnan(start) else start
        end = pick((NAN, *(begun + run for run in RUNS), *((time - 40,) if early else ())))
        name = f"j{place}" if unique else pick("xyz")
        others = (*(job.id for job in jobs[-4:]), f"j{place + 1}") if unique else "xyz"
        after = pick(("", "nobody", *others))
        numbers = pick((NAN, NAN, 0.0, 1.0, 4.0, 16.0)), pick((NAN, 600.0, 3600.0)), pick((NAN, 2.5, 4000.0))
        jobs.append(
            Job(name, time, start, end, pick(STATUSES), *numbers, pick("ab"), pick("gh"), pick("pqr"), "", "s", after)
        )
    return jobs


# No leak ------------------------------------------------------------------------------------------------------------------


def known_from(old, new):
    """The first moment at which two versions of a job differ in what happened."""
    moments = [old.end, new.end]
    if repr(old.start) != repr(new.start):
        moments += [old.start, new.start]
    return min((t for t in moments if not math.isnan(t)), default=math.inf)


@st.composite
def changed_logs(draw):
    """(a log, the same with one job that goes on another way, the moment from which on that can be known)"""
    jobs = draw(logs(early=True))
    place = draw(st.integers(0, len(jobs) - 1))
    old = jobs[place]
    start = draw(st.sampled_from((old.start, old.start, NAN, *(old.submit + wait for wait in WAITS))))
    begun = old.submit if math.isnan(start) else start
    end = draw(st.sampled_from((old.end, old.end, NAN, *(begun + run for run in RUNS))))
    new = old._replace(start=start, end=end, status=draw(st.sampled_from(STATUSES)))
    return jobs, [*jobs[:place], new, *jobs[place + 1 :]], known_from(old, new)


def before(events, moment):
    """Those that are known before a moment: what ended before it was submitted is known from then on."""
    return plain(e for e in events if max(e.time, e.job.submit) < moment)


@settings(max_examples=60, deadline=None)
@given(changed_logs())
def test_what_becomes_known_later_changes_nothing_before(given_logs):
    old, new, moment = given_logs
    one, other = told(old), told(new)
    assert before(one, moment) == before(other, moment)
    assert sum(e.submitted and e.time < moment for e in one) == sum(job.submit < moment for job in old)


@settings(max_examples=30, deadline=None)
@given(logs(early=True), st.data())
def test_jobs_that_come_later_change_nothing_before(jobs, data):
    place = data.draw(st.integers(0, len(jobs) - 1))
    whole = plain(told(jobs))
    first = next(i for i, event in enumerate(whole) if event[2] == place and event[3])
    for others in (jobs[:place], jobs[:place] + jobs[place + 1 :]):
        assert plain(told(others))[:first] == whole[:first]
    rest = [job._replace(user="new", program="q", submit=job.submit + 5) for job in jobs[place + 1 :]]
    assert plain(told(jobs[: place + 1] + rest))[: first + 1] == whole[: first + 1]


def test_a_change_is_seen_once_it_is_known():
    """The property above is not empty: each later field of a job is in what follows."""
    first = Job("1", 100.0, 110.0, 200.0, "1", 4.0, 60.0, NAN, "a", "g", "p", "", "", "")
    jobs = [first, first._replace(id="2", submit=150.0, end=NAN), first._replace(id="3", submit=300.0, end=NAN)]
    events = told(jobs)
    for change, moment in (({"start": 160.0}, 150), ({"end": 290.0}, 200), ({"status": "5"}, 200), ({"end": NAN}, 200)):
        other = told([first._replace(**change), *jobs[1:]])
        assert before(events, moment) == before(other, moment)
        assert plain(events) != plain(other), change


def test_a_job_that_is_told_of_in_parts_is_one_job():
    job = Job("1", 100.0, 110.0, 200.0, "1", 4.0, 60.0, NAN, "a", "g", "p", "", "", "")
    (_, expected) = told([job])
    for first, *later in (
        [job._replace(end=NAN, status=""), job],
        [job._replace(start=NAN, end=NAN, status=""), job._replace(end=NAN, status=""), job._replace(start=NAN)],
    ):
        history = history_of()
        number = history.submit(first).number
        for more in later:
            history.tell(number, more)
        assert plain(history.ended_until(math.inf)) == plain([expected])


# Every number ---------------------------------------------------------------------------------------------------------------


def log1p(x):
    return math.log(1 + max(x, 0.0))


def hot(label):
    return [float(k == label) for k in range(3)]


def requests_of(jobs):
    """What each job asked for: its own, else that of its user's job of the program before it, else of its user's."""
    found = []
    for i, job in enumerate(jobs):
        own = {}
        for name in REQUESTS:
            pair = [found[k][name] for k in range(i) if (jobs[k].user, jobs[k].program) == (job.user, job.program)]
            user = [found[k][name] for k in range(i) if jobs[k].user == job.user]
            value = getattr(job, name)
            own[name] = value if value > 0 else (pair[-1:] or [0.0])[0] or (user[-1:] or [0.0])[0]
        found.append(own)
    return found


def ended_before(jobs, count, now):
    """Numbers of the first `count` jobs that ended up to `now`, in the order in which they did."""
    return sorted((k for k in range(count) if jobs[k].end <= now), key=lambda k: (jobs[k].end, k))


def label_of(job):
    return WORDS.get(job.status, -1)


def share(labels, weight, start=1 / 3):
    """Running shares by their closed form."""
    n = len(labels)
    return [
        start * (1 - weight) ** n + sum(weight * (1 - weight) ** (n - 1 - i) * (l == k) for i, l in enumerate(labels))
        for k in range(3)
    ]


def run_of(job):
    return job.end - (job.submit if math.isnan(job.start) else job.start)


def summary_of(jobs, own, i, asked):
    """The numbers of `Summary.names` of the jobs whose numbers are `own`, by name, as job i is submitted."""
    now = jobs[i].submit
    ended = [k for k in ended_before(jobs, i, now) if k in own]
    labels = [label_of(jobs[k]) for k in ended if label_of(jobs[k]) >= 0]
    still = [k for k in own if k not in ended]
    gaps = [jobs[b].submit - jobs[a].submit < 60 for a, b in zip(own, own[1:], strict=False)]
    tail = lambda flags: next((i for i, flag in enumerate(reversed(flags)) if not flag), len(flags))
    long = [0.0] * 3
    for k in ended:
        if (c := label_of(jobs[k])) >= 0:
            value = log1p(run_of(jobs[k]))
            long[c] = 0.7 * long[c] + 0.3 * value if long[c] else value
    since = lambda times: min(log1p(now - times[-1]), 16.0) if times else 16.0
    lasts = [*labels[::-1], -1, -1]
    usual = lambda name: np.mean([log1p(asked[k][name]) for k in own]) if own else log1p(asked[i][name])
    lists = {"lately": share(labels, 0.2), "long": share(labels, 0.05), "last": hot(lasts[0])}
    lists |= {"last but one": hot(lasts[1]), "run time": long}
    return {f"{name} {c}": values[k] for name, values in lists.items() for k, c in enumerate(CLASSES)} | {
        "ended": log1p(len(labels)),
        "submitted": log1p(len(own)),
        "open": log1p(len(still)),
        "streak": log1p(tail([label == lasts[0] for label in labels])),
        "burst": log1p(tail(gaps)),
        "since end": since([jobs[k].end for k in ended]),
        "since submission": since([jobs[k].submit for k in own]),
        "oldest open": log1p(now - jobs[still[0]].submit) if still else 0.0,
        "newest open": log1p(now - jobs[still[-1]].submit) if still else 0.0,
        "last run time": ([0.0] + [log1p(run_of(jobs[k])) for k in ended if label_of(jobs[k]) >= 0])[-1],
        **{f"{name} against the usual": log1p(asked[i][name]) - usual(name) for name in REQUESTS},
    }


def submitted_of(jobs, i):
    """All numbers of the submission of job i, {(kind, name): number}, from the list of all jobs."""
    job, now, asked = jobs[i], jobs[i].submit, requests_of(jobs)
    everyone = range(i)
    users = [k for k in everyone if jobs[k].user == job.user]
    pair = [k for k in users if jobs[k].program == job.program]
    size = [k for k in pair if asked[k]["processors"] == asked[i]["processors"]]
    groups = {"user": users, "user and program": pair, "same size": size}
    groups["program"] = [k for k in everyone if jobs[k].program == job.program]
    found = {(kind, name): x for kind, own in groups.items() for name, x in summary_of(jobs, own, i, asked).items()}
    for what, period, since in (("hour", 86_400, 0), ("weekday", 604_800, 4 * 86_400)):
        angle = 2 * math.pi * (now - since) / period
        found |= {("time", f"{what}, sine"): math.sin(angle), ("time", f"{what}, cosine"): math.cos(angle)}
    old = asked[pair[-1]] if pair else asked[i]
    for name in REQUESTS:
        found["request", name] = log1p(asked[i][name])
        found["request", f"{name}, change"] = log1p(asked[i][name]) - log1p(old[name])
    found["request", "as before"] = float(bool(pair) and old == asked[i])
    ended = ended_before(jobs, i, now)
    still = [k for k in everyone if k not in ended]
    begun = [k for k in still if jobs[k].start <= now]
    sizes = lambda ks: log1p(sum(asked[k]["processors"] for k in ks))
    lately = share([label_of(jobs[k]) for k in ended if label_of(jobs[k]) >= 0], 0.02)
    found |= {("machine", f"lately {c}"): x for c, x in zip(CLASSES, lately, strict=True)}
    found["machine", "running"], found["machine", "queued"] = sizes(begun), sizes([k for k in still if k not in begun])
    found["machine", "open"] = log1p(len(still))
    found["machine", "submissions an hour"] = log1p(sum(math.exp((jobs[k].submit - now) / 3600) for k in everyone))
    waits = [k for k in everyone if jobs[k].id == job.after]
    running = waits and waits[0] in still
    flags = [not job.after, bool(job.after) and not waits, bool(running)]
    found |= {("predecessor", n): float(x) for n, x in zip(("none", "not known", "open"), flags, strict=True)}
    label = label_of(jobs[waits[0]]) if waits and not running else -1
    program = [k for k in users if waits and jobs[k].program == jobs[waits[0]].program]
    lately = summary_of(jobs, program, i, asked)
    for k, c in enumerate(CLASSES):
        found["predecessor", c] = float(k == label)
        gone = float(k == label) if waits else 1 / 3
        found["predecessor", f"lately {c}"] = lately[f"lately {c}"] if running else gone
    return found


def ended_of(jobs, i):
    """All numbers of the end of job i: it is known after those that ended before it and all that were submitted before."""
    job, asked, end = jobs[i], requests_of(jobs), jobs[i].end
    count = sum(other.submit < end for other in jobs)
    count = max(count, i + 1)
    pair = [k for k in range(count) if (jobs[k].user, jobs[k].program) == (job.user, job.program)]
    limit = job.time_limit if job.time_limit > 0 else asked[pair[-1]]["time_limit"]
    times = [jobs[k].submit for k in range(count) if jobs[k].user == job.user]
    times += [jobs[k].end for k in range(count) if jobs[k].user == job.user and k != i and (jobs[k].end, k) < (end, i)]
    numbers = [run_of(job), end - job.submit]
    return [
        *hot(label_of(job)),
        *map(log1p, numbers),
        log1p(run_of(job)) - log1p(limit),
        min(log1p(end - max(times)), 16.0),
        log1p(asked[i]["processors"]),
    ]


@settings(max_examples=30, deadline=None)
@given(logs())
def test_every_number_is_that_of_a_slow_recomputation(jobs):
    names = history_of().submitted_names()
    assert len(set(names)) == len(names)
    events = told(jobs)
    assert sorted(2 * e.number + e.submitted for e in events) == sorted(
        [2 * i + 1 for i in range(len(jobs))] + [2 * i for i, job in enumerate(jobs) if not math.isnan(job.end)]
    )
    for event in events:
        if event.submitted:
            expected = submitted_of(jobs, event.number)
            found = dict(zip(names, event.numbers, strict=True))
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                assert math.isclose(found[name], value, rel_tol=1e-6, abs_tol=1e-6), (name, found[name], value)
        elif all(other.submit != event.time for other in jobs[event.number + 1 :]):
            np.testing.assert_allclose(event.numbers, ended_of(jobs, event.number), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("stream", ["user", "group", "program", "queue", "partition", "machine"])
def test_streams_go_by_a_field(stream):
    job = Job("1", 100.0, 110.0, 200.0, "1", 4.0, 60.0, NAN, "a", "g", "p", "q", "s", "")
    events = told([job], history_of(stream))
    assert [(e.stream, e.time, e.submitted) for e in events] == [
        ("" if stream == "machine" else getattr(job, stream), 100.0, True),
        ("" if stream == "machine" else getattr(job, stream), 200.0, False),
    ]


# Requests -------------------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(logs(), st.sampled_from(REQUESTS), st.data())
def test_a_request_that_the_log_does_not_give_is_hidden(jobs, name, data):
    """A missing number is the last one of the user and program in every number that comes of it."""
    asked = requests_of(jobs)
    pairs = [(job.user, job.program) for job in jobs]
    usable = [
        (i, asked[last][name])
        for i, pair in enumerate(pairs)
        for last in [max((k for k in range(i) if pairs[k] == pair), default=-1)]
        if last >= 0 and asked[last][name] > 0
    ]
    if not usable:
        return
    place, value = data.draw(st.sampled_from(usable))
    with_it = lambda x: [*jobs[:place], jobs[place]._replace(**{name: x}), *jobs[place + 1 :]]
    given_, missing, zero = (told(with_it(x)) for x in (value, NAN, 0.0))
    # The end of a job without a limit is compared with the limit of the pair by then, which may be a later job's.
    shown = lambda events: plain(e for e in events if e.submitted or name != "time_limit" or e.number != place)
    assert shown(missing) == shown(given_) == shown(zero)


def test_missing_processors_of_cancelled_jobs_tell_nothing():
    """As in LLNL's Atlas log, where they are missing exactly for jobs that were cancelled before they began."""
    job = Job("0", 0.0, NAN, NAN, "", 8.0, 60.0, NAN, "a", "g", "p", "", "", "")
    known = [job._replace(id=f"{i}", submit=100.0 * i, end=100.0 * i + 50, status="15"[i % 2]) for i in range(8)]
    hidden = [j._replace(processors=NAN) if i % 2 else j for i, j in enumerate(known)]
    assert plain(told(known)) == plain(told(hidden))


# Bounds ---------------------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(job_history, "MOST", 50)
    history = history_of()
    job = Job("", 0.0, 0.0, 0.0, "1", 1.0, 60.0, NAN, "a", "g", "p", "", "", "")
    for i in range(600):
        program = "p" if i % 2 else f"p{i}"
        new = job._replace(id=f"{i}", submit=10.0 * i, start=10.0 * i, end=10.0 * i + 5, program=program)
        list(history.ended_until(new.submit))
        history.submit(new._replace(processors=float(i)))
    user = history.users["a"]
    assert len(user.programs) == job_history.PROGRAMS and "p" in user.programs and "p599" not in user.programs
    assert len(user.programs["p"].sizes) == job_history.SIZES and 599.0 in user.programs["p"].sizes
    assert len(history.programs) == len(history.recent) == 50
    assert len(history.open) == len(history.numbers) == len(history.waiting) == len(user.all.open) == 1


# The store ------------------------------------------------------------------------------------------------------------------


def stored(history):
    """A fresh history with the state of another, through text."""
    users = {name: job_store.unpack_user(job_store.pack_user(user)) for name, user in history.users.items()}
    again = history_of(users=users)
    job_store.unpack_machine(again, json.loads(json.dumps(job_store.pack_machine(history))))
    return again


@settings(max_examples=30, deadline=None)
@given(logs(early=True, unique=False), st.data())
def test_a_history_goes_on_from_its_state(jobs, data):
    cut = data.draw(st.integers(0, len(jobs)))
    history = history_of()
    first = []
    for job in jobs[:cut]:
        first += [*history.ended_until(job.submit), history.submit(job)]
    rest = told(jobs[cut:], stored(history))
    assert plain([*first, *rest]) == plain(told(jobs))


def test_an_id_that_comes_again_is_the_newest_jobs_after_a_restart():
    old = Job("x", 0.0, NAN, NAN, "", 8.0, 60.0, NAN, "a", "g", "p", "", "", "")
    history = history_of()
    for job in (old, old._replace(submit=10.0, end=20.0, status="0")):
        history.submit(job)
    list(history.ended_until(25.0))
    following = old._replace(id="y", submit=30.0, after="x")
    assert plain([stored(history).submit(following)]) == plain([history.submit(following)])


@settings(max_examples=20, deadline=None)
@given(logs(), st.integers(1, 3))
def test_users_that_do_not_fit_in_memory_change_nothing(jobs, near):
    store = job_store.open_store(":memory:")
    users = job_store.Spilling(store, "users", near, job_store.pack_user, job_store.unpack_user)
    assert plain(told(jobs, history_of(users=users))) == plain(told(jobs))
    assert (
        len(users.near) <= near
        and sorted(users) == sorted({job.user for job in jobs})
        and len(users) == len(set(users))
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("sgdc"), st.sampled_from("abcde"), st.integers(0, 9))), st.integers(0, 3))
def test_a_spilling_dict_is_a_dict(steps, limit):
    store = job_store.open_store(":memory:")
    spilling, own = job_store.Spilling(store, "t", limit, json.dumps, json.loads), {}
    for what, key, value in steps:
        if what == "s":
            spilling[key] = own[key] = [value]
        elif what == "g":
            assert spilling.get(key) == own.get(key)
        elif what == "c":
            assert (key in spilling) == (key in own)
        elif key in own:
            del spilling[key], own[key]
        else:
            with pytest.raises(KeyError):
                del spilling[key]
        assert len(spilling.near) <= max(limit, 1)
    spilling.flush()
    assert dict(spilling) == own and len(spilling) == len(own)
    assert {name: json.loads(x) for name, x in store.execute("SELECT name, value FROM t")} == own


def test_a_summary_is_its_state():
    summary = Summary(3)
    for number in range(4):
        summary.submit(number, 10.0 * number, [number, 0.0, 1.0])
    summary.end(1, 35.0, 2, 5.0)
    again, asked = Summary.of_state(json.loads(json.dumps(summary.state()))), [1.0, 2.0, 3.0]
    assert again.numbers(99.0, asked) == summary.numbers(99.0, asked) and again.open == {0: 0.0, 2: 20.0, 3: 30.0}
    assert len(Summary.names(CLASSES)) == len(summary.numbers(0.0, asked))
