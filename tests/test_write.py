"""An artifact folder appears whole or not at all."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from crossrank import InputError
from crossrank.export._write import check_replaceable, locked, new_folder, swap_in


def fill(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_new_folder_becomes_the_target(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    with new_folder(target) as work:
        assert work.parent == tmp_path  # a rename must not cross file systems
        fill(work, a="new")
        (work / "onnx").mkdir()
        swap_in(work, target)
    assert names(tmp_path) == ["artifact"]
    assert names(target) == ["a", "onnx"]


def test_existing_folder_is_swapped_whole(tmp_path: Path) -> None:
    target = fill(tmp_path / "artifact", a="old", gone="old")
    with new_folder(target) as work:
        fill(work, a="new")
        swap_in(work, target)
    assert names(tmp_path) == ["artifact"]
    assert names(target) == ["a"]
    assert (target / "a").read_text(encoding="utf-8") == "new"


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    target = fill(tmp_path / "artifact")
    with new_folder(target) as work:
        fill(work, a="new")
        swap_in(work, target)
    assert names(tmp_path) == ["artifact"]
    assert names(target) == ["a"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two folders in one step")
def test_target_never_disappears_while_it_is_replaced(tmp_path: Path) -> None:
    target = fill(tmp_path / "artifact", a="0")
    looked, absent, done = 0, 0, threading.Event()

    def watch() -> None:
        nonlocal looked, absent
        while not done.is_set():
            looked += 1
            absent += not target.exists()

    watcher = threading.Thread(target=watch)
    watcher.start()
    for i in range(30):
        with new_folder(target) as work:
            fill(work, a=str(i))
            swap_in(work, target)
    done.set()
    watcher.join()
    assert looked > 30
    assert absent == 0
    assert (target / "a").read_text(encoding="utf-8") == "29"


def test_nothing_stays_after_an_exception(tmp_path: Path) -> None:
    target = fill(tmp_path / "artifact", a="old")

    def stop_half_way() -> None:
        with new_folder(target) as work:
            fill(work, a="new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_half_way()
    assert names(tmp_path) == ["artifact"]
    assert (target / "a").read_text(encoding="utf-8") == "old"


def test_what_a_killed_export_left_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    code = (
        "import os, signal, pathlib; from crossrank.export._write import new_folder\n"
        f"with new_folder(pathlib.Path({str(target)!r})) as work:\n"
        "    (work / 'half').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(names(tmp_path)) == 1  # the killed process could not remove it
    with new_folder(target) as work:
        assert names(tmp_path) == [work.name]
        assert names(work) == []
    assert names(tmp_path) == []


def test_folders_of_other_targets_are_left_alone(tmp_path: Path) -> None:
    other = fill(tmp_path / ".artifact2.1.tmp", a="another export at work")
    with new_folder(tmp_path / "artifact"):
        pass
    assert names(tmp_path) == [other.name]


@pytest.mark.parametrize("force", [False, True])
def test_absent_and_empty_targets_may_be_written(tmp_path: Path, force: bool) -> None:
    check_replaceable(tmp_path / "absent", force=force)
    check_replaceable(fill(tmp_path / "empty"), force=force)


@pytest.mark.parametrize("force", [False, True])
def test_foreign_folder_is_refused_even_when_forced(tmp_path: Path, force: bool) -> None:
    folder = fill(tmp_path / "thesis", chapter="text")
    with pytest.raises(InputError, match=r"no crossrank artifact.*-o"):
        check_replaceable(folder, force=force)


def test_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text", encoding="utf-8")
    with pytest.raises(InputError, match="no crossrank artifact"):
        check_replaceable(tmp_path / "file", force=True)


def test_artifact_is_replaced_only_when_forced(tmp_path: Path) -> None:
    folder = fill(tmp_path / "artifact", **{"crossrank.json": "{}"})
    with pytest.raises(InputError, match="--force"):
        check_replaceable(folder, force=False)
    check_replaceable(folder, force=True)


def test_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    inside, most = 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        with locked(tmp_path / "cache" / "artifact"):
            with guard:
                inside, most = inside + 1, max(most, inside + 1)
            time.sleep(0.02)
            with guard:
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = fill(tmp_path / "sealed")
    folder.chmod(0o500)
    with pytest.raises(InputError, match=r"sealed cannot be written.*-o"), locked(folder / "artifact"):
        pass
