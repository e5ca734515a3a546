"""Made passages: their truth derived again from the words alone; the task's numbers beside loops."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2_contingency

from common.config import kwargs, load_config
from common.errors import InputError
from common.metrics import Mean
from experiments.tasks import make_task
from lstm.data import sentence_baselines, sentences
from lstm.tasks import sentences as task

CONFIG = "configs/lstm_sentences.py:smoke"
MEN, WOMEN = sentences.NAMES
ANY_TOPIC = {word: place for place, (topic, words) in enumerate(sentences.TOPICS.items()) for word in (topic, *words)}


def made(count, split="train"):
    source = sentences.Passages(split)
    return [source.passage(i) for i in range(count)]


def gender_of(name):
    return 0 if name in MEN else 1


def told_again(text):
    """(gender, topic, old, heard) after each sentence, and [(kind, true answer, words since it was told)], by patterns over
    the text alone."""
    gender = topic = old = heard = -1
    told = {}  # place of the last word that told gender or topic
    after, asked, place = [], [], 0
    for sentence in re.findall(r"[^.]+ \.", text):
        words = sentence.split()

        def at(word, words=words, place=place):
            return place + words.index(word)

        first = re.search(r"(\S+) is my|^ ?my \S+ , (\S+) ,", sentence)
        later = re.match(r" ?(his|her) (\S+) , (\S+) ,", sentence)
        clue = re.match(r" ?(he|she) (?:went to|works as a) (\S+)", sentence)
        question = re.search(r"(he|she) has a passion for (\S+)", sentence)
        if later:
            asked.append(("whose", later[1], place - told["gender"]))
            assert later[1] == ("his", "her")[gender]
            old = topic
        if first or later:
            name = later[3] if later else first[1] or first[2]
            gender, topic = gender_of(name), -1
            told["gender"] = at(name)
            if later:
                assert later[2] not in sentences.KIN[1 - gender]
            profession = re.search(r", is a (\S+)", sentence)
            if profession:
                topic, told["topic"] = ANY_TOPIC[profession[1]], at(profession[1])
        elif clue or question:
            who = (clue or question)[1]
            asked.append(("who", who, at(who) - told["gender"]))
            assert who == ("he", "she")[gender]
            told["gender"] = at(who)
            if clue:
                topic, told["topic"] = ANY_TOPIC[clue[2]], at(clue[2])
            else:
                asked.append(("topic", question[2], at(question[2]) - told["topic"]))
                assert ANY_TOPIC[question[2]] == topic
                told["topic"] = at(question[2])
        else:
            for word in words:
                heard = ANY_TOPIC.get(word, heard)
        place += len(words)
        after.append((place - 1, gender, topic, old, heard))
    return after, asked


def test_truth_follows_from_the_words():
    for passage in made(120):
        words = [sentences.VOCABULARY[w] for w in passage.words]
        after, asked = told_again(" ".join(words))
        for place, *facts in after:
            assert [passage.facts[name][place] for name in sentences.FACTS] == facts, (" ".join(words[: place + 1]),)
        places = np.flatnonzero(passage.question)
        kinds = {sentences.SUBJECT: "who", sentences.POSSESSIVE: "whose", sentences.TOPIC: "topic"}
        lags = sentences.lags(passage)
        assert [(kinds[passage.question[t]], words[t], lags[t]) for t in places] == asked
        assert (lags[passage.question == 0] == 0).all()


def test_ages_count_from_the_last_telling():
    for passage in made(50):
        for name in sentences.FACTS:
            fact, age = passage.facts[name], passage.ages[name]
            assert ((age >= 0) == (fact >= 0)).all()
            grown = age[1:] == age[:-1] + 1
            assert (grown | (age[1:] <= 0)).all()
            assert (fact[1:] == fact[:-1])[grown & (fact[:-1] >= 0)].all()  # a fact changes only where it is told


def test_a_passage_is_a_function_of_seed_split_and_number():
    first, again = sentences.Passages("train")[7], sentences.Passages("train", passages=9)[7]
    assert all((first[name] == again[name]).all() for name in first)
    others = [
        sentences.Passages("train", seed=1)[7],
        sentences.Passages("validation")[7],
        sentences.Passages("train")[8],
    ]
    assert all((first["tokens"] != other["tokens"]).any() for other in others)
    texts = [{tuple(p.words) for p in made(150, split)} for split in sentences.SPLITS]
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])


def test_rows_are_padded_and_distances_vary():
    source = sentences.Passages("train", length=128)
    for i in range(20):
        row, passage = source[i], source.passage(i)
        count = row["count"]
        assert row["tokens"].shape == (128,) and count == len(passage.words) <= 128
        assert (row["tokens"][:count] == passage.words).all() and (row["tokens"][:count] > 0).all()
        assert not row["tokens"][count:].any() and not row["lag"][count:].any() and not row["question"][count:].any()
    lags = np.concatenate([sentences.lags(p)[p.question == sentences.TOPIC] for p in made(200)])
    assert lags.min() < 10 and lags.max() > 50
    assert all(((lags >= low) & (lags <= high)).mean() > 0.15 for low, high in task.LAGS.values())


def test_words_are_few_and_names_told_apart():
    assert 100 <= len(sentences.VOCABULARY) <= 200 and len(set(sentences.VOCABULARY)) == len(sentences.VOCABULARY)
    assert not set(MEN) & set(WOMEN)
    used = {w for p in made(500) for w in p.words}
    assert used == set(range(1, len(sentences.VOCABULARY)))  # all are said, but the padding


def test_gender_and_topic_do_not_hang_on_anything_else():
    """Independent of the subject before, of the remarks, and of each other: chi square over one question a passage."""
    pairs = {"gender": [], "old": [], "heard": [], "before": []}
    for passage in made(1200):
        facts, known = passage.facts, passage.question == sentences.TOPIC
        for name in ("gender", "old", "heard"):
            places = np.flatnonzero(known & (facts[name] >= 0))
            if len(places):
                pairs[name].append((facts[name][places[0]], facts["topic"][places[0]]))
        for t in np.flatnonzero(passage.question == sentences.POSSESSIVE)[:1]:
            pairs["before"].append((facts["gender"][t], facts["gender"][t + 4]))
    for name, found in pairs.items():
        table = np.zeros(np.max(found, axis=0) + 1)
        np.add.at(table, tuple(np.array(found).T), 1)
        assert len(found) > 400 and chi2_contingency(table).pvalue > 1e-3, name


def test_without_a_memory_there_is_only_chance():
    table = sentence_baselines.baselines(made(200), made(200, "validation"))
    for name in ("bigrams", "trigrams"):
        assert abs(table[name]["accuracy/pronoun"] - 0.5) < 0.08
        assert abs(table[name]["accuracy/topic"] - 0.2) < 0.08
    assert table["trigrams"]["nats_per_token"] < table["bigrams"]["nats_per_token"] < np.log(len(sentences.VOCABULARY))
    assert 0.55 < table["last named"]["accuracy/pronoun"] < 0.95  # remarks name people and topics too
    assert 0.3 < table["last named"]["accuracy/topic"] < 0.75


def test_frequencies_are_those_of_the_counts():
    a, b, c = (sentences.WORDS[w] for w in ("my", "aunt", "visited"))
    counts = {(): np.zeros(len(sentences.VOCABULARY)), (a,): np.zeros(len(sentences.VOCABULARY))}
    counts[()][[a, b, c]] = 5, 3, 2
    counts[(a,)][b] = 4
    size = len(sentences.VOCABULARY)
    single = lambda n: (n + 1 / size) / 11
    assert sentence_baselines.frequencies(counts, (a,))[b] == pytest.approx((4 + single(3)) / 5)
    assert sentence_baselines.frequencies(counts, (c,))[a] == pytest.approx(
        single(5)
    )  # never seen: the shorter context
    assert sentence_baselines.frequencies(counts, (a,)).sum() == pytest.approx(1)


def test_text_and_back():
    for passage in made(30):
        assert (sentences.read(sentences.text(passage.words)) == passage.words).all()
    with pytest.raises(InputError, match="'unicorn'.*not one of the"):
        sentences.read("My unicorn visited me yesterday.")


def batch_of(count=8, split="validation"):
    source = sentences.Passages(split)
    rows = [source[i] for i in range(count)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def test_scores_beside_a_loop():
    """Loss and answers of random logits; the last row is a copy that fills the batch."""
    batch = batch_of()
    batch["mask"] = np.array([1, 1, 1, 1, 1, 1, 1, 0], np.float32)
    logits = np.random.default_rng(0).normal(size=(*batch["tokens"][:, 1:].shape, len(sentences.VOCABULARY)))
    logits = logits.astype(np.float32)
    nats, words, right, asked = 0.0, 0, {}, {}
    for row in range(7):
        for t in range(1, batch["count"][row]):
            target, scores = batch["tokens"][row, t], logits[row, t - 1].astype(float)
            nats += np.log(np.exp(scores).sum()) - scores[target]
            words += 1
            kind = batch["question"][row, t]
            if kind:
                names = {1: ["he", "she"], 2: ["his", "her"], 3: list(sentences.TOPICS)}[kind]
                choice = max(names, key=lambda w, s=scores: s[sentences.WORDS[w]])
                name, lag = "topic" if kind == 3 else "pronoun", batch["lag"][row, t]
                part = "short" if lag <= 10 else "medium" if lag <= 25 else "long"
                for key in (f"accuracy/{name}", f"accuracy/{name}/{part}"):
                    asked[key] = asked.get(key, 0) + 1
                    right[key] = right.get(key, 0) + (sentences.WORDS[choice] == target)
    batch = {name: jnp.asarray(x) for name, x in batch.items()}
    total, count = task.token_loss(jnp.asarray(logits), batch["tokens"][:, 1:], task.words_that_count(batch))
    found = jax.device_get(task.answers(jnp.asarray(logits), batch))
    assert float(count) == words and float(total) == pytest.approx(nats, rel=1e-5)
    passages = Mean(np.float32(7), np.float32(7))
    scores = task.score({"loss": Mean(total, count), "answers": found, "passages": passages})
    for name in asked:
        assert scores[name] == pytest.approx(right[name] / asked[name]), name
    assert scores["examples"] == 7 and len(asked) == 8
    twice = found.merge(found)
    assert (twice.right == 2 * found.right).all() and (twice.asked == 2 * found.asked).all()


def test_answers_weigh_more_in_training_alone():
    """The training loss is the plain one and answer_weight - 1 times the nats of the answers; evaluation has the plain one."""
    config = load_config(CONFIG)
    batch = {name: jnp.asarray(x) for name, x in batch_of().items()}
    params, _ = make_task(config).init(jax.random.key(0), batch)
    config.task.answer_weight = 1.0
    plain = make_task(config)
    config.task.answer_weight = 5.0
    heavy = make_task(config)
    net = task.language_model(kwargs(config.model))
    chances = np.asarray(jax.nn.softmax(net.apply({"params": params}, batch["tokens"][:, :-1])[0]), np.float64)
    targets, asked = np.asarray(batch["tokens"])[:, 1:], np.asarray(batch["question"])[:, 1:] > 0
    nats = -np.log(np.take_along_axis(chances, targets[..., None], axis=-1)[..., 0])[asked].sum()
    (total, count, *_), (more, counted, *_) = (t.loss(params, {}, batch, jax.random.key(1)) for t in (plain, heavy))
    assert float(more - total) == pytest.approx(4 * nats, rel=1e-4) and float(counted - count) == 4 * asked.sum()
    batch["mask"] = jnp.ones(len(targets))
    assert float(heavy.evaluate(params, {}, batch)["loss"].total) == pytest.approx(float(total), rel=1e-6)


def test_padding_and_what_comes_later_change_nothing():
    config = load_config(CONFIG)
    made_task = make_task(config)
    batch = {name: jnp.asarray(x) for name, x in batch_of().items()}
    params, _ = made_task.init(jax.random.key(0), batch)
    total, count, *_ = made_task.loss(params, {}, batch, jax.random.key(1))
    noise = np.where(np.arange(128)[None] < np.asarray(batch["count"])[:, None], batch["tokens"], 5)
    other, same, *_ = made_task.loss(params, {}, {**batch, "tokens": jnp.asarray(noise)}, jax.random.key(1))
    assert float(count) == float(same) and float(total) == float(other)


def test_configs_say_what_is_wrong():
    for overrides, words in (
        ({"data.length": "20"}, "config.data.length=20: passages need room for 48 words"),
        ({"data.passages": "0"}, "config.data.passages=0: at least 1"),
    ):
        with pytest.raises(InputError, match=words):
            make_task(load_config(CONFIG, overrides))
    config = load_config(CONFIG)
    for section, key in (("model", "vocabulary"), ("augment", "flip"), ("task", "loss"), ("data", "legth")):
        with config.copy_and_resolve_references().unlocked() as changed:
            changed[section][key] = 3
            with pytest.raises(InputError, match=f"config.{section}.{key}"):
                make_task(changed)
    with pytest.raises(InputError, match="'tset'"):
        sentences.Passages("tset")


def test_likely_words():
    apply = lambda tokens: jax.nn.one_hot(tokens + 1, len(sentences.VOCABULARY)) * 0.75
    first = next(iter(task.likely_words(apply, "Steve is my co-worker").items()))
    assert first == (sentences.VOCABULARY[sentences.WORDS["co-worker"] + 1], 0.75)
