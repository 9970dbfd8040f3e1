"""An artifact folder appears whole or not at all."""

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from crossrank import InputError
from crossrank._artifact.place import is_locked, lock_file, try_lock
from crossrank.export._write.folder import check_replaceable, locked, new_folder, swap_in, swap_in_two_steps


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
        assert tmp_path in work.parents  # a rename must not cross file systems
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
        "import os, signal, pathlib; from crossrank.export._write.folder import locked, new_folder\n"
        f"target = pathlib.Path({str(target)!r})\n"
        "with locked(target), new_folder(target) as work:\n"
        "    (work / 'half').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(names(tmp_path)) == 2  # the killed process could not remove its folder; its lock file stays
    with locked(target):
        assert names(tmp_path) == [".artifact.lock"]
        with new_folder(target) as work:
            assert names(work) == []
    assert names(tmp_path) == [".artifact.lock"]


def test_older_folder_comes_back_when_the_second_of_two_steps_fails(tmp_path: Path) -> None:
    """A system that cannot exchange two folders moves the older one aside first."""
    target = fill(tmp_path / "artifact", a="old")

    def stop_half_way() -> None:
        with locked(target), new_folder(target) as work:
            shutil.rmtree(work)
            swap_in_two_steps(work, target)

    with pytest.raises(InputError, match=f"{target} cannot be written: No such file"):
        stop_half_way()
    assert names(tmp_path) == [".artifact.lock", "artifact"]
    assert (target / "a").read_text(encoding="utf-8") == "old"


def test_folders_of_other_targets_are_left_alone(tmp_path: Path) -> None:
    with new_folder(tmp_path / "artifact2") as other:
        fill(other, a="another export at work")
        with locked(tmp_path / "artifact"), new_folder(tmp_path / "artifact"):
            pass
        assert names(other) == ["a"]


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


def test_artifact_with_files_of_others_is_refused_even_when_forced(tmp_path: Path) -> None:
    """A clone of a hub repository, weights beside the artifact: all of it would be lost."""
    folder = fill(tmp_path / "artifact", **{"crossrank.json": "{}", "config.json": "{}", "README.md": "mine"})
    (folder / ".git").mkdir()
    with pytest.raises(InputError, match=r"would be lost: \.git, README\.md; move it away or choose another folder"):
        check_replaceable(folder, force=True)


def test_engines_of_tensorrt_are_given_up_with_the_graphs_they_were_built_from(tmp_path: Path) -> None:
    folder = fill(tmp_path / "artifact", **{"crossrank.json": '{"files": {}}'})
    (folder / "tensorrt" / "key").mkdir(parents=True)
    (folder / "tensorrt" / "key" / "engine.json").write_text("{}", encoding="utf-8")
    check_replaceable(folder, force=True)


def test_file_of_others_among_the_graphs_is_refused_even_when_forced(tmp_path: Path) -> None:
    manifest = '{"files": {"config.json": {}, "onnx/model.onnx": {}}}'
    names = {"crossrank.json": manifest, "config.json": "{}", "onnx/model.onnx": "", "onnx/model_mine.onnx": ""}
    for name, content in names.items():
        (tmp_path / "artifact" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "artifact" / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"would be lost: onnx/model_mine\.onnx;"):
        check_replaceable(tmp_path / "artifact", force=True)
    (tmp_path / "artifact" / "onnx" / "model_mine.onnx").unlink()
    check_replaceable(tmp_path / "artifact", force=True)


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


def test_lock_is_held_by_one_process_and_falls_with_it(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    code = (
        "import pathlib, time; from crossrank.export._write.folder import locked\n"
        f"with locked(pathlib.Path({str(target)!r})): print('held', flush=True); time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert is_locked(target)
        assert try_lock(target) is None
        process.kill()
    assert not is_locked(target)
    with locked(target):
        assert is_locked(target)
    assert not is_locked(target)


def test_lock_whose_file_its_holder_removed_is_taken_on_a_new_file(tmp_path: Path) -> None:
    """As `crossrank cache remove` does. Else two would hold a lock, each on a file of its own."""
    target, taken = tmp_path / "artifact", threading.Event()
    end = threading.Event()

    def wait() -> None:
        with locked(target):
            taken.set()
            end.wait(10)

    waiter = threading.Thread(target=wait)
    with locked(target):
        waiter.start()
        assert not taken.wait(0.1)
        lock_file(target).unlink()
    try:
        assert taken.wait(10)
        assert try_lock(target) is None
    finally:
        end.set()
        waiter.join()


@pytest.mark.skipif(sys.platform == "win32", reason="no flock there")
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_file_system_without_locks_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    target = tmp_path / "cache" / "artifact"
    for _ in range(2):  # nor does the first one leave what the second one waits for
        with (
            pytest.raises(InputError, match=rf"the file system of {target.parent} has no locks \(.*CROSSRANK_HOME"),
            locked(target),
        ):
            pass
    assert not is_locked(target)
    assert set(names(target.parent)) <= {".artifact.lock"}
    monkeypatch.undo()
    with locked(target):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="no flock there")
def test_another_error_of_locking_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(InputError, match=r"Input/output error \(.*\.artifact\.lock\)"), locked(tmp_path / "artifact"):
        pass


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipe_in_the_place_of_a_lock_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".artifact.lock")
    with (
        pytest.raises(InputError, match=r"lock is no file, where a lock's own file belongs"),
        locked(tmp_path / "artifact"),
    ):
        pass


