"""Onnxruntime's sessions of a graph's profiles, each with its engine: from the cache, or built and kept there.

Each option of its provider was looked up twice: in its library of onnxruntime-gpu 1.24.4 and of 1.31.1, which hold the
same names, and in https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html. All of them are
in every version between these two. An option that a version does not know is an error there.

Two are left out on purpose. ``trt_dump_ep_context_model`` wraps an engine in an ONNX file, to be loaded without
looking at the model; it wants cache paths that are relative to that file, and the engine cache spares the build too.
``trt_engine_hw_compatible`` lets one engine run on all GPUs from sm_80 on, at a price in speed.

TensorRT has float32 products rounded to 10 bits (TF32) from sm_80 on, and no option of the provider says otherwise:
the environment variable NVIDIA_TF32_OVERRIDE=0 does, before the process starts. It is part of an engine's key.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crossrank._artifact.held import ModelFile
from crossrank._device.out_of_memory import is_out_of_memory
from crossrank._device.session import open_graph
from crossrank._errors import DeviceError
from crossrank._machine.advice import TensorrtFacts, read_tensorrt_facts
from crossrank._machine.device import Device
from crossrank._printable import printable

from .cache import (
    EngineKey,
    build_lock,
    cache_places,
    engine_key,
    find_engines,
    new_engine,
    remove_folder,
    writable_place,
)
from .profiles import Profile, Shape

logger = logging.getLogger(__name__)


class EngineStore:
    """Opens the sessions of a graph's profiles with engines from the cache, and builds what is not there.

    Args:
        graph: The ONNX file.
        device: A TensorRT device.
        artifact: The folder that keeps the engines.
        half: Whether the graph holds float16.
        facts: Of the machine, or None to read them.
        open_graph: Opens onnxruntime's session; called as the function of this name.

    Raises:
        DeviceError: If TensorRT cannot run here.
        ArtifactError: If onnxruntime cannot load the file.
    """

    def __init__(
        self,
        graph: Path | ModelFile,
        device: Device,
        artifact: Path,
        *,
        half: bool,
        facts: TensorrtFacts | None = None,
        open_graph: Callable[..., Any] = open_graph,
    ) -> None:
        self._file, self._device, self._half, self._open = ModelFile.of(graph), device, half, open_graph
        self._facts = facts or read_tensorrt_facts()
        self._facts.require(device.index)
        self._hash = self._file.hash()
        with self._file.opened() as place:
            self._inputs = input_names(place)
        self._places = cache_places(artifact)

    def __call__(self, profile: Profile, capture: bool) -> Any:
        """Onnxruntime's session of a profile. Building its engine takes from seconds to minutes.

        Raises:
            DeviceError: If onnxruntime or TensorRT fails.
            ArtifactError: If the graph was replaced since this store was made.
            InputError: If an engine must be built and no place to keep it can be written.
        """
        options = engine_options(profile, self._inputs, half=self._half)
        key = engine_key(self._facts, self._device.index, self._hash, options)
        refused: list[Path] = []
        session = self._open_kept(key, capture, refused)
        if session is not None:
            return session
        place = writable_place(self._places)
        with build_lock(place, key):
            session = self._open_kept(key, capture, refused)  # another process may have built it meanwhile
            if session is not None:
                return session
            logger.warning(
                "device %s: building a TensorRT engine for %s, which may take minutes", self._device, profile
            )
            return self._build(key, capture, place, refused)

    def _open_kept(self, key: EngineKey, capture: bool, refused: list[Path]) -> Any | None:
        """A session with an engine of the cache; ``refused`` grows by those that TensorRT does not take."""
        for found in find_engines(self._places, key):
            if found in refused:
                continue
            try:
                return self._session(key, capture, found, found.parent / key.timing_folder)
            except DeviceError as error:
                if is_out_of_memory(error):  # nothing is wrong with the engine
                    raise
                logger.warning(
                    "%s: TensorRT does not take its engine, which is built again: %s", printable(found), error
                )
                refused.append(found)
        return None

    def _build(self, key: EngineKey, capture: bool, place: Path, refused: list[Path]) -> Any:
        timing = place / key.timing_folder
        timing.mkdir(exist_ok=True)
        with new_engine(place, key) as (work, keep):
            try:
                session = self._session(key, capture, work, timing)
            except DeviceError:
                remove_folder(timing)  # a damaged one fails every build
                raise
            for folder in refused:  # now that there is a better one: it may have failed for want of memory alone
                remove_folder(folder)
            keep()
            return session

    def _session(self, key: EngineKey, capture: bool, engines: Path, timing: Path) -> Any:
        options = provider_options(
            key.options, index=self._device.index, engines=engines, timing=timing, capture=capture
        )
        with self._file.opened() as place:
            return self._open(place, self._device, packed=True, for_provider=options)


def input_names(graph: Path) -> list[str]:
    """The inputs of a graph, which onnxruntime knows once it has loaded it.

    Raises:
        ArtifactError: If onnxruntime cannot load the file.
    """
    return [node.name for node in open_graph(graph, Device("cpu")).get_inputs()]


def engine_options(profile: Profile, names: Sequence[str], *, half: bool) -> dict[str, str]:
    """The options that an engine depends on.

    Args:
        profile: The shapes that it takes.
        names: The graph's inputs. A profile must have all of them and no other, else the provider builds the engine
            anew, each time: https://github.com/microsoft/onnxruntime/pull/15546
        half: Whether the graph holds float16, which TensorRT takes only when told.
    """
    return {
        "trt_profile_min_shapes": _shapes(names, profile.least),
        "trt_profile_opt_shapes": _shapes(names, profile.best),
        "trt_profile_max_shapes": _shapes(names, profile.most),
        "trt_fp16_enable": str(int(half)),
        # Of layer norms that are written out in operators; the operator LayerNormalization sums in float32 anyway.
        "trt_layer_norm_fp32_fallback": str(int(half)),
    }


def provider_options(
    engine: Mapping[str, str], *, index: int, engines: Path, timing: Path, capture: bool
) -> dict[str, str]:
    """All options of the TensorRT provider for a session with one profile.

    Args:
        engine: Of `engine_options`.
        index: Of the GPU.
        engines: The folder that engines are read from and written to.
        timing: The folder of the timing cache.
        capture: Whether runs become a CUDA graph, which needs a fixed profile and inputs at one address.
    """
    return {
        **engine,
        "device_id": str(index),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(engines),
        # With a prefix of ours, a file's name does not depend on how many sessions the process opened before.
        "trt_engine_cache_prefix": "crossrank",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(timing),
        "trt_cuda_graph_enable": str(int(capture)),
    }


def _shapes(names: Sequence[str], shape: Shape) -> str:
    return ",".join(f"{name}:{shape.pairs}x{shape.length}" for name in names)
