"""A model on a GPU, or on an emulation of CUDA, by all ways of calling it. Skipped where there is neither."""

import asyncio
import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from numpy.typing import NDArray

from crossrank import AsyncCrossEncoder, Closed, CrossEncoder, DeviceError, RankedDocument
from crossrank._device.cuda.session import GPU_SETTINGS, PackedSession
from crossrank.export import export_model
from tests.support import rig
from tests.support.callers import eventually
from tests.support.rankings import scores_of
from tests.support.tiny_models import MAX_LENGTH, PAIRS, make_checkpoint, transformers_logits

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("emulated_norms")]

# The bound of float16, 0.02, times the standard deviation of the logits.
TOLERANCE = 0.03
QUERY = "What keeps the sea calm?"
DOCUMENTS = [document for _, document in PAIRS]
MANY = [f"{i} {document}" for i in range(150) for document in DOCUMENTS]  # chunks of 1,024 and less

NOT_EMULATED = pytest.mark.skipif(rig.EMULATED, reason="kernels that the emulation does not compute")

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    return export_model(make_checkpoint(folder / "checkpoint", "bert"), folder / "artifact", variants=["cpu", "cuda"])


@pytest.fixture(scope="module")
def on_cpu(artifact: Path) -> CrossEncoder:
    return CrossEncoder(artifact, device="cpu", precision="fp32", activation_fn="identity")


@pytest.fixture(scope="module")
def expected(on_cpu: CrossEncoder) -> Floats:
    """The scores of MANY."""
    return on_cpu.score(QUERY, MANY)


@pytest.fixture
def model(artifact: Path) -> CrossEncoder:
    return CrossEncoder(artifact, device="cuda", activation_fn="identity")


def session_of(model: CrossEncoder) -> PackedSession:
    session = model._scorer.backend
    assert isinstance(session, PackedSession)
    return session


def assert_like(scores: Floats, expected: Floats) -> None:
    assert scores.shape == expected.shape
    assert np.abs(scores - expected).max() <= TOLERANCE


def assert_begins(ranking: list[RankedDocument], expected: Floats) -> None:
    """All entries that have a score have the right one."""
    scored = [entry for entry in ranking if entry["score"] is not None]
    assert_like(np.array(scores_of(scored), np.float32), expected[[entry["corpus_id"] for entry in scored]])


def awaited(model: CrossEncoder, query: str, documents: list[str]) -> Floats:
    """The same call in an event loop."""

    async def call() -> Floats:
        return await AsyncCrossEncoder(model).score(query, documents)

    return asyncio.run(call())


@pytest.mark.parametrize(
    "architecture",
    [
        *("bert", "roberta", "mpnet"),  # plain, other positions, a bias in attention
        *(pytest.param(name, marks=NOT_EMULATED) for name in ("modernbert", "deberta-v2", "gte")),
    ],
)
def test_a_gpu_gives_the_references_scores_plain_and_captured(tmp_path: Path, architecture: str) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", architecture)
    artifact = export_model(checkpoint, tmp_path / "artifact", variants=["cuda"])
    reference = transformers_logits(checkpoint, PAIRS)[:, 0]
    model = CrossEncoder(artifact, device="cuda", activation_fn="identity")
    assert model.info().provider == "CUDAExecutionProvider"
    assert np.abs(model.predict(PAIRS) - reference).max() <= TOLERANCE
    model.warm_up()
    assert session_of(model).buckets  # else a warning says why nothing was captured
    for pairs in (1, 3, len(PAIRS), 1):
        assert np.abs(model.predict(PAIRS[:pairs]) - reference[:pairs]).max() <= TOLERANCE
    many = model.predict(list(PAIRS) * 400)  # several batches, beyond all buckets
    assert np.abs(many.reshape(400, -1) - reference).max() <= TOLERANCE


def test_a_gpu_is_taken_unasked_where_the_model_has_a_graph_for_it(artifact: Path) -> None:
    assert CrossEncoder(artifact).info().device == "cuda:0"
    assert CrossEncoder().info().device == "cpu"  # the embedded one has none


def test_each_call_gives_what_it_gives_on_a_cpu(model: CrossEncoder, on_cpu: CrossEncoder) -> None:
    assert_like(model.score(QUERY, DOCUMENTS), on_cpu.score(QUERY, DOCUMENTS))
    assert_like(model.score(QUERY, on_cpu.encode(DOCUMENTS)), on_cpu.score(QUERY, DOCUMENTS))
    assert_like(model.predict(PAIRS, batch_size=3), on_cpu.predict(PAIRS))
    assert abs(model.predict(PAIRS[0]) - on_cpu.predict(PAIRS[0])) <= TOLERANCE
    assert model.score(QUERY, []).shape == (0,)
    assert model.rank(QUERY, []) == []
    ranking = model.rank(QUERY, DOCUMENTS, top_k=5, return_documents=True)
    assert_begins(ranking, on_cpu.score(QUERY, DOCUMENTS))
    assert [entry["text"] for entry in ranking] == [DOCUMENTS[entry["corpus_id"]] for entry in ranking]
    assert (ranking.scored, ranking.complete) == (len(DOCUMENTS), True)
    assert ranking.truncated == on_cpu.rank(QUERY, DOCUMENTS).truncated
    in_windows = model.rank(QUERY, DOCUMENTS, max_windows=4, window_overlap=2)
    theirs = sorted(on_cpu.rank(QUERY, DOCUMENTS, max_windows=4, window_overlap=2), key=lambda e: e["corpus_id"])
    assert_begins(in_windows, np.array(scores_of(theirs), np.float32))


