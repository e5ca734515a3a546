"""A live feed of jobs: its answers are those of the batch evaluation, whatever comes together, is kept, spilled, killed or told late."""

import contextlib
import dataclasses
import itertools
import math
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings

from common.config import kwargs
from common.errors import InputError
from common.run import load_run, read_facts
from experiments import predict, train
from lstm.data import job_store
from lstm.data.job_events import AGAIN
from lstm.data.job_windows import Part, Windows
from lstm.data.jobs import NO_CLASS, Faults, read_jobs
from lstm.data.made_jobs import SWF_HEADER, made_jobs, swf_line, write_swf
from lstm.job_model import JobModel
from lstm.tasks import jobs_data, jobs_live
from lstm.tasks.jobs import edges_of, forecasts_of
from lstm.tasks.jobs_data import open_data
from lstm.tasks.jobs_live import Feed
from tests.test_job_history import NAN, changed_logs

CONFIG, JOBS = "configs/lstm_jobs.py:smoke", 200
TOGETHER = 64  # jobs that a test tells at once


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A made log, as a file."""
    path = tmp_path_factory.mktemp("logs") / "made.swf"
    write_swf(path, (made.job for made in made_jobs(seed=2, users=7, jobs=JOBS, chances=False)))
    return path


@pytest.fixture(scope="module")
def run(log, tmp_path_factory):
    """A run that was trained on it for a few steps."""
    workdir = tmp_path_factory.mktemp("runs") / "live"
    changes = {"data.source": "log", "data.root": log.parent, "data.log": log.name, "mesh.devices": 1}
    changes |= {f"loop.{name}": "6 steps" for name in ("duration", "eval", "save")}
    changes |= {"task.temperature": 1.3, "model.implementation": "scan"}
    words = ["--config", CONFIG, "--quiet", "--workdir", str(workdir)]
    assert train.main([*words, *(f"--config.{name}={value}" for name, value in changes.items())]) == 0
    return load_run(workdir)


@pytest.fixture(scope="module")
def jobs(log):
    return list(itertools.chain.from_iterable(read_jobs(log)))


@pytest.fixture(scope="module")
def data(run):
    return open_data(kwargs(run.config.data), tuple(run.config.task.class_names), read_facts(run.workdir))


EDGES = edges_of({"bins": 12, "first_bin": 10.0, "last_bin": 86_400.0})


@pytest.fixture(scope="module")
def feed(run, data):
    """A function that opens a feed."""
    net = JobModel(names=(1,) * 5, classes=3, bins=12, hidden=tuple(run.config.model.hidden))
    return lambda **how: Feed(run.apply, net.initial_carry(1), data, EDGES, **{"model": "this one", **how})


def tell(feed, jobs, size=TOGETHER):
    return [answer for i in range(0, len(jobs), size) for answer in feed.tell(jobs[i : i + size])]


def close(answers, expected, atol=1e-5):
    assert [a[:2] for a in answers] == [a[:2] for a in expected]
    for one, other in zip(answers, expected, strict=True):
        np.testing.assert_allclose(one.chances, other.chances, atol=atol)


@pytest.fixture(scope="module")
def whole(feed, jobs):
    """The answers of one feed to the whole log."""
    return tell(feed(running=True), jobs)


def submissions(answers):
    return [answer for answer in answers if answer.elapsed == 0]


# Against the batch evaluation ---------------------------------------------------------------------------------------------------


def test_answers_are_those_of_the_batch_evaluation(run, data, jobs, whole):
    steps = data.steps(EDGES)
    longest = int(np.diff(data.log().begins).max())
    windows = Windows(steps, Part(0, len(jobs), np.inf), length=longest, context=1)
    found = forecasts_of(run.apply, windows, 8, lambda batch: batch)
    assert sorted(found.id.tolist()) == list(range(len(jobs))) and longest > 60
    numbers = {job.id: number for number, job in enumerate(jobs)}
    row = {number: row for row, number in enumerate(found.id.tolist())}
    assert [answer.id for answer in submissions(whole)] == [job.id for job in jobs]
    for answer in whole:
        expected = found.running[row[numbers[answer.id]], list(EDGES).index(answer.elapsed)]
        np.testing.assert_allclose(answer.chances, expected, atol=1e-5)
    np.testing.assert_array_equal(found.running[:, 0], found.probabilities)


def test_a_running_job_is_answered_each_time_it_outlives_a_bin(jobs, whole):
    """Time passes with the lines: at the first submission after a bin, where the job runs still."""
    expected = []
    for moment in jobs:
        for job in jobs:
            if job.submit <= moment.submit < (math.inf if math.isnan(job.end) else job.end) and job is not moment:
                since = [other.submit for other in jobs if other.submit < moment.submit]
                before = max(since, default=-math.inf)
                for edge in EDGES[1:]:
                    if max(before, job.submit) < job.start + edge <= moment.submit:
                        expected.append((job.id, float(edge), moment.submit))
    found = [answer[:2] for answer in whole if answer.elapsed]
    assert len(expected) > 50 and sorted(found) == sorted({entry[:2] for entry in expected})
    assert len(set(found)) == len(found)


def test_answers_do_not_depend_on_what_comes_together(feed, jobs, whole):
    some = jobs[:120]
    expected = tell(feed(running=True), some, 120)
    close(expected, whole[: len(expected)])
    for size in (1, 7):
        close(tell(feed(running=True), some, size), expected)


@settings(max_examples=12, deadline=None)
@given(changed_logs())
def test_no_answer_depends_on_what_is_known_later(feed, logs):
    old, new, moment = logs
    one, other = tell(feed(), old), tell(feed(), new)
    first = sum(job.submit < moment for job in old)
    close(one[:first], other[:first], atol=1e-6)
    half = len(old) // 2
    close(tell(feed(), old[:half]), one[:half], atol=1e-6)


# Its state ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("near", [2, 50_000])
def test_a_feed_goes_on_where_it_was_saved(feed, jobs, whole, tmp_path, near):
    path, found = tmp_path / "state.sqlite", []
    for some in (jobs[:90], jobs[90:91], jobs[91:]):
        one = feed(state=path, near=near, running=True)
        found += tell(one, some)
        assert len(one.carries.near) <= near and len(one.history.users.near) <= near
        one.save()
        one.store.close()
    close(found, whole)


def test_what_was_not_saved_is_lost_and_no_more(feed, jobs, tmp_path):
    path = tmp_path / "state.sqlite"
    one = feed(state=path, near=1)
    expected = tell(one, jobs[:60])
    one.save()
    expected += tell(one, jobs[60:150])  # with near=1 most of it has been written to the file
    assert one.store.in_transaction
    one.store.close()
    again = feed(state=path, near=3)
    assert again.history.count == 60
    close(expected[:60] + tell(again, jobs[60:150]), expected)


def test_another_models_state_is_refused(feed, jobs, tmp_path):
    path = tmp_path / "state.sqlite"
    one = feed(state=path)
    tell(one, jobs[:5])
    one.save()
    one.store.close()
    with pytest.raises(
        InputError, match=r"--state .*state.sqlite: is of another model \(this one\); name another file"
    ):
        feed(state=path, model="that one")
    (tmp_path / "text").write_text("no store, but a text that is long enough to be looked at" * 9)
    with pytest.raises(InputError, match="--state .*text: file is not a database; name one that a feed has written"):
        feed(state=tmp_path / "text")
    with pytest.raises(InputError, match="--state .*state: unable to open database file"):
        feed(state=tmp_path / "nowhere" / "state")


def test_running_can_be_asked_for_later(feed, jobs, tmp_path):
    path = tmp_path / "state.sqlite"
    job = jobs[0]._replace(start=NAN, end=NAN, status="")
    one = feed(state=path)
    one.tell([job])
    one.save()
    one.store.close()
    one = feed(state=path, running=True)
    assert one.tell([job._replace(start=job.submit)]) == []
    later = one.tell([jobs[1]._replace(submit=job.submit + 50, start=NAN, end=NAN, status="")])
    assert [a.elapsed for a in later if a.id != job.id] == [0.0]


def test_a_state_in_memory_is_as_large_as_itself(feed, jobs):
    one = feed()
    tell(one, jobs[:120])
    assert {len(carry.base) if carry.base is not None else 1 for carry in one.carries.near.values()} == {1}


# Lines that come late ---------------------------------------------------------------------------------------------------------------


def lines_in_time(jobs, starts):
    """Each job by two lines, or by three: submitted, (started,) ended. Starts before ends before submissions of one moment."""
    lines = []
    for number, job in enumerate(jobs):
        none = {"end": NAN, "status": ""}
        first = job._replace(**none) if not starts else job._replace(start=NAN, **none)
        lines.append(((job.submit, 2, number, 0), first))
        later = [(job.start, 0, job._replace(**none))] if starts else []
        for kind, (time, rank, line) in enumerate([*later, (job.end, 1, job)], 1):
            if not math.isnan(time):
                lines.append(((time, 2 if time == job.submit else rank, number, kind), line))
    return [line for _, line in sorted(lines, key=lambda entry: entry[0])]


@pytest.mark.parametrize("starts", [False, True])
def test_jobs_told_of_line_by_line_get_the_answers_of_whole_lines(feed, jobs, whole, starts):
    some = [job if starts else job._replace(start=job.submit) for job in jobs[:150]]
    expected = submissions(whole)[:150] if starts else tell(feed(), some)
    lines = lines_in_time(some, starts)
    assert len(lines) > 290
    for size in (TOGETHER, 5):
        close(tell(feed(), lines, size), expected)


def test_a_start_that_is_told_twice_is_one_start(feed, jobs):
    job = jobs[0]._replace(start=jobs[0].submit, end=NAN, status="")
    one = feed(running=True)
    found = [*one.tell([job]), *one.tell([job]), *one.tell([job])]
    found += one.tell([jobs[1]._replace(submit=job.submit + 12, start=NAN, end=NAN, status="")])
    assert [a.elapsed for a in found if a.id == job.id] == [0.0, 10.0]


def test_a_start_that_is_told_anew_replaces_the_old_one(feed, jobs):
    job = jobs[0]._replace(start=jobs[0].submit, end=NAN, status="")
    one, other = feed(running=True), jobs[1]._replace(start=NAN, end=NAN, status="")
    found = [*one.tell([job]), *one.tell([job._replace(start=job.submit + 1000)])]
    found += one.tell([other._replace(submit=job.submit + 1009), other._replace(id="b", submit=job.submit + 1011)])
    assert [a.elapsed for a in found if a.id == job.id] == [0.0, 10.0]


def test_what_was_told_is_not_told_again(feed, jobs):
    """Neither an open job's line, nor those of jobs that have ended: a feed that is started again from the first line of its file."""
    one = feed(running=True)
    expected = tell(one, jobs[:60])
    state = one.history.count, one.clock, {name: user.all.state() for name, user in one.history.users.items()}
    ended = [job for job in jobs[:60] if job.id in one.history.recent]
    still = [job for job in jobs[:60] if job.id in one.history.numbers]
    assert len(ended) > 20 and still and one.tell([*ended, *still]) == []
    assert state == (one.history.count, one.clock, {name: user.all.state() for name, user in one.history.users.items()})
    assert one.faults.counts[AGAIN] >= 20
    close([*expected, *tell(one, jobs[60:90])], tell(feed(running=True), jobs[:90]))


