"""`python -m benchmarks quality`: the data it reads, the measures, runs in and out, and the comparison of systems."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, R, nDCG
from scipy import stats  # type: ignore[import-untyped]

from benchmarks.__main__ import main
from benchmarks.inputs.collections import Candidates, read_collection
from benchmarks.inputs.trec import read_qrels, read_run, write_run
from benchmarks.measure.quality import Quality, compare_queries, mean_quality, measure_queries
from crossrank import CrossEncoder, InputError, MissingDependencyError
from tests.support.artifacts import make_artifact

CORPUS = {"p": "Pears green fruit", "a": "Apples red fruit", "c": "a car", "d": "red doors"}
QUERIES = {"1": "Red fruit?", "2": "a green car", "3": "not judged", "4": "zebras"}
QRELS = "1 0 a 2\n1 0 p 1\n2 0 c 2\n4 0 d 2\n"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("quality"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three judged queries with the texts of their hits."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    run = [
        {
            "query": query,
            "hits": [
                {"content": text, "qid": query_id, "docid": doc_id, "rank": rank}
                for rank, (doc_id, text) in enumerate(CORPUS.items(), 1)
            ],
        }
        for query_id, query in QUERIES.items()
    ]
    (folder / "bm25-top100.json").write_text(json.dumps(run), encoding="utf-8")
    (folder / "qrels.txt").write_text(QRELS, encoding="utf-8")
    return folder


def write_beir(folder: Path) -> None:
    (folder / "qrels").mkdir(parents=True)
    for name, entries in (("corpus", CORPUS), ("queries", QUERIES)):
        lines = "".join(json.dumps({"_id": key, "text": text}) + "\n" for key, text in entries.items())
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def evaluate(capsys: pytest.CaptureFixture[str], *options: object) -> dict[str, Any]:
    assert main(["quality", *map(str, options), "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_published_beir_folder_has_its_judgments_in_a_table_of_the_test_split(tmp_path: Path) -> None:
    write_beir(tmp_path)
    header = "query-id\tcorpus-id\tscore\n"
    (tmp_path / "qrels" / "test.tsv").write_text(f"{header}1\ta\t1\n1\tp\t0\n", encoding="utf-8")
    (tmp_path / "qrels" / "train.tsv").write_text(f"{header}2\tc\t1\n", encoding="utf-8")
    collection = read_collection(tmp_path)
    assert collection.qrels == {"1": {"a": 1, "p": 0}}
    (entry,) = collection.candidates
    assert (entry.query, entry.doc_ids[0]) == ("Red fruit?", "a")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("query-id\tcorpus-id\tscore\n1\ta\t1\n1 0 a 1\n", "test.tsv:3: '1 0 a 1' is not: query-id corpus-id score"),
        ("1\ta\t1\n", r"test.tsv:1: .* is not: query-id 0 document-id grade"),
        ("query-id\tcorpus-id\tscore\n1\ta\thigh\n", "test.tsv:2: "),
    ],
)
def test_judgments_of_the_other_form_are_an_error_that_names_the_line(text: str, wrong: str, tmp_path: Path) -> None:
    (tmp_path / "test.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=wrong):
        read_qrels(tmp_path / "test.tsv")


@pytest.mark.parametrize(
    ("file", "content", "line", "byte"),
    [
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n1\ta\t1\n1\té\t1\n".encode("latin-1"), 3, 0xE9),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n1\ta\t1\n".encode("utf-16"), 1, 0xFF),
        ("corpus.jsonl", '{"_id": "a", "text": "a"}\n{"_id": "b", "text": "naïve"}\n'.encode("cp1252"), 2, 0xEF),
        ("queries.jsonl", '{"_id": "1", "text": "naïve"}\n'.encode("cp1252"), 1, 0xEF),
        ("bm25-top100.json", b'[{"query": "\x80"}]', 1, 0x80),
    ],
)
def test_bytes_that_are_no_utf8_are_named_with_file_line_and_remedy(
    file: str, content: bytes, line: int, byte: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_beir(tmp_path)
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta\t1\n", encoding="utf-8")
    (tmp_path / file).write_bytes(content)
    assert main(["quality", "--data", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {tmp_path / file}:{line}: byte 0x{byte:02x} is no UTF-8")
    assert "iconv -f ENCODING -t UTF-8" in err


def test_byte_order_mark_is_no_part_of_the_first_id(tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text(QRELS, encoding="utf-8-sig")
    (tmp_path / "x.run").write_text("1 Q0 a 1 1 x\n", encoding="utf-8-sig")
    assert list(read_qrels(tmp_path / "qrels")) == ["1", "2", "4"]
    assert list(read_run(tmp_path / "x.run")) == ["1"]


def test_document_of_a_beir_folder_may_hold_what_ends_lines_elsewhere(tmp_path: Path) -> None:
    write_beir(tmp_path)
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta\t1\n", encoding="utf-8")
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "red\u2028fruit"}\r\n', encoding="utf-8")
    assert read_collection(tmp_path).candidates[0].documents == ("red\u2028fruit",)


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Data sets of ir_datasets on local files: without a first stage, with one, and with one that has no order."""
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "home"))
    ir_datasets = pytest.importorskip("ir_datasets", reason="ir_datasets is not installed")
    from ir_datasets.formats import TrecScoredDocs
    from ir_datasets.util import LocalDownload

    files = {
        "docs_tsv": "".join(f"{key}\t{text}\n" for key, text in CORPUS.items()),
        "queries_tsv": "".join(f"{key}\t{text}\n" for key, text in QUERIES.items()),
        "qrels_trec": QRELS,
        "scored": "1 Q0 c 1 1.5 x\n1 Q0 a 2 2.5 x\n1 Q0 p 3 1.5 x\n2 Q0 c 1 3 x\n3 Q0 c 1 3 x\n",
        "unordered": "1 c\n1 p\n1 a\n2 c\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    names = {}
    for kind in ("plain", "scored", "unordered", "no-documents"):
        parts = {name: str(tmp_path / name) for name in ("docs_tsv", "queries_tsv", "qrels_trec")}
        if kind == "no-documents":
            del parts["docs_tsv"]
        dataset = ir_datasets.create_dataset(**parts)
        if kind in files:
            dataset = ir_datasets.Dataset(dataset, TrecScoredDocs(LocalDownload(tmp_path / kind)))
        names[kind] = f"{tmp_path.name}/{kind}"  # a name of each test's own: the registry is one for the process
        ir_datasets.registry.register(names[kind], dataset)
    return names


def candidates_of(query_id: str, doc_ids: str) -> Candidates:
    return Candidates(query_id, QUERIES[query_id], tuple(doc_ids), tuple(CORPUS[name] for name in doc_ids))


def test_dataset_without_a_first_stage_gets_candidates_from_bm25(registered: dict[str, str]) -> None:
    collection = read_collection(Path(registered["plain"]))
    assert (collection.name, collection.first_stage) == (registered["plain"], "own BM25")
    assert collection.qrels == {"1": {"a": 2, "p": 1}, "2": {"c": 2}, "4": {"d": 2}}
    assert [(entry.query_id, entry.doc_ids[:1]) for entry in collection.candidates][:1] == [("1", ("a",))]
    assert collection.candidates[-1] == Candidates("4", "zebras", (), ())


def test_hits_of_a_dataset_are_its_candidates_by_score_and_ties_keep_their_order(registered: dict[str, str]) -> None:
    collection = read_collection(Path(registered["scored"]))
    assert collection.first_stage == "the data set's own"
    assert collection.candidates == (candidates_of("1", "acp"), candidates_of("2", "c"), candidates_of("4", ""))


def test_hits_without_scores_are_ordered_by_bm25(registered: dict[str, str]) -> None:
    collection = read_collection(Path(registered["unordered"]))
    assert collection.first_stage == "the data set's own, in the order of own BM25"
    assert collection.candidates[:2] == (candidates_of("1", "ap"), candidates_of("2", "c"))


def test_dataset_that_cannot_be_had_is_an_error_that_says_why(registered: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no/such/id is no folder, and no id that ir_datasets knows"):
        read_collection(Path("no/such/id"))
    with pytest.raises(InputError, match="the data set has no docs"):
        read_collection(Path(registered["no-documents"]))
    (tmp_path / "qrels_trec").write_text("1 0\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"ir_datasets cannot give it: RuntimeError.*expected 4 columns"):
        read_collection(Path(registered["plain"]))


def test_dataset_without_ir_datasets_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(MissingDependencyError, match=r"beir/scifact/test is no folder; .* pip install ir-datasets"):
        read_collection(Path("beir/scifact/test"))


def test_map_and_recall_equal_the_figures_by_hand() -> None:
    # Relevant are a, b and e; x is not judged. b is at place 2, a at place 11.
    ranking = ["x", "b", *"stuvwyz0", "a"]
    assert len(ranking) == 11
    qrels = {"1": {"a": 3, "b": 2, "c": 1, "e": 2}}
    found = mean_quality(measure_queries({"1": ranking}, qrels, relevant_grade=2))
    assert found.map == pytest.approx((1 / 2 + 2 / 11 + 0) / 3)
    assert found.recall_at_10 == pytest.approx(1 / 3)
    assert found.mrr_at_10 == pytest.approx(1 / 2)


def test_means_of_queries_are_ir_measures_own_and_a_query_without_an_answer_counts_as_zero() -> None:
    rng = np.random.default_rng(0)
    qrels = {str(q): {str(d): int(rng.integers(0, 4)) for d in range(30)} for q in range(12)}
    rankings = {str(q): [str(d) for d in rng.permutation(40)[:25]] for q in range(11)}
    found = measure_queries(rankings, qrels, relevant_grade=2)
    run = {query_id: {doc_id: 100.0 - i for i, doc_id in enumerate(ids)} for query_id, ids in rankings.items()}
    measures = [nDCG @ 10, RR(rel=2) @ 10, AP(rel=2), R(rel=2) @ 10]
    expected = ir_measures.calc_aggregate(measures, qrels, run)
    assert mean_quality(found) == pytest.approx(Quality(*(expected[one] for one in measures)))
    assert found["11"] == Quality(0, 0, 0, 0)


def test_comparison_has_the_exact_p_value_of_few_queries() -> None:
    # Differences 0.3, 0.2, -0.1, 0: of the 8 ways to flip three signs, sums are ±0.6, ±0.4 (ours), ±0.2 and ±0.
    found = compare_queries([0.8, 0.7, 0.4, 0.5], [0.5, 0.5, 0.5, 0.5])
    assert found["difference"] == pytest.approx(0.1)
    assert found["p_value"] == pytest.approx(4 / 8)
    assert (found["better"], found["worse"], found["equal"]) == (2, 1, 1)
    assert compare_queries([0.5, 0.5], [0.5, 0.5])["p_value"] == 1
    assert compare_queries([0.9, 0.5], [0.5, 0.5])["p_value"] == 1


def test_p_value_is_near_the_t_tests_and_the_same_each_time() -> None:
    rng = np.random.default_rng(1)
    others = rng.random(200)
    values = others + rng.normal(0.02, 0.15, 200)  # normal differences, which the t-test assumes
    found = compare_queries(values.tolist(), others.tolist())
    # Drawn 9,999 times a p value of 0.1 has a standard error of 0.003.
    assert found["p_value"] == pytest.approx(stats.ttest_rel(values, others).pvalue, abs=0.015)
    assert compare_queries(values.tolist(), others.tolist()) == found
    swapped = compare_queries(others.tolist(), values.tolist())
    assert (swapped["better"], swapped["worse"]) == (found["worse"], found["better"])
    assert swapped["p_value"] == pytest.approx(found["p_value"], abs=0.015)


def test_written_run_keeps_order_and_scores_and_ties_fall(tmp_path: Path) -> None:
    hits = [("z", 2.5), ("b", 1.0), ("c", 1.0), ("a", 1.0), ("y", -3.0)]
    write_run(tmp_path / "x.run", {"7": hits}, tag="x")
    lines = [line.split() for line in (tmp_path / "x.run").read_text(encoding="utf-8").splitlines()]
    assert [line[:4] for line in lines] == [["7", "Q0", doc_id, str(i)] for i, (doc_id, _) in enumerate(hits, 1)]
    scores = np.array([line[4] for line in lines], np.float32)  # what trec_eval reads
    assert (np.diff(scores) < 0).all()
    np.testing.assert_allclose(scores, [score for _, score in hits], rtol=1e-6)
    assert [doc_id for doc_id, _ in read_run(tmp_path / "x.run")["7"]] == [doc_id for doc_id, _ in hits]
    assert [path.name for path in tmp_path.iterdir()] == ["x.run"]
    for run, tag in (({"7": [("a b", 1.0)]}, "x"), ({"": [("a", 1.0)]}, "x"), ({"7": [("a", 1.0)]}, "x y")):
        with pytest.raises(InputError, match="has a blank in one, or an empty one"):
            write_run(tmp_path / "y.run", run, tag=tag)
    assert not (tmp_path / "y.run").exists()


def test_run_is_read_by_score_and_ties_in_the_files_order(tmp_path: Path) -> None:
    path = tmp_path / "x.run"
    path.write_text("7 Q0 a 1 1 x\n8 Q0 a 1 5e-1 x\n7 Q0 c 9 2 x\n7 Q0 b 2 1 x\n", encoding="utf-8")
    assert read_run(path) == {"7": [("c", 2.0), ("a", 1.0), ("b", 1.0)], "8": [("a", 0.5)]}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("7 Q0 a 1 2 x\n7 Q0 b 2 x\n", "x.run:2: '7 Q0 b 2 x' is not: query-id Q0 document-id rank score tag"),
        ("7 Q0 a 1 high x\n", "x.run:1: "),
        ("7 Q0 a 1 nan x\n", "x.run:1: "),
        ("7 Q0 a 1 2 x\n7 Q0 a 2 1 x\n", "x.run:2: query 7 has document a twice"),
        (None, "x.run cannot be read: No such file"),
    ],
)
def test_run_that_is_none_is_an_error_that_names_the_line(text: str | None, wrong: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "x.run").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=wrong):
        read_run(tmp_path / "x.run")


