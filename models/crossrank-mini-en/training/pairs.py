"""Which pairs the student learns from, and which queries are kept apart to measure it.

Every pair is seen once: fresh pairs teach more than a second pass over old ones, and the teacher labels a pair in less
time than the student learns from it.
"""

import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import bm25s
from texts import Query

Pair = tuple[str, int]  # a query's text and the index of a passage

_DEPTH = 100  # of BM25's rankings
_KEPT_APART = {"trec": 20, "marco": 60, "squad": 20, "wikiqa": 20}  # at most so many queries
_CANDIDATES_APART = 50
_MADE_UP = 16_000
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9'-]*")
_TEMPLATES = (
    "what is {}", "what is the {}", "define {}", "{} meaning", "how does {} work", "who is {}", "where is {}",
    "how long does {} take", "how much is {}", "what does {} mean", "why is {} important", "when was {}", "{} cost",
    "symptoms of {}", "causes of {}", "types of {}", "how to {}", "is {}", "can you {}", "average {}",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A query that is kept apart, and the passages to rank for it."""

    query: Query
    candidates: tuple[int, ...]


def choose_pairs(passages: Sequence[str], queries: Sequence[Query], seed: int) -> tuple[list[Pair], list[HeldOut]]:
    """The pairs to learn from in random order, and the queries kept apart, which are in none of them."""
    rng = random.Random(seed)
    search = _Search(passages)
    apart = keep_apart(queries)
    ranked = search.best([query.text for query in queries])
    held_out = [
        HeldOut(query, tuple(dict.fromkeys((*query.passages, *best)))[:_CANDIDATES_APART])
        for query, best in zip(queries, ranked, strict=True)
        if query in apart
    ]
    texts_apart = {_plain(query.text) for query in apart}
    learned = [
        (query, best) for query, best in zip(queries, ranked, strict=True) if _plain(query.text) not in texts_apart
    ]
    made_up = [query for query in make_up_queries(passages, rng) if _plain(query.text) not in texts_apart]
    learned += zip(made_up, search.best([query.text for query in made_up]), strict=True)
    pairs = {(query.text, place) for query, best in learned for place in _candidates(query, best, rng)}
    ordered = sorted(pairs)
    rng.shuffle(ordered)
    return ordered, held_out


def _plain(text: str) -> str:
    """A text's words alone, to tell whether two queries are the same."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _candidates(query: Query, best: Sequence[int], rng: random.Random) -> Sequence[int]:
    """Passages of one query, hard and easy mixed."""
    top, middle, rest = best[:2], best[2:20], best[20:]
    if query.source == "trec":
        return query.passages
    if query.source == "marco":
        return [*top, *_some(middle, 3, rng), *_some(rest, 2, rng)]
    if query.source == "wikiqa":
        return [*_some(query.passages, 2, rng), *_some(best[:20], 2, rng)]
    return [*query.passages, *_some(best[:20], 1, rng)]


def _some(places: Sequence[int], count: int, rng: random.Random) -> list[int]:
    return rng.sample(list(places), min(count, len(places)))


def keep_apart(queries: Sequence[Query]) -> set[Query]:
    """A tenth of each source's queries, by a hash of their text and so the same in every run, up to a limit."""
    counts: Counter[str] = Counter()
    apart = set()
    for query in queries:
        chosen = int(hashlib.sha256(query.text.encode()).hexdigest(), 16) % 10 == 0
        if chosen and counts[query.source] < _KEPT_APART[query.source]:
            counts[query.source] += 1
            apart.add(query)
    return apart


def make_up_queries(passages: Sequence[str], rng: random.Random) -> list[Query]:
    """Queries from the words of passages: rare words, a template around a rare word, or a piece of a sentence.

    Few of them are good questions. The teacher says how well a passage answers one, which is all that is learned.
    """
    words = [_WORD.findall(text) for text in passages]
    frequency = Counter(word for entry in words for word in {word.lower() for word in entry})

    def rarity(word: str) -> float:
        return min(math.log(len(passages) / frequency[word.lower()]), 8.0)

    queries: list[Query] = []
    for place in rng.sample(range(len(passages)), len(passages)):
        if len(queries) == _MADE_UP:
            break
        text = _make_up(words[place], rarity, rng)
        if text:
            queries.append(Query("made up", text, (place,)))
    return queries


def _make_up(words: Sequence[str], rarity: Callable[[str], float], rng: random.Random) -> str | None:
    if len(words) < 8:
        return None
    kind = rng.random()
    if kind < 0.5:
        start = rng.randrange(max(1, len(words) - 30))
        window = range(start, min(len(words), start + 30))
        rare = sorted(window, key=lambda i: -(rarity(words[i]) + 3 * rng.random()))[: rng.randint(2, 5)]
        return " ".join(dict.fromkeys(words[i].lower() for i in sorted(rare)))
    if kind < 0.75:
        starts = [i for i in range(len(words) - 2) if rarity(words[i]) > 4]
        if not starts:
            return None
        start = rng.choice(starts)
        return rng.choice(_TEMPLATES).format(" ".join(words[start : start + rng.randint(1, 3)]).lower())
    start = rng.randrange(len(words) - 4)
    return " ".join(words[start : start + rng.randint(3, 8)]).lower()


class _Search:
    """BM25 over the passages."""

    def __init__(self, passages: Sequence[str]) -> None:
        self._index = bm25s.BM25(k1=0.9, b=0.4)
        self._index.index(bm25s.tokenize(list(passages), stopwords="en", show_progress=False), show_progress=False)

    def best(self, queries: Sequence[str]) -> list[list[int]]:
        """The best passages of each query, best first."""
        found: list[list[int]] = []
        for start in range(0, len(queries), 2000):
            tokens = bm25s.tokenize(list(queries[start : start + 2000]), stopwords="en", show_progress=False)
            places, _ = self._index.retrieve(tokens, k=_DEPTH, show_progress=False, backend_selection="numpy")
            found += places.tolist()
        return found
