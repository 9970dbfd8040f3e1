"""What backends of a CPU share: lanes, and the costs of their batches."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossrank._machine.device import Device
from crossrank._text.pairs import PackedPairs
from crossrank._text.tokenizer import PairTokenizer

from .costs import WORK_S, Costs, LearnedCosts
from .session import run_in_turn

Floats = NDArray[np.float32]


class LaneBackend(ABC):
    """A graph that threads run batches of, each a lane, on themselves alone. A part of `Backend`.

    Args:
        lanes: Threads.
        max_tokens: Budget of a batch in tokens until it is measured.
        subject: What is measured, of `describe_subject`.
    """

    def __init__(self, lanes: int, max_tokens: int, subject: str) -> None:
        self.lanes, self.max_tokens, self.device = lanes, max_tokens, Device("cpu")
        self.max_tokens_origin = "until measured"
        self.learned: LearnedCosts | None = None
        self._subject, self._worked_s = subject, 0.0

    @abstractmethod
    def run(self, batch: PackedPairs, *, alone: bool = False) -> Floats:
        """As of `Backend`."""

    def learn_costs(self, tokenizer: PairTokenizer, longest: int, cache_folder: Path | None) -> None:
        """Let the budget of a batch follow what batches are measured to cost; see `LearnedCosts`.

        Args:
            tokenizer: Of the model.
            longest: Most tokens of a pair.
            cache_folder: Where costs are kept, as `locate_model` takes it.
        """
        self.learned = LearnedCosts(self.run, self._subject, tokenizer, longest, cache_folder)
        self._take_costs()

    @property
    def costs(self) -> Costs | None:
        """What batches take on one lane, where it is known."""
        return self.learned.known if self.learned else None

    def submit(self, batches: Iterable[PackedPairs], pairs: Sequence[int]) -> Callable[[], list[Floats]]:
        """Run batches one after the other, on this thread; returns what gives the logits of each."""
        return run_in_turn(self.run, batches)

    def worked(self, seconds: float) -> None:
        """Take notice of seconds that each lane worked; when there were enough of them, measure what batches cost."""
        self._worked_s += seconds
        if self._worked_s > WORK_S and self.learned is not None and self.learned.known is None:
            self.learned.learn()
            self._take_costs()

    def warm_up(self) -> None:
        """Measure what batches cost, in half a second, where it is not known yet."""
        if self.learned is not None:
            self.learned.learn()
            self._take_costs()

    def _take_costs(self) -> None:
        measured = self.learned.max_tokens if self.learned else None
        if measured is not None:
            self.max_tokens, self.max_tokens_origin = measured, "measured on this machine"
