"""Seeded English-like queries and passages with the lengths of real ones, to measure speed where no corpus is at hand.

They mean nothing, and a ranking of them says nothing. What the time of a tokenizer and a model depends on is close to
that of the 4,300 passages and 43 queries of TREC Deep Learning 2019 (MS MARCO): words per text, how often words return
and how many are new, WordPiece tokens per word, punctuation, letters beyond ASCII.
"""

import tomllib
from bisect import bisect
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from itertools import accumulate, pairwise
from math import fsum
from random import Random
from typing import Literal

Draw = Callable[[], float]  # gives [0, 1)

# Words between spaces per text: (share of the texts, most words).
_PASSAGE_WORDS = (
    *((0, 12), (0.01, 23), (0.05, 32), (0.1, 36), (0.25, 44), (0.5, 55), (0.75, 80), (0.9, 99), (0.95, 110)),
    *((0.99, 134), (1, 193)),
)
_QUERY_WORDS = ((0, 2), (0.05, 3), (0.25, 4), (0.5, 5), (0.75, 7), (0.9, 8), (1, 11))
# (N, the share of a passage's words that the N most frequent words make up), measured up to 500; beyond, and with the
# shares below, chosen so that new words come as often as in real passages.
_COVERAGE = (
    *((0, 0), (10, 0.23), (50, 0.36), (100, 0.43), (200, 0.51), (500, 0.63)),
    *((1000, 0.70), (2500, 0.78), (200_000, 1)),
)
# The passages found for one query, and each of them, keep to a subject: of the words that are no function words this
# share stood in one of these so many passages before, in this passage before.
_PASSAGES_PER_SUBJECT = 100
_SAID_BEFORE = 0.2
_SAID_HERE = 0.33
_FUNCTION_WORDS = 50  # by rank: "the" to "there"
_QUERY_COVERAGE = 0.25  # this share, the most frequent words', is left out of queries

# What stands before and after a word, with its share of the words; "" and " " for all others.
_MARKS = (
    *(("", ". ", 0.062), ("", ", ", 0.046), ("", "-", 0.01), ("(", ") ", 0.006), ("", ": ", 0.006), ("", "'s ", 0.005)),
    *(("", "/", 0.002), ("", "? ", 0.002), ("", "; ", 0.002), ("$", " ", 0.001), ("", "% ", 0.001), ('"', '" ', 0.001)),
    *(("", "’s ", 0.0007), ("", " – ", 0.0006), ("“", "” ", 0.0003), ("", "° ", 0.0002), ("", " • ", 0.0002)),
    ("", " ", 1),
)
_CUMULATED_MARKS = tuple(accumulate(share for *_, share in _MARKS[:-1]))
_SENTENCE_ENDS = (". ", "? ")


def sample_texts(count: int, *, kind: Literal["query", "document"], seed: int) -> list[str]:
    """English-like texts, the same ones for a seed on every machine.

    A longer list begins with the shorter one. Only ``Random.random`` is drawn from, whose sequence Python guarantees.

    Args:
        count: How many.
        kind: Lower-case questions without punctuation, 2 to 11 words; or passages of 12 to 193 words.
        seed: Zero or more; seeds and kinds give different texts.

    >>> sample_texts(2, kind="query", seed=0) == sample_texts(3, kind="query", seed=0)[:2]
    True
    """
    draw = Random(2 * seed + (kind == "query")).random
    if kind == "query":
        return [_query(draw, _length(_QUERY_WORDS, draw())) for _ in range(count)]
    passages: list[str] = []
    for number in range(count):
        if number % _PASSAGES_PER_SUBJECT == 0:
            subject: list[str] = []
        passages.append(_passage(draw, _length(_PASSAGE_WORDS, draw()), subject))
    return passages


def _length(quantiles: Sequence[tuple[float, int]], share: float) -> int:
    """The number of words that ``share`` of the texts do not exceed."""
    (start, shortest), (end, longest) = next(step for step in pairwise(quantiles) if share < step[1][0])
    return round(shortest + (longest - shortest) * (share - start) / (end - start))