def test_jobs_without_an_id_are_jobs_of_their_own(feed, jobs):
    named = [job._replace(after="") for job in jobs[:40]]
    nameless = [job._replace(id="") for job in named]
    found = tell(feed(), [*nameless, nameless[-1]])
    assert len(found) == 41
    for answer, expected in zip(found, tell(feed(), named), strict=False):
        np.testing.assert_allclose(answer.chances, expected.chances, atol=1e-5)


def test_a_job_that_comes_late_is_counted(feed, jobs):
    one = feed()
    late = one.faults.counts[jobs_live.LATE]
    one.tell([jobs[5], jobs[0]])
    assert one.faults.counts[jobs_live.LATE] == late + 1


# The command ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def follow(run, tmp_path, monkeypatch):
    """A function: text, flags -> exit code, lines of standard output, lines of standard error."""

    def command(text, *flags):
        (tmp_path / "in").write_bytes(text if isinstance(text, bytes) else text.encode())
        with contextlib.ExitStack() as stack, monkeypatch.context() as patch:
            for name, mode in (("in", "r"), ("out", "w"), ("err", "w")):
                patch.setattr(sys, f"std{name}", stack.enter_context((tmp_path / name).open(mode)))
            code = predict.main(["--workdir", str(run.workdir), "--input", "-", *flags])
        return code, *((tmp_path / name).read_text().splitlines() for name in ("out", "err"))

    return command


