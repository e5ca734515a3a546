"""A log as arrays: order, labels, tables; parts by time, facts of the training part, steps, batches of training and evaluation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from lstm.data import job_windows
from lstm.data.job_events import AGAIN, LATE, NAMES, encode, in_order
from lstm.data.job_windows import Facts, Part, Steps, Streams, Windows, facts_of, parts_of, scaled
from lstm.data.jobs import Faults, Job
from lstm.data.made_jobs import made_jobs
from tests.test_job_history import NAN, WORDS, history_of, logs, told

JOB = Job("0", 0.0, NAN, NAN, "", 8.0, 60.0, NAN, "a", "g", "p", "", "s", "")
EDGES = np.array([0.0, 10.0, 100.0, 1000.0])


def known(jobs):
    """The jobs, the first of which ends well at once: a log needs one that has ended."""
    return [jobs[0]._replace(start=jobs[0].submit, end=jobs[0].submit, status="1"), *jobs[1:]]


@pytest.fixture(scope="module")
def jobs():
    return [made.job for made in made_jobs(seed=1, users=6, jobs=300, chances=False)]


@pytest.fixture(scope="module")
def log(jobs):
    return encode(jobs, history_of())


def steps_of(log, part=None, least=1, edges=EDGES):
    return Steps(log, facts_of(log, part or Part(0, len(log), np.inf), least), edges)


# The log --------------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(logs(), st.sampled_from(["user", "program", "machine"]))
def test_a_log_holds_what_its_history_said(jobs, stream):
    jobs = known(jobs)
    found, events = encode(jobs, history_of(stream)), told(jobs, history_of(stream))
    for event in events:
        row = (found.submitted if event.submitted else found.ended)[event.number]
        np.testing.assert_array_equal(row, np.float32(event.numbers))
    streams = {}
    for event in events:
        streams.setdefault(event.stream, []).append(2 * event.number + event.submitted)
    np.testing.assert_array_equal(found.events, sum(streams.values(), []))
    np.testing.assert_array_equal(found.begins, np.cumsum([0, *map(len, streams.values())]))
    np.testing.assert_array_equal(found.times(found.events[:1]), jobs[0].submit)
    columns = found.jobs
    for i, job in enumerate(jobs):
        assert columns.id[i].decode() == job.id
        assert repr((columns.submit[i], columns.start[i], columns.end[i])) == repr(tuple(map(np.float64, job[1:4])))
        assert columns.label[i] == (-1 if math.isnan(job.end) else WORDS.get(job.status, -1))
        assert [found.names[name][columns.codes[i, c]] for c, name in enumerate(NAMES)] == [
            getattr(job, name) for name in NAMES
        ]
        begun = job.submit if math.isnan(job.start) else job.start
        np.testing.assert_array_equal(columns.run[i], job.end - begun)
    assert len(found) == len(jobs) and all(len(set(names)) == len(names) for names in found.names.values())


def test_tables_are_mapped_and_not_held(log):
    assert isinstance(log.submitted, np.memmap) and isinstance(log.ended, np.memmap)
    assert not log.submitted.flags.writeable and log.submitted.dtype == np.float32
    never = np.isnan(log.jobs.end)
    assert not never.any() or not log.ended[never].any()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=12), st.integers(0, 12))
def test_jobs_are_sorted_as_far_as_the_window_sees(times, window):
    jobs = [JOB._replace(id=f"{i}", submit=float(t)) for i, t in enumerate(times)]
    faults = Faults()
    found = list(in_order(iter(jobs), window, faults))
    assert sorted(job.id for job in found) == sorted(job.id for job in jobs)
    assert all(a.submit <= b.submit for a, b in zip(found, found[1:], strict=False))
    moved = [job for job in found if job.submit != times[int(job.id)]]
    assert all(job.submit > times[int(job.id)] for job in moved) and faults.counts[LATE] == len(moved)
    if window >= len(jobs):
        assert [job.id for job in found] == [job.id for job in sorted(jobs, key=lambda job: job.submit)]
        assert not moved
    elif moved:
        with pytest.raises(InputError, match=f"job {moved[0].id}: {LATE}; sort the log"):
            list(in_order(iter(jobs), window))


def test_lines_of_one_job_are_one_job(jobs):
    """A log that is made of two, the first of which has open jobs: as told last, and nothing of it is known before it happened."""
    open_ones = [job._replace(end=NAN, status="") for job in jobs[:40]]
    faults = Faults()
    joined = list(in_order([*open_ones, *jobs], window=1000, faults=faults))
    assert repr(joined) == repr(list(in_order(jobs))) and faults.counts[AGAIN] == 40
    nameless = [job._replace(id="") for job in jobs[:5]]
    assert len(list(in_order([*nameless, *nameless]))) == 10


def test_a_late_job_by_hand():
    jobs = [JOB._replace(id=f"{t}", submit=float(t)) for t in (5, 9, 7, 8, 1, 12)]
    faults = Faults()
    assert [(job.id, job.submit) for job in in_order(jobs, 2, faults)] == [
        ("5", 5), ("7", 7), ("1", 7), ("8", 8), ("9", 9), ("12", 12)
    ]  # fmt: skip
    assert faults.report() == [f"1 x {LATE}: job 1"]


@pytest.mark.parametrize(
    ("jobs", "folder", "message"),
    [
        ([], "", "no job that ended with a known class; see config.data.statuses"),
        ([JOB, JOB._replace(end=5.0, status="9")], "", "no job that ended with a known class"),
        ([JOB._replace(status="1")], "", "no job of the log has an end"),
        ([JOB], "/no/such/place", "config.data.scratch='/no/such/place': No such file or directory; name a folder"),
    ],
)
def test_logs_that_are_none(jobs, folder, message):
    with pytest.raises(InputError, match=message):
        encode(jobs, history_of(), folder)


# Parts and facts --------------------------------------------------------------------------------------------------------------


def ten():
    """Ten jobs, 100 s apart; job i runs 50 s, but for job 4, which runs 250."""
    times = [100.0 * i for i in range(10)]
    return [
        JOB._replace(
            id=f"{i}",
            submit=t,
            start=t,
            end=t + (250 if i == 4 else 50),
            status="105"[i % 3],
            user="ab"[i % 2],
            program=f"p{min(i, 3)}",
        )
        for i, t in enumerate(times)
    ]


def test_parts_by_hand():
    found = encode(ten(), history_of())
    one, two, three = Part(0, 5, 500.0), Part(5, 8, 800.0), Part(8, 10, math.inf)
    assert parts_of(found, [0.5, 0.8, 1], "train") == {"train": one, "validation": two, "test": three}
    whole = parts_of(found, [0.5, 0.8, 1], "train+validation")
    assert whole == {"train": Part(0, 8, 800.0), "validation": two, "test": three}
    assert parts_of(found, [0.5, 0.5, 0.9], "train") == {"train": one, "test": Part(5, 9, 900.0)}
    assert parts_of(found, [0.5, 1.0, 1.0], "train") == {"train": one, "validation": Part(5, 10, math.inf)}


@pytest.mark.parametrize("shares", [[0.5, 0.8], [0.8, 0.5, 1.0], [0.0, 0.5, 1.0], [0.5, 0.8, 1.1], [1.0, 1.0, 1.0]])
def test_shares_that_make_no_parts(shares):
    with pytest.raises(InputError, match=r"config.data.parts=\[.*\]: three shares that rise to at most 1"):
        parts_of(encode(ten(), history_of()), shares, "train")


def test_what_is_trained_on_is_one_of_two():
    with pytest.raises(InputError, match="config.data.train_on='test': 'train' or 'train\\+validation'"):
        parts_of(encode(ten(), history_of()), [0.5, 0.8, 1.0], "test")


def test_facts_by_hand():
    found = encode(ten(), history_of())
    part = Part(0, 5, 500.0)
    assert facts_of(found, part, 1).names["program"] == ["p0", "p1", "p2", "p3"]
    facts = facts_of(found, part, 2)
    assert facts.names == {"user": ["a", "b"], "group": ["g"], "program": ["p3"], "queue": [], "partition": ["s"]}
    numbers = np.array([e.numbers for e in told(ten()) if e.submitted][:5])
    ended = np.array([e.numbers for e in told(ten()) if not e.submitted and e.time <= 500])
    assert len(ended) == 4
    for rows, (mean, deviation) in ((numbers, facts.submitted), (ended, facts.ended)):
        np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-5, atol=1e-6)
        spread = rows.std(0)
        np.testing.assert_allclose(deviation, np.where(spread > 1e-5, spread, 1), rtol=1e-4)
    rows = scaled(np.float32(numbers), facts.submitted)
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-4)
    far = scaled(np.float32([[1e9], [-1e9]]), (np.zeros(1), np.ones(1)))
    assert far.tolist() == [[job_windows.LIMIT], [-job_windows.LIMIT]]
    with pytest.raises(InputError, match="no job of the training part has ended in it"):
        facts_of(encode(ten(), history_of()), Part(4, 5, 500.0), 1)


def texts(facts):
    return facts.names, *(x.tolist() for pair in facts[1:] for x in pair)


@settings(max_examples=30, deadline=None)
@given(logs(), st.data())
def test_facts_are_of_the_training_part_alone(jobs, data):
    jobs = known(jobs)
    last = data.draw(st.integers(1, len(jobs) - 1))
    part = Part(0, last, jobs[last].submit)
    least = data.draw(st.integers(1, 2))
    facts = facts_of(encode(jobs, history_of()), part, least)
    later = [
        job._replace(user="new", program="q", status="0", end=job.submit + 7, processors=99.0) for job in jobs[last:]
    ]
    late = lambda job: not job.end <= part.until
    hidden = [job._replace(end=NAN, status="") if late(job) else job for job in jobs[:last]]
    assert texts(facts_of(encode([*hidden, *later], history_of()), part, least)) == texts(facts)
    for name in NAMES:
        own = [getattr(job, name) for job in jobs[:last]]
        assert set(facts.names[name]) == {text for text in own if text and own.count(text) >= least}
        assert len(set(facts.names[name])) == len(facts.names[name])


# Steps ------------------------------------------------------------------------------------------------------------------------


def test_steps_by_hand():
    jobs = [
        JOB._replace(id="0", submit=0.0, start=5.0, end=15.0, status="1"),  # 10 s: the second bin begins at 10
        JOB._replace(id="1", submit=0.0, start=NAN, end=99.5, status="0", user="b"),  # from its submission: 99.5 s
        JOB._replace(id="2", submit=50.0, start=60.0, end=1060.0, status="5", program="z"),  # 1000 s
        JOB._replace(id="3", submit=70.0, start=90.0),  # has not ended
        JOB._replace(id="4", submit=80.0, start=80.0, end=85.0, status="9"),  # of no class
        JOB._replace(id="5", submit=80.0, start=500.0, end=NAN),  # not begun when the log ends
        JOB._replace(id="6", submit=400.0, start=400.0, end=400.0, status="1"),
    ]
    log = encode(jobs, history_of())
    facts = Facts(
        {"user": ["b", "a"], "group": [], "program": ["p"], "queue": [], "partition": ["s"]},
        (np.zeros(log.submitted.shape[1]), np.full(log.submitted.shape[1], 2.0)),
        (np.ones(log.ended.shape[1]), np.ones(log.ended.shape[1])),
    )
    events = np.array([2 * i + 1 for i in range(7)] + [0, 2, 4, 1])
    valid = np.arange(11) < 10
    batch = Steps(log, facts, EDGES).read(events, valid, np.inf)
    assert batch["submitted"].tolist() == [True] * 7 + [False] * 4 and batch["valid"].tolist() == valid.tolist()
    assert batch["job"].tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 0]
    assert batch["label"].tolist() == [0, 1, 2, -1, -1, -1, 0, -1, -1, -1, -1]
    # Not ended: as long as it has run when the log's last job comes, at 400 s.
    assert batch["bin"][:7].tolist() == [1, 1, 3, 2, 0, 0, 0]
    assert batch["names"][[0, 1, 2]].tolist() == [[2, 0, 1, 0, 1], [1, 0, 1, 0, 1], [2, 0, 0, 0, 1]]
    cut = lambda x: np.clip(x, -6, 6)
    np.testing.assert_allclose(batch["numbers"][:7], cut(log.submitted / 2), rtol=1e-6)
    np.testing.assert_allclose(batch["ended"][7:10], cut(log.ended[:3] - 1.0), rtol=1e-6)
    assert not batch["numbers"][7:].any() and not batch["ended"][:7].any() and not batch["ended"][10].any()
    early = Steps(log, facts, EDGES).read(events, valid, 99.5)  # what is known then
    assert early["label"][:7].tolist() == [0, 1, -1, -1, -1, -1, -1]
    assert early["bin"][:7].tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert Steps(log, facts, EDGES).read(events, valid, 99.4)["label"][:7].tolist() == [0] + [-1] * 6


@settings(max_examples=25, deadline=None)
@given(logs(), st.data())
def test_nothing_after_the_moment_is_in_a_step(jobs, data):
    """Labels and bins as known at `until` are those of a log that has no more of each job."""
    jobs = known(jobs)
    until = data.draw(st.sampled_from([job.submit for job in jobs if job.submit > jobs[0].submit] or [jobs[-1].submit]))
    seen = [job if job.end <= until else job._replace(end=NAN, status="0") for job in jobs]
    events = np.array([2 * i + 1 for i, job in enumerate(jobs) if job.submit <= until])
    read = lambda of: steps_of(encode(of, history_of())).read(events, np.ones(len(events), bool), until)
    one, other = read(jobs), read(seen)
    np.testing.assert_array_equal(one["label"], other["label"])
    np.testing.assert_array_equal(one["bin"], other["bin"])


# Batches of training ----------------------------------------------------------------------------------------------------------


def streams_of(log, restart=0.0, batch_size=4, bptt=9, share=0.6):
    parts = parts_of(log, [share, 0.8, 1.0], "train")
    return Streams(steps_of(log, parts["train"]), parts["train"], batch_size=batch_size, bptt=bptt, restart=restart)


def codes(batch):
    return 2 * batch["job"].astype(int) + batch["submitted"]


@pytest.mark.parametrize("epoch", [0, 3])
def test_an_epoch_reads_each_event_at_most_once_in_the_order_of_its_stream(log, epoch):
    streams = streams_of(log)
    part = streams.part
    inside = {e for e in log.events if log.times(np.array([e]))[0] <= part.until and e // 2 < part.last}
    before = {}  # the event of the same stream before each
    for a, b in zip(log.begins, log.begins[1:], strict=False):
        own = [int(e) for e in log.events[a:b] if e in inside]
        before |= dict(zip(own, [None, *own], strict=False))
        assert all(x <= y for x, y in zip(log.times(np.array(own)), log.times(np.array(own))[1:], strict=False))
    steps = [streams.batch(7, epoch * streams.per_epoch + t, slice(None)) for t in range(streams.per_epoch)]
    seen = [int(e) for batch in steps for e in codes(batch).ravel()]
    assert len(set(seen)) == len(seen) == streams.per_epoch * 4 * 9 and set(seen) <= inside
    assert len(inside) - len(seen) < 4 * 9 and len(streams) == 4 * streams.per_epoch
    rows, resets = (np.concatenate([f(b) for b in steps], 1) for f in (codes, lambda b: b["reset"]))
    for row, reset in zip(rows, resets, strict=True):
        assert reset[0]
        for last, event, begins in zip(row, row[1:], reset[1:], strict=False):
            assert before[int(event)] == (None if begins else int(last))
    for batch in steps:
        ended = log.jobs.end[batch["job"]]
        assert (batch["label"][~(ended <= part.until)] == -1).all() and batch["valid"].all()
        kept = (ended <= part.until) & batch["submitted"]
        np.testing.assert_array_equal(batch["label"][kept], log.jobs.label[batch["job"]][kept])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 200), st.integers(0, 4), st.sampled_from([0.0, 0.4]))
def test_rows_of_a_batch_are_those_of_the_whole_batch(log, step, cut, restart):
    streams = streams_of(log, restart)
    whole, again = (streams.batch(1, step, slice(0, 4)) for _ in range(2))
    parts = [streams.batch(1, step, rows) for rows in (slice(0, cut), slice(cut, 4))]
    for name, value in whole.items():
        np.testing.assert_array_equal(value, again[name])
        np.testing.assert_array_equal(value, np.concatenate([part[name] for part in parts]))


def test_batches_depend_on_seed_and_epoch(log):
    streams = streams_of(log)
    first = codes(streams.batch(0, 0, slice(None)))
    assert (first != codes(streams.batch(1, 0, slice(None)))).any()
    assert (first != codes(streams.batch(0, streams.per_epoch, slice(None)))).any()
    np.testing.assert_array_equal(codes(streams[5]), codes(streams.batch(0, 1, slice(1, 2)))[0])


def test_rows_begin_anew_in_a_share_of_the_steps(log):
    plain_, drawn = streams_of(log), streams_of(log, restart=0.3)
    shares = []
    for step in range(200):
        one, other = plain_.batch(0, step, slice(None)), drawn.batch(0, step, slice(None))
        np.testing.assert_array_equal(codes(one), codes(other))
        np.testing.assert_array_equal(one["reset"][:, 1:], other["reset"][:, 1:])
        assert (other["reset"] >= one["reset"]).all()
        shares += list(other["reset"][:, 0][~one["reset"][:, 0]])
    assert 0.25 < np.mean(shares) < 0.35


def test_batches_that_cannot_be(log):
    with pytest.raises(InputError, match="config.data.restart=1.0: a share is at least 0 and below 1"):
        streams_of(log, restart=1.0)
    with pytest.raises(
        InputError, match=r"config.data.batch_size=50, bptt=900: the training part has \d+ events .*45000"
    ):
        streams_of(log, batch_size=50, bptt=900)


@pytest.mark.parametrize("change", [{"batch_size": 0}, {"bptt": 0}])
def test_batches_without_rows_or_steps_are_refused(log, change):
    with pytest.raises(InputError, match=f"config.data.batch_size={change.get('batch_size', 4)}"):
        streams_of(log, **change)


# Windows ----------------------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.data(), st.integers(1, 40), st.integers(0, 60))
def test_each_submission_of_a_part_counts_once_with_the_history_of_its_stream(log, data, length, context):
    first = data.draw(st.integers(0, len(log) - 1))
    part = Part(first, data.draw(st.integers(first + 1, len(log))), np.inf)
    windows = Windows(steps_of(log), part, length=length, context=context)
    place = {int(e): i for i, e in enumerate(log.events)}
    counted = []
    for window in (windows[i] for i in range(len(windows))):
        assert all(len(x) == length + context for x in window.values())
        valid, own = window["valid"], codes(window)
        assert valid[: valid.sum()].all() and not (window["counted"] & ~(valid & window["submitted"])).any()
        places = np.array([place[int(e)] for e in own[valid]])
        np.testing.assert_array_equal(places, places[0] + np.arange(len(places)))
        stream = np.searchsorted(log.begins, places, side="right")
        assert (stream == stream[0]).all()
        for at in np.flatnonzero(window["counted"]):
            # As much history as asked for, or all that the stream has.
            assert at >= min(context, places[at] - log.begins[stream[0] - 1])
        counted += list(window["job"][window["counted"]])
        np.testing.assert_array_equal(
            window["label"][window["submitted"]], log.jobs.label[window["job"]][window["submitted"]]
        )
    assert sorted(counted) == list(range(part.first, part.last))


def test_windows_know_what_is_known_at_their_moment(log):
    part = parts_of(log, [0.6, 0.8, 1.0], "train")["validation"]
    windows = Windows(steps_of(log), part, length=64, context=64)
    rows = [windows[i] for i in range(len(windows))]
    job, label = (np.concatenate([row[name][row["counted"]] for row in rows]) for name in ("job", "label"))
    late = ~(log.jobs.end[job] <= part.until)
    assert late.any()
    np.testing.assert_array_equal(label, np.where(late, -1, log.jobs.label[job]))
