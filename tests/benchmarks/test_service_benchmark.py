"""The load benchmark: what loads are made of, what is counted, what the targets say, and a run to its end."""

import json
import time
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.commands.service import format_loads
from benchmarks.engines.registry import ENGINES, EngineSpec
from benchmarks.measure.load import Callers, Texts, arrivals, closed_loop, open_loop
from benchmarks.measure.rounds import OURS, Found, spreads
from benchmarks.reporting.goals import goals_table, load_goals
from crossrank import Overloaded, Ranking
from tests.support.tiny_models import make_checkpoint

PEER = EngineSpec("fake", "tests.support.fake_adapter", "exact")


@pytest.fixture(scope="module")
def texts() -> Texts:
    return Texts()


def test_no_document_is_twice_in_a_call_and_no_query_returns(texts: Texts) -> None:
    calls = [texts.take(1000) for _ in range(5)]
    assert all(len(set(documents)) == 1000 for _, documents in calls)
    assert len({query for query, _ in calls}) == 5


def test_texts_that_were_made_ahead_are_taken_first_and_none_twice() -> None:
    texts = Texts()
    first = texts.take(10)
    texts.make(10, 2)
    made = list(texts._made[10])
    taken = [texts.take(10), texts.take(10)]
    assert all(found is expected for found, expected in zip(taken, made, strict=True))
    calls = [first, *taken, texts.take(10), texts.take(5)]
    assert len({query for query, _ in calls}) == 5
    assert [len(documents) for _, documents in calls] == [10, 10, 10, 10, 5]


def test_callers_of_a_closed_loop_work_beside_each_other_and_all_is_counted(texts: Texts) -> None:
    seen: list[int] = []

    def score(query: str, documents: list[str]) -> None:
        time.sleep(0.05)
        seen.append(len(documents))

    (answers,) = closed_loop([Callers(score, 4, 10)], texts, seconds=0.3, seed=0)
    assert len(answers.seconds) == len(seen) > 8, "one caller alone makes 6 calls"
    assert answers.documents == sum(seen) == 10 * len(seen)
    assert min(answers.seconds) >= 0.05
    assert answers.elapsed_s >= 0.3 - 0.05


def test_latency_counts_from_the_time_at_which_a_request_was_meant_to_arrive(texts: Texts) -> None:
    """Three requests at once for one caller: the last waits for the others, which the caller's own clock misses."""
    lock = Lock()

    def score(query: str, documents: list[str]) -> None:
        assert lock.acquire(blocking=False), "there is one caller"
        time.sleep(0.1)
        lock.release()

    answers = open_loop(score, [(0.0, 1)] * 3, texts, seconds=0.1, callers=1)
    assert [round(seconds, 1) for seconds in answers.seconds] == pytest.approx([0.1, 0.2, 0.3], abs=0.11)
    assert answers.seconds[2] >= 0.3


def test_requests_that_are_rejected_fail_or_still_wait_are_no_goodput(texts: Texts) -> None:
    def score(query: str, documents: list[str]) -> None:
        if len(documents) == 2:
            raise Overloaded(9, 9, 9)
        if len(documents) == 3:
            raise ValueError("no scores today")
        time.sleep(1 if len(documents) == 4 else 0)

    planned = [(0.0, size) for size in (1, 2, 3, 4, 5, 6)]
    answers = open_loop(score, planned, texts, seconds=0.1, callers=1)
    assert (answers.documents, answers.rejected, answers.failed, answers.unanswered) == (5, 1, 1, 2)
    assert answers.error == "ValueError: no scores today"
    figures = answers.figures()
    assert figures["requests"] == 6
    assert (figures["rejected"], figures["unanswered"]) == (round(1 / 6, 4), round(2 / 6, 4))
    assert figures["docs_per_s"] == round(5 / answers.elapsed_s, 1)


def test_documents_that_a_deadline_left_out_do_not_count(texts: Texts) -> None:
    def score(query: str, documents: list[str]) -> Ranking:
        return Ranking(scored=3, complete=False)

    answers = open_loop(score, [(0.0, 10)] * 2, texts, seconds=0.1, callers=1)
    assert (answers.documents, len(answers.seconds)) == (6, 2)


def test_arrivals_bring_the_load_that_was_asked_for() -> None:
    for documents in (10, None):
        found = arrivals(5000, documents, seconds=30, seed=1)
        assert sum(size for _, size in found) == pytest.approx(150_000, abs=500), "half of the largest request"
        times = [at for at, _ in found]
        assert times == sorted(times)
        assert sum(at < 15 for at in times) == pytest.approx(len(times) / 2, rel=0.1), "even, within 3 deviations"
        assert {size for _, size in found} == ({10} if documents else {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000})


