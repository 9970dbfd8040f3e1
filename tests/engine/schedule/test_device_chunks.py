"""Chunks on a device that keeps itself busy, as a GPU does: given as a whole, counted, bounded, closed, waited for."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from crossrank import Closed, CrossEncoder, DeviceError, Overloaded
from crossrank._calls.deadline import Deadline
from crossrank._calls.run import Run, Scorer
from crossrank._device.session import Session
from crossrank._machine.device import Device
from crossrank._text.pairs import PackedPairs
from tests.support.artifacts import make_artifact
from tests.support.callers import ATOL, DOCUMENTS, QUERY, WAIT_S, eventually
from tests.support.scorers import scorer_of

Floats = NDArray[np.float32]


class Held(Session):
    """A session that gives its logits when it is let, as a GPU does when it has computed them.

    Attributes:
        gate: Set while they come.
        seen: What was done, in order: "submitted", "waited for".
        fails: Whether waiting fails.
    """

    gate: threading.Event
    seen: list[str]
    fails = False

    def submit(self, batches: Iterable[PackedPairs], pairs: Sequence[int]) -> Callable[[], list[Floats]]:
        found = super().submit(batches, pairs)
        self.seen.append("submitted")

        def wait() -> list[Floats]:
            assert self.gate.wait(timeout=WAIT_S)
            self.seen.append("waited for")
            if self.fails:
                raise DeviceError("the device fails")
            return found()

        return wait


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    return CrossEncoder(make_artifact(tmp_path_factory.mktemp("tiny")), device="cpu", activation_fn="identity")


@pytest.fixture
def device(model: CrossEncoder) -> Held:
    device = Held(model._model.backend.path, model._model.manifest.inputs, Device("cpu"))
    device.gate, device.seen = threading.Event(), []
    device.gate.set()
    return device


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def scorer_on(device: Held, model: CrossEncoder, max_queue_tokens: int | None = None) -> Scorer:
    opened = model._model
    length = opened.manifest.inputs.max_length
    return scorer_of(opened.tokenizer, device, length, 1, max_queue_tokens=max_queue_tokens)


def score(scorer: Scorer, documents: Sequence[str] = DOCUMENTS) -> Floats:
    return scorer.logits([QUERY], documents, np.zeros(len(documents), np.intp))[:, 0]


def test_what_a_device_computes_counts_until_it_is_done(
    model: CrossEncoder, device: Held, pool: ThreadPoolExecutor
) -> None:
    scorer = scorer_on(device, model, max_queue_tokens=100)
    device.gate.clear()
    first = pool.submit(score, scorer)  # alone it is taken in, whatever its size
    assert eventually(lambda: device.seen == ["submitted"])
    stats = scorer.scheduler.stats()
    assert (stats.waiting_requests, stats.batches) == (1, 0)
    assert stats.waiting_tokens > 100
    with pytest.raises(Overloaded):
        score(scorer)
    device.gate.set()
    np.testing.assert_allclose(first.result(timeout=WAIT_S), model.score(QUERY, DOCUMENTS), atol=ATOL)
    stats = scorer.scheduler.stats()
    assert (stats.waiting_requests, stats.waiting_tokens, stats.batches, stats.batch_fill) == (0, 0, 1, 1.0)
    np.testing.assert_allclose(score(scorer), model.score(QUERY, DOCUMENTS), atol=ATOL)


@pytest.mark.parametrize("finish", [True, False])
def test_closing_waits_for_what_a_device_was_given(
    model: CrossEncoder, device: Held, pool: ThreadPoolExecutor, finish: bool
) -> None:
    scorer = scorer_on(device, model)
    device.gate.clear()
    call = pool.submit(score, scorer)
    assert eventually(lambda: device.seen == ["submitted"])
    closing = pool.submit(scorer.schedulers.close, finish=finish)
    assert eventually(lambda: scorer.scheduler.queue.closed)
    with pytest.raises(Closed):
        score(scorer)
    assert not closing.done()
    device.gate.set()
    closing.result(timeout=WAIT_S)
    np.testing.assert_allclose(call.result(timeout=WAIT_S), model.score(QUERY, DOCUMENTS), atol=ATOL)


def test_a_device_that_fails_fails_its_call_and_keeps_no_place(model: CrossEncoder, device: Held) -> None:
    scorer = scorer_on(device, model, max_queue_tokens=100)
    device.fails = True
    with pytest.raises(DeviceError, match="the device fails"):
        score(scorer)
    stats = scorer.scheduler.stats()
    assert (stats.waiting_requests, stats.waiting_tokens) == (0, 0)
    device.fails = False
    np.testing.assert_allclose(score(scorer), model.score(QUERY, DOCUMENTS), atol=ATOL)


# The first chunk of texts has 1,024 documents, and all of one are the same to the model: a pair of each is computed.
TWO_CHUNKS = [DOCUMENTS[0]] * 1024 + [DOCUMENTS[1]]


def test_a_device_computes_a_chunk_while_the_next_one_is_read(model: CrossEncoder, device: Held) -> None:
    scores = score(scorer_on(device, model), TWO_CHUNKS)
    assert device.seen == ["submitted", "submitted", "waited for", "waited for"]
    np.testing.assert_allclose(scores[1023:], model.score(QUERY, DOCUMENTS[:2]), atol=ATOL)


def test_a_bounded_queue_has_one_chunk_of_a_call_at_a_time(model: CrossEncoder, device: Held) -> None:
    score(scorer_on(device, model, max_queue_tokens=1_000_000), TWO_CHUNKS)
    assert device.seen == ["submitted", "waited for"] * 2


def test_with_a_deadline_no_chunk_is_read_before_the_last_one_is_computed(model: CrossEncoder, device: Held) -> None:
    scorer, rows = scorer_on(device, model), np.zeros(len(DOCUMENTS), np.intp)
    found = Run(scorer, [QUERY], lambda: DOCUMENTS, rows, deadline=Deadline(60_000)).finish()
    assert found.complete
    assert device.seen == ["submitted", "waited for"] * (len(device.seen) // 2)
    assert len(device.seen) >= 4
    np.testing.assert_allclose(found.logits[:, 0], model.score(QUERY, DOCUMENTS), atol=ATOL)


def test_a_call_given_up_while_its_documents_are_read_never_gets_to_the_device(
    model: CrossEncoder, device: Held
) -> None:
    scorer = scorer_on(device, model)

    def documents() -> Sequence[str]:
        run.give_up("cancelled")
        return DOCUMENTS

    run = Run(scorer, [QUERY], documents, np.zeros(len(DOCUMENTS), np.intp))
    assert run.step() is None
    assert device.seen == []
    assert scorer.scheduler.stats().waiting_requests == 0
