"""`python -m benchmarks quality`: speeds of models and cascades beside their quality."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.__main__ import main, parse
from benchmarks.commands.quality import run
from benchmarks.inputs.collections import Candidates, Collection, read_collection
from benchmarks.measure.quality import mean_quality, measure_queries
from benchmarks.measure.speeds import deal, weigh
from benchmarks.measure.systems import ranking_scores
from benchmarks.measure.turns import Series, Spread
from benchmarks.reporting.plots import Point, draw_tradeoff
from crossrank import Cascade, CrossEncoder, MissingDependencyError
from crossrank._artifact.origin import EMBEDDED_NAME
from crossrank._text.sample_texts import sample_texts
from tests.support.artifacts import make_artifact

DOCUMENTS = tuple(sample_texts(12, kind="document", seed=3))


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tradeoff")
    return make_artifact(folder / "small"), make_artifact(folder / "big", "electra")


def candidates_of(query_id: str, documents: int = len(DOCUMENTS)) -> Candidates:
    ids = tuple(str(i) for i in range(documents))
    return Candidates(query_id, f"query number {query_id}", ids, DOCUMENTS[:documents])


def collection_of(*candidates: Candidates) -> Collection:
    return Collection("tiny", "given", candidates, {entry.query_id: {"1": 2, "2": 1} for entry in candidates}, 2)


def write_run(path: Path, query_ids: str) -> None:
    run = [
        {
            "query": (entry := candidates_of(query_id)).query,
            "hits": [
                {"qid": query_id, "docid": doc_id, "rank": i, "content": text}
                for i, (doc_id, text) in enumerate(zip(entry.doc_ids, entry.documents, strict=True))
            ],
        }
        for query_id in query_ids
    ]
    path.write_text(json.dumps(run), encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    write_run(folder / "bm25-top100.json", "123")
    (folder / "qrels.txt").write_text("".join(f"{q} 0 1 2\n{q} 0 2 1\n" for q in "123"), encoding="utf-8")
    return folder


@pytest.mark.parametrize("depth", [1, 4, 12, 20])
def test_scores_of_a_cascade_give_its_ranking(depth: int, artifacts: tuple[Path, Path]) -> None:
    small, big = map(CrossEncoder, artifacts)
    documents = [*DOCUMENTS, DOCUMENTS[0], DOCUMENTS[5]]  # with ties
    cascade = Cascade([(small, None), (big, depth)])
    expected = [hit["corpus_id"] for hit in cascade.rank("a query", documents)]
    scores = ranking_scores(cascade)("a query", tuple(documents))
    assert np.argsort(-scores).tolist() == expected


def test_every_query_is_in_one_round_and_the_warm_up_has_other_texts() -> None:
    entries = [candidates_of(query_id) for query_id in "12345"]
    workload = deal(collection_of(*entries), rounds=2, warm_up=3)
    assert [[call.query_id for call in timed] for timed in workload.rounds] == [["1", "3", "5"], ["2", "4"]]
    assert [len(call.documents) for call in workload.warm_up] == [12] * 3
    assert not {text for call in workload.warm_up for text in call.documents} & set(DOCUMENTS)
    assert len(deal(collection_of(*entries), rounds=9, warm_up=1).rounds) == 5


def test_speed_is_by_round() -> None:
    entries = [candidates_of("1", 4), candidates_of("2", 4), candidates_of("3", 2)]
    workload = deal(collection_of(*entries), rounds=2, warm_up=1)
    up, down = np.arange(4, dtype=np.float32), -np.arange(4, dtype=np.float32)
    series = {
        "slow": Series([[2.0, 1.0], [2.0]], [[down, down[:2]], [down]]),
        "fast": Series([[0.5, 0.25], [1.0]], [[up, down[:2]], [down]]),
    }
    found = weigh(series, workload)
    assert found["slow"].docs_per_s == Spread(2, 2, 2)
    assert found["fast"].docs_per_s == Spread(6, 4, 8), "of two calls the second counts"
    assert found["fast"].ratio == Spread(3, 2, 4)
    assert found["fast"].query_ms == Spread(625, 250, 1000)


def evaluate(*options: object) -> int:
    return main(["quality", *map(str, options), "--threads", "1", "--warm-up", "1"])


def test_run_measures_models_and_cascades(data: Path, artifacts: tuple[Path, Path], tmp_path: Path) -> None:
    small, big = f"small={artifacts[0]}", f"big={artifacts[1]}"
    depths = ("--depths", 4, 2)
    output = tmp_path / "result.json"
    models = ("--data", data, "--precision", "fp32", "--model", small)
    assert evaluate(*models, "--cascade", small, big, *depths, "--rounds", 2, "--output", output) == 0
    report: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    assert list(report["systems"]) == ["small fp32", "big fp32", "cascade, k=2", "cascade, k=4"]
    assert (report["benchmark"], report["data"], report["queries"], report["rounds"]) == ("quality", "tiny", 3, 2)
    assert report["systems"]["cascade, k=4"]["of"] == ["small fp32", "big fp32"]
    assert report["systems"]["small fp32"]["ratio"] == {"median": 1, "min": 1, "max": 1}
    assert all(system["docs_per_s"]["median"] > 0 for system in report["systems"].values())
    assert str(tmp_path) not in report["command"]
    assert "--depths 4 2" in report["command"]
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    # The figures are those of the cascade itself.
    cascade = Cascade([(CrossEncoder(artifacts[0], threads=1), None), (CrossEncoder(artifacts[1], threads=1), 4)])
    collection = read_collection(data)
    rankings = {
        entry.query_id: [entry.doc_ids[hit["corpus_id"]] for hit in cascade.rank(entry.query, entry.documents)]
        for entry in collection.candidates
    }
    expected = mean_quality(measure_queries(rankings, collection.qrels, relevant_grade=2))
    assert report["results"]["cascade, k=4"]["ndcg_at_10"] == pytest.approx(expected.ndcg_at_10)


def test_systems_are_called_by_the_precision_that_runs(
    data: Path, artifacts: tuple[Path, Path], tmp_path: Path
) -> None:
    drawn: list[str] = []

    def draw(models: list[Point], cascade: list[Point], **names: object) -> bytes:
        drawn.extend(point.label for point in models)
        return b""

    output, big = tmp_path / "result.json", f"big={artifacts[1]}"
    # "auto" is int8 for the model that comes with crossrank, which has nothing else, and fp32 for the other.
    depths = ("--depths", 2, "--rounds", 1, "--documents", 4, "--output", output, "--threads", 1, "--warm-up", 1)
    models = ("--data", data, "--model", EMBEDDED_NAME, big, "--cascade", EMBEDDED_NAME, big)
    _, options = parse(["quality", *map(str, (*models, *depths))])
    run(options, draw=draw)
    systems = json.loads(output.read_text(encoding="utf-8"))["systems"]
    names = [f"{EMBEDDED_NAME} int8", "big fp32"]
    assert list(systems) == [*names, "cascade, k=2"]
    assert systems["cascade, k=2"]["of"] == names
    assert drawn == names


def test_precision_that_auto_chooses_is_measured_once(
    data: Path, artifacts: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    models = ("--model", f"small={artifacts[0]}", "--precision", "auto", "fp32")
    assert evaluate("--data", data, *models, "--rounds", 1) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("small")]
    assert [line.split()[:2] for line in lines] == [["small", "fp32"]]


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (["--cascade", "x/a", "y/a"], "several are called a"),
        (["--model", "a b=x"], "'a b': a system's name is of letters"),
        (["--model", "a", "--output", "absent/x.json"], "there is no folder absent"),
    ],
)
def test_what_makes_no_sense_fails_before_a_model_is_opened(
    options: list[str], wrong: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("--data", data, *options) == 1
    assert wrong in capsys.readouterr().err


def test_plot_without_matplotlib_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match="the plot needs matplotlib: pip install matplotlib"):
        draw_tradeoff([Point(30.0, 0.7, "big")], [], curve="", line=("BM25", 0.5), heading="nDCG@10")


def test_plot_is_the_same_for_the_same_figures_and_needs_no_cascade() -> None:
    points = [Point(30.0, 0.7, "big"), Point(3000.0, 0.65, "small")]
    images = [draw_tradeoff(points, [], curve="", line=("BM25", 0.5), heading="nDCG@10") for _ in range(2)]
    assert images[0] == images[1]
    curve = [Point(200.0, 0.69, "k=10"), Point(100.0, 0.7, "k=20")]
    assert draw_tradeoff(points, curve, curve="cascade", line=("BM25", 0.5), heading="nDCG@10") != images[0]
