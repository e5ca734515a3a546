"""The baselines of jobs: against plain loops over the log, scikit-learn, a made log's true chances, and what must not matter."""

import functools
import itertools
import math

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from common.errors import InputError
from lstm import job_baselines as methods
from lstm.data.job_events import NAMES as FIELDS
from lstm.data.job_events import Log, encode, in_order
from lstm.data.job_history import History
from lstm.data.job_windows import Part, Steps, facts_of, parts_of
from lstm.data.jobs import STATUSES, Faults, Job, class_of, read_jobs
from lstm.data.made_jobs import made_jobs
from lstm.job_baselines import baselines, known_jobs, last_ended, most_frequent
from lstm.job_scores import scores

NAMES, BAD = ("completed", "failed", "cancelled"), ("failed", "cancelled")
QUICK = {"strengths": ((0.01,), (0.1,)), "boostings": ((0.2, 4, 8), (0.1, 8, 8))}
LEARNED = {"logistic regression", "gradient boosting"}


@pytest.fixture(autouse=True)
def one_thread():
    """OpenMP's threads spin while they wait: beside other tests one is faster than two."""
    with threadpool_limits(1):
        yield


def encoded(jobs):
    return encode(jobs, History(NAMES, lambda word: NAMES.index(word) if word else -1))


def job(submit, end, status, user="u", program="p"):
    name = f"{user}{program}{submit}"
    return Job(name, submit, submit, end, status, 1.0, 60.0, 1.0, user, "", program, "", "", "")


@pytest.fixture(scope="module")
def made():
    """Of a made log, some jobs end at the moment of their submission, and some never do."""
    rng, found = np.random.default_rng(0), []
    for number, one in enumerate(made_jobs(5, users=12, jobs=1500, chances=False)):
        if number % 11 == 0:
            one = one._replace(job=one.job._replace(start=one.job.submit, end=one.job.submit, status="cancelled"))
        if rng.random() < 0.02:
            one = one._replace(job=one.job._replace(start=math.nan, end=math.nan, status=""))
        found.append(one.job)
    return found


@pytest.fixture(scope="module")
def log(made):
    return encoded(made)


def parts(log, train_on="train"):
    return parts_of(log, [0.6, 0.8, 1.0], train_on)


# Rules --------------------------------------------------------------------------------------------------------------------


def ended_before(jobs, number):
    """Places of the jobs that had ended when job `number` was submitted, the last one last; read off the records."""
    known = [i for i in range(number) if jobs[i].status and max(jobs[i].end, jobs[i].submit) <= jobs[number].submit]
    return sorted(known, key=lambda i: (jobs[i].end, i))


def test_most_frequent_equals_a_plain_loop(made, log):
    numbers, shares = np.arange(0, 1500, 7), np.array([0.5, 0.3, 0.2])
    found = most_frequent(log, numbers, shares)
    for row, number in enumerate(numbers):
        own = [made[i].status for i in ended_before(made, number) if made[i].user == made[number].user]
        counts = np.array([own.count(name) for name in NAMES])
        np.testing.assert_allclose(found[row], (counts + shares) / (len(own) + 1))


def test_last_ended_equals_a_plain_loop(made, log):
    numbers, shares = np.arange(0, 1500, 7), np.array([0.5, 0.3, 0.2])
    found = last_ended(log, numbers, known_jobs(log, parts(log)["train"]), NAMES, shares)
    np.testing.assert_allclose(found.sum(1), 1)
    kinds = set()
    for row, number in enumerate(numbers):
        own = [i for i in ended_before(made, number) if made[i].user == made[number].user]
        both = [i for i in own if made[i].program == made[number].program]
        kinds.add((bool(own), bool(both)))
        if both or own:
            assert NAMES[found[row].argmax()] == made[(both or own)[-1]].status
            assert found[row].max() >= 0.5
        else:
            np.testing.assert_allclose(found[row], shares)
    assert len(kinds) == 3  # none, of the user alone, of both


def test_rules_by_hand():
    jobs = [
        job(0, 10, "failed"),
        job(1, 5, "completed"),
        job(10, 10, "cancelled"),  # sees the first end, not itself
        job(11, 99, "completed", program="q"),  # of the user alone: the third
        job(12, 99, "completed", user="v"),  # nothing is known of it
        job(13, 99, "failed"),
    ]
    log, shares = encoded(jobs), np.array([0.5, 0.25, 0.25])
    numbers = np.array([2, 3, 4, 5])
    counts = most_frequent(log, numbers, shares)
    np.testing.assert_allclose(counts[0], np.array([1.5, 1.25, 0.25]) / 3)
    np.testing.assert_allclose(counts[1], np.array([1.5, 1.25, 1.25]) / 4)
    np.testing.assert_allclose(counts[2], shares)
    # Of three known jobs one had a last one, the first: failed, then cancelled. Still the rule says failed after failed.
    rule = last_ended(log, numbers, np.array([0, 1, 2]), NAMES, shares)
    np.testing.assert_allclose(rule[0], [1 / 7, 1 / 2, 5 / 14], atol=1e-5)
    np.testing.assert_allclose(rule[1], [1 / 3, 1 / 6, 0.5], atol=1e-5)
    np.testing.assert_allclose(rule[2], shares)
    np.testing.assert_allclose(rule[3], [1 / 3, 1 / 6, 0.5], atol=1e-5)


