"""What the questions of made passages give away without a memory: n-grams, and whoever was named last."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int

from lstm.data.sentences import (
    KIN,
    NAMES,
    POSSESSIVE,
    POSSESSIVES,
    PRONOUNS,
    SUBJECT,
    TOPIC,
    TOPICS,
    VOCABULARY,
    WORDS,
    Passage,
    choices,
)

Predict = Callable[[Passage, int], Float[np.ndarray, " V"]]


def baselines(train: Sequence[Passage], test: Sequence[Passage]) -> dict[str, dict[str, float]]:
    """What can be had without a memory: accuracy on the questions of `test`, and nats per token.

    chance; the frequencies of words after the last one or two words of `train` (each smoothed by the shorter context, with
    the weight of one observation); and whoever or whatever was named last, whether it matters or not.
    """
    table = {"chance": {"accuracy/pronoun": 1 / len(PRONOUNS), "accuracy/topic": 1 / len(TOPICS)}}
    counts: dict[tuple[int, ...], np.ndarray] = {}
    for made in train:
        for context, word in contexts(made.words):
            for length in range(3):
                row = counts.setdefault(context[2 - length :], np.zeros(len(VOCABULARY)))
                row[word] += 1
    for name, length in (("bigrams", 1), ("trigrams", 2)):
        predict = lambda made, place, n=length: frequencies(counts, tuple(made.words[place - n : place].tolist()))
        losses = [-np.log(predict(made, p)[made.words[p]]) for made in test for p in range(2, len(made.words))]
        table[name] = {**answered(test, predict), "nats_per_token": float(np.mean(losses))}
    table["last named"] = answered(test, last_named)
    return table


def contexts(words: Int[np.ndarray, " n"]) -> Iterable[tuple[tuple[int, ...], int]]:
    """Each word but the first two with the two before it."""
    listed = words.tolist()
    return ((tuple(listed[place - 2 : place]), listed[place]) for place in range(2, len(listed)))


def frequencies(counts: dict[tuple[int, ...], np.ndarray], context: tuple[int, ...]) -> np.ndarray:
    """Probabilities of the next word."""
    shorter = frequencies(counts, context[1:]) if context else np.full(len(VOCABULARY), 1 / len(VOCABULARY))
    seen = counts.get(context)
    return shorter if seen is None else (seen + shorter) / (seen.sum() + 1)


def last_named(made: Passage, place: int) -> np.ndarray:
    """1 for the words of a question's choice that fit the person or topic that was named last, said by whomever."""
    found = np.zeros(len(VOCABULARY))
    for word in reversed(made.words[:place].tolist()):
        if word in NAMED[made.question[place]]:
            found[NAMED[made.question[place]][word]] = 1
            break
    return found


def answered(test: Sequence[Passage], predict: Predict) -> dict[str, float]:
    """Accuracy of predict(passage, place) -> a score for each word. A tie counts for the share of it that is right."""
    right: dict[str, list[float]] = {"pronoun": [], "topic": []}
    for made in test:
        for place in np.flatnonzero(made.question).tolist():
            among = np.where(CHOICES[made.question[place]], predict(made, place), -1)
            best = among == among.max()
            name = "topic" if made.question[place] == TOPIC else "pronoun"
            right[name].append(best[made.words[place]] / best.sum())
    return {f"accuracy/{name}": float(np.mean(values)) for name, values in right.items()}


def named() -> dict[int, dict[int, int]]:
    """For each kind of question: words that name a gender or a topic, and the answer that they suggest."""
    people = ([*NAMES[0], *KIN[0], "he", "his", "man", "uncle", "grandfather"],)
    people += ([*NAMES[1], *KIN[1], "she", "her", "woman", "aunt", "grandmother"],)
    table: dict[int, dict[int, int]] = {SUBJECT: {}, POSSESSIVE: {}, TOPIC: {}}
    for gender, words in enumerate(people):
        table[SUBJECT] |= {WORDS[w]: WORDS[PRONOUNS[gender]] for w in words}
        table[POSSESSIVE] |= {WORDS[w]: WORDS[POSSESSIVES[gender]] for w in words}
    for topic, words in TOPICS.items():
        table[TOPIC] |= {WORDS[w]: WORDS[topic] for w in (topic, *words)}
    return table


CHOICES, NAMED = choices(), named()
