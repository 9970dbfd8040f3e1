"""Names, arguments and documents that would steer a terminal: it shows them, and does not obey."""

import json
import logging
import pickle
import re
import shutil
import sys
from pathlib import Path

import pytest

from crossrank import ArtifactError, CrossEncoder, InputError, ModelNotFoundError
from crossrank._cli.main import main
from crossrank._cli.tables import align_columns
from crossrank.export._cli import main as export_main
from tests.support.artifacts import edit_manifest, make_artifact

# Clears the screen, and sets the title; in 8 bits; turns the direction of letters; writes over the line.
EVIL = "\x1b[2Ja\x1b]0;b\x07\x9b31mc\u202ed\re\x7f"
SHOWN = r"\x1b[2Ja\x1b]0;b\x07\x9b31mc\u202ed\re\x7f"
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that says of itself, wherever it may, what a terminal should do."""
    folder = make_artifact(tmp_path_factory.mktemp("made"))

    def speak(manifest: dict[str, object]) -> None:
        for part, names in (
            ("source", ("name", "revision", "architecture")),
            ("head", ("activation_origin",)),
            ("inputs", ("max_length_origin",)),
        ):
            manifest[part].update(dict.fromkeys(names, f"{EVIL}\nmodel         another"))  # type: ignore[attr-defined]
        manifest["variants"][0]["parity"].update(reference=EVIL, machine=EVIL)  # type: ignore[index]

    edit_manifest(folder, speak)
    return folder.rename(folder.with_name(EVIL))


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as error:  # argparse's way out
        status = int(error.code or 0)
    out, err = capsys.readouterr()
    assert not STEERING.search(out), repr(out)
    assert not STEERING.search(err), repr(err)
    return status, out, err


def test_info_shows_names_and_stays_one_line_a_fact(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "info", "--model", artifact)
    assert status == 0
    assert out.count("\nmodel ") + out.startswith("model ") == 1
    assert f"{SHOWN}\\nmodel         another" in out
    assert str(CrossEncoder(artifact).info()) == out.rstrip("\n")


def test_json_gives_the_same_characters(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "info", "--model", artifact, "--json")
    assert json.loads(out)["folder"] == str(artifact)
    _, out, _ = run(capsys, "verify", artifact, "--json")
    assert json.loads(out)["source"]["architecture"].startswith(EVIL)


@pytest.mark.parametrize("command", ["verify", "bench"])
def test_tables_show_them(artifact: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    arguments = [artifact] if command == "verify" else ["--model", artifact, "--seconds", 0.01, "--documents", 1]
    status, out, _ = run(capsys, command, *arguments)
    assert status == 0
    assert SHOWN in out
    assert align_columns([("a\nb", "\x1b")]) == r"a\nb  \x1b"


def test_cache_shows_names(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / f"cache-{EVIL}"
    shutil.copytree(artifact, root / f"someone--{EVIL}")
    _, out, _ = run(capsys, "cache", "list", "--cache-folder", root)
    assert out.count(SHOWN) >= 3
    _, out, _ = run(capsys, "cache", "list", "--cache-folder", root, "--json")
    assert json.loads(out)[0]["name"] == f"someone--{EVIL}"
    _, out, _ = run(capsys, "cache", "remove", f"someone--{EVIL}", "--dry-run", "--cache-folder", root)
    assert out.startswith(f"would remove someone--{SHOWN}")
    _, out, _ = run(capsys, "cache", "list", "--cache-folder", tmp_path / EVIL)
    assert SHOWN in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["info", "--model", f"no-{EVIL}"],
        ["info", "--model", f"{EVIL}/absent.onnx"],
        ["info", EVIL],
        ["info", "--device", EVIL],
        ["info", f"--{EVIL}"],
        ["rank", "a query", EVIL],
        ["rank", "a query", EVIL, EVIL],
        ["verify", EVIL],
    ],
)
def test_errors_show_arguments(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    status, _, err = run(capsys, *arguments)
    assert status in (1, 2)
    assert r"\x1b[2J" in err


def test_errors_show_paths_and_what_files_hold(artifact: Path, tmp_path: Path) -> None:
    """In a traceback, a log and a program that catches them too."""
    folder = Path(shutil.copytree(artifact, tmp_path / EVIL))
    edit_manifest(folder, lambda manifest: manifest["files"].update({EVIL: {"size_bytes": 1, "sha256": ""}}))
    with pytest.raises(ArtifactError) as caught:
        CrossEncoder(folder)
    message = str(caught.value)
    assert message.count(r"\x1b[2J") == 2
    assert not STEERING.search(message)
    assert "\n" in message  # the lines of several problems stay
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


@pytest.mark.parametrize("kind", [InputError, ModelNotFoundError])
def test_every_error_is_printable(kind: type[Exception]) -> None:
    assert str(kind(f"{EVIL}\n\tnext")) == f"{SHOWN}\n\tnext"


def test_warnings_show_the_models_name(artifact: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        CrossEncoder(artifact).score("a", ["b " * 100])
    assert SHOWN in caplog.text


@pytest.mark.parametrize("terminal", [True, False])
def test_documents_are_shown_on_a_terminal_and_given_as_they_are_elsewhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    (tmp_path / "documents.jsonl").write_text(json.dumps(EVIL), "utf-8")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    assert main(["rank", "a query", str(tmp_path / "documents.jsonl")]) == 0
    out, _ = capfd.readouterr()
    assert (SHOWN if terminal else EVIL) in out


def test_export_shows_names(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = artifact.parent / "checkpoint"
    named = Path(shutil.copytree(checkpoint, tmp_path / EVIL))
    arguments = [str(named), "-o", str(tmp_path / "out"), "--variants", "cpu", "--precision", "fp32"]
    assert export_main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{SHOWN} -> ")
    assert not STEERING.search(out + err)
    (named / "config.json").unlink()
    assert export_main([*arguments, "--force"]) == 1
    out, err = capsys.readouterr()
    assert SHOWN in err
    assert not STEERING.search(out + err)
