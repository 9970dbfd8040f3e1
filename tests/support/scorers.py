"""A scorer of a graph that was opened by itself, without an artifact around it."""

from crossrank._calls.run import Scorer
from crossrank._device.backend import Backend
from crossrank._schedule.processes import Schedulers
from crossrank._schedule.scheduler import Scheduler
from crossrank._text.tokenizer import PairTokenizer


def scorer_of(
    tokenizer: PairTokenizer, backend: Backend, max_length: int, labels: int, *, max_queue_tokens: int | None = None
) -> Scorer:
    schedulers = Schedulers(lambda: Scheduler(backend, max_queue_tokens=max_queue_tokens))
    return Scorer(tokenizer, backend, max_length, labels, schedulers)
