"""Triton's model repository: its configuration by Triton's protobuf, its model by the documented API, the server."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from crossrank import CrossEncoder, InputError
from crossrank.export import export_model
from crossrank.export._cli import main
from crossrank.export._write.triton import write_triton
from crossrank.triton import TritonPythonModel
from tests.support.artifacts import edit_manifest
from tests.support.tiny_models import make_checkpoint

# A folder with nvidia-pytriton and a numpy before 2, without what else it depends on; make test-scale makes one.
SERVER = os.environ.get("CROSSRANK_TEST_TRITON", "")

QUERY = "Why is the sky red in the evening?"
DOCUMENTS = ["Sunlight travels a longer way through the air.", "Bread dough rises.", "日の出 é"]
ATOL = 1e-5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("triton") / "tiny-ranker", "bert")


@pytest.fixture(scope="module")
def artifact(checkpoint: Path) -> Path:
    return export_model(checkpoint, checkpoint.with_name("artifact"), variants=["cpu", "portable"], precisions=["fp32"])


@pytest.fixture(scope="module")
def repository(artifact: Path) -> Path:
    pytest.importorskip("tritonclient.grpc", reason="crossrank[triton] is not installed; make test-scale")
    folder = artifact.with_name("repository")
    written = write_triton(artifact, folder, "tiny", instances=2, threads=1)
    assert [path.name for path in written] == ["tiny", "tiny-graph"]
    return folder


def config_of(model: Path) -> Any:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse((model / "config.pbtxt").read_text("utf-8"), model_config_pb2.ModelConfig())


def test_the_configuration_is_what_tritons_protobuf_reads(repository: Path) -> None:
    config = config_of(repository / "tiny")
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", "python", 0)
    assert not config.HasField("dynamic_batching")
    assert [(group.count, group.kind) for group in config.instance_group] == [(2, 2)]  # KIND_CPU
    assert [(value.name, value.data_type, list(value.dims)) for value in config.input] == [
        ("query", 13, [1]),  # TYPE_STRING
        ("documents", 13, [-1]),
    ]
    assert [(value.name, list(value.dims)) for value in config.output] == [("scores", [-1]), ("ranks", [-1])]
    assert config.parameters["threads"].string_value == "1"


def test_the_graph_runs_by_its_configuration_for_those_who_tokenize_outside(repository: Path, artifact: Path) -> None:
    from tokenizers import Tokenizer

    config, version = config_of(repository / "tiny-graph"), repository / "tiny-graph" / "1"
    assert config.platform == "onnxruntime_onnx"
    session = onnxruntime.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
    assert [value.name for value in config.input] == [value.name for value in session.get_inputs()]
    assert [value.name for value in config.output] == [value.name for value in session.get_outputs()]
    assert {tuple(value.dims) for value in config.input} == {(-1, -1)}
    assert [list(value.dims) for value in config.output] == [[-1, 1]]
    encoded = Tokenizer.from_file(str(version / "tokenizer.json")).encode(QUERY, DOCUMENTS[0])
    feeds = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask, "token_type_ids": encoded.type_ids}
    wanted = {value.name: np.array([feeds[value.name]], np.int64) for value in session.get_inputs()}
    (logits,) = session.run(None, wanted)
    score = CrossEncoder(artifact, activation_fn="identity", threads=1).score(QUERY, DOCUMENTS[:1])
    assert logits[0, 0] == pytest.approx(score[0], abs=ATOL)


@dataclass
class Tensor:
    """As Triton's, of which a name and an array are documented."""

    name: str
    array: Any

    def as_numpy(self) -> Any:
        return self.array


@dataclass
class Response:
    output_tensors: list[Tensor]
    error: Any = None


@dataclass
class Request:
    inputs: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def model(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TritonPythonModel]:
    from google.protobuf import json_format

    backend: Any = types.ModuleType("triton_python_backend_utils")
    backend.Tensor, backend.InferenceResponse, backend.TritonError = Tensor, Response, str
    backend.get_input_tensor_by_name = lambda request, name: Tensor(name, request.inputs[name])
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    model = TritonPythonModel()
    config = json_format.MessageToDict(config_of(repository / "tiny"), preserving_proto_field_name=True)
    model.initialize(
        {
            "model_config": json.dumps(config),
            "model_repository": str(repository / "tiny"),
            "model_version": "1",
            "model_name": "tiny",
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }
    )
    yield model
    model.finalize()