def test_how_sure_the_rule_is():
    """After a completed job 6 of 7 completed, after a failed one 3 of 4 failed; the shares count as one job more."""
    status = ["completed"] * 4 + ["failed"] * 4 + ["completed"] * 4
    shares = np.array([0.6, 0.3, 0.1])
    for last, want in (("completed", np.array([6.6, 1.3, 0.1]) / 8), ("failed", np.array([1.6, 3.3, 0.1]) / 5)):
        jobs = [job(10.0 * k, 10.0 * k + 1, word) for k, word in enumerate([*status, last, "failed"])]
        found = last_ended(encoded(jobs), np.array([13]), np.arange(12), NAMES, shares)
        np.testing.assert_allclose(found, want[None], atol=1e-5)


# Nothing of later ---------------------------------------------------------------------------------------------------------


def same(one, other, rows=slice(None)):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name].probabilities[rows], other[name].probabilities[rows], err_msg=name)


@pytest.mark.parametrize("train_on", ["train", "train+validation"])
def test_what_is_not_known_at_submission_does_not_matter(made, train_on):
    """From the middle of the test part on, whatever has not ended ends some other way at some other time."""
    log = encoded(made)
    split = parts(log, train_on)
    middle = split["test"].first + 150
    now, rng = made[middle].submit, np.random.default_rng(1)

    def altered(number, one):
        if number < middle and one.status and one.end <= now:
            return one
        end = max(now + 1, one.submit) + float(rng.integers(100_000))
        start = one.start if one.start <= now else end - 1  # that it runs is known
        return one._replace(start=start, end=end, status=str(rng.choice(NAMES)))

    before = baselines(log, split, "test", NAMES, **QUICK)
    changed = encoded(itertools.starmap(altered, enumerate(made)))
    after = baselines(changed, parts(changed, train_on), "test", NAMES, **QUICK)
    labelled = [number for number in before["majority"].id.tolist() if number <= middle]
    again = {n: f._replace(probabilities=f.probabilities[np.isin(f.id, labelled)]) for n, f in after.items()}
    assert len(labelled) > 100 and set(before) > LEARNED
    same({n: f._replace(probabilities=f.probabilities[: len(labelled)]) for n, f in before.items()}, again)


def test_labels_of_the_test_part_do_not_matter_to_what_is_fitted(log):
    split = parts(log)
    before = baselines(log, split, "test", NAMES, **QUICK)
    rng, label = np.random.default_rng(2), np.array(log.jobs.label)
    known = np.zeros(len(log), bool)
    for name in ("train", "validation"):
        known[known_jobs(log, split[name])] = True
    open_too = ~known & (label >= 0)
    label[open_too] = rng.permutation(label[open_too])
    assert (label != log.jobs.label).any()
    after = baselines(Log(log.jobs._replace(label=label), *log[1:]), split, "test", NAMES, **QUICK)
    # What a user has seen end is read from these labels: that rule is looked at above.
    before.pop("user's most frequent"), after.pop("user's most frequent")
    same(before, after)


# Learned ------------------------------------------------------------------------------------------------------------------


def test_forecasts_of_a_split(log):
    found = baselines(log, parts(log), "test", NAMES, **QUICK)
    assert list(found) == [
        *("majority", "user's most frequent", "last ended job", "logistic regression", "gradient boosting"),
    ]
    jobs = np.arange(1200, 1500)
    jobs = jobs[log.jobs.label[jobs] >= 0]
    for name, one in found.items():
        np.testing.assert_array_equal(one.id, jobs)
        np.testing.assert_array_equal(one.label, log.jobs.label[jobs])
        np.testing.assert_allclose(one.probabilities.sum(1), 1, atol=1e-5, err_msg=name)
        assert one.running.shape == (len(jobs), 1, 3) and not one.running.any()
        assert one.probabilities.dtype == np.float32 and one.id.dtype == np.int32
        assert scores(one, NAMES, BAD)["examples"] == len(jobs)
    same(found, baselines(log, parts(log), "test", NAMES, **QUICK))
    known = known_jobs(log, parts(log)["train"])
    assert (log.jobs.end[known] <= log.jobs.submit[900]).all() and (known < 900).all()
    shares = np.bincount(log.jobs.label[known]) / len(known)
    np.testing.assert_allclose(found["majority"].probabilities, np.tile(shares, (len(jobs), 1)), rtol=1e-6)


