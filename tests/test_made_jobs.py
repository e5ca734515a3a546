"""The made log of jobs: its chances are the true ones, against observed frequencies and against enumeration of all that is
hidden; it is a stream that is the same whatever comes later; as a file it is Standard Workload Format."""

import itertools
import math
import time
import tracemalloc
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from common.errors import InputError
from lstm.data import made_jobs as world
from lstm.data import made_jobs_risk as risks
from lstm.data.jobs import Job, read_jobs
from lstm.data.made_jobs import BEGIN, CLASSES, Made, made_jobs, swf_line, write_swf

COMPLETED, FAILED, CANCELLED = CLASSES


@pytest.fixture(scope="module")
def log() -> list[Made]:
    """21,000 jobs of 90 users: what users do is independent, so that sums over users tell the errors of means."""
    return list(made_jobs(seed=1, users=90, jobs=21_000))


def targets(log):
    """(chances [N, 3], how jobs ended [N, 3] as 0 or 1, users [N])."""
    chances = np.array([made.chances for made in log])
    ended = np.eye(3)[[CLASSES.index(made.job.status) for made in log]]
    return chances, ended, np.array([int(made.job.user) for made in log])


def loss(chances, ended):
    return -np.log((chances * ended).sum(1)).mean()


# The chances are true -----------------------------------------------------------------------------------------------------


def test_chances_are_chances(log):
    chances, _, _ = targets(log)
    assert chances.min() >= 0 and chances.max() <= 1
    np.testing.assert_allclose(chances.sum(1), 1, atol=1e-12)


def errors_in_standard_errors(chances, ended, users):
    """(Mean of observed less predicted) over its standard error, the jobs of a user being taken as one observation."""
    sums = np.bincount(users, ended - chances)
    return sums.sum() / math.sqrt((sums**2).sum())


def test_chances_are_calibrated(log):
    """In ten bins of each class's chance, jobs end so as often as they should."""
    chances, ended, users = targets(log)
    for k in range(3):
        bins = np.minimum(np.digitize(chances[:, k], np.arange(0.1, 1, 0.1)), 9)
        for place in np.unique(bins):
            inside = bins == place
            if inside.sum() > 150 and len(np.unique(users[inside])) > 20:
                assert abs(errors_in_standard_errors(chances[inside, k], ended[inside, k], users[inside])) < 4


def situations(log):
    """{what is known at submission: which jobs}: the cases that a filter may get wrong."""
    jobs = {made.job.id: made.job for made in log}
    found, lasts = defaultdict(list), defaultdict(list)
    for made in log:
        job = made.job
        before, earlier = jobs.get(job.after), lasts[job.user, job.program]
        known = [x for x in earlier if x.end <= job.submit]
        running = [x for x in earlier if x.start <= job.submit < x.end]
        found["first of its pair"].append(not earlier)
        for status in CLASSES:
            found[f"after {status}"].append(bool(known) and known[-1].status == status)
        found["one runs long"].append(any(job.submit - x.start > 600 for x in running))
        found["one runs shortly"].append(any(job.submit - x.start <= 60 for x in running))
        found["none has ended"].append(bool(earlier) and not known)
        found["waits"].append(before is not None and before.end > job.submit)
        found["waits for one that runs"].append(before is not None and before.start < job.submit < before.end)
        found["third of a path"].append(before is not None and before.after != "" and before.start > job.submit)
        found["at once with others"].append(bool(earlier) and earlier[-1].submit == job.submit)
        found["follows a failure"].append(before is not None and before.end <= job.submit and before.status == FAILED)
        lasts[job.user, job.program] = [*earlier, job][-8:]
    return {name: np.array(inside) for name, inside in found.items()}


def test_chances_are_calibrated_in_every_situation(log):
    chances, ended, users = targets(log)
    for name, inside in situations(log).items():
        assert inside.sum() > 80, name
        if name == "follows a failure":
            np.testing.assert_array_equal(chances[inside], [[0, 0, 1]] * inside.sum())
            continue
        for k in range(3):
            z = errors_in_standard_errors(chances[inside, k], ended[inside, k], users[inside])
            assert abs(z) < 4, (name, CLASSES[k], z)