def rows(lines):
    return [
        (job, float(elapsed), [float(x) for x in numbers]) for job, elapsed, *numbers in (s.split(",") for s in lines)
    ]


def same_rows(lines, answers):
    for (name, elapsed, numbers), answer in zip(rows(lines), answers, strict=True):
        assert (name, elapsed) == (answer.id, round(answer.elapsed, 3) if answer.elapsed < 1e3 else elapsed)
        np.testing.assert_allclose(numbers[:3], answer.chances, atol=2e-5)
        np.testing.assert_allclose(numbers[3], answer.chances[1:].sum(), atol=2e-5)


def test_the_command_answers_each_line(follow, log, whole, tmp_path, run):
    state = str(tmp_path / "state")
    head, *lines = log.read_text().splitlines(keepends=True)[5 - 1 :]
    code, out, err = follow(log.read_text(), "--state", state)
    assert code == 0 and out[0] == "job,elapsed,completed,failed,cancelled,risk" and len(err) == 1
    same_rows(out[1:], submissions(whole))
    code, more, _ = follow("".join(lines[:50]), "--state", str(tmp_path / "other"), "--near", "2", "--running")
    kept = rows(more[1:])
    assert [row for row in kept if row[1] == 0] == rows(out[1:51]), "the header of the training log stands in"
    assert len(kept) > 50
    # As a file, by the same feed.
    assert (
        predict.main(["--workdir", str(run.workdir), "--input", str(log), "--output", str(tmp_path / "answers")]) == 0
    )
    assert (tmp_path / "answers" / "made.csv").read_text().splitlines() == out


