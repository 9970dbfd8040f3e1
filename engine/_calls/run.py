"""The run of a call: its documents read in chunks, each on its way through the model while the next one is read."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from crossrank._device.backend import Backend
from crossrank._errors import Closed, Overloaded
from crossrank._progress import Progress
from crossrank._schedule.chunk import Chunk, Outcome
from crossrank._schedule.meter import Account
from crossrank._schedule.processes import Schedulers
from crossrank._schedule.scheduler import Scheduler
from crossrank._text.distinct import DistinctPairs
from crossrank._text.pairs import PairSource, enough_document_tokens, truncated_documents
from crossrank._text.tokenizer import PairTokenizer, TokenEstimate
from crossrank._text.tokens import Tokens
from crossrank._text.windows import Windows

from .answers import Found, gather
from .deadline import Deadline, TimeUp

logger = logging.getLogger(__name__)

# Documents planned together: enough to sort well, few enough that their arrays stay small.
_CHUNK = 4096
_LEAST_CHUNK = 64  # of documents that are read in many windows each
# Texts that are tokenized before a device that works on its own gets them: it waits for the first of a call.
_TEXTS = 1024


@dataclass(frozen=True, slots=True)
class Scorer:
    """A tokenizer and a graph that belong together. A tokenizer beside a GPU hurries from then on.

    Attributes:
        tokenizer: The model's tokenizer.
        backend: The model's graph.
        max_length: Most tokens of a joined pair.
        labels: Logits per pair.
        schedulers: Where callers share the graph.
        estimate: What is known of the documents' tokens before they are tokenized.
    """

    tokenizer: PairTokenizer
    backend: Backend
    max_length: int
    labels: int
    schedulers: Schedulers
    estimate: TokenEstimate = field(default_factory=TokenEstimate)

    def __post_init__(self) -> None:
        if not self.backend.lanes:  # it leaves the cores idle, and texts are what takes the time
            self.tokenizer.hurry()

    @property
    def scheduler(self) -> Scheduler:
        """This process's."""
        return self.schedulers[os.getpid()]

    def logits(
        self,
        queries: Sequence[str],
        documents: Sequence[str] | Tokens,
        query_index: NDArray[np.intp],
        *,
        max_pairs: int | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Logits of pairs. Pairs that are the same to the model are computed once.

        Args:
            queries: The distinct queries, each tokenized once.
            documents: One document per pair: texts, or their tokens in full.
            query_index: int [pairs], the query of each pair.
            max_pairs: Most pairs of a batch, or None.
            progress: Told how many pairs are done.

        Returns:
            float32 [pairs, labels], in the order of ``documents``; NaN where the model gives that.
        """
        run = Run(self, queries, lambda: documents, query_index, max_pairs=max_pairs, progress=progress)
        return run.finish().logits


class Run:
    """One call: tokens a chunk at a time, logits in the order given.

    `finish` does all of it on this thread and those that help; with `step` and `found` others wait for the chunks.

    Args:
        scorer: The model.
        queries: The distinct queries, each tokenized once.
        documents: Gives one document per pair, as `Scorer.logits` takes them; asked once, before the first chunk.
        query_index: int [documents].
        max_pairs: Most pairs of a batch, or None.
        windows: How long documents are cut, of a call with one query; None for truncation.
        deadline: When to stop, or None.
        progress: Told how many documents are done.
        account: Gets what this took.
        on_end: Told when a chunk has ended, from any thread, perhaps twice; or None.

    Attributes:
        read: Whether all documents were read: there is no further step.
    """

    def __init__(
        self,
        scorer: Scorer,
        queries: Sequence[str],
        documents: Callable[[], Sequence[str] | Tokens],
        query_index: NDArray[np.intp],
        *,
        max_pairs: int | None = None,
        windows: Windows | None = None,
        deadline: Deadline | None = None,
        progress: Progress | None = None,
        account: Account | None = None,
        on_end: Callable[[], object] | None = None,
    ) -> None:
        self._scorer, self._scheduler = scorer, scorer.schedulers[os.getpid()]
        self._queries, self._read_documents, self._query_index = queries, documents, query_index
        self._max_pairs, self._windows, self._deadline = max_pairs, windows, deadline
        self._progress, self._account, self._on_end = progress, account or Account(len(query_index)), on_end
        self._next = 0
        self._query_tokens: Tokens | None = None
        self._documents: Sequence[str] | Tokens | None = None
        self._distinct = DistinctPairs()
        self._read: list[Chunk] = []
        self.read = False
        self._given_up = self._let_in = False
        self._room = scorer.max_length - scorer.tokenizer.template.special_count  # of a pair, for both texts

    def finish(self) -> Found:
        """Have all documents scored, or as many as the deadline lets it."""
        try:
            self._scheduler.visit(self._drive)
        except (Overloaded, Closed) as error:
            self.refused(error)
        return self.found()

    def step(self) -> Chunk | None:
        """Read the next chunk and let it go on, for others to wait for its end; None after the last.

        Of a device that keeps itself busy it has ended then.
        """
        return self._scheduler.visit(self._step)

    def give_up(self, outcome: Outcome) -> None:
        """Read no more, and end the chunk that is under way; beside a `step` of another thread's, too."""
        self._given_up = True
        if self._read:
            self._scheduler.end(self._read[-1], outcome)

    def take_place(self, documents: Sequence[object]) -> None:
        """Hold room in the queue for the first documents until they are read, so quickly that an event loop may ask.

        So what waits for a thread to read it counts as waiting, and what was let in once is not refused any more, after
        it was tokenized in vain. With a deadline only the time that is left then tells how many come first: of those
        nothing is known here.

        Args:
            documents: All of the call's, as its caller gave them.

        Raises:
            Overloaded: If not even a low estimate of their tokens finds room.
            Closed: After the model was closed.
        """
        scorer, scheduler = self._scorer, self._scheduler
        if self._deadline is None and scheduler.bounded:
            tokens = scorer.estimate.at_least(documents[: self._most_documents()], self._room)
            scheduler.queue.require_room(tokens)
            if tokens:  # else nothing is known yet
                scheduler.queue.reserved[self] = scorer.estimate.expected(tokens)

    def give_back(self) -> None:
        """Hold no room any more."""
        self._scheduler.queue.reserved.pop(self, None)

    def refused(self, error: Overloaded | Closed) -> None:
        """Go on without the documents that were not taken in any more, if there is a deadline and others are scored.

        Raises:
            Overloaded: Otherwise, as it is; or Closed.
        """
        if self._deadline is None or not any(chunk.scored.any() for chunk in self._read):
            raise error
        self._deadline.reason = str(error)

    def found(self) -> Found:
        """What was found, when every chunk has ended, or when time is up."""
        if self._progress is not None:
            self._progress.finish()
        found = gather(self._read, len(self._query_index), self._scorer.labels)
        account = self._account
        account.truncated, account.unscored = len(found.truncated), found.documents - len(found.scored)
        if np.isnan(found.logits).any():
            bad = np.unique(found.of_pairs()[np.isnan(found.logits).any(axis=1)])
            account.without_score = len(bad)
            logger.warning(
                "the model gives NaN for %d of %d documents, first for %d", len(bad), found.documents, bad[0]
            )
        return found

    def _drive(self) -> None:
        scheduler = self._scheduler
        stop_at = None if self._deadline is None else self._deadline.stop_at
        # The size of a deadline's next step hangs on what this one took; a bounded queue would count both.
        one_by_one = stop_at is not None or scheduler.bounded
        waiting: Chunk | None = None
        try:
            while (chunk := self._advance()) is not None:
                # The next documents are tokenized while the last of these are computed.
                before, waiting = waiting, chunk
                if before is not None:
                    scheduler.wait(before)
                if one_by_one:
                    waiting = None
                    scheduler.wait(chunk, stop_at)
        finally:
            if waiting is not None:
                scheduler.wait(waiting)

    def _step(self) -> Chunk | None:
        chunk = self._advance()
        if chunk is None:
            return None
        if chunk.wait_for_device is not None:
            self._scheduler.wait(chunk)
        else:
            self._scheduler.leave(chunk)
        return chunk

    def _advance(self) -> Chunk | None:
        """Read the next documents, and let their pairs wait for their turn; in a visit.

        No generator: one that waits when an exception passes is ended by the interpreter, which loses what a signal
        handler raises meanwhile.

        Returns:
            What is to be waited for; None after the last ones, or when time is up.
        """
        if self.read:
            return None
        scheduler, in_time = self._scheduler, self._deadline is not None
        if not in_time:  # learning takes longer than most deadlines leave
            scheduler.learn()
        chunk = self._next_chunk()
        if chunk is None:
            return None
        self.read = self._next == len(self._query_index)
        self._read.append(chunk)
        if self._given_up:  # before that line; behind it `give_up` ends the chunk
            return None
        scheduler.enter(chunk, work=not in_time)  # who must be back in time leaves the work to other threads
        return chunk

    def _next_chunk(self) -> Chunk | None:
        """The next documents, tokenized; None after the last ones, or when time is up."""
        if self._given_up or not (most := self._most_documents()):
            return None
        start = time.perf_counter()
        if self._documents is None:
            self._documents = documents = self._read_documents()
            if isinstance(documents, Tokens) and self._windows is None:
                self._distinct = DistinctPairs(documents, self._query_index)
        texts = None
        if self._next < len(self._query_index) and not isinstance(self._documents, Tokens):
            if not self._scorer.backend.lanes:
                most = min(most, _TEXTS)
            texts = self._documents[self._next : self._next + most]
            self._let_in = self._scheduler.reserve(self._scorer.estimate.at_least(texts, self._room), of=self)
        try:
            if self._query_tokens is None:  # without a document they are checked all the same
                self._query_tokens = self._scorer.tokenizer.encode(self._queries, "query")
            if self._next == len(self._query_index):
                return None
            chunk = self._read_chunk(self._query_tokens, self._documents, texts, most)
        except TimeUp:
            return None
        finally:
            if texts is not None:
                self._scheduler.give_back()
        self._account.tokenizing_s += time.perf_counter() - start
        self._account.tokens += chunk.tokens
        return chunk

    def _most_documents(self) -> int:
        """How many to read next; 0 when time is up."""
        most = _CHUNK if self._windows is None else max(_LEAST_CHUNK, _CHUNK // self._windows.most)
        if self._deadline is None:
            return most
        backend = self._scorer.backend
        return min(most, self._deadline.next_documents(self._next, max(1, backend.lanes), backend.costs))

    def _pause(self) -> None:
        """Called in the middle of tokenizing."""
        self._scheduler.pause()
        if self._deadline is not None and self._deadline.left_s() <= 0:
            raise TimeUp

    def _read_chunk(
        self, queries: Tokens, documents: Sequence[str] | Tokens, texts: Sequence[str] | None, most: int
    ) -> Chunk:
        scorer, tokenizer = self._scorer, self._scorer.tokenizer
        room = self._room
        start, stop = self._next, min(self._next + most, len(self._query_index))
        query_index = self._query_index[start:stop]
        enough = needed = enough_document_tokens(queries.lengths, room)
        windows, most_pairs = self._windows, 0
        if windows is not None:
            enough = windows.size(int(queries.lengths[0]), room)
            if self._deadline is not None:  # a document of more windows than there is time for will not be scored
                backend = scorer.backend
                most_pairs = self._deadline.most_pairs(scorer.max_length, max(1, backend.lanes), backend.costs)
                windows = replace(windows, most=min(windows.most, most_pairs + 1))
            needed = windows.reach(enough) + 1
        if texts is None:
            assert isinstance(documents, Tokens), "what is no tokens is texts"
            tokens = documents.part(start, stop)
            tokenizer.check_ids(tokens, "document", first=start)
        else:
            tokens = tokenizer.encode(texts, "document", first=start, enough=needed, pause=self._pause)
            scorer.estimate.learn(texts, len(tokens.ids))
        counts = None
        if windows is not None and self._deadline is not None:
            fitting = int(np.searchsorted(np.cumsum(windows.counts(tokens.lengths, enough)), most_pairs, "right"))
            if not fitting:
                raise TimeUp
            stop = start + fitting
            tokens, query_index = tokens.part(0, fitting), query_index[:fitting]
        if windows is None:
            cut = truncated_documents(queries.lengths[query_index], tokens.lengths, room)
        else:
            cut = tokens.lengths >= needed
            tokens, counts = windows.cut(tokens, enough)
            query_index = np.repeat(query_index, counts)
        self._next = stop
        new = like = np.arange(len(query_index))
        if len(query_index) > 1 or len(self._query_index) > 1:
            new, like = self._distinct.find(tokens, query_index, enough)
        repeated = len(new) < len(like)
        if repeated:
            tokens, query_index = tokens.take(new), query_index[new]
        source = PairSource(tokenizer.template, queries, tokens, query_index, scorer.max_length)
        chunk = Chunk(source, like, new, scorer.labels, cut, counts, max_pairs=self._max_pairs, progress=self._progress)
        chunk.on_end, chunk.let_in = self._on_end, self._let_in
        if repeated:
            chunk.note_repeated()
        return chunk
