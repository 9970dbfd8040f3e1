"""``crossrank cache``: what lies in the cache, and that only what nothing loads is removed from it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from crossrank import CrossEncoder, InputError
from crossrank._artifact.cache import list_cache, prune_cache, remove_from_cache
from crossrank._artifact.place import target_of, wait_for_lock, work_area
from crossrank._cli.main import main
from crossrank._proof import verify_artifact
from crossrank.export import export_model
from crossrank.export._read.content import write_known
from tests.support.artifacts import edit_manifest
from tests.support.checkpoint_files import read_tensors, write_tensors
from tests.support.tiny_models import PAIRS, make_checkpoint

FP32: dict[str, Any] = {"variants": ["cpu"], "precisions": ["fp32"]}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "ranker", "bert")


@pytest.fixture
def checkpoint(bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "models" / "ranker"))


@pytest.fixture
def root(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds the artifact of ``checkpoint``."""
    monkeypatch.setenv("CROSSRANK_HOME", str(tmp_path / "cache"))
    export_model(checkpoint, **FP32)
    return tmp_path / "cache"


def artifacts(root: Path) -> list[str]:
    return sorted(path.parent.name for path in root.glob("*/crossrank.json"))


def add_hub_model(root: Path, name: str = "someone/other") -> Path:
    """A model by a hub id, as far as the cache goes."""
    (first,) = artifacts(root)
    folder = Path(shutil.copytree(root / first, root / name.replace("/", "--")))
    edit_manifest(folder, lambda manifest: manifest["source"].update(name=name, revision="a" * 40))
    return folder


def change(checkpoint: Path) -> None:
    tensors = read_tensors(checkpoint)
    tensors["classifier.bias"] += 1
    write_tensors(checkpoint, tensors)


def everything(root: Path) -> dict[str, int]:
    return {path.relative_to(root).as_posix(): path.lstat().st_mtime_ns for path in root.rglob("*")}


@contextmanager
def being_exported(target: Path) -> Iterator[None]:
    """Hold an artifact as an export in another process does."""
    lock = wait_for_lock(target)
    try:
        (work_area(target) / "new").mkdir(parents=True)
        (work_area(target) / "new" / "half").write_text("half", encoding="utf-8")
        yield
        assert (work_area(target) / "new" / "half").exists()
    finally:
        shutil.rmtree(work_area(target))
        lock.release()


# What is there.


def test_list_shows_each_model_with_its_graphs_size_and_age(root: Path, checkpoint: Path) -> None:
    hub = add_hub_model(root)
    os.utime(hub / "crossrank.json", (time.time() - 3 * 86400 - 60,) * 2)
    ours, other = list_cache(root)
    assert (ours.source, ours.revision, ours.folder) == ("ranker", None, str(checkpoint))
    assert (other.source, other.revision, other.folder) == ("someone/other", "a" * 40, None)
    assert (other.name, other.graphs) == ("someone--other", ("cpu fp32",))
    assert other.size_bytes == sum(path.stat().st_size for path in hub.rglob("*") if path.is_file())
    assert ours.age_s < 600
    assert 3 * 86400 < other.age_s < 3 * 86400 + 600
    for artifact in (ours, other):
        assert (artifact.exporting, artifact.damaged, artifact.useless) == (False, False, None)


def test_listing_changes_nothing(root: Path) -> None:
    add_hub_model(root)
    before = everything(root)
    list_cache(root)
    assert everything(root) == before
    assert not [path for path in root.iterdir() if path.name == ".someone--other.lock"]


