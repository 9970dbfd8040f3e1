"""The models that are measured on a GPU, and the graphs of each; weights are drawn where none are at hand."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.inputs.models import BenchmarkModel, find_registered, open_model
from benchmarks.inputs.random_checkpoint import write_random_checkpoint
from crossrank._machine.cpu import resolve_threads
from crossrank._machine.device import Device
from crossrank.export._architectures.checkpoint import Checkpoint, read_checkpoint
from crossrank.export._graphs.graph import save_model
from crossrank.export._graphs.layouts.cuda import build_cuda
from crossrank.models import RegisteredModel

from .fused import build_fused

Size = Literal["small", "base", "large"]

# By what is wanted first where time is short: those of the goals, the others, and last those that compute what another
# one does, but for labels and vocabulary.
GOAL_MODELS = ("minilm-l6", "tinybert-l2", "bert-base", "minilm-l12", "bert-large", "electra-base")
GPU_MODELS = (
    *GOAL_MODELS,
    *("tinybert-l4", "tinybert-l6", "bert-multilingual", "pt-tinybert", "capreolus-electra-base"),
)
_DRAWN_AT_ONCE = 8
_REHEARSED_HEADS, _REHEARSED_HEAD_SIZE = 2, 16


@dataclass(frozen=True, slots=True)
class Place:
    """Where things run and lie: drawn checkpoints in ``bench``, trained ones and judged queries in the test data.

    A rehearsal runs tiny models on the CPU, by the same code but for the packed graph's attention.
    """

    rehearse: bool
    bench: Path
    test_data: Path

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
    """One of `GPU_MODELS`, read."""

    model: BenchmarkModel
    checkpoint: Checkpoint
    place: Place

    @property
    def dtype(self) -> type[np.float32 | np.float16]:
        """Of graphs; a CPU has no arithmetic in float16."""
        return np.float32 if self.place.rehearse else np.float16


def size_of(key: str) -> Size:
    """How large one of `GPU_MODELS` is."""
    hidden = find_registered(key).hidden
    return "small" if hidden < 768 else "base" if hidden < 1024 else "large"


def open_gpu_model(key: str, place: Place) -> GpuModel:
    """Read the checkpoint of one of `GPU_MODELS`; it is drawn first if there is none."""
    model = _open(key, place)
    return GpuModel(model, read_checkpoint(model.folder), place)


def _open(key: str, place: Place) -> BenchmarkModel:
    def write(folder: Path, shape: RegisteredModel, test_data: Path) -> None:
        write_random_checkpoint(folder, rehearsed(shape) if place.rehearse else shape, test_data)

    bench = place.bench / "gpu-rehearsal" if place.rehearse else place.bench
    return open_model(key, bench=bench, test_data=place.test_data, write=write, drawn=place.rehearse)


def draw_models(keys: Sequence[str], place: Place) -> dict[str, float]:
    """Have the checkpoints of several models made side by side, the largest first; returns the seconds of each."""
    largest_first = sorted(keys, key=lambda key: -(find_registered(key).layers * find_registered(key).hidden ** 2))
    workers = max(1, min(_DRAWN_AT_ONCE, (os.cpu_count() or 1) // 2))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return dict(zip(largest_first, pool.map(partial(_draw, place=place), largest_first), strict=True))


def _draw(key: str, place: Place) -> float:
    start = time.perf_counter()
    _open(key, place)
    return round(time.perf_counter() - start, 1)


def rehearsed(model: RegisteredModel) -> RegisteredModel:
    """A shape's small double: its architecture, labels and vocabulary, and heads that need padding where its own do."""
    size = _REHEARSED_HEAD_SIZE + (model.hidden // model.heads) % 8
    return replace(model, layers=2, heads=_REHEARSED_HEADS, hidden=_REHEARSED_HEADS * size, intermediate=64)


def write_graph(model: GpuModel, kind: Literal["packed", "fused"], folder: Path) -> Path:
    """Build a graph of a model in a folder; returns the file.

    "packed" is crossrank's own for a GPU, in a rehearsal its CPU-runnable twin; "fused" the usual one, see
    `build_fused`.
    """
    weights, config = model.checkpoint.weights, model.checkpoint.config
    types, dtype, twin = model.checkpoint.inputs.token_types, model.dtype, model.place.rehearse
    if kind == "packed":
        graph = build_cuda(weights, config, token_types=types, dtype=dtype, twin=twin)
    else:
        graph = build_fused(weights, config, dtype=dtype)
    path = folder / f"{kind}.onnx"
    save_model(graph, path)
    return path