@pytest.mark.slow
def test_nothing_simpler_is_as_good(log, monkeypatch):
    """Log loss: frequencies of what is easily counted, even counted on these very jobs, and filters that leave out a part of
    what is known, are worse."""
    chances, ended, _ = targets(log)
    true = loss(chances, ended)
    assert true == pytest.approx(-(chances * np.log(np.maximum(chances, 1e-300))).sum(1).mean(), abs=0.02)

    def frequencies(keys):
        counts = defaultdict(lambda: np.zeros(3))
        for key, row in zip(keys, ended, strict=True):
            counts[key] += row
        return np.array([counts[key] / counts[key].sum() for key in keys])

    jobs = [made.job for made in log]
    last, lasts = [], {}
    for job in jobs:  # the last status of the pair, even where it is not known yet
        last.append((lasts.get((job.user, job.program), ""), job.after != ""))
        lasts[job.user, job.program] = job.status
    by_program, by_last = frequencies([job.program for job in jobs]), frequencies(last)
    assert loss(by_program, ended) > true + 0.2
    assert loss(by_last, ended) > true + 0.05

    few, count = 5_000, {"seed": 1, "users": 90, "jobs": 5_000}
    true = loss(chances[:few], ended[:few])

    def ablated():
        part = list(made_jobs(**count))
        assert [made.job for made in part] == jobs[:few]
        return loss(np.maximum(targets(part)[0], 1e-9), ended[:few])

    with monkeypatch.context() as patch:  # running jobs say nothing
        patch.setattr(risks, "alive", lambda risk, seconds: (1.0, 1.0))
        assert ablated() > true + 0.001
    with monkeypatch.context() as patch:  # no job says anything
        patch.setattr(risks, "evidence", lambda job, now: (1.0, 1.0))
        assert ablated() > true + 0.15


def chance_by(law, risk, seconds):
    """Chance of a run time up to so many seconds, by laws that are not those under test."""
    if law == "limit":
        return float(seconds >= risk.limit)
    if law == "done":
        cut = stats.lognorm.cdf([seconds, risk.limit], risk.spread, scale=math.exp(risk.log_run))
        return min(1.0, cut[0] / cut[1])
    if law == "middle":
        return stats.uniform.cdf(seconds, 0, risk.middle)
    return stats.truncexpon.cdf(seconds, risk.limit / risks.BROKEN_MEAN, scale=risks.BROKEN_MEAN)


def endings(risk, broken):
    """[(status, law of its run time, chance)] of a job that starts."""
    fails = risks.BROKEN_FAILS[broken]
    return [
        (FAILED, "input", fails),
        (FAILED, "middle", (1 - fails) * risk.dies),
        (CANCELLED, "middle", (1 - fails) * risk.cancelled),
        (FAILED, "limit", (1 - fails) * risk.late),
        (COMPLETED, "done", (1 - fails) * risk.completes),
    ]


def weight(job, now, status, broken):
    """Chance of what is known now of a job that starts, and that it ends with `status`."""
    total = 0.0
    for ending, law, chance in endings(job.risk, broken):
        seconds = job.end - job.start
        if ending == status and job.end <= now:
            total += chance * (chance_by(law, job.risk, seconds) - chance_by(law, job.risk, seconds - 1))
        elif ending == status:
            total += chance * (1 - chance_by(law, job.risk, now - job.start) if job.start < now else 1)
    return total


def enumerated(placed, now, user):
    """Chances of the last job of `placed`, which is submitted now: the sum over all that is hidden, which is the set-up of each
    pair at each moment, and the end of each job that has not ended."""
    labels, factors, moments = itertools.count(), [], {}  # moments: pair -> label of its set-up at the last one
    step = np.array([[1 - user.breaks, user.breaks], [user.mends, 1 - user.mends]])
    ends = {}
    for job in placed:
        if job.pair not in moments:
            moments[job.pair] = next(labels)
            factors += [np.array([1 - risks.FIRST_BROKEN, risks.FIRST_BROKEN]), [moments[job.pair]]]
        elif job.moved:
            last, moments[job.pair] = moments[job.pair], next(labels)
            factors += [step, [last, moments[job.pair]]]
        ends[job.id] = next(labels)
        table = np.array([[weight(job, now, status, broken) for status in CLASSES] for broken in (0, 1)])
        table *= [job.end > now or status == job.status for status in CLASSES]
        if job.before is None:
            factors += [table, [moments[job.pair], ends[job.id]]]
        else:  # [set-up, end of the job before, end]: it starts where that one completes, else it is cancelled
            cancelled = np.broadcast_to([0.0, 0, 1], (2, 3))
            table = np.stack([table, cancelled, cancelled], 1)
            factors += [table, [moments[job.pair], ends[job.before.id], ends[job.id]]]
    total = np.einsum(*factors, [ends[placed[-1].id]], optimize="greedy")
    return total / total.sum()


