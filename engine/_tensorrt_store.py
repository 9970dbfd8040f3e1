"""Onnxruntime's sessions of a graph's profiles, each with its engine: from the cache, or built and kept there."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._errors import ArtifactError, DeviceError
from ._runtime import ort
from ._session import Device, open_graph
from ._tensorrt_cache import (
    cache_places,
    engine_key,
    find_engine,
    hash_graph,
    new_engine,
    remove_engine,
    writable_place,
)
from ._tensorrt_facts import TensorrtFacts, read_tensorrt_facts
from ._tensorrt_options import engine_options, provider_options
from ._tensorrt_plan import Profile

logger = logging.getLogger(__name__)


class EngineStore:
    """Opens the sessions of a graph's profiles with engines from the cache, and builds what is not there.

    Args:
        path: The ONNX file.
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
        path: Path,
        device: Device,
        artifact: Path,
        *,
        half: bool,
        facts: TensorrtFacts | None = None,
        open_graph: Callable[..., Any] = open_graph,
    ) -> None:
        self._path, self._device, self._half, self._open = path, device, half, open_graph
        self._facts = facts or read_tensorrt_facts()
        self._facts.require(device.index)
        self._names = read_input_names(path)
        self._places = cache_places(artifact)
        self._graph = hash_graph(path)

    def __call__(self, profile: Profile, capture: bool) -> Any:
        """Onnxruntime's session of a profile. Building its engine takes from seconds to minutes.

        Raises:
            DeviceError: If onnxruntime or TensorRT fails.
            InputError: If an engine must be built and no place to keep it can be written.
        """
        key = engine_key(self._facts, self._device.index, self._graph, engine_options(self._options(profile)))
        found = find_engine(self._places, key)
        if found is not None:
            try:
                return self._session(profile, capture, found, found.parent / key.timing_folder)
            except DeviceError as error:
                logger.warning("%s: TensorRT does not take its engine, which is built again: %s", found, error)
                remove_engine(found)
        place = writable_place(self._places)
        timing = place / key.timing_folder
        timing.mkdir(exist_ok=True)
        logger.warning("device %s: building a TensorRT engine for %s, which may take minutes", self._device, profile)
        with new_engine(place, key) as (work, keep):
            session = self._session(profile, capture, work, timing)
            keep()
            return session

    def _session(self, profile: Profile, capture: bool, engines: Path, timing: Path) -> Any:
        options = self._options(profile, engines, timing, capture)
        return self._open(self._path, self._device, packed=True, for_provider=options)

    def _options(
        self, profile: Profile, engines: Path = Path(), timing: Path = Path(), capture: bool = False
    ) -> dict[str, str]:
        return provider_options(
            self._device.index,
            profile,
            self._names,
            half=self._half,
            engines=engines,
            timing=timing,
            capture=capture,
        )


def read_input_names(path: Path) -> list[str]:
    """The inputs that a graph declares, without preparing it to run.

    Raises:
        ArtifactError: If onnxruntime cannot load the file.
    """
    device, options = Device("cpu"), ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(path, sess_options=options, providers=[device.provider])
    except Exception as error:  # the binding's exceptions share no base of their own
        raise ArtifactError(f"{path}: onnxruntime {ort.__version__} cannot load it on {device}: {error}") from error
    return [node.name for node in session.get_inputs()]
