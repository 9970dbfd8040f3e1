"""The session of a packed graph, rehearsed on the CPU with the graph's twin: all but the capture of CUDA graphs.

`TOLERANCE` is that of test_parity.py: float32 rounding of logits with a standard deviation of 1.5.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import crossrank._device.cuda.session
import crossrank._device.session
from crossrank import ArtifactError, CrossEncoder, DeviceError
from crossrank._calls.run import Scorer
from crossrank._device.cuda import buffers
from crossrank._device.cuda.graph import DeviceGraph
from crossrank._device.cuda.session import CPU_SETTINGS, PackedSession, _device_thread
from crossrank._device.gpu_options import NO_CAPTURE, provider_options, run_entries, session_entries
from crossrank._device.open import load_graph
from crossrank._device.session import open_graph
from crossrank._machine.device import Device
from crossrank._text.pairs import PackedPairs
from crossrank.export._architectures.checkpoint import Checkpoint, read_checkpoint
from crossrank.export._graphs.graph import save_model
from crossrank.export._graphs.layouts.cpu import build_cpu
from crossrank.export._graphs.layouts.cuda import build_cuda
from tests.support.artifacts import make_artifact
from tests.support.scorers import scorer_of
from tests.support.tiny_models import ARCHITECTURES, PAIRS, make_checkpoint, transformers_logits

TOLERANCE = 2e-5
CPU = Device("cpu")
QUERIES, DOCUMENTS = zip(*PAIRS, strict=True)

Floats = NDArray[np.float32]
MakeTwin = Callable[[str], tuple[Path, Checkpoint, Floats]]


@pytest.fixture(scope="module")
def make_twin(tmp_path_factory: pytest.TempPathFactory) -> MakeTwin:
    @cache
    def make(architecture: str) -> tuple[Path, Checkpoint, Floats]:
        folder = make_checkpoint(tmp_path_factory.mktemp(architecture), architecture)
        checkpoint = read_checkpoint(folder, max_length=None, relevant_label=None)
        types = checkpoint.inputs.token_types
        graph = build_cuda(checkpoint.weights, checkpoint.config, token_types=types, dtype=np.float32, twin=True)
        save_model(graph, folder / "twin.onnx")
        return folder / "twin.onnx", checkpoint, transformers_logits(folder, PAIRS)

    return make


def open_scorer(twin: Path, checkpoint: Checkpoint) -> tuple[Scorer, PackedSession]:
    session = load_graph(twin, checkpoint.inputs, CPU, packed=True)
    assert isinstance(session, PackedSession)
    return scorer_of(checkpoint.tokenizer, session, checkpoint.inputs.max_length, 1), session


def score(scorer: Scorer, pairs: int = len(PAIRS)) -> Floats:
    return scorer.logits(QUERIES[:pairs], DOCUMENTS[:pairs], np.arange(pairs))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_packed_session_equals_transformers_in_batches_and_in_buckets(
    make_twin: MakeTwin, architecture: str
) -> None:
    """MPNet's relative positions too: its bias is as large as the bucket's longest pair, not the batch's."""
    twin, checkpoint, reference = make_twin(architecture)
    scorer, session = open_scorer(twin, checkpoint)
    assert (session.provider, session.labels, session.buckets) == ("CPUExecutionProvider", 1, [])
    before = score(scorer)
    assert np.abs(before - reference).max() <= TOLERANCE
    scorer.backend.warm_up()
    assert len(session.buckets) > 1
    for pairs in (1, 2, 3, 7, len(PAIRS)):
        assert np.abs(score(scorer, pairs) - reference[:pairs]).max() <= TOLERANCE


def test_buckets_are_used_once_they_are_warm_and_give_the_scores_of_a_plain_run(make_twin: MakeTwin) -> None:
    """The same kernels run on more rows; 1e-6: sums may be cut otherwise."""
    twin, checkpoint, _ = make_twin("bert")
    scorer, session = open_scorer(twin, checkpoint)
    before = score(scorer, 3)
    scorer.backend.warm_up()
    ran: list[Any] = []
    graph = session._graph
    assert graph is not None
    run_bucket = graph.run_bucket
    graph.run_bucket = lambda bucket, values: ran.append(bucket.shape) or run_bucket(bucket, values)  # type: ignore[method-assign, func-returns-value]
    np.testing.assert_allclose(score(scorer, 3), before, atol=1e-6)
    assert len(ran) == 1
    assert ran[0] in session.buckets


