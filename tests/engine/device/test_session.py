"""Which graph runs where and with what, what is refused, and one object under many threads."""

import gc
import io
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from crossrank import ArtifactError, CrossEncoder, DeviceError, InputError, ModelNotFoundError
from crossrank._artifact.choice import choose_variant
from crossrank._artifact.manifest import Variant
from crossrank._machine.device import Device, parse_device
from crossrank._progress import Progress
from tests.support.artifacts import edit_manifest, make_artifact
from tests.support.tiny_models import MAX_LENGTH, PAIRS

has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()

ALL = tuple(
    Variant(variant, precision, f"onnx/{variant}_{precision}.onnx")
    for variant, precision in (
        ("cpu", "fp32"),
        ("cpu", "int8"),
        ("cuda", "fp16"),
        ("portable", "fp32"),
        ("portable", "fp16"),
    )
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(
    ("device", "expected"),
    [("cpu", Device("cpu")), ("cuda", Device("cuda")), ("cuda:0", Device("cuda")), ("cuda:1", Device("cuda", 1))],
)
def test_devices_are_read_as_people_write_them(device: str, expected: Device) -> None:
    assert parse_device(device) == expected
    assert str(expected) == ("cpu" if expected.kind == "cpu" else f"cuda:{expected.index}")


DEVICES = (
    "'cpu', 'cuda', 'cuda:N', 'tensorrt', 'tensorrt:N', or None for the best that runs here; the installed "
    "onnxruntime has cpu"
)


@pytest.mark.parametrize(
    "device", ["gpu", "", "cpu:1", "cpu:", "cuda:-1", "cuda:x", "CPU", "mps", "cuda:0:1", 0, "cuda:²"]
)
def test_other_devices_are_refused_with_the_allowed_ones(folder: Path, device: Any) -> None:
    with pytest.raises(InputError, match=DEVICES) as caught:
        CrossEncoder(folder, device=device)
    assert f"device={device!r}" in str(caught.value)


@pytest.mark.skipif(has_cuda, reason="this onnxruntime has CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_cannot_run_is_an_error_with_the_command(embedded_artifact: Path, device: str) -> None:
    # The artifact holds a portable graph, which a GPU could run.
    with pytest.raises(DeviceError) as caught:
        CrossEncoder(embedded_artifact, device=device, precision="fp32")
    message = str(caught.value)
    assert f"device {parse_device(device)}" in message
    assert "no CUDAExecutionProvider" in message
    assert "CPUExecutionProvider" in message  # what there is
    assert "pip install 'crossrank[cpu]' for CPUs, 'crossrank[cuda13]' or 'crossrank[cuda12]'" in message
    assert isinstance(caught.value, RuntimeError)


@pytest.mark.skipif(has_cuda, reason="this onnxruntime has CUDA")
def test_cuda_is_refused_for_the_device_even_where_no_graph_suits_it(folder: Path) -> None:
    with pytest.raises((DeviceError, ArtifactError)) as caught:
        CrossEncoder(folder, device="cuda", precision="int8")
    assert "cuda:0" in str(caught.value)


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [
        ("cpu", "auto", "cpu fp32"),
        ("cpu", "fp32", "cpu fp32"),
        ("cpu", "int8", "cpu int8"),
        ("cpu", "fp16", "portable fp16"),
        ("cuda", "auto", "cuda fp16"),
        ("cuda", "fp16", "cuda fp16"),
        ("cuda", "fp32", "portable fp32"),
    ],
)
def test_the_graph_suits_device_and_precision(device: str, precision: str, expected: str) -> None:
    assert choose_variant(ALL, Device(device), precision).name == expected
    assert choose_variant(tuple(reversed(ALL)), Device(device), precision).name == expected


@pytest.mark.parametrize(
    ("held", "device", "expected"),
    [
        (["cpu int8"], "cpu", "cpu int8"),
        (["portable fp16"], "cpu", "portable fp16"),
        (["portable fp32", "cpu int8"], "cpu", "portable fp32"),
        (["portable fp32"], "cuda", "portable fp32"),
        (["portable fp32", "portable fp16"], "cuda", "portable fp16"),
    ],
)
def test_auto_takes_what_the_artifact_holds(held: list[str], device: str, expected: str) -> None:
    variants = [variant for variant in ALL if variant.name in held]
    assert choose_variant(variants, Device(device), "auto").name == expected


@pytest.mark.parametrize("precision", ["fp64", "", "FP32", None, 8])
def test_an_unknown_precision_is_refused_with_the_known_ones(folder: Path, precision: Any) -> None:
    with pytest.raises(InputError, match="one of auto, fp32, fp16, int8") as caught:
        CrossEncoder(folder, device="cpu", precision=precision)
    assert f"precision={precision!r}" in str(caught.value)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_precision_that_the_artifact_lacks_names_what_it_holds_and_the_command(folder: Path, precision: Any) -> None:
    with pytest.raises(ArtifactError) as caught:
        CrossEncoder(folder, device="cpu", precision=precision)
    message = str(caught.value)
    assert f"no graph for device cpu with precision '{precision}'" in message
    assert "there is cpu fp32" in message
    assert (
        "make it with export_model(variants=, precisions=) (in a shell export-model --variants --precision)" in message
    )


def test_precision_chooses_the_graph_that_runs(embedded_artifact: Path) -> None:
    names = {}
    for precision in ("auto", "fp32", "int8"):
        info = CrossEncoder(embedded_artifact, device="cpu", precision=precision).info()
        names[precision] = f"{info.variant} {info.precision}"
    assert names == {"auto": "cpu fp32", "fp32": "cpu fp32", "int8": "cpu int8"}


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_threads_that_are_no_count_are_refused(folder: Path, threads: Any) -> None:
    with pytest.raises(InputError, match="a positive integer, or None for all that this process may use") as caught:
        CrossEncoder(folder, device="cpu", threads=threads)
    assert f"threads={threads!r}" in str(caught.value)


@pytest.mark.parametrize("max_length", [3, 0, -1, 8.0, "8", True])
def test_a_max_length_without_room_for_a_token_is_refused(folder: Path, max_length: Any) -> None:
    with pytest.raises(InputError, match="an integer of at least 4, special tokens and one more") as caught:
        CrossEncoder(folder, device="cpu", max_length=max_length)
    assert f"max_length={max_length!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "length", "origin"),
    [
        (None, MAX_LENGTH, "the model's positions"),
        (10, 10, "as asked"),
        (MAX_LENGTH, MAX_LENGTH, "the model's positions"),
        (100_000, MAX_LENGTH, "the model's positions"),
    ],
)
def test_the_smallest_limit_of_length_holds(folder: Path, asked: int | None, length: int, origin: str) -> None:
    info = CrossEncoder(folder, device="cpu", max_length=asked).info()
    assert (info.max_length, info.max_length_origin) == (length, origin)


