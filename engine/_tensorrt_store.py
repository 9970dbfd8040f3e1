"""Onnxruntime's sessions of a graph's profiles, each with its engine: from the cache, or built and kept there."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._errors import ArtifactError, DeviceError
from ._held import ModelFile
from ._out_of_memory import is_out_of_memory
from ._printable import printable
from ._session import Device, open_graph
from ._tensorrt_cache import (
    EngineKey,
    build_lock,
    cache_places,
    engine_key,
    find_engines,
    new_engine,
    remove_folder,
    writable_place,
)
from ._tensorrt_facts import TensorrtFacts, read_tensorrt_facts
from ._tensorrt_graph import read_graph_files
from ._tensorrt_options import engine_options, provider_options
from ._tensorrt_plan import Profile

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
        ArtifactError: If the file is no ONNX file.
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
        with self._file.opened() as place:
            files = read_graph_files(place)
            self._inputs, self._hash = files.inputs, files.hash()
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
            session = self._open(place, self._device, packed=True, for_provider=options)
            if read_graph_files(place).hash() != key.graph:  # its engines would mix two models, under the key of one
                raise ArtifactError(f"{place} was replaced since the model was loaded; load the model again")
        return session
