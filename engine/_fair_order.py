"""Which of many requests is next, so that small ones are quick and large ones get on. Pure state.

Requests of about one size, of up to twice the tokens, are served one after the other as they came: were they to share,
they would all end late. Sizes share by start-time fair queueing (Goyal, Vin and Cheng, IEEE/ACM Transactions on
Networking 1997), where each waiting request adds a weight of one over the square root of its tokens to its size. So 10
documents pass 1,000 with ten times their speed, and yet no stream of small requests that is not growing starves a large
one: each size gets its share of what runs while it waits.
"""

from dataclasses import dataclass, field
from operator import attrgetter

from ._request import Request


@dataclass(slots=True)
class _Size:
    """Requests of about one size.

    Attributes:
        waiting: By number, the oldest first.
        weight: Of all of them.
        turn: The virtual time at which the next one is to be served.
    """

    waiting: dict[int, Request] = field(default_factory=dict)
    weight: float = 0.0
    turn: float = 0.0


class FairOrder:
    """Requests that have pairs in no batch yet."""

    def __init__(self) -> None:
        self._sizes: dict[int, _Size] = {}  # by bits of the number of tokens
        self._clock = 0.0  # virtual time: the turn that was served last

    def add(self, request: Request) -> None:
        """Let a request wait, behind all that do."""
        size = self._sizes.setdefault(request.tokens.bit_length(), _Size())
        if not size.waiting:
            size.turn, size.weight = max(size.turn, self._clock), 0.0  # rounding does not add up
        size.waiting[request.number] = request
        size.weight += request.weight

    def remove(self, request: Request) -> None:
        """A request waits no more, if it did."""
        size = self._sizes.get(request.tokens.bit_length())
        if size is not None and size.waiting.pop(request.number, None) is not None:
            size.weight -= request.weight

    def next(self) -> Request | None:
        """The one whose turn it is; None if none waits."""
        waiting = [size for size in self._sizes.values() if size.waiting]
        if not waiting:
            return None
        size = min(waiting, key=attrgetter("turn"))
        self._clock = size.turn
        return next(iter(size.waiting.values()))

    def served(self, request: Request, tokens: int) -> None:
        """Take note that so many tokens of a request that waits are in a batch."""
        size = self._sizes[request.tokens.bit_length()]
        size.turn += tokens / size.weight

    def clear(self) -> None:
        """Begin anew, when nothing is left."""
        self._sizes.clear()
        self._clock = 0.0
