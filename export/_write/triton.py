"""A model repository of Triton: the engine as a Python model, and the portable graph for those who tokenize outside."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from crossrank._artifact.manifest import MANIFEST_NAME, Manifest, graph_files, read_manifest
from crossrank._errors import InputError, MissingDependencyError
from crossrank._numbers import whole_number

_MODEL = '''"""Run by Triton's Python backend, whose interpreter needs crossrank and onnxruntime."""

from crossrank.triton import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''
_GRAPH_PRECISIONS = ("fp32", "fp16")  # of the portable graph, what is taken first


def write_triton(
    artifact: Path,
    repository: Path,
    name: str,
    *,
    gpu: bool = False,
    tensorrt: bool = False,
    instances: int = 1,
    threads: int | None = None,
) -> list[Path]:
    """Write an artifact's models into a repository, beside those of others.

    Args:
        artifact: Its folder, which is copied.
        repository: Triton's ``--model-repository``; made if it is absent.
        name: Of the model that takes texts; the graph's is this with ``-graph``.
        gpu: Instances on each GPU in place of the CPU.
        tensorrt: Have Triton's onnxruntime run the graph by TensorRT, on GPUs.
        instances: How many; each has its own session.
        threads: Of each instance on a CPU, None for all cores.

    Returns:
        The models' folders; the graph's only where the artifact has a portable one.

    Raises:
        InputError: If a model of that name is there already, the name is none, or a number is not from 1.
        MissingDependencyError: If tritonclient, which has Triton's configuration as protobuf, is absent.
    """
    manifest = read_manifest(artifact)
    files = {name: _of_engine}
    portable = {v.precision: v for v in manifest.variants if v.variant == "portable"}
    chosen = next((portable[precision] for precision in _GRAPH_PRECISIONS if precision in portable), None)
    if chosen is not None:
        files[f"{name}-graph"] = _of_graph
    check_triton(repository, name, graph=chosen is not None, instances=instances, threads=threads)
    repository.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Path] = {}
    written: list[Path] = []
    try:
        for model, write in files.items():
            part = parts[model] = Path(tempfile.mkdtemp(prefix=f".{model}.", dir=repository))
            version = part / "1"
            version.mkdir()
            config = write(artifact, manifest, chosen, version, threads)
            config.name = model
            if tensorrt and gpu and write is _of_graph:
                config.optimization.execution_accelerators.gpu_execution_accelerator.add().name = "tensorrt"
            group = config.instance_group.add()
            group.count, group.kind = instances, group.KIND_GPU if gpu else group.KIND_CPU
            (part / "config.pbtxt").write_text(_text_format().MessageToString(config), "utf-8")
            part.chmod(0o755)  # Triton may be another user
        for model, part in parts.items():  # now that all are made
            part.rename(repository / model)
            written.append(repository / model)
    except BaseException:
        for folder in (*parts.values(), *written):
            shutil.rmtree(folder, ignore_errors=True)  # those that were renamed are no more where they were made
        raise
    return written


def check_triton(repository: Path, name: str, *, graph: bool, instances: int = 1, threads: int | None = None) -> None:
    """Refuse what `write_triton` would, before there is an artifact.

    Args:
        repository: As there.
        name: As there.
        graph: Whether the artifact is to have a portable graph.
        instances: As there.
        threads: As there.

    Raises:
        InputError: As there.
        MissingDependencyError: As there.
    """
    if not name or name != Path(name).name or name.startswith("."):
        raise InputError(f"{name!r:.100}: a model's name in Triton is that of a folder")
    whole_number("instances", instances, 1, "an integer from 1 is needed")
    if threads is not None:
        whole_number("threads", threads, 1, "an integer from 1, or None for all cores, is needed")
    _protobuf()
    for model in [name, f"{name}-graph"][: 1 + graph]:
        if (repository / model).exists():
            raise InputError(f"{repository / model} is there already: remove it, or write to another folder")


def _of_engine(artifact: Path, manifest: Manifest, chosen: Any, version: Path, threads: int | None) -> Any:
    for file in (MANIFEST_NAME, *manifest.files):
        _copy(artifact / file, version / "artifact" / file)
    (version / "model.py").write_text(_MODEL, "utf-8")
    protobuf = _protobuf()
    config = protobuf.ModelConfig(backend="python", max_batch_size=0)  # no dynamic_batching: batches are ours
    _add(config.input, "query", protobuf.TYPE_STRING, [1])
    _add(config.input, "documents", protobuf.TYPE_STRING, [-1])
    _add(config.output, "scores", protobuf.TYPE_FP32, [-1])
    _add(config.output, "ranks", protobuf.TYPE_INT32, [-1])
    if threads is not None:
        config.parameters["threads"].string_value = str(threads)
    return config


def _of_graph(artifact: Path, manifest: Manifest, chosen: Any, version: Path, threads: int | None) -> Any:
    import onnx

    for file in graph_files(manifest, chosen):
        # its weights, where they lie beside it, keep the name that it gives them
        _copy(artifact / file, version / ("model.onnx" if file == chosen.file else Path(file).name))
    _copy(artifact / "tokenizer.json", version / "tokenizer.json")
    graph = onnx.load(artifact / chosen.file, load_external_data=False).graph
    protobuf = _protobuf()
    config = protobuf.ModelConfig(platform="onnxruntime_onnx", max_batch_size=0)
    kinds = {
        onnx.TensorProto.INT64: protobuf.TYPE_INT64,
        onnx.TensorProto.INT32: protobuf.TYPE_INT32,
        onnx.TensorProto.FLOAT: protobuf.TYPE_FP32,
        onnx.TensorProto.FLOAT16: protobuf.TYPE_FP16,
    }
    for values, places in ((graph.input, config.input), (graph.output, config.output)):
        for value in values:
            kind = value.type.tensor_type
            dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
            _add(places, value.name, kinds[kind.elem_type], dims)
    return config


def _add(places: Any, name: str, kind: int, dims: list[int]) -> None:
    place = places.add()
    place.name, place.data_type = name, kind
    place.dims.extend(dims)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(os.path.realpath(source), target)


def _protobuf() -> Any:
    """Triton's own description of its configuration."""
    try:
        from tritonclient.grpc import model_config_pb2
    except ImportError as error:
        raise MissingDependencyError(
            f"a repository of Triton needs {error.name}: pip install 'crossrank[export,triton]'"
        ) from error
    return model_config_pb2


def _text_format() -> Any:
    from google.protobuf import text_format

    return text_format
