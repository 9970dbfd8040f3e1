"""The queue of requests as a state machine: any interleaving of what can happen, compared with plain sets of pairs."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from crossrank import Closed, Overloaded
from crossrank._artifact.manifest import read_manifest
from crossrank._device.cpu import CpuBackend
from crossrank._schedule.chunk import Batch, Chunk
from crossrank._schedule.queue import ChunkQueue
from crossrank._schedule.scheduler import Scheduler
from crossrank._text.pairs import PairSource, PairTemplate
from crossrank._text.tokens import Tokens
from tests.support.artifacts import make_artifact

PLANS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), max_size=8)


NO_SPECIAL = PairTemplate(((), (), ()), ((), (), ()), 0, 0)


def chunk_of(plan: list[tuple[int, int]], max_pairs: int | None = None, *, flat: bool = False) -> Chunk:
    """Documents of one call that would run in batches of so many tokens and pairs, if it were alone."""
    lengths = np.array([length for length, pairs in plan for _ in range(pairs)], np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    documents = Tokens(np.zeros(offsets[-1], np.int32), offsets)
    pairs = np.arange(len(lengths))
    queries = Tokens(np.zeros(0, np.int32), np.zeros(2, np.int64))
    source = PairSource(NO_SPECIAL, queries, documents, np.zeros(len(lengths), np.intp), 10**6)
    chunk = Chunk(source, pairs, pairs, 1, np.zeros(len(lengths), bool), max_pairs=max_pairs)
    bounds = np.cumsum([0, *(pairs for _, pairs in plan)]).tolist()
    chunk.plan([pairs[start:stop] for start, stop in pairwise(bounds)], flat=flat)
    return chunk


def run(queue: ChunkQueue, batch: Batch) -> list[Chunk]:
    """Returns the requests that ended by it."""
    open_before = [piece.chunk for piece in batch.pieces if piece.chunk.outcome is None]
    queue.done(batch)
    return list(dict.fromkeys(request for request in open_before if request.outcome is not None))


class QueueMachine(RuleBasedStateMachine):
    """Every request ends exactly once, every pair of one that is done was in exactly one settled batch, in bounds."""

    flat = False
    batches: Bundle[Batch] = Bundle("batches")
    requests: Bundle[Chunk] = Bundle("requests")

    @initialize(lanes=st.integers(1, 4), bound=st.none() | st.integers(1, 400), budget=st.integers(1, 200))
    def open_queue(self, lanes: int, bound: int | None, budget: int) -> None:
        self.queue = ChunkQueue(lanes, bound)
        self.budget, self.closed = budget, False
        self.lengths: dict[Chunk, list[int]] = {}  # of each request that was taken in, by pair
        self.settled: dict[Chunk, Counter[int]] = {}
        self.running: set[Batch] = set()
        self.ended: dict[Chunk, str] = {}

    @rule(target=requests, plan=PLANS, max_pairs=st.none() | st.integers(1, 5))
    def submit(self, plan: list[tuple[int, int]], max_pairs: int | None) -> Chunk:
        request = chunk_of(plan, max_pairs, flat=self.flat)
        waiting = self.queue.waiting_tokens
        bound = self.queue.max_tokens
        try:
            self.queue.submit(request)
        except Closed:
            assert self.closed
            return request
        except Overloaded:
            assert bound is not None
            assert waiting
            assert waiting + request.tokens > bound
            assert self.queue.waiting_tokens == waiting
            return request
        assert not self.closed
        if not plan:
            assert request.outcome == "done"
            return request
        self.lengths[request] = [length for length, pairs in plan for _ in range(pairs)]
        self.settled[request] = Counter()
        return request

    @rule(target=batches)
    def begin(self) -> Batch:
        waiting = self.queue.waiting_tokens
        batch = self.queue.next_batch(self.budget)
        if batch is None:
            assert not waiting
            return Batch(1, [], 1)
        pairs = sum(stop - start for _, start, stop in batch.pieces)
        assert pairs == 1 or batch.tokens <= min(self.budget, batch.capacity)
        assert batch.tokens <= batch.capacity
        for request, start, stop in batch.pieces:
            assert request not in self.ended
            assert pairs <= (request.max_pairs or pairs)
            assert set(self.lengths[request][start:stop]) == {batch.kind} or self.flat
        lengths = [n for request, start, stop in batch.pieces for n in self.lengths[request][start:stop]]
        assert (batch.pairs, batch.tokens) == (len(lengths), sum(lengths))
        self.running.add(batch)
        return batch

    @rule(batch=consumes(batches))
    def finish(self, batch: Batch) -> None:
        if batch not in self.running:
            return
        self.running.remove(batch)
        for request, start, stop in batch.pieces:
            self.settled[request].update(range(start, stop))
        for request in run(self.queue, batch):
            self.note_end(request, "done")

    @rule(batch=consumes(batches))
    def fail_batch(self, batch: Batch) -> None:
        if batch not in self.running:
            return
        self.running.remove(batch)
        for request in {piece.chunk for piece in batch.pieces}:
            if self.queue.end(request, "failed", ValueError("broken")):
                self.note_end(request, "failed")
        assert run(self.queue, batch) == []

    @rule(batch=consumes(batches))
    def interrupt(self, batch: Batch) -> None:
        if batch in self.running:
            self.running.remove(batch)
            self.queue.drop([batch])
        waiting = self.queue.waiting_tokens
        self.queue.drop([batch])  # another time changes nothing
        assert self.queue.waiting_tokens == waiting

    @rule(request=requests)
    def cancel(self, request: Chunk) -> None:
        known = request in self.lengths
        before = request.outcome
        assert self.queue.end(request, "cancelled") == (before is None)
        if known and before is None:
            self.note_end(request, "cancelled")

    @rule()
    def close(self) -> None:
        self.queue.close()
        self.closed = True

    def note_end(self, request: Chunk, outcome: str) -> None:
        assert request not in self.ended
        assert request.outcome == outcome
        self.ended[request] = outcome

    @invariant()
    def books_are_right(self) -> None:
        taken: dict[Chunk, Counter[int]] = {request: Counter(self.settled[request]) for request in self.lengths}
        for batch in self.running:
            for request, start, stop in batch.pieces:
                taken[request].update(range(start, stop))
        self.order_is_right()
        waiting = 0
        for request, lengths in self.lengths.items():
            assert all(count == 1 for count in taken[request].values())
            if request not in self.ended:
                waiting += sum(length for pair, length in enumerate(lengths) if pair not in taken[request])
            elif self.ended[request] == "done":
                assert len(self.settled[request]) == len(lengths)
        assert self.queue.waiting_tokens == waiting
        assert set(self.queue.open.values()) == set(self.lengths) - set(self.ended)

    def order_is_right(self) -> None:
        sizes = self.queue._order._sizes.values()
        for size in sizes:
            assert list(size.waiting) == sorted(size.waiting)
            if size.waiting:
                assert size.weight == pytest.approx(sum(request.weight for request in size.waiting.values()))
        left = {request for request in self.queue.open.values() if request.left}
        assert {request for size in sizes for request in size.waiting.values()} == left

    def teardown(self) -> None:
        """Whatever was left can be worked off: none hangs."""
        for batch in self.running:
            self.queue.drop([batch])
        while (rest := self.queue.next_batch(self.budget)) is not None:
            for request, start, stop in rest.pieces:
                self.settled[request].update(range(start, stop))
            for request in run(self.queue, rest):
                self.note_end(request, "done")
        self.running.clear()
        assert set(self.ended) == set(self.lengths)
        self.books_are_right()


class FlatQueueMachine(QueueMachine):
    """The same where pairs of any lengths run together."""

    flat = True


FlatQueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_every_interleaving_ends_each_request_once_where_lengths_are_mixed = FlatQueueMachine.TestCase
QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_every_interleaving_ends_each_request_once_with_all_its_pairs = QueueMachine.TestCase


def test_a_batch_has_room_for_what_it_holds() -> None:
    """Also where each lane's share of what is open is smaller than a pair."""
    queue = ChunkQueue(4)
    queue.submit(chunk_of([(30, 1), (5, 2)], flat=True))
    while (batch := queue.next_batch(512)) is not None:
        assert 0 < batch.tokens <= batch.capacity
        queue.done(batch)


