"""What docs/serving.md says of gevent and eventlet; `make test-frameworks` brings them, elsewhere it is skipped."""

import os
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

from tests.support.artifacts import make_artifact

WAIT_S = 60
GEVENT = """
import sys
from gevent import monkey
way = sys.argv[2]
monkey.patch_all() if way == "greenlets" else monkey.patch_all(thread=False, queue=False)
import gevent
def at_once(work, *texts):
    apply = (lambda: work(*texts)) if way == "greenlets" else lambda: gevent.get_hub().threadpool.apply(work, texts)
    calls = [gevent.spawn(apply) for _ in range(8)]
    gevent.joinall(calls, raise_error=True)
    return [call.value for call in calls]
"""
EVENTLET = """
import sys
import eventlet
way = sys.argv[2]
eventlet.monkey_patch() if way == "greenlets" else eventlet.monkey_patch(thread=False)
from eventlet import tpool
def at_once(work, *texts):
    pool = eventlet.GreenPool()
    apply = (lambda: work(*texts)) if way == "greenlets" else lambda: tpool.execute(work, *texts)
    return [call.wait() for call in [pool.spawn(apply) for _ in range(8)]]
"""
PROGRAM = """
from crossrank import CrossEncoder
model = CrossEncoder(sys.argv[1], device="cpu", threads=2)
documents = [f"the sea {i} is calm" for i in range(60)]
expected = model.score("the sea", documents)
assert all(abs(scores - expected).max() < 1e-5 for scores in at_once(model.score, "the sea", documents))
assert model.stats().waiting_requests == 0
model.close()
print("right")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("way", ["greenlets", "threads"])
@pytest.mark.parametrize(("package", "loop"), [("gevent", GEVENT), ("eventlet", EVENTLET)], ids=["gevent", "eventlet"])
def test_calls_of_greenlets_and_of_the_hubs_own_threads_get_their_scores(
    folder: Path, package: str, loop: str, way: str
) -> None:
    if util.find_spec(package) is None and not os.environ.get("CROSSRANK_TEST_FRAMEWORKS"):
        pytest.skip(f"{package} is not installed")
    command = [sys.executable, "-W", "ignore", "-c", loop + PROGRAM, str(folder), way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr
