"""The benchmarks: what they read, what they compute, and how they take turns."""

import doctest
import json
import math
import time
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from benchmarks import demo
from benchmarks.__main__ import COMMANDS, main
from benchmarks._data import Candidates, Collection, cut_collection, read_collection, relevant_grade
from benchmarks._engines import Engine, Floats
from benchmarks._interleave import Series, interleave, summarize
from benchmarks._measures import measure, measure_first_stage, measure_scores
from benchmarks._worker import Call, Worker, WorkerError
from crossrank import InputError
from crossrank.export import export_model

QRELS = {"1": {"a": 3, "b": 2, "c": 1, "d": 0}}


def collection_of(*candidates: Candidates) -> Collection:
    return Collection("tiny", "given", candidates, {entry.query_id: QRELS["1"] for entry in candidates}, 2)


def candidates_of(query_id: str, doc_ids: str) -> Candidates:
    return Candidates(query_id, f"query {query_id}", tuple(doc_ids), tuple(f"text of {name}" for name in doc_ids))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    from tests.tiny_models import make_checkpoint  # not at the top: worker processes import this module

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


def test_cut_keeps_the_first_queries_and_candidates_and_their_judgments(run_folder: Path) -> None:
    collection = cut_collection(read_collection(run_folder), queries=1, documents=1)
    assert collection.candidates == (Candidates("7", "query 7", ("10",), ("first",)),)
    assert collection.qrels == {"7": {"10": 0, "20": 3}}


def test_missing_files_are_named(tmp_path: Path, run_folder: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        read_collection(tmp_path / "absent")
    with pytest.raises(InputError, match=r"needs one file qrels\*, found 0"):
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
    """Scores by a fixed list and says it took so many seconds."""

    def __init__(self, name: str, log: list[str], *, seconds: float, scores: Sequence[float]) -> None:
        self._name, self._log, self._seconds = name, log, seconds
        self._scores = np.array(scores, np.float32)

    def score(self, query: str, documents: tuple[str, ...]) -> Call:
        self._log.append(f"{self._name}:{query}")
        return Call(self._scores[: len(documents)], self._seconds)


def test_engines_take_turns_call_by_call_after_the_warm_up() -> None:
    log: list[str] = []
    engines = {name: FakeEngine(name, log, seconds=1, scores=[1, 2]) for name in "AB"}
    candidates = [candidates_of("1", "ab"), candidates_of("2", "ab")]
    series = interleave(engines, candidates, warm_up=1, repeats=2)
    turns = ["A:query 1", "B:query 1"], ["A:query 2", "B:query 2"]
    assert log == [*turns[0], *turns[0], *turns[1], *turns[0], *turns[1]]
    assert series["A"].seconds == [2, 2]  # two calls of a second each; the warm-up is not in it
    assert len(series["A"].scores) == 2


def test_summary_has_speed_ratio_fidelity_and_quality() -> None:
    collection = collection_of(candidates_of("1", "ab"))
    slow = Series([4.0, 2.0, 2.0], [np.array([2, 1], np.float32)])
    fast = Series([1.0, 1.0, 0.5], [np.array([1.5, 1.75], np.float32)])
    found = summarize({"ours": fast, "theirs": slow}, collection, baseline="theirs")
    ours, theirs = found["ours"], found["theirs"]
    assert (ours.docs_per_s.median, ours.docs_per_s.min, ours.docs_per_s.max) == (2, 2, 4)
    assert (ours.ratio.median, ours.ratio.min, ours.ratio.max) == (4, 2, 4)
    assert (theirs.ratio.median, theirs.max_abs_delta, theirs.mean_abs_delta) == (1, 0, 0)
    assert (ours.max_abs_delta, ours.mean_abs_delta) == (0.75, 0.625)
    assert theirs.quality == measure_first_stage(collection)
    assert ours.quality == measure({"1": ["b", "a"]}, QRELS, relevant_grade=2)


def open_fake(*, fails: bool) -> Engine:
    """An engine for a worker process: scores are the lengths of the documents."""

    def score(query: str, documents: Sequence[str]) -> Floats:
        if fails:
            raise ValueError("no scores today")
        time.sleep(0.05)
        return np.array([len(document) for document in documents], np.float32)

    return Engine(score, {"precision": "none"}, {"fake": "1"})


def open_nothing() -> Engine:
    raise ModuleNotFoundError("No module named 'peer'")


def test_worker_scores_in_its_own_process_and_times_the_call_there() -> None:
    with Worker(partial(open_fake, fails=False), threads=1) as worker:
        call = worker.score("q", ("a", "bbb"))
        assert call.scores.tolist() == [1, 3]
        assert call.seconds >= 0.05
        assert (worker.facts, worker.versions) == ({"precision": "none"}, {"fake": "1"})


def test_error_in_a_worker_is_raised_here() -> None:
    with pytest.raises(WorkerError, match="ModuleNotFoundError: No module named 'peer'"):
        Worker(open_nothing, threads=1)
    with (
        Worker(partial(open_fake, fails=True), threads=1) as worker,
        pytest.raises(WorkerError, match="ValueError: no scores today"),
    ):
        worker.score("q", ("a",))


def test_throughput_prints_a_table_and_writes_a_report_without_paths(
    checkpoint: Path, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report.json"
    options = ["--model", str(checkpoint), "--data", str(run_folder), "--output", str(output)]
    assert main(["throughput", *options, "--threads", "1", "--repeats", "2"]) == 0
    text, report = output.read_text(encoding="utf-8"), json.loads(output.read_text(encoding="utf-8"))
    assert str(tmp_path) not in text
    assert report["baseline"] == "crossrank fp32"
    assert list(report["engines"]) == ["crossrank fp32", "crossrank int8"]
    assert (report["threads"], report["repeats"], report["data"]["documents"]) == (1, 2, 4)
    fp32 = report["engines"]["crossrank fp32"]
    assert (fp32["ratio"]["median"], fp32["max_abs_delta"]) == (1, 0)
    out = capsys.readouterr().out
    assert "crossrank int8" in out
    assert "nDCG@10" in out


def test_throughput_needs_a_checkpoint_folder(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["throughput", "--model", str(run_folder / "absent"), "--data", str(run_folder)]) == 1
    assert "a checkpoint folder is needed" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["_bm25", "_data", "_measures", "_options", "_text"])
def test_examples_in_docstrings_hold(name: str) -> None:
    found = doctest.testmod(import_module(f"benchmarks.{name}"))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_prints_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert "--data FOLDER" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["absent"], ["quality"], ["throughput", "--model", "m", "--repeats", "0"]])
