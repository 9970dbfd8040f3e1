"""The models of a server: each under its name, with what a request asks of it."""

import asyncio
import math
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from crossrank import (
    AsyncCrossEncoder,
    Closed,
    CrossEncoder,
    EncodedDocument,
    InputError,
    Overloaded,
    Ranking,
)

from ._request import NO_LOGIT, Answer, Entry, Problem, Rerank, Span

Model = str | Path | CrossEncoder | AsyncCrossEncoder
# Behind the sign that ends a sentence; Chinese and Japanese need no space there.
_BREAK = re.compile(r"(?<=[.!?])[\"')\]»”’]*(?=\s)|(?<=[。！？])[」』”’]*|\n\s*")
_LONGEST_SPAN = 2_000  # code points; a text without an end of a sentence is cut
_MOST_SPANS = 1_000  # of a request
_SAMPLE_S, _ESTIMATE_S = 1.0, 0.1
WINDOW_S = 30.0  # in which it is looked at how busy a model is
_LONGEST_BOUND_MS = 10_000  # a longer budget bounds nothing


class Served:
    """One model under its name.

    Args:
        name: What requests call it.
        model: The model.
        owned: Whether the server closes it.
        max_queue_tokens: How many tokens may wait for it, None where its owner has said so.
        chunks: In how many parts a document is read where a request does not say it.
        most_tokens: Of a request.

    Attributes:
        max_queue_tokens: Beyond so many nothing is tokenized first; None leaves it to the model's own bound.
    """

    def __init__(
        self,
        name: str,
        model: AsyncCrossEncoder,
        *,
        owned: bool,
        max_queue_tokens: int | None,
        chunks: int = 1,
        most_tokens: int = 1_000_000,
    ) -> None:
        self.name, self.model, self.owned = name, model, owned
        self.info = model.model.info()
        self.max_queue_tokens = max_queue_tokens
        self._chunks, self._most_tokens = chunks, most_tokens
        self._lanes = self.info.threads if self.info.device == "cpu" else 1
        self._probability = "sigmoid" if self.info.labels == 1 else "softmax"
        self._samples: deque[tuple[float, float, int]] = deque()  # time, seconds in the model, tokens
        self._warm, self._estimated, self._retry_after_s = False, -math.inf, 1
        model.model.score("", [])  # of several labels one must mean relevant
        self.sample()

    async def warm_up(self) -> None:
        """Pay ahead what first requests would."""
        if not self._warm:
            await asyncio.to_thread(self.model.model.warm_up)
            self._warm = True

    async def check(self) -> None:
        """A real forward pass, after warming up.

        Raises:
            CrossrankError: If the model cannot.
            Problem: If it gives no number.
        """
        await self.warm_up()
        (score,) = await self.model.score("ready", ["ready"])
        if math.isnan(score):
            raise Problem("unhealthy", f"{self.name} gives NaN")

    def sample(self) -> tuple[float, float]:
        """The busy ratio and tokens per second, over the window or for as long as is known.

        Asked when requests end and when metrics are read: in between without requests, nothing changes.
        """
        now, stats, samples = time.monotonic(), self.model.stats(), self._samples
        while len(samples) > 1 and samples[1][0] <= now - WINDOW_S:
            samples.popleft()
        if not samples or now - samples[-1][0] >= _SAMPLE_S:
            samples.append((now, stats.model_s, stats.tokens))
        then, model_s, tokens = samples[0]
        # The sample before the window may be older: nothing was done since, or it would not be the last one there.
        seconds = min(max(now - then, _SAMPLE_S), WINDOW_S)
        busy = (stats.model_s - model_s) / (seconds * self._lanes)
        return min(1.0, busy), (stats.tokens - tokens) / seconds

    def retry_after_s(self) -> int:
        """Seconds until what waits is done, at the speed of late; 1 at least, 60 at most; new ten times a second."""
        if (now := time.monotonic()) >= self._estimated + _ESTIMATE_S:
            _, speed = self.sample()
            waiting = self.model.stats().waiting_tokens
            self._retry_after_s = min(60, max(1, math.ceil(waiting / speed))) if speed else 1
            self._estimated = now
        return self._retry_after_s

    async def answer(self, request: Rerank, *, id: str, size: int, started: float, budget_ms: float | None) -> Answer:
        """Score a request's documents, or as many as time allows.

        Args:
            request: What is asked.
            id: The request's id.
            size: Bytes of its body.
            started: ``time.perf_counter()`` of its arrival.
            budget_ms: Milliseconds from then until the answer, or None.

        Raises:
            Problem: If it is refused, or the model fails.
        """
        try:
            ranking = await self._rank_all(request, size, started, budget_ms)
            spans = await self._spans(request, ranking, started, budget_ms) if request.spans else {}
        except Overloaded as error:
            raise Problem("overloaded", str(error), self.retry_after_s()) from None
        except Closed:
            raise Problem("unhealthy", "the server is shutting down", 1) from None
        except InputError as error:
            raise Problem("invalid", str(error)) from None
        except Problem:
            raise
        except Exception as error:
            raise Problem("backend", f"the model failed: {type(error).__name__}") from error
        return self._told(request, ranking, spans, id, time.perf_counter() - started)

    async def _rank_all(self, request: Rerank, size: int, started: float, budget_ms: float | None) -> Ranking:
        """A ranking of all documents, whether they have one query or each its own."""
        if isinstance(request.query, str):
            return await self._rank(request, size, started, budget_ms)
        groups: dict[str, list[int]] = {}
        for index, query in enumerate(request.query):
            groups.setdefault(query, []).append(index)
        whole, truncated = Ranking(), list[int]()
        for query, indices in groups.items():
            part = replace(request, query=query, documents=[request.documents[index] for index in indices])
            found = await self._rank(part, size, started, budget_ms)
            whole += [{**entry, "corpus_id": indices[entry["corpus_id"]]} for entry in found]
            whole.scored, whole.tokens = whole.scored + found.scored, whole.tokens + found.tokens
            whole.complete, whole.reason = whole.complete and found.complete, whole.reason or found.reason
            truncated += [indices[index] for index in found.truncated]
        whole.truncated = tuple(sorted(truncated))
        return whole

    async def _rank(self, request: Rerank, size: int, started: float, budget_ms: float | None) -> Ranking:
        assert isinstance(request.query, str), "of several each comes alone"
        chunks = request.max_chunks or (None if request.max_tokens else self._chunks)
        # A text has no more tokens than bytes, and a short budget bounds what is read: most requests need no count.
        bounded = budget_ms is not None and budget_ms <= _LONGEST_BOUND_MS
        most_read = size + len(request.documents) * (chunks or 1) * len(request.query.encode())
        counted = request.max_tokens is not None or (not bounded and most_read > self._most_tokens)
        if counted or budget_ms is not None:
            self._refuse_if_full()  # before tokenizing, which the model does first where there is a deadline
        documents: Sequence[str] | Sequence[EncodedDocument] = request.documents
        cut: set[int] = set()
        if counted:
            documents, cut = await asyncio.to_thread(self._encode, request, chunks)
        if request.max_tokens is not None and chunks is None:
            chunks = 1 + 4 * request.max_tokens // self.info.max_length  # parts hold a quarter and more of a pair
        ranking = await self.model.rank(
            request.query,
            documents,
            activation_fn="identity" if request.logits else self._probability,
            max_windows=chunks if chunks and chunks > 1 else None,
            deadline_ms=_left_ms(started, budget_ms),
        )
        ranking.truncated = tuple(sorted({*ranking.truncated, *cut}))
        if not request.truncate and ranking.truncated:
            raise Problem(
                "invalid",
                f"document {ranking.truncated[0]} does not fit beside the query into {self.info.max_length} tokens, "
                "and the request forbids truncation",
            )
        return ranking

    def _refuse_if_full(self) -> None:
        most = self.max_queue_tokens
        if most is not None and (waiting := self.model.stats().waiting_tokens) >= most:
            raise Problem("overloaded", f"{waiting:,} tokens wait already, of {most:,}", self.retry_after_s())

    def _encode(self, request: Rerank, chunks: int | None) -> tuple[list[EncodedDocument], set[int]]:
        """Documents as tokens, cut where the request says, and which were."""
        encoded = self.model.model.encode(request.documents)
        most, longest = request.max_tokens, self.info.max_length
        (query,) = self.model.model.encode([str(request.query)]).lengths.tolist()
        room = max(longest - query, longest // 4)  # of a document in a part, beside the query
        tokens = 0
        for length in encoded.lengths.tolist():
            length = min(length, most or length)
            parts = min(max(1, math.ceil(length / room)), chunks or math.inf)
            tokens += min(length + parts * query, parts * longest)
        if tokens > self._most_tokens:
            raise Problem(
                "too_large", f"{tokens:,} tokens to be read, of {self._most_tokens:,} that a request may have"
            )
        if most is None:
            return list(encoded), set()
        cut = [EncodedDocument(document.ids[:most], document.tokenizer) for document in encoded]
        return cut, {i for i, length in enumerate(encoded.lengths.tolist()) if length > most}

    async def _spans(
        self, request: Rerank, ranking: Ranking, started: float, budget_ms: float | None
    ) -> dict[int, list[Span]]:
        """Sentences of the documents that are told, each scored by itself beside the query."""
        assert request.spans is not None, "asked for"
        assert isinstance(request.query, str), "by a dialect of one query"
        told = (entry["corpus_id"] for entry in ranking[: request.top_n])
        found_in = ((index, start, end) for index in told for start, end in sentences(request.documents[index]))
        places = list(islice(found_in, _MOST_SPANS))  # a text of megabytes is not looked through for more
        found = await self.model.rank(
            request.query,
            [request.documents[index][start:end] for index, start, end in places],
            activation_fn=self._probability,
            deadline_ms=_left_ms(started, budget_ms),
        )
        spans: dict[int, list[Span]] = {entry["corpus_id"]: [] for entry in ranking[: request.top_n]}
        for entry in found:
            index, start, end = places[entry["corpus_id"]]
            score, wanted = entry["score"], request.spans
            room = wanted.most is None or len(spans[index]) < wanted.most
            if score is not None and score >= wanted.threshold and room:
                spans[index].append(Span(start, end, score))
        ranking.tokens += found.tokens
        return {index: sorted(few, key=lambda span: span.start) for index, few in spans.items()}

    def _told(
        self, request: Rerank, ranking: Ranking, spans: Mapping[int, Sequence[Span]], id: str, seconds: float
    ) -> Answer:
        none = NO_LOGIT if request.logits else 0.0
        entries, failed = [], []
        for place in ranking:
            index, score = place["corpus_id"], place["score"]
            if score is not None and math.isnan(score):
                failed.append(index)
                score = None
            document = None if request.originals is None else request.originals[index]
            entries.append(Entry(index, none if score is None else score, document, spans.get(index)))
        queries = [request.query] if isinstance(request.query, str) else request.query
        warnings = [*request.unused]
        if ranking.truncated:
            warnings.append(
                f"{len(ranking.truncated)} documents were not read to their end, first {ranking.truncated[0]}"
            )
        if failed:
            warnings.append(f"the model gives NaN for {len(failed)} documents, first {min(failed)}: they have no score")
        if not ranking.complete:
            warnings.append(f"{ranking.scored} of {len(request.documents)} documents are scored: {ranking.reason}")
        return Answer(
            id=id,
            model=self.name,
            created=int(time.time()),
            entries=entries[: request.top_n],
            documents=len(request.documents),
            scored=ranking.scored - len(failed),
            failed=sorted(failed),
            complete=ranking.complete,
            truncated=ranking.truncated,
            tokens=ranking.tokens,
            characters=sum(map(len, [*queries, *request.documents])),
            seconds=seconds,
            warnings=warnings,
        )


def _left_ms(started: float, budget_ms: float | None) -> float | None:
    """Milliseconds that are left; a little of it even after the end, so that there is an answer."""
    return None if budget_ms is None else max(0.1, budget_ms - 1000 * (time.perf_counter() - started))


def sentences(text: str) -> Iterator[tuple[int, int]]:
    r"""Where the sentences of a text begin and end, in code points, without the space around them.

    >>> list(sentences("One. Two, 3.5 of it!\n\nThree"))
    [(0, 4), (5, 20), (22, 27)]
    """
    start = 0
    for end in chain((match.end() for match in _BREAK.finditer(text)), [len(text)]):
        while start < end:
            stop = min(end, start + _LONGEST_SPAN)
            piece = text[start:stop]
            if inner := piece.strip():
                first = start + piece.index(inner[0])
                yield first, first + len(inner)
            start = stop


def load(models: Model | Mapping[str, Model], max_queue_tokens: int, **options: Any) -> dict[str, Served]:
    """The models of a server by their names; those given by name or folder are loaded.

    Raises:
        InputError: If there is none, or two have one name.
        CrossrankError: If one cannot be loaded.
    """
    named = models if isinstance(models, Mapping) else {"": models}
    if not named:
        raise InputError("models: at least one is needed, by name or folder")
    served: dict[str, Served] = {}
    for name, given in named.items():
        owned = not isinstance(given, CrossEncoder | AsyncCrossEncoder)
        if isinstance(given, AsyncCrossEncoder):
            model = given
        elif isinstance(given, CrossEncoder):
            model = AsyncCrossEncoder(given)
        else:
            model = AsyncCrossEncoder(given, max_queue_tokens=max_queue_tokens)
        name = name or model.model.info().name.rpartition("/")[2]
        if name in served:
            raise InputError(f"models: two are named {name!r:.100}")
        served[name] = Served(name, model, owned=owned, max_queue_tokens=max_queue_tokens if owned else None, **options)
    return served
