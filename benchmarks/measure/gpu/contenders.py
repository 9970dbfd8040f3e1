"""Contenders on a GPU, given texts, tokens or joined pairs, timed in turns.

A call that is timed begins with what its form says and ends with logits in the host's memory, so that whatever a
device still has to do is waited for. Every call gets other pairs.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure.turns import Floats, Turns
from crossrank._text.pairs import PackedPairs, PairSource
from crossrank._text.sample_texts import sample_texts
from crossrank._text.tokens import Tokens, gather_index
from crossrank.export._architectures.checkpoint import Checkpoint

Call = Callable[[], Floats]
T = TypeVar("T")
# What a call begins with: joined pairs of token ids; queries as texts and documents as token ids; texts alone.
Form = Literal["model", "encoded", "texts"]
FORMS: tuple[Form, ...] = ("model", "encoded", "texts")
# Told a section's name and content when it is done.
Keep = Callable[[str, object], None]

PACKED, GRAPHS, PADDED = "crossrank packed", "crossrank packed, CUDA graphs", "crossrank padded"
OURS = (GRAPHS, PACKED)  # the first is what tables call crossrank; the second where no CUDA graph can be captured
ST_DEFAULT, ST_LARGE = "sentence-transformers fp16, batch 32", "sentence-transformers fp16, batch 256"
ST_BF16 = "sentence-transformers bf16, batch 256"
VARLEN, FUSED = "transformers fp16, varlen attention", "onnxruntime fp16, fused and padded"
BASELINES = (ST_DEFAULT, ST_LARGE)  # the faster of the two is what goals compare with
PEERS = (*BASELINES, ST_BF16, VARLEN, FUSED)
KERNELS = WITH_FLASH, WITHOUT_FLASH, PADDED_PEER = "packed", "packed without FlashAttention", "fused and padded"

_DOCUMENTS_PER_QUERY = 100
_NO_TOKENS = Tokens(np.zeros(0, np.int32), np.zeros(1, np.int64))


@dataclass(frozen=True, slots=True)
class Work:
    """Pairs of one call, joined, and where there are texts the distinct queries, the documents and their token ids.

    There is a document for each pair; ``query_index`` is int [pairs].
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


Forms = Mapping[Form, Callable[[Work], Call]]


@dataclass(frozen=True, slots=True)
class Contender:
    """An engine with a model, ready to score, its name in results, and what runs.

    Its forms are what it can begin with -> makes a call of some work. What that needs beforehand is not timed.
    """

    name: str
    forms: Forms
    facts: Mapping[str, str]


@dataclass(slots=True)
class Series:
    """What a contender gave: seconds of each timed call, and how many logits of all its calls were no numbers."""

    seconds: list[float] = field(default_factory=list)
    not_finite: int = 0


def make_works(checkpoint: Checkpoint, documents: int, count: int) -> list[Work]:
    """Made-up texts with MS MARCO's lengths for so many calls of so many documents; no text returns."""
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


def batched(
    joined: PackedPairs,
    batches: Sequence[NDArray[np.intp]],
    prepare: Callable[[PackedPairs], T],
    run: Callable[[Sequence[T]], Sequence[Floats]],
) -> Call:
    """A call that runs batches of joined pairs, which are prepared beforehand, and brings their logits in order."""
    prepared = [prepare(select(joined, index)) for index in batches]
    return lambda: in_order(batches, run(prepared))


def take_turns(
    calls: Mapping[str, Sequence[Call]], *, warm_up: int = 1, limit_s: float = float("inf"), least: int = 20
) -> tuple[dict[str, Series], dict[str, str]]:
    """Make the calls of several contenders in turns, as many of each: name -> calls; ``warm_up`` of them do not count.

    No further turn begins after so many seconds and so many turns that count.

    Returns:
        Name -> what it gave, and name -> why it failed, which is then left out.
    """
    series = {name: Series() for name in calls}
    turns, begin = Turns(calls, catch=Exception), time.perf_counter()  # what others' engines raise has no common base
    for turn in range(max(map(len, calls.values()), default=0)):
        if turn >= warm_up + least and time.perf_counter() - begin > limit_s:
            break

        def call(name: str, turn: int = turn) -> None:
            start = time.perf_counter()
            logits = calls[name][turn]()
            took = time.perf_counter() - start
            series[name].not_finite += int(np.count_nonzero(~np.isfinite(logits)))
            if turn >= warm_up:
                series[name].seconds.append(took)

        turns.each(call)
    return {name: series[name] for name in turns.names}, turns.failed