def test_roberta_never_takes_more_than_its_positions(tmp_path: Path) -> None:
    # 50 rows of positions, of which the first two (padding id and below) belong to no token.
    model = CrossEncoder(make_artifact(tmp_path, "roberta"), device="cpu", max_length=514)
    assert model.info().max_length == MAX_LENGTH
    assert np.isfinite(model.score("knife " * 100, ["sea " * 100])).all()


def test_a_name_that_is_nowhere_suggests_near_names() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        CrossEncoder("ms-marco-MiniLM-L6v2")
    message = str(caught.value)
    assert "'ms-marco-MiniLM-L6v2' is no folder, no registered name and no hub id" in message
    assert "ms-marco-MiniLM-L6-v2" in message
    assert "export-model --list" in message
    assert isinstance(caught.value, FileNotFoundError)


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(InputError, match="the model's name is ''"):
        CrossEncoder("")


def test_a_folder_without_a_model_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=str(tmp_path)) as caught:
        CrossEncoder(tmp_path)
    assert type(caught.value).__module__ == "crossrank._errors"


def test_a_checkpoint_folder_is_exported_once_into_the_cache(folder: Path, tmp_path: Path) -> None:
    checkpoint = folder.parent / "checkpoint"
    first = CrossEncoder(checkpoint, device="cpu", cache_folder=tmp_path)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.onnx")}
    second = CrossEncoder(str(checkpoint), device="cpu", cache_folder=str(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.onnx")} == made
    assert first.info().folder.parent == second.info().folder.parent == tmp_path
    np.testing.assert_array_equal(first.predict(PAIRS), second.predict(PAIRS))


def test_a_damaged_graph_is_named(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "artifact")
    path = broken / "onnx" / "model_cpu_fp32.onnx"
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(ArtifactError, match=r"model_cpu_fp32\.onnx: onnxruntime .* cannot load it"):
        CrossEncoder(broken, device="cpu")


def test_a_graph_with_inputs_of_another_kind_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    foreign = shutil.copytree(folder, tmp_path / "artifact")
    path = foreign / "onnx" / "model_cpu_fp32.onnx"
    graph = onnx.load(path)
    for node in graph.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = "pixel_values" if name == "token_type_ids" else name
    for value in graph.graph.input:
        value.name = "pixel_values" if value.name == "token_type_ids" else value.name
    onnx.save(graph, path)
    edit_manifest(
        foreign,
        lambda manifest: manifest["files"]["onnx/model_cpu_fp32.onnx"].update(size_bytes=path.stat().st_size),
    )
    with pytest.raises(ArtifactError, match=r"the graph's inputs are .*pixel_values"):
        CrossEncoder(foreign, device="cpu")


def test_info_says_what_really_runs(folder: Path) -> None:
    info = CrossEncoder(folder, device="cpu", threads=1).info()
    assert (info.device, info.provider) == ("cpu", "CPUExecutionProvider")
    assert (info.variant, info.precision) == ("cpu", "fp32")
    assert (info.threads, info.threads_reason) == (1, "as asked")
    assert info.onnxruntime == onnxruntime.__version__


@pytest.mark.skipif(has_cuda, reason="this onnxruntime has CUDA")
def test_without_a_device_asked_the_cpu_runs_where_there_is_no_other(folder: Path) -> None:
    assert CrossEncoder(folder).info().device == "cpu"


@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_eight_threads_on_one_object_get_the_serial_scores(folder: Path, lanes: int) -> None:
    model = CrossEncoder(folder, device="cpu", threads=lanes)
    jobs = [(query, [document for _, document in PAIRS[i:]]) for i, (query, _) in enumerate(PAIRS)]
    serial = [model.score(query, documents) for query, documents in jobs]
    start = threading.Barrier(8)

    def work(offset: int) -> None:
        start.wait(timeout=30)
        for i in range(len(jobs)):
            job = (i + offset) % len(jobs)
            # 1e-5: pairs of several callers join into other batches; logits of up to 9.
            np.testing.assert_allclose(model.score(*jobs[job]), serial[job], atol=1e-5)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, 3 * worker) for worker in range(8)]:
            future.result(timeout=60)


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_threads_do_not_change_scores(folder: Path, threads: int) -> None:
    one, several = (CrossEncoder(folder, device="cpu", threads=count).predict(PAIRS) for count in (1, threads))
    # 1e-6: other batches, and sums of the last layer are ordered by the number of its rows.
    np.testing.assert_allclose(one, several, atol=1e-6)


