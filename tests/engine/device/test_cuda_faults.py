"""What went wrong on GPUs, on an emulation of CUDA: memory is counted there, bounded, and no number once freed."""

import gc
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crossrank._device.cuda.session
from crossrank import DeviceError
from crossrank._device.cuda.batches import most_pairs, plan_packed_batches
from crossrank._device.cuda.buffers import Slab
from crossrank._text.pairs import PackedPairs
from tests.support import rig
from tests.support.launches import batch_of, open_packed

pytestmark = [pytest.mark.gpu, pytest.mark.emulation, pytest.mark.usefixtures("emulated_norms")]

SMALL = [20, 30, 40]


def pairs_of(lengths: list[int]) -> PackedPairs:
    """Pairs of these lengths, of random tokens."""
    tokens = sum(lengths)
    ids = np.random.default_rng(0).integers(5, 60, tokens, np.int32)
    return PackedPairs(ids, np.zeros(tokens, np.int32), np.array(lengths, np.int32))


@pytest.mark.parametrize("architecture", ["bert", "electra"])  # rows of the head; and of what projects all tokens
def test_captured_graphs_read_nothing_that_a_later_batch_frees(tmp_path: Path, architecture: str) -> None:
    """As many tokens as a batch may have, and as many pairs: onnxruntime up to 1.30 frees what had fewer rows."""
    session = open_packed(tmp_path, architecture)
    small = pairs_of(SMALL)
    plain = session.run(small)
    session.warm_up()
    assert session.buckets
    captured = session.run(small)
    np.testing.assert_allclose(captured, plain, rtol=0, atol=0.01)
    for length, most in ((41, 32768 // 41), (4, most_pairs(session.max_tokens))):
        lengths = np.full(most + 1, length, np.int32)
        index = plan_packed_batches(lengths, max_tokens=session.max_tokens)[0]
        assert len(index) == most
        session.run(pairs_of(lengths[index].tolist()))
        np.testing.assert_array_equal(session.run(small), captured)


def test_one_call_whose_batches_do_not_fit_halves_the_budget_once(tmp_path: Path) -> None:
    session = open_packed(tmp_path)
    before, whole = session.max_tokens, batch_of(session.max_tokens)
    session.run(batch_of(before // 2))  # so that much fits
    with rig.room_for(4 << 20):
        answers = session.submit([whole] * 4, [len(whole.lengths)] * 4)()
    assert [len(logits) for logits in answers] == [len(whole.lengths)] * 4
    assert session.max_tokens == len(whole.ids) // 2


def test_after_a_shortage_the_old_graph_makes_room_for_the_one_that_captures(tmp_path: Path) -> None:
    """Tracebacks keep what they passed, in cycles; and here no collection comes of its own accord."""
    session, small = open_packed(tmp_path, hidden_size=256, intermediate_size=1024), pairs_of(SMALL)
    expected = session.run(small)
    gc.collect()
    gc.disable()
    try:
        with rig.room_for(1 << 20):
            with pytest.raises(DeviceError, match="out of memory"):
                session.run(batch_of(16384))
            with pytest.raises(DeviceError):
                session.warm_up()
            np.testing.assert_array_equal(session.run(small), expected)
    finally:
        gc.enable()


@pytest.mark.parametrize("batch", [pairs_of(SMALL), batch_of(8192)], ids=["small", "large"])
def test_where_there_is_no_memory_for_inputs_the_error_is_ours_and_later_calls_work(
    tmp_path: Path, batch: PackedPairs
) -> None:
    session = open_packed(tmp_path)
    with rig.room_for(0):
        taken = []  # what onnxruntime has kept for inputs, of other sessions too
        for size in (1 << 20, 1 << 16, 1 << 12, 1 << 6):
            with suppress(RuntimeError):
                while True:
                    taken.append(Slab(size, "cuda", 0))
        with pytest.raises(DeviceError, match="out of memory"):
            session.run(batch)
    taken.clear()
    assert np.isfinite(session.run(batch)).all()


def test_a_batch_that_cannot_be_packed_leaves_its_memory_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, batch = open_packed(tmp_path), batch_of(8192)
    session.run(batch)

    def fail(*args: Any) -> None:
        raise MemoryError("packing")

    with rig.trace() as lines:
        with monkeypatch.context() as broken:
            broken.setattr(crossrank._device.cuda.session, "pack", fail)
            for _ in range(3):
                with pytest.raises(MemoryError):
                    session.run(batch)
        session.run(batch)
    assert not [line for line in lines if "cudaHostRegister" in line]  # of new memory for inputs


def test_neither_opening_nor_a_batch_that_is_halved_prints_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    open_packed(tmp_path / "before")  # what is said once in a process is no matter of ours
    capfd.readouterr()
    session = open_packed(tmp_path)
    session.run(batch_of(16384))
    with rig.room_for(1 << 20):
        session.run(batch_of(32768))
    assert session.max_tokens < 32768
    out, err = capfd.readouterr()
    assert "onnxruntime" not in out + err


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_another_session_brings_no_threads(tmp_path: Path) -> None:
    sessions = [open_packed(tmp_path / "first")]
    sessions[0].run(pairs_of(SMALL))
    before = len(os.listdir("/proc/self/task"))
    sessions.append(open_packed(tmp_path / "second"))
    sessions[1].run(pairs_of(SMALL))
    assert len(os.listdir("/proc/self/task")) == before


def test_shapes_within_the_largest_take_no_memory_of_their_own(tmp_path: Path) -> None:
    session = open_packed(tmp_path)
    session.warm_up()
    before = rig.allocations()
    for length in [*range(5, 45, 4)] * 2:
        session.run(batch_of(20000 + 100 * length, length))
    assert rig.allocations() == before
