"""The costs of a graph as a process comes to know them: from the cache, or measured when there was work enough."""

import logging
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import RLock

from ._costs import Costs, costs_path, describe_subject, load_costs, measure_costs, sample_batch, save_costs
from ._errors import CrossrankError
from ._session import Session
from ._tokenize import PairTokenizer

logger = logging.getLogger(__name__)

_MEASURE_S = 0.5
# Measuring waits until it adds a tenth, so that no short-lived process pays for it.
_WORK_S = 10 * _MEASURE_S
# Whatever is measured: below it noise chooses, and every model loses.
_LEAST_MAX_TOKENS = 256
# Ids that sample batches are drawn from: a damaged tokenizer may have one of billions.
_MOST_IDS = 1 << 20


class LearnedCosts:
    """What batches cost on a session without threads of its own. Thread-safe.

    Args:
        session: The graph.
        threads: Lanes that drive it.
        tokenizer: Of the model, for batches to measure.
        longest: Most tokens of a pair.
        cache_folder: Where costs are kept, as `locate_model` takes it.
    """

    def __init__(
        self, session: Session, threads: int, tokenizer: PairTokenizer, longest: int, cache_folder: Path | None
    ) -> None:
        self._session, self._tokenizer, self._longest = session, tokenizer, longest
        self._subject = describe_subject(session.file, session.device, threads)
        self._file = costs_path(cache_folder, self._subject)
        self.known: Costs | None = load_costs(self._file) if self._file else None
        self._worked_s = 0.0
        self._measuring = RLock()  # kept by the thread that measures, which tries again if it was interrupted
        self._failed = False

    @property
    def max_tokens(self) -> int | None:
        """Budget of a batch in tokens; None until it is known."""
        return max(_LEAST_MAX_TOKENS, self.known.max_tokens) if self.known else None

    def worked(self, seconds: float) -> None:
        """Take notice of a call's time; learn when there was enough of it."""
        self._worked_s += seconds
        if self._worked_s > _WORK_S:
            self.learn()

    def learn(self) -> None:
        """Read the costs from the cache or measure them, which takes half a second, unless they are known."""
        if self.known is None and not self._failed and self._measuring.acquire(blocking=False):
            try:
                self.known = (load_costs(self._file) if self._file else None) or self._measure()
            except CrossrankError as error:  # a call that has its scores does not fail for this
                self._failed = True
                logger.debug("costs are not measured: %s", error)

    def _measure(self) -> Costs:
        vocabulary = min(self._tokenizer.vocabulary_size, _MOST_IDS)

        @cache
        def batch(pairs: int, length: int) -> Callable[[], object]:
            sample = sample_batch(self._tokenizer.template, vocabulary, pairs, length, 0)
            return lambda: self._session.run(sample)

        # The session works on the calling thread alone; Windows counts its time in steps of 15 ms.
        clock = time.thread_time if os.name == "posix" else time.perf_counter
        costs = measure_costs(
            lambda pairs, length: batch(pairs, length)(),
            longest=self._longest,
            subject=self._subject,
            budget_s=_MEASURE_S,
            clock=clock,
        )
        if self._file:
            save_costs(self._file, costs)
        return costs
