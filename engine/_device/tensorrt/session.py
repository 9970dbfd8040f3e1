"""A portable graph on TensorRT: an engine for each profile, built once, kept beside the graph, opened when needed.

``open_engine`` is how onnxruntime's session of a profile comes about. With one that opens the graph on the CPU,
everything but building and capturing runs without a GPU: a rehearsal.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossrank._artifact.held import ModelFile
from crossrank._artifact.manifest import Inputs
from crossrank._device.capture import capture_lock
from crossrank._device.inputs import Feed
from crossrank._device.session import Session, check_process, run_error
from crossrank._errors import ArtifactError, CrossrankError, DeviceError
from crossrank._interrupts import raised_by
from crossrank._machine.device import Device
from crossrank._machine.guard import Guard
from crossrank._machine.onnxruntime import ort
from crossrank._text.pairs import PackedPairs

from .engines import EngineStore
from .profiles import Profile, Shape, TensorrtSettings, bring_to, choose_profile, make_profiles, plan_tensorrt_batches

logger = logging.getLogger(__name__)

# Opens the session of a profile: whether its runs are to be captured as a CUDA graph comes second.
OpenEngine = Callable[[Profile, bool], Any]

# The first run of a session that captures is a plain one, the second captures, the third replays.
_RUNS_TO_CAPTURE = 3
_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


class TensorrtSession(Session):
    """A portable graph on TensorRT. Threads may share it, one runs at a time; a forked child may not use it.

    Args:
        graph: The ONNX file.
        inputs: The manifest's facts about the graph's inputs.
        device: Where to run.
        artifact: The folder that keeps the engines.
        half: Whether the graph holds float16.
        settings: Which profiles there are.
        open_engine: Opens the session of a profile; by default an `EngineStore`.

    Raises:
        DeviceError: If TensorRT cannot run here.
        ArtifactError: If onnxruntime cannot load the file, or its inputs or outputs are none that can be used.
        InputError: If an engine must be built and no place to keep it can be written.
    """

    def __init__(
        self,
        graph: Path | ModelFile,
        inputs: Inputs,
        device: Device,
        *,
        artifact: Path,
        half: bool = False,
        settings: TensorrtSettings | None = None,
        open_engine: OpenEngine | None = None,
    ) -> None:
        self.file = ModelFile.of(graph)
        self.path, self.device = self.file.path, device
        self.settings = settings or TensorrtSettings()
        self.profiles = make_profiles(inputs.max_length, self.settings)
        self._pad_id, self._process, self._guard = inputs.pad_id, os.getpid(), Guard()
        self._open_engine = open_engine or EngineStore(self.file, device, artifact, half=half)
        self._engines: dict[Profile, _Engine] = {}
        # One that takes a batch of any size; so that what is wrong shows now.
        first = next(profile for profile in self.profiles if not profile.fixed)
        session = self._open_engine(first, False)
        self._describe(session, inputs)
        self.max_tokens = self.settings.max_tokens
        if self.even:
            raise ArtifactError(
                f"{self.path} has no attention_mask, which TensorRT's padded shapes need: use device='cuda', or "
                "export it with one"
            )
        self._engines[first] = _Engine(session, self.path, device, self._logits)

    def plan(self, lengths: NDArray[np.int32], max_pairs: int | None) -> list[NDArray[np.intp]]:
        """Batches of pairs, as `plan_tensorrt_batches` makes them."""
        return plan_tensorrt_batches(lengths, self.settings, max_pairs)

    def _run(self, batch: PackedPairs) -> NDArray[np.float32]:
        check_process(self.device, self._process)
        pairs = len(batch.lengths)
        profile, shape = choose_profile(Shape(pairs, int(batch.lengths.max())), self.profiles)
        feed = bring_to(self._layout(batch), shape, self._pad_id)
        logits = self._guard.hold(lambda: self._run_on(profile, feed))
        return (logits if logits.ndim == 2 else self._rows(logits, shape.pairs))[:pairs]

    def warm_up(self, *, each: Callable[[Profile, Callable[[], None]], None] | None = None) -> None:
        """Build or load the engine of each profile, and run each at its largest shape.

        Args:
            each: Called with each profile and what readies it, in place of that; to show progress.

        Raises:
            DeviceError: If TensorRT fails, as for want of memory.
            InputError: If an engine must be built and no place to keep it can be written.
        """
        for profile in self.profiles:

            def ready(profile: Profile = profile) -> None:
                feed = self._layout(_sample(profile.most))
                self._guard.hold(lambda: self._run_on(profile, feed))

            if each is None:
                ready()
            else:
                each(profile, ready)

    def _run_on(self, profile: Profile, feed: Feed) -> NDArray[Any]:
        engine = self._engine(profile)
        return capture_lock().run(lambda: engine.run(feed))

    def _engine(self, profile: Profile) -> "_Engine":
        if profile not in self._engines:
            self._engines[profile] = self._captured(profile) if profile.fixed else self._plain(profile)
        return self._engines[profile]

    def _plain(self, profile: Profile) -> "_Engine":
        return _Engine(self._open_engine(profile, False), self.path, self.device, self._logits)

    def _captured(self, profile: Profile) -> "_Engine":
        try:
            return capture_lock().capture(lambda: self._capture(profile))
        except Exception as error:
            if not isinstance(error, CrossrankError) and not raised_by("onnxruntime", error):
                raise
            # TensorRT's own failures would come again without a graph, and are raised then.
            logger.warning("device %s: no CUDA graphs, small batches take longer: %s", self.device, str(error))
        # Behind the handler: the error keeps the first session, and the device may not hold two.
        return self._plain(profile)

    def _capture(self, profile: Profile) -> "_Engine":
        feed = self._layout(_sample(profile.most))
        engine = _Engine(self._open_engine(profile, True), self.path, self.device, self._logits)
        engine.bind(feed, self.labels)
        for _ in range(_RUNS_TO_CAPTURE):
            engine.run(feed)
        return engine


class _Engine:
    """Onnxruntime's session of one profile, its inputs bound to one address each where runs are captured."""

    def __init__(self, session: Any, path: Path, device: Device, logits: str) -> None:
        self._session, self._path, self._device, self._logits = session, path, device, logits
        self._binding: Any = None
        self._values: dict[str, Any] = {}
        self._rows: Any = None

    def bind(self, feed: Feed, labels: int | None) -> None:
        """From now on run at the shapes of ``feed`` alone, from and to memory of the device."""
        if labels is None:
            raise DeviceError(f"{self._path} does not declare how many logits it gives, so that nothing can be bound")
        where = ("cpu", 0) if self._device.kind == "cpu" else ("cuda", self._device.index)
        pairs = len(next(iter(feed.values())))
        (output,) = (node for node in self._session.get_outputs() if node.name == self._logits)
        kind, shape = _FLOATS[output.type], [pairs] if len(output.shape) == 1 else [pairs, labels]
        self._values = {name: ort.OrtValue.ortvalue_from_numpy(value, *where) for name, value in feed.items()}
        self._rows = ort.OrtValue.ortvalue_from_shape_and_type(shape, kind, *where)
        self._binding = self._session.io_binding()
        for name, value in self._values.items():
            self._binding.bind_ortvalue_input(name, value)
        self._binding.bind_ortvalue_output(self._logits, self._rows)

    def run(self, feed: Feed) -> NDArray[Any]:
        """Logits [pairs, labels]."""
        try:
            if self._binding is None:
                rows: NDArray[Any] = self._session.run([self._logits], feed)[0]
                return rows
            for name, value in feed.items():
                self._values[name].update_inplace(np.ascontiguousarray(value))
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
            return np.array(self._rows.numpy())
        except Exception as error:  # the binding's exceptions share no base of their own
            if not raised_by("onnxruntime", error):
                raise
            raise run_error(self._path, self._device, error) from error


def _sample(shape: Shape) -> PackedPairs:
    """Pairs of no meaning with a shape."""
    nothing = np.zeros(shape.pairs * shape.length, np.int32)
    return PackedPairs(nothing, nothing, np.full(shape.pairs, shape.length, np.int32))
