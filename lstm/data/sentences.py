"""Made passages whose truth is known, after the lecture: "Steve is my co-worker. His wife, Lauren, is a chef. ..."

A passage has a subject with a gender and, once a clue has told it, a topic. A new subject replaces the old one, whose
topic is then of no more use. Remarks that do not matter stand between, as many as chance wants; they name people and
topics too, so that no word alone says what matters. Two kinds of words can only be known from memory: the pronoun
of the subject, and the topic that the subject "has a passion for".

Gender, topic, names and remarks are drawn independently of each other.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from common.errors import InputError

TOPICS = {  # each with its profession and its school
    "cooking": ("chef", "culinary"),
    "painting": ("painter", "art"),
    "singing": ("singer", "music"),
    "flying": ("pilot", "aviation"),
    "medicine": ("doctor", "medical"),
}
NAMES = (  # of men, of women
    ("Steve", "Peter", "Martin", "David", "Thomas", "Paul", "Frank", "George", "Simon", "Henry"),
    ("Lauren", "Anna", "Maria", "Julia", "Susan", "Karen", "Emma", "Laura", "Alice", "Helen"),
)
PRONOUNS, POSSESSIVES = ("he", "she"), ("his", "her")
KIN = (("husband", "brother", "father", "son"), ("wife", "sister", "mother", "daughter"), ("friend", "partner"))
RELATIONS = ("co-worker", "neighbour", "boss", "tenant", "dentist")
TELLERS = ("cousin", "aunt", "uncle", "grandmother", "grandfather", "teacher")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
TIMES = ("last week", "last month", "last year", "yesterday", "this morning", "a while ago")
CITIES = ("Berlin", "Oxford", "Vienna", "Dublin", "Prague")
SHOPS = ("bakery", "library", "market", "museum")
GAPS = (0,) * 8 + (1, 5, 6, 10, 12, 16, 19, 23, 27, 30, 33, 36, 39, 42, 45, 45)  # words, at least

SUBJECT, POSSESSIVE, TOPIC = 1, 2, 3  # kinds of questions: he or she, his or her, which topic
FACTS = ("gender", "topic", "old", "heard")
SPLITS = ("train", "validation", "test")
SHORTEST = 48  # words that a passage must have room for

Pick = Callable[[Sequence], Any]
Token = tuple[str, tuple[tuple[str, int], ...]]  # a word, and what it tells


class Passage(NamedTuple):
    """Words and their truth, all int32 [n]; a fact is -1 where there is none.

    facts[name][t]: as it is after word t. gender: of the subject, 0 he, 1 she. topic: of the subject, a place in TOPICS.
    old: the topic of the subject before this one. heard: the topic in the last remark that did not matter.
    ages[name][t]: words since the fact was last told (old: since it was replaced), 0 for the word that tells it.
    question[t]: SUBJECT, POSSESSIVE or TOPIC where word t is an answer, else 0.
    """

    words: Int[np.ndarray, " n"]
    facts: dict[str, Int[np.ndarray, " n"]]
    ages: dict[str, Int[np.ndarray, " n"]]
    question: Int[np.ndarray, " n"]


def plain(text: str) -> list[Token]:
    return [(word, ()) for word in text.split()]


def chooser(rng: np.random.Generator) -> Pick:
    """pick(options): one of them. It reads numbers drawn at once, which is ten times as fast as drawing one by one."""
    numbers = itertools.chain.from_iterable(rng.random(512).tolist() for _ in itertools.count())
    return lambda options: options[int(next(numbers) * len(options))]


def remark(pick: Pick) -> list[Token]:
    """A sentence that does not matter, 5 to 8 words. It may name somebody's gender, or a topic."""
    topic = pick(range(len(TOPICS)))
    profession, school = list(TOPICS.values())[topic]
    heard = lambda before, word, after: [*plain(before), (word, (("heard", topic),)), *plain(after)]
    kind = pick(range(10))
    if kind == 0:
        return plain(f"it rained in {pick(CITIES)} on {pick(DAYS)} .")
    if kind == 1:
        return plain(f"the bus was late on {pick(DAYS)} .")
    if kind == 2:
        return plain(f"the {pick(SHOPS)} opened {pick(TIMES)} .")
    if kind == 3:
        return plain(f"my {pick(TELLERS)} visited me {pick(TIMES)} .")
    if kind == 4:
        return plain(f"a {pick(('man', 'woman'))} waited at the {pick(SHOPS)} .")
    if kind == 5:
        return plain(f"my {pick(TELLERS)} lives in {pick(CITIES)} .")
    if kind == 6:
        return heard("we talked about", list(TOPICS)[topic], f"on {pick(DAYS)} .")
    if kind == 7:
        return heard("the", school, f"school was closed on {pick(DAYS)} .")
    if kind == 8:
        return heard("a", profession, f"lives near the {pick(SHOPS)} .")
    return heard(f"my {pick(TELLERS)} asked me about", list(TOPICS)[topic], ".")


