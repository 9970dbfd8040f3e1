"""Exports that something gets in the way of: no room, Ctrl-C, another export, an output that cannot be."""

import logging
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import pytest

from crossrank import CrossEncoder, CrossrankError, InputError
from crossrank._proof import verify_artifact
from crossrank.export import export_model
from crossrank.export._cli import main as export_main
from crossrank.export._write.folder import locked
from tests.support.tiny_models import PAIRS, make_checkpoint

# Without torch and transformers a process starts fast and proves with numpy.
LEAN = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
CLI = LEAN + "from crossrank.export._cli import main; sys.exit(main(sys.argv[1:]))"
FP32: dict[str, Any] = {"variants": ["cpu"], "precisions": ["fp32"]}
ELSEWHERE = "choose another folder with output= (in a shell -o), cache_folder or $CROSSRANK_HOME"
WAIT_S = 60  # how long a process of these tests may take; it needs a second or two


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny-bert", "bert")


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of another checkpoint."""
    folder = tmp_path_factory.mktemp("older")
    return export_model(make_checkpoint(folder / "checkpoint", "bert", seed=1), folder / "artifact", **FP32)


@pytest.fixture
def target(older: Path, tmp_path: Path) -> Path:
    """A copy of `older` to export over."""
    return Path(shutil.copytree(older, tmp_path / "out" / "artifact"))


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small file system in memory with the options given."""
    folder = tmp_path / "mount"
    folder.mkdir()

    def mounted(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a file system is not permitted here")
        return folder

    yield mounted
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def processes() -> Iterator[list["subprocess.Popen[str]"]]:
    """Ends what a test started."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def scores(artifact: Path) -> Any:
    return CrossEncoder(artifact, device="cpu", threads=1).predict(list(PAIRS))


def beside(target: Path) -> list[str]:
    """What lies beside an artifact, but for the lock's file, which stays."""
    return sorted(path.name for path in target.parent.iterdir() if path.name not in (target.name, ".artifact.lock"))


def check_untouched(target: Path, older: Path) -> None:
    verify_artifact(target)
    assert np.array_equal(scores(target), scores(older))
    assert beside(target) == []


def check_whole(target: Path) -> None:
    verify_artifact(target)
    assert beside(target) == []


# No room.


@pytest.mark.parametrize("size", ["8k", "128k", "256k", "320k", "400k"])
def test_full_disk_is_an_error_that_says_how_much_is_free(
    checkpoint: Path, mount: Callable[[str], Path], size: str
) -> None:
    """The sizes end it at different graphs, that of calibration and that of the proof among them."""
    output = mount(f"size={size}") / "deep" / "artifact"
    with pytest.raises(InputError) as caught:
        export_model(checkpoint, output)
    free_mb = int(size[:-1]) * 1024 / 1e6
    assert str(caught.value) == (
        f"{output} cannot be written: No space left on device, it needs more than the {free_mb:.1f} MB that are free; "
        f"make room or {ELSEWHERE}"
    )
    assert not output.exists()
    assert beside(output) == []


def test_full_disk_leaves_the_older_artifact_whole(
    checkpoint: Path, older: Path, mount: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    target = Path(shutil.copytree(older, mount("size=300k") / "artifact"))
    command = [str(checkpoint), "-o", str(target), "--force"]
    assert export_main(command) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {target} cannot be written: No space left on device")
    assert captured.err.count("\n") == 1
    check_untouched(target, older)
    mount("remount,size=2m")
    assert export_main(command) == 0
    check_whole(target)


def test_limit_on_the_size_of_files_is_an_error_with_a_remedy(checkpoint: Path, target: Path, older: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n" + CLI
    done = subprocess.run(
        [sys.executable, "-c", limited, str(checkpoint), "-o", str(target), "--force"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, f"error: {target} cannot be written: File too large; {ELSEWHERE}\n")
    check_untouched(target, older)


def test_file_of_the_checkpoint_that_cannot_be_read_is_not_blamed_on_the_output(
    checkpoint: Path, target: Path, older: Path
) -> None:
    damaged = Path(shutil.copytree(checkpoint, target.parent.parent / "damaged"))
    (damaged / "vocab.txt").mkdir()  # which no file operation can read
    with pytest.raises((OSError, CrossrankError), match=r"vocab\.txt") as caught:
        export_model(damaged, target, **FP32, force=True)
    assert "cannot be written" not in str(caught.value)
    check_untouched(target, older)


# Ctrl-C.


def interrupt_at(stage: str, command: list[str]) -> tuple[int, str]:
    """Run a command on a terminal and send it SIGINT as it shows a stage: its exit status and what it showed."""
    terminal, its_terminal = pty.openpty()
    shown = b""
    with subprocess.Popen(command, stdout=PIPE, stderr=its_terminal) as process:
        os.close(its_terminal)
        try:
            sent = False
            while True:
                try:
                    part = os.read(terminal, 4096)
                except OSError:  # Linux's way to say that the other side is closed
                    break
                if not part:
                    break
                shown += part
                if not sent and stage.encode() in shown:
                    process.send_signal(signal.SIGINT)
                    sent = True
        finally:
            os.close(terminal)
        process.communicate(timeout=WAIT_S)
    assert sent, shown
    return process.returncode, shown.decode()


@pytest.mark.parametrize("stage", ["read config", "build cpu int8", "reference logits", "prove the graphs", "write"])
def test_ctrl_c_ends_the_command_with_one_line_and_leaves_nothing(
    tmp_path_factory: pytest.TempPathFactory, target: Path, older: Path, stage: str
) -> None:
    deep = tmp_path_factory.getbasetemp() / "deep"  # its stages last some tenths of a second
    if not deep.exists():
        make_checkpoint(deep, "bert", num_hidden_layers=12)
    # In int8 so deep a model of random weights may leave its bounds; that is seen only when the proof is done.
    precision = "int8" if stage == "build cpu int8" else "fp32"
    options = ["-o", str(target), "--variants", "cpu", "--precision", precision, "--force"]
    code, shown = interrupt_at(stage, [sys.executable, "-c", CLI, str(deep), *options])
    if stage == "write" and code == 0:  # it was done before the signal came
        check_whole(target)
        return
    assert code == 130
    *stages, last = shown.removesuffix("\r\n").split("\r\n")
    assert last == "interrupted"
    assert all(line.endswith(" s") for line in stages), shown  # a line for each stage, and no traceback
    if stage == "write":  # by then the older artifact may be replaced
        check_whole(target)
    else:
        check_untouched(target, older)


def test_keyboard_interrupt_reaches_the_caller_and_leaves_nothing(checkpoint: Path, target: Path, older: Path) -> None:
    def press(stage: str, seconds: float | None) -> None:
        if stage == "prove the graphs" and seconds is None:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        export_model(checkpoint, target, **FP32, force=True, report=press)
    check_untouched(target, older)


# Another export.


def test_two_threads_export_one_model(checkpoint: Path, tmp_path: Path) -> None:
    """One waits for the other and takes its work."""
    target, written = tmp_path / "out" / "artifact", list[str]()

    def export() -> None:
        report = lambda stage, seconds: written.append(stage) if (stage, seconds) == ("write", None) else None  # noqa: E731
        assert export_model(checkpoint, target, **FP32, report=report) == target

    run_together(export, export)
    assert written == ["write"]
    check_whole(target)


def test_two_threads_export_one_model_to_two_folders(checkpoint: Path, tmp_path: Path) -> None:
    targets = [tmp_path / name / "artifact" for name in ("first", "second")]
    run_together(*(lambda target=target: export_model(checkpoint, target, **FP32) for target in targets))
    for target in targets:
        check_whole(target)
    assert np.array_equal(*map(scores, targets))


def run_together(*works: Callable[[], object]) -> None:
    failures: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=[work]) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert failures == []


def test_two_processes_export_one_model_to_two_folders(
    checkpoint: Path, tmp_path: Path, processes: list["subprocess.Popen[str]"]
) -> None:
    targets = [tmp_path / name / "artifact" for name in ("first", "second")]
    for target in targets:
        command = [sys.executable, "-c", CLI, str(checkpoint), "-o", str(target), "--variants", "cpu"]
        processes.append(subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True))
    assert [(process.communicate(timeout=WAIT_S)[1], process.returncode) for process in processes] == [("", 0)] * 2
    for target in targets:
        check_whole(target)


# Holds the lock of a target, half way through an export, until it is ended.
HOLDER = """
import sys, time
from pathlib import Path
from crossrank.export._write.folder import locked, new_folder
target = Path(sys.argv[1])
with locked(target), new_folder(target) as work:
    (work / "crossrank.json").write_text("half")
    print("held", flush=True)
    time.sleep(600)
"""
# An export that says on standard error when it has to wait.
WAITER = LEAN + "import logging; logging.basicConfig(level='INFO', format='%(message)s')\n" + CLI


def start_holder(target: Path, processes: list["subprocess.Popen[str]"]) -> "subprocess.Popen[str]":
    processes.append(subprocess.Popen([sys.executable, "-c", HOLDER, str(target)], stdout=PIPE, text=True))
    assert (stdout := processes[-1].stdout) is not None
    assert stdout.readline() == "held\n"
    return processes[-1]


def start_waiter(checkpoint: Path, target: Path, processes: list["subprocess.Popen[str]"]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WAITER, str(checkpoint), "-o", str(target), "--variants", "cpu", "--force"]
    processes.append(subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True))
    assert (stderr := processes[-1].stderr) is not None
    assert stderr.readline() == f"waiting for another export of {target}\n"
    return processes[-1]


def test_export_goes_on_when_the_one_that_it_waits_for_is_killed(
    checkpoint: Path, target: Path, processes: list["subprocess.Popen[str]"]
) -> None:
    holder = start_holder(target, processes)
    waiter = start_waiter(checkpoint, target, processes)
    holder.kill()
    waiter.communicate(timeout=WAIT_S)
    assert waiter.returncode == 0
    check_whole(target)


def test_killed_waiter_does_not_disturb_the_export_that_it_waits_for(
    checkpoint: Path, target: Path, older: Path, processes: list["subprocess.Popen[str]"]
) -> None:
    with locked(target):
        waiter = start_waiter(checkpoint, target, processes)
        waiter.kill()
        waiter.wait(WAIT_S)
        check_untouched(target, older)
    export_model(checkpoint, target, **FP32, force=True)
    check_whole(target)


def test_interrupted_waiter_leaves_nothing(
    checkpoint: Path, target: Path, older: Path, processes: list["subprocess.Popen[str]"]
) -> None:
    with locked(target):
        waiter = start_waiter(checkpoint, target, processes)
        waiter.send_signal(signal.SIGINT)
        _, err = waiter.communicate(timeout=WAIT_S)
        assert (waiter.returncode, err) == (130, "interrupted\n")
    check_untouched(target, older)


def test_waiting_is_shown_on_a_terminal(checkpoint: Path, target: Path, older: Path) -> None:
    with locked(target):
        code, shown = interrupt_at(
            "wait for another export", [sys.executable, "-c", CLI, str(checkpoint), "-o", str(target), "--force"]
        )
    assert (code, shown.split("\r\n")[-2]) == (130, "interrupted")
    check_untouched(target, older)


@pytest.mark.parametrize("content", ["", "4194304\n"])
def test_lock_file_of_a_dead_process_does_not_block(
    checkpoint: Path, target: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (target.parent / ".artifact.lock").write_text(content, encoding="utf-8")
    with caplog.at_level(logging.INFO):
        export_model(checkpoint, target, **FP32, force=True)
    assert "waiting" not in caplog.text
    check_whole(target)


# An output that cannot be.


def check_refused(checkpoint: Path, output: str | Path, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command fails with one line: the message after the output's absolute path."""
    assert export_main([str(checkpoint), f"--output={output}", "--variants=cpu", "--force"]) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"error: {Path(output).resolve()} {message}\n")


def test_output_on_a_read_only_file_system_is_refused(
    checkpoint: Path, older: Path, mount: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = mount("size=2m")
    target = Path(shutil.copytree(older, folder / "artifact"))
    mount("remount,ro")
    for output in (target, folder / "new"):
        lock = folder / f".{output.name}.lock"
        check_refused(checkpoint, output, f"cannot be written: Read-only file system ({lock}); {ELSEWHERE}", capsys)
    check_untouched(target, older)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc on this system")
@pytest.mark.parametrize(("output", "path"), [("artifact", ".artifact.lock"), ("folder/artifact", "folder")])
def test_output_where_the_system_makes_no_files_is_refused(
    checkpoint: Path, output: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = f"cannot be written: No such file or directory (/proc/{path}); {ELSEWHERE}"
    check_refused(checkpoint, f"/proc/{output}", message, capsys)


def test_output_that_is_a_file_is_refused(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.write_text("mine", encoding="utf-8")
    check_refused(
        checkpoint,
        file,
        "exists and is no crossrank artifact: choose another folder with output= (in a shell -o)",
        capsys,
    )
    check_refused(checkpoint, file / "artifact", f"cannot be written: File exists ({file}); {ELSEWHERE}", capsys)
    assert file.read_text(encoding="utf-8") == "mine"


def test_output_that_is_the_checkpoint_is_refused(
    checkpoint: Path, older: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = Path(shutil.copytree(checkpoint, tmp_path / "both"))
    check_refused(
        both, both, "exists and is no crossrank artifact: choose another folder with output= (in a shell -o)", capsys
    )
    shutil.copytree(older, both, dirs_exist_ok=True)  # weights that someone keeps with their artifact
    check_refused(
        both,
        both,
        "holds what is no part of an artifact and would be lost: model.safetensors; "
        "move it away or choose another folder with output= (in a shell -o)",
        capsys,
    )
    assert (both / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()


@pytest.mark.parametrize("output", [".", "../here"])
def test_current_folder_is_not_replaced(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shell that started the export would be left in a folder that is gone."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    message = "is the current folder, which cannot be replaced: choose a folder inside it with output= (in a shell -o)"
    check_refused(checkpoint, output, message, capsys)
    assert not list(tmp_path.glob(".*"))  # no lock's file


def test_a_place_that_is_refused_gets_no_lock(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(os.listdir("/"))
    message = "is a mount point, which cannot be replaced: choose a folder inside it with output= (in a shell -o)"
    check_refused(checkpoint, "/", message, capsys)
    assert set(os.listdir("/")) == before


def test_mount_point_is_refused_before_the_work(
    checkpoint: Path, mount: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    message = "is a mount point, which cannot be replaced: choose a folder inside it with output= (in a shell -o)"
    check_refused(checkpoint, mount("size=2m"), message, capsys)


def test_name_that_leaves_no_room_for_the_lock_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    for length in (longest + 1, longest, longest - len(".lock")):
        name = "n" * length
        lock = tmp_path / f".{name}.lock"
        check_refused(
            checkpoint, tmp_path / name, f"cannot be written: File name too long ({lock}); {ELSEWHERE}", capsys
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "東京 ñ 🎻", "-dash", "--force", "a\nb", "$HOME", "inside/deep/er"])
def test_any_other_name_is_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export_main([str(checkpoint), f"--output={name}", "--variants=cpu", "--precision=fp32"]) == 0
    verify_artifact(tmp_path / name)


def test_artifact_inside_its_checkpoint_is_made_once(checkpoint: Path, tmp_path: Path) -> None:
    """What an export leaves in a checkpoint's folder does not make it another checkpoint."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    target = export_model(folder, folder / "artifact", **FP32)
    before = target.stat().st_ino
    assert export_model(folder, folder / "artifact", **FP32) == target
    assert target.stat().st_ino == before
    verify_artifact(target)


def test_link_to_itself_is_refused(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert export_main([str(checkpoint), f"--output={tmp_path / 'loop'}", "--variants=cpu"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'loop'} ")


def test_link_to_an_artifact_stays_a_link(checkpoint: Path, target: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(target)
    assert export_model(checkpoint, link, **FP32, force=True) == target
    assert link.readlink() == target
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    check_whole(target)
