"""A model that is replaced while it is loaded or used: all of it is one model, old or new, or there is an error."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import crossrank._device.open
from crossrank import ArtifactError, CrossEncoder, ModelError
from crossrank._artifact.manifest import Manifest, read_manifest
from crossrank._proof import verify_artifact
from crossrank.export import export_model
from crossrank.export._write.folder import locked, new_folder, swap_in
from tests.support.artifacts import edit_manifest
from tests.support.foreign_graphs import put_weights_outside, strip_artifact
from tests.support.tiny_models import PAIRS, make_checkpoint

SOME = [PAIRS[0], *PAIRS[9:14]]

# Processes, so that they do not wait for this one's lock of Python.
_SWAPPERS = {
    # Exchanges two folders as fast as the system does it.
    "exchange": """
import sys
from pathlib import Path
from crossrank.export._write.folder import _exchange
first, second, stop = map(Path, sys.argv[1:])
print("ready", flush=True)
while not stop.exists():
    for _ in range(1000):
        _exchange(first, second)
""",
    # Puts copies of two folders in the place of the first as an export does it, and removes what was there.
    "export": """
import shutil, sys
from pathlib import Path
from crossrank.export._write.folder import locked, new_folder, swap_in
target, second, stop = map(Path, sys.argv[1:])
sources = [shutil.copytree(target, target.with_name("source")), second]
print("ready", flush=True)
while not stop.exists():
    sources.reverse()
    with locked(target), new_folder(target) as work:
        shutil.copytree(sources[0], work, dirs_exist_ok=True)
        swap_in(work, target)
""",
}

exchanges = pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two folders in one step")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models that share nothing: tokenizer, settings and graphs; and the settings and graph alone of each."""
    made = {}
    for name, labels in (("bert", 1), ("roberta", 2)):
        folder = tmp_path_factory.mktemp(name)
        checkpoint = make_checkpoint(folder / "checkpoint", name, labels=labels)
        made[name] = export_model(checkpoint, folder / name, variants=["cpu", "portable"], precisions=["fp32"])
        made[f"foreign {name}"] = strip_artifact(made[name], folder / "foreign")
        made[f"outside {name}"] = Path(shutil.copytree(folder / "foreign", folder / "outside"))
        put_weights_outside(folder / "outside" / "onnx" / "model.onnx", "weights.bin")
    return made


def copy_of(artifact: Path, folder: Path) -> Path:
    return Path(shutil.copytree(artifact, folder / artifact.name))