def test_lines_that_cannot_be_read_are_told_and_passed_over(follow, log, whole):
    lines = log.read_text().splitlines()
    bad = [*lines[:7], "what is this", *lines[7:9], "; a remark", lines[9].replace(" ", ",", 1), "", *lines[9:20]]
    text = "\n".join(bad).encode() + b"\n\xff\xfe not UTF-8\n" + lines[20].encode()  # the last without its end
    code, out, err = follow(text, "--state", ":memory:")
    assert code == 0
    assert [line.split(":")[0] for line in err] == ["note", "line 8", "line 12", "line 25", "warning"]
    assert "not 18 fields: 'what is this'" in err[1] and err[-1] == "warning: 3 malformed lines, left out"
    same_rows(out[1:], submissions(whole)[: 21 - 5])


def test_a_status_of_no_class_is_told_at_the_end(follow, log):
    lines = log.read_text().splitlines()
    fields = lines[5].split()
    code, out, err = follow("\n".join([*lines[:5], " ".join([*fields[:10], "7", *fields[11:]])]), "--state", ":memory:")
    assert code == 0 and len(out) == 2
    assert err[1:] == ["warning: 1 x status of no class, taken as not ended (config.data.statuses): '7'"]


def test_a_status_of_a_class_that_the_run_does_not_have_stops_no_feed():
    faults = Faults()
    reads = {"statuses": {"TIMEOUT": "late"}, "stream": "user"}
    known = jobs_data.history_of(reads, "sacct", ("completed", "failed"), faults, strict=False)
    assert [known.class_of(word) for word in ("FAILED", "TIMEOUT", "CANCELLED", "RUNNING", "")] == [1, -1, -1, -1, -1]
    assert len(faults.examples[NO_CLASS]) == 3
    with pytest.raises(InputError, match="no such class"):
        jobs_data.history_of(reads, "sacct", ("completed", "failed"), faults).class_of("TIMEOUT")


