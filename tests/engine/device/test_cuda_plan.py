"""Packed batches and buckets: nothing lost, budgets kept, and inputs that say the same to the graph's operators."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from crossrank import InputError
from crossrank._artifact.manifest import Inputs
from crossrank._device.cuda.batches import (
    PackedShape,
    choose_bucket,
    fill_up,
    make_buckets,
    plan_packed_batches,
    round_up,
    sample_of,
    shape_of,
)
from crossrank._device.cuda.buffers import ALIGNMENT, PACKED_INPUTS, lay_out, pack, write_token_offsets
from crossrank._device.cuda.session import GPU_SETTINGS
from crossrank._device.inputs import choose_layout
from crossrank._device.out_of_memory import halve, is_out_of_memory
from crossrank._text.pairs import PackedPairs

Lengths = NDArray[np.int32]

lengths_of_pairs = st.lists(st.integers(1, 512), min_size=1, max_size=60).map(lambda values: np.array(values, np.int32))
BUCKETS = make_buckets(GPU_SETTINGS.bucket_tokens, 512)


def make_batch(lengths: Lengths, seed: int = 0) -> PackedPairs:
    rng, tokens = np.random.default_rng(seed), int(lengths.sum())
    return PackedPairs(rng.integers(0, 9, tokens, np.int32), rng.integers(0, 2, tokens, np.int32), lengths)


@given(lengths_of_pairs, st.integers(1, 5000), st.none() | st.integers(1, 40))
def test_every_pair_is_in_one_batch_of_bounded_size(lengths: Lengths, max_tokens: int, max_pairs: int | None) -> None:
    batches = plan_packed_batches(lengths, max_tokens=max_tokens, max_pairs=max_pairs)
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        shape = shape_of(lengths[batch])
        if len(batch) > 1:
            assert shape.tokens <= max_tokens
            assert shape.pairs * shape.longest <= 2 * max_tokens  # entries of token_offset
        assert max_pairs is None or len(batch) <= max_pairs


@given(lengths_of_pairs, st.integers(1, 5000))
def test_pairs_run_longest_first_in_batches_that_could_hold_no_more(lengths: Lengths, max_tokens: int) -> None:
    batches = plan_packed_batches(lengths, max_tokens=max_tokens)
    order = [i for batch in batches for i in batch.tolist()]
    assert order == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for batch, following in pairwise(batches):
        more = lengths[[*batch, following[0]]]
        shape = shape_of(more)
        assert shape.tokens > max_tokens or shape.pairs * shape.longest > 2 * max_tokens


def test_no_pairs_make_no_packed_batches() -> None:
    assert plan_packed_batches(np.zeros(0, np.int32), max_tokens=8) == []


@pytest.mark.parametrize("limit", [0, -1])
def test_limits_below_one_are_refused(limit: int) -> None:
    with pytest.raises(InputError, match=f"max_tokens={limit}: at least 1"):
        plan_packed_batches(np.ones(3, np.int32), max_tokens=limit)
    with pytest.raises(InputError, match=f"batch_size={limit}"):
        plan_packed_batches(np.ones(3, np.int32), max_tokens=8, max_pairs=limit)


@given(lengths_of_pairs)
def test_a_batch_brought_to_a_bucket_keeps_its_pairs_and_adds_none_without_tokens(lengths: Lengths) -> None:
    batch, shape = make_batch(lengths), shape_of(lengths)
    bucket = choose_bucket(shape, BUCKETS)
    assume(bucket is not None)
    assert bucket is not None
    filled = fill_up(batch, bucket, 3)
    assert (len(filled.ids), len(filled.types), len(filled.lengths)) == (bucket.tokens, bucket.tokens, bucket.pairs)
    assert int(filled.lengths.sum()) == bucket.tokens
    assert filled.lengths.min() >= 1
    assert filled.lengths.max() <= bucket.longest
    np.testing.assert_array_equal(filled.lengths[: len(lengths)], lengths)
    np.testing.assert_array_equal(filled.ids[: shape.tokens], batch.ids)
    assert (filled.ids[shape.tokens :] == 3).all()


@given(st.integers(32, 512), st.integers(1, 100))
def test_small_batches_find_a_bucket_of_about_twice_their_tokens_at_most(length: int, pairs: int) -> None:
    assume(128 <= length * pairs <= GPU_SETTINGS.bucket_tokens[-1] // 2)
    bucket = choose_bucket(shape_of(np.full(pairs, length, np.int32)), BUCKETS)
    assert bucket is not None
    assert bucket.tokens <= 2.1 * length * pairs


@pytest.mark.parametrize("longest", [8, 48, 128, 300, 512, 8192])
def test_buckets_rise_and_their_inputs_stay_small(longest: int) -> None:
    buckets = make_buckets(GPU_SETTINGS.bucket_tokens, longest)
    assert [bucket.tokens for bucket in buckets] == sorted(bucket.tokens for bucket in buckets)
    assert len(set(buckets)) == len(buckets) <= 2 * len(GPU_SETTINGS.bucket_tokens)
    for bucket in buckets:
        assert bucket.longest <= round_up(longest)
        assert bucket.pairs * bucket.longest <= 8 * bucket.tokens
        sample = sample_of(bucket)  # what a bucket is captured with
        assert (int(sample.lengths.sum()), len(sample.lengths)) == (bucket.tokens, bucket.pairs)
        assert 1 <= sample.lengths.min() <= sample.lengths.max() <= bucket.longest


class Declared:
    def __init__(self, name: str) -> None:
        self.name, self.type, self.shape = name, "tensor(int32)", ()


@pytest.mark.parametrize(("pad_id", "offset"), [(0, 0), (1, 2)])
@given(lengths=lengths_of_pairs)
def test_packed_inputs_are_those_that_the_graph_gets_elsewhere(lengths: Lengths, pad_id: int, offset: int) -> None:
    """One array at a time, and all of them by `choose_layout`, which sorts for ``token_offset``."""
    inputs = Inputs(600, "", pad_id, offset, True)
    batch, names = make_batch(lengths), sorted(PACKED_INPUTS)
    expected = choose_layout([Declared(name) for name in names], inputs)(batch)
    shape = PackedShape(int(lengths.sum()), len(lengths), int(lengths.max()))
    sections, size = lay_out(names, shape)
    into = np.full(size, -1, np.int32)
    pack(batch, shape.longest, inputs, sections, into)
    for section in sections:
        values = into[section.start : section.start + int(np.prod(section.shape))].reshape(section.shape)
        np.testing.assert_array_equal(values, expected[section.name])
        assert section.start % ALIGNMENT == 0


@given(lengths_of_pairs)
def test_token_offsets_name_every_place_once(lengths: Lengths) -> None:
    longest = round_up(int(lengths.max()))
    offsets = np.empty(len(lengths) * longest, np.int32)
    write_token_offsets(lengths, longest, offsets)
    assert sorted(offsets.tolist()) == list(range(len(lengths) * longest))
    rows = offsets[: int(lengths.sum())] // longest
    np.testing.assert_array_equal(np.bincount(rows, minlength=len(lengths)), lengths)


def test_halves_are_the_batch_in_two() -> None:
    batch = make_batch(np.array([3, 1, 4], np.int32))
    first, second = halve(batch)
    assert (first.lengths.tolist(), second.lengths.tolist()) == ([3], [1, 4])
    np.testing.assert_array_equal(np.concatenate([first.ids, second.ids]), batch.ids)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("bfc_arena.cc:376 onnxruntime::BFCArena::AllocateRawInternal Failed to allocate memory", True),
        ("Available memory of 67 is smaller than requested bytes of 123", True),
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=a ; expr=cudaMalloc", True),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0", True),
        ("CUBLAS failure 3: the resource allocation failed; expr=cublasCreate", True),
        ("CUDA failure 209: no kernel image is available for execution on the device", False),
        ("Got invalid dimensions for input: input_ids", False),
    ],
)
def test_messages_of_exhausted_memory_are_known(message: str, expected: bool) -> None:
    assert is_out_of_memory(RuntimeError(message)) is expected