def test_warming_up_twice_captures_once(make_twin: MakeTwin) -> None:
    twin, checkpoint, _ = make_twin("bert")
    opened: list[bool] = []

    def opening(*args: Any, **options: Any) -> Any:
        opened.append(options["capture"])
        return open_graph(*args, **options)

    session = PackedSession(twin, checkpoint.inputs, CPU, open_graph=opening)
    session.warm_up()
    buckets = session.buckets
    session.warm_up()
    assert session.buckets == buckets
    assert opened == [False]  # a CPU captures nothing, so nothing is opened for it


def test_a_device_that_cannot_capture_runs_without_graphs(
    make_twin: MakeTwin, caplog: pytest.LogCaptureFixture
) -> None:
    twin, checkpoint, reference = make_twin("bert")
    opened: list[bool] = []

    def opening(path: Path, device: Device, threads: int, *, packed: bool, capture: bool) -> Any:
        opened.append(capture)
        if capture:
            raise DeviceError("This session cannot use the graph capture feature")
        return open_graph(path, device, threads, packed=packed, capture=capture)

    session = PackedSession(twin, checkpoint.inputs, CPU, capture=True, open_graph=opening)
    scorer = scorer_of(checkpoint.tokenizer, session, checkpoint.inputs.max_length, 1)
    session.warm_up()
    assert opened == [False, True, False]
    assert not session.buckets
    assert "no CUDA graphs, small batches take longer: This session cannot use the graph capture" in caplog.text
    assert np.abs(score(scorer) - reference).max() <= TOLERANCE


def test_sessions_of_a_device_share_its_thread_and_a_child_has_its_own(make_twin: MakeTwin) -> None:
    twin, checkpoint, _ = make_twin("bert")
    one, other = (PackedSession(twin, checkpoint.inputs, CPU) for _ in range(2))
    assert one._thread is other._thread  # a copy for one would break the capture of the other
    assert _device_thread(CPU, 1)[0] is not one._thread


def test_eight_threads_share_a_packed_session(make_twin: MakeTwin) -> None:
    twin, checkpoint, reference = make_twin("bert")
    scorer, session = open_scorer(twin, checkpoint)
    start = threading.Barrier(8)

    def work(offset: int) -> None:
        start.wait(timeout=30)
        for i in range(6):
            if (i, offset) == (3, 0):
                session.warm_up()  # beside the others
            pairs = 1 + (5 * i + 7 * offset) % len(PAIRS)
            assert np.abs(score(scorer, pairs) - reference[:pairs]).max() <= TOLERANCE

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, offset) for offset in range(8)]:
            future.result(timeout=60)


def test_what_is_submitted_runs_while_the_caller_prepares_more(make_twin: MakeTwin) -> None:
    """Submitting returns before the device is done, and no more than `in_flight` batches wait for it."""
    twin, checkpoint, _ = make_twin("bert")
    gate, taken = threading.Event(), []

    class Slow:
        def __init__(self, session: Any) -> None:
            self._session = session

        def __getattr__(self, name: str) -> Any:
            return getattr(self._session, name)

        def run_with_iobinding(self, *args: Any) -> None:
            gate.wait(30)
            self._session.run_with_iobinding(*args)

        def io_binding(self) -> Any:
            return self._session.io_binding()

    session = PackedSession(twin, checkpoint.inputs, CPU, open_graph=lambda *a, **o: Slow(open_graph(*a, **o)))
    batch = PackedPairs(np.full(9, 5, np.int32), np.zeros(9, np.int32), np.array([4, 5], np.int32))

    def batches() -> Any:
        for i in range(6):
            taken.append(i)
            yield batch

    done = session.submit([batch] * 2, [2, 2])
    other = threading.Thread(target=lambda: session.submit(batches(), [2] * 6)())
    other.start()
    other.join(0.3)
    assert len(taken) <= session.settings.in_flight
    gate.set()
    first, second = done()
    other.join(30)
    np.testing.assert_array_equal(first, second)
    assert len(taken) == 6


