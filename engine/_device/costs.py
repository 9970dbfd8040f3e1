"""Costs of batches on this machine: measured once for a graph, by a process with work enough, and kept on disk."""

import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import combinations
from pathlib import Path
from threading import RLock

import numpy as np

from crossrank._artifact.held import ModelFile
from crossrank._artifact.locate import cache_root
from crossrank._errors import CrossrankError, InputError, join_problems
from crossrank._interrupts import not_thrown_in
from crossrank._json import parse_dataclass, read_json_object, write_json
from crossrank._machine.cpu import processor_name, read_cpuinfo
from crossrank._machine.device import Device
from crossrank._machine.onnxruntime import ort
from crossrank._text.pairs import PackedPairs, PairSource, PairTemplate
from crossrank._text.tokenizer import PairTokenizer
from crossrank._text.tokens import Tokens

logger = logging.getLogger(__name__)

Point = tuple[int, int]  # pairs of a batch, tokens of each

# Of the file, and of what is measured: raise it when sessions are opened in another way.
_FORMAT = 1
_LEAST_TOKENS, _MOST_TOKENS = 64, 2048
# A throughput that is less than this below the best one counts as the best: larger batches must be worth their memory.
_WORSE = 0.02
# Batches that are measured, the telling ones first. The first three always are, the others while there is time.
_LENGTH, _LONG = 64, 256
_LEAST: tuple[Point, ...] = ((1, _LENGTH), (1, _LONG), (4, _LENGTH))
_MORE: tuple[Point, ...] = ((2, _LENGTH), (8, _LENGTH), (1, 16), (1, 32), (16, _LENGTH), (32, _LENGTH))
_WARM: Point = (1, 16)
_MOST_ROUNDS = 20
_QUERY_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Costs:
    """How long batches of pairs of one length take, and how large they should be.

    ``max_tokens`` bounds the memory: the activations of a batch, of which each lane has one at a time, are about
    ``max_tokens`` x (a few times hidden + intermediate + heads x longest pair) floats, and no batch of more than one
    pair is larger. With 2048 that is 60 MB for a model of BERT base's size and pairs of 128 tokens.

    Attributes:
        fixed_s: Seconds of a batch whatever is in it.
        token_s: Seconds of a token.
        square_s: Seconds of a pair for the square of its tokens, as attention takes.
        max_tokens: The smallest batch, in tokens, of which the throughput was within 2% of the best; 64 to 2048.
        subject: What was measured, and on what; see `describe_subject`.
        measured: When, in ISO 8601, UTC.
    """

    fixed_s: float
    token_s: float
    square_s: float
    max_tokens: int
    subject: str
    measured: str

    def seconds(self, pairs: int, length: int) -> float:
        """How long a batch takes.

        Args:
            pairs: Pairs of the batch.
            length: Tokens of each.

        >>> Costs(0.001, 1e-5, 1e-8, 512, "", "").seconds(4, 100)
        0.0054
        """
        return self.fixed_s + pairs * (self.token_s * length + self.square_s * length**2)


def measure_costs(
    run: Callable[[int, int], object],
    *,
    longest: int,
    subject: str,
    budget_s: float = 0.5,
    clock: Callable[[], float] = time.perf_counter,
) -> Costs:
    """Run batches of a few shapes in turn, and fit their seconds.

    Of a shape the fastest run counts: neighbours, interrupts and whatever a shape's first run sets up only add. The
    budget is one of the measured batches, since where a cache ends no formula knows.

    Args:
        run: Runs one batch of so many pairs of so many tokens.
        longest: Most tokens of a pair.
        subject: What is measured, for `Costs`.
        budget_s: Seconds by ``clock`` to spend. A model that needs longer for three batches (one pair of 64 tokens,
            four of them, one pair of 256) gets these alone.
        clock: Seconds from any start. Where ``run`` works on the calling thread alone and the system counts a
            thread's time finely (it does not on Windows), `time.thread_time` leaves the neighbours out.
    """
    start = clock()
    usual = min(_LENGTH, longest)
    least, more = ([(pairs, min(length, longest)) for pairs, length in points] for points in (_LEAST, _MORE))
    run(_WARM[0], min(_WARM[1], longest))  # touches all weights for the first time
    fastest: dict[Point, float] = {}
    for turn in range(_MOST_ROUNDS):
        for point in dict.fromkeys(least + more):
            if turn or point not in least:
                expected = fastest.get(point, fastest[1, usual] * math.prod(point) / usual)
                if clock() - start + expected > budget_s:
                    continue
            before = clock()
            run(*point)
            elapsed = max(clock() - before, 1e-9)  # a coarse clock may not have moved
            fastest[point] = min(elapsed, fastest.get(point, elapsed))
    per_pair = {pairs: seconds / pairs for (pairs, length), seconds in fastest.items() if length == usual}
    good = min(per_pair.values()) / (1 - _WORSE)
    max_pairs = min(pairs for pairs, seconds in per_pair.items() if seconds <= good)
    # Larger batches will not be run, and where they do not fit a cache they follow another law.
    kept = {point: seconds for point, seconds in fastest.items() if point[0] <= max_pairs}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    costs = Costs(*_fit(kept), max(_LEAST_TOKENS, max_pairs * usual), subject, now)
    logger.debug("measured %s", costs)
    return costs