def test_wrong_usage_ends_with_status_two(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_demo_without_a_model_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], [""]):
        assert demo.main(arguments) == 0
        out = capsys.readouterr().out
        assert out.count("\n") == 1
        assert "No model is embedded yet" in out
        assert "MODEL=" in out


def test_demo_ranks_every_passage_with_a_checkpoint_and_its_artifact(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CROSSRANK_HOME", str(tmp_path / "cache"))
    # Fewer graphs than a first use makes: the demo takes what the cache has.
    artifact = export_model(checkpoint, variants=["cpu"], precisions=["fp32"])
    manifest = (artifact / "crossrank.json").read_bytes()
    for model in (checkpoint, artifact):
        assert demo.main([str(model)]) == 0
        out = capsys.readouterr().out
        assert demo.QUERY in out
        assert all(passage[:20] in out for passage in demo.PASSAGES)
        assert "cpu fp32" in out
    assert (artifact / "crossrank.json").read_bytes() == manifest


def test_demo_of_an_unknown_model_fails_with_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["no/such/model/here"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_first_stage_of_trec_dl19_has_the_published_figures(test_data: Path) -> None:
    found = measure_first_stage(read_collection(test_data / "data" / "trec-dl19"))
    assert (round(found.ndcg_at_10, 4), round(found.mrr_at_10, 4)) == (0.5058, 0.7024)


def test_scifact_is_read_and_searched(test_data: Path) -> None:
    collection = read_collection(test_data / "data" / "scifact")
    assert (len(collection.candidates), len(collection.qrels), collection.relevant_grade) == (300, 300, 1)
    # Anserini's BM25, with stemming, has 0.679 (BEIR's table).
    assert measure_first_stage(collection).ndcg_at_10 == pytest.approx(0.657, abs=0.001)


@pytest.mark.slow
def test_quality_of_the_real_checkpoint_on_trec_dl19(
    test_data: Path, minilm_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", str(test_data / "data" / "trec-dl19"), "--model", str(minilm_artifact)]
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
    checkpoint: Path, run_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "report.json"
    options = ["--model", str(checkpoint), "--data", str(run_folder), "--output", str(output), "--repeats", "1"]
    assert main(["throughput", *options, "--against", "sentence-transformers"]) == 0
    report = json.loads(output.read_text(encoding="utf-8"))
    assert report["baseline"] == "sentence-transformers"
    # Both float32, summed in other orders; the logits of the tiny model spread by 1.5.
    assert report["engines"]["crossrank fp32"]["max_abs_delta"] <= 2e-5


@pytest.mark.slow
def test_demo_exports_the_real_checkpoint_and_puts_the_answers_first(
    minilm_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CROSSRANK_HOME", str(tmp_path))
    assert demo.main([str(minilm_checkpoint)]) == 0
    ranking = capsys.readouterr().out.partition(demo.QUERY)[2].split("\n")
    assert {line[16:40] for line in ranking if line[:3] in ("  1", "  2")} == {
        demo.PASSAGES[1][:24],
        demo.PASSAGES[4][:24],
    }
