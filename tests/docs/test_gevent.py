"""What docs/serving.md says of gevent; skipped where that is not installed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.artifacts import make_artifact

pytest.importorskip("gevent")

WAIT_S = 60
PROGRAM = """
import sys
from gevent import monkey
way = sys.argv[2]
monkey.patch_all() if way == "greenlets" else monkey.patch_all(thread=False, queue=False)
import gevent
from crossrank import CrossEncoder
model = CrossEncoder(sys.argv[1], device="cpu", threads=2)
documents = [f"the sea {i} is calm" for i in range(60)]
expected = model.score("the sea", documents)
apply = (lambda work, arguments: work(*arguments)) if way == "greenlets" else gevent.get_hub().threadpool.apply
calls = [gevent.spawn(apply, model.score, ("the sea", documents)) for _ in range(8)]
gevent.joinall(calls, raise_error=True)
assert all(abs(call.value - expected).max() < 1e-5 for call in calls)
assert model.stats().waiting_requests == 0
model.close()
print("right")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("way", ["greenlets", "threads"])
def test_calls_of_greenlets_and_of_the_hubs_own_threads_get_their_scores(folder: Path, way: str) -> None:
    command = [sys.executable, "-c", PROGRAM, str(folder), way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr
