"""What a batch costs: found again on machines that only count, quiet and noisy ones, and kept where it can be."""

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossrank._device.costs import (
    Costs,
    costs_path,
    describe_subject,
    load_costs,
    measure_costs,
    sample_batch,
    save_costs,
)
from crossrank._device.open import open_model
from crossrank._machine.cpu import ThreadCount
from crossrank._machine.device import Device
from crossrank._text.tokenizer import PairTokenizer
from tests.support.artifacts import make_artifact
from tests.support.tiny_models import BERT_TOKENS, MAX_LENGTH, make_wordpiece

Seconds = Callable[[int, int], float]

# Of a small, a middle and a large model on one core; without a fixed cost; without attention's squares.
KNOWN = [(2e-4, 5e-6, 3e-9), (2e-3, 2e-4, 1e-7), (0.01, 2e-3, 2e-6), (0.0, 5e-6, 3e-9), (2e-4, 5e-6, 0.0)]
SHAPES = [(1, 16), (1, 64), (3, 40), (4, 64), (8, 64), (1, 256)]


class Machine:
    """Runs batches on a clock of its own."""

    def __init__(self, seconds: Seconds, noise: Callable[[], float] = lambda: 1.0) -> None:
        self._seconds, self._noise = seconds, noise
        self.now = 0.0
        self.ran: list[tuple[int, int]] = []

    def run(self, pairs: int, length: int) -> None:
        self.ran.append((pairs, length))
        self.now += self._seconds(pairs, length) * self._noise()

    def measure(self, budget_s: float = 0.5, longest: int = 512) -> Costs:
        return measure_costs(self.run, longest=longest, subject="a machine", budget_s=budget_s, clock=lambda: self.now)


def law(fixed_s: float, token_s: float, square_s: float) -> Seconds:
    return lambda pairs, length: fixed_s + pairs * (token_s * length + square_s * length * length)


@pytest.mark.parametrize("coefficients", KNOWN)
def test_known_costs_are_found_again(coefficients: tuple[float, float, float]) -> None:
    """Exactly, as far as float64 solves three equations, with as many batches as a minute allows."""
    costs = Machine(law(*coefficients)).measure(budget_s=60)
    assert (costs.fixed_s, costs.token_s, costs.square_s) == pytest.approx(coefficients, rel=1e-6, abs=1e-12)
    assert costs.subject == "a machine"
    assert costs.measured.endswith("+00:00")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("coefficients", KNOWN[:2])