def test_learned_models_are_those_of_sklearn(log):
    """Fitted to the training part alone, by hand; of settings, those with the least loss on the validation part."""
    split = parts(log)
    train, held_out = (known_jobs(log, split[name]) for name in ("train", "validation"))
    jobs = np.arange(1200, 1500)
    y, rows = log.jobs.label, log.submitted

    def codes(numbers):
        """Names of the training part in its order of names, rare ones 0."""
        table = []
        for i, name in enumerate(FIELDS):
            own = [log.names[name][c] for c in log.jobs.codes[:900, i]]
            kept = [n for n in log.names[name] if own.count(n) >= 20 and n]
            place = {text: k for k, text in enumerate(kept, 1)}
            table.append([place.get(log.names[name][c], 0) for c in log.jobs.codes[numbers, i]])
        return np.array(table).T

    table = lambda numbers: np.concatenate([rows[numbers], codes(numbers)], 1)
    losses = {}
    for rate, leaves in ((0.2, 4), (0.1, 8)):
        for rounds in range(1, 9):
            model = HistGradientBoostingClassifier(
                learning_rate=rate, max_leaf_nodes=leaves, max_iter=rounds, early_stopping=False, random_state=0
            ).fit(table(train), y[train])
            losses[rate, leaves, rounds] = log_loss(y[held_out], model.predict_proba(table(held_out))), model
    setting = min(losses, key=lambda key: losses[key][0])
    kind = methods.Kind(methods.dense_features, functools.partial(methods.boosting, seed=0), QUICK["boostings"])
    found, chosen = methods.learned(log, split, jobs, kind, 3)
    assert chosen == setting
    np.testing.assert_allclose(found, losses[setting][1].predict_proba(table(jobs)), atol=1e-6)

    hot = lambda numbers: np.concatenate(
        [codes(numbers)[:, i, None] == np.arange(1, 1 + codes(np.arange(1500))[:, i].max()) for i in range(5)], 1
    )
    scaler = make_pipeline(StandardScaler()).fit(rows[:900])
    table = lambda numbers: np.concatenate([np.clip(scaler.transform(rows[numbers]), -6, 6), hot(numbers)], 1)
    models = [LogisticRegression(C=c, max_iter=1000).fit(table(train), y[train]) for c in (0.01, 0.1)]
    best = min(models, key=lambda m: log_loss(y[held_out], m.predict_proba(table(held_out))))
    kind = methods.Kind(methods.sparse_features, methods.regression, QUICK["strengths"])
    found, chosen = methods.learned(log, split, jobs, kind, 3)
    assert chosen == (best.C,)
    np.testing.assert_allclose(found, best.predict_proba(table(jobs)), atol=5e-3)


def test_refitted_on_both_parts_with_the_settings_of_one(log):
    kind = methods.Kind(methods.dense_features, functools.partial(methods.boosting, seed=0), QUICK["boostings"])
    one, chosen = methods.learned(log, parts(log), np.arange(1200, 1500), kind, 3)
    both, again = methods.learned(log, parts(log, "train+validation"), np.arange(1200, 1500), kind, 3)
    assert chosen == again
    assert np.abs(one - both).max() > 0.01
    fixed = kind._replace(settings=(chosen,))
    split = {"train": Part(0, 1200, float(log.jobs.submit[1200]))}
    np.testing.assert_array_equal(both, methods.learned(log, split, np.arange(1200, 1500), fixed, 3)[0])


@pytest.mark.slow
def test_a_made_log_is_learned_up_to_its_true_chances():
    made = list(made_jobs(1, users=8, jobs=3000))
    log = encoded(one.job for one in made)
    found = baselines(
        log, parts_of(log, [0.7, 0.8, 1.0], "train"), "test", NAMES, strengths=((0.01,),), boostings=((0.1, 8, 40),)
    )
    chances = np.array([one.chances for one in made])[found["majority"].id]
    loss = {name: scores(one, NAMES, BAD)["loss"] for name, one in found.items()}
    loss["true"] = scores(found["majority"]._replace(probabilities=chances.astype(np.float32)), NAMES, BAD)["loss"]
    learned = max(loss["gradient boosting"], loss["logistic regression"])
    assert loss["true"] < loss["gradient boosting"] - 0.01
    assert learned < loss["last ended job"] - 0.02 and learned < loss["user's most frequent"] - 0.02
    assert max(loss["last ended job"], loss["user's most frequent"]) < loss["majority"]