def work_off(queue: ChunkQueue, max_tokens: int = 512) -> dict[Chunk, int]:
    """Tokens that had run when each request ended."""
    ran = 0
    ends: dict[Chunk, int] = {}
    while (batch := queue.next_batch(max_tokens)) is not None:
        ran += batch.tokens
        ends |= dict.fromkeys(run(queue, batch), ran)
    return ends


@given(plan=PLANS.filter(bool), lanes=st.integers(1, 4), budget=st.integers(1, 300))
def test_alone_a_request_runs_in_the_order_of_its_plan(plan: list[tuple[int, int]], lanes: int, budget: int) -> None:
    queue = ChunkQueue(lanes)
    request = chunk_of(plan)
    queue.submit(request)
    lengths = []
    while (batch := queue.next_batch(budget)) is not None:
        lengths.append(batch.kind)
        queue.done(batch)
    assert list(dict.fromkeys(lengths)) == list(dict.fromkeys(length for length, _ in plan))
    assert request.outcome == "done"


@pytest.mark.parametrize(("lanes", "sizes"), [(1, [10]), (2, [5, 3, 1, 1]), (4, [2, 2, 1, 1, 1, 1, 1, 1])])
def test_lanes_share_a_small_request_in_few_batches_and_the_last_ones_are_small(lanes: int, sizes: list[int]) -> None:
    queue = ChunkQueue(lanes)
    queue.submit(chunk_of([(97, 10)], flat=True))
    assert [batch.pairs for batch in iter(lambda: queue.next_batch(2048), None)] == sizes