def test_noise_of_30_percent_leaves_a_usable_model(coefficients: tuple[float, float, float], seed: int) -> None:
    """Of a shape the fastest run is kept, so all seconds are too low alike; of a large model most shapes run once."""
    rng, true = np.random.default_rng(seed), law(*coefficients)
    costs = Machine(true, lambda: rng.uniform(0.7, 1.3)).measure()
    ratios = np.array([costs.seconds(*shape) / true(*shape) for shape in SHAPES])
    assert ratios.min() > 0.6
    assert ratios.max() < 1.4
    throughput = {pairs: pairs / true(pairs, 64) for pairs in (1, 2, 4, 8, 16, 32)}
    lost = 1 - throughput[costs.max_tokens // 64] / max(throughput.values())
    assert lost < (0.08 if coefficients == KNOWN[0] else 0.15)


@pytest.mark.parametrize("seed", range(20))
def test_neighbours_that_take_the_processor_now_and_then_do_not_count(seed: int) -> None:
    """Half of the runs take up to five times as long; of each shape one was left alone, so 15% cover what is left."""
    rng, true = np.random.default_rng(seed), law(*KNOWN[0])
    quiet = Machine(true).measure()
    costs = Machine(true, lambda: 1 + max(0.0, rng.uniform(-4, 4))).measure()
    for shape in SHAPES:
        assert costs.seconds(*shape) == pytest.approx(quiet.seconds(*shape), rel=0.15)


def test_a_slow_model_runs_three_batches_and_no_more() -> None:
    machine = Machine(law(0.01, 0.02, 1e-6))  # 1.3 s for one pair of 64 tokens
    costs = machine.measure()
    assert machine.ran == [(1, 16), (1, 64), (1, 256), (4, 64)]  # the first is not timed
    assert costs.seconds(1, 64) == pytest.approx(0.01 + 64 * 0.02 + 64 * 64 * 1e-6, rel=0.01)
    assert costs.max_tokens == 64  # its fixed cost is below 2% of one pair


@given(st.floats(0, 1e-3), st.floats(1e-7, 2e-4), st.floats(0, 1e-7))
def test_the_time_to_spend_is_kept(fixed_s: float, token_s: float, square_s: float) -> None:
    """For every model that can run the three batches and the first one in it."""
    machine = Machine(law(fixed_s, token_s, square_s))
    costs = machine.measure(budget_s=0.5)
    assert machine.now <= 0.5 + 1e-9  # a clock of sums
    assert 64 <= costs.max_tokens <= 2048
    assert min(costs.fixed_s, costs.token_s, costs.square_s) >= 0


@pytest.mark.parametrize("limit", [128, 256, 512, 1024])
def test_a_budget_stays_below_the_cache_cliff(limit: int) -> None:
    """Batches beyond it take half as long again, and do not disturb the law of those below."""
    true = law(2e-4, 5e-6, 3e-9)  # without a cliff 1024 tokens would be within 2% of the best
    machine = Machine(lambda pairs, length: true(pairs, length) * (1.5 if pairs > 1 and pairs * length > limit else 1))
    costs = machine.measure()
    assert costs.max_tokens == limit
    for pairs in (1, limit // 64):
        assert costs.seconds(pairs, 64) == pytest.approx(true(pairs, 64), rel=1e-6)


@pytest.mark.parametrize(("fixed_s", "token_s", "expected"), [(0.0, 5e-6, 64), (1.0, 1e-9, 2048), (1e-9, 0.0, 2048)])
def test_the_smallest_budget_that_is_as_good_as_the_best(fixed_s: float, token_s: float, expected: int) -> None:
    assert Machine(law(fixed_s, token_s, 0)).measure(budget_s=1000).max_tokens == expected


def test_a_budget_within_two_percent_of_the_best_is_enough() -> None:
    """Per pair 1 + 0.2 / pairs: 32 pairs take 1.00625, 16 of them 1.0125 (0.6% worse), 8 of them 1.025 (1.9%)."""
    assert Machine(law(2e-4, 1e-3 / 64, 0)).measure(budget_s=10).max_tokens == 512


@pytest.mark.parametrize("longest", [5, 16, 48, 64, 100])
def test_no_pair_is_longer_than_the_model_takes(longest: int) -> None:
    machine = Machine(law(2e-4, 5e-6, 3e-9))
    costs = machine.measure(longest=longest)
    assert max(length for _, length in machine.ran) == longest
    assert costs.seconds(4, longest) == pytest.approx(law(2e-4, 5e-6, 3e-9)(4, longest), rel=1e-3)
    assert 64 <= costs.max_tokens <= 2048


def test_a_clock_that_stands_still_ends_it_all_the_same() -> None:
    costs = measure_costs(lambda pairs, length: None, longest=512, subject="", clock=lambda: 7.0)
    assert costs.seconds(4, 64) < 1e-6


COSTS = Costs(2e-4, 5e-6, 3e-9, 512, "a graph, cpu, 2 threads", "2026-01-01T00:00:00+00:00")


def test_costs_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "new" / "costs" / "0123456789abcdef.json"
    assert load_costs(path) is None
    save_costs(path, COSTS)
    assert load_costs(path) == COSTS
    other = replace(COSTS, max_tokens=1024)
    save_costs(path, other)
    assert load_costs(path) == other
    assert os.listdir(path.parent) == [path.name]  # nothing is left beside it
    assert path.stat().st_size < 1000


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"[1, 2]",
        b'{"format": 1, "fixed_s": 0.1',
        b"{}",
        *(
            json.dumps({"format": 1, "subject": "", "measured": "", **fields}).encode()
            for fields in (
                {"fixed_s": 1.0, "token_s": 1.0, "square_s": 1.0},
                {"fixed_s": -1.0, "token_s": 1.0, "square_s": 1.0, "max_tokens": 512},
                {"fixed_s": float("nan"), "token_s": 1.0, "square_s": 1.0, "max_tokens": 512},
                {"fixed_s": float("inf"), "token_s": 1.0, "square_s": 1.0, "max_tokens": 512},
                {"fixed_s": 0, "token_s": 0, "square_s": 0, "max_tokens": 512},
                {"fixed_s": "1", "token_s": 1.0, "square_s": 1.0, "max_tokens": 512},
                {"fixed_s": 1.0, "token_s": 1.0, "square_s": 1.0, "max_tokens": 0},
                {"fixed_s": 1.0, "token_s": 1.0, "square_s": 1.0, "max_tokens": 10**9},
                {"fixed_s": 1.0, "token_s": 1.0, "square_s": 1.0, "max_tokens": 512, "format": 2},
                {"fixed_s": 1.0, "token_s": 1.0, "square_s": 1.0, "max_tokens": 512, "format": None},
            )
        ),
    ],
)
def test_damaged_costs_are_none_and_are_replaced(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "costs.json"
    path.write_bytes(content)
    with caplog.at_level(logging.DEBUG, "crossrank"):
        assert load_costs(path) is None
    assert str(path) in caplog.text
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    save_costs(path, COSTS)
    assert load_costs(path) == COSTS


def test_a_place_that_cannot_be_read_or_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of a folder")
    save_costs(tmp_path / "file" / "costs.json", COSTS)
    assert load_costs(tmp_path / "file" / "costs.json") is None
    (tmp_path / "costs.json").mkdir()
    save_costs(tmp_path / "costs.json", COSTS)
    assert load_costs(tmp_path / "costs.json") is None
    assert sorted(os.listdir(tmp_path)) == ["costs.json", "file"]


def test_writers_at_once_leave_one_of_theirs_whole(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    every = [replace(COSTS, max_tokens=64 + i, subject="x" * 1000 * i) for i in range(8)]

    def write(costs: Costs) -> None:
        for _ in range(20):
            save_costs(path, costs)
            assert load_costs(path) in every

    threads = [Thread(target=write, args=(costs,)) for costs in every]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert load_costs(path) in every
    assert os.listdir(tmp_path) == ["costs.json"]


def test_the_place_is_beside_the_exported_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSRANK_HOME", str(tmp_path / "home"))
    at_home, elsewhere = costs_path(None, "a"), costs_path(tmp_path / "mine", "a")
    assert at_home is not None
    assert elsewhere is not None
    assert at_home.parent == tmp_path / "home" / "costs"
    assert elsewhere.parent == tmp_path / "mine" / "costs"
    assert at_home.name == elsewhere.name != getattr(costs_path(None, "b"), "name", None)
    assert len(at_home.stem) == 16


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a user without a home folder is a matter of POSIX")
def test_a_user_without_a_home_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    for name in ("HOME", "CROSSRANK_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(user: int) -> None:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert costs_path(None, "a") is None


def test_another_graph_device_or_number_of_threads_has_costs_of_its_own(tmp_path: Path) -> None:
    graph, cpu = tmp_path / "model.onnx", Device("cpu")
    graph.write_bytes(b"graph")
    os.utime(graph, ns=(1, 1))
    subjects = [describe_subject(graph, cpu, 1), describe_subject(graph, cpu, 2)]
    subjects.append(describe_subject(graph, Device("cuda", 1), 1))
    os.utime(graph, ns=(2, 2))
    subjects.append(describe_subject(graph, cpu, 1))
    graph.write_bytes(b"another graph")
    os.utime(graph, ns=(1, 1))
    subjects.append(describe_subject(graph, cpu, 1))
    graph.rename(tmp_path / "model_int8.onnx")
    subjects.append(describe_subject(tmp_path / "model_int8.onnx", cpu, 1))
    assert len(set(subjects)) == len(subjects)
    assert not any(str(tmp_path) in subject for subject in subjects)


def test_a_moved_model_keeps_its_costs(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "model.onnx").write_bytes(b"graph")
    before = describe_subject(tmp_path / "old" / "model.onnx", Device("cpu"), 2)
    (tmp_path / "old").rename(tmp_path / "new")
    assert describe_subject(tmp_path / "new" / "model.onnx", Device("cpu"), 2) == before


@pytest.mark.parametrize(("pairs", "length"), [(1, 4), (1, 5), (3, 16), (4, 64)])
def test_a_sample_is_joined_as_the_tokenizer_joins_pairs(pairs: int, length: int) -> None:
    """Special tokens and segments against the Rust tokenizer's own, for texts of as many tokens."""
    vocabulary = [*BERT_TOKENS.values(), "a", "b", "c", "d", "e"]
    rust = make_wordpiece(vocabulary)
    template = PairTokenizer(make_wordpiece(vocabulary)).template
    batch = sample_batch(template, len(vocabulary), pairs, length, seed=1)
    assert batch.lengths.tolist() == [length] * pairs
    assert batch.ids.dtype == batch.types.dtype == np.int32
    separator = rust.token_to_id("[SEP]")
    for ids, types in zip(batch.ids.reshape(pairs, -1), batch.types.reshape(pairs, -1), strict=True):
        query = ids.tolist().index(separator) - 1
        encoding = rust.encode("a " * query, "a " * (length - 3 - query))
        special = np.array(encoding.special_tokens_mask, bool)
        assert (ids[special] == np.array(encoding.ids)[special]).all()
        assert types.tolist() == encoding.type_ids
        assert not set(ids[~special].tolist()) & {rust.token_to_id("[CLS]"), separator}


def test_samples_are_random_ids_of_the_whole_vocabulary() -> None:
    template = PairTokenizer(make_wordpiece([*BERT_TOKENS.values(), "a"])).template
    batch = sample_batch(template, 30_000, 32, 64, seed=1)
    assert 20_000 < batch.ids.max() < 30_000
    assert len(np.unique(batch.ids)) > 1500  # of 2048
    assert np.array_equal(batch.ids, sample_batch(template, 30_000, 32, 64, seed=1).ids)
    assert not np.array_equal(batch.ids, sample_batch(template, 30_000, 32, 64, seed=2).ids)


def test_a_real_graph_is_measured_and_predicted(tmp_path: Path) -> None:
    """Within a factor of 4, since the machine may be busy: an order of magnitude would be a mistake of ours."""
    graph = make_artifact(tmp_path)
    model = open_model(graph, Device("cpu"), "auto", ThreadCount(1, "as asked"))
    session, tokenizer = model.backend, model.tokenizer

    @cache
    def run_of(pairs: int, length: int) -> Callable[[], object]:
        batch = sample_batch(tokenizer.template, tokenizer.vocabulary_size, pairs, length, 0)
        return lambda: session.run(batch)

    subject = describe_subject(session.path, session.device, 1)
    costs = measure_costs(lambda *shape: run_of(*shape)(), longest=MAX_LENGTH, subject=subject)
    for shape in ((1, MAX_LENGTH), (4, MAX_LENGTH)):
        taken = []
        for _ in range(20):
            start = time.perf_counter()
            run_of(*shape)()
            taken.append(time.perf_counter() - start)
        assert 0.25 < costs.seconds(*shape) / min(taken) < 4
