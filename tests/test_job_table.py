"""The table of methods: leads, intervals and new users, against a case small enough to see through."""

import numpy as np
import pytest

from common.errors import InputError
from experiments.baselines import forecasts
from lstm import job_table
from lstm.data.job_events import encode
from lstm.data.job_history import WEEK, History
from lstm.data.job_windows import parts_of
from lstm.data.jobs import Job
from lstm.job_scores import Forecasts

NAMES = ("fine", "bad")


def job(number, user, word):
    times = (number * WEEK / 4, number * WEEK / 4 + 1, number * WEEK / 4 + 60)
    return Job(str(number), *times, word, 1.0, 60.0, 1.0, user, "", "p", "", "", "")


def log_of(users, words):
    jobs = [job(i, user, word) for i, (user, word) in enumerate(zip(users, words, strict=True))]
    return encode(jobs, History(NAMES, lambda word: NAMES.index(word) if word else -1))


def sure(ids, labels, right):
    """Forecasts that are right where `right` says so, each with probability 0.9."""
    said = np.where(right, labels, 1 - np.asarray(labels))
    probabilities = np.where(np.arange(2) == said[:, None], 0.9, 0.1).astype(np.float32)
    return Forecasts(np.asarray(ids), np.asarray(labels), probabilities, probabilities[:, None])


def test_leads_and_new_users():
    users = ["a"] * 5 + ["a", "a", "new", "new", "a"]
    words = ["fine", "bad"] * 5
    log = log_of(users, words)
    train = parts_of(log, [0.4, 0.5, 1.0], "train")["train"]
    ids, labels = np.arange(5, 10), log.jobs.label[5:10]
    ours = sure(ids, labels, np.array([1, 1, 1, 0, 1], bool))
    other = sure(ids, labels, np.array([1, 0, 1, 1, 0], bool))
    rows = job_table.table({"other": other, "ours": ours}, "ours", log, train, NAMES, ("bad",))
    assert rows["ours"]["accuracy"] == pytest.approx(4 / 5)
    assert rows["other"]["lead/accuracy"] == pytest.approx(1 / 5)
    assert not any(name.startswith("lead/") for name in rows["ours"])
    # Users a (3 of 3 jobs right against 1) and new (1 of 2 against 2): a draw of users is one of them twice, or both.
    assert rows["other"]["lead/accuracy/low"] == pytest.approx(-1 / 2)
    assert rows["other"]["lead/accuracy/high"] == pytest.approx(2 / 3)
    assert rows["ours"]["accuracy/new_users"] == pytest.approx(1 / 2) and rows["ours"]["examples/new_users"] == 2
    assert rows["other"]["accuracy/new_users"] == pytest.approx(1.0)


def test_groups():
    log = log_of(["a", "b", "a", "c", "b"], ["fine", "bad", "fine", "bad", "fine"])
    users, weeks, new = job_table.groups_of(log, np.array([2, 3, 4]), parts_of(log, [0.4, 0.4, 1.0], "train")["train"])
    assert users[0] != users[1] != users[2] != users[0]
    np.testing.assert_array_equal(weeks, [0, 0, 1])
    np.testing.assert_array_equal(new, [False, True, False])


def test_forecasts_are_put_in_order(tmp_path):
    arrays = {"id": [7, -1, 3, 5], "label": [0, 0, 1, -1], "probabilities": np.eye(2)[[0, 0, 1, 1]]}
    arrays["running"] = arrays["probabilities"][:, None]
    np.savez(tmp_path / "evaluation-test.npz", **{f"forecasts.{name}": np.asarray(x) for name, x in arrays.items()})
    found = forecasts(tmp_path, "test")
    np.testing.assert_array_equal(found.id, [3, 7])
    np.testing.assert_array_equal(found.label, [1, 0])
    with pytest.raises(InputError, match=r"evaluation-validation.npz is missing; experiments.evaluate"):
        forecasts(tmp_path, "validation")