class SmallMemory:
    """A session of onnxruntime's whose device holds so many tokens of a batch."""

    def __init__(self, session: Any, most: int) -> None:
        self._session, self._most, self.tokens, self.pairs = session, most, 0, 0
        self.failed: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def io_binding(self) -> Any:
        memory, binding = self, self._session.io_binding()

        class Binding:
            def bind_input(self, name: str, kind: str, index: int, dtype: Any, shape: Any, address: int) -> None:
                if name == "input_ids":
                    memory.tokens = shape[0]
                binding.bind_input(name, kind, index, dtype, shape, address)

            def bind_output(self, name: str, kind: str, index: int, dtype: Any, shape: Any, address: int) -> None:
                memory.pairs = shape[0]
                binding.bind_output(name, kind, index, dtype, shape, address)

        outer = Binding()
        outer.real = binding  # type: ignore[attr-defined]
        return outer

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        if self.tokens > self._most:
            self.failed.append(self.tokens)
            raise RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9")
        self._session.run_with_iobinding(binding.real, options)


def small_session(twin: Path, checkpoint: Checkpoint, most: int) -> tuple[PackedSession, list[SmallMemory]]:
    made: list[SmallMemory] = []

    def opening(*args: Any, **options: Any) -> Any:
        made.append(SmallMemory(open_graph(*args, **options), most))
        return made[-1]

    settings = replace(CPU_SETTINGS, bucket_tokens=())
    return PackedSession(twin, checkpoint.inputs, CPU, settings=settings, open_graph=opening), made


def joined(checkpoint: Checkpoint, pairs: int) -> PackedPairs:
    length = 12
    ids = np.random.default_rng(0).integers(5, 20, pairs * length, np.int32)
    return PackedPairs(ids, np.zeros_like(ids), np.full(pairs, length, np.int32))


def test_a_batch_beyond_the_memory_is_halved_once_and_later_ones_are_smaller(make_twin: MakeTwin) -> None:
    twin, checkpoint, _ = make_twin("bert")
    batch = joined(checkpoint, 8)
    expected = PackedSession(twin, checkpoint.inputs, CPU).run(batch)
    session, (memory,) = small_session(twin, checkpoint, 48)
    assert session.max_tokens == CPU_SETTINGS.max_tokens
    # 1e-6: the same kernels on fewer rows.
    np.testing.assert_allclose(session.run(batch), expected, atol=1e-6)
    assert memory.failed == [96]
    assert session.max_tokens == 48


@pytest.mark.parametrize("pairs", [8, 1])
def test_where_a_half_does_not_fit_either_the_error_says_what_to_do(make_twin: MakeTwin, pairs: int) -> None:
    twin, checkpoint, _ = make_twin("bert")
    session, (memory,) = small_session(twin, checkpoint, 11)
    with pytest.raises(DeviceError) as caught:
        session.run(joined(checkpoint, pairs))
    message = str(caught.value)
    assert f"device cpu: out of memory with {pairs} pairs of {pairs * 12} tokens in a batch" in message
    assert "a smaller batch_size, or use device='cpu'" in message
    assert "Failed to allocate memory" in message
    assert len(memory.failed) == (2 if pairs > 1 else 1)
    memory._most = 1000  # the session lives on
    assert session.run(joined(checkpoint, pairs)).shape == (pairs, 1)


def test_batches_that_were_planned_together_halve_the_budget_once(make_twin: MakeTwin) -> None:
    twin, checkpoint, _ = make_twin("bert")
    batch = joined(checkpoint, 8)
    expected = PackedSession(twin, checkpoint.inputs, CPU).run(batch)
    session, (memory,) = small_session(twin, checkpoint, 48)
    for logits in session.submit([batch] * 6, [8] * 6)():
        np.testing.assert_allclose(logits, expected, atol=1e-6)
    assert memory.failed == [96] * 6
    assert session.max_tokens == 48


