"""``crossrank bench``: which calls it makes, what it says of them, and what it prints."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrank import CrossEncoder, InputError
from crossrank._cli.bench import CallSpeed, bench, format_speeds, time_calls
from crossrank._cli.main import main
from crossrank._machine.busy import Neighbours
from crossrank.export import export_model
from tests.support.tiny_models import make_checkpoint

FAST = ["--seconds", "1", "--documents", "1", "3"]


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
    speeds, late = time_calls(scores, [10, 1], texts=None, seconds=6.0, clock=clock)
    assert [(speed.precision, speed.documents) for speed in speeds] == [
        ("fp32", 10),
        ("fp32", 1),
        ("int8", 10),
        ("int8", 1),
    ]
    for speed, ms_per_document in zip(speeds, [2.0, 2.0, 1.0, 1.0], strict=True):
        assert speed.p50_ms == pytest.approx(ms_per_document * speed.documents)
        assert speed.docs_per_s == pytest.approx(1e3 / ms_per_document)
        # A quarter of the time each, less what it takes to warm up and to settle: at most 0.05 s a turn.
        assert 1.2 < speed.calls * speed.p50_ms / 1e3 < 1.6
    assert late == []


@pytest.mark.parametrize(("seconds", "ms_per_document"), [(0.5, 1.0), (3.0, 1.0), (3.0, 7.0), (20.0, 7.0)])
def test_it_ends_in_its_time(seconds: float, ms_per_document: float) -> None:
    clock = FakeClock()
    scores = {name: FakeScore(clock, ms_per_document * factor) for name, factor in (("fp32", 1), ("int8", 0.7))}
    speeds, late = time_calls(scores, [1, 10, 100, 1000], texts=None, seconds=seconds, clock=clock)
    assert seconds * 0.8 < clock.now_s <= seconds
    assert len(speeds) + len(late) == 8
    for speed in speeds:
        assert speed.calls >= 1


def test_a_call_of_which_one_fits_is_made_once() -> None:
    clock = FakeClock()
    (fast, slow), late = time_calls({"fp32": FakeScore(clock, 5.0)}, [1, 1000], texts=None, seconds=6.0, clock=clock)
    assert slow.calls == 1
    assert slow.p50_ms == pytest.approx(5000)
    assert (slow.p95_ms, slow.p99_ms) == (None, None)
    assert fast.calls > 100  # the rest of the time is left to it
    assert late == []


def test_a_call_that_takes_longer_than_all_the_time_is_left_out_and_said_to_be() -> None:
    clock = FakeClock()
    (fast,), (late,) = time_calls({"fp32": FakeScore(clock, 5.0)}, [1, 1000], texts=None, seconds=1.0, clock=clock)
    assert late == "fp32 with 1,000 documents, about 5.0 s a call: 1 seconds are too few, 6 may do"
    assert fast.calls > 100
    assert clock.now_s <= 1.0


def test_the_smallest_call_is_made_whatever_it_takes() -> None:
    clock = FakeClock()
    speeds, late = time_calls({"fp32": FakeScore(clock, 5000)}, [1, 10], texts=None, seconds=0.1, clock=clock)
    assert [(speed.documents, speed.calls) for speed in speeds] == [(1, 1)]
    assert len(late) == 1


@pytest.mark.parametrize(("calls", "known"), [(19, (False, False)), (20, (True, False)), (100, (True, True))])
def test_percentiles_are_told_only_of_calls_enough(calls: int, known: tuple[bool, bool]) -> None:
    clock = FakeClock()
    (speed,), _ = time_calls({"fp32": FakeScore(clock, 1000)}, [1], texts=None, seconds=calls + 1, clock=clock)
    assert speed.calls == calls  # after one that warms up
    assert (speed.p95_ms is not None, speed.p99_ms is not None) == known


def test_no_text_comes_twice_and_all_precisions_get_the_same() -> None:
    clock = FakeClock()
    scores = {"fp32": FakeScore(clock, 10.0), "int8": FakeScore(clock, 10.0)}
    time_calls(scores, [1, 2, 50], texts=None, seconds=12.0, clock=clock)
    first, second = ([call for call in score.calls if call[0] != "query"] for score in scores.values())  # not settling
    common = min(len(first), len(second))
    of_size = [[[call for call in made if len(call[1]) == size] for size in (1, 2, 50)] for made in (first, second)]
    for ours, theirs in zip(*of_size, strict=True):
        some = min(len(ours), len(theirs))
        assert some >= 3
        assert ours[:some] == theirs[:some]
    documents = [document for _, call in first for document in call]
    assert common > 50
    assert len(documents) > 500
    assert len(set(documents)) == len(documents)


def test_given_texts_are_gone_through_in_turn_and_over_again() -> None:
    clock = FakeClock()
    score = FakeScore(clock, 1000)
    texts = ["a", "b", "c", "d", "e"]
    time_calls({"fp32": score}, [2], texts=texts, seconds=20.0, clock=clock)
    assert [documents for _, documents in score.calls[:5]] == [["a"], ["c", "d"], ["e", "a"], ["b", "c"], ["d", "e"]]
    assert len({query for query, _ in score.calls}) == len(score.calls)


def test_each_size_is_called_untimed_first_and_precisions_take_turns() -> None:
    clock = FakeClock()
    fp32, int8 = FakeScore(clock, 10.0), FakeScore(clock, 10.0)
    speeds, _ = time_calls({"fp32": fp32, "int8": int8}, [4, 500], texts=None, seconds=20.0, clock=clock)
    assert fp32.sizes()[:3] == int8.sizes()[:3] == [1, 4, 32]  # a part of the largest warms up
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
    ):
        assert fact in setup
    assert "not measured" not in setup  # what the model lacks is no news
    rows = [line.split()[:2] for line in table.splitlines() if not line.startswith("busy machine")]
    assert rows == [["precision", "documents"], ["fp32", "1"], ["fp32", "3"], ["int8", "1"], ["int8", "3"]]


def test_a_graph_that_something_else_runs_says_by_what(folder: Path) -> None:
    setup, _, _ = bench(folder, documents=[1], seconds=0.1)
    float32, int8 = setup.graphs
    kernels = "crossrank-kernels 0.1.0 (avx512-vnni)"
    shown = str(replace(setup, graphs=(float32, replace(int8, provider=kernels))))
    assert f"graphs        cpu fp32, cpu int8 by {kernels}\n" in shown
    assert "graphs        cpu fp32, cpu int8\n" in str(setup)


def test_precision_that_the_model_has_and_that_does_not_run_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(folder, tmp_path / "damaged"))
    graph = damaged / "onnx" / "model_cpu_int8.onnx"
    graph.write_bytes(bytes(graph.stat().st_size))
    status, out, err = _run(capsys, "--model", damaged, *FAST)
    assert (status, err) == (0, "")
    (line,) = [line for line in out.splitlines() if line.startswith("not measured")]
    assert line.startswith(f"not measured: int8: {graph}: onnxruntime")


def test_notes_on_the_figures_come_behind_them(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Neighbours, "warning", lambda *_: "busy machine: so it is")
    arguments = ["--model", folder, "--seconds", "1", "--documents", "1", "100000", "--precision", "fp32"]
    status, out, err = _run(capsys, *arguments)
    assert (status, err) == (0, "")
    late, busy = out.splitlines()[-2:]
    assert late.startswith("not measured: fp32 with 100,000 documents, about ")
    assert busy == "busy machine: so it is"
    _, out, _ = _run(capsys, *arguments, "--json")
    assert [note.partition(":")[0] for note in json.loads(out)["notes"]] == ["not measured", "busy machine"]


def test_help_says_what_the_seconds_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = _run(capsys, "--help")
    assert status == 0
    assert "time for all calls, beside the loading of the model" in " ".join(out.split())


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
    _, (speed,), _ = bench(artifact, documents=[1], seconds=0.01, relevant_label=2)
    assert speed.calls >= 1


def test_progress_is_drawn_on_standard_error_when_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench(folder, documents=[1], seconds=1, show_progress_bar=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "10/10 turns" in err  # five each of two precisions


def test_measuring_changes_no_score(folder: Path, tmp_path: Path) -> None:
    """What the rows stand for is what the library does: the same call, the same scores."""
    seen: list[Any] = []
    model = CrossEncoder(folder)

    def score(query: str, documents: Sequence[str]) -> None:
        seen.append((query, documents, model.score(query, documents)))

    time_calls({"fp32": score}, [3], texts=None, seconds=0.5)
    fresh = CrossEncoder(folder)
    for query, documents, scores in seen:
        np.testing.assert_allclose(fresh.score(query, documents), scores, atol=1e-6)  # float32 rounding


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a child there")
def test_ctrl_c_is_status_130(folder: Path) -> None:
    script = [sys.executable, "-c", "import sys; from crossrank._cli.main import main; sys.exit(main())"]
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
