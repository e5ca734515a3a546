"""Decoding: filters and frequencies against NumPy, greedy against step by step, prompts of any length, the command line."""

import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from experiments import sample, train
from lstm import decode
from lstm.data import text
from lstm.language_model import LanguageModel

V = 11


@pytest.fixture(scope="module")
def net_and_params():
    net = LanguageModel(vocabulary=V, embed=6, hidden=(8, 7))
    params = net.init({"params": jax.random.key(0)}, jnp.zeros((1, 2), jnp.int32))["params"]
    return net, jax.tree.map(lambda x: x * 3, params)  # logits that differ clearly


def joined(net, params, prompts, **how):
    return np.concatenate(list(decode.generate(net, params, prompts, **how)), axis=1)


def filtered(logits, temperature, top_k, top_p):
    """The distribution of one row, in NumPy, token by token from the likeliest."""
    p = np.exp(logits / temperature - (logits / temperature).max())
    p /= p.sum()
    order = np.argsort(-p)
    kept = order[: top_k or len(p)]
    share = p[kept] / p[kept].sum()
    count = int(np.searchsorted(np.cumsum(share), top_p - 1e-9)) + 1
    result = np.zeros_like(p)
    result[kept[:count]] = p[kept[:count]]
    return result / result.sum()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1.0, 0, 1.0),
        (0.5, 0, 1.0),
        (2.0, 0, 1.0),
        (1.0, 3, 1.0),
        (1.0, 0, 0.6),
        (0.7, 4, 0.8),
        (1.0, 1, 1.0),
        (1.0, 0, 1e-6),
    ],
)
def test_tokens_are_drawn_with_the_probabilities_that_are_asked_for(temperature, top_k, top_p):
    logits = np.random.default_rng(5).normal(size=V).astype(np.float32) * 1.5
    expected = filtered(logits.astype(np.float64), temperature, top_k, top_p)
    draws = 20_000
    rows = jnp.broadcast_to(jnp.asarray(logits)[None], (draws, V))
    drawn = decode.sample(jax.random.split(jax.random.key(1), draws), rows, temperature, top_k or V, top_p)
    found = np.bincount(np.asarray(drawn), minlength=V) / draws
    assert set(np.flatnonzero(found)) <= set(np.flatnonzero(expected))
    np.testing.assert_allclose(found, expected, atol=4 * np.sqrt(0.25 / draws))
    if not top_k and top_p == 1:
        plain = decode.sample(jax.random.split(jax.random.key(1), draws), rows, temperature, V, 1.0, filtered=False)
        np.testing.assert_array_equal(plain, drawn)


def test_filters_take_each_row_on_its_own_and_keep_ties():
    logits = jnp.array([[0.0, 2.0, 1.0, 2.0], [9.0, 0.0, 0.0, 0.0]])
    kept = np.isfinite(decode.keep_likeliest(logits, 1, 1.0))
    assert kept.tolist() == [[False, True, False, True], [True, False, False, False]]
    kept = np.isfinite(decode.keep_likeliest(logits, 4, 0.9))
    assert kept.tolist() == [[False, True, True, True], [True, False, False, False]]


def test_greedy_decoding_is_argmax_step_by_step(net_and_params):
    net, params = net_and_params
    prompt = [3, 1, 4]
    found = joined(net, params, [prompt], length=40, temperature=0)
    apply = jax.jit(lambda tokens: net.apply({"params": params}, tokens)[0])
    tokens = np.zeros((1, 43), np.int32)
    tokens[0, :3] = prompt
    for place in range(3, 43):
        tokens[0, place] = np.argmax(apply(tokens)[0, place - 1])  # the whole text again each time: no carry
    np.testing.assert_array_equal(found[0], tokens[0, 3:])


def test_prompts_of_unlike_length_are_read_as_if_alone(net_and_params):
    net, params = net_and_params
    prompts = [[1], [2, 3, 4, 5, 6], [7, 8, 9]]
    together = joined(net, params, prompts, length=10, temperature=0)
    for row, prompt in zip(together, prompts, strict=True):
        np.testing.assert_array_equal(joined(net, params, [prompt], length=10, temperature=0)[0], row)
    logits, _ = decode.read_prompt(net, params, np.array([[2, 3, 4, 5, 6, 0, 0, 0]]), np.array([5]))
    whole, _ = net.apply({"params": params}, jnp.array([[2, 3, 4, 5, 6]]))
    np.testing.assert_allclose(logits[0], whole[0, -1], atol=1e-5)


def test_a_text_is_a_function_of_its_seed_and_row(net_and_params):
    net, params = net_and_params
    how = {"temperature": 1.0, "seed": 7}
    long = joined(net, params, [[1], [1], [1]], length=decode.CHUNK * 2 + 5, **how)
    assert long.shape == (3, decode.CHUNK * 2 + 5)
    np.testing.assert_array_equal(
        joined(net, params, [[1]], length=decode.CHUNK + 3, **how)[0], long[0, : decode.CHUNK + 3]
    )
    assert not np.array_equal(long[0], long[1])
    assert not np.array_equal(long, joined(net, params, [[1], [1], [1]], length=decode.CHUNK * 2 + 5, temperature=1.0))


