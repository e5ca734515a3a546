"""The n-gram baseline of language models: interpolated Witten-Bell counts, in NumPy."""

from typing import Any

import numpy as np
from jaxtyping import Float, Integer


def contexts(tokens: Integer[np.ndarray, " N"], order: int, entries: int) -> Integer[np.ndarray, " N"]:
    """The `order` tokens before each place, as one number. A text begins after as many tokens 0."""
    padded = np.concatenate([np.zeros(order, np.int64), tokens.astype(np.int64)])
    number = np.zeros(len(tokens), np.int64)
    for place in range(order):
        number = number * entries + padded[place : place + len(tokens)]
    return number


def fit(tokens: Integer[np.ndarray, " N"], order: int, entries: int) -> list[dict[str, Any]]:
    """Counts of every order from 0 (single tokens) to `order` tokens of context. entries**(order + 1) must be below 2**63."""
    if entries ** (order + 1) >= 2**63:
        raise ValueError(f"order {order} over {entries} entries does not fit into 64 bits")
    tables = []
    for context in range(order + 1):
        before = contexts(tokens, context, entries)
        pairs, counts = np.unique(before * entries + tokens.astype(np.int64), return_counts=True)
        heads, first, kinds = np.unique(pairs // entries, return_index=True, return_counts=True)
        tables.append(
            {"pairs": pairs, "counts": counts, "heads": heads, "kinds": kinds, "totals": np.add.reduceat(counts, first)}
        )
    return tables


def log_probabilities(
    tables: list[dict[str, Any]], tokens: Integer[np.ndarray, " N"], entries: int
) -> Float[np.ndarray, " N"]:
    """log p of each token given those before it (Witten & Bell 1991; Chen & Goodman 1999, equation 11):

    p(w | h) = (c(h w) + T(h) p(w | h')) / (c(h) + T(h)), T(h) the number of different tokens seen after h, h' one token
    shorter, and 1 / entries below single tokens. A context that was never seen leaves p(w | h').
    """
    p = np.full(len(tokens), 1 / entries)
    for context, table in enumerate(tables):
        before = contexts(tokens, context, entries)
        count = look_up(table["pairs"], table["counts"], before * entries + tokens.astype(np.int64))
        total, kinds = (look_up(table["heads"], table[name], before) for name in ("totals", "kinds"))
        seen = total > 0
        p[seen] = (count[seen] + kinds[seen] * p[seen]) / (total[seen] + kinds[seen])
    return np.log(p)


def look_up(keys, values, wanted) -> Integer[np.ndarray, " N"]:
    """The value of each wanted key, 0 where it is not there. `keys` are sorted."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


def baseline(
    train, validation, scored, entries: int, orders: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7)
) -> dict[str, float]:
    """Nats a token of `scored`, by the order of `orders` that is best on `validation`."""
    orders = tuple(o for o in orders if entries ** (o + 1) < 2**63)
    tables = fit(train, max(orders), entries)
    nats = lambda tokens, order: float(-log_probabilities(tables[: order + 1], tokens, entries).mean())
    order = min(orders, key=lambda o: nats(validation, o))
    return {"nats_per_token": nats(scored, order), "order": float(order + 1)}
