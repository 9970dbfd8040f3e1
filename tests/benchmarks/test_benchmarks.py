"""The benchmarks: what they read, what they compute, and how they take turns."""

import argparse
import doctest
import json
import math
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import sentence_transformers
import transformers
from scipy import stats  # type: ignore[import-untyped]

from benchmarks import ROOT
from benchmarks.__main__ import COMMANDS, main
from benchmarks.commands import compare
from benchmarks.engines.registry import ENGINES, EngineSpec, WorkerError
from benchmarks.engines.worker import Call, Worker
from benchmarks.inputs.collections import Candidates, Collection, cut_collection, read_collection, relevant_grade
from benchmarks.inputs.models import RERANKERS, SHAPES, find_registered, open_model
from benchmarks.inputs.random_checkpoint import (
    SPREAD,
    make_config,
    sample_pairs,
    write_random_checkpoint,
    write_tokenizer,
)
from benchmarks.inputs.trec import Qrels
from benchmarks.inputs.workloads import Workload, judged_calls, make_workload
from benchmarks.measure.peaks import Peaks, operations_per_pair, products_of
from benchmarks.measure.quality import (
    HEADINGS,
    Quality,
    compare_scores,
    first_stage_run,
    mean_quality,
    measure_queries,
    measure_run,
    measure_scores,
)
from benchmarks.measure.summary import choose_baseline, summarize
from benchmarks.measure.turns import Series, Spread, interleave
from benchmarks.reporting.result import Result, git_commit, read_result, write_result
from crossrank import InputError
from crossrank._artifact.origin import EMBEDDED_MODEL
from crossrank._machine.busy import Neighbours
from crossrank._text.sample_texts import sample_texts
from crossrank.export._architectures.checkpoint import read_checkpoint
from crossrank.export._architectures.config import read_config
from crossrank.models import RegisteredModel, find_model
from tests.support.large_data import FOLDER, MINILM, MULTILINGUAL_BERT, SCIFACT, TREC_DL19, case
from tests.support.references import auto_classifier
from tests.support.tiny_models import MAX_LENGTH, make_checkpoint, transformers_logits

QRELS = {"1": {"a": 3, "b": 2, "c": 1, "d": 0}}


def measure_first_stage(collection: Collection) -> Quality:
    return mean_quality(measure_run(collection, first_stage_run(collection)))


def collection_of(*candidates: Candidates) -> Collection:
    return Collection("tiny", "given", candidates, {entry.query_id: QRELS["1"] for entry in candidates}, 2)


def measure(rankings: dict[str, list[str]], qrels: Qrels, *, relevant_grade: int) -> Quality:
    return mean_quality(measure_queries(rankings, qrels, relevant_grade=relevant_grade))


def candidates_of(query_id: str, doc_ids: str) -> Candidates:
    return Candidates(query_id, f"query {query_id}", tuple(doc_ids), tuple(f"text of {name}" for name in doc_ids))


def registered(model_id: str) -> RegisteredModel:
    model = find_model(model_id)
    assert model is not None
    return model


SHORT_PEAKS = ("--peak-seconds", "0.01")  # whose height no test looks at


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "tiny-bert", "bert")


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Two judged queries and one that is not, with the text of their hits, ranks out of order."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    hits = [
        {"content": "second", "qid": 7, "docid": "20", "rank": 2, "score": 1.0},
        {"content": "first", "qid": 7, "docid": "10", "rank": 1, "score": 2.0},
    ]
    run = [{"query": f"query {qid}", "hits": [hit | {"qid": qid} for hit in hits]} for qid in (7, 8, 9)]
    (folder / "bm25-top100.json").write_text(json.dumps(run), encoding="utf-8")
    (folder / "qrels.txt").write_text("7 0 10 0\n7 0 20 3\n9 0 10 2\n", encoding="utf-8")
    return folder


@pytest.fixture
def beir_folder(tmp_path: Path) -> Path:
    corpus = [
        {"_id": "p", "title": "Pears", "text": "green fruit"},
        {"_id": "a", "title": "Apples", "text": "red fruit"},
        {"_id": "c", "title": "", "text": "a car"},
    ]
    queries = [{"_id": "1", "text": "Red fruit?"}, {"_id": "2", "text": "not judged"}]
    for name, entries in (("corpus", corpus), ("queries", queries)):
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "qrels.test.txt").write_text("1 0 a 1\n", encoding="utf-8")
    return tmp_path


def test_run_with_texts_is_read_in_rank_order_and_only_judged_queries(run_folder: Path) -> None:
    collection = read_collection(run_folder)
    assert collection.candidates == (
        Candidates("7", "query 7", ("10", "20"), ("first", "second")),
        Candidates("9", "query 9", ("10", "20"), ("first", "second")),
    )
    assert collection.qrels == {"7": {"10": 0, "20": 3}, "9": {"10": 2}}
    assert (collection.name, collection.relevant_grade) == ("tiny", 2)


def test_beir_folder_gets_candidates_from_bm25_best_first(beir_folder: Path) -> None:
    collection = read_collection(beir_folder)
    assert collection.candidates == (
        Candidates("1", "Red fruit?", ("a", "p"), ("Apples red fruit", "Pears green fruit")),
    )
    assert collection.relevant_grade == 1


