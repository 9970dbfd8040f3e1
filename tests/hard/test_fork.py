"""One object across fork and spawn: children score as their parent, nothing hangs, the parent goes on."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from tests.support.artifacts import make_artifact
from tests.support.fork_scenarios import CHILD_S, SCENARIOS

SCRIPT = Path(__file__).parents[1] / "support" / "fork_scenarios.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("tiny"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scores_are_equal_across_processes(folder: Path, scenario: str) -> None:
    command = [sys.executable, str(SCRIPT), scenario, str(folder)]
    # A session of its own, so that what hangs is ended with its children.
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, start_new_session=True) as process:
        try:
            out, err = process.communicate(timeout=CHILD_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"{scenario} hangs: {process.communicate()[1]}")
    assert (process.returncode, out) == (0, "ok\n"), err