def test_first_stage_alone_needs_no_model(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluate(capsys, "--data", data)
    # The order is p, a, c, d: grades 1 2 0 0, then c at place 3 and d at place 4 alone.
    ideal = 2 + 1 / math.log2(3)
    ndcg = ((1 + 2 / math.log2(3)) / ideal + 1 / math.log2(4) + 1 / math.log2(5)) / 3
    assert report["results"] == {
        "first stage, BM25": {
            "ndcg_at_10": pytest.approx(ndcg),
            "mrr_at_10": pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3),
            "map": pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3),
            "recall_at_10": 1,
        }
    }
    assert (report["model"], report["comparisons"]) == ("", {})


def test_written_runs_have_the_same_figures_when_they_are_read_again(
    data: Path, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    report = evaluate(capsys, "--data", data, "--model", artifact, "--run-out", runs)
    assert sorted(path.name for path in runs.iterdir()) == [
        "artifact-fp32.run",
        "first-stage-BM25.run",
    ]
    ours, first = sorted(runs.iterdir())
    again = evaluate(capsys, "--data", data, "--run-in", f"ours={ours}", f"first={first}")
    assert list(again["results"]) == ["first stage, BM25", "ours", "first"]
    assert again["results"]["ours"] == report["results"]["artifact fp32"]
    assert again["results"]["first"] == again["results"]["first stage, BM25"] == report["results"]["first stage, BM25"]
    assert again["compared_with"] == "ours"
    # The reference: ir_measures on the file as trec_eval would read it, its own tie-breaking included.
    measures = [nDCG @ 10, RR(rel=2) @ 10, AP(rel=2), R(rel=2) @ 10]
    qrels = {query_id: dict(grades) for query_id, grades in read_qrels(data / "qrels.txt").items()}
    expected = ir_measures.calc_aggregate(measures, qrels, ir_measures.read_trec_run(str(ours)))
    assert list(again["results"]["ours"].values()) == pytest.approx([expected[one] for one in measures])


def test_every_model_and_precision_is_compared_with_the_first(
    data: Path, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", data, "--model", f"one={artifact}", "--model", f"two={artifact}"]
    report = evaluate(capsys, *options, "--precision", "auto", "fp32")
    one, two = "one fp32", "two fp32"
    assert list(report["results"]) == ["first stage, BM25", one, two]  # auto is fp32
    assert report["results"][one] == report["results"][two]
    assert (report["model"], report["compared_with"]) == ("one, two", one)
    same = {"difference": 0, "p_value": 1, "better": 0, "worse": 0, "equal": 3}
    assert report["comparisons"][two] == dict.fromkeys(report["results"][one], same)
    assert str(tmp_path) not in report["command"], "where things lie is of no interest"
    assert "--model one=artifact two=artifact --precision auto fp32" in report["command"]


def test_figures_are_those_of_the_library_s_scores(
    data: Path, artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate(capsys, "--data", data, "--model", artifact)["results"]["artifact fp32"]
    model = CrossEncoder(artifact)
    run = {
        query_id: dict(zip(CORPUS, model.score(QUERIES[query_id], list(CORPUS.values())).tolist(), strict=True))
        for query_id in ("1", "2", "4")
    }
    qrels = {query_id: dict(grades) for query_id, grades in read_qrels(data / "qrels.txt").items()}
    expected = ir_measures.calc_aggregate([nDCG @ 10], qrels, run)[nDCG @ 10]
    assert found["ndcg_at_10"] == pytest.approx(expected)


def test_other_runs_are_cut_like_the_candidates(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.run"
    path.write_text("1 Q0 d 1 2 x\n1 Q0 a 2 1 x\n99 Q0 a 1 1 x\n", encoding="utf-8")
    whole = evaluate(capsys, "--data", data, "--run-in", path)["results"]["x.run"]
    cut = evaluate(capsys, "--data", data, "--run-in", path, "--documents", "1")["results"]["x.run"]
    assert (whole["mrr_at_10"], cut["mrr_at_10"]) == (pytest.approx(1 / 6), 0)


def test_table_says_what_is_compared_and_how(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.run"
    path.write_text("1 Q0 a 1 2 x\n2 Q0 c 1 1 x\n", encoding="utf-8")
    assert main(["quality", "--data", str(data), "--run-in", str(path)]) == 0
    out = capsys.readouterr().out
    assert "nDCG@10  MRR@10     MAP    R@10" in out
    assert "compared with x.run; p of the paired randomization test" in out
    line = next(line for line in out.splitlines() if line.startswith("first stage, BM25   MRR@10"))
    assert line.split()[4:] == ["-0.3056", "0.5000", "1", "2", "0"]


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (["--run-in", "a=RUN", "a=RUN"], "several are called a"),
        (["--model", "some/a", "other/a"], "several are called a"),
        (["--run-in", "first-stage-BM25=JUDGED"], "several are called first-stage-BM25"),  # in the names of files
        (["--run-in", "a b=RUN"], "'a b': a system's name is of letters, digits, '_', '.' and '-'"),
        (["--run-in", "=RUN"], "'': a system's name"),
        (["--run-in", "../a=RUN"], "'../a': a system's name"),
        (["--model", "some/my model"], "'my model': a system's name"),
        (["--model", "a\tb=some/model", "c"], "at least one: give it one, NAME=PATH"),
        (["--run-in", "RUN"], "none of its 1 queries is among those of tiny"),
        (["--run-out", "absent/runs"], "there is no folder absent"),
    ],
)
def test_what_cannot_be_measured_or_written_fails_with_a_message(
    options: list[str], wrong: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.run"
    path.write_text("99 Q0 a 1 2 x\n", encoding="utf-8")
    (tmp_path / "y.run").write_text("1 Q0 a 1 2 x\n", encoding="utf-8")
    given = [option.replace("RUN", str(path)).replace("JUDGED", str(tmp_path / "y.run")) for option in options]
    assert main(["quality", "--data", str(data), *given]) == 1
    assert wrong in capsys.readouterr().err