def test_goals_are_medians_of_the_rounds_ratios_and_less_one_batch_where_it_says_so() -> None:
    def one(ours: float, theirs: float) -> Found:
        return {
            "16 callers x 10": {OURS: {"docs_per_s": ours}, "peer": {"docs_per_s": theirs}},
            "1 caller x 1,000": {OURS: {"docs_per_s": 1000.0}},
            "arriving, 1 x capacity, 10": {OURS: {"docs_per_s": 1200.0, "p99_ms": 100.0}},
            "arriving, 3 x capacity, 10": {OURS: {"docs_per_s": 1080.0, "p99_ms": 250.0}},
            "10, alone": {OURS: {"p99_ms": 10.0}},
            "10, beside 2 callers x 1,000": {OURS: {"p99_ms": 32.0, "batch_ms": 4.0}},
            "deadline, idle": {OURS: {"p99_ms": 56.0, "batch_ms": 2.0}},
        }

    rounds = [one(800, 100), one(950, 200), one(1000, 250)]
    rows = goals_table([goal.check(rounds) for goal in load_goals("M", "L", "peer", 50)])
    assert rows[0] == ["", "wanted", "reached", "min", "max", ""]

    def shown(start: str) -> list[str]:
        return next(cells for claim, *cells in rows if claim.startswith(start))

    assert shown("docs/s of 16 callers") == ["≥ 95.0%", "95.0%", "80.0%", "100.0%", "met"]
    assert shown("docs/s to peer, 16 callers x 10, M fp32") == ["≥ 5", "4.75", "4", "8", "not met"]
    assert shown("docs/s to peer, 16 callers x 10, L int8") == ["≥ 4", "", "", "", "not measured"]
    assert shown("goodput at 3x capacity to peak, requests of 10") == ["≥ 95.0%", "90.0%", "90.0%", "90.0%", "not met"]
    assert shown("p99 of accepted at 3x capacity to p99 at 1x, requests of 10")[1] == "2.5"
    assert shown("p99 of 10 beside")[1:] == ["2.8", "2.8", "2.8", "met"]
    assert shown("overrun at p99 of rank(deadline_ms=50), idle")[1:] == ["8.0%", "8.0%", "8.0%", "met"]
    assert shown("overrun at p99 of rank(deadline_ms=50), loaded")[-1] == "not measured"


def test_ratios_are_of_the_same_round() -> None:
    def one(ours: float, theirs: float) -> Found:
        counts: dict[str, float | None] = {"rejected": 0.0, "unanswered": 0.5, "p50_ms": None}
        return {"4 callers x 10": {OURS: {"docs_per_s": ours} | counts, "peer": {"docs_per_s": theirs} | counts}}

    loads = spreads([one(100, 50), one(1000, 250)])
    assert loads["4 callers x 10"]["peer"]["ours_to_it"].median == 3
    assert "ours_to_it" not in loads["4 callers x 10"][OURS]
    assert "3.00  2.00  4.00" in format_loads(loads)


def test_a_quick_run_shows_every_load_and_target_and_names_what_it_could_not_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(ENGINES, "fake", PEER)
    checkpoint, output = make_checkpoint(tmp_path / "tiny-bert", "bert"), tmp_path / "service.json"
    where = ["--model", str(checkpoint), "--int8-model", "absent", "--bench", str(tmp_path / "bench")]
    what = ["--quick", "--peer", "fake", "--threads", "2", "--output", str(output)]
    assert main(["service", *where, *what]) == 0
    text = output.read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    result: dict[str, Any] = json.loads(text)
    assert {"date", "commit", "command", "timed", "machine", "threads", "models", "systems"} <= result.keys()
    assert "no checkpoint folder absent" in result["unavailable"].pop("absent")
    assert result["unavailable"] == {}
    loads = result["loads"]
    assert set(loads["16 callers x 10"]) == {OURS, "fake in a thread pool"}
    for load in ("1 caller x 1,000", "16 callers x 1-1,000", "arriving, 3 x capacity, 1-1,000"):
        assert set(loads[load]) == {OURS}
    assert all(
        figures["docs_per_s"]["median"] > 0
        for load, found in loads.items()
        for figures in found.values()
        if not load.startswith("deadline")  # which may leave no time for a document
    )
    assert loads["arriving, 3 x capacity, 1-1,000"][OURS]["rejected"]["median"] >= 0
    measured = {entry["claim"]: entry["met"] is not None for entry in result["targets"]}
    assert [claim for claim, is_measured in measured.items() if not is_measured] == [
        "docs/s of 16 callers x 10 to 1 caller x 1,000, absent int8",
        "docs/s to fake in a thread pool, 16 callers x 10, absent int8",
    ]
    out, err = capsys.readouterr()
    assert "  ".join(goals_table([])[0][1:3]) in out
    assert out.rstrip().splitlines()[-1].startswith("overrun at p99 of rank(deadline_ms=50), loaded")
    assert "absent: not measured: " in err


def test_a_model_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["service", "--allow-load", "--model", str(tmp_path / "absent")]) == 1
    assert "it is one of tinybert-l2, " in capsys.readouterr().err