def test_two_documents_run_on_two_lanes_however_short_they_are() -> None:
    queue = ChunkQueue(2)
    queue.submit(chunk_of([(3, 2)], flat=True))
    assert [batch.pairs for batch in iter(lambda: queue.next_batch(2048), None)] == [1, 1]


@pytest.mark.parametrize("large", [1, 2, 5, 20])
@pytest.mark.parametrize("begun", [0, 7, 50])
def test_a_small_request_passes_any_number_of_large_ones(large: int, begun: int) -> None:
    queue = ChunkQueue(2)
    for _ in range(large):
        queue.submit(chunk_of([(length, 10) for length in range(50, 150)]))
    for _ in range(begun):
        batch = queue.next_batch(512)
        assert batch is not None
        queue.done(batch)
    small = chunk_of([(length, 1) for length in range(60, 120, 6)])
    queue.submit(small)
    # Shares go by one over the root of the size; each large one may be a batch ahead or behind of its share.
    share = 1 + large * (small.tokens / 99_500) ** 0.5
    assert work_off(queue)[small] <= share * small.tokens + (large + 1) * 512


def test_requests_of_one_size_are_served_as_they_came() -> None:
    queue = ChunkQueue(1)
    requests = [chunk_of([(11 + i, 3)]) for i in range(5)]
    for request in requests:
        queue.submit(request)
    served = []
    first = queue.next_batch(33)
    assert first is not None
    assert first.pairs == 3
    queue.drop([first])
    while (batch := queue.next_batch(10)) is not None:
        served += [piece.chunk for piece in batch.pieces]
    assert served == [request for request in requests for _ in range(3)]