def test_chances_are_those_of_enumeration(monkeypatch):
    """Each of the first jobs of many users, alone in their worlds; in most of them what is rare is frequent."""
    seen = []

    def spy(job, fresh, beliefs, now):
        seen.append((job, fresh, now, chances_of(job, fresh, beliefs, now)))
        return seen[-1][3]

    chances_of = world.chances_of
    monkeypatch.setattr(world, "chances_of", spy)
    kinds = Counter()
    for seed in range(36):
        if seed == 12:
            often = {
                "FOLLOWS": 0.25,
                "KEPT": 0.4,
                "WORKFLOWS": (0.0, 0.01),
                "SESSION_BATCHES": (9.0, 16.0),
                "PAUSE": 200.0,
                "LIMIT_MARGIN": -0.5,
            }
            for name, value in often.items():
                monkeypatch.setattr(world, name, value)
        seen.clear()
        list(made_jobs(seed=seed, users=1, jobs=14))
        for count, (_, fresh, now, chances) in enumerate(seen, 1):
            placed = [x[0] for x in seen[:count]]
            np.testing.assert_allclose(chances, enumerated(placed, now, fresh), rtol=1e-9, atol=1e-12)
            kinds.update(kinds_of(placed, now))
    assert len(kinds) == 6 and min(kinds.values()) > 5, kinds


def kinds_of(placed, now):
    """What is special about the last job."""
    *earlier, job = placed
    pair = [x for x in earlier if x.pair == job.pair]
    found = {
        "one of the pair runs": any(x.start < now < x.end for x in pair),
        "one of the pair failed": any(x.end <= now and x.status == FAILED for x in pair),
        "one of the pair met its limit": any(x.end <= now and x.end - x.start == x.risk.limit for x in pair),
    }
    if job.before is not None and job.before.end > now:
        later = placed[placed.index(job.before) + 1 :]
        found["waits"] = True
        found["waits for one that waits"] = job.before.before is not None and job.before.before.end > now
        found["the pair of the one before goes on"] = any(x.pair == job.before.pair and x.moved for x in later)
    return [name for name, it_is in found.items() if it_is]


def test_a_failure_by_hand():
    """Half a minute's failure, known from the second on at which it ends, speaks for a broken set-up."""
    risk = risks.Risk(0.1, 0.0, 0.0, 0.9, limit=900, middle=500, log_run=math.log(500), spread=0.1)
    early, late = (risks.Placed(n, "pair", 0.0, 30.0, FAILED, True, n == "2", risk, None) for n in "12")
    belief = risks.Belief(0.2, breaks=0.05, mends=0.1, pending=(early,))
    pause = (math.exp(-29 / 90) - math.exp(-30 / 90)) / (1 - math.exp(-10))  # of bad input, until the 30th second
    fine, broken = 0.8 * (0.01 * pause + 0.99 * 0.1 / 500), 0.2 * (0.93 * pause + 0.07 * 0.1 / 500)
    first = broken / (fine + broken)
    second = first * 0.9 + (1 - first) * 0.05
    assert first > 0.8 and risks.filtered(belief, 30.0)[0] == pytest.approx(first)
    fails = 0.93 * second + 0.01 * (1 - second)
    wanted = [(1 - fails) * 0.9, fails + (1 - fails) * 0.1, 0]
    np.testing.assert_allclose(risks.chances_of(late, belief, {}, 30.0), wanted, rtol=1e-12)
    alive = 0.93 * (math.exp(-29 / 90) - math.exp(-10)) / (1 - math.exp(-10)) + 0.07 * (0.9 + 0.1 * (1 - 29 / 500))
    alive_fine = 0.01 * (math.exp(-29 / 90) - math.exp(-10)) / (1 - math.exp(-10)) + 0.99 * (0.9 + 0.1 * (1 - 29 / 500))
    unknown = 0.2 * alive / (0.2 * alive + 0.8 * alive_fine)  # a second before it only runs
    assert risks.filtered(belief, 29.0)[0] == pytest.approx(unknown, rel=1e-9) and unknown < 0.2