@pytest.mark.parametrize(("kind", "classes"), [("swf", [0, 1]), ("csv", [-1, -1]), ("sacct", [-1, -1])])
def test_numbers_are_a_status_in_swf_alone(kind, classes):
    """An exit code 0 of another log means the opposite."""
    found = jobs_data.history_of({"statuses": None, "stream": "user"}, kind, ("completed", "failed"), Faults())
    assert [found.class_of(word) for word in ("1", "0")] == classes


def test_two_feeds_do_not_share_a_state(tmp_path):
    store = job_store.open_store(tmp_path / "state")
    job_store.put(store, "feed", 1)
    with pytest.raises(InputError, match=r"^--state .*state: database is locked; name one that a feed has written"):
        job_store.open_store(tmp_path / "state")
    store.close()
    job_store.open_store(tmp_path / "state").close()


def test_a_run_that_has_no_feed(run, monkeypatch):
    other = dataclasses.replace(run, task=run.task._replace(live=None))
    monkeypatch.setattr(predict, "load_run", lambda workdir: other)
    with pytest.raises(InputError, match="^--input -: the task of this run, 'jobs', answers no feed; name files$"):
        predict.main(["--workdir", "here", "--input", "-"])
    with pytest.raises(SystemExit):
        predict.main(["--workdir", "here", "--input", "-", "--output", "there"])


def test_a_header_that_cannot_be_used_stops_no_feed(follow, run, data, log, monkeypatch):
    """Training counts it and reads on; so does a file."""
    facts = run.workdir / "facts.json"
    kept = facts.read_text()
    try:
        facts.write_text(kept.replace("TimeZoneString: UTC", "TimeZoneString: Mars/Base"))
        lines = log.read_text().splitlines()[5:15]
        code, out, err = follow("\n".join(lines), "--state", ":memory:")
    finally:
        facts.write_text(kept)
    assert code == 0 and len(out) == 11 and len(err) == 1


def test_a_csv_is_read_by_a_run_that_was_trained_on_swf(run, jobs, tmp_path):
    names = {"1": "completed", "0": "failed", "5": "cancelled", "": ""}
    table = ["id,submit,start,end,status,user,program"]
    for job in jobs[:20]:
        fields = job.id, job.submit, job.start, job.end, names[job.status], job.user, job.program
        table.append(",".join(map(str, fields)))
    (tmp_path / "some.csv").write_text("\n".join(table))
    words = [
        "--workdir",
        str(run.workdir),
        "--input",
        str(tmp_path / "some.csv"),
        "--output",
        str(tmp_path / "answers"),
    ]
    assert predict.main(words) == 0
    assert len((tmp_path / "answers" / "some.csv").read_text().splitlines()) == 21


def test_a_table_that_begins_with_its_own_header_is_read_by_that(data):
    of_run = data._replace(
        reads={**data.reads, "columns": None}, kind=lambda: "csv", header=lambda: ["submit,user,queue"]
    )
    own, lacking = "submit,queue,user", "5,ann,short"
    form = jobs_live.open_lines(of_run, own)
    assert form.parse(own) is None and form.parse("5,short,ann").user == "ann"
    assert jobs_live.open_lines(of_run, lacking).parse(lacking).user == "ann"