def gap(pick: Pick) -> list[Token]:
    """Remarks of about as many words as GAPS says."""
    least, tokens = pick(GAPS), []
    while len(tokens) < least:
        tokens += remark(pick)
    return tokens


def opening(pick: Pick, before: int | None, gender: int, topic: int | None) -> list[Token]:
    """A new subject of `gender`; `before` is that of the subject it replaces, None for the first. `topic`: told at once."""
    name = (pick(NAMES[gender]), (("gender", gender),))
    if topic is None:
        about = plain(f"lives in {pick(CITIES)} .")
    else:
        profession = list(TOPICS.values())[topic][0]
        about = [*plain("is a"), (profession, (("topic", topic),)), *plain(".")]
    if before is None:
        relation = pick(RELATIONS)
        name = (name[0], (("new", gender),))
        if topic is None:
            return [name, *plain(f"is my {relation} .")]
        return [*plain(f"my {relation} ,"), name, *plain(","), *about]
    kin = pick((gender, gender, 2))
    relation = (pick(KIN[kin]), (("new", gender if kin < 2 else -1),))
    whose = (POSSESSIVES[before], (("ask", POSSESSIVE), ("gender", before)))
    return [whose, relation, *plain(","), name, *plain(","), *about]


def clue(pick: Pick, gender: int, topic: int) -> list[Token]:
    """What tells the topic of the subject."""
    profession, school = list(TOPICS.values())[topic]
    before, word, after = pick([("went to", school, "school ."), ("works as a", profession, ".")])
    who = (PRONOUNS[gender], (("ask", SUBJECT), ("gender", gender)))
    return [who, *plain(before), (word, (("topic", topic),)), *plain(after)]


def question(pick: Pick, gender: int, topic: int) -> list[Token]:
    """A sentence whose pronoun and last word need the memory."""
    who = (PRONOUNS[gender], (("ask", SUBJECT), ("gender", gender)))
    what = (list(TOPICS)[topic], (("ask", TOPIC), ("topic", topic)))
    source = plain(pick(("", "they say that", f"my {pick(TELLERS)} told me {pick(TIMES)} that")))
    return [*source, who, *plain("has a passion for"), what, *plain(".")]


def segment(pick: Pick, before: int | None) -> tuple[list[Token], int]:
    """All about one subject, and its gender."""
    gender, topic, at_once = pick((0, 1)), pick(range(len(TOPICS))), pick((True, False, False))
    first = gap(pick) if before is not None and pick((True, False)) else []
    tokens = [*first, *opening(pick, before, gender, topic if at_once else None), *gap(pick)]
    if not at_once:
        tokens += [*clue(pick, gender, topic), *gap(pick)]
    tokens += question(pick, gender, topic)
    while pick((True, False)):
        tokens += [*gap(pick), *question(pick, gender, topic)]
    return tokens, gender


def passage(rng: np.random.Generator, length: int = 128) -> Passage:
    """As many subjects, one after the other, as fit into `length` words: at least one."""
    pick = chooser(rng)
    tokens, gender = segment(pick, None)
    while len(tokens) > length:
        tokens, gender = segment(pick, None)
    while True:
        more, gender = segment(pick, gender)
        if len(tokens) + len(more) > length:
            return annotate(tokens)
        tokens += more