def test_every_place_and_row_has_a_draw_of_its_own(net_and_params):
    net, params = net_and_params
    even = jax.tree.map(jnp.zeros_like, params)  # every token is as likely at every place
    drawn = joined(net, even, [[1]] * 8, length=decode.CHUNK * 8, temperature=1.0)
    share = np.bincount(drawn.reshape(-1), minlength=V) / drawn.size
    np.testing.assert_allclose(share, 1 / V, atol=4 * np.sqrt(1 / V / drawn.size))
    pairs = [
        (drawn[0], drawn[1]),
        (drawn[:, :-1], drawn[:, 1:]),
        (drawn[:, : decode.CHUNK], drawn[:, decode.CHUNK :][:, : decode.CHUNK]),
    ]
    assert all(np.mean(a == b) < 0.2 for a, b in pairs)


def test_forbidden_tokens_are_never_drawn(net_and_params):
    net, params = net_and_params
    allowed = np.arange(V) % 2 == 0
    for how in ({"temperature": 5.0}, {"temperature": 0}, {"temperature": 1.0, "top_k": 2}):
        assert set(np.unique(joined(net, params, [[1], [2]], length=64, allowed=allowed, **how))) <= {0, 2, 4, 6, 8, 10}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0: use 0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": -2}, "top_k=-2"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"length": 0}, "length=0"),
    ],
)
def test_values_out_of_range_are_refused(net_and_params, how, message):
    with pytest.raises(InputError, match=message) as error:
        joined(*net_and_params, [[1]], **{"length": 5, **how})
    assert "\n" not in str(error.value)


# The command line


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished smoke run by characters."""
    workdir = tmp_path_factory.mktemp("runs") / "characters"
    words = ["--config", "configs/lstm_source_text.py:smoke", "--workdir", str(workdir), "--quiet"]
    assert train.main([*words, "--config.mesh.devices=1"]) == 0
    return workdir


def sampled(capsys, run, *words):
    assert sample.main(["--workdir", str(run), *words]) == 0
    return capsys.readouterr().out


def test_a_text_begins_with_its_prompt_and_is_as_long_as_asked(run, capsys, tmp_path):
    out = sampled(capsys, run, "--prompt", "the old ", "--length", "70")
    assert out.startswith("the old ") and len(out) == 8 + 70 + 1
    assert set(out) <= set("".join(" ".join(words) for words in text.MADE)) | {"\n"}
    assert out == sampled(capsys, run, "--prompt", "the old ", "--length", "70")
    assert out != sampled(capsys, run, "--prompt", "the old ", "--length", "70", "--seed", "1")
    (tmp_path / "prompt.txt").write_text("the old ")
    assert out == sampled(capsys, run, "--prompt_file", str(tmp_path / "prompt.txt"), "--length", "70")
    assert len(sampled(capsys, run, "--length", "10")) == 11


def test_several_texts_are_numbered_and_the_first_is_that_of_one(run, capsys):
    one = sampled(capsys, run, "--prompt", "a ", "--length", "40")
    several = sampled(capsys, run, "--prompt", "a ", "--length", "40", "--number", "3")
    assert several.startswith(f"--- 1 ---\n{one}--- 2 ---\na ") and "--- 3 ---" in several
    greedy = sampled(
        capsys, run, "--prompt", "a ", "--length", "40", "--number", "2", "--temperature", "0", "--top_k", "5"
    )
    first, second = greedy.removeprefix("--- 1 ---\n").split("--- 2 ---\n")
    assert first == second


def test_chunks_come_as_they_are_drawn(run):
    from common.run import load_run

    chunks = sample.write(load_run(run), "a ", "--prompt", 1, length=decode.CHUNK * 2, temperature=1.0)
    assert [len(next(chunks)[0]) for _ in range(3)] == [2, decode.CHUNK, decode.CHUNK]


def test_a_prompt_that_the_model_cannot_read_is_said_in_one_line(run, tmp_path, python):
    command = [python, "-m", "experiments.sample", "--workdir", str(run), "--prompt", "the Öld"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: --prompt: the character 'Ö' (line 1, column 5) is not in the vocabulary of 24"
    )
    assert done.stderr.count("\n") == 1 and not done.stdout
    for words, message in (
        (["--prompt_file", str(tmp_path / "none.txt")], "none.txt: cannot be read"),
        (["--number", "0"], "--number 0"),
        (["--top_p", "2"], "top_p=2.0"),
        (["--workdir", str(tmp_path)], "no run here"),
    ):
        with pytest.raises(InputError, match=message):
            sample.main(["--workdir", str(run), *words])


def test_words_are_joined_by_blanks_and_lines_end_at_eos():
    vocabulary = text.make_vocabulary([("a", "x y z\n")], "words")
    place = {word: i for i, word in enumerate(vocabulary.entries)}
    assert text.decode(vocabulary, [place[w] for w in ("x", "y", "<eos>", "z", "<eos>")]) == "x y\nz\n"