def test_a_line_without_an_end_is_given_up(monkeypatch):
    monkeypatch.setattr(jobs_live, "LONGEST", 100_000)
    read, write = os.pipe()

    def endless():
        with open(write, "wb") as file:
            file.write(b"x" * 500_000)

    writer = threading.Thread(target=endless)
    writer.start()
    found = [line for lines in jobs_live.read_lines(read, lambda: False) for line in lines]
    writer.join()
    os.close(read)
    assert sum(map(len, found)) == 500_000 and max(map(len, found)) <= 100_000 + (1 << 16)


def test_a_new_feed_says_that_it_knows_nobody(follow, log, tmp_path):
    lines, state = log.read_text().splitlines(keepends=True), ["--state", str(tmp_path / "state")]
    assert "a new state, in which no user has a past" in follow("\ufeff" + "".join(lines[:20]), *state)[2][0]
    assert follow("".join(lines[20:30]), *state)[2] == []


def test_a_feed_without_a_job_is_none(follow):
    with pytest.raises(InputError, match="none of its lines is a job, 2 are malformed; 18 numbers a line are expected"):
        follow("what\nis this\n", "--state", ":memory:")
    assert follow("", "--state", ":memory:")[0] == 0


def test_a_reader_that_has_gone_loses_no_state(run, feed, data, jobs, tmp_path):
    read, write = os.pipe()
    os.close(read)
    one = feed(state=tmp_path / "state")
    options = {"class_names": run.task and ["completed", "failed", "cancelled"], "bad": ["failed", "cancelled"]}
    tell(one, jobs[:30])
    source, sink = os.pipe()
    os.close(sink)
    with open(write, "w") as out, pytest.raises(InputError, match="its reader has gone; the state is saved"):
        jobs_live.follow(one, data, options, source, out, sys.stderr)
    os.close(source)
    assert feed(state=tmp_path / "state").history.count == 30


def test_a_killed_feed_goes_on_from_its_last_save(follow, run, log, whole, tmp_path, python):
    state = tmp_path / "state"
    lines = log.read_text().splitlines(keepends=True)
    _, first, _ = follow("".join(lines[:65]), "--state", str(state))
    command = [python, "-m", "experiments.predict", "--workdir", str(run.workdir), "--input", "-"]
    words = [*command, "--state", str(state), "--near", "1"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdin.write("".join(lines[65:105]))
    process.stdin.flush()
    answered = list(itertools.islice(process.stdout, 41))
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    for pipe in (process.stdin, process.stdout):
        pipe.close()
    same_rows([*first[1:], *(line.strip() for line in answered[1:])], submissions(whole)[:100])
    code, out, err = follow("".join(lines[65:]), "--state", str(state))
    assert code == 0 and err == []
    same_rows(out[1:], submissions(whole)[60:])


def test_a_signal_saves_and_ends(follow, log, tmp_path, monkeypatch):
    """SIGTERM between two readings: 75, and the state is in the file."""
    real, text = jobs_live.read_lines, log.read_text().splitlines(keepends=True)

    def lines(file, stopped):
        for some in real(file, stopped):
            yield some[:20]
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(jobs_live, "read_lines", lines)
        code, out, err = follow("".join(text), "--state", str(tmp_path / "state"))
    assert (code, len(out), len(err)) == (75, 1 + 20 - 5, 1)
    code, more, _ = follow("".join(text[20:]), "--state", str(tmp_path / "state"))
    assert code == 0
    assert [*out, *more[1:]] == follow("".join(text), "--state", ":memory:")[1]


def test_the_header_of_a_made_log_is_that_of_its_lines(log, jobs):
    assert log.read_text().startswith(SWF_HEADER) and swf_line(jobs[0]._replace(status="completed"))
