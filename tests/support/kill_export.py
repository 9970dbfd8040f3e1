"""Exports that are killed, and what is found afterwards.

``python tests/support/kill_export.py FOLDER CHECKPOINT CHECKPOINT [KILLS] [SEED]`` exports the two checkpoints over
each other and kills each export at a random moment: half of the kills over the whole run, process start included, a
third in its last fifth, the others as soon as the artifact is replaced. After each, the artifact must be the old
or the new one, whole, and the next export must clean up. It prints how often it was which. test_kill.py runs this
with few and with many kills.

``python tests/support/kill_export.py steps FOLDER SWAP`` replaces a folder by a function of the exporter, killed before
each file operation in turn.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossrank import CrossEncoder
from crossrank._proof import verify_artifact
from crossrank.export import export_model
from crossrank.export._write import folder as write

# A process without torch and transformers starts fast and proves with numpy. It prints the stages as they begin.
_EXPORT = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from pathlib import Path
from crossrank.export import export_model
report = lambda stage, seconds: print(stage, flush=True) if seconds is None else None
export_model(sys.argv[1], sys.argv[2], variants=["cpu"], precisions=["fp32"], force=True, report=report)
"""
_GRAPHS: dict[str, Any] = {"variants": ["cpu"], "precisions": ["fp32"]}
_PAIRS = [("why is the sky red", "Sunlight travels a longer way."), ("knife", ""), ("a", "b " * 40)]


def kill_exports(folder: Path, checkpoints: Sequence[Path], *, kills: int, seed: int) -> Counter[str]:
    """Kill exports of two checkpoints over each other.

    Args:
        folder: An empty folder to work in.
        checkpoints: Two whose scores differ.
        kills: How many exports to start.
        seed: Of the moments.

    Returns:
        How many kills left "old", "new", and a "leftover" that the next export removed; how many hit after the
        artifact was "replaced", and how many exports had "ended" before.
    """
    target, rng, counts = folder / "artifact", np.random.default_rng(seed), Counter[str]()
    expected, stages = [], []
    for checkpoint in checkpoints:
        stages.append(_watch(target, checkpoint))
        expected.append(_scores(target))
    assert not np.array_equal(*expected)
    times = np.min(stages, axis=0)  # s since the start, of each stage's beginning and of the end
    old = 1
    for i in range(kills):
        kind = ("run", "end", "run", "end", "run", "swap")[i % 6]
        moment = times[-1] * rng.uniform(0 if kind == "run" else 0.8, 1)
        counts.update(_kill(target, checkpoints[1 - old], None if kind == "swap" else moment, times))
        scores = _scores(target)
        found = [np.array_equal(scores, values) for values in expected]
        assert sum(found) == 1, f"kill {i}: neither the old nor the new artifact"
        verify_artifact(target)
        counts["new" if found[1 - old] else "old"] += 1
        old = found.index(True)
        counts["leftover"] += len(_leftovers(target))
        before = target.stat().st_ino
        export_model(checkpoints[old], target, **_GRAPHS)  # what is there is what is asked for: nothing to write
        assert target.stat().st_ino == before
        assert _leftovers(target) == []
    return counts


def _scores(target: Path) -> Any:
    return CrossEncoder(target, device="cpu", threads=1).predict(_PAIRS)


def _leftovers(target: Path) -> list[str]:
    return [path.name for path in target.parent.iterdir() if path.name not in (target.name, f".{target.name}.lock")]


def _start(target: Path, checkpoint: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", _EXPORT, str(checkpoint), str(target)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def _watch(target: Path, checkpoint: Path) -> list[float]:
    """When each stage of an export begins and when it ends, in seconds since its start."""
    start = time.perf_counter()
    with _start(target, checkpoint) as process:
        assert process.stdout is not None
        times = [time.perf_counter() - start for _ in process.stdout]
    assert process.returncode == 0
    return [*times, time.perf_counter() - start]


def _kill(target: Path, checkpoint: Path, moment: float | None, times: Sequence[float]) -> list[str]:
    """Start an export and kill it at a moment of a run that began its stages at ``times``, or as it replaces."""
    before = target.stat().st_ino
    start = time.perf_counter()
    with _start(target, checkpoint) as process:
        assert process.stdout is not None
        if moment is None:
            while process.poll() is None and target.stat().st_ino == before:
                pass
        else:
            for begin in times[:-1]:  # from stage to stage, since no run is as fast as the other
                if begin > moment or not process.stdout.readline():
                    break
                start = time.perf_counter() - begin
            time.sleep(max(0, start + moment - time.perf_counter()))
        process.kill()
    if process.returncode == 0:
        return ["ended"]
    assert process.returncode == -signal.SIGKILL, "the export failed by itself"
    return ["replaced"] if target.stat().st_ino != before else []


def kill_at_every_step(folder: Path, swap: Callable[[Path, Path], None]) -> list[str]:
    """Replace a folder again and again, killed before the first file operation, the second, and so on to the end.

    Args:
        folder: An empty folder to work in.
        swap: What puts a new folder in the place of another.

    Returns:
        What each kill left in its place: "old", "new" or "absent". After each, taking the lock must bring back one
        of the first two and leave nothing beside it.
    """
    target, states = folder / "artifact", list[str]()
    while True:
        with write.locked(target), write.new_folder(target) as work:
            _fill(work, "old")
            write.swap_in(work, target)
        child = os.fork()
        if child == 0:
            _kill_before(len(states))
            with write.locked(target), write.new_folder(target) as work:
                _fill(work, "new")
                swap(work, target)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        states.append(_state(target))
        with write.locked(target):
            assert _state(target) == states[-1].replace("absent", "old")
            assert _leftovers(target) == []
        if status == 0:
            return states
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def _fill(work: Path, content: str) -> None:
    for path in (work / "crossrank.json", work / "onnx" / "model.onnx"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")


def _state(target: Path) -> str:
    contents = {path.read_text(encoding="utf-8") for path in target.rglob("*") if path.is_file()} or {"absent"}
    assert len(contents) == 1, f"mixed: {contents}"
    return contents.pop()


def _kill_before(operation: int) -> None:
    """Kill this process before a file operation of Python's or a call into a C library, counted from 0."""
    done = 0

    def count(event: str, _: object) -> None:
        nonlocal done
        if event.partition(".")[0] in ("open", "os", "fcntl", "shutil", "ctypes"):
            done += 1
            if done == operation + 1:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def main(arguments: Sequence[str]) -> None:
    """Run what the module's docstring says and print what was found."""
    if arguments[0] == "steps":
        print(*kill_at_every_step(Path(arguments[1]), getattr(write, arguments[2])))
        return
    folder, first, second = map(Path, arguments[:3])
    kills, seed = (int(number) for number in [*arguments[3:], "100", "0"][:2])
    counts = kill_exports(folder, [first, second], kills=kills, seed=seed)
    print(f"{kills} kills: {', '.join(f'{count} {what}' for what, count in sorted(counts.items()))}")


if __name__ == "__main__":
    main(sys.argv[1:])