def _fit(measured: Mapping[Point, float]) -> tuple[float, float, float]:
    """Non-negative least squares of the relative errors: the best of the fits with some terms that has no negative one.

    Args:
        measured: Seconds of batches.

    Returns:
        Seconds of a batch, of a token, and for the square of a pair's tokens.
    """
    seconds = np.array(list(measured.values()))
    terms = np.array([(1, pairs * length, pairs * length**2) for pairs, length in measured]) / seconds[:, None]
    best, least_error = np.zeros(3), math.inf
    for count in (1, 2, 3):
        for chosen in map(list, combinations(range(3), count)):
            found = np.linalg.lstsq(terms[:, chosen], np.ones(len(seconds)), rcond=None)[0]
            error = float(np.square(terms[:, chosen] @ found - 1).sum())
            if found.min() >= 0 and error < least_error:
                best, least_error = np.zeros(3), error
                best[chosen] = found
    fixed_s, token_s, square_s = best.tolist()
    return fixed_s, token_s, square_s


def sample_batch(template: PairTemplate, vocabulary_size: int, pairs: int, length: int, seed: int) -> PackedPairs:
    """A batch as a model sees it, of random ordinary tokens: embeddings are then fetched from all over their table.

    Args:
        template: The model's special tokens and segments.
        vocabulary_size: Ids are below it.
        pairs: Pairs of the batch; they share a query.
        length: Tokens of each pair, more than the template's own.
        seed: Another one gives other tokens.
    """
    room = length - template.special_count
    query = min(_QUERY_TOKENS, room // 2)
    ordinary = np.setdiff1d(np.arange(vocabulary_size, dtype=np.int32), np.concatenate(template.special_ids))
    ids = np.random.default_rng(seed).choice(ordinary, query + pairs * (room - query))
    queries = Tokens(ids[:query], np.array([0, query]))
    documents = Tokens(ids[query:], np.arange(pairs + 1) * (room - query))
    return PairSource(template, queries, documents, np.zeros(pairs, np.intp), length).batch(np.arange(pairs))


def describe_subject(graph: Path | ModelFile, device: Device, threads: int, runtime: str | None = None) -> str:
    """All that costs depend on, in a line without a place, so that a model may be moved.

    Args:
        graph: The ONNX file; its name, size and time stand for its content.
        device: Where it runs. Of a GPU only the index is known, so that its costs must not be kept for later.
        threads: Threads in all.
        runtime: What runs it and its version, by default onnxruntime's.
    """
    found, cpu = graph.stat(), read_cpuinfo()
    # In a virtual machine several generations may bear one name.
    processor = [
        cpu.get("model name") or processor_name(),
        *(f"{key} {cpu[key]}" for key in ("cpu family", "model") if key in cpu),
    ]
    file = f"{graph.name} of {found.st_size} bytes and time {found.st_mtime_ns}"
    return f"{file}, {device}, {threads} threads, {runtime or f'onnxruntime {ort.__version__}'}, {' '.join(processor)}"


def costs_path(cache_folder: Path | None, subject: str) -> Path | None:
    """Where the costs of a subject are kept, a few hundred bytes beside the exported models; None if there is no place.

    Args:
        cache_folder: As `cache_root` takes it.
        subject: See `describe_subject`.
    """
    try:
        root = cache_root(cache_folder)
    except InputError as error:
        logger.debug("costs are not kept: %s", error)
        return None
    return root / "costs" / f"{hashlib.sha256(subject.encode()).hexdigest()[:16]}.json"


def load_costs(path: Path) -> Costs | None:
    """The costs kept at a place; None if there are none that can be used, whatever the reason."""
    try:
        data = read_json_object(path)
    except not_thrown_in(OSError, ValueError) as error:
        logger.debug("no costs: %s: %s", path, error)
        return None
    reasons = [] if data.get("format") == _FORMAT else [f"format {data.get('format')!r:.60}, not {_FORMAT}"]
    costs = parse_dataclass(Costs, data, reasons)
    if costs is not None:
        seconds = (costs.fixed_s, costs.token_s, costs.square_s)
        if not all(math.isfinite(value) and value >= 0 for value in seconds) or not any(seconds):
            reasons.append(f"{seconds} are no seconds")
        if not _LEAST_TOKENS <= costs.max_tokens <= _MOST_TOKENS:
            reasons.append(f"max_tokens is {costs.max_tokens}")
    if reasons:
        logger.debug("no costs: %s", join_problems(str(path), reasons))
        return None
    return costs


def save_costs(path: Path, costs: Costs) -> None:
    """Keep costs at a place, whole or not at all; where nothing can be written, they are measured again next time."""
    try:
        write_json(path, {"format": _FORMAT, **asdict(costs)})
    except not_thrown_in(OSError) as error:
        logger.debug("costs are not kept: %s", error)


_MEASURE_S = 0.5
# Measuring waits for so much work that it adds a tenth, so that no short-lived process pays for it.
WORK_S = 10 * _MEASURE_S
# Whatever is measured: below it noise chooses, and every model loses.
_LEAST_MAX_TOKENS = 256
# Ids that sample batches are drawn from: a damaged tokenizer may have one of billions.
_MOST_IDS = 1 << 20


class LearnedCosts:
    """What batches cost on a graph that runs on the calling thread alone. Thread-safe.

    Args:
        run: Runs a batch.
        subject: What is measured, of `describe_subject`.
        tokenizer: Of the model, for batches to measure.
        longest: Most tokens of a pair.
        cache_folder: Where costs are kept, as `locate_model` takes it.
    """

    def __init__(
        self,
        run: Callable[[PackedPairs], object],
        subject: str,
        tokenizer: PairTokenizer,
        longest: int,
        cache_folder: Path | None,
    ) -> None:
        self._run, self._subject, self._tokenizer, self._longest = run, subject, tokenizer, longest
        self._file = costs_path(cache_folder, self._subject)
        self.known: Costs | None = load_costs(self._file) if self._file else None
        self._measuring = RLock()  # kept by the thread that measures, which tries again if it was interrupted
        self._failed = False

    @property
    def max_tokens(self) -> int | None:
        """Budget of a batch in tokens; None until it is known."""
        return max(_LEAST_MAX_TOKENS, self.known.max_tokens) if self.known else None

    def learn(self) -> None:
        """Read the costs from the cache or measure them, which takes half a second, unless they are known."""
        if self.known is None and not self._failed and self._measuring.acquire(blocking=False):
            try:
                self.known = (load_costs(self._file) if self._file else None) or self._measure()
            except CrossrankError as error:  # a call that has its scores does not fail for this
                self._failed = True
                logger.debug("costs are not measured: %s", error)

    def _measure(self) -> Costs:
        vocabulary = min(self._tokenizer.vocabulary_size, _MOST_IDS)

        @cache
        def batch(pairs: int, length: int) -> Callable[[], object]:
            sample = sample_batch(self._tokenizer.template, vocabulary, pairs, length, 0)
            return lambda: self._run(sample)

        # It works on the calling thread alone; Windows counts its time in steps of 15 ms.
        clock = time.thread_time if os.name == "posix" else time.perf_counter
        costs = measure_costs(
            lambda pairs, length: batch(pairs, length)(),
            longest=self._longest,
            subject=self._subject,
            budget_s=_MEASURE_S,
            clock=clock,
        )
        if self._file:
            save_costs(self._file, costs)
        return costs
