"""Which pairs run together: nothing lost, budgets kept, batches full or of one length, and the order restored."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from crossrank import InputError
from crossrank._device.batches import PADDED_MAX_TOKENS, plan_batches, plan_even_batches

Lengths = NDArray[np.int32]

lengths_of_pairs = st.lists(st.integers(1, 600), max_size=80).map(lambda values: np.array(values, np.int32))
budgets = st.integers(1, 5000)
pair_limits = st.none() | st.integers(1, 40)
lanes_of_a_machine = st.integers(1, 64)


@given(lengths_of_pairs, budgets, pair_limits)
def test_every_pair_is_in_exactly_one_batch(lengths: Lengths, max_tokens: int, max_pairs: int | None) -> None:
    batches = plan_batches(lengths, max_tokens=max_tokens, max_pairs=max_pairs)
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(lengths)))
    assert all(len(batch) for batch in batches)


@given(lengths_of_pairs, budgets, pair_limits)
def test_a_batch_keeps_its_budget_unless_one_pair_alone_is_longer(
    lengths: Lengths, max_tokens: int, max_pairs: int | None
) -> None:
    for batch in plan_batches(lengths, max_tokens=max_tokens, max_pairs=max_pairs):
        assert len(batch) * int(lengths[batch].max()) <= max_tokens or len(batch) == 1
        assert max_pairs is None or len(batch) <= max_pairs


@given(lengths_of_pairs, budgets, pair_limits)
def test_a_batch_ends_only_where_a_limit_or_the_lengths_say_so(
    lengths: Lengths, max_tokens: int, max_pairs: int | None
) -> None:
    """The next pair would break a limit, or it is too short for a batch that is no longer small."""
    batches = plan_batches(lengths, max_tokens=max_tokens, max_pairs=max_pairs)
    for batch, following in pairwise(batches):
        longest, waiting = int(lengths[batch[0]]), int(lengths[following[0]])
        one_more = (len(batch) + 1) * longest
        too_short = waiting < 0.85 * longest and one_more > 256
        assert one_more > max_tokens or len(batch) == max_pairs or too_short


@given(lengths_of_pairs, budgets, pair_limits)
def test_pairs_run_longest_first_and_equal_lengths_keep_their_order(
    lengths: Lengths, max_tokens: int, max_pairs: int | None
) -> None:
    batches = plan_batches(lengths, max_tokens=max_tokens, max_pairs=max_pairs)
    order = [i for batch in batches for i in batch.tolist()]
    assert order == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


@given(lengths_of_pairs, budgets, pair_limits)
def test_order_is_restored_when_results_are_put_back_by_index(
    lengths: Lengths, max_tokens: int, max_pairs: int | None
) -> None:
    restored = np.zeros(len(lengths), np.int64)
    for batch in plan_batches(lengths, max_tokens=max_tokens, max_pairs=max_pairs):
        restored[batch] = lengths[batch] * 1000 + batch  # a result that tells which pair it is of
    assert restored.tolist() == [int(length) * 1000 + i for i, length in enumerate(lengths)]


def test_lengths_stay_as_they_were() -> None:
    lengths = np.array([3, 9, 3, 8], np.int32)
    plan_batches(lengths, max_tokens=10)
    assert lengths.tolist() == [3, 9, 3, 8]


def test_no_pairs_make_no_batches() -> None:
    assert plan_batches(np.zeros(0, np.int32)) == []


def test_the_default_budget_is_one_that_was_measured_good() -> None:
    assert 1024 <= PADDED_MAX_TOKENS <= 2048
    quarter = PADDED_MAX_TOKENS // 4
    assert [len(batch) for batch in plan_batches(np.full(10, quarter, np.int32))] == [4, 4, 2]


@pytest.mark.parametrize("limit", [0, -1])
def test_limits_below_one_are_refused_with_their_value(limit: int) -> None:
    lengths = np.ones(3, np.int32)
    for plan in (plan_batches, plan_even_batches):
        with pytest.raises(InputError, match=f"max_tokens={limit}: at least 1"):
            plan(lengths, max_tokens=limit)
        with pytest.raises(InputError, match=f"batch_size={limit}: an integer of at least 1, or None"):
            plan(lengths, max_tokens=8, max_pairs=limit)


# Batches of one length.


@given(lengths_of_pairs, budgets, pair_limits, lanes_of_a_machine)
def test_even_batches_hold_every_pair_once_and_one_length_each(
    lengths: Lengths, max_tokens: int, max_pairs: int | None, lanes: int
) -> None:
    batches = plan_even_batches(lengths, max_tokens=max_tokens, max_pairs=max_pairs, lanes=lanes)
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(lengths)))
    assert all(len(set(lengths[batch].tolist())) == 1 for batch in batches)


@given(lengths_of_pairs, budgets, pair_limits, lanes_of_a_machine)
def test_even_batches_keep_the_budget_and_leave_every_lane_its_share(
    lengths: Lengths, max_tokens: int, max_pairs: int | None, lanes: int
) -> None:
    """Four batches a lane, so that the last ones end at about the same time; a pair is never cut for it."""
    share = int(lengths.sum()) // (4 * lanes) if lanes > 1 else max_tokens
    for batch in plan_even_batches(lengths, max_tokens=max_tokens, max_pairs=max_pairs, lanes=lanes):
        assert int(lengths[batch].sum()) <= min(max_tokens, share) or len(batch) == 1
        assert max_pairs is None or len(batch) <= max_pairs


@given(lengths_of_pairs, budgets, pair_limits)
def test_even_batches_are_as_few_as_the_limits_allow(lengths: Lengths, max_tokens: int, max_pairs: int | None) -> None:
    batches = plan_even_batches(lengths, max_tokens=max_tokens, max_pairs=max_pairs)
    for length in set(lengths.tolist()):
        pairs = int((lengths == length).sum())
        size = min(max(1, max_tokens // length), max_pairs or pairs)
        assert sum(lengths[batch[0]] == length for batch in batches) == -(-pairs // size)


@given(lengths_of_pairs, budgets, pair_limits, lanes_of_a_machine)
def test_even_batches_run_with_most_tokens_first_and_equal_pairs_keep_their_order(
    lengths: Lengths, max_tokens: int, max_pairs: int | None, lanes: int
) -> None:
    batches = plan_even_batches(lengths, max_tokens=max_tokens, max_pairs=max_pairs, lanes=lanes)
    tokens = [int(lengths[batch].sum()) for batch in batches]
    assert tokens == sorted(tokens, reverse=True)
    order = [i for batch in batches for i in batch.tolist()]
    assert sorted(order, key=lambda i: int(lengths[i])) == sorted(range(len(lengths)), key=lambda i: int(lengths[i]))


@given(lengths_of_pairs, budgets, lanes_of_a_machine)
def test_order_is_restored_after_even_batches(lengths: Lengths, max_tokens: int, lanes: int) -> None:
    before = lengths.tolist()
    restored = np.zeros(len(lengths), np.int64)
    for batch in plan_even_batches(lengths, max_tokens=max_tokens, lanes=lanes):
        restored[batch] = lengths[batch] * 1000 + batch
    assert restored.tolist() == [int(length) * 1000 + i for i, length in enumerate(lengths)]
    assert lengths.tolist() == before


def test_two_lanes_get_a_document_each_of_two() -> None:
    assert len(plan_even_batches(np.array([90, 90], np.int32), max_tokens=512, lanes=2)) == 2
    assert len(plan_even_batches(np.array([90, 90], np.int32), max_tokens=512)) == 1


@pytest.mark.parametrize("lanes", [1, 2])
def test_no_pairs_make_no_even_batches(lanes: int) -> None:
    assert plan_even_batches(np.zeros(0, np.int32), max_tokens=512, lanes=lanes) == []
