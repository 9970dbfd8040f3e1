"""An export that is killed at any moment leaves the old artifact or the new one, and the next cleans up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.kill_export import kill_exports
from tests.support.tiny_models import make_checkpoint

SCRIPT = Path(__file__).parents[1] / "support" / "kill_export.py"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no SIGKILL on this system")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return [make_checkpoint(folder / str(seed), "bert", seed=seed) for seed in (0, 1)]


def states_after_kills(folder: Path, swap: str) -> list[str]:
    """A process of its own: no threads of another library are forked with it."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "steps", str(folder), swap], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two folders in one step")
def test_killed_before_any_file_operation_the_old_or_the_new_folder_is_there(tmp_path: Path) -> None:
    states = states_after_kills(tmp_path, "swap_in")
    assert set(states) == {"old", "new"}
    assert states == sorted(states, reverse=True)  # once replaced, it stays replaced
    assert len(states) > 20


def test_killed_between_two_renames_the_old_folder_comes_back(tmp_path: Path) -> None:
    """On a system that cannot exchange two folders, there is a moment with neither in its place."""
    states = states_after_kills(tmp_path, "swap_in_two_steps")
    assert states.count("absent") == 1
    before, after = states[: states.index("absent")], states[states.index("absent") + 1 :]
    assert set(before) == {"old"}
    assert set(after) == {"new"}


def check_kills(folder: Path, checkpoints: list[Path], kills: int) -> None:
    counts = kill_exports(folder, checkpoints, kills=kills, seed=kills)
    print(f"{kills} kills: {dict(counts)}")
    assert counts["old"] + counts["new"] == kills
    assert counts["ended"] <= kills / 2  # the others were killed at work
    assert counts["old"] > 0
    assert counts["new"] > 0


def test_export_killed_at_random_leaves_the_old_or_the_new_artifact(tmp_path: Path, checkpoints: list[Path]) -> None:
    check_kills(tmp_path, checkpoints, 6)


@pytest.mark.slow
def test_export_killed_a_hundred_times_leaves_the_old_or_the_new_artifact(
    tmp_path: Path, checkpoints: list[Path]
) -> None:
    check_kills(tmp_path, checkpoints, 100)