def test_cut_keeps_the_first_candidates(run_folder: Path) -> None:
    collection = cut_collection(read_collection(run_folder), 1)
    assert [entry.doc_ids for entry in collection.candidates] == [("10",), ("10",)]
    assert [entry.documents for entry in collection.candidates] == [("first",), ("first",)]


def test_missing_files_are_named(tmp_path: Path, run_folder: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        read_collection(tmp_path / "absent")
    with pytest.raises(InputError, match=r"needs qrels/test\.tsv or one file qrels\*, found 0"):
        read_collection(tmp_path)
    (run_folder / "bm25-top100.json").unlink()
    with pytest.raises(InputError, match=r"needs bm25-top100\.json, or the BEIR files"):
        read_collection(run_folder)


@pytest.mark.parametrize("content", ["[{}]", "{", '[{"query": "q", "hits": [{"rank": "x"}]}]'])
def test_malformed_run_is_an_error_that_names_the_folder(run_folder: Path, content: str) -> None:
    (run_folder / "bm25-top100.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="tiny: queries and documents cannot be read"):
        read_collection(run_folder)


def test_malformed_judgment_is_an_error_that_names_the_line(run_folder: Path) -> None:
    (run_folder / "qrels.txt").write_text("7 0 10 0\n7 0 20\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"qrels\.txt:2: '7 0 20' is not"):
        read_collection(run_folder)


def test_folder_without_a_judged_query_is_refused(run_folder: Path) -> None:
    (run_folder / "qrels.txt").write_text("70 0 10 1\n", encoding="utf-8")
    with pytest.raises(InputError, match="none of its 3 queries is judged"):
        read_collection(run_folder)


def test_measures_equal_the_figures_by_hand() -> None:
    # x is not judged. Gains at places 1 to 4: 1, 0, 3, 2; the best order has 3, 2, 1.
    found = measure({"1": ["c", "x", "a", "b"]}, QRELS, relevant_grade=2)
    dcg = 1 + 3 / math.log2(4) + 2 / math.log2(5)
    assert found.ndcg_at_10 == pytest.approx(dcg / (3 + 2 / math.log2(3) + 1 / math.log2(4)))
    assert found.mrr_at_10 == pytest.approx(1 / 3)
    assert measure({"1": ["c", "x", "a", "b"]}, QRELS, relevant_grade=1).mrr_at_10 == 1


def test_places_after_ten_and_judged_queries_without_an_answer_count_nothing() -> None:
    qrels = QRELS | {"2": {"a": 3}, "3": {"a": 3}, "4": {"a": 1}}
    rankings = {"1": ["a", "b", "c", "d"], "2": [*"0123456789", "a"], "4": ["a"]}
    found = measure(rankings, qrels, relevant_grade=2)
    assert found.ndcg_at_10 == pytest.approx((1 + 0 + 0 + 1) / 4)
    assert found.mrr_at_10 == pytest.approx((1 + 0 + 0 + 0) / 4)


@pytest.mark.parametrize("doc_ids", ["ab", "ba"])
def test_ties_keep_the_first_stages_order_whatever_the_ids(doc_ids: str) -> None:
    collection = collection_of(candidates_of("1", f"d{doc_ids}"))
    first = measure({"1": ["d", *doc_ids]}, QRELS, relevant_grade=2)
    assert measure_scores(collection, [np.full(3, 0.5, np.float32)]) == first == measure_first_stage(collection)
    swapped = measure({"1": ["a", "d", "b"]}, QRELS, relevant_grade=2)
    scores = np.array([0.5, *(1.0 if name == "a" else 0.5 for name in doc_ids)], np.float32)
    assert measure_scores(collection, [scores]) == swapped


def test_relevance_starts_at_two_for_graded_judgments_only() -> None:
    assert relevant_grade({"1": {"a": 1, "b": 0}, "2": {"a": 2}}) == 2
    assert relevant_grade({"1": {"a": 1, "b": 0}}) == 1


class FakeEngine:
    """Scores by a fixed list and says it took so many seconds; fails from its ``fails_at``-th call on."""

    def __init__(
        self, name: str, log: list[str], *, seconds: float = 1, scores: Sequence[float] = (1, 2), fails_at: int = 99
    ) -> None:
        self._name, self._log, self._seconds, self._fails_at = name, log, seconds, fails_at
        self._scores = np.array(scores, np.float32)

    def __call__(self, call: Candidates) -> Call:
        self._log.append(f"{self._name}:{call.query}")
        if len([entry for entry in self._log if entry.startswith(self._name)]) >= self._fails_at:
            raise WorkerError("no scores today")
        return Call(self._scores[: len(call.documents)], self._seconds, 2 * self._seconds)


def workload_of(warm_up: str, *rounds: str, collection: Collection | None = None) -> Workload:
    """Calls of two documents, one letter each."""
    first, *timed = (tuple(candidates_of(name, "ab") for name in names) for names in (warm_up, *rounds))
    return Workload("letters", first, tuple(timed), False, collection)


def in_turns(
    engines: Mapping[str, FakeEngine], workload: Workload, **how: Any
) -> tuple[dict[str, Series], dict[str, str]]:
    return interleave(engines, workload.warm_up, workload.rounds, **how)


def test_engines_take_turns_of_calls_one_after_the_other_and_none_always_begins() -> None:
    log: list[str] = []
    engines = {name: FakeEngine(name, log) for name in "AB"}
    between: list[int] = []
    series, failed = in_turns(engines, workload_of("vw", "12", "3"), between=lambda: between.append(len(log)))
    calls = ("Av", "Aw", "Bv", "Bw", "B1", "B2", "A1", "A2", "A3", "B3")
    assert log == [f"{call[0]}:query {call[1]}" for call in calls]
    assert between == [4, 8]
    assert failed == {}
    assert series["A"].seconds == [[1, 1], [1]]  # the warm-up is not in it
    assert series["A"].cpu_seconds == [[2, 2], [2]]
    assert [len(scores) for scores in series["B"].scores] == [2, 1]


def test_a_pause_comes_before_a_turn_and_none_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    monkeypatch.setattr("benchmarks.measure.turns.sleep", lambda seconds: log.append(f"{seconds}"))
    in_turns({"A": FakeEngine("A", log)}, workload_of("w", "12", "3"), pause_s=0.5)
    assert log == ["A:query w", "0.5", "A:query 1", "A:query 2", "0.5", "A:query 3"]


def test_what_prepares_each_shape_is_warmed_up_with_whole_calls(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    class Counting(FakeEngine):
        def score(self, query: str, documents: tuple[str, ...]) -> Call:
            asked.append((self._name, len(documents)))
            return Call(np.zeros(len(documents), np.float32), 1, 1)

        def __enter__(self) -> "Counting":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    keys = ["st-torch-fp32", "expert-openvino-int8", "st-openvino", "expert-onnxruntime-fp32"]
    monkeypatch.setattr(compare, "_open", lambda key, model, threads: Counting(key, []))
    options = argparse.Namespace(engines=keys, threads=1, warm_up_documents=1)
    compare._in_turns(options, None, workload_of("w", "1"))  # type: ignore[arg-type]
    assert asked[:4] == list(zip(keys, (1, 2, 2, 1), strict=True))
    assert {count for _, count in asked[4:]} == {2}


def test_engine_that_fails_is_left_out_and_the_others_go_on() -> None:
    log: list[str] = []
    engines = {"A": FakeEngine("A", log), "B": FakeEngine("B", log, fails_at=2)}
    series, failed = in_turns(engines, workload_of("", "12", "3"))
    assert failed == {"B": "no scores today"}
    assert list(series) == ["A"]
    assert series["A"].seconds == [[1, 1], [1]]


def series_of(*rounds: float, scores: Sequence[float]) -> Series:
    """A call of two documents per round."""
    return Series([[s] for s in rounds], [[np.array(scores, np.float32)] for _ in rounds], [[2 * s] for s in rounds])


def test_summary_has_speed_ratio_operations_agreement_and_quality() -> None:
    collection = replace(collection_of(candidates_of("1", "ab")), qrels={"1": QRELS["1"], "2": QRELS["1"]})
    series = {
        "st-torch-fp32": series_of(4, 2, scores=[2, 1]),
        "crossrank-int8": series_of(1, 0.5, scores=[1.5, 1.75]),
        "st-torch-bf16": series_of(2, 1, scores=[2, 1]),
    }
    found = summarize(
        series,
        workload_of("", "1", "1", collection=collection),
        baseline="st-torch-fp32",
        reference="st-torch-fp32",
        operations=[8e9, 4e9],
        peaks={"fp32": 4.0, "int8": 16.0},
        trained=True,
    )
    theirs, ours, bf16 = found.values()
    assert theirs["docs_per_s"] == asdict(Spread(0.75, 0.5, 1))
    assert theirs["ratio"] == asdict(Spread(1, 1, 1))
    assert ours["docs_per_s"] == asdict(Spread(3, 2, 4))
    assert ours["ratio"] == asdict(Spread(4, 4, 4))
    assert ours["cpu_ms_per_doc"] == asdict(Spread(750, 500, 1000))
    assert (theirs["gflops"], theirs["share_of_peak"]) == (2, 0.5)
    assert (ours["gflops"], ours["share_of_peak"]) == (8, 0.5)
    assert bf16["share_of_peak"] is None
    names = ("max_abs_delta", "mean_abs_delta", "kendall_tau")
    assert [theirs[name] for name in names] == [0, 0, 1]
    assert [ours[name] for name in names] == [0.75, 0.625, -1]
    assert theirs["quality"] == asdict(measure({"1": ["a", "b"]}, {"1": QRELS["1"]}, relevant_grade=2))
    assert ours["quality"] == asdict(measure({"1": ["b", "a"]}, {"1": QRELS["1"]}, relevant_grade=2))


def test_the_first_call_of_a_turn_counts_in_no_speed_unless_it_is_alone() -> None:
    def seconds(*times: float) -> Series:
        turns = [[*times], [times[-1]]]
        return Series(turns, [[np.zeros(2, np.float32)] * len(turn) for turn in turns], turns)

    found = summarize(
        {"crossrank-fp32": seconds(9, 2, 1), "crossrank-int8": seconds(5, 1, 0.5)},
        workload_of("", "123", "4"),
        operations=[2e9, 1e9],
        peaks={},
        trained=False,
        **dict.fromkeys(("baseline", "reference"), "crossrank-fp32"),
    )
    assert [one["docs_per_s"] for one in found.values()] == [
        asdict(Spread(1.667, 1.333, 2)),
        asdict(Spread(3.333, 2.667, 4)),
    ]
    assert found["crossrank-int8"]["ratio"] == asdict(Spread(2, 2, 2))
    assert found["crossrank-int8"]["cpu_ms_per_doc"] == asdict(Spread(312.5, 250, 375))
    assert found["crossrank-fp32"]["gflops"] == 0.83


@pytest.mark.parametrize("change", [{"trained": False}, {"workload": workload_of("", "1")}])
def test_weights_drawn_at_random_and_calls_that_are_no_judged_query_have_no_quality(change: dict[str, Any]) -> None:
    options: dict[str, Any] = {
        "workload": workload_of("", "1", collection=collection_of(candidates_of("1", "ab"))),
        "trained": True,
        **dict.fromkeys(("baseline", "reference"), "crossrank-fp32"),
    }
    options |= change
    found = summarize(
        {"crossrank-fp32": series_of(1, scores=[1, 2])}, options.pop("workload"), operations=[1], peaks={}, **options
    )
    assert found["crossrank-fp32"]["quality"] is None


def test_scores_are_compared_with_an_exact_engine_where_there_is_one() -> None:
    keys = ["st-torch-bf16", "crossrank-int8", "st-torch-fp32", "crossrank-fp32"]
    assert choose_baseline(keys) == ("st-torch-fp32", "st-torch-fp32")
    assert choose_baseline(["crossrank-int8", "crossrank-fp32"]) == ("crossrank-int8", "crossrank-fp32")
    assert choose_baseline(keys[:2]) == ("st-torch-bf16", "st-torch-bf16")


def test_kendall_tau_is_scipys_mean_over_calls() -> None:
    rng = np.random.default_rng(0)
    reference = [rng.integers(0, 20, n).astype(np.float32) for n in (2, 30, 100)]  # with ties
    scores = [values + rng.normal(0, 5, len(values)).round().astype(np.float32) for values in reference]
    expected = [stats.kendalltau(a, b).statistic for a, b in zip(reference, scores, strict=True)]
    assert compare_scores(reference, scores)["kendall_tau"] == pytest.approx(np.mean(expected))


def test_calls_of_one_document_are_ranked_together() -> None:
    one_each = [np.array([value], np.float32) for value in (1, 2, 3)]
    assert compare_scores(one_each, one_each[:1] + one_each[:0:-1])["kendall_tau"] == pytest.approx(1 / 3)


# GFLOP of a pair of 80, 128 and 512 tokens, counted by hand from the layers' matrix products.
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("cross-encoder/ms-marco-TinyBERT-L2", (0.070, 0.117, 0.671)),
        ("cross-encoder/ms-marco-TinyBERT-L4", (0.76, 1.25, 5.97)),
        ("cross-encoder/ms-marco-MiniLM-L6-v2", (1.76, 2.87, 13.3)),
        ("cross-encoder/ms-marco-TinyBERT-L6", (6.9, 11.2, 48.3)),
        ("nboost/pt-bert-base-uncased-msmarco", (13.8, 22.4, 96.6)),
        ("nboost/pt-bert-large-msmarco", (49, 79, 335)),
        ("cross-encoder/ettin-reranker-17m-v1", (0.670, 1.12, 5.07)),  # gated; windows in four of seven
    ],
)
def test_operations_are_those_of_the_whole_model(model: str, expected: tuple[float, ...]) -> None:
    found = operations_per_pair(read_config(make_config(registered(model))), np.array([80, 128, 512], np.int32)) / 1e9
    assert [float(f"{value:.3g}") for value in found] == pytest.approx(expected, rel=0.01)  # the figures are rounded


def test_peaks_are_those_of_the_models_own_products_in_both_precisions_each_time() -> None:
    config = read_config(make_config(registered("cross-encoder/ms-marco-TinyBERT-L2")))
    assert products_of(config) == [(128, 128)] * 4 + [(128, 512), (512, 128)]
    peaks = Peaks(config, threads=2, batch_s=0.01)
    peaks.measure()
    peaks.measure()
    assert {precision: len(values) for precision, values in peaks.gflops.items()} == {"fp32": 2, "int8": 2}
    assert min(min(values) for values in peaks.gflops.values()) > 0


def texts_of(calls: Iterable[Candidates]) -> Counter[str]:
    return Counter(text for call in calls for text in (call.query, *call.documents))


@pytest.mark.parametrize(("documents", "calls"), [(1, 17), (100, 3), (1001, 1)])
def test_no_text_of_a_synthetic_workload_returns(documents: int, calls: int) -> None:
    make = partial(make_workload, None, documents=documents, warm_up=1, rounds=2)
    workload = make(calls=calls)
    assert [len(timed) for timed in workload.rounds] == [calls, calls]
    assert {len(call.documents) for timed in workload.rounds for call in timed} == {documents}
    texts = texts_of(call for part in (workload.warm_up, *workload.rounds) for call in part)
    assert max(texts.values()) == 1
    assert make(calls=calls) == workload
    assert (workload.reused, workload.collection) == (False, None)


def judged(queries: int, documents: int) -> Collection:
    """Queries 0, 1, ... with documents that no other has."""
    entries = [
        Candidates(
            str(i), f"query {i}", *(tuple(f"{what} {i} {j}" for j in range(documents)) for what in ("id", "text"))
        )
        for i in range(queries)
    ]
    return Collection("tiny", "given", tuple(entries), {entry.query_id: {"id 0 0": 2} for entry in entries}, 2)


def test_judged_calls_take_the_first_chunk_of_every_query_before_the_second_of_any() -> None:
    calls = judged_calls(judged(2, 5), 2)
    assert [(call.query_id, call.documents) for call in calls] == [
        (i, (f"text {i} {j}", f"text {i} {j + 1}")) for j in (0, 2) for i in "01"
    ]  # the fifth document of each would be a shorter call
    assert calls[2].doc_ids == ("id 0 2", "id 0 3")


def test_calls_larger_than_a_querys_candidates_are_refused() -> None:
    with pytest.raises(InputError, match="--documents 4: a query of tiny has 2 candidates at most"):
        judged_calls(judged(5, 2), 4)


def test_judged_rounds_share_no_text_until_there_are_too_few() -> None:
    make = partial(make_workload, judged(12, 4), warm_up=2, rounds=2)
    whole = make(documents=4, calls=None)
    assert [len(timed) for timed in whole.rounds] == [5, 5]  # 2 + 2 * 5 = 12
    texts = texts_of(call for part in (whole.warm_up, *whole.rounds) for call in part)
    assert max(texts.values()) == 1
    assert whole.collection is not None
    assert whole.describe() == {
        "name": "tiny",
        "documents_per_call": 4,
        "calls": 10,
        "documents": 40,
        "texts_return": False,
    }
    reused = make(documents=4, calls=6)
    assert reused.reused
    assert reused.rounds[1][-1].query_id == "1"
    assert make(documents=2, calls=None).collection is None, "a part of the candidates is no query's ranking"


def test_every_shape_is_a_registered_model_of_the_published_table() -> None:
    assert len(SHAPES) == 9
    assert all(registered(model_id).docs_per_sec_v100 for _, model_id in SHAPES.values())


def small(model_id: str, **sizes: Any) -> RegisteredModel:
    """A registered model in a small size, with its own vocabulary."""
    return replace(registered(model_id), **{"layers": 2, "hidden": 32, "heads": 4, "intermediate": 64} | sizes)


@pytest.fixture(scope="module")
def own_vocabularies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vocabularies where the test data has BERT's; in the multilingual one, German words come after 100,000 others."""
    folder = tmp_path_factory.mktemp("vocabularies")
    english = list(json.loads((EMBEDDED_MODEL / "tokenizer.json").read_text("utf-8"))["model"]["vocab"])
    german = ["wie", "viele", "menschen", "leben", "in", "berlin"]
    others = [entry for entry in english if entry not in german]
    rare = [f"rare{i}" for i in range(110_000)]
    for path, entries in ((MINILM, english), (MULTILINGUAL_BERT, [*others, *rare[:80_000], *german, *rare[80_000:]])):
        (folder / path).mkdir(parents=True)
        (folder / path / "vocab.txt").write_text("\n".join(entries), encoding="utf-8")
    return folder


@pytest.fixture(params=["own", case(MULTILINGUAL_BERT, FOLDER)])
def vocabularies(request: pytest.FixtureRequest, own_vocabularies: Path) -> Path:
    """A folder as the test data is one, and that itself."""
    return own_vocabularies if request.param == "own" else FOLDER


@pytest.mark.parametrize(("name", "labels"), [("electra-base", 1), ("bert-base", 2)])
def test_drawn_checkpoint_loads_in_transformers_with_every_weight_and_spread_logits(
    name: str, labels: int, vocabularies: Path, tmp_path: Path
) -> None:
    folder = tmp_path / name
    write_random_checkpoint(folder, small(SHAPES[name][1]), vocabularies)
    model, loading = auto_classifier().from_pretrained(folder, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.num_labels == labels
    # transformers' own tokenizer and forward pass; rounding and the seven digits of an error function remain.
    assert transformers_logits(folder, sample_pairs(), max_length=512).std(axis=0) == pytest.approx(SPREAD, abs=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == [name], "nothing temporary is left"


def test_drawn_checkpoint_is_the_same_again(vocabularies: Path, tmp_path: Path) -> None:
    model = small(SHAPES["tinybert-l2"][1])
    for name in "ab":
        write_random_checkpoint(tmp_path / name, model, vocabularies)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()
    }


@pytest.mark.parametrize("name", RERANKERS)
def test_newer_reranker_is_drawn_with_its_own_lengths_and_loads_in_sentence_transformers(
    name: str, own_vocabularies: Path, tmp_path: Path
) -> None:
    def write(folder: Path, shape: RegisteredModel, test_data: Path) -> None:
        write_random_checkpoint(folder, small(shape.id), test_data)

    model = open_model(name, bench=tmp_path, test_data=own_vocabularies, write=write)
    shape = find_registered(name)
    assert (model.config.vocabulary, model.config.labels) == (shape.vocabulary, 1)
    assert read_checkpoint(model.folder).inputs.max_length == shape.max_length
    stands_in = f"published WordPiece, filled up to {shape.vocabulary} entries, in place of the model's own"
    assert model.describe()["vocabulary"] == stands_in
    encoder = sentence_transformers.CrossEncoder(str(model.folder), device="cpu")
    assert encoder.tokenizer.model_max_length == shape.max_length
    # Its own tokenizer, modules and activation: a parameter that it did not find would be drawn anew.
    assert encoder.predict(sample_pairs()).std() == pytest.approx(SPREAD, abs=1e-3)


def test_multilingual_shape_has_a_tokenizer_of_its_true_size(vocabularies: Path, tmp_path: Path) -> None:
    model = small(SHAPES["bert-multilingual"][1], hidden=8, heads=2, intermediate=8)
    write_random_checkpoint(tmp_path / "model", model, vocabularies)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert len(tokenizer) == 105_879
    assert max(tokenizer("Wie viele Menschen leben in Berlin?")["input_ids"]) > 30_522


@pytest.mark.parametrize("name", ["tinybert-l2", "bert-multilingual"])
def test_vocabulary_is_made_up_where_there_is_no_test_data(name: str, tmp_path: Path) -> None:
    shape = small(SHAPES[name][1], hidden=8, heads=2, intermediate=8)
    write_random_checkpoint(tmp_path / "model", shape, tmp_path / "absent")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert len(tokenizer) == shape.vocabulary
    assert tokenizer.tokenize("Réd wine, 1688 doctors!") == ["red", "wine", ",", "1688", "doctor", "##s", "!"]
    assert tokenizer("a", "b")["input_ids"][0] == tokenizer.convert_tokens_to_ids("[CLS]")
    texts = sample_texts(300, kind="document", seed=1)
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert 1.3 < sum(map(len, ids)) / sum(len(text.split()) for text in texts) < 1.45
    assert tokenizer.unk_token_id not in chain(*ids)


@pytest.mark.parametrize("kind", ["query", "document"])
def test_made_up_texts_have_as_many_tokens_by_the_made_up_vocabulary_as_by_berts(
    kind: Literal["query", "document"], trained_checkpoint: Path, tmp_path: Path
) -> None:
    """Within 6%: 3% and 4% more were found than of BERT's, 2% of the embedded model's, which is a part of it."""
    write_tokenizer(tmp_path, 30_522, None)
    texts = sample_texts(1000, kind=kind, seed=1)
    ours, berts = (
        transformers.AutoTokenizer.from_pretrained(folder)(texts)["input_ids"]
        for folder in (tmp_path, trained_checkpoint)
    )
    assert sum(map(len, ours)) == pytest.approx(sum(map(len, berts)), rel=0.06)


def test_drawn_checkpoint_is_made_once(tmp_path: Path, checkpoint: Path) -> None:
    made: list[Path] = []

    def write(folder: Path, model: RegisteredModel, test_data: Path) -> None:
        made.append(folder)
        shutil.copytree(checkpoint, folder)

    for _ in range(2):
        model = open_model("tinybert-l2", bench=tmp_path / "bench", test_data=tmp_path, write=write)
    assert made == [tmp_path / "bench" / "models" / "tinybert-l2" / "checkpoint-made-up-vocabulary"]
    assert (model.name, model.weights, model.trained) == ("TinyBERT-L-2", "random, seed 0", False)
    assert model.describe()["vocabulary"] == "made up"


def test_checkpoint_with_a_made_up_vocabulary_is_not_taken_where_there_is_test_data(
    tmp_path: Path, vocabularies: Path, checkpoint: Path
) -> None:
    without, published = (
        open_model(
            "tinybert-l2",
            bench=tmp_path / "bench",
            test_data=folder,
            write=lambda folder, *_: shutil.copytree(checkpoint, folder),
        )
        for folder in (tmp_path, vocabularies)
    )
    assert without.folder != published.folder
    assert published.describe()["vocabulary"] == "published"


def test_pair_lengths_are_those_of_transformers(checkpoint: Path, tmp_path: Path) -> None:
    model = open_model(str(checkpoint), bench=tmp_path, test_data=tmp_path)
    call = Candidates("1", "knife", ("a", "b"), ("", "how do I sharpen a knife? " * 20))
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    expected = tokenizer([call.query] * 2, list(call.documents), truncation="longest_first", max_length=MAX_LENGTH)
    (found,) = model.pair_lengths([call])
    assert found.tolist() == [len(ids) for ids in expected["input_ids"]]
    assert max(found) == MAX_LENGTH


def test_result_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_result(path, {"a": 1})
    with pytest.raises(TypeError):
        write_result(path, {"a": 1, "b": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_commit_says_whether_files_other_than_results_differ_from_it(tmp_path: Path) -> None:
    assert git_commit(tmp_path) == "unknown"
    result, code = tmp_path / "benchmarks" / "results" / "a.json", tmp_path / "code.py"
    result.parent.mkdir(parents=True)
    for path in (result, code):
        path.write_text("1", encoding="utf-8")
    author = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for arguments in (("init", "-q"), ("add", "."), (*author, "commit", "-q", "-m", "first")):
        subprocess.run(["git", "-C", tmp_path, *arguments], check=True)
    result.write_text("2", encoding="utf-8")
    clean = git_commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{7,}", clean)
    code.write_text("2", encoding="utf-8")
    assert git_commit(tmp_path) == f"{clean}-dirty"


FAKES = {
    "fake": EngineSpec("fake", "tests.support.fake_adapter", "exact"),
    "fake-int8": EngineSpec("fake int8", "tests.support.fake_adapter", "int8"),  # ours takes seconds to export
    "absent": EngineSpec("absent", "tests.support.fake_adapter", "int8", environment="no-such-environment"),
    "failing": EngineSpec("failing", "tests.support.fake_adapter", "exact", options={"behaviour": "cannot be opened"}),
}


@pytest.fixture(scope="module")
def shared_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose conversions are made once for all commands."""
    return make_checkpoint(tmp_path_factory.mktemp("commands") / "tiny-bert", "bert")


def run_command(
    command: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, *options: str
) -> tuple[dict[str, Any], Result]:
    """Run a command on a tiny checkpoint; its JSON, and what the report's reader makes of that."""
    for key, spec in FAKES.items():
        monkeypatch.setitem(ENGINES, key, spec)
    output = checkpoint.parent / f"{command}-tiny.json"
    where = ["--model", str(checkpoint), "--bench", str(checkpoint.parent / "bench"), "--output", str(output)]
    assert main([command, *where, "--threads", "1", "--allow-load", *options]) == 0
    text = output.read_text(encoding="utf-8")
    assert str(checkpoint.parent) not in text
    result = read_result(output)
    assert isinstance(result, Result)
    report: dict[str, Any] = json.loads(text)
    assert {"date", "commit", "command", "timed", "machine", "threads", "versions", "model"} <= report.keys()
    return report, result


def test_throughput_of_a_tiny_model_beside_others_and_those_that_cannot_run(
    shared_checkpoint: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = ("--engines", "absent", "fake-int8", "crossrank-fp32", "failing")
    amounts = ("--documents", "2", "--rounds", "2", "--warm-up", "1", *SHORT_PEAKS)
    report, result = run_command(
        "throughput", shared_checkpoint, monkeypatch, "--data", str(run_folder), *engines, *amounts
    )
    assert list(report["engines"]) == ["fake int8", "crossrank fp32"]
    assert list(result.unavailable) == ["absent", "failing"]
    assert "no-such-environment" in result.unavailable["absent"]
    assert (report["baseline"], report["reference"]) == ("fake int8", "crossrank fp32")
    assert (report["rounds"], report["warm_up_calls"], report["data"]["documents_per_call"]) == (2, 1, 2)
    assert report["data"]["texts_return"], "two queries do not suffice"
    assert 0 < report["data"]["mean_pair_tokens"] <= MAX_LENGTH
    assert set(report["peaks_gflops"]) == {"fp32", "int8"}
    ours = report["engines"]["crossrank fp32"]
    assert (ours["kind"], ours["precision"]) == ("exact", "fp32")
    assert (ours["max_abs_delta"], ours["kendall_tau"]) == (0, 1)
    assert ours["share_of_peak"] > 0
    assert set(ours["quality"]) == set(HEADINGS)
    theirs = report["engines"]["fake int8"]
    assert (theirs["kind"], theirs["ratio"]["median"]) == ("int8", 1)
    assert theirs["max_abs_delta"] > 0
    assert theirs["docs_per_s"]["max"] < 2 / 0.05
    assert 0 < theirs["cpu_ms_per_doc"]["median"] < 50, "the fake sleeps"
    captured = capsys.readouterr()
    assert "fake int8" in captured.out
    assert "failing: not measured: ModuleNotFoundError: No module named 'peer'" in captured.err


def test_latency_has_percentiles_of_calls_in_a_row_and_of_the_first_after_a_pause(
    shared_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    score = Worker.score
    seconds = iter([99, 0.3, 0.1, 0.2, 0.5, 0.1, 0.2])  # of the warm-up call, and of two turns

    def timed(self: Worker, query: str, documents: tuple[str, ...]) -> Call:
        return replace(score(self, query, documents), seconds=next(seconds))

    monkeypatch.setattr(Worker, "score", timed)
    amounts = ("--documents", "3", "--rounds", "2", "--calls", "3", "--warm-up", "1")
    report, result = run_command("latency", shared_checkpoint, monkeypatch, "--engines", "fake", "absent", *amounts)
    found = report["engines"]["fake"]
    assert (found["p50_ms"], found["calls"], found["after_pause_p50_ms"]) == (150, 4, 400)
    assert found["p95_ms"] == found["p99_ms"] == 200
    assert (result.turns, result.cold) == ("2 x 3", False)
    assert list(report["unavailable"]) == ["absent"]
    assert "after pause p50 ms" in capsys.readouterr().out
    assert main(["latency", "--model", str(shared_checkpoint), "--calls", "1", "--allow-load"]) == 1
    assert "--calls 1: 2 or more of a turn are needed" in capsys.readouterr().err


def test_memory_is_that_of_the_engines_process(shared_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, _ = run_command("memory", shared_checkpoint, monkeypatch, "--engines", "fake", "crossrank-fp32", "absent")
    fake, ours = report["engines"]["fake"], report["engines"]["crossrank fp32"]
    assert 5 < fake["rss_mb"] <= fake["peak_rss_mb"] < ours["peak_rss_mb"], "the fake imports numpy alone"
    assert list(report["unavailable"]) == ["absent"]


def test_startup_counts_a_fresh_process_each_time(shared_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, _ = run_command(
        "startup", shared_checkpoint, monkeypatch, "--engines", "fake", "absent", "failing", "--rounds", "2"
    )
    found = report["engines"]["fake"]
    stages = [found[stage]["median"] for stage in ("import_s", "load_s", "first_score_s")]
    assert found["total_s"]["min"] > 0.05
    assert found["total_s"]["median"] > sum(stages), "the interpreter is in it"
    assert report["rounds"] == 2
    assert list(report["unavailable"]) == ["absent", "failing"]


@pytest.mark.parametrize("command", ["throughput", "startup", "service", "serve"])
def test_busy_machine_is_refused_unless_it_is_allowed(
    command: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Neighbours, "warning", lambda *_: "busy machine: others took 1.9 of 2 cores")
    monkeypatch.setattr("benchmarks.reporting.result._LOOK_S", 0.01)
    assert main([command, "--model", str(checkpoint)]) == 1
    said = capsys.readouterr().err
    assert "error: busy machine: others took 1.9 of 2 cores, or with --allow-load all the same" in said


def test_result_says_how_busy_others_kept_the_machine_before_and_during(
    shared_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = iter([0.126, -0.01])
    monkeypatch.setattr(Neighbours, "others", lambda _: next(taken))
    monkeypatch.setattr(Neighbours, "warning", lambda *_: None)
    report, result = run_command("memory", shared_checkpoint, monkeypatch, "--engines", "fake")
    assert (report["machine"]["busy_before"], report["machine"]["busy_during"]) == (0.13, 0)
    assert report["machine"]["load_before"] >= 0
    assert (result.busy, result.load) == (0.13, None)


@pytest.mark.parametrize("command", ["throughput", "latency", "memory", "startup"])
def test_run_without_any_engine_fails_and_says_why(
    command: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(ENGINES, "absent", FAKES["absent"])
    where = ["--model", str(checkpoint), "--bench", str(checkpoint.parent), "--engines", "absent", "--allow-load"]
    assert main([command, *where]) == 1
    err = capsys.readouterr().err
    assert "absent: not measured: " in err
    assert "error: no engine could be measured" in err


@pytest.mark.parametrize("command", ["throughput", "latency", "memory", "startup"])
def test_model_that_is_none_is_refused(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--model", str(tmp_path / "absent")]) == 1
    assert "it is one of tinybert-l2, " in capsys.readouterr().err


@pytest.mark.parametrize(
    "module",
    [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "benchmarks").rglob("*.py"))
        if ">>> " in path.read_text(encoding="utf-8")
    ],
)
def test_examples_in_docstrings_hold(module: str) -> None:
    found = doctest.testmod(import_module(module))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_prints_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert f"usage: python -m benchmarks {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [[], ["absent"], ["quality", "--documents", "0"], ["throughput", "--model", "m", "--rounds", "0"]]
)
def test_wrong_usage_ends_with_status_two(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


@pytest.mark.data(TREC_DL19)
def test_first_stage_of_trec_dl19_has_the_published_figures() -> None:
    found = measure_first_stage(read_collection(FOLDER / TREC_DL19))
    assert (round(found.ndcg_at_10, 4), round(found.mrr_at_10, 4)) == (0.5058, 0.7024)


@pytest.mark.data(SCIFACT)
def test_scifact_is_read_and_searched() -> None:
    collection = read_collection(FOLDER / SCIFACT)
    assert (len(collection.candidates), len(collection.qrels), collection.relevant_grade) == (300, 300, 1)
    # Anserini's BM25, with stemming, has 0.679 (BEIR's table).
    assert measure_first_stage(collection).ndcg_at_10 == pytest.approx(0.657, abs=0.001)


@pytest.mark.slow
@pytest.mark.data(TREC_DL19, MINILM)
def test_quality_of_the_real_checkpoint_on_trec_dl19(minilm_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", str(FOLDER / TREC_DL19), "--model", str(minilm_artifact)]
    assert main(["quality", *options, "--precision", "fp32", "int8", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["queries"], report["documents"]) == (43, 4300)
    first, fp32, int8 = report["results"].values()
    assert (round(first["ndcg_at_10"], 4), round(first["mrr_at_10"], 4)) == (0.5058, 0.7024)
    # The float32 weights have 0.7216: rounding may swap neighbours, not more.
    assert fp32["ndcg_at_10"] == pytest.approx(0.7216, abs=0.0015)
    assert fp32["mrr_at_10"] == pytest.approx(0.8884, abs=0.0001)
    assert int8["ndcg_at_10"] >= 0.7150


@pytest.mark.slow
def test_sentence_transformers_scores_the_same_in_the_same_run(
    shared_checkpoint: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, _ = run_command(
        "throughput", shared_checkpoint, monkeypatch, "--data", str(run_folder), "--rounds", "1", "--documents", "2"
    )
    assert report["baseline"] == report["reference"] == "sentence-transformers torch fp32"
    # Both float32, summed in other orders; the logits of the tiny model spread by 1.5.
    assert report["engines"]["crossrank fp32"]["max_abs_delta"] <= 2e-5


def test_long_documents_have_more_than_512_tokens_and_no_text_returns() -> None:
    workload = make_workload(None, documents=2, warm_up=1, rounds=3, calls=2, long=True)
    texts = [text for calls in (workload.warm_up, *workload.rounds) for call in calls for text in call.documents]
    assert len(set(texts)) == len(texts) == 14
    assert min(len(text.split()) for text in texts) > 350, "words, of which each is a token or more"
    assert workload.name == "synthetic-long"


def test_warm_up_calls_can_be_smaller(shared_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    score = Worker.score

    def counted(self: Worker, query: str, documents: tuple[str, ...]) -> Call:
        sizes.append(len(documents))
        return score(self, query, documents)

    monkeypatch.setattr(Worker, "score", counted)
    amounts = ("--documents", "3", "--rounds", "1", "--calls", "2", "--warm-up", "2", "--warm-up-documents", "1")
    run_command("latency", shared_checkpoint, monkeypatch, "--engines", "fake", *amounts)
    assert sizes == [1, 1, 3, 3]