@pytest.mark.parametrize("max_length", [48, 300, 512])
def test_warming_up_runs_as_many_tokens_and_pairs_as_any_batch_may_have(make_twin: MakeTwin, max_length: int) -> None:
    """Else captured graphs would read what is freed: of either, a buffer that grows frees what it was."""
    twin, checkpoint, _ = make_twin("bert")
    inputs = replace(checkpoint.inputs, max_length=min(max_length, checkpoint.inputs.max_length))
    ran: list[tuple[int, int]] = []

    class Watched(SmallMemory):
        def run_with_iobinding(self, binding: Any, options: Any) -> None:
            ran.append((self.tokens, self.pairs))
            super().run_with_iobinding(binding, options)

    def opening(*args: Any, **options: Any) -> Any:
        return Watched(open_graph(*args, **options | {"capture": False}), 10**9)

    settings = replace(CPU_SETTINGS, max_tokens=1000, bucket_tokens=(128, 960))
    session = PackedSession(twin, inputs, CPU, settings=settings, capture=True, open_graph=opening)
    session.warm_up()
    captured = [(shape.tokens, shape.pairs) for shape in session.buckets]
    assert captured
    ran = ran[: ran.index(captured[0])]  # before, since what is captured reads what is there then
    tokens, pairs = map(max, zip(*ran, strict=True))
    assert tokens == 1000
    for longest in (1, 3, 8, 9, inputs.max_length):
        lengths = np.arange(3000, dtype=np.int32) % longest + 1
        for index in session.plan(lengths, None):
            assert lengths[index].sum() <= tokens
            assert len(index) <= pairs


def test_a_session_that_could_not_be_opened_again_says_so_and_opens_when_there_is_room(make_twin: MakeTwin) -> None:
    twin, checkpoint, _ = make_twin("bert")
    batch = joined(checkpoint, 8)
    expected, full = PackedSession(twin, checkpoint.inputs, CPU).run(batch), False

    def opening(*args: Any, **options: Any) -> Any:
        if full:
            raise DeviceError("device cuda: Failed to allocate memory")
        return open_graph(*args, **options | {"capture": False})

    session = PackedSession(twin, checkpoint.inputs, CPU, capture=True, open_graph=opening)
    full = True
    for call in (session.warm_up, lambda: session.run(batch)):
        with pytest.raises(DeviceError, match="Failed to allocate memory"):
            call()
    full = False
    np.testing.assert_allclose(session.run(batch), expected, atol=1e-6)


class NoMemory(RuntimeError):
    """As onnxruntime raises it."""

    __module__ = "onnxruntime.capi"