@contextmanager
def swapping(how: str, first: Path, second: Path, stop: Path) -> Iterator[None]:
    command = [sys.executable, "-c", _SWAPPERS[how], str(first), str(second), str(stop)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            stop.touch()
    assert process.returncode == 0


def logits_of(model: CrossEncoder) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = model.predict(SOME, activation_fn="identity")
    return scores


def load(folder: Path) -> NDArray[np.float32]:
    model = CrossEncoder(folder, device="cpu", threads=1)
    logits = logits_of(model)
    assert logits.shape == (len(SOME), 2)[: model.info().labels]
    return logits


@exchanges
@pytest.mark.parametrize("loads", [30, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("kind", "how"), [("", "exchange"), ("", "export"), ("foreign ", "exchange"), ("outside ", "exchange")]
)
def test_each_load_beside_a_swapper_is_wholly_one_model(
    artifacts: dict[str, Path], tmp_path: Path, kind: str, how: str, loads: int
) -> None:
    first, second = (copy_of(artifacts[kind + name], tmp_path / name) for name in ("bert", "roberta"))
    expected = [load(first), load(second)]
    found = []
    with swapping(how, first, second, tmp_path / "stop"):
        for _ in range(loads):
            logits = load(first)
            (which,) = (i for i, values in enumerate(expected) if np.array_equal(logits, values))
            found.append(which)
    assert set(found) == {0, 1}


# A parent that forks a child for each line that it reads, and says what the child computes.
_PARENT = """
import json, os, sys
import numpy as np
from crossrank import CrossEncoder, CrossrankError
model, pairs = CrossEncoder(sys.argv[1], device="cpu", threads=2), json.loads(sys.argv[2])
expected = model.predict(pairs)
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            print("equal" if np.array_equal(model.predict(pairs), expected) else "another model", flush=True)
        except CrossrankError as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@contextmanager
def parent_of(folder: Path) -> Iterator[Callable[[], str]]:
    """A process that has loaded a model, and what a child computes that it forks now."""
    command = [sys.executable, "-c", _PARENT, str(folder), json.dumps(SOME)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

        lines = process.stdout

        def child() -> str:
            print(file=process.stdin, flush=True)
            return lines.readline().strip()

        yield child
    assert process.returncode == 0


def put_in_place(target: Path, source: Path) -> None:
    """As an export replaces an artifact."""
    with locked(target), new_folder(target) as work:
        shutil.copytree(source, work, dirs_exist_ok=True)
        swap_in(work, target)


def rewrite(target: Path, source: Path) -> None:
    """The graph alone, in place: as large as before, with another content."""
    (graph,) = (target / "onnx").glob("*cpu*")
    graph.write_bytes(bytes(graph.stat().st_size))


def rewrite_and_keep_times(target: Path, source: Path) -> None:
    """As ``rsync --inplace --times`` of a model that was trained anew, in an image that gives all files one time."""
    for path in target.rglob("*.*"):
        if path.suffix != ".json":
            status = path.stat()
            path.write_bytes(path.read_bytes()[::-1])
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def remove(target: Path, source: Path) -> None:
    shutil.rmtree(target)


@forks
@pytest.mark.parametrize("replace", [put_in_place, rewrite, rewrite_and_keep_times, remove])
def test_forked_child_of_a_replaced_artifact_is_told_so(
    artifacts: dict[str, Path], tmp_path: Path, replace: Callable[[Path, Path], object]
) -> None:
    """It would compute with the new graph under the old tokenizer and head."""
    target = copy_of(artifacts["bert"], tmp_path)
    with parent_of(target) as child:
        assert child() == "equal"
        replace(target, artifacts["roberta"])
        assert re.fullmatch(
            rf"ArtifactError: {target}/onnx/model_cpu_fp32.onnx (was replaced|is gone) since the model was loaded.*; "
            "load the model again",
            child(),
        )


@forks
def test_forked_child_of_an_artifact_that_got_more_graphs_computes_as_its_parent(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    """Another folder, of which the manifest says that it holds the same graph."""
    target = copy_of(artifacts["bert"], tmp_path)
    with parent_of(target) as child:
        put_in_place(target, artifacts["bert"])
        assert child() == "equal"


@forks
@pytest.mark.parametrize("links", [1, 2])
def test_forked_child_of_an_artifact_whose_files_got_links_elsewhere_computes_as_its_parent(
    artifacts: dict[str, Path], tmp_path: Path, links: int
) -> None:
    """As an export with more graphs links them, or a backup: that changes a file's time of change alone."""
    target = copy_of(artifacts["bert"], tmp_path)
    with parent_of(target) as child:
        for i in range(links):
            shutil.copytree(target, tmp_path / f"{i}", copy_function=os.link)
            assert child() == "equal"


@forks
def test_forked_child_of_foreign_weights_that_were_rewritten_with_their_time_kept_is_told_so(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    target = copy_of(artifacts["outside bert"], tmp_path)
    with parent_of(target) as child:
        assert child() == "equal"
        rewrite_and_keep_times(target, target)
        assert child().endswith("model.onnx was replaced since the model was loaded; load the model again")


@forks
def test_forked_child_of_a_model_whose_weights_lie_elsewhere_is_told_that_they_were_replaced(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    target = copy_of(artifacts["outside bert"], tmp_path)
    weights = target / "onnx" / "weights.bin"
    with parent_of(target) as child:
        assert child() == "equal"
        weights.write_bytes(weights.read_bytes()[::-1])
        assert child().endswith("model.onnx was replaced since the model was loaded; load the model again")


@exchanges
def test_forked_children_beside_a_swapper_compute_as_their_parent_or_say_why_not(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    first, second = (copy_of(artifacts[name], tmp_path / name) for name in ("bert", "roberta"))
    with parent_of(first) as child, swapping("exchange", first, second, tmp_path / "stop"):
        found = Counter(child().partition(":")[0] for _ in range(30))
    assert set(found) == {"equal", "ArtifactError"}


def test_tokenizer_of_a_replaced_artifact_is_not_taken_for_the_models_own(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    target = copy_of(artifacts["bert"], tmp_path)
    model = CrossEncoder(target, device="cpu")
    expected = CrossEncoder(artifacts["bert"], device="cpu").encode(["text"]).tokenizer
    put_in_place(target, artifacts["bert"])
    assert model.encode(["text"]).tokenizer == expected
    model = CrossEncoder(target, device="cpu")
    put_in_place(target, artifacts["roberta"])
    with pytest.raises(ArtifactError, match="was replaced since the model was loaded; load the model again"):
        model.encode(["text"])


def test_tokenizer_that_was_rewritten_with_its_time_kept_is_not_taken_for_the_models_own(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    target = copy_of(artifacts["bert"], tmp_path)
    model, path = CrossEncoder(target, device="cpu"), target / "tokenizer.json"
    status, text = path.stat(), path.read_text("utf-8")
    path.write_text(text.replace('"[CLS]"', '"[SLC]"'), "utf-8")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ArtifactError, match="was replaced since the model was loaded; load the model again"):
        model.encode(["text"])


def test_errors_of_a_folder_that_is_held_name_its_own_path(artifacts: dict[str, Path], tmp_path: Path) -> None:
    target = copy_of(artifacts["bert"], tmp_path)
    (target / "onnx" / "model_cpu_fp32.onnx").write_bytes(bytes(117114))
    for _ in range(2):
        with pytest.raises(ModelError) as caught:
            CrossEncoder(target, device="cpu")
        assert str(target) in str(caught.value)
        assert "/proc/" not in str(caught.value)
        edit_manifest(target, lambda manifest: manifest.update(variants=[]))
    with pytest.raises(ModelError, match=str(target)):
        verify_artifact(target)


@pytest.mark.parametrize("times", [1, 1000])
def test_folder_without_a_handle_is_read_again_when_it_was_replaced(
    artifacts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """As where the system knows no handles: a replacement between the manifest and the graph is noticed."""
    monkeypatch.delattr(os, "O_PATH", raising=False)
    target, other = copy_of(artifacts["bert"], tmp_path), artifacts["roberta"]
    expected = load(other)
    left = times

    def and_replace(folder: Path) -> Manifest:
        nonlocal left
        found = read_manifest(folder)
        if left:
            left -= 1
            put_in_place(target, other)
        return found

    monkeypatch.setattr(crossrank._device.open, "read_manifest", and_replace)
    if times == 1:
        np.testing.assert_array_equal(load(target), expected)
    else:
        with pytest.raises(ArtifactError, match="replaced again and again"):
            load(target)
