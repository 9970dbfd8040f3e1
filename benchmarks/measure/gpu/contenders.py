"""Contenders on a GPU, given texts, tokens or joined pairs.

A call that is timed begins with what its form says and ends with logits in the host's memory, so that whatever a
device still has to do is waited for. Every call gets other pairs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure.turns import Floats
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

PACKED, GRAPHS = "crossrank packed", "crossrank packed, CUDA graphs"
OURS = (GRAPHS, PACKED)  # the first is what tables call crossrank; the second where no CUDA graph can be captured
ST_DEFAULT, ST_LARGE = "sentence-transformers fp16, batch 32", "sentence-transformers fp16, batch 256"
FUSED = "onnxruntime fp16, fused and padded"
BASELINES = (ST_DEFAULT, ST_LARGE)  # the faster of the two is what goals compare with
PEERS = (*BASELINES, FUSED)

_DOCUMENTS_PER_QUERY = 100


@dataclass(frozen=True, slots=True)
class Work:
    """Pairs of one call, joined, with the distinct queries, a document for each pair and the documents' token ids.

    ``query_index`` is int [pairs].
    """

    joined: PackedPairs
    queries: Sequence[str]
    documents: Sequence[str]
    query_index: NDArray[np.intp]
    tokens: Tokens

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
