"""Workloads: calls of one query with its documents, cut into a warm-up and rounds that share no text.

An engine may remember what it has seen, so a text that returns would measure its memory. Where the data is too small
for that, texts return, and the workload says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

from crossrank import InputError
from crossrank._text.sample_texts import sample_texts

from .collections import Candidates, Collection

SYNTHETIC, LONG = "synthetic", "synthetic-long"
TREC_DL19 = "trec-dl19"

Calls = tuple[Candidates, ...]

_SEED = 0
_MOST_CALLS = 100  # of a round, where nobody says how many
_SYNTHETIC_CALLS = 8
_JOINED = 8  # texts in one: more than 512 tokens


@dataclass(frozen=True, slots=True)
class Workload:
    """Calls by what they are for.

    Attributes:
        name: Of the data.
        warm_up: Calls before the first that counts.
        rounds: The timed calls.
        reused: Whether texts return, since there were too few.
        collection: The judged queries, where each timed call is one of them with all of its candidates; else None.
    """

    name: str
    warm_up: Calls
    rounds: tuple[Calls, ...]
    reused: bool
    collection: Collection | None

    def describe(self) -> dict[str, object]:
        """What a result says of it."""
        calls = [call for timed in self.rounds for call in timed]
        return {
            "name": self.name,
            "documents_per_call": max(len(call.documents) for call in calls),
            "calls": len(calls),
            "documents": sum(len(call.documents) for call in calls),
            "texts_return": self.reused,
        }


def make_workload(
    collection: Collection | None, *, documents: int, warm_up: int, rounds: int, calls: int | None, long: bool = False
) -> Workload:
    """The calls of a run on judged queries, or for None on made-up texts, also ``long`` ones.

    Of no number of calls a round, it is 8 of made-up texts, or all that judged queries give, at most 100.
    """
    if collection is None:
        calls = calls or _SYNTHETIC_CALLS
        found = synthetic_calls([documents] * (warm_up + rounds * calls), joined=_JOINED if long else 1)
        return _cut(LONG if long else SYNTHETIC, found, warm_up=warm_up, rounds=rounds, calls=calls)
    found = judged_calls(collection, documents)
    if calls is None:
        calls = max(1, min(_MOST_CALLS, (len(found) - warm_up) // rounds))
    whole = documents == max(len(entry.documents) for entry in collection.candidates)
    workload = _cut(collection.name, found, warm_up=warm_up, rounds=rounds, calls=calls)
    return replace(workload, collection=collection) if whole else workload


def synthetic_calls(sizes: Sequence[int], *, joined: int = 1) -> list[Candidates]:
    """Calls with made-up texts of real lengths, or so many in one, of so many documents each; no text returns."""
    queries = sample_texts(len(sizes), kind="query", seed=_SEED)
    texts = sample_texts(sum(sizes) * joined, kind="document", seed=_SEED)
    documents = iter([" ".join(texts[i : i + joined]) for i in range(0, len(texts), joined)])
    return [
        Candidates(str(i), query, tuple(str(place) for place in range(size)), tuple(islice(documents, size)))
        for i, (query, size) in enumerate(zip(queries, sizes, strict=True))
    ]


def judged_calls(collection: Collection, documents: int) -> list[Candidates]:
    """Calls of so many documents of judged queries: each query's own candidates in chunks.

    The first chunk of every query comes before the second of any.

    Raises:
        InputError: If no query has so many candidates.
    """
    entries = collection.candidates
    longest = max(len(entry.documents) for entry in entries)
    if documents > longest:
        raise InputError(
            f"--documents {documents}: a query of {collection.name} has {longest} candidates at most; take fewer, or "
            f"made-up texts, --data {SYNTHETIC}"
        )
    return [
        entry.cut(start, start + documents)
        for start in range(0, longest, documents)
        for entry in entries
        # A shorter rest would be another kind of call, but a query with few candidates has one.
        if start == 0 or start + documents <= len(entry.documents)
    ]


def _cut(name: str, found: Sequence[Candidates], *, warm_up: int, rounds: int, calls: int) -> Workload:
    """Deal calls out in their order, from the start again where they do not suffice."""
    deal = cycle(found)
    first = tuple(islice(deal, warm_up))
    timed = tuple(tuple(islice(deal, calls)) for _ in range(rounds))
    return Workload(name, first, timed, warm_up + rounds * calls > len(found), None)