def test_progress_is_drawn_by_one_lane_at_a_time(folder: Path) -> None:
    class Slow(io.StringIO):
        writers = 0
        most = 0

        def write(self, text: str) -> int:
            self.writers += 1
            self.most = max(self.most, self.writers)
            time.sleep(0.001)  # another lane gets its turn
            self.writers -= 1
            return super().write(text)

    stream = Slow()
    model = CrossEncoder(folder, device="cpu", threads=4)
    progress = Progress(len(PAIRS), "pairs", show=True, stream=stream)
    queries, documents = zip(*PAIRS, strict=True)
    model._scorer.logits(queries, documents, np.arange(len(PAIRS)), max_pairs=1, progress=progress)
    assert stream.most == 1
    assert stream.getvalue().count("\n") == 1
    assert re.search(rf"\r{len(PAIRS)}/{len(PAIRS)} pairs, \d+/s\S*\n$", stream.getvalue())


def test_a_model_that_is_let_go_takes_its_threads_along(folder: Path) -> None:
    def lanes() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("crossrank")]

    gc.collect()
    before = set(lanes())
    model = CrossEncoder(folder, device="cpu", threads=3)
    model.predict(PAIRS)
    assert set(lanes()) - before
    gc.disable()  # at once: nothing waits for the collector
    try:
        del model
        end = time.monotonic() + 30
        while set(lanes()) - before and time.monotonic() < end:
            time.sleep(0.01)
        assert not set(lanes()) - before
    finally:
        gc.enable()