def annotate(tokens: Sequence[Token]) -> Passage:
    """The truth at each word, from what the words tell."""
    places = np.arange(len(tokens), dtype=np.int32)
    facts = {name: np.full(len(tokens), -1, np.int32) for name in FACTS}
    told = {name: np.zeros(len(tokens), np.int32) for name in FACTS}
    asked = np.zeros(len(tokens), np.int32)

    def tell(name, value, place):
        facts[name][place:], told[name][place:] = value, place

    for place, (_, events) in enumerate(tokens):
        for name, value in events:
            if name == "ask":
                asked[place] = value
            elif name == "new":
                tell("old", facts["topic"][place], place)
                tell("topic", -1, place)
                tell("gender", value, place)
            else:
                tell(name, value, place)
    ages = {name: np.where(facts[name] >= 0, places - told[name], -1).astype(np.int32) for name in FACTS}
    return Passage(np.array([WORDS[word] for word, _ in tokens], np.int32), facts, ages, asked)


def vocabulary() -> tuple[str, ...]:
    """All words of the grammar; the first, that of padding, is never said."""
    own = "is my , . lives in a went to school works as told me they say that has passion for it rained on the bus was"
    own += " late opened visited man woman waited at we talked about closed near asked"
    nested = [TOPICS, *TOPICS.values(), *NAMES, PRONOUNS, POSSESSIVES, *KIN, RELATIONS, TELLERS, DAYS, CITIES, SHOPS]
    said = {*own.split(), *(w for group in nested for w in group), *(w for time in TIMES for w in time.split())}
    return ("<pad>", *sorted(said))


VOCABULARY = vocabulary()
WORDS = {word: place for place, word in enumerate(VOCABULARY)}


def choices() -> Bool[np.ndarray, "4 V"]:
    """The words among which a question of each kind chooses; none for 0."""
    table = np.zeros((4, len(VOCABULARY)), bool)
    for kind, words in ((SUBJECT, PRONOUNS), (POSSESSIVE, POSSESSIVES), (TOPIC, TOPICS)):
        table[kind, [WORDS[w] for w in words]] = True
    return table


def lags(passage: Passage) -> Int[np.ndarray, " n"]:
    """Words between the last word that told the answer and the answer, for each question; 0 elsewhere."""
    lag = np.zeros_like(passage.question)
    for name, asked in (("gender", (SUBJECT, POSSESSIVE)), ("topic", (TOPIC,))):
        places = np.flatnonzero(np.isin(passage.question, asked))
        lag[places] = passage.ages[name][places - 1] + 1
    return lag


class Passages:
    """Passages of a split by number, each a function of (seed, split, number), padded to `length` words.

    An example: tokens [length], lag [length] and question [length] as in `Passage`, int32, and count, its words.
    """

    def __init__(self, split: str, *, seed: int = 0, passages: int = 1000, length: int = 128):
        if split not in SPLITS:
            raise InputError(f"split {split!r}: made passages have the splits {', '.join(SPLITS)}")
        if length < SHORTEST:
            raise InputError(f"config.data.length={length}: passages need room for {SHORTEST} words; use that or more")
        self.stream, self.passages, self.length = [seed, SPLITS.index(split)], passages, length

    def __len__(self) -> int:
        return self.passages

    def passage(self, index: int) -> Passage:
        return passage(np.random.default_rng([*self.stream, index]), self.length)

    def __getitem__(self, index: int) -> dict[str, Any]:
        made = self.passage(index)
        pad = lambda x: np.pad(x, (0, self.length - len(x)))
        rows = {"tokens": pad(made.words), "question": pad(made.question), "lag": pad(lags(made))}
        return {**rows, "count": np.int32(len(made.words))}


def text(words: Sequence[int] | Int[np.ndarray, " n"]) -> str:
    """Words as a text for people."""
    said, start = "", True
    for word in words:
        word = VOCABULARY[word]
        said += word if word in ",." else f" {word[0].upper() + word[1:] if start else word}"
        start = word == "."
    return said.strip()


def read(line: str) -> Int[np.ndarray, " n"]:
    """The words of a text. Raises InputError for one that the grammar does not have."""
    spaced = line.replace(",", " , ").replace(".", " . ").split()
    found = []
    for place, word in enumerate(spaced):
        start = place == 0 or spaced[place - 1] == "."
        word = word[0].lower() + word[1:] if start and word not in WORDS else word
        if word not in WORDS:
            raise InputError(f"{word!r} in {line!r}: not one of the {len(WORDS)} words of the made passages")
        found.append(WORDS[word])
    return np.array(found, np.int32)