def test_list_on_the_command_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_hub_model(root)
    with being_exported(root / "someone--other"):
        assert main(["cache", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["model", "graphs", "MB", "age", "note", "name"]
    assert any(line.startswith("someone/other") and "being exported" in line for line in lines)
    assert any(line.startswith("ranker") and " now " in line for line in lines)
    assert lines[-1] == f"2 models, {sum(a.size_bytes for a in list_cache(root)) / 1e6:.1f} MB in {root}"
    assert main(["cache", "list", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {entry["name"] for entry in printed} == set(artifacts(root))
    assert printed[0].keys() == {
        *("name", "source", "revision", "folder", "graphs", "size_bytes", "written", "age_s"),
        *("exporting", "damaged", "useless"),
    }


@pytest.mark.parametrize("made", [True, False])
def test_empty_cache_is_said_to_be_empty(tmp_path: Path, made: bool, capsys: pytest.CaptureFixture[str]) -> None:
    if made:
        (tmp_path / "cache" / "costs").mkdir(parents=True)
    assert main(["cache", "list", "--cache-folder", str(tmp_path / "cache")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'cache'}: no exported models\n"
    assert main(["cache", "prune", "--cache-folder", str(tmp_path / "cache")]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"


def test_damaged_artifact_is_shown_and_kept(root: Path) -> None:
    (name,) = artifacts(root)
    (root / name / "crossrank.json").write_text("{", encoding="utf-8")
    (artifact,) = list_cache(root)
    assert (artifact.source, artifact.damaged, artifact.useless) == ("", True, None)
    assert prune_cache(root) == []
    assert len(remove_from_cache(root, [name])) == 1


# What is removed by name.


@pytest.mark.parametrize("how", ["name", "folder", "path"])
def test_model_is_removed_by_its_name_or_its_folder(root: Path, checkpoint: Path, how: str) -> None:
    (name,) = artifacts(root)
    add_hub_model(root)
    called = {"name": name, "folder": str(checkpoint), "path": f"{checkpoint}/../ranker"}[how]
    (removal,) = remove_from_cache(root, [called])
    assert (removal.name, removal.problem) == (name, None)
    assert artifacts(root) == ["someone--other"]
    assert not [path.name for path in root.iterdir() if name in path.name]  # nor its lock
    CrossEncoder(checkpoint, device="cpu")
    assert len(artifacts(root)) == 2


def test_model_of_another_folder_of_that_name_stays(
    root: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where every training run has its folder ``ranker``."""
    other = Path(shutil.copytree(checkpoint, tmp_path / "other" / "ranker"))
    change(other)
    (first,) = artifacts(root)
    export_model(other, **FP32)
    monkeypatch.chdir(other.parent)
    (removal,) = remove_from_cache(root, ["ranker"])
    assert removal.name != first
    assert artifacts(root) == [first]
    monkeypatch.chdir(tmp_path)
    message = f"ranker: the cache {root} has no artifact of it; it has {checkpoint} (crossrank cache list)"
    with pytest.raises(InputError, match=re.escape(message)):
        remove_from_cache(root, ["ranker"])


def test_hub_model_is_removed_by_its_id_with_or_without_the_owner(root: Path) -> None:
    for called in ("someone/other", "other", "someone--other"):
        add_hub_model(root)
        assert [removal.name for removal in remove_from_cache(root, [called])] == ["someone--other"]


def test_unknown_name_removes_nothing_and_says_what_there_is(
    root: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=f"has no artifact of it; it has {checkpoint} "):
        remove_from_cache(root, [str(checkpoint), "no-such-model"])
    assert main(["cache", "remove", ""]) == 1
    assert "has no artifact of it" in capsys.readouterr().err
    assert len(artifacts(root)) == 1


def test_rehearsal_removes_nothing(root: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(root)
    assert main(["cache", "remove", str(checkpoint), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("would remove local--ranker--")
    assert out.endswith(" MB would be freed\n")
    assert everything(root) == before


def test_model_that_is_being_exported_is_left_and_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (name,) = artifacts(root)
    with being_exported(root / name):
        assert main(["cache", "remove", name]) == 1
        assert capsys.readouterr().out.splitlines()[0].endswith(": it is being exported")
        assert prune_cache(root) == []
    assert artifacts(root) == [name]


def test_loaded_model_goes_on_when_its_artifact_is_removed(root: Path, checkpoint: Path) -> None:
    model = CrossEncoder(checkpoint, device="cpu")
    before = model.predict(PAIRS[:3])
    remove_from_cache(root, [str(checkpoint)])
    assert (model.predict(PAIRS[:3]) == before).all()


# What nothing loads any more.


def test_prune_removes_the_models_of_folders_that_are_gone(root: Path, checkpoint: Path) -> None:
    add_hub_model(root)
    (name,) = [name for name in artifacts(root) if name.startswith("local")]
    assert prune_cache(root) == []
    shutil.rmtree(checkpoint)
    assert [artifact.useless for artifact in list_cache(root) if artifact.name == name] == [
        f"the folder {checkpoint} is gone"
    ]
    assert [removal.name for removal in prune_cache(root, dry_run=True)] == [name]
    assert len(artifacts(root)) == 2
    (removal,) = prune_cache(root)
    assert (removal.name, removal.reason, removal.problem) == (name, f"the folder {checkpoint} is gone", None)
    assert artifacts(root) == ["someone--other"]
    assert list((root / "folders").iterdir()) == []


def test_names_with_line_feeds_are_pruned_and_printed_in_one_line(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CROSSRANK_HOME", str(tmp_path / "cache"))
    checkpoint = Path(shutil.copytree(bert, tmp_path / "two\nlines"))
    export_model(checkpoint, **FP32)
    shutil.rmtree(checkpoint)
    capsys.readouterr()
    assert main(["cache", "remove", "no\nmodel"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["cache", "prune"]) == 0
    assert f"the folder {tmp_path}/two\\nlines is gone" in capsys.readouterr().out
    assert artifacts(tmp_path / "cache") == []
    assert not list((tmp_path / "cache" / "folders").iterdir())


def test_prune_keeps_only_the_model_of_a_folders_present_content(root: Path, checkpoint: Path) -> None:
    (old,) = artifacts(root)
    change(checkpoint)
    CrossEncoder(checkpoint, device="cpu")
    (new,) = set(artifacts(root)) - {old}
    assert [(removal.name, removal.reason) for removal in prune_cache(root)] == [
        (old, f"the content of {checkpoint} changed")
    ]
    assert artifacts(root) == [new]


@pytest.mark.parametrize(
    ("name", "edit", "reason"),
    [
        ("local--ranker--0123456789abcdef", lambda manifest: None, "of an older version"),
        ("someone--old", lambda manifest: manifest.update(format=0), "of the older format 0"),
    ],
)
def test_prune_removes_older_formats(
    root: Path, name: str, edit: Callable[[dict[str, Any]], object], reason: str
) -> None:
    (present,) = artifacts(root)
    shutil.copytree(root / present, root / name)
    edit_manifest(root / name, edit)
    (removal,) = prune_cache(root)
    assert removal.name == name
    assert removal.reason.startswith(reason)
    assert artifacts(root) == [present]


def test_prune_keeps_a_newer_format(root: Path) -> None:
    (present,) = artifacts(root)
    shutil.copytree(root / present, root / "someone--newer")
    edit_manifest(root / "someone--newer", lambda manifest: manifest.update(format=2))
    assert prune_cache(root) == []


def test_prune_leaves_what_is_not_ours(root: Path) -> None:
    """$CROSSRANK_HOME may be a folder of other things too."""
    for name in ("photos/a.jpg", "costs/x.json", "local--photos--0123456789abcdef/a.jpg", ".config", ".lock/x"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("mine", encoding="utf-8")
    before = everything(root)
    assert prune_cache(root) == []
    assert everything(root) == before


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_prune_removes_what_a_killed_export_left(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = root / "someone--killed"
    code = (
        "import os, signal, pathlib; from crossrank.export._write.folder import locked, new_folder\n"
        f"target = pathlib.Path({str(target)!r})\n"
        "with locked(target), new_folder(target) as work:\n"
        "    (work / 'half').write_bytes(bytes(100_000)); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert work_area(target).exists()
    assert main(["cache", "prune"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "removed .someone--killed.crossrank-tmp (0.1 MB): left by an export that was killed",
        "0.1 MB freed",
    ]
    assert {path.name for path in root.iterdir() if "killed" in path.name} == set()


def test_prune_removes_locks_of_artifacts_that_are_gone(root: Path) -> None:
    (root / ".someone--gone.lock").touch()
    with being_exported(root / "someone--first"):
        assert [removal.name for removal in prune_cache(root)] == [".someone--gone.lock"]
        assert (root / ".someone--first.lock").exists()


def test_prune_puts_back_what_a_killed_export_had_moved_aside(root: Path) -> None:
    (name,) = artifacts(root)
    work_area(root / name).mkdir()
    (root / name).rename(work_area(root / name) / "old")
    (removal,) = prune_cache(root)
    assert removal.reason == f"left by an export that was killed; {name}, which it had moved aside, is put back"
    assert artifacts(root) == [name]
    verify_artifact(root / name)


def test_cache_is_looked_at_while_others_write_records_and_remove_models(root: Path, checkpoint: Path) -> None:
    (name,) = artifacts(root)
    done, failures = threading.Event(), list[BaseException]()

    def write() -> None:
        try:
            while not done.is_set():
                write_known(root / "folders" / "0123abcd.json", checkpoint, "key", {}, {})
                copy = Path(shutil.copytree(root / name, root / "someone--brief"))
                (copy / "crossrank.json").unlink()
                shutil.rmtree(copy)
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            assert {artifact.name for artifact in list_cache(root)} >= {name}
            prune_cache(root, dry_run=True)
    finally:
        done.set()
        writer.join()
    assert failures == []


def test_prune_beside_an_export_leaves_a_whole_artifact(checkpoint: Path, root: Path) -> None:
    (name,) = artifacts(root)
    done, failures = threading.Event(), list[BaseException]()

    def export() -> None:
        try:
            for _ in range(2):
                export_model(checkpoint, **FP32, force=True)
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=export)
    thread.start()
    looked = 0
    while not done.is_set():
        assert [removal for removal in prune_cache(root) if removal.problem is None] == []
        looked += len(list_cache(root))
        time.sleep(0.002)
    thread.join()
    assert failures == []
    assert looked > 10
    verify_artifact(root / name)


@pytest.mark.parametrize(
    ("name", "expected"), [(".a.lock", "a"), (".a.crossrank-tmp", "a"), (".lock", None), ("a.lock", None), (".a", None)]
)
def test_names_beside_an_artifact_lead_to_it(tmp_path: Path, name: str, expected: str | None) -> None:
    assert target_of(tmp_path / name) == (None if expected is None else tmp_path / expected)


@pytest.mark.parametrize("arguments", [["cache"], ["cache", "empty"], ["cache", "remove"], ["cache", "list", "x"]])
def test_wrong_usage_is_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "--model" not in capsys.readouterr().err
