"""What is decided on a risk, what a log's jobs are like, and the sections of a report on them, against loops and hand counts."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from lstm import job_decision as deciding
from lstm.data.job_events import encode
from lstm.data.job_history import History
from lstm.data.job_windows import Steps, Windows, facts_of, parts_of
from lstm.data.jobs import STATUSES, Job, class_of
from lstm.job_scores import Forecasts
from lstm.job_workload import fewest, workload_of
from lstm.tasks import jobs_pages, jobs_pictures
from tests import html_pages

NAMES, BAD = ("completed", "failed", "cancelled"), ("failed", "cancelled")
EDGES = np.array([0.0, 600.0, 3600.0])
OPTIONS = {"move_hours": 0.1, "per_node": 4, "faults": ["3 x a line is <bad> & was left out"]}
EVIL = '<script>alert("x")</script>&' + "long" * 20
nan = float("nan")


def job(number, submit, run=600.0, status="completed", *, wait=0.0, processors=8.0, user="u", program="p"):
    end = submit + wait + run if status else nan
    return Job(
        str(number), submit, submit + wait, end, status, processors, nan, nan, user, "", program, "", "", ""
    )  # fmt: skip


def log_of(jobs):
    history = History(NAMES, functools.partial(class_of, statuses=STATUSES["csv"], class_names=NAMES))
    return encode(jobs, history), [kind for kind, _ in history.submitted_names()]


def many(rng, count=120, *, bad=True, processors=True, waits=True, user=lambda rng: f"u{rng.integers(4)}"):
    statuses = NAMES if bad else NAMES[:1]
    return [
        job(
            f"<bad>{number}", 86_400 * 4 + 900.0 * number, float(rng.integers(1, 20_000)),
            statuses[rng.integers(len(statuses))] if number % 20 != 19 else "",
            wait=float(rng.integers(500)) if waits else 0.0,
            processors=float(rng.integers(1, 65)) if processors else nan,
            user=user(rng), program=EVIL if number % 3 else "",
        )
        for number in range(count)
    ]  # fmt: skip


def forecasts_of(log, first, last, rng, risks=None):
    """Random answers to jobs [first, last), or with these risks; one row of padding."""
    rows = last - first
    probabilities = rng.dirichlet(np.ones(3), (rows, len(EDGES)))
    if risks is not None:
        probabilities = np.stack([1 - risks, risks, 0 * risks], -1)
    running = np.concatenate([probabilities, np.zeros((1, *probabilities.shape[1:]))]).astype(np.float32)
    ids = np.append(np.arange(first, last), -1).astype(np.int32)
    return Forecasts(ids, np.append(log.jobs.label[first:last], 0).astype(np.int32), running[:, 0], running)


# The decision -------------------------------------------------------------------------------------------------------------


def by_loop(risk, run, bad, processors, edges, threshold, move_hours, per_node):
    saved = lost = moved = vain = 0
    for j in range(len(run)):
        for b, edge in enumerate(edges):
            if (b == 0 or run[j] >= edge) and risk[j][b] >= threshold:
                nodes = processors[j] / per_node
                moved += 1
                lost += move_hours * nodes
                if bad[j]:
                    saved += (run[j] - edge) / 3600 * nodes
                else:
                    vain += 1
                    lost += edge / 3600 * nodes
                break
    return saved, lost, saved - lost, moved, vain


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.integers(1, 6), st.floats(0, 2), st.integers(1, 16))
def test_decide_is_the_loop_over_jobs(seed, jobs, bins, move_hours, per_node):
    rng = np.random.default_rng(seed)
    edges = np.append(0.0, np.sort(rng.integers(1, 5000, bins - 1))).astype(float)
    risk = rng.integers(0, 11, (jobs, bins)) / 10  # ties with thresholds
    run = np.where(rng.random(jobs) < 0.3, rng.choice(edges, jobs), rng.integers(0, 8000, jobs).astype(float))
    bad, processors = rng.random(jobs) < 0.4, rng.integers(1, 100, jobs).astype(float)
    thresholds = np.array([0, 0.1, 0.25, 0.7, 1.0, np.inf])
    found = deciding.decide(risk, run, bad, processors, edges, thresholds, move_hours, per_node)
    for place, threshold in enumerate(thresholds):
        told = by_loop(risk, run, bad, processors, edges, threshold, move_hours, per_node)
        np.testing.assert_allclose([x[place] for x in found[1:]], told, rtol=1e-9, atol=1e-9)


def test_decide_by_hand():
    # 8 processors of nodes of 4: 2 nodes. A bad job of 3 h, whose risk rises at 600 s; a good one of 2 h, at 3600 s; a short one.
    risk = np.array([[0.1, 0.8, 0.2], [0.3, 0.3, 0.9], [0.2, 0.99, 0.99]])
    run, bad, sizes = np.array([10_800.0, 7200.0, 60.0]), np.array([True, False, True]), np.array([8.0, 8.0, 4.0])
    found = deciding.decide(risk, run, bad, sizes, EDGES, np.array([0.0, 0.8, 0.85, 1.01]), 0.1, 4)
    every = 2 * 3 + 60 / 3600
    np.testing.assert_allclose(found.saved, [every, 2 * (3 - 1 / 6), 0, 0])
    np.testing.assert_allclose(found.lost, [0.1 * 5, 0.2 + 2 * 1 + 0.2, 2 * 1 + 0.2, 0])
    assert found.moved.tolist() == [3, 2, 1, 0]
    assert found.moved_in_vain.tolist() == [1, 1, 1, 0]
    np.testing.assert_array_equal(found.net, found.saved - found.lost)


def test_perfect_risk_saves_all_and_nothing_is_in_vain():
    rng = np.random.default_rng(0)
    run, bad, sizes = (
        rng.integers(0, 9000, 50).astype(float),
        rng.random(50) < 0.5,
        rng.integers(1, 9, 50).astype(float),
    )
    risk = np.repeat(bad[:, None].astype(float), 3, 1)
    found = deciding.decide(risk, run, bad, sizes, EDGES, np.array([0.5, 1.5]), 0.0, 1)
    assert found.saved[0] == found.net[0] == pytest.approx((run * sizes)[bad].sum() / 3600)
    assert found.moved_in_vain.tolist() == [0, 0]
    assert [x[1] for x in found[1:]] == [0, 0, 0, 0, 0]


def test_best_threshold_is_the_highest_of_equals_and_none_where_none_pays():
    some = lambda net: deciding.Decision(np.linspace(0, 1, 4), *[np.array(net, float)] * 3, *[np.zeros(4, int)] * 2)
    assert deciding.best_threshold(some([1, 5, 5, 0])) == pytest.approx(2 / 3)
    assert deciding.best_threshold(some([-1, 0, -5, 0])) == np.inf


@pytest.mark.parametrize("key, options", [("move_hours", (-0.1, 4)), ("move_hours", (nan, 4)), ("per_node", (0.1, 0))])
def test_decide_rejects_senseless_costs(key, options):
    one = np.ones(1)
    with pytest.raises(InputError, match=rf"config\.task\.{key}="):
        deciding.decide(one[:, None], one, one > 0, one, np.zeros(1), one, *options)


def test_ends_leave_out_what_is_not_known():
    log, _ = log_of([job(0, 0.0), job(1, 10.0, status=""), job(2, 20.0, 60.0, "failed", processors=nan, user="v")])
    found = deciding.ends_of(log, forecasts_of(log, 0, 3, np.random.default_rng(0)), NAMES, BAD)
    assert found.job.tolist() == [0, 2]
    assert (found.unknown, found.unsized) == (1, 1)
    assert found.bad.tolist() == [False, True]
    assert found.processors.tolist() == [8, 1]
    assert found.run.tolist() == [600, 60]


# The workload -------------------------------------------------------------------------------------------------------------


def test_workload_by_hand():
    monday = 4 * 86_400.0  # 5 January 1970
    log, _ = log_of(
        [
            job(0, monday + 3600 * 9, 3600.0, "completed", user="a", program="x", processors=1.0),
            job(1, monday + 3600 * 9 + 5, 7200.0, "failed", user="a", program="x", wait=30.0, processors=2.0),
            job(2, monday + 86_400 + 3600 * 23, 5.0, "failed", user="b", program="x", wait=700.0, processors=64.0),
            job(3, monday + 6 * 86_400, 60.0, "cancelled", user="c", program="y", processors=65.0),
            job(4, monday + 7 * 86_400, 60.0, "", user="c", program="y", processors=65.0),
        ]
    )
    load = workload_of(log, 3, [1, 2])
    assert (load.jobs, load.unknown, load.user_count, load.program_count, load.half) == (5, 1, 3, 2, 2)
    assert load.hours == pytest.approx(1 + 4 + 64 * 5 / 3600 + 65 / 60)
    assert {(d, h): n for (d, h), n in np.ndenumerate(load.arrivals) if n} == {
        (0, 0): 1,
        (0, 9): 2,
        (1, 23): 1,
        (6, 0): 1,
    }
    told = lambda groups: dict(zip(groups.names, groups.jobs.tolist(), strict=True))
    assert told(load.sizes) == {"1": 1, "2": 1, "33 to 64": 1, "65 to 128": 2}
    assert told(load.runs) == {"less than 10 s": 1, "1 to 10 min": 1, "1 to 4 h": 2, "not known": 1}
    assert told(load.waits) == {"less than 10 s": 3, "10 s to 1 min": 1, "10 min to 1 h": 1}
    assert told(load.users) == {"a": 2, "c": 2, "b": 1}
    assert told(load.programs) == {"x": 3, "y": 2}
    np.testing.assert_allclose(load.programs.classes, [[1 / 3, 2 / 3, 0], [0, 0, 1]])
    np.testing.assert_allclose(load.by_hour.classes[9], [0.5, 0.5, 0])
    assert np.isnan(load.by_hour.classes[1]).all()
    np.testing.assert_allclose(load.users.hours, [5, 65 / 60, 64 * 5 / 3600])


def test_workload_without_waits_and_names():
    log, _ = log_of([job(n, 100.0 * n, user="", program="", processors=nan) for n in range(3)])
    load = workload_of(log, 3, [1])
    assert (load.waits, load.users, load.programs, load.half) == (None, None, None, 0)
    assert (load.sizes.names, load.sizes.jobs.tolist()) == (["not known"], [3])


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12))
def test_fewest_is_the_smallest_number_that_holds_half(counts):
    ordered = sorted(counts, reverse=True)
    wanted = next(k for k in range(len(counts) + 1) if 2 * sum(ordered[:k]) >= sum(counts))
    assert fewest(np.array(counts)) == wanted


# What carries the risk ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    """A log, its kinds of numbers, its parts, and the batch of all windows of its test part."""
    log, kinds = log_of(many(np.random.default_rng(1)))
    parts = parts_of(log, [0.5, 0.7, 1.0], "train")
    windows = Windows(Steps(log, facts_of(log, parts["train"], 1), EDGES), parts["test"], length=16, context=8)
    rows = [windows[i] for i in range(len(windows))]
    return log, kinds, parts, {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def answerer(batch, column):
    """A model whose risk follows one column of the numbers."""

    def answer(change=lambda batch: batch):
        changed = change(batch)
        counted = changed["counted"]
        risk = 1 / (1 + np.exp(-changed["numbers"][counted][:, column]))
        chances = np.stack([1 - risk, risk / 2, risk / 2], -1).astype(np.float32)
        running = np.repeat(chances[:, None], len(EDGES), 1)
        return Forecasts(changed["job"][counted], changed["label"][counted], chances, running)

    return answer


def test_permuted_keeps_what_is_there_and_moves_one_kind_alone(small):
    _, kinds, _, batch = small
    before = {name: x.copy() for name, x in batch.items()}
    for name, inputs in deciding.inputs_of(kinds).items():
        mixed = deciding.permuted(batch, inputs)
        again = deciding.permuted(batch, inputs)
        here, ends = batch["submitted"] & batch["valid"], ~batch["submitted"] & batch["valid"]
        for key in batch:
            np.testing.assert_array_equal(mixed[key], again[key])
            np.testing.assert_array_equal(batch[key], before[key])
        assert not (mixed["ended"][~ends] != batch["ended"][~ends]).any()
        assert not (mixed["numbers"][~here] != batch["numbers"][~here]).any()
        changed = {kinds[i] for i in np.flatnonzero((mixed["numbers"] != batch["numbers"]).any((0, 1)))}
        assert changed <= ({name} if name != "past" else set(kinds) - {"time", "request"})
        assert (mixed["names"] != batch["names"]).any() == (name == "names")
        assert (mixed["ended"] != batch["ended"]).any() == (name in ("ended", "past"))
        rows = lambda x, inputs=inputs: sorted(map(tuple, x["numbers"][x["submitted"] & x["valid"]][:, inputs.numbers]))
        assert rows(mixed) == rows(batch)  # whole rows of a kind move together


def test_importance_is_that_of_the_kind_the_model_reads(small):
    _, kinds, _, batch = small
    answer = answerer(batch, kinds.index("program"))
    own = deciding.scores(answer(), NAMES, BAD)
    found = deciding.importances(answer, kinds, NAMES, BAD)
    assert list(found) == [*dict.fromkeys(kinds), "names", "ended", "past"]
    assert {name for name, scores in found.items() if scores != own} == {"program", "past"}


def test_moves_change_the_jobs_asked_for_alone(small):
    _, kinds, _, batch = small
    column = kinds.index("machine")
    chosen = batch["job"][batch["counted"]][[0, 5]].tolist()
    at = np.isin(batch["job"], chosen) & batch["submitted"] & batch["valid"]
    for name, inputs in deciding.inputs_of(kinds).items():
        less = deciding.without(batch, inputs, chosen)
        assert not (less["numbers"][~at] != batch["numbers"][~at]).any()
        assert not less["numbers"][at][:, inputs.numbers].any()
        kept = [i for i in range(len(kinds)) if i not in inputs.numbers]
        np.testing.assert_array_equal(less["numbers"][..., kept], batch["numbers"][..., kept])
        if name == "names":
            assert not less["names"][at].any() and (less["names"][~at] == batch["names"][~at]).all()
        if inputs.ended:
            assert not less["ended"][at.any(1)].any()
    answer = answerer(batch, column)
    own = dict(zip(answer().id.tolist(), 1 - answer().probabilities[:, 0], strict=True))
    moved = deciding.moves(answer, kinds, NAMES, BAD, [*chosen, 0])
    for name, risks in moved.items():
        wanted = [0.5, 0.5] if name in ("machine", "past") else [own[j] for j in chosen]
        np.testing.assert_allclose(risks, [*wanted, nan], rtol=1e-5)


# Jobs to look at ----------------------------------------------------------------------------------------------------------


def test_cases_tell_what_was_known_at_the_moment():
    jobs = [job(n, 100.0 * n, 250.0, "failed" if n % 2 else "completed", user="a") for n in range(30)]
    jobs += [job(40, 3000.0, 5000.0, "failed", user="a"), job(41, 3000.0, 50.0, "completed", user="b")]
    log, _ = log_of(jobs)
    risks = np.full((len(jobs), 3), 0.5)
    risks[30], risks[31] = 0.9, 0.99
    forecasts = forecasts_of(log, 0, len(jobs), np.random.default_rng(0), risks)
    ends = deciding.ends_of(log, forecasts, NAMES, BAD)
    first, second, third = deciding.cases_of(log, ends, forecasts, NAMES, BAD)
    assert first.job == 30 and first.number.tolist() == list(range(31))
    # At 3000 s the jobs of 2800 and 2900 s still run, as does the job itself.
    assert first.was.tolist() == [n % 2 for n in range(28)] + [-1] * 3
    assert first.became.tolist() == [n % 2 for n in range(30)] + [1]
    assert first.risk[-1] == pytest.approx(0.9)
    assert second.job != 30 and second.became[-1] == 1
    assert third.became[-1] == 0 and third.job != 31  # the riskier one is the only job of its user


def test_cases_are_of_users_with_a_history_and_of_different_ones():
    rng = np.random.default_rng(3)
    log, _ = log_of(many(rng, 300))
    forecasts = forecasts_of(log, 100, 300, rng)
    ends = deciding.ends_of(log, forecasts, NAMES, BAD)
    cases = deciding.cases_of(log, ends, forecasts, NAMES, BAD)
    assert len({log.jobs.codes[case.job, 0] for case in cases}) == 3
    for case, high in zip(cases, (True, False, True), strict=True):
        own = np.isfinite(case.risk)
        assert own.sum() > deciding.EARLIER and not own[case.number < 100].any()
        assert (case.risk[-1] > 0.8) == high and len(case.number) <= deciding.SHOWN
        assert (log.jobs.codes[case.number, 0] == log.jobs.codes[case.job, 0]).all()


# Pages --------------------------------------------------------------------------------------------------------------------

TITLES = ["The decision", "How early", "Calibration", "The workload", "What carries the risk", "Three jobs"]


def parsed(sections):
    page = html_pages.parsed("".join(body for _, body in sections))
    assert page.addresses == [] and "script" not in page.tags and "bad" not in page.tags
    return "".join(page.text)


def test_pages_show_names_as_text(small):
    log, kinds, parts, batch = small
    answer = answerer(batch, kinds.index("user"))
    validation = forecasts_of(log, parts["validation"].first, parts["validation"].last, np.random.default_rng(0))
    made = jobs_pages.pages(
        log, parts, "test", answer(), validation, answer, kinds, EDGES, NAMES, BAD, OPTIONS
    )  # fmt: skip
    assert [title for title, _ in made] == TITLES
    text = parsed(made)
    for shown in (EVIL[:30], OPTIONS["faults"][0], "best on the validation part", "0.1 h of its processors", "(none)"):
        assert shown in text
    assert EVIL not in text  # it is cut


@pytest.mark.parametrize("how", [{"bad": False}, {"processors": False}, {"waits": False}, {"user": lambda rng: ""}])
@pytest.mark.parametrize("answered", [True, False])
def test_pages_of_logs_that_lack_something(how, answered):
    rng = np.random.default_rng(2)
    log, kinds = log_of(many(rng, **how))
    parts = parts_of(log, [0.5, 0.5, 1.0], "train")
    forecasts = forecasts_of(log, 60, 120, rng)
    answer = (lambda change: forecasts) if answered else None
    if answered:
        windows = Windows(Steps(log, facts_of(log, parts["train"], 1), EDGES), parts["test"], length=64, context=8)
        answer = answerer({k: np.stack([windows[i][k] for i in range(len(windows))]) for k in windows[0]}, 0)
    text = parsed(
        jobs_pages.pages(
            log, parts, "test", forecasts, None, answer, kinds, EDGES, NAMES, BAD, OPTIONS | {"faults": []}
        )
    )
    assert ("What carries" in text) is False  # titles are not in the bodies
    assert "nan" not in text and "inf" not in text
    if not how.get("bad", True):
        assert "no job is moved" in text and "A false alarm" in text and "Ended badly, unforeseen" not in text
    if not how.get("processors", True):
        assert "taken as one processor: 57" in text
    assert ("% of the users" in text) == ("user" not in how and how.get("bad", True))
    assert ("no bad end" in text) == (not how.get("bad", True))
    if not how.get("waits", True):
        assert "The log does not tell." in text
    else:
        assert "Left out, since their end is not known: 3." in text


def test_a_threshold_that_fails_on_the_split_is_said_to():
    jobs = [job(n, 1e5 * n, 36_000.0, "failed" if n < 10 else "completed") for n in range(20)]
    log, _ = log_of(jobs)
    told = lambda first: forecasts_of(log, first, first + 10, np.random.default_rng(0), np.full((10, 3), 0.8))
    ends, chosen_on = (deciding.ends_of(log, told(first), NAMES, BAD) for first in (10, 0))
    page = jobs_pages.decision_section(ends, chosen_on, "test", EDGES, BAD, OPTIONS)
    text = "".join(html_pages.parsed(page).text)
    # 10 jobs on 2 nodes, each moved in vain for 0.1 h.
    assert (
        "A threshold of 0.80 is best on the validation part. On test it moves 10 of 10 jobs, 10 of them in vain" in text
    )
    assert "0 node-hours are saved, 2 lost, net -2, -1.0 % of the 200 " in text
    assert "To move none would have been better." in text


def test_pages_where_no_end_is_known():
    log, kinds = log_of([job(n, 10.0 * n, status="completed" if n < 5 else "") for n in range(10)])
    parts = parts_of(log, [0.5, 0.5, 1.0], "train")
    forecasts = forecasts_of(log, 5, 10, np.random.default_rng(0))
    made = jobs_pages.pages(log, parts, "test", forecasts, None, None, kinds, EDGES, NAMES, BAD, OPTIONS)
    assert [title for title, _ in made] == TITLES[:4]
    assert "No job of test has a known end." in parsed(made)
    assert jobs_pictures.picture(log, forecasts, EDGES, NAMES, BAD, OPTIONS).shape[1] == 1000


def test_picture(small):
    log, _, parts, batch = small
    forecasts = answerer(batch, 5)()
    found = jobs_pictures.picture(log, forecasts, EDGES, NAMES, BAD, OPTIONS)
    assert found.dtype == np.uint8 and found.shape[1:] == (1000, 3)
    for colour in jobs_pictures.COLOURS[:3]:
        assert (found == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(-1).any()


def test_curves_escape_and_leave_out_what_is_not_finite():
    page = jobs_pictures.curves(
        "<t>", {"<a>": [(0, 1.0), (1, nan), (2, 30_000.0)]}, labels=["<x>", "y", "z"], mark=1, note="<n>"
    )
    text = "".join(html_pages.parsed(page).text)
    for shown in ("<t>", "<a>", "<x>", "<n>", "30k"):
        assert shown in text
    assert page.count("<circle") == 2
    assert jobs_pictures.curves("t", {"a": [(0, nan)]}) == ""
    ticks = lambda low: html_pages.parsed(jobs_pictures.curves("t", {"a": [(0, low), (1, 900.0)]})).text
    assert "-200" in ticks(-100.0) and "-200" not in ticks(-1.0)


@pytest.mark.parametrize(
    "seconds, text", [(0.5, "0.5 s"), (59.9, "60 s"), (61.6, "1 min"), (9000, "2.5 h"), (864_000, "10 d")]
)
def test_duration(seconds, text):
    assert jobs_pictures.duration(seconds) == text
