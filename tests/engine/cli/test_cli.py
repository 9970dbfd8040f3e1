"""``crossrank rank|info|verify``: what goes to standard output, what to standard error, and the exit status."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crossrank import CrossEncoder, InputError
from crossrank._artifact.manifest import hash_file
from crossrank._cli.main import main, read_documents
from crossrank.export import export_model
from tests.support.artifacts import edit_manifest, make_artifact
from tests.support.foreign_graphs import strip_artifact
from tests.support.references import PROVEN_BY
from tests.support.tiny_models import make_checkpoint

QUERY = "Why is the sky red in the evening?"
DOCUMENTS = [
    "The sea is blue.",
    "Sunlight travels a longer way through the air.",
    "Bread dough rises.",
    "東京の天気 🙂",
]
SCRIPT = [sys.executable, "-c", "import sys; from crossrank._cli.main import main; sys.exit(main())"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an ONNX graph that has no manifest."""
    work = tmp_path_factory.mktemp("foreign")
    checkpoint = make_checkpoint(work / "checkpoint", "bert")
    artifact = export_model(checkpoint, work / "artifact", variants=["portable"], precisions=["fp32"])
    return strip_artifact(artifact, work / "folder")


@pytest.fixture(scope="module")
def ranking(folder: Path) -> list[Any]:
    """The ranking as the library gives it."""
    return list(CrossEncoder(folder).rank(QUERY, DOCUMENTS, return_documents=True))


@pytest.fixture
def lines(tmp_path: Path) -> str:
    path = tmp_path / "documents.txt"
    path.write_text("\n".join(DOCUMENTS) + "\n", encoding="utf-8")
    return str(path)


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of ``crossrank``."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as error:  # argparse's way out
        status = int(error.code or 0)
    return status, *capsys.readouterr()