def test_jobs_end_as_their_risk_says():
    """Statuses and run times of many jobs with one risk, against laws of SciPy and against the causes drawn one by one."""
    asks = {"processors": 64, "limit": 3600, "memory": 1200.0, "need": 1000.0, "need_spread": 0.2}
    risk = risks.risk_of(**asks, log_run=math.log(1800), spread=0.5, cancels=0.1)
    rng = np.random.default_rng(0)
    drawn = [risks.outcome(risk, False, *luck) for luck in rng.random((40_000, 2)).tolist()]
    broken = [risks.outcome(risk, True, *luck) for luck in rng.random((4_000, 2)).tolist()]
    assert all(1 <= seconds <= risk.limit and seconds == int(seconds) for _, seconds in drawn + broken)

    short = 1000 * np.exp(0.2 * rng.standard_normal(400_000)) > 1200
    cancels, late = rng.random(400_000) < 0.1, 1800 * np.exp(0.5 * rng.standard_normal(400_000)) > 3600
    fault = rng.exponential(1 / (risks.FAULTS * 64 * 0.5), 400_000) < 1
    bad = rng.random(400_000) < risks.BROKEN_FAILS[0]
    wanted = {COMPLETED: ~(bad | short | cancels | fault | late), CANCELLED: ~bad & ~short & cancels}
    for status, share in wanted.items():
        assert np.mean([x == status for x, _ in drawn]) == pytest.approx(share.mean(), abs=0.01)
    assert np.mean([x == FAILED for x, _ in broken]) == pytest.approx(risks.BROKEN_FAILS[1], abs=0.05)

    for law, times in (
        ("done", [seconds for status, seconds in drawn if status == COMPLETED]),
        ("middle", [seconds for status, seconds in drawn if status == CANCELLED]),
        ("input", [seconds for status, seconds in broken if status == FAILED][:2000]),
    ):
        for seconds in (20, 90, 300, 1000, 1700, 2500):
            assert np.mean(np.array(times) <= seconds) == pytest.approx(chance_by(law, risk, seconds), abs=0.04)
    assert sum(seconds == risk.limit for status, seconds in drawn if status == FAILED) > 1000


@pytest.mark.slow
def test_there_is_something_to_learn(log):
    """Of the classes there are as many as on real machines, and what is known tells much, not all."""
    chances, ended, _ = targets(log)
    assert 0.6 < ended[:, 0].mean() < 0.75 and ended[:, 1:].mean(0).min() > 0.1
    assert 0.85 < roc_auc_score(ended[:, 0] == 0, 1 - chances[:, 0]) < 0.92


# The log is a stream ------------------------------------------------------------------------------------------------------


def same(some, others):
    return all(a.job == b.job and np.array_equal(a.chances, b.chances) for a, b in zip(some, others, strict=True))


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**40), users=st.integers(1, 30), jobs=st.integers(0, 300))
def test_a_log_is_a_function_of_its_seed_and_a_longer_one_goes_on(seed, users, jobs):
    longer = list(made_jobs(seed, users, 400))
    assert same(made_jobs(seed, users, jobs), longer[:jobs])
    assert [x.job for x in made_jobs(seed, users, 400, chances=False)] == [x.job for x in longer]
    assert not same(made_jobs(seed + 1, users, 400), longer)


def test_nothing_of_a_later_job_reaches_an_earlier_one(monkeypatch):
    true = list(made_jobs(3, 5, 600))
    count, truth = itertools.count(), risks.outcome
    other = lambda risk, broken, *luck: (FAILED, 7) if next(count) > 300 else truth(risk, broken, *luck)
    monkeypatch.setattr(risks, "outcome", other)
    changed = list(made_jobs(3, 5, 600))
    assert same(changed[:301], true[:301]) and not same(changed[301:], true[301:])


def test_times_and_paths_are_consistent(log):
    jobs, latest, paths = {}, 0.0, Counter()
    for number, (job, _) in enumerate(log, 1):
        assert job.id == str(number) and job.submit >= max(latest, BEGIN)
        assert job.submit <= job.start <= job.end <= job.start + job.time_limit
        assert all(value == int(value) for value in job[1:4] + job[5:8]) and all(job[i] for i in (8, 9, 10, 11, 12))
        before = jobs.get(job.after)
        if before is not None and before.status != COMPLETED:
            assert job.status == CANCELLED and job.start == job.end == max(job.submit, before.end)
        else:
            assert job.end > job.start
            assert before is None or job.start >= before.end
        path = [job]
        while path[-1].after:
            path.append(jobs[path[-1].after])
        assert len({x.user for x in path}) == 1 and len({x.program for x in path}) == len(path)
        paths[len(path)] += 1
        jobs[job.id], latest = job, job.submit
    assert min(paths[n] for n in (1, 2, 3, 4)) > 100