def test_a_request_gets_scores_and_ranks_and_a_bad_one_its_own_error(model: TritonPythonModel, artifact: Path) -> None:
    def request(query: list[bytes], documents: list[bytes]) -> Request:
        return Request({"query": np.array(query, object), "documents": np.array(documents, object)})

    documents = [text.encode() for text in DOCUMENTS]
    answers = model.execute(
        [
            request([QUERY.encode()], documents),
            request([b"\xff"], documents),
            request([b"one", b"two"], documents),
            request([QUERY.encode()], []),
        ]
    )
    scores, ranks = (tensor.array for tensor in answers[0].output_tensors)
    expected = CrossEncoder(artifact, threads=1)
    assert (scores.dtype, ranks.dtype) == (np.float32, np.int32)
    assert scores == pytest.approx(expected.score(QUERY, DOCUMENTS), abs=ATOL)
    assert [ranks[entry["corpus_id"]] for entry in expected.rank(QUERY, DOCUMENTS)] == [1, 2, 3]
    assert answers[1].error.startswith("query: no UTF-8")
    assert answers[2].error.startswith("2 queries")
    assert [tensor.array.shape for tensor in answers[3].output_tensors] == [(0,), (0,)]


def test_the_command_writes_the_repository_beside_the_artifact(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tritonclient.grpc", reason="crossrank[triton] is not installed; make test-scale")
    command = [str(checkpoint), "-o", str(tmp_path / "artifact"), "--precision", "fp32", "--variants", "cpu"]
    command += ["--triton", str(tmp_path / "repository"), "--triton-gpu"]
    assert main(command) == 0
    assert f"triton: {tmp_path / 'repository' / checkpoint.name}\n" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "repository").iterdir()] == [checkpoint.name]  # no portable graph
    assert config_of(tmp_path / "repository" / checkpoint.name).instance_group[0].kind == 1  # KIND_GPU
    assert main(command) == 1
    assert "is there already" in capsys.readouterr().err