def test_no_stream_of_small_requests_starves_a_large_one() -> None:
    queue = ChunkQueue(2)
    large = chunk_of([(128, 4)] * 100)
    queue.submit(large)
    ran = 0
    for turn in range(10_000):
        if turn >= 20 and len(queue.open) < 3:
            queue.submit(chunk_of([(100, 2)]))
        batch = queue.next_batch(512)
        assert batch is not None
        ran += batch.tokens
        queue.done(batch)
        if large.outcome == "done":
            break
    # Its share beside two of 200 tokens.
    assert large.outcome == "done"
    assert ran <= (1 + 2 * (large.tokens / 200) ** 0.5) * large.tokens + 512


def test_requests_join_where_lengths_are_the_same() -> None:
    queue = ChunkQueue(1)
    requests = [chunk_of([(100, 1), (50, 1)]) for _ in range(5)]
    for request in requests:
        queue.submit(request)
    sizes = []
    while (batch := queue.next_batch(500)) is not None:
        sizes.append(len(batch.pieces))
        queue.done(batch)
    assert sum(sizes) == 10
    assert len(sizes) < 6  # alone, each of the five would have run two


def test_flat_requests_join_whatever_their_lengths_and_fill_batches() -> None:
    queue = ChunkQueue(1)
    requests = [chunk_of([(90 + i, 1), (40 + i, 1)], flat=True) for i in range(5)]
    for request in requests:
        queue.submit(request)
    batches = []
    while (batch := queue.next_batch(360)) is not None:
        batches.append(batch)
        queue.done(batch)
    assert [batch.pairs for batch in batches] == [5, 5]
    assert all(batch.tokens <= 360 for batch in batches)
    assert all(request.outcome == "done" for request in requests)


def test_a_full_queue_says_how_full_it_is_and_an_empty_one_takes_anything() -> None:
    queue = ChunkQueue(1, max_tokens=100)
    queue.submit(chunk_of([(60, 5)]))
    with pytest.raises(Overloaded, match="300 of 100 tokens wait already and this request has 10 more") as caught:
        queue.submit(chunk_of([(10, 1)]))
    assert (caught.value.waiting_tokens, caught.value.max_tokens, caught.value.request_tokens) == (300, 100, 10)
    while (batch := queue.next_batch(500)) is not None:
        queue.done(batch)
    queue.submit(chunk_of([(10, 1)]))
    assert queue.waiting_tokens == 10


def test_room_is_held_for_what_is_tokenized(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path)
    backend = CpuBackend(folder / "onnx/model_cpu_fp32.onnx", read_manifest(folder).inputs, 1)
    scheduler = Scheduler(backend, max_queue_tokens=100)

    def work() -> None:
        scheduler.reserve(80)
        with pytest.raises(Overloaded, match="80 of 100 tokens wait already and this request has 30 more"):
            scheduler.queue.submit(chunk_of([(30, 1)]))
        with pytest.raises(Overloaded):
            scheduler.queue.require_room(30)
        scheduler.give_back()
        scheduler.queue.submit(chunk_of([(100, 1)]))
        assert not scheduler.queue.reserved

    scheduler.visit(work)


def test_what_runs_as_a_whole_is_counted_and_bounded_until_it_ends() -> None:
    queue = ChunkQueue(1, max_tokens=100)
    whole = [chunk_of([(60, 1)]) for _ in range(2)]
    queue.submit_whole(whole[0])
    with pytest.raises(Overloaded, match="60 of 100 tokens wait already and this request has 60 more"):
        queue.submit_whole(whole[1])
    assert queue.next_batch(500) is None
    assert queue.end(whole[0], "done")
    queue.submit_whole(whole[1])
    assert (queue.waiting_tokens, queue.whole_tokens, queue.tokens) == (0, 60, 60)


def test_requests_beside_the_queue_leave_nothing_in_it() -> None:
    queue = ChunkQueue(1)
    before = chunk_of([(60, 1)])
    queue.submit_whole(before)
    for _ in range(1000):  # never idle
        after = chunk_of([(60, 1)])
        queue.submit_whole(after)
        queue.end(before, "done")
        before = after
    assert not queue._order._sizes
    assert queue.whole_tokens == 60
