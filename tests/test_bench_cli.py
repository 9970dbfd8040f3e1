"""``crossrank bench``: which calls it makes, what it says of them, and what it prints."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrank import CrossEncoder, InputError
from crossrank._bench import CallSpeed, bench, format_speeds, time_calls
from crossrank._cli import main
from crossrank.export import export_model
from tests.tiny_models import make_checkpoint

FAST = ["--seconds", "0.05", "--documents", "1", "3"]


class FakeScore:
    """Keeps its calls and lets its clock go on by a time per document in place of scoring."""

    def __init__(self, clock: "FakeClock", ms_per_document: float) -> None:
        self.clock, self.ms_per_document = clock, ms_per_document
        self.calls: list[tuple[str, list[str]]] = []

    def __call__(self, query: str, documents: Sequence[str]) -> None:
        self.calls.append((query, list(documents)))
        self.clock.log.append(self)
        self.clock.now_s += len(documents) * self.ms_per_document / 1e3

    def sizes(self) -> list[int]:
        return [len(documents) for _, documents in self.calls]


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.log: list[FakeScore] = []

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny artifact with two precisions."""
    work = tmp_path_factory.mktemp("tiny")
    checkpoint = make_checkpoint(work / "checkpoint", "bert")
    return export_model(checkpoint, work / "artifact", variants=["cpu"], precisions=["fp32", "int8"])


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of ``crossrank bench``."""
    try:
        status = main(["bench", *(str(argument) for argument in arguments)])
    except SystemExit as error:  # argparse's way out
        status = int(error.code or 0)
    return status, *capsys.readouterr()


def test_figures_are_those_of_the_calls() -> None:
    clock = FakeClock()
    scores = {"fp32": FakeScore(clock, 2.0), "int8": FakeScore(clock, 1.0)}
    speeds = time_calls(scores, [1, 10], texts=None, seconds=4.0, clock=clock)
    assert [(speed.precision, speed.documents) for speed in speeds] == [
        ("fp32", 1),
        ("fp32", 10),
        ("int8", 1),
        ("int8", 10),
    ]
    for speed, ms_per_document in zip(speeds, [2.0, 2.0, 1.0, 1.0], strict=True):
        assert speed.p50_ms == pytest.approx(ms_per_document * speed.documents)
        assert speed.docs_per_s == pytest.approx(1e3 / ms_per_document)
        # A second for each of the four, and no more than a call beyond.
        assert speed.calls == pytest.approx(1e3 / speed.p50_ms, abs=1.5)


def test_a_call_that_takes_longer_than_all_the_time_is_made_once() -> None:
    clock = FakeClock()
    fast, slow = time_calls({"fp32": FakeScore(clock, 5.0)}, [1, 1000], texts=None, seconds=1.0, clock=clock)
    assert slow.calls == 1
    assert slow.p50_ms == pytest.approx(5000)
    assert (slow.p95_ms, slow.p99_ms) == (None, None)
    assert fast.calls == pytest.approx(100, abs=1.5)  # its half of the second is left to it


@pytest.mark.parametrize(("calls", "known"), [(19, (False, False)), (20, (True, False)), (100, (True, True))])
def test_percentiles_are_told_only_of_calls_enough(calls: int, known: tuple[bool, bool]) -> None:
    clock = FakeClock()
    (speed,) = time_calls({"fp32": FakeScore(clock, 1000)}, [1], texts=None, seconds=calls, clock=clock)
    assert speed.calls == calls
    assert (speed.p95_ms is not None, speed.p99_ms is not None) == known


def test_no_text_comes_twice_and_all_precisions_get_the_same() -> None:
    clock = FakeClock()
    scores = {"fp32": FakeScore(clock, 10.0), "int8": FakeScore(clock, 10.0)}
    time_calls(scores, [1, 2, 50], texts=None, seconds=12.0, clock=clock)
    first, second = ([call for call in score.calls if call[0] != "query"] for score in scores.values())  # not settling
    assert first == second
    documents = [document for _, call in first for document in call]
    assert len(documents) > 500
    assert len(set(documents)) == len(documents)


def test_given_texts_are_gone_through_in_turn_and_over_again() -> None:
    clock = FakeClock()
    score = FakeScore(clock, 1000)
    texts = ["a", "b", "c", "d", "e"]
    time_calls({"fp32": score}, [2], texts=texts, seconds=8.0, clock=clock)
    assert [documents for _, documents in score.calls[:4]] == [["a", "b"], ["c", "d"], ["e", "a"], ["b", "c"]]
    assert len({query for query, _ in score.calls}) == len(score.calls)


def test_each_size_is_called_untimed_first_and_precisions_take_turns() -> None:
    clock = FakeClock()
    fp32, int8 = FakeScore(clock, 10.0), FakeScore(clock, 10.0)
    speeds = time_calls({"fp32": fp32, "int8": int8}, [4, 500], texts=None, seconds=2.0, clock=clock)
    assert fp32.sizes()[:2] == int8.sizes()[:2] == [4, 32]  # a part of the largest warms up
    changes = sum(one is not other for one, other in zip(clock.log, clock.log[1:], strict=False))
    assert changes > 10  # not all of one and then all of the other
    timed = [speed.calls for speed in speeds if speed.precision == "fp32"]
    assert [fp32.sizes().count(4) - 1, fp32.sizes().count(500)] == timed


def test_table_has_a_dash_for_what_few_calls_cannot_tell() -> None:
    speeds = [
        CallSpeed("fp32", 1, 150, docs_per_s=1234.5, p50_ms=0.81, p95_ms=12.34, p99_ms=123.4),
        CallSpeed("int8", 1000, 1, docs_per_s=88.04, p50_ms=11358.0, p95_ms=None, p99_ms=None),
    ]
    header, *rows = [line.split() for line in format_speeds(speeds).splitlines()]
    assert header == ["precision", "documents", "docs/s", "p50", "ms", "p95", "ms", "p99", "ms", "calls"]
    assert rows == [
        ["fp32", "1", "1,234", "0.81", "12.3", "123", "150"],
        ["int8", "1,000", "88.0", "11,358", "-", "-", "1"],
    ]


def test_what_is_measured_comes_first_and_a_row_for_each_precision_and_size(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = _run(capsys, "--model", folder, *FAST, "--threads", 1)
    assert (status, err) == (0, "")
    setup, _, table = out.partition("\n\n")
    for fact in (
        str(folder),
        "cpu, CPUExecutionProvider",
        "cpu fp32, cpu int8",
        "1 (as asked)",
        "crossrank ",
        "onnxruntime ",
        "tokenizing included",
        "not measured: fp16: no graph for device cpu",
    ):
        assert fact in setup
    rows = [line.split()[:2] for line in table.splitlines()]
    assert rows == [["precision", "documents"], ["fp32", "1"], ["fp32", "3"], ["int8", "1"], ["int8", "3"]]


def test_json_is_one_object_with_setup_and_speeds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = _run(capsys, "--model", folder, *FAST, "--precision", "int8", "--max-length", 30, "--json")
    assert (status, err) == (0, "")
    result = json.loads(out)
    (graph,) = result["graphs"]
    info = CrossEncoder(folder).info()
    assert (graph["precision"], graph["max_length"], graph["threads"]) == ("int8", 30, info.threads)
    assert result["skipped"] == []
    assert [(speed["precision"], speed["documents"]) for speed in result["speeds"]] == [("int8", 1), ("int8", 3)]
    for speed in result["speeds"]:
        assert speed["calls"] >= 1
        assert speed["docs_per_s"] == pytest.approx(speed["documents"] / speed["p50_ms"] * 1e3)


def test_documents_of_a_file_are_measured_with(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts").write_text("The sea is blue.\n\nBread dough rises.\n", "utf-8")
    status, out, _ = _run(capsys, "--model", folder, *FAST, "--precision", "fp32", "--file", tmp_path / "texts")
    assert status == 0
    assert "2 given documents" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "no-such-model"], ["'no-such-model'", "Nearest names"]),
        (["--model", "FOLDER", "--documents", "1", "0"], ["documents=[1, 0]", "1 or more"]),
        (["--model", "FOLDER", "--seconds", "0"], ["seconds=0.0", "above 0"]),
        (["--model", "FOLDER", "--seconds", "nan"], ["seconds=nan", "above 0"]),
        (["--model", "FOLDER", "--seconds", "inf"], ["seconds=inf", "above 0"]),
        (["--model", "FOLDER", "--threads", "0"], ["threads=0"]),
        (["--model", "FOLDER", "--precision", "fp32", "fp16"], ["fp16", "there is cpu fp32"]),
        (["--model", "FOLDER", "--file", "absent"], ["absent: documents cannot be read"]),
        (["--model", "FOLDER", "--file", "EMPTY"], ["texts is empty", "made-up ones"]),
    ],
)
def test_failures_are_one_message_and_status_1(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "empty").write_text("\n")
    places = {"FOLDER": folder, "EMPTY": tmp_path / "empty"}
    status, out, err = _run(capsys, *(places.get(argument, argument) for argument in arguments))
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    for word in words:
        assert word in err


@pytest.mark.parametrize("arguments", [["--precision", "auto"], ["--documents"], ["--seconds", "some"], ["--model"]])
def test_wrong_usage_is_status_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    status, out, err = _run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert "usage: crossrank bench" in err


def test_a_model_without_a_relevant_label_is_refused_and_with_one_measured(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "bert", labels=3)
    artifact = export_model(checkpoint, tmp_path / "artifact", variants=["cpu"], precisions=["fp32"])
    with pytest.raises(InputError, match="--relevant-label"):
        bench(artifact, documents=[1], seconds=0.01)
    _, (speed,) = bench(artifact, documents=[1], seconds=0.01, relevant_label=2)
    assert speed.calls >= 1


def test_progress_is_drawn_on_standard_error_when_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench(folder, documents=[1], seconds=0.01, show_progress_bar=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "10/10 turns" in err  # five each of two precisions


def test_measuring_changes_no_score(folder: Path, tmp_path: Path) -> None:
    """What the rows stand for is what the library does: the same call, the same scores."""
    seen: list[Any] = []
    model = CrossEncoder(folder)

    def score(query: str, documents: Sequence[str]) -> None:
        seen.append((query, documents, model.score(query, documents)))

    time_calls({"fp32": score}, [3], texts=None, seconds=0.02)
    fresh = CrossEncoder(folder)
    for query, documents, scores in seen:
        np.testing.assert_allclose(fresh.score(query, documents), scores, atol=1e-6)  # float32 rounding


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a child there")
def test_ctrl_c_is_status_130(folder: Path) -> None:
    script = [sys.executable, "-c", "import sys; from crossrank._cli import main; sys.exit(main())"]
    with subprocess.Popen(
        [*script, "bench", "--model", str(folder), "--seconds", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("model")  # measuring begins
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "interrupted"