def test_what_the_repository_cannot_take_is_refused_before_the_export(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tritonclient.grpc", reason="crossrank[triton] is not installed; make test-scale")
    command = [str(checkpoint), "-o", str(tmp_path / "artifact"), "--precision", "fp32"]
    (tmp_path / "repository" / "tiny-graph").mkdir(parents=True)
    into = [*command, "--triton", str(tmp_path / "repository")]
    assert main([*into, "--triton-name", "a/b"]) == 1
    assert "a model's name in Triton" in capsys.readouterr().err
    assert main([*into, "--triton-name", "tiny"]) == 1
    assert "tiny-graph is there already" in capsys.readouterr().err
    for wrong, message in (
        ([*into, "--triton-instances", "0"], "--triton-instances: '0': an integer from 1 is needed"),
        ([*into, "--triton-threads", "-1"], "--triton-threads: '-1': an integer from 1 is needed"),
        ([*command, "--triton-gpu"], "--triton-gpu needs --triton"),
        ([*command, "--triton-threads", "2"], "--triton-threads needs --triton"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    assert main([*into, "--triton-name", "other"]) == 1
    assert "crossrank[export,triton]" in capsys.readouterr().err
    assert not (tmp_path / "artifact").exists()


def test_where_the_graphs_model_cannot_be_made_there_is_no_other(artifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("tritonclient.grpc", reason="crossrank[triton] is not installed; make test-scale")
    from google.protobuf.message import DecodeError

    damaged = shutil.copytree(artifact, tmp_path / "artifact")
    graph = damaged / "onnx" / "model.onnx"
    graph.write_bytes(b"\xff" * graph.stat().st_size)
    with pytest.raises(DecodeError):
        write_triton(damaged, tmp_path / "repository", "tiny")
    assert not list((tmp_path / "repository").iterdir())


def test_weights_beside_the_graph_keep_the_name_that_it_gives_them(artifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("tritonclient.grpc", reason="crossrank[triton] is not installed; make test-scale")
    import onnx

    folder = shutil.copytree(artifact, tmp_path / "artifact")
    place = folder / "onnx" / "other.onnx"
    graph = onnx.load(folder / "onnx" / "model.onnx")
    onnx.save(graph, place, save_as_external_data=True, location="other.onnx_data", size_threshold=1024)

    def rename(manifest: dict[str, Any]) -> None:
        (variant,) = (variant for variant in manifest["variants"] if variant["file"] == "onnx/model.onnx")
        variant["file"] = "onnx/other.onnx"
        record = manifest["files"].pop("onnx/model.onnx")
        for name in ("onnx/other.onnx", "onnx/other.onnx_data"):
            manifest["files"][name] = record | {"size_bytes": (folder / name).stat().st_size}

    edit_manifest(folder, rename)
    _, model = write_triton(folder, tmp_path / "repository", "tiny")
    onnxruntime.InferenceSession(model / "1" / "model.onnx", providers=["CPUExecutionProvider"])


def test_numbers_are_from_one(artifact: Path, tmp_path: Path) -> None:
    for name in ("instances", "threads"):
        options: dict[str, Any] = {name: 0}
        with pytest.raises(InputError, match=f"{name}=0: an integer from 1"):
            write_triton(artifact, tmp_path / "repository", "tiny", **options)
    assert not (tmp_path / "repository").exists()


def test_on_gpus_the_graph_may_run_by_tensorrt(artifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("tritonclient.grpc", reason="crossrank[triton] is not installed; make test-scale")
    engine, graph = (config_of(model) for model in write_triton(artifact, tmp_path, "tiny", gpu=True, tensorrt=True))
    assert [group.kind for group in (engine.instance_group[0], graph.instance_group[0])] == [1, 1]  # KIND_GPU
    accelerators = graph.optimization.execution_accelerators.gpu_execution_accelerator
    assert [accelerator.name for accelerator in accelerators] == ["tensorrt"]
    assert not engine.HasField("optimization")


def test_a_name_that_is_no_folder_of_the_repository_is_refused(artifact: Path, tmp_path: Path) -> None:
    for name in ("", "..", "a/b", ".hidden"):
        with pytest.raises(InputError, match="a model's name in Triton"):
            write_triton(artifact, tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_without_the_extra_the_error_names_it(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    with pytest.raises(ImportError, match=r"crossrank\[export,triton\]"):
        write_triton(artifact, tmp_path / "repository", "tiny")
    assert not (tmp_path / "repository").exists()


@pytest.mark.slow
@pytest.mark.skipif(not SERVER, reason="CROSSRANK_TEST_TRITON names no folder with nvidia-pytriton's server")
def test_tritons_own_server_answers_with_the_models_scores(repository: Path, artifact: Path, tmp_path: Path) -> None:
    server = Path(SERVER, "pytriton", "tritonserver")
    stub = server / "python_backend_stubs" / f"3.{sys.version_info[1]}" / "triton_python_backend_stub"
    backend = tmp_path / "backends" / "python"
    backend.mkdir(parents=True)
    for file in (server / "backends" / "python").iterdir():
        (backend / file.name).symlink_to(file)
    (backend / stub.name).unlink(missing_ok=True)
    (backend / stub.name).symlink_to(stub)
    models = tmp_path / "models"
    shutil.copytree(repository / "tiny", models / "tiny")
    # That interpreter is the system's, and takes no PYTHONPATH: there an installed crossrank would lie.
    file = models / "tiny" / "1" / "model.py"
    paths = [SERVER, *filter(None, sys.path)]  # its stub wants the older numpy that lies there
    file.write_text(f"import sys\n\nsys.path[:0] = {paths!r}\n{file.read_text('utf-8')}", "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    binary = server / "bin" / "tritonserver"
    environment = os.environ | {
        "LD_LIBRARY_PATH": os.pathsep.join([str(Path(SERVER, "nvidia_pytriton.libs")), sys.base_prefix + "/lib"]),
        "PYTHONHOME": sys.base_prefix,
    }
    log = (tmp_path / "log").open("wb")
    command = [str(binary), f"--model-repository={models}", f"--backend-directory={backend.parent}", "--allow-grpc=0"]
    command += [
        f"--http-port={port}",
        "--http-address=127.0.0.1",
        "--allow-metrics=0",
        "--disable-auto-complete-config",
    ]
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        until = time.monotonic() + 90
        while True:
            assert process.poll() is None, (tmp_path / "log").read_text()[-4_000:]
            assert time.monotonic() < until, (tmp_path / "log").read_text()[-4_000:]
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/tiny/ready", timeout=5):
                    break
            except OSError:
                time.sleep(0.3)
        body = {
            "inputs": [
                {"name": "query", "shape": [1], "datatype": "BYTES", "data": [QUERY]},
                {"name": "documents", "shape": [3], "datatype": "BYTES", "data": DOCUMENTS},
            ]
        }
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v2/models/tiny/infer", json.dumps(body).encode())
        try:
            answer = json.load(urllib.request.urlopen(request, timeout=60))
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read()) from error
        outputs = {entry["name"]: entry["data"] for entry in answer["outputs"]}
    finally:
        process.terminate()
        process.wait(60)
        log.close()
    expected = CrossEncoder(artifact, threads=1)
    assert outputs["scores"] == pytest.approx(expected.score(QUERY, DOCUMENTS).tolist(), abs=ATOL)
    assert [outputs["ranks"][entry["corpus_id"]] for entry in expected.rank(QUERY, DOCUMENTS)] == [1, 2, 3]