@pytest.mark.parametrize("what", ["Slab", "Rows"])
def test_where_there_is_no_memory_for_inputs_or_outputs_the_batch_is_halved_or_refused_by_name(
    make_twin: MakeTwin, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    twin, checkpoint, _ = make_twin("bert")
    batch = joined(checkpoint, 8)
    session, _ = small_session(twin, checkpoint, 10**9)
    expected = PackedSession(twin, checkpoint.inputs, CPU).run(batch)
    made, left = getattr(buffers, what), 1

    def make(*args: Any) -> Any:
        nonlocal left
        if left:
            left -= 1
            raise NoMemory("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9")
        return made(*args)

    monkeypatch.setattr(buffers, what, make)
    np.testing.assert_allclose(session.run(batch), expected, atol=1e-6)
    left = 100
    session = small_session(twin, checkpoint, 10**9)[0]
    with pytest.raises(DeviceError, match="out of memory"):
        session.run(batch)


@pytest.mark.parametrize("warm", [False, True])
def test_a_slab_comes_back_whatever_packing_raises(
    make_twin: MakeTwin, monkeypatch: pytest.MonkeyPatch, warm: bool
) -> None:
    """In a batch by itself, and in one that is brought to a captured shape."""
    twin, checkpoint, _ = make_twin("bert")
    batch, made = joined(checkpoint, 1), buffers.Slab
    session, count = PackedSession(twin, checkpoint.inputs, CPU), 0

    def make(*args: Any) -> Any:
        nonlocal count
        count += 1
        return made(*args)

    def fail(*args: Any) -> None:
        raise MemoryError("packing")

    if warm:
        session.warm_up()
    session.run(batch)
    monkeypatch.setattr(buffers, "Slab", make)
    with monkeypatch.context() as broken:
        broken.setattr(crossrank._device.cuda.session, "pack", fail)
        for _ in range(3):
            with pytest.raises(MemoryError):
                session.submit([batch], [1])
    session.run(batch)
    assert count == 0


def test_a_graph_that_is_not_packed_is_refused_by_its_inputs(make_twin: MakeTwin, tmp_path: Path) -> None:
    _, checkpoint, _ = make_twin("bert")
    save_model(build_cpu(checkpoint.weights, checkpoint.config, token_types=True), tmp_path / "cpu.onnx")
    with pytest.raises(ArtifactError, match="no packed graph, its inputs are input_ids, token_type_ids; export"):
        PackedSession(tmp_path / "cpu.onnx", checkpoint.inputs, CPU)


def test_an_id_beyond_the_vocabulary_is_the_graphs_error_and_the_session_lives_on(make_twin: MakeTwin) -> None:
    twin, checkpoint, _ = make_twin("bert")
    session = PackedSession(twin, checkpoint.inputs, CPU)
    batch = joined(checkpoint, 3)
    with pytest.raises(ArtifactError, match=r"twin\.onnx: onnxruntime .* fails in it"):
        session.run(replace(batch, ids=batch.ids + 100_000))
    assert np.isfinite(session.run(batch)).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_told_to_load_the_model_itself(make_twin: MakeTwin) -> None:
    twin, checkpoint, _ = make_twin("bert")
    session = PackedSession(twin, checkpoint.inputs, CPU)
    session._process = -1  # as in a child
    with pytest.raises(DeviceError, match="a forked process cannot use its parent's session; load the model in the"):
        session.run(joined(checkpoint, 1))


def test_options_of_a_gpu_are_what_they_are_documented_to_be() -> None:
    options = provider_options(3, capture=True)
    assert options["device_id"] == "3"
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert (options["use_tf32"], options["enable_cuda_graph"]) == ("0", "1")
    assert options["enable_skip_layer_norm_strict_mode"] == "1"  # else its sums are in float16, up to 1.26
    assert provider_options(0)["enable_cuda_graph"] == "0"
    assert "device_id" not in provider_options(0)  # of which onnxruntime warns, in each session
    assert session_entries(all_on_device=True) == {"session.disable_cpu_ep_fallback": "1"}
    assert session_entries(all_on_device=False) == {}
    assert run_entries(NO_CAPTURE) == {"gpu_graph_id": "-1"}


def test_a_gpus_session_has_no_threads_of_its_own_no_memory_of_each_shape_and_no_lines_to_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Opened(Exception):
        pass

    def opened(path: str, *, sess_options: Any, **more: Any) -> None:
        raise Opened(sess_options)

    monkeypatch.setattr(crossrank._device.session, "check_device", lambda device: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    with pytest.raises(Opened) as caught:
        open_graph(tmp_path, Device("cuda"), 8, packed=True)
    (options,) = caught.value.args
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert not options.enable_mem_pattern
    graph = object.__new__(DeviceGraph)
    graph.device = Device("cuda")
    assert graph._run_options(NO_CAPTURE).log_severity_level == 4  # a shortage that is handled is no error


def test_warm_up_on_a_cpu_leaves_the_scores_as_they_are(tmp_path: Path) -> None:
    model = CrossEncoder(make_artifact(tmp_path), device="cpu", threads=2)
    before = model.predict(PAIRS)
    model.warm_up()
    np.testing.assert_array_equal(model.predict(PAIRS), before)
