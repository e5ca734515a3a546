import numpy as np

from common.metrics import Calibration, Confusions, Mean, merge


def test_mean_of_a_ragged_last_batch_is_the_mean_of_all():
    values = np.random.default_rng(0).normal(size=11)
    parts = [Mean(values[i : i + 4].sum(), len(values[i : i + 4])) for i in range(0, 11, 4)]
    merged = None
    for part in parts:
        merged = merge(merged, {"loss": part})
    assert np.isclose(merged["loss"].compute(), values.mean(), rtol=1e-12)


def test_nothing_counted_is_nan():
    assert np.isnan(Mean(0.0, 0.0).compute())


def test_sums_do_not_round_in_float32():
    big, one = Mean(np.float32(2**24), np.float32(2**24)), Mean(np.float32(1), np.float32(1))
    assert big.merge(one).count == 2**24 + 1


def test_parts_of_an_image_add_up_and_padding_rows_vanish():
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 2**30, (5, 2, 2)).astype(np.int32)
    a = Confusions(np.array([0, 1, 1]), matrix[:3])
    b = Confusions(np.array([1, -1]), matrix[3:])
    merged = a.merge(b)
    np.testing.assert_array_equal(merged.image, [0, 1])
    np.testing.assert_array_equal(merged.matrix[0], matrix[0])
    np.testing.assert_array_equal(merged.matrix[1], matrix[1:4].astype(np.int64).sum(0))


def test_one_batch_alone_is_merged_too():
    matrix = np.arange(16).reshape(4, 2, 2)
    merged = merge(None, {"loss": Mean(1.0, 2.0), "confusions": Confusions(np.array([5, 3, 5, -1]), matrix)})
    np.testing.assert_array_equal(merged["confusions"].image, [3, 5])
    np.testing.assert_array_equal(merged["confusions"].matrix, [matrix[1], matrix[0] + matrix[2]])
    assert merged["loss"] == Mean(1.0, 2.0)


def test_calibrations_add_up_in_float64():
    big = Calibration(*np.full((3, 2), 2**24, np.float32))
    assert big.merge(Calibration(*np.ones((3, 2), np.float32))).count.tolist() == [2**24 + 1] * 2
