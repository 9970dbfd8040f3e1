"""How a CPU is kept busy: batches of one length over lanes, and a second session for a document that is alone."""

import logging
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from crossrank import CrossEncoder
from crossrank._device.cpu import CpuBackend
from crossrank._device.session import Session
from crossrank._progress import Progress
from crossrank._text.pairs import PackedPairs
from crossrank.export import export_model
from tests.support.artifacts import make_artifact
from tests.support.tiny_models import PAIRS, make_checkpoint
from tests.support.trained_models import Trained

# Both sessions run the same kernels; with threads onnxruntime may cut a sum otherwise. Logits of up to 9.
ATOL = 1e-5
QUERY, DOCUMENT = PAIRS[0]
DOCUMENTS = [document for _, document in PAIRS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def portable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("portable")
    return export_model(make_checkpoint(folder / "checkpoint", "bert"), folder / "artifact", variants=["portable"])


def open_model(
    folder: Path, threads: int = 2, opening_s: float = 0.0, wide_from_s: float = 0.0
) -> tuple[CrossEncoder, CpuBackend]:
    """A model, as if its graph had taken so long to open, where batches of any time count as slow ones."""
    model = CrossEncoder(folder, device="cpu", threads=threads, activation_fn="identity")
    return model, backend_of(model, opening_s, wide_from_s)


def backend_of(model: CrossEncoder, opening_s: float, wide_from_s: float = 0.0) -> CpuBackend:
    backend = model._scorer.backend
    assert isinstance(backend, CpuBackend)
    backend.opening_s, backend.wide_from_s = opening_s, wide_from_s
    return backend


def eventually(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + 30
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


class Watched:
    """A session that notes the shape of what it runs."""

    def __init__(self, session: Session | None, name: str, runs: list[tuple[str, list[int]]]) -> None:
        assert session is not None
        self._session, self._name, self._runs = session, name, runs
        self.path = session.path

    def run(self, batch: PackedPairs) -> NDArray[np.float32]:
        self._runs.append((self._name, batch.lengths.tolist()))
        return self._session.run(batch)


def watch(backend: CpuBackend) -> list[tuple[str, list[int]]]:
    runs: list[tuple[str, list[int]]] = []
    backend.session = Watched(backend.session, "lanes", runs)  # type: ignore[assignment]
    if backend.wide is not None:
        backend.wide = Watched(backend.wide, "wide", runs)  # type: ignore[assignment]
    return runs


@pytest.mark.parametrize("model_folder", ["folder", "portable"])
def test_no_batch_mixes_lengths(request: pytest.FixtureRequest, model_folder: str) -> None:
    """So nothing is padded, in a graph that has a mask too."""
    model, backend = open_model(request.getfixturevalue(model_folder))
    runs = watch(backend)
    model.score(QUERY, DOCUMENTS * 3)
    assert len(runs) > 8
    assert all(len(set(lengths)) == 1 for _, lengths in runs)


def test_the_wide_session_gives_the_same_scores(folder: Path) -> None:
    model, backend = open_model(folder)
    before = [model.score(QUERY, [document])[0] for document in DOCUMENTS[:1]]
    assert eventually(lambda: backend.wide is not None)
    runs = watch(backend)
    after = np.array([model.score(QUERY, [document])[0] for document in DOCUMENTS])
    assert {name for name, _ in runs} == {"wide"}
    np.testing.assert_allclose(after[:1], before, atol=ATOL)
    np.testing.assert_allclose(model.score(QUERY, DOCUMENTS), after, atol=ATOL)
    assert runs[-1][0] == "lanes"


@pytest.mark.parametrize(("precision", "count"), [("fp32", 10), ("int8", 60)])
def test_a_trained_model_gives_the_same_scores_whichever_session_runs(
    trained: Trained, precision: Literal["fp32", "int8"], count: int
) -> None:
    """In small batches and large, alone on one thread, alone on two."""
    query, passages = trained.query, trained.passages[:count]
    model = CrossEncoder(trained.artifact, device="cpu", precision=precision, threads=2)
    backend = backend_of(model, np.inf)
    together = model.score(query, passages)
    assert np.std(together) > 1  # scores that are far apart, so that the tolerance says something
    for batch_size in (1, 3):
        by_size = model.predict([(query, passage) for passage in passages], batch_size=batch_size)
        np.testing.assert_allclose(by_size, together, atol=ATOL)
    for open_wide in (False, True):
        if open_wide:
            backend.open_wide()
            assert backend.wide is not None
        alone = np.array([model.score(query, [passage])[0] for passage in passages])
        np.testing.assert_allclose(alone, together, atol=ATOL)


def test_only_calls_of_few_batches_open_it_when_they_took_as_long_as_it_takes(folder: Path) -> None:
    model, backend = open_model(folder)
    model.score(QUERY, DOCUMENTS)
    model.score(QUERY, [])
    assert backend.slow_s == 0
    backend.opening_s = np.inf
    model.score(QUERY, [DOCUMENT])
    took = backend.slow_s
    assert took > 0
    model.score(QUERY, [DOCUMENT])
    assert backend.slow_s > took
    assert not backend.opening.locked()
    backend.opening_s = backend.slow_s
    model.score(QUERY, [DOCUMENT])
    assert eventually(lambda: backend.wide is not None)


def test_a_fast_call_never_opens_it(folder: Path) -> None:
    model, backend = open_model(folder, wide_from_s=60)
    for _ in range(20):
        model.score(QUERY, [DOCUMENT])
    assert not backend.opening.locked()


def test_one_thread_never_opens_it(folder: Path) -> None:
    model, backend = open_model(folder, threads=1)
    for documents in ([DOCUMENT], DOCUMENTS, []):
        model.score(QUERY, documents)
    assert not backend.opening.locked()


def test_it_is_opened_once_by_many_callers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, backend = open_model(folder)
    opened = []
    open_session = backend.open_session

    def count(threads: int) -> Session:
        opened.append(threads)
        time.sleep(0.05)
        return open_session(threads)

    backend.open_session = count
    with ThreadPoolExecutor(8) as pool:
        scores = list(pool.map(lambda _: model.score(QUERY, [DOCUMENT])[0], range(100)))
    assert eventually(lambda: backend.wide is not None)
    assert opened == [2]
    np.testing.assert_allclose(scores, scores[0], atol=ATOL)


def test_beside_another_call_it_is_not_used(folder: Path) -> None:
    """Then all cores are busy, and threads that share an operator would wait for each other."""
    model, backend = open_model(folder)
    model.score(QUERY, [DOCUMENT])
    assert eventually(lambda: backend.wide is not None)
    runs = watch(backend)
    pairs_inside: list[str] = []

    class Inside(Progress):
        def advance(self, steps: int) -> None:
            if not pairs_inside:
                pairs_inside.append("once")
                caller = threading.Thread(target=model.score, args=(QUERY, [DOCUMENT]))
                caller.start()
                caller.join()

    queries, documents = zip(*PAIRS, strict=True)
    model._scorer.logits(queries, documents, np.arange(len(PAIRS)), progress=Inside(len(PAIRS), "pairs", show=False))
    assert {name for name, _ in runs} == {"lanes"}
    model.score(QUERY, [DOCUMENT])
    assert runs[-1][0] == "wide"


@pytest.mark.parametrize("happening", ["removed", "replaced"])
def test_a_file_that_is_no_longer_the_same_is_not_opened_again(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, happening: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "artifact"))
    model, backend = open_model(copy)
    path = backend.session.path
    path.unlink()
    if happening == "replaced":  # by another model, as an export with --force does
        shutil.copyfile(make_artifact(tmp_path / "other", seed=1) / path.relative_to(copy), path)
    expected = model.score(QUERY, DOCUMENTS)
    caplog.clear()  # of warnings about the texts
    with caplog.at_level(logging.WARNING):
        model.score(QUERY, [DOCUMENT])
        assert eventually(lambda: bool(caplog.messages))
        for _ in range(3):
            assert abs(model.score(QUERY, [DOCUMENT])[0] - expected[0]) <= ATOL
    assert backend.wide is None
    (message,) = caplog.messages  # tried once
    assert "a single document keeps to one thread" in message
    assert str(path) in message


def test_a_process_that_ends_while_the_wide_session_opens_ends_well() -> None:
    """onnxruntime ends the process by abort() when the interpreter takes a thread from under it."""
    code = (
        "from crossrank import CrossEncoder\n"
        "model = CrossEncoder(device='cpu', threads=2)\n"
        "backend = model._scorer.backend; backend.opening_s = backend.wide_from_s = 0.0\n"
        "model.score('a query', ['a document'])\n"
        "assert backend.opening.locked() and backend.wide is None"
    )
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_call_in_the_interpreters_end_opens_none() -> None:
    """Nobody would wait for its thread."""
    code = (
        "import atexit, os; from crossrank import CrossEncoder\n"
        "model = CrossEncoder(device='cpu', threads=2)\n"
        "backend = model._scorer.backend; backend.opening_s = backend.wide_from_s = 0.0\n"
        "def end():\n"
        "    model.score('a query', ['a document'])\n"
        "    os.write(1, str(backend.opening.locked()).encode())\n"
        "atexit.register(end)"
    )
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "False", "")
