"""The run loop: texts to logits, in the order given."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from crossrank._device.costs import Costs
from crossrank._device.runner import Runner, Take, Wait
from crossrank._errors import Closed, Overloaded
from crossrank._progress import Progress
from crossrank._schedule.meter import Account
from crossrank._schedule.scheduler import Scheduler
from crossrank._text.distinct import DistinctPairs, select_texts
from crossrank._text.pairs import PairSource, enough_document_tokens
from crossrank._text.tokenizer import PairTokenizer, TokenEstimate
from crossrank._text.tokens import Tokens
from crossrank._text.windows import Windows, truncated_documents

from .deadline import Deadline, TimeUp
from .found import Floats, Found, Ints, Part, gather

logger = logging.getLogger(__name__)

# Documents planned together: enough to sort well, few enough that their arrays stay small.
_WINDOW = 4096
_LEAST_WINDOW = 64  # of documents that are read in many windows each


@dataclass(frozen=True, slots=True)
class Scorer:
    """A tokenizer and a graph that belong together.

    Attributes:
        tokenizer: The model's tokenizer.
        runner: The model's graph.
        max_length: Most tokens of a joined pair.
        labels: Logits per pair.
        scheduler: Where several callers share the graph, or None for one caller.
        estimate: What is known of the documents' tokens before they are tokenized.
    """

    tokenizer: PairTokenizer
    runner: Runner
    max_length: int
    labels: int
    scheduler: Scheduler | None = None
    estimate: TokenEstimate = field(default_factory=TokenEstimate)

    @property
    def room(self) -> int:
        """Tokens of a pair beside the special ones."""
        return self.max_length - self.tokenizer.template.special_count

    @property
    def lanes(self) -> int:
        """Batches that run side by side."""
        return self.runner.lanes.count if self.runner.lanes else 1

    @property
    def costs(self) -> Costs | None:
        """What batches take on one lane, where it is known."""
        return self.runner.costs

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
        work = PairWork(self, queries, lambda: documents, query_index, progress=progress)
        self.run(work, max_pairs)
        return work.finish().logits

    def run(self, work: "PairWork", max_pairs: int | None) -> None:
        """Have all of a call's pairs computed, or as many as its deadline lets it.

        Args:
            work: The call.
            max_pairs: Most pairs of a batch, or None.
        """
        if self.scheduler is None:
            self._run(work, self.runner.submit, max_pairs)
        else:
            stop_at = None if work.deadline is None else work.deadline.stop_at
            submit = partial(self.scheduler.submit, stop_at=stop_at)
            self.scheduler.visit(partial(self._run, work, submit, max_pairs))

    def _run(
        self, work: "PairWork", submit: Callable[[PairSource, int | None, Take], Wait], max_pairs: int | None
    ) -> None:
        one_by_one = work.deadline is not None or (self.scheduler is not None and self.scheduler.bounded)
        wait: Wait | None = None
        try:
            while (window := work.next_window()) is not None:
                # On a GPU the next documents are tokenized while it computes these.
                before, wait = wait, submit(window, max_pairs, work.take_of(window))
                if before is not None:
                    before()
                # The size of a deadline's next step hangs on what this one took; a bounded queue would count both.
                if one_by_one:
                    wait()
                    wait = None
        except (Overloaded, Closed) as error:
            work.refused(error)
        finally:
            if wait is not None:
                wait()


class PairWork:
    """The pairs of one call on their way: tokens a window at a time, logits in the order given.

    Args:
        scorer: The model.
        queries: The distinct queries, each tokenized once.
        documents: Gives one document per pair, as `Scorer.logits` takes them; asked once, before the first window.
        query_index: int [documents].
        windows: How long documents are cut, of a call with one query; None for truncation.
        deadline: When to stop, or None.
        progress: Told how many documents are done.
        account: Gets what this took.
    """

    def __init__(
        self,
        scorer: Scorer,
        queries: Sequence[str],
        documents: Callable[[], Sequence[str] | Tokens],
        query_index: NDArray[np.intp],
        *,
        windows: Windows | None = None,
        deadline: Deadline | None = None,
        progress: Progress | None = None,
        account: Account | None = None,
    ) -> None:
        self.deadline = deadline
        self._scorer, self._queries, self._query_index = scorer, queries, query_index
        self._read_documents, self._windows = documents, windows
        self._progress, self._account = progress, account or Account(len(query_index))
        self._next = 0
        self._query_tokens: Tokens | None = None
        self._documents: Sequence[str] | Tokens | None = None
        self._rows = np.zeros(0, np.intp)  # of the window's pairs
        self._distinct = DistinctPairs()
        self._parts: list[Part] = []

    def require_room(self, documents: Sequence[object]) -> None:
        """Raise what a full queue refuses the first documents with, so quickly that an event loop may ask.

        With a deadline only the time that is left then tells how many come first: that says nothing here.

        Args:
            documents: All of the call's, as its caller gave them.

        Raises:
            Overloaded: If not even a low estimate of their tokens finds room.
            Closed: After the model was closed.
        """
        scorer = self._scorer
        if self.deadline is None and scorer.scheduler is not None and scorer.scheduler.bounded:
            first = documents[: self._most_documents()]
            scorer.scheduler.desk.require_room(scorer.estimate.at_least(first, scorer.room))

    def next_window(self) -> PairSource | None:
        """Tokenize the next documents. Returns those of their pairs that are new; None after the last ones."""
        while most := self._most_documents():
            start = time.perf_counter()
            if self._documents is None:
                self._documents = self._read_documents()
            if self._next == len(self._query_index):
                self._read_queries()  # without a document they are checked all the same
                return None
            reserved = self._reserve(self._documents, most)
            try:
                pairs = self._read_window(self._read_queries(), self._documents, most)
            except TimeUp:
                return None
            finally:
                if reserved is not None:
                    reserved()
            self._account.tokenizing_s += time.perf_counter() - start
            if pairs is not None:
                self._account.tokens += int(pairs.lengths.sum())
                return pairs
        return None

    def take_of(self, window: PairSource) -> Take:
        """What takes the logits of the window that was read last."""
        rows, part = self._rows, self._parts[-1]
        first = None if part.windows is None else np.cumsum(part.windows) - part.windows

        def take(index: Ints, found: Floats) -> None:
            taken = rows[index]
            part.take(taken, found)
            if self._progress is not None:  # of a document in windows the first one counts
                self._progress.advance(len(taken) if first is None else int(np.isin(taken, first).sum()))

        return take

    def refused(self, error: Overloaded | Closed) -> None:
        """Go on without the documents that were not taken in any more, if there is a deadline and others are scored.

        Raises:
            Overloaded: Otherwise, as it is; or Closed.
        """
        if self.deadline is None or not any(part.scored.any() for part in self._parts):
            raise error
        self.deadline.reason = str(error)

    def finish(self) -> Found:
        """What was found, when every window's logits are taken, or when time is up."""
        if self._progress is not None:
            self._progress.finish()
        found = gather(list(self._parts), len(self._query_index), self._scorer.labels)
        account = self._account
        account.truncated, account.unscored = len(found.truncated), found.documents - len(found.scored)
        if np.isnan(found.logits).any():
            bad = np.unique(found.of_pairs()[np.isnan(found.logits).any(axis=1)])
            account.without_score = len(bad)
            logger.warning(
                "the model gives NaN for %d of %d documents, first for %d", len(bad), found.documents, bad[0]
            )
        return found

    def _most_documents(self) -> int:
        """How many to read next; 0 when time is up."""
        most = _WINDOW if self._windows is None else max(_LEAST_WINDOW, _WINDOW // self._windows.most)
        if self.deadline is None:
            return most
        return min(most, self.deadline.next_documents(self._next, self._scorer.lanes, self._scorer.costs))

    def _reserve(self, documents: Sequence[str] | Tokens, most: int) -> Callable[[], object] | None:
        """Room in the queue for the next documents while they are tokenized. Returns what gives it back."""
        scorer = self._scorer
        if scorer.scheduler is None or isinstance(documents, Tokens):
            return None
        texts = documents[self._next : self._next + most]
        return scorer.scheduler.desk.reserve(scorer.estimate.at_least(texts, scorer.room))

    def _pause(self) -> None:
        """Called in the middle of tokenizing."""
        if self._scorer.scheduler is not None:
            self._scorer.scheduler.desk.pause()
        if self.deadline is not None and self.deadline.left_s() <= 0:
            raise TimeUp

    def _read_queries(self) -> Tokens:
        if self._query_tokens is None:
            self._query_tokens = self._scorer.tokenizer.encode(self._queries, "query")
        return self._query_tokens

    def _read_window(self, queries: Tokens, documents: Sequence[str] | Tokens, most: int) -> PairSource | None:
        scorer, tokenizer = self._scorer, self._scorer.tokenizer
        start, stop = self._next, min(self._next + most, len(self._query_index))
        query_index = self._query_index[start:stop]
        enough = needed = enough_document_tokens(queries.lengths, scorer.room)
        windows, most_pairs = self._windows, 0
        if windows is not None:
            enough = windows.size(int(queries.lengths[0]), scorer.room)
            if self.deadline is not None:  # a document of more windows than there is time for will not be scored
                most_pairs = self.deadline.most_pairs(scorer.max_length, scorer.lanes, scorer.costs)
                windows = replace(windows, most=min(windows.most, most_pairs + 1))
            needed = windows.reach(enough) + 1
        if isinstance(documents, Tokens):
            tokens = documents.part(start, stop)
            tokenizer.check_ids(tokens, "document", first=start)
        else:
            texts = documents[start:stop]
            pause = self._pause if scorer.scheduler else None
            tokens = tokenizer.encode(texts, "document", first=start, enough=needed, pause=pause)
            scorer.estimate.learn(texts, len(tokens.ids))
        counts = None
        if windows is not None and self.deadline is not None:
            fitting = int(np.searchsorted(np.cumsum(windows.counts(tokens.lengths, enough)), most_pairs, "right"))
            if not fitting:
                raise TimeUp
            stop = start + fitting
            tokens, query_index = tokens.part(0, fitting), query_index[:fitting]
        if windows is None:
            cut = truncated_documents(queries.lengths[query_index], tokens.lengths, scorer.room)
        else:
            cut = tokens.lengths >= needed
            tokens, counts = windows.cut(tokens, enough)
            query_index = np.repeat(query_index, counts)
        new = like = np.arange(len(query_index))
        if len(query_index) > 1 or len(self._query_index) > 1:
            new, like = self._distinct.find(tokens, query_index, enough)
        part = Part(like, scorer.labels, cut, counts)
        self._parts.append(part)
        self._next, self._rows = stop, new
        if len(new) < len(like):
            tokens, query_index = select_texts(tokens, new), query_index[new]
            first = np.arange(len(like)) if counts is None else np.cumsum(counts) - counts
            if self._progress is not None:
                self._progress.advance(len(np.setdiff1d(first, new)))
        if not len(new):
            return None
        return PairSource(tokenizer.template, queries, tokens, query_index, scorer.max_length)