def test_large_logs_are_thinned_and_read_in_blocks(log, monkeypatch):
    whole = methods.learned(log, parts(log), np.arange(1200, 1500), kind := methods.Kind(
        methods.dense_features, functools.partial(methods.boosting, seed=0), ((0.2, 4, 8),)), 3)[0]  # fmt: skip
    monkeypatch.setattr(methods, "BLOCK", 70)
    np.testing.assert_array_equal(whole, methods.learned(log, parts(log), np.arange(1200, 1500), kind, 3)[0])
    monkeypatch.setattr(methods, "MOST", 100)
    seen = methods.thinned(known_jobs(log, parts(log)["train"]))
    assert 80 <= len(seen) <= 100 and seen[-1] > 850


# Little to learn from -----------------------------------------------------------------------------------------------------


def test_one_class_alone_is_not_learned():
    log = encoded([job(10.0 * k, 10.0 * k + 1, "completed" if k < 30 else "failed") for k in range(40)])
    found = baselines(log, parts_of(log, [0.5, 0.7, 1.0], "train"), "test", NAMES, **QUICK)
    assert not LEARNED & set(found)
    assert found["majority"].probabilities[0].tolist() == [1, 0, 0]
    assert found["last ended job"].probabilities.argmax(1).tolist() == [0, 0, *[0], *[1] * 9]


def test_class_that_training_has_not_seen():
    status = ["completed", "failed"] * 30 + ["cancelled"] * 20
    log = encoded([job(10.0 * k, 10.0 * k + 1, word, user=f"u{k % 2}") for k, word in enumerate(status)])
    found = baselines(log, parts_of(log, [0.5, 0.7, 1.0], "train"), "test", NAMES, **QUICK)
    for name in LEARNED:
        assert not found[name].probabilities[:, 2].any()
        assert np.isfinite(scores(found[name], NAMES, BAD)["loss"])


def test_without_a_validation_part(log):
    split = parts_of(log, [0.8, 0.8, 1.0], "train")
    assert "validation" not in split
    found = baselines(log, split, "test", NAMES, **QUICK)
    first = {key: value[:1] for key, value in QUICK.items()}
    same(found, baselines(log, split, "test", NAMES, **first))
    with pytest.raises(InputError, match=r"'validation'.*train, test"):
        baselines(log, split, "validation", NAMES)


def test_the_jobs_of_the_validation_part_are_those_of_the_network():
    """Known when the part is over, not later."""
    jobs = [job(k, k + 0.5 if k != 15 else 100, "failed" if k % 3 else "completed") for k in range(30)]
    log = encoded(jobs)
    found = baselines(log, parts_of(log, [0.4, 0.6, 1.0], "train"), "validation", NAMES, **QUICK)
    assert all(one.id.tolist() == [12, 13, 14, 16, 17] for one in found.values())


def test_parts_in_which_no_job_has_ended():
    jobs = [job(k, 1000, "failed" if k % 2 else "completed") for k in range(40)]
    with pytest.raises(InputError, match=r"config.data.parts: no job .* has ended in it"):
        baselines(encoded(jobs), parts(encoded(jobs)), "test", NAMES)
    open_ones = [
        *(one._replace(end=one.submit) for one in jobs[:35]),
        *(o._replace(end=math.nan, status="") for o in jobs[35:]),
    ]
    log = encoded(open_ones)
    with pytest.raises(InputError, match=r"no job of the test part has ended"):
        baselines(log, parts_of(log, [0.8, 0.9, 1.0], "train"), "test", NAMES)


# Real logs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rules_on_atlas(data_root):
    """The accuracies that its README names."""
    path, faults = data_root / "hpc-job-logs" / "LLNL-Atlas-2006-2.1-cln.swf.gz", Faults()
    words = functools.partial(class_of, statuses=STATUSES["swf"], class_names=NAMES, faults=faults)
    jobs = in_order(itertools.chain.from_iterable(read_jobs(path, faults=faults)), faults=faults)
    log = encode(jobs, History(NAMES, words))
    split = parts_of(log, [0.7, 0.8, 1.0], "train+validation")
    known, test = known_jobs(log, split["train"]), np.arange(split["test"].first, split["test"].last)
    shares, label = np.bincount(log.jobs.label[known]) / len(known), log.jobs.label[test]
    right = lambda p: accuracy_score(label, p.argmax(1))
    assert accuracy_score(label, np.full(len(test), shares.argmax())) == pytest.approx(0.451, abs=1e-3)
    assert right(most_frequent(log, test, shares)) == pytest.approx(0.564, abs=2e-3)
    assert right(last_ended(log, test, known, NAMES, shares)) == pytest.approx(0.699, abs=2e-3)
    names = Steps(log, facts_of(log, split["train"], 20), np.zeros(1)).facts.names
    assert len(names["user"]) > 50 and len(names["program"]) > 100
