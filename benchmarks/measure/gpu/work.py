"""What is scored on a GPU, as texts, as tokens and joined; and who scores it, timed in turns.

A call that is timed begins with what its form says and ends with logits in the host's memory, so that whatever a
device still has to do is waited for. Every call gets other pairs.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crossrank._text.pairs import PackedPairs, PairSource
from crossrank._text.sample_texts import sample_texts
from crossrank._text.tokens import Tokens, gather_index
from crossrank.export._architectures.checkpoint import Checkpoint

Floats = NDArray[np.float32]
Call = Callable[[], Floats]
# What a call begins with: joined pairs of token ids; queries as texts and documents as token ids; texts alone.
Form = Literal["model", "encoded", "texts"]
FORMS: tuple[Form, ...] = ("model", "encoded", "texts")
# Told a section's name and content when it is done.
Keep = Callable[[str, object], None]

_DOCUMENTS_PER_QUERY = 100
_NO_TOKENS = Tokens(np.zeros(0, np.int32), np.zeros(1, np.int64))


@dataclass(frozen=True, slots=True)
class Work:
    """Pairs of one call.

    Attributes:
        joined: All of them as token ids, in their order.
        queries: The distinct queries; none where there are no texts.
        documents: One for each pair.
        query_index: int [pairs].
        tokens: The documents' token ids.
    """

    joined: PackedPairs
    queries: Sequence[str] = ()
    documents: Sequence[str] = ()
    query_index: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))
    tokens: Tokens = _NO_TOKENS

    @property
    def size(self) -> int:
        """How many pairs."""
        return len(self.joined.lengths)


@dataclass(frozen=True, slots=True)
class Contender:
    """An engine with a model, ready to score.

    Attributes:
        name: In results.
        forms: What it can begin with -> makes a call of some work. What that needs beforehand is not timed.
        facts: What runs.
    """

    name: str
    forms: Mapping[Form, Callable[[Work], Call]]
    facts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Series:
    """What a contender gave: seconds of each timed call, and how many logits of all its calls were no numbers."""

    seconds: list[float]
    not_finite: int


def make_works(checkpoint: Checkpoint, documents: int, count: int) -> list[Work]:
    """Made-up texts with MS MARCO's lengths for several calls; no text returns.

    Args:
        checkpoint: Whose tokenizer and length limit.
        documents: Of a call.
        count: How many calls.
    """
    queries_each = -(-documents // _DOCUMENTS_PER_QUERY)
    queries = sample_texts(queries_each * count, kind="query", seed=0)
    texts = sample_texts(documents * count, kind="document", seed=0)
    works = []
    for i in range(count):
        some = queries[i * queries_each : (i + 1) * queries_each]
        works.append(text_work(checkpoint, some, texts[i * documents : (i + 1) * documents]))
    return works


def text_work(checkpoint: Checkpoint, queries: Sequence[str], documents: Sequence[str]) -> Work:
    """A call of texts: the documents are dealt to the queries in equal parts, in their order."""
    index = np.arange(len(documents)) * len(queries) // len(documents)
    tokenizer, limit = checkpoint.tokenizer, checkpoint.inputs.max_length
    tokens = tokenizer.encode(documents, "document")
    source = PairSource(tokenizer.template, tokenizer.encode(queries, "query"), tokens, index, limit)
    return Work(source.batch(np.arange(len(documents))), queries, documents, index, tokens)


def fixed_works(vocabulary: int, length: int, pairs: int, count: int) -> list[Work]:
    """Random token ids in pairs of one length; there are no texts of them."""
    rng = np.random.default_rng(length)
    lengths = np.full(pairs, length, np.int32)
    types = np.tile(np.arange(length) >= length // 8, pairs).astype(np.int32)
    return [
        Work(PackedPairs(rng.integers(0, vocabulary, pairs * length, np.int32), types, lengths)) for _ in range(count)
    ]


def select(joined: PackedPairs, index: NDArray[np.intp]) -> PackedPairs:
    """Some of joined pairs, in the order of ``index``.

    >>> pairs = PackedPairs(np.array([5, 6, 7], np.int32), np.zeros(3, np.int32), np.array([1, 2], np.int32))
    >>> select(pairs, np.array([1])).ids.tolist()
    [6, 7]
    """
    lengths = joined.lengths[index]
    starts = np.cumsum(joined.lengths, dtype=np.int32) - joined.lengths
    gather = gather_index(starts[index], lengths)
    return PackedPairs(joined.ids[gather], joined.types[gather], lengths)


def like_length(lengths: NDArray[np.int32], size: int) -> list[NDArray[np.intp]]:
    """Batches of so many pairs of like length, the longest first, as sentence-transformers sorts them."""
    order = np.argsort(-lengths, kind="stable")
    return [order[start : start + size] for start in range(0, len(order), size)]


def in_order(batches: Sequence[NDArray[np.intp]], logits: Sequence[Floats]) -> Floats:
    """The logits of batches, float32 [pairs, labels], in the pairs' own order."""
    found = np.concatenate(logits)
    ordered = np.empty_like(found)
    ordered[np.concatenate(batches)] = found
    return ordered


def take_turns(
    calls: Mapping[str, Sequence[Call]], *, warm_up: int = 1, limit_s: float = float("inf"), least: int = 20
) -> tuple[dict[str, Series], dict[str, str]]:
    """Make the calls of several contenders in turns, so that a slow moment of the machine hits all of them.

    Each turn begins with another contender.

    Args:
        calls: Name -> its calls, as many for each.
        warm_up: How many of them do not count.
        limit_s: Begin no further turn after so many seconds ...
        least: ... and so many turns.

    Returns:
        Name -> what it gave, and name -> why it failed, which is then left out.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    not_finite = dict.fromkeys(calls, 0)
    failed: dict[str, str] = {}
    begin = time.perf_counter()
    for turn in range(max(map(len, calls.values()), default=0)):
        if turn >= warm_up + least and time.perf_counter() - begin > limit_s:
            break
        names = list(seconds)
        first = turn % max(1, len(names))
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            try:
                logits = calls[name][turn]()
            except Exception as error:  # what others' engines raise has no common base
                failed[name] = f"{type(error).__name__}: {error}"
                del seconds[name]
                continue
            took = time.perf_counter() - start
            not_finite[name] += int(np.count_nonzero(~np.isfinite(logits)))
            if turn >= warm_up:
                seconds[name].append(took)
    return {name: Series(values, not_finite[name]) for name, values in seconds.items()}, failed