def test_a_call_of_several_chunks_is_counted_and_equals_small_ones(
    model: CrossEncoder, on_cpu: CrossEncoder, expected: Floats
) -> None:
    assert_like(model.score(QUERY, MANY), expected)
    stats, theirs = model.stats(), on_cpu.stats()
    assert (stats.requests, stats.documents, stats.batches) == (1, len(MANY), -(-len(MANY) // 1024))
    assert stats.tokens <= theirs.tokens
    assert (stats.waiting_requests, stats.waiting_tokens) == (0, 0)
    assert_like(model.score(QUERY, MANY[-10:]), expected[-10:])


def test_calls_that_come_while_shapes_are_captured_are_right(model: CrossEncoder, expected: Floats) -> None:
    wrong: list[object] = []

    def call(first: int) -> None:
        try:
            for start in range(first, first + 40, 8):
                assert_like(model.score(QUERY, MANY[start : start + 20]), expected[start : start + 20])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=call, args=(40 * i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    model.warm_up()
    for thread in threads:
        thread.join()
    assert not wrong
    assert session_of(model).buckets


def test_a_deadline_leaves_the_beginning_of_the_list_scored(model: CrossEncoder, expected: Floats) -> None:
    documents, all_scores = MANY * 4, np.tile(expected, 4)  # each is read, and told to be there again
    model.rank(QUERY, DOCUMENTS, deadline_ms=10_000)
    ranking = model.rank(QUERY, documents, deadline_ms=5)
    assert not ranking.complete
    assert ranking.reason is not None
    assert len(ranking) == len(documents)
    assert 0 < ranking.scored < len(documents)
    assert sorted(entry["corpus_id"] for entry in ranking[: ranking.scored]) == list(range(ranking.scored))
    assert_begins(ranking, all_scores)
    assert model.stats().late == 1
    complete = model.rank(QUERY, MANY, deadline_ms=60_000)
    assert complete.complete
    assert_begins(complete, expected)


def test_asyncio_calls_share_the_gpu_are_late_are_cancelled_and_leave_nothing(artifact: Path, expected: Floats) -> None:
    async def work() -> None:
        async with AsyncCrossEncoder(artifact, device="cuda", activation_fn="identity") as model:
            starts = range(0, 160, 10)
            found = await asyncio.gather(*(model.score(QUERY, MANY[i : i + 30]) for i in starts))
            for start, scores in zip(starts, found, strict=True):
                assert_like(scores, expected[start : start + 30])
            assert_like(await model.score(QUERY, MANY), expected)
            late = await model.rank(QUERY, MANY * 4, deadline_ms=5)
            assert not late.complete
            assert_begins(late, np.tile(expected, 4))
            task = asyncio.create_task(model.score(QUERY, MANY))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert_like(await model.score(QUERY, MANY[:30]), expected[:30])
        assert eventually(lambda: model.stats().waiting_tokens == 0)  # what is late is tokenized to the next pause
        stats = model.stats()
        assert (stats.late, stats.cancelled, stats.waiting_requests) == (1, 1, 0)
        with pytest.raises(Closed):
            await model.score(QUERY, DOCUMENTS)

    asyncio.run(asyncio.wait_for(work(), 60))


@pytest.mark.parametrize("finish", [True, False])
def test_closing_waits_for_what_the_gpu_was_given(model: CrossEncoder, expected: Floats, finish: bool) -> None:
    found: list[object] = []

    def call() -> None:
        try:
            found.append(model.score(QUERY, MANY))
        except Closed as error:
            found.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert eventually(lambda: bool(found) or model.stats().waiting_requests > 0)
    model.close(finish=finish)
    assert model.stats().waiting_requests == 0
    thread.join()
    (result,) = found  # the chunk that had not begun is refused
    if not isinstance(result, Closed):
        assert isinstance(result, np.ndarray)
        assert_like(result, expected)
    with pytest.raises(Closed):
        model.score(QUERY, DOCUMENTS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_is_refused_and_its_parent_goes_on(model: CrossEncoder, expected: Floats) -> None:
    assert_like(model.score(QUERY, MANY[:30]), expected[:30])
    for forbidden in (lambda: model.score(QUERY, DOCUMENTS), model.warm_up):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                forbidden()
            except DeviceError as error:
                os.write(writing, str(error).encode())
            finally:
                os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
        with open(reading, encoding="utf-8") as pipe:
            assert "load the model in the child" in pipe.read()
    assert_like(model.score(QUERY, MANY[:30]), expected[:30])


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers")
def test_a_call_that_a_signal_handler_ends_leaves_nothing_behind(model: CrossEncoder, expected: Floats) -> None:
    class TimeIsUp(Exception):
        pass

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeIsUp

    gc.collect()  # what other tests left: what is raised while that is freed is lost
    before = signal.signal(signal.SIGALRM, stop)
    try:
        for after_s in (0.001, 0.02, 0.2):
            signal.setitimer(signal.ITIMER_REAL, after_s)
            try:
                model.score(QUERY, MANY)
                time.sleep(1)  # it was faster
            except TimeIsUp:
                pass
            stats = model.stats()
            assert (stats.waiting_requests, stats.waiting_tokens) == (0, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert_like(model.score(QUERY, MANY[:30]), expected[:30])


# What an emulation alone can show: memory that runs out or is free again, and what is called of CUDA.


@pytest.mark.emulation
@pytest.mark.parametrize("call", [CrossEncoder.score, awaited])
def test_where_memory_does_not_suffice_a_call_fails_by_name_and_smaller_ones_go_on(
    model: CrossEncoder, expected: Floats, call: Callable[[CrossEncoder, str, list[str]], Floats]
) -> None:
    assert_like(call(model, QUERY, MANY[:30]), expected[:30])
    with rig.room_for(4 << 20):
        with pytest.raises(DeviceError, match=r"out of memory with .* smaller batch_size"):
            call(model, QUERY, MANY[:800])  # in one batch
        assert_like(call(model, QUERY, MANY[:30]), expected[:30])
    assert_like(call(model, QUERY, MANY), expected)
    stats = model.stats()
    assert (stats.requests, stats.failed, stats.waiting_requests, stats.waiting_tokens) == (4, 1, 0, 0)


@pytest.mark.emulation
def test_a_batch_that_does_not_fit_runs_in_halves_and_later_ones_are_smaller(
    model: CrossEncoder, on_cpu: CrossEncoder, expected: Floats, caplog: pytest.LogCaptureFixture
) -> None:
    half = GPU_SETTINGS.max_tokens // 2 // MAX_LENGTH
    documents = [f"{i} {' '.join(DOCUMENTS)}" for i in range(2 * half)]  # all are cut to one length
    model.score(QUERY, documents[:half])
    with rig.room_for(1 << 20):
        assert_like(model.score(QUERY, documents), on_cpu.score(QUERY, documents))
    assert "which is halved" in caplog.text
    assert model.info().batch_tokens < GPU_SETTINGS.max_tokens
    assert_like(model.score(QUERY, MANY), expected)


@pytest.mark.emulation
def test_a_model_that_is_dropped_gives_its_memory_back(artifact: Path) -> None:
    """At once, not when the garbage collector comes. What onnxruntime keeps for the next model's inputs is less."""

    def use() -> tuple[weakref.ref[PackedSession], int]:
        dropped = CrossEncoder(artifact, device="cuda")
        dropped.warm_up()
        dropped.score(QUERY, MANY)
        dropped.rank(QUERY, MANY, deadline_ms=20)
        awaited(dropped, QUERY, DOCUMENTS)
        return weakref.ref(session_of(dropped)), rig.live_bytes()

    gc.collect()
    gc.disable()
    try:
        session, in_use = use()
        assert eventually(lambda: session() is None)
    finally:
        gc.enable()
    assert rig.live_bytes() < in_use // 2  # of the largest batch, the weights, and all captured shapes


@pytest.mark.emulation
def test_a_small_call_after_warm_up_is_one_captured_graph_and_allocates_nothing(model: CrossEncoder) -> None:
    model.warm_up()
    model.score(QUERY, DOCUMENTS[:3])
    before = rig.allocations()
    with rig.trace() as lines:
        model.score(QUERY, DOCUMENTS[:3])
    assert rig.launches(lines) == {"cudaGraphLaunch": 1}
    assert rig.allocations() == before


@pytest.mark.emulation
def test_nothing_is_called_that_ends_a_capture(model: CrossEncoder) -> None:
    with rig.trace() as lines:
        model.warm_up()
    assert len([line for line in lines if "cudaStreamBeginCapture" in line]) == len(session_of(model).buckets)
    assert not [line for line in lines if "UNSAFE-IN-CAPTURE" in line or "INVALID" in line]


@pytest.mark.emulation
def test_a_model_that_is_captured_and_another_that_answers_do_not_disturb_each_other(
    model: CrossEncoder, artifact: Path, tmp_path: Path
) -> None:
    """The other one runs a portable graph by itself, on its caller's thread."""
    portable = export_model(artifact.parent / "checkpoint", tmp_path / "portable", variants=["portable"])
    other = CrossEncoder(portable, device="cuda", activation_fn="identity")
    other.score(QUERY, DOCUMENTS)
    stop = threading.Event()

    def serve() -> int:
        answers = 0
        while not stop.is_set():
            answers += len(other.score(QUERY, DOCUMENTS))  # which raises, where it falls into a capture
        return answers

    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(serve)
        try:
            model.warm_up()
        finally:
            stop.set()
        assert serving.result(60) > 0
    assert session_of(model).buckets
