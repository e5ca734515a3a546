"""The n-gram baseline against counts by hand, and as a distribution."""

import math

import numpy as np
import pytest

from lstm import ngram


def test_counts_by_hand():
    """'a b a b a' and one token of context; entries a, b, c."""
    train = np.array([0, 1, 0, 1, 0])
    tables = ngram.fit(train, 1, 3)
    alone = {0: (3 + 2 / 3) / 7, 1: (2 + 2 / 3) / 7, 2: (2 / 3) / 7}
    found = np.exp(ngram.log_probabilities(tables, np.array([0, 1, 2]), 3))
    after_a = lambda w, count: (count + 2 * alone[w]) / (3 + 2)  # a a (the start counts as a), a b, a b
    assert found[0] == pytest.approx(after_a(0, 1))
    assert found[1] == pytest.approx(after_a(1, 2))
    assert found[2] == pytest.approx((0 + 1 * alone[2]) / (2 + 1))  # after b only a was seen


def test_probabilities_sum_to_one():
    rng = np.random.default_rng(0)
    tables = ngram.fit(rng.integers(0, 4, 300), 3, 5)
    head = rng.integers(0, 5, 6)
    total = sum(np.exp(ngram.log_probabilities(tables, np.append(head, w), 5)[-1]) for w in range(5))
    assert total == pytest.approx(1)


def test_it_learns_a_pattern_and_picks_its_order():
    text = np.tile([0, 1, 2, 0, 2, 1], 200)
    result = ngram.baseline(text, text[:60], text[:60], 3)
    assert result["nats_per_token"] < 0.2 < math.log(3)
    with pytest.raises(ValueError, match="64 bits"):
        ngram.fit(text, 9, 200)