def test_days_weeks_and_newcomers(log):
    jobs = [made.job for made in log]
    days, hours = (np.array([(job.submit - BEGIN) // unit for job in jobs]) for unit in (86_400, 3600))
    by_day = np.bincount(days.astype(int) % 7, minlength=7)
    by_hour = np.bincount(hours.astype(int) % 24, minlength=24)
    assert by_day[5:].sum() / 2 < 0.4 * by_day[:5].mean() and by_hour[2:7].max() < 0.2 * by_hour[10:18].min()
    half = len(jobs) // 2
    for names in (lambda job: job.user, lambda job: (job.user, job.program)):
        early, late = (Counter(map(names, part)) for part in (jobs[:half], jobs[half:]))
        new = sum(late[name] for name in late.keys() - early.keys())
        assert 0.02 * half < new < 0.4 * half


@pytest.mark.slow
def test_memory_does_not_grow_with_jobs():
    """What a log holds after many jobs is what it held after a few: users, their programs, jobs that have not ended."""
    stream, held = made_jobs(0, 2, 3000), []
    tracemalloc.start()
    try:
        for count, _ in enumerate(stream, 1):
            if count % 500 == 0:
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert max(held[3:]) < 1.3 * max(held[:3]), held


@pytest.mark.slow
def test_rate(capsys):
    begin = time.perf_counter()
    count = sum(1 for _ in made_jobs(jobs=3000, chances=False))
    with capsys.disabled():
        print(f" {count / (time.perf_counter() - begin):,.0f} made jobs/s with checked types ", end="")


@pytest.mark.parametrize("bad", [{"seed": -1}, {"users": 0}, {"jobs": -5}])
def test_numbers_that_make_no_log(bad):
    ((name, value),) = bad.items()
    with pytest.raises(InputError, match=f"{name}={value}; expected [01] or more"):
        made_jobs(**bad)


# Files --------------------------------------------------------------------------------------------------------------------


JOB = Job("7", BEGIN + 60.0, BEGIN + 100.0, BEGIN + 400.0, FAILED, 8.0, 900.0, 2.5, "3", "4", "55", "1", "2", "")


def test_a_line_by_hand():
    assert swf_line(JOB) == "7 60 40 300 8 -1 -1 8 900 2560 0 3 4 55 1 2 -1 -1"
    waits = JOB._replace(after="5", status=CANCELLED, start=BEGIN + 60.0, end=BEGIN + 60.0)
    assert swf_line(waits) == "7 60 0 0 -1 -1 -1 8 900 2560 5 3 4 55 1 2 5 -1"
    runs = JOB._replace(status="", end=math.nan, memory=math.nan, program="")
    assert swf_line(runs) == "7 60 40 -1 -1 -1 -1 8 900 -1 -1 3 4 -1 1 2 -1 -1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "NODE_FAIL"}, "job 7: status 'NODE_FAIL'; a made log knows completed, failed, cancelled"),
        ({"user": "anna"}, "job 7: 'anna' cannot stand in a .swf file; it holds whole numbers"),
        ({"start": BEGIN + 0.5}, "job 7: .* cannot stand"),
        ({"submit": BEGIN - 1.0}, "job 7: -1.0 cannot stand"),
        ({"processors": math.inf}, "job 7: inf cannot stand"),
    ],
)
def test_jobs_that_the_format_cannot_hold(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        write_swf(tmp_path / "log.swf", [JOB, JOB._replace(**change)])
    assert not list(tmp_path.iterdir())


def test_a_file_holds_the_log(tmp_path, log):
    jobs = [made.job for made in log[:2000]]
    write_swf(tmp_path / "log.swf", iter(jobs))
    assert [path.name for path in tmp_path.iterdir()] == ["log.swf"]
    words = {COMPLETED: "1", FAILED: "0", CANCELLED: "5"}
    wanted = [job._replace(status=words[job.status]) for job in jobs]
    assert [job for block in read_jobs(tmp_path / "log.swf") for job in block] == wanted
    lines = (tmp_path / "log.swf").read_text().splitlines()
    assert f"; UnixStartTime: {BEGIN}" in lines and "; TimeZoneString: UTC" in lines


def test_no_file_where_none_can_be(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in ("absent", "file"):
        with pytest.raises(InputError, match="log.swf: cannot be written"):
            write_swf(tmp_path / folder / "log.swf", [JOB])
