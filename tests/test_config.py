import pytest
from ml_collections import ConfigDict

from common import config as configs
from common.errors import InputError

FILE = """
from common.config import placeholder, variants
from ml_collections import ConfigDict
def get_config(variant=""):
    names = variants(variant, {"smoke", "big"})
    model = {"width": 8, "rate": 0.1, "norm": "batch", "deep": True, "sides": [1, 2], "limit": placeholder(int)}
    config = ConfigDict({"seed": 0, "model": model})
    if "big" in names:
        config.model.width = 64
    return config
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "c.py").write_text(FILE)
    return str(tmp_path / "c.py")


def test_overrides_take_the_type_of_their_key(path):
    texts = {
        "model.width": "16",
        "model.rate": "1e-3",
        "model.deep": "False",
        "model.sides": "[3, 4]",
        "model.limit": "7",
    }
    model = configs.load_config(path, texts).model
    assert (model.width, model.rate, model.deep, model.sides, model.limit) == (16, 1e-3, False, [3, 4], 7)
    assert configs.load_config(path, {"model.sides": "5,6"}).model.sides == [5, 6]
    assert isinstance(configs.load_config(path, {"model.rate": "1"}).model.rate, float)


def test_variants_combine(path):
    assert configs.load_config(f"{path}:big,smoke").model.width == 64


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("model.widht", "3", "model.widht.*did you mean 'width'"),
        ("modle.width", "3", "did you mean 'model'"),
        ("model.width", "1.5", "model.width=1.5: expected int, like 8"),
        ("model.width", "abc", "expected int"),
        ("model.deep", "yes", "expected bool"),
        ("model.sides", "abc", "expected list"),
        ("model.sides", '["a"]', "expected list"),
        ("model.limit", "x", "expected int"),
        ("model", "3", "is a section; set one of its keys: .*width"),
        ("model.width.x", "3", "there is no key"),
    ],
)
def test_wrong_overrides_name_key_value_and_cure(path, key, text, message):
    with pytest.raises(InputError, match=message) as error:
        configs.load_config(path, {key: text})
    assert "\n" not in str(error.value)


def test_wrong_file_and_variant(path):
    with pytest.raises(InputError, match="no such file"):
        configs.load_config("configs/none.py")
    with pytest.raises(InputError, match="'smok'.*did you mean 'smoke'"):
        configs.load_config(f"{path}:smok")


def test_sections_become_plain_hashable_arguments(path):
    section = configs.kwargs(configs.load_config(path).model)
    assert section["sides"] == (1, 2)
    assert "limit" not in section  # an unset placeholder leaves the function its own default
    hash(tuple(section.items()))


def test_a_key_that_nothing_reads_cannot_run():
    def function(*, width=1, depth=2):
        return width * depth

    assert configs.call(function, "model", {"width": 3}) == 6
    with pytest.raises(InputError, match="config.model.dept: .*did you mean 'depth'"):
        configs.call(function, "model", {"dept": 3})


@pytest.mark.parametrize(
    ("text", "steps"),
    [("300 steps", 300), ("1 step", 1), ("2 epochs", 25), ("1000 examples", 125), ("5%", 50), ("0.5 epochs", 7)],
)
def test_durations(text, steps):
    assert configs.steps(text, examples=100, batch_size=8, total=1000) == steps


@pytest.mark.parametrize("text", ["ten steps", "5", "5 %%", "5 hours", ""])
def test_wrong_durations(text):
    with pytest.raises(InputError, match="expected a duration like"):
        configs.steps(text, examples=100, batch_size=8, total=1000)


def test_json_round_trip_and_difference(path):
    config = configs.load_config(path)
    again = configs.from_json(configs.to_json(config))
    assert configs.difference(again, config) == []
    config.model.width = 9
    assert configs.difference(again, config) == ["model.width: 8 -> 9"]


def test_what_may_differ_on_resuming():
    old = ConfigDict({"loop": {"log": 1}, "mesh": {"devices": 1}, "data": {"root": "a", "threads": 1, "crop": 2}})
    new = ConfigDict({"loop": {"log": 2}, "mesh": {"devices": 8}, "data": {"root": "b", "threads": 4, "crop": 3}})
    assert configs.difference(old, new) == ["data.crop: 2 -> 3"]
