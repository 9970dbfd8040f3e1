"""The models that are measured on a GPU, and the graphs of each; weights are drawn where none are at hand."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.inputs.models import CHECKPOINTS, SHAPES, drawn_folder
from benchmarks.inputs.random_checkpoint import write_random_checkpoint
from crossrank._machine.cpu import resolve_threads
from crossrank._machine.device import Device
from crossrank.export._architectures.checkpoint import Checkpoint, read_checkpoint
from crossrank.export._graphs.graph import Model, save_model
from crossrank.export._graphs.layouts.cuda import build_cuda
from crossrank.export._graphs.layouts.portable import build_portable
from crossrank.models import RegisteredModel, find_model

from .fused import build_fused

Size = Literal["small", "base", "large"]
GraphKind = Literal["packed", "padded", "fused"]


@dataclass(frozen=True, slots=True)
class Shape:
    """A published model: its name in tables, the registry's id, and how large it is."""

    name: str
    id: str
    size: Size


# By what is wanted first where time is short: two that stand for many, the others by size, and last those that compute
# what another one does, but for labels and vocabulary.
MODELS: dict[str, Shape] = {
    "minilm-l6": Shape("MiniLM-L6", "cross-encoder/ms-marco-MiniLM-L6-v2", "small"),
    "bert-base": Shape(*SHAPES["bert-base"], "base"),
    "tinybert-l2": Shape(*SHAPES["tinybert-l2"], "small"),
    "tinybert-l4": Shape(*SHAPES["tinybert-l4"], "small"),
    "minilm-l12": Shape("MiniLM-L12", "cross-encoder/ms-marco-MiniLM-L12-v2", "small"),
    "tinybert-l6": Shape(*SHAPES["tinybert-l6"], "base"),
    "electra-base": Shape(*SHAPES["electra-base"], "base"),
    "bert-large": Shape(*SHAPES["bert-large"], "large"),
    "bert-multilingual": Shape(*SHAPES["bert-multilingual"], "base"),
    "pt-tinybert": Shape(*SHAPES["pt-tinybert"], "small"),
    "capreolus-electra-base": Shape(*SHAPES["capreolus-electra-base"], "base"),
}
REPEATED = ("bert-multilingual", "pt-tinybert", "capreolus-electra-base")
QUALITY_MODEL = "minilm-l12"  # whose published weights the test data has
_REHEARSED_HEADS, _REHEARSED_HEAD_SIZE = 2, 16


@dataclass(frozen=True, slots=True)
class Place:
    """Where things run and lie: drawn checkpoints in ``bench``, trained ones and judged queries in the test data.

    A rehearsal runs tiny models on the CPU, by the same code but for the packed graph's attention. ``graphs`` says
    whether CUDA graphs are captured.
    """

    rehearse: bool
    bench: Path
    test_data: Path
    graphs: bool = True

    @property
    def device(self) -> Device:
        """Where graphs run."""
        return Device("cpu" if self.rehearse else "cuda")

    @property
    def threads(self) -> int:
        """Of what runs on the CPU."""
        return resolve_threads(None).count


@dataclass(frozen=True, slots=True)
class GpuModel:
    """A checkpoint that was read: its key and shape in `MODELS`, what it holds, whether its weights are published."""

    key: str
    shape: Shape
    checkpoint: Checkpoint
    trained: bool
    place: Place

    @property
    def folder(self) -> Path:
        """The checkpoint's."""
        return self.checkpoint.source.folder

    @property
    def dtype(self) -> type[np.float32 | np.float16]:
        """Of graphs; a CPU has no arithmetic in float16."""
        return np.float32 if self.place.rehearse else np.float16


def trained_checkpoint(key: str, test_data: Path) -> Path | None:
    """The published weights of a model, where the test data has them."""
    folder = test_data / CHECKPOINTS[key][1] if key in CHECKPOINTS else None
    return folder if folder and (folder / "model.safetensors").is_file() else None


def open_gpu_model(key: str, place: Place) -> GpuModel:
    """Read the checkpoint of one of `MODELS`; it is drawn first if there is none."""
    shape = MODELS[key]
    folder = None if place.rehearse else trained_checkpoint(key, place.test_data)
    trained = folder is not None
    if folder is None:
        registered = find_model(shape.id)
        assert registered is not None, "MODELS names registered models"
        kept = place.bench / ("gpu-rehearsal" if place.rehearse else "models") / key
        folder = drawn_folder(registered, kept, place.test_data)
        if not folder.exists():
            write_random_checkpoint(folder, rehearsed(registered) if place.rehearse else registered, place.test_data)
    return GpuModel(key, shape, read_checkpoint(folder), trained, place)


def rehearsed(model: RegisteredModel) -> RegisteredModel:
    """A shape's small double: its architecture, labels and vocabulary, and heads that need padding where its own do."""
    size = _REHEARSED_HEAD_SIZE + (model.hidden // model.heads) % 8
    return replace(model, layers=2, heads=_REHEARSED_HEADS, hidden=_REHEARSED_HEADS * size, intermediate=64)


def write_graph(model: GpuModel, kind: GraphKind, folder: Path) -> Path:
    """Build a graph of a model in a folder; returns the file.

    "packed" is crossrank's own for a GPU, in a rehearsal its CPU-runnable twin; "padded" crossrank's for any runtime;
    "fused" the usual one, see `build_fused`.
    """
    weights, config = model.checkpoint.weights, model.checkpoint.config
    types, dtype, twin = model.checkpoint.inputs.token_types, model.dtype, model.place.rehearse
    build: dict[GraphKind, Callable[[], Model]] = {
        "packed": lambda: build_cuda(weights, config, token_types=types, dtype=dtype, twin=twin),
        "padded": lambda: build_portable(weights, config, token_types=types, dtype=dtype),
        "fused": lambda: build_fused(weights, config, dtype=dtype),
    }
    path = folder / f"{kind}.onnx"
    save_model(build[kind](), path)
    return path