def _query(draw: Draw, length: int) -> str:
    coverage = _cumulated_coverage()
    ranks = (bisect(coverage, _QUERY_COVERAGE + (1 - _QUERY_COVERAGE) * draw()) for _ in range(length))
    return " ".join(map(_word, ranks)).lower()


def _passage(draw: Draw, length: int, subject: list[str]) -> str:
    """A passage; the words that are no function words are added to ``subject``."""
    coverage = _cumulated_coverage()
    said_before = len(subject)
    parts: list[str] = []
    sentence_begins = True
    for _ in range(length):
        rank = bisect(coverage, draw())
        if rank < _FUNCTION_WORDS:
            word = _word(rank)
        else:
            share, said = draw(), len(subject)
            if share < _SAID_HERE and said > said_before:
                word = subject[said_before + int(draw() * (said - said_before))]
            elif share < _SAID_HERE + _SAID_BEFORE and said:
                word = subject[int(draw() * said)]
            else:
                word = _word(rank)
            subject.append(word)
        before, after, _ = _MARKS[bisect(_CUMULATED_MARKS, draw())]
        parts += before, word[0].upper() + word[1:] if sentence_begins else word, after
        sentence_begins = after in _SENTENCE_ENDS
    return "".join(parts).strip()


@cache
def _cumulated_coverage() -> list[float]:
    """Float [ranks]: `_COVERAGE` of every rank; within a step a word's share is in proportion to 1 / rank."""
    shares: list[float] = []
    for (start, covered), (end, covered_then) in pairwise(_COVERAGE):
        weights = [1 / rank for rank in range(start + 1, end + 1)]
        scale = (covered_then - covered) / fsum(weights)  # exact: sum() adds otherwise in newer Pythons
        shares += [scale * weight for weight in weights]
    cumulated = list(accumulate(shares))
    cumulated[-1] = 1.0  # not a rounding error below it
    return cumulated


@cache
def _vocabulary() -> dict[str, list[str]]:
    """The lists of sample_words.toml by their names, and "stems": what can be inflected."""
    text = (resources.files("crossrank._text") / "sample_words.toml").read_text(encoding="utf-8")
    words = {name: value.split() for name, value in tomllib.loads(text).items()}
    words["stems"] = [
        word
        for word in words["common"][_FUNCTION_WORDS:]
        if word.isalpha() and word.islower() and len(word) > 2 and not word.endswith(("s", "ed", "ing", "ly"))
    ]
    return words


@cache
def _word(rank: int) -> str:
    """The word of a rank from 0: a common one, or one that is made up and the same at each call."""
    words = _vocabulary()
    if rank < len(words["common"]):
        return words["common"][rank]
    digits = rank * 0x9E3779B97F4A7C15 % 2**64 >> 8  # Fibonacci hashing: neighbours share nothing

    def below(end: int) -> int:
        nonlocal digits
        digits, digit = divmod(digits, end)
        return digit

    def one(part: str) -> str:
        return words[part][below(len(words[part]))]

    stem, kind = one("stems"), below(100)
    if kind < 66:
        return _inflect(stem, one("inflections"))
    if kind < 74:
        return str(below((100, 2100, 10_000)[below(3)]))
    if kind < 88:
        return "".join([one("syllables") for _ in range(1 + below(2))] + [one("name_endings")]).capitalize()
    if kind < 93:
        return one("learned_roots") + one("learned_endings")
    if kind < 96:
        return stem + one("stems")
    if kind < 98:
        return one("prefixes") + stem
    return _inflect(stem, one("suffixes"))


def _inflect(stem: str, suffix: str) -> str:
    if stem.endswith("e") and suffix[0] in "aei":
        return stem[:-1] + suffix
    if stem.endswith("y") and stem[-2] not in "aeou" and suffix[0] != "i":
        return stem[:-1] + ("ies" if suffix == "s" else "i" + suffix)
    return stem + suffix