def test_rank_prints_place_score_and_text(
    folder: Path, lines: str, ranking: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = _run(capsys, "rank", "--model", folder, QUERY, lines)
    assert (status, err) == (0, "")
    rows = [line.split(maxsplit=2) for line in out.splitlines()]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert [row[1] for row in rows] == [f"{entry['score']:.4f}" for entry in ranking]
    assert [row[2] for row in rows] == [entry["text"] for entry in ranking]


def test_rank_as_json_prints_an_object_a_line(
    folder: Path, lines: str, ranking: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = _run(capsys, "rank", "--model", folder, QUERY, lines, "--json")
    assert (status, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == ranking
    assert "東京" in out  # readable, not escaped


@pytest.mark.parametrize("top_k", [0, 1, 2, 100])
def test_rank_prints_the_best_only(
    folder: Path, lines: str, ranking: list[Any], capsys: pytest.CaptureFixture[str], top_k: int
) -> None:
    status, out, _ = _run(capsys, "rank", "--model", folder, QUERY, lines, "--json", "--top-k", top_k)
    assert status == 0
    assert [json.loads(line) for line in out.splitlines()] == ranking[:top_k]


@pytest.mark.parametrize("named", [["-"], []])
def test_rank_reads_standard_input(
    folder: Path,
    ranking: list[Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    named: list[str],
) -> None:
    # Bytes, decoded as UTF-8 whatever the locale says.
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(DOCUMENTS).encode()), encoding="ascii"))
    status, out, _ = _run(capsys, "rank", "--model", folder, QUERY, *named, "--json")
    assert status == 0
    assert [json.loads(line) for line in out.splitlines()] == ranking


def test_rank_reads_jsonl(folder: Path, tmp_path: Path, ranking: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "documents.jsonl"
    path.write_text("\n".join(json.dumps({"id": i, "text": text}) for i, text in enumerate(DOCUMENTS)), "utf-8")
    status, out, _ = _run(capsys, "rank", "--model", folder, QUERY, path, "--json")
    assert status == 0
    assert [json.loads(line) for line in out.splitlines()] == ranking


def test_rank_of_no_documents_prints_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").write_text("\n\n", "utf-8")
    assert _run(capsys, "rank", "--model", folder, QUERY, tmp_path / "empty") == (0, "", "")


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        ("a\nb\n", ["a", "b"]),
        ("a\r\nb", ["a", "b"]),
        ("\n a \n\n\t\nb", [" a ", "b"]),
        ("", []),
        ('"a"\n"b\\nc"\n', ["a", "b\nc"]),
        ('{"text": "a"}\n\n{"text": "", "id": 7}\n', ["a", ""]),
        ('"quoted" words begin this line\nplain', ['"quoted" words begin this line', "plain"]),
        ("{curly} plain\nb", ["{curly} plain", "b"]),
        ("[1, 2]\n3", ["[1, 2]", "3"]),
    ],
)
def test_documents_are_lines_or_jsonl(text: str, documents: list[str]) -> None:
    assert read_documents(text) == documents


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_only_line_feeds_end_a_document(separator: str) -> None:
    text = f"before{separator}after"
    assert read_documents(f"{text}\nnext") == [text, "next"]
    # JSON leaves these as they are within a string, save control characters, which it escapes.
    line = json.dumps({"text": text}, ensure_ascii=False)
    assert read_documents(f"{line}\n{line}\n") == [text, text]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"text": "a"}\nplain', "line 2 is no JSON"),
        ('"a"\n\n{"text": 7}', "line 3 is"),
        ('"a"\n{"title": "no text"}', "line 2 is"),
        ('"a"\n["b"]', "line 2 is"),
        ('{"body": "no text"}', "line 1 is"),
    ],
)
def test_a_bad_line_of_jsonl_is_named_with_its_number(text: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        read_documents(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rank", "-m", "no-such-model", "q", "FILE"], ["'no-such-model'", "Nearest names"]),
        (["rank", "--model", "FOLDER", "q", "absent.txt"], ["absent.txt: documents cannot be read", "No such file"]),
        (["rank", "--model", "FOLDER", "q", "FILE", "--threads", "0"], ["threads=0", "a positive integer"]),
        (["rank", "--model", "FOLDER", "q", "FILE", "--max-length", "2"], ["max_length=2", "at least 4"]),
        (["rank", "--model", "FOLDER", "q", "FILE", "--device", "gpu"], ["device='gpu'", "'cuda:N'"]),
        (["rank", "--model", "FOLDER", "q", "FILE", "--precision", "int8"], ["int8", "there is cpu fp32"]),
        (["info", "--model", "no-such-model"], ["'no-such-model'", "export-model --list"]),
        (["verify", "FOREIGN"], ["Only exported artifacts hold a proof", "export-model CHECKPOINT -o DIR"]),
        (["verify", "FOREIGN/onnx/model.onnx"], ["is no artifact folder", "export-model CHECKPOINT -o DIR"]),
        (["rank", "--model", "FOREIGN/onnx/absent.onnx", "q", "FILE"], ["onnx/absent.onnx: no such file"]),
    ],
)
def test_failures_are_one_message_on_standard_error_and_status_1(
    folder: Path,
    foreign: Path,
    lines: str,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: list[str],
) -> None:
    places = {"FOLDER": str(folder), "FILE": lines}
    real = [places.get(argument, argument.replace("FOREIGN", str(foreign))) for argument in arguments]
    status, out, err = _run(capsys, *real)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_documents_that_are_no_utf8_are_a_failure(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "latin").write_bytes("naïve".encode("latin-1"))
    status, out, err = _run(capsys, "rank", "--model", folder, QUERY, tmp_path / "latin")
    assert (status, out) == (1, "")
    assert "documents cannot be read" in err
    assert "utf-8" in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["rank"],
        ["rank", "q", "-", "--model"],
        ["sort", "q"],
        ["rank", "q", "-", "--top-k", "many"],
        ["info", "--precision", "fp64"],
        ["rank", "q", "-", "--unknown"],
        ["info", "--unknown"],
        ["verify", "folder", "folder"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2_and_says_how(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    status, out, err = _run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert "usage: crossrank" in err


@pytest.mark.parametrize("between", [["--model", "MODEL", "--json"], ["--json", "-m", "MODEL"]])
def test_options_may_stand_between_query_and_file(
    folder: Path, lines: str, ranking: list[Any], capsys: pytest.CaptureFixture[str], between: list[str]
) -> None:
    options = [str(folder) if option == "MODEL" else option for option in between]
    status, out, _ = _run(capsys, "rank", QUERY, *options, lines)
    assert status == 0
    assert [json.loads(line) for line in out.splitlines()] == ranking


@pytest.mark.parametrize(
    ("arguments", "surplus"),
    [
        (["rank", "artifact", "q", "FILE"], "FILE"),
        (["rank", "artifact", "q", "--top-k", "3", "FILE"], "FILE"),
        (["info", "artifact", "--json"], "artifact"),
        (["bench", "artifact", "--seconds", "1"], "artifact"),
    ],
    ids=" ".join,
)
def test_a_model_among_the_texts_is_wrong_usage_that_names_the_option(
    capsys: pytest.CaptureFixture[str], arguments: list[str], surplus: str
) -> None:
    status, out, err = _run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert f"too many arguments: {surplus}; the model is an option: crossrank {arguments[0]} --model MODEL" in err


@pytest.mark.parametrize("arguments", [["--help"], ["rank", "--help"], ["info", "--help"], ["verify", "--help"]])
def test_help_is_printed(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    status, out, err = _run(capsys, *arguments)
    assert (status, err) == (0, "")
    assert out.startswith("usage: crossrank")


def test_info_prints_every_fact(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = _run(capsys, "info", "--model", folder, "--threads", 1, "--max-length", 20)
    assert (status, err) == (0, "")
    for fact in (
        str(folder),
        "bert",
        "cpu, CPUExecutionProvider, onnxruntime",
        "cpu fp32, onnx/model_cpu_fp32.onnx (native)",
        "1 (as asked)",
        "1 label, Sigmoid (default for 1 label)",
        "20 tokens (as asked)",
        "WordPiece",
        "max |Δlogit|",
        f"against {PROVEN_BY}",
    ):
        assert fact in out


@pytest.mark.parametrize("place", ["", "onnx/model.onnx"])
def test_a_foreign_graph_is_ranked_with_and_said_to_be_one(
    folder: Path, foreign: Path, lines: str, ranking: list[Any], capsys: pytest.CaptureFixture[str], place: str
) -> None:
    status, out, err = _run(capsys, "info", "--model", foreign / place)
    assert (status, err) == (0, "")
    for fact in (str(foreign), "portable fp32, onnx/model.onnx (foreign)", "not proven by crossrank"):
        assert fact in out
    status, out, err = _run(capsys, "rank", "--model", foreign / place, QUERY, lines, "--json")
    assert (status, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["corpus_id"] for row in rows] == [entry["corpus_id"] for entry in ranking]  # the same checkpoint


def test_info_as_json_is_the_librarys(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = _run(capsys, "info", "--model", folder, "--json")
    assert (status, err) == (0, "")
    facts = json.loads(out)
    info = CrossEncoder(folder).info()
    assert facts["folder"] == str(folder)
    assert (facts["variant"], facts["precision"], facts["provider"]) == ("cpu", "fp32", "CPUExecutionProvider")
    assert (facts["threads"], facts["threads_reason"]) == (info.threads, info.threads_reason)
    assert info.parity is not None
    assert facts["parity"]["max_abs"] == info.parity.max_abs
    assert facts["parity"]["max_abs"] <= 1e-4  # the exporter's bound of fp32


def test_every_command_finds_a_model_by_the_same_names(
    folder: Path, lines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = {
        "rank": ["rank", QUERY, lines, "--model"],
        "info": ["info", "--model"],
        "bench": ["bench", "--documents", "1", "--seconds", "0.05", "--model"],
        "verify": ["verify"],
    }
    for wrong in ("no-such-model", "no/such-model", "", str(tmp_path), str(tmp_path / "absent.onnx")):
        found = {_run(capsys, *command, wrong) for command in commands.values()}
        assert len(found) == 1, wrong
        assert next(iter(found))[0] == 1
    monkeypatch.setenv("CROSSRANK_HOME", str(tmp_path / "home"))
    # A checkpoint is exported into the cache, by whichever command is the first.
    status, out, _ = _run(capsys, *commands["verify"], folder.parent / "checkpoint")
    assert status == 0
    assert _run(capsys, *commands["rank"], folder.parent / "checkpoint")[0] == 0
    status, facts, _ = _run(capsys, *commands["info"], folder.parent / "checkpoint", "--json")
    assert status == 0
    assert out.startswith(f"{json.loads(facts)['folder']}: ")


def test_verify_prints_the_figures_of_this_machine(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = _run(capsys, "verify", folder)
    assert (status, err) == (0, "")
    assert "files with the right sha256" in out
    assert "cpu fp32" in out


def test_verify_as_json_holds_the_figures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = _run(capsys, "verify", folder, "--json")
    assert status == 0
    result = json.loads(out)
    assert result["skipped"] == []
    assert result["variants"][0]["parity"]["max_abs"] <= 1e-4


def test_verify_of_changed_bytes_is_status_1_and_names_the_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = shutil.copytree(folder, tmp_path / "artifact")
    path = changed / "onnx" / "model_cpu_fp32.onnx"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    status, out, err = _run(capsys, "verify", changed)
    assert (status, out) == (1, "")
    assert "onnx/model_cpu_fp32.onnx does not have the sha256 of the manifest" in err


def test_verify_of_a_graph_outside_its_bound_is_status_1(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = shutil.copytree(folder, tmp_path / "artifact")
    path = changed / "proof.json"
    proof = json.loads(path.read_text("utf-8"))
    proof["logits"][0][0] += 0.5
    path.write_text(json.dumps(proof), "utf-8")
    record = {"size_bytes": path.stat().st_size, "sha256": hash_file(path)}
    edit_manifest(changed, lambda manifest: manifest["files"].update({"proof.json": record}))
    status, _, err = _run(capsys, "verify", changed)
    assert status == 1
    assert "cpu fp32: max |Δlogit| 0.5, allowed 0.0001" in err


@pytest.mark.parametrize("count", [3, 3000])  # less and more than what standard output buffers
def test_a_reader_that_leaves_is_no_failure(folder: Path, tmp_path: Path, count: int) -> None:
    path = tmp_path / "documents.txt"
    path.write_text("".join(f"sea {i}\n" for i in range(count)), encoding="utf-8")
    command = [*SCRIPT, "rank", "--model", str(folder), "sky", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # before the first line is printed, as `| true` does
        err = process.stderr.read()
        status = process.wait(timeout=60)
    assert (status, err) == (0, "")


def test_standard_output_holds_results_only_when_piped(folder: Path, lines: str) -> None:
    command = [*SCRIPT, "rank", "--model", str(folder), QUERY, lines, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert len(done.stdout.splitlines()) == len(DOCUMENTS)
    assert done.stderr == ""


def test_the_installed_command_runs(folder: Path) -> None:
    command = shutil.which("crossrank", path=str(Path(sys.executable).parent))
    assert command is not None
    done = subprocess.run(
        [command, "info", "--model", str(folder)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "CPUExecutionProvider" in done.stdout
