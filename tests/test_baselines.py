"""The baselines against cases whose answer is known."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from unet.baselines import baselines, fit_table, pixel_features, score
from unet.brain import brain_source
from unet.scores import scores as unet_scores


@pytest.fixture(autouse=True)
def one_thread():
    """OpenMP's threads spin while they wait: beside other tests one is faster than two."""
    with threadpool_limits(1):
        yield


class Blobs:
    """Two classes: told apart by intensity, or by texture alone (equal means, other grain)."""

    def __init__(self, kind, count=8, seed=0):
        self.kind, self.count, self.seed = kind, count, seed

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng((self.seed, index))
        label = np.zeros((48, 48), np.int32)
        top, left = rng.integers(4, 20, 2)
        label[top : top + 22, left : left + 22] = 1
        image = rng.normal(size=(48, 48, 1))
        image = image + 6 * label[..., None] if self.kind == "intensity" else image * (1 + 3 * label[..., None])
        label[:3] = 255
        return {"image": image.astype(np.float32), "label": label}


def fitted(kind):
    options = {"class_names": ["a", "b"], "images": 6, "pixels": 300, "rounds": 8}
    return baselines(Blobs(kind), Blobs(kind, count=4, seed=1), **options)


def test_intensity_is_enough_for_both_where_it_tells():
    found = fitted("intensity")
    assert found["intensity table"]["dice/foreground"] > 0.97
    assert found["gradient boosting"]["dice/foreground"] > 0.97


def test_texture_needs_features():
    found = fitted("texture")
    assert found["intensity table"]["dice/foreground"] < 0.8
    assert found["gradient boosting"]["dice/foreground"] > 0.9


def test_the_same_twice():
    assert fitted("texture") == fitted("texture")


def test_scores_are_those_of_the_network():
    source, predict = Blobs("intensity", count=3), lambda values: (values[:, 0] > 0.1).astype(int)
    found = score(source, lambda image: image, predict, ["a", "b"])
    matrix = np.zeros((2, 2), int)
    for i in range(3):
        example = source[i]
        known = example["label"] != 255
        np.add.at(matrix, (example["label"][known], (example["image"][..., 0] > 0.1)[known].astype(int)), 1)
    expected = unet_scores(matrix[None], ["a", "b"], 0)
    assert abs(found["dice/foreground"] - expected["dice/foreground"]) < 1e-9
    assert abs(found["accuracy"] - expected["accuracy"]) < 1e-9


def test_features_know_no_gain_or_offset():
    image = Blobs("intensity")[0]["image"]
    assert np.allclose(pixel_features(image), pixel_features(3 * image - 5), atol=1e-4)


def test_table_is_the_most_frequent_class_of_an_intensity():
    x = np.repeat(np.arange(4, dtype=np.float32), 100)[:, None]
    y = np.repeat([0, 2, 1, 2], 100)
    y[::10] = 1
    assert fit_table(x, y)(np.array([[0.0], [1.0], [2.0], [3.0], [9.0]])).tolist() == [0, 2, 1, 2, 2]


def test_intensity_does_not_give_brain_tissue_away():
    train, test = (brain_source(split, downsample=4, draws=2) for split in ("train", "test"))
    found = baselines(
        train, test, class_names=["background", "grey", "white", "other"], images=40, pixels=150, rounds=10
    )
    assert found["intensity table"]["dice/foreground"] < 0.7
    assert found["gradient boosting"]["dice/foreground"] < 0.8