def test_waiting_for_another_export_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, float | None]] = []
    waits = threading.Event()

    def report(stage: str, seconds: float | None) -> None:
        told.append((stage, seconds))
        waits.set()

    def wait() -> None:
        with locked(tmp_path / "artifact", report):
            pass

    wait()
    assert told == []  # nothing to wait for
    waiter = threading.Thread(target=wait)
    with locked(tmp_path / "artifact"):
        waiter.start()
        assert waits.wait(10)
        assert told == [("wait for another export", None)]
    waiter.join()
    assert [stage for stage, _ in told] == ["wait for another export"] * 2
    assert told[1][1] is not None


def raise_in_block(target: Path, error: OSError) -> None:
    with locked(target), new_folder(target):
        raise error


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_error_that_only_writing_gives_names_the_folder(tmp_path: Path, code: int) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}/artifact cannot be written: {os.strerror(code)}.*choose another"):
        raise_in_block(tmp_path / "artifact", OSError(code, os.strerror(code)))
    assert names(tmp_path) == [".artifact.lock"]


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ENOENT])
def test_error_belongs_to_the_export_or_to_what_it_reads_by_its_path(tmp_path: Path, code: int) -> None:
    target, checkpoint = tmp_path / "artifact", tmp_path / "checkpoint" / "model.safetensors"
    with new_folder(target) as work:
        ours = work / "onnx" / "model.onnx"
    with pytest.raises(InputError, match=f"cannot be written: {os.strerror(code)} \\({ours}\\)"):
        raise_in_block(target, OSError(code, os.strerror(code), str(ours)))
    with pytest.raises(InputError, match="cannot be written"):  # a copy names both
        raise_in_block(target, OSError(code, os.strerror(code), str(checkpoint), None, str(ours)))
    for error in (OSError(code, os.strerror(code), str(checkpoint)), OSError(code, os.strerror(code))):
        with pytest.raises(OSError, match=os.strerror(code)) as caught:
            raise_in_block(target, error)
        assert caught.value is error


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = fill(tmp_path / "sealed")
    folder.chmod(0o500)
    with pytest.raises(InputError, match=r"sealed cannot be written.*-o"), locked(folder / "artifact"):
        pass


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("name", [".artifact.lock", ".artifact.crossrank-tmp"])
def test_link_that_others_planted_beside_the_target_is_refused(tmp_path: Path, name: str) -> None:
    elsewhere = fill(tmp_path / "elsewhere", precious="text") if "tmp" in name else tmp_path / "elsewhere"
    target = tmp_path / "shared" / "artifact"
    target.parent.mkdir()
    (target.parent / name).symlink_to(elsewhere)
    with pytest.raises(InputError, match=f"{name} is a link, where .* own .* belongs: remove it"), locked(target):
        pass
    if elsewhere.exists():
        assert names(elsewhere) == ["precious"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root makes files of others")
def test_folder_of_another_user_is_refused_where_anybody_may_write(tmp_path: Path) -> None:
    """What lies in it, such as an "older artifact" to put back, may be anybody's."""
    target, area = tmp_path / "shared" / "artifact", tmp_path / "shared" / ".artifact.crossrank-tmp"
    fill(area / "old", **{"crossrank.json": "planted"})
    os.chown(area, 12345, 12345)
    target.parent.chmod(0o1777)
    with pytest.raises(InputError, match=r"belongs to another user \(uid 12345\)"), locked(target):
        pass
    assert not target.exists()
    target.parent.chmod(0o775)  # a group that trusts each other
    with locked(target):
        assert (target / "crossrank.json").exists()


def test_what_is_in_the_making_is_closed_to_others(tmp_path: Path) -> None:
    with new_folder(tmp_path / "artifact") as work:
        assert work.parent.stat().st_mode & 0o077 == 0
        fill(work, a="new")
        swap_in(work, tmp_path / "artifact")
    assert (tmp_path / "artifact").stat().st_mode & 0o055 == 0o055 & ~current_umask()


@pytest.mark.skipif(os.name == "nt", reason="no modes there")
def test_file_that_a_library_wrote_for_its_user_alone_is_read_by_whom_the_others_are(tmp_path: Path) -> None:
    """As onnx writes external data. Exported as root in an image, read by another user."""
    with new_folder(tmp_path / "artifact") as work:
        fill(work / "onnx", data="weights", graph="nodes")
        (work / "onnx" / "data").chmod(0o600)
        swap_in(work, tmp_path / "artifact")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "artifact" / "onnx").iterdir()}
    assert set(modes.values()) == {0o666 & ~current_umask()}


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
