"""Options that callers pass: folders, switches and hooks are what they can be, or refused by name."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrank import AsyncCrossEncoder, CallRecord, Cascade, CrossEncoder, EncodedDocuments, InputError
from crossrank._cli.main import main
from crossrank.export import export_model
from tests.support.checkpoint_files import files_of


@pytest.fixture(scope="module")
def model() -> CrossEncoder:
    return CrossEncoder(threads=1)


class Elsewhere:
    """A path of a class of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


FOLDERS: dict[str, Callable[[CrossEncoder, Any], Any]] = {
    "cache_folder": lambda model, value: CrossEncoder(cache_folder=value),
    "cache_folder of an export": lambda model, value: export_model("someone/ranker", cache_folder=value),
    "output": lambda model, value: export_model("someone/ranker", value),
    "folder of encode": lambda model, value: model.encode(["a"], folder=value),
    "folder of save": lambda model, value: model.encode(["a"]).save(value),
    "folder of load": lambda model, value: EncodedDocuments.load(value),
}


@pytest.mark.parametrize("option", FOLDERS)
@pytest.mark.parametrize("value", ["", 3, b"models", ["models"], True])
def test_what_is_no_folder_is_refused_by_name(
    model: CrossEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, value: Any
) -> None:
    """An empty text would be the current folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        FOLDERS[option](model, value)
    assert str(caught.value) == f"{option.partition(' ')[0]}={value!r}: the path of a folder is needed"
    assert files_of(tmp_path) == set()


def test_any_path_is_one(model: CrossEncoder, tmp_path: Path) -> None:
    for i, kind in enumerate((str, Path, Elsewhere)):
        place: Any = kind(tmp_path / f"{i}")
        assert len(model.encode(["a"], folder=place)) == 1
        assert os.path.isdir(tmp_path / f"{i}")
        CrossEncoder(cache_folder=place)


@pytest.mark.parametrize("action", ["list", "prune"])
def test_an_empty_cache_folder_of_a_command_is_wrong_usage(
    action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["cache", action, "--cache-folder", ""])
    assert "argument --cache-folder: " in capsys.readouterr().err


@pytest.mark.parametrize("revision", [3, b"main"])
def test_a_revision_that_is_no_text_is_refused(revision: Any) -> None:
    for call in (CrossEncoder, export_model):
        with pytest.raises(InputError, match=r"revision=.*: a branch, tag or commit of the hub, or None"):
            call("someone/ranker", revision=revision)


SWITCHES: dict[str, Callable[[CrossEncoder, Any], Any]] = {
    "return_documents": lambda model, value: model.rank("a", ["b"], return_documents=value),
    "return_documents of a cascade": lambda model, value: Cascade([(model, None)]).rank(
        "a", ["b"], return_documents=value
    ),
    "show_progress_bar": lambda model, value: model.rank("a", ["b"], show_progress_bar=value),
    "show_progress_bar of predict": lambda model, value: model.predict([("a", "b")], show_progress_bar=value),
    "show_progress_bar of encode": lambda model, value: model.encode(["b"], show_progress_bar=value),
    "apply_softmax": lambda model, value: model.predict([("a", "b")], apply_softmax=value),
    "convert_to_numpy": lambda model, value: model.predict([("a", "b")], convert_to_numpy=value),
    "convert_to_tensor": lambda model, value: model.predict([("a", "b")], convert_to_tensor=value),
    "local_files_only": lambda model, value: CrossEncoder(local_files_only=value),
}


@pytest.mark.parametrize("option", SWITCHES)
def test_what_is_neither_true_nor_false_is_refused_by_name(model: CrossEncoder, option: str) -> None:
    with pytest.raises(InputError) as caught:
        SWITCHES[option](model, np.array([True, False]))
    name = option.partition(" ")[0]
    assert str(caught.value) == f"{name}=array([ True, False]): True or False is needed"
    for value in (False, 0, np.False_):
        SWITCHES[option](model, value)


async def observe(record: CallRecord) -> None:
    """A hook that nobody awaits."""


@pytest.mark.parametrize(
    ("hook", "reason"), [(3, "it cannot be called"), ("print", "it cannot be called"), (observe, "nobody would await")]
)
@pytest.mark.parametrize("kind", [CrossEncoder, AsyncCrossEncoder])
def test_a_hook_that_would_never_run_is_refused(kind: Callable[..., Any], hook: Any, reason: str) -> None:
    with pytest.raises(InputError, match=rf"on_call=.*: .*{reason}; a plain function is needed, or None"):
        kind(on_call=hook)


def test_masked_texts_are_not_scored(model: CrossEncoder) -> None:
    """Which numpy reads as if there were no mask."""
    texts = np.ma.array(["sea", "red"], mask=[False, True])
    pairs = np.ma.array([["a", "sea"], ["a", "red"]], mask=[[False, False], [False, True]])
    message = r"a masked array with 1 masked entries, .*: pass compressed\(\), or filled\(''\)"
    calls: list[Callable[[], Any]] = [
        lambda: model.rank("a", texts),
        lambda: model.score("a", texts),
        lambda: model.encode(texts),
        lambda: model.predict(pairs),
        lambda: model.predict([pairs[1]]),
    ]
    for call in calls:
        with pytest.raises(InputError, match=message):
            call()
    np.testing.assert_array_equal(model.score("a", texts.compressed()), model.score("a", ["sea"]))
    unmasked = np.ma.array(["sea", "red"])
    np.testing.assert_array_equal(model.score("a", unmasked), model.score("a", ["sea", "red"]))
