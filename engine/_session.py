"""One graph on one device. The only module that talks to onnxruntime's sessions."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._errors import ArtifactError, DeviceError, InputError
from ._layout import choose_layout
from ._manifest import Inputs, Manifest, Variant
from ._pairs import PackedPairs
from ._runtime import INSTALL_HINT, ort
from ._threads import ThreadCount

logger = logging.getLogger(__name__)

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True, slots=True)
class Device:
    """A kind of device and its index."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    @property
    def provider(self) -> str:
        """The execution provider that runs on this kind of device."""
        return _PROVIDERS[self.kind]


def parse_device(device: str) -> Device:
    """``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Raises:
        InputError: For anything else.
    """
    kind, _, index = str(device).partition(":")
    if kind == "cpu" and not index:
        return Device("cpu")
    if kind == "cuda" and (not index or index.isdecimal()):
        return Device("cuda", int(index or 0))
    raise InputError(f"device={device!r}: 'cpu', 'cuda', 'cuda:N', or None for the best that runs here")


def choose_variant(variants: Sequence[Variant], device: Device, precision: str) -> Variant:
    """The graph that suits a device and a precision best.

    "auto" is fp32 on a CPU (int8 where there is nothing else) and fp16 on CUDA.

    Raises:
        InputError: If the precision is unknown.
        ArtifactError: If the artifact holds no such graph.
    """
    orders = {"cpu": ("fp32", "int8", "fp16"), "cuda": ("fp16", "fp32")}
    allowed = ("auto", "fp32", "fp16", "int8")
    if precision not in allowed:
        raise InputError(f"precision={precision!r}: one of {', '.join(allowed)}")
    wanted = orders[device.kind] if precision == "auto" else (precision,)
    for candidate in wanted:
        for kind in (device.kind, "portable"):
            for variant in variants:
                if (variant.variant, variant.precision) == (kind, candidate):
                    return variant
    have = ", ".join(variant.name for variant in variants)
    raise ArtifactError(
        f"no graph for device {device} with precision {precision!r}: the artifact holds {have}; "
        f"export it again with export-model --force and the --variants and --precision that you need"
    )


class Session:
    """A graph loaded on a device. Threads may share it; a forked child gets a session of its own.

    Args:
        path: The ONNX file.
        inputs: The manifest's facts about the graph's inputs.
        device: Where to run.
        threads: Intra-op threads on a CPU.

    Raises:
        DeviceError: If the device cannot run here.
        ArtifactError: If onnxruntime cannot load the file.
    """

    def __init__(self, path: Path, inputs: Inputs, device: Device, threads: ThreadCount) -> None:
        self.path, self.device, self.threads = path, device, threads
        # A session's threads do not survive a fork, so each process has its own. The parent's stays
        # referenced in the child: its destructor would wait for threads that are gone.
        self._by_process: dict[int, Any] = {}
        session = self._session()
        self._layout = choose_layout((node.name for node in session.get_inputs()), inputs)
        self.provider: str = session.get_providers()[0]

    def run(self, batch: PackedPairs) -> NDArray[np.float32]:
        """Logits of joined pairs, float32 [pairs, labels]."""
        logits: NDArray[np.float32] = self._session().run(["logits"], self._layout(batch))[0]
        return logits

    def _session(self) -> Any:
        process = os.getpid()
        session = self._by_process.get(process)
        if session is None:
            session = self._by_process.setdefault(process, self._open())
        return session

    def _open(self) -> Any:
        provider = self.device.provider
        if provider not in ort.get_available_providers():
            raise DeviceError(
                f"device {self.device}: the installed onnxruntime {ort.__version__} has no {provider} "
                f"(only {', '.join(ort.get_available_providers())}): pip uninstall -y onnxruntime, then {INSTALL_HINT}"
            )
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors; warnings about fallback are errors of ours below
        options.intra_op_num_threads = self.threads.count
        options.inter_op_num_threads = 1
        provider_options = {"device_id": str(self.device.index)} if self.device.kind == "cuda" else {}
        # onnxruntime's CPU kernel of SkipLayerNormalization takes 2.5 times as long as Add and LayerNormalization.
        disabled = ["SkipLayerNormFusion"] if self.device.kind == "cpu" else []
        try:
            session = ort.InferenceSession(
                self.path,
                sess_options=options,
                providers=[(provider, provider_options)],
                disabled_optimizers=disabled,
            )
        except Exception as error:  # the binding's exceptions share no base of their own
            raise ArtifactError(f"{self.path}: onnxruntime {ort.__version__} cannot load it: {error}") from error
        if session.get_providers()[0] != provider:
            raise DeviceError(
                f"device {self.device}: {provider} did not start, onnxruntime {ort.__version__} fell back to "
                f"{session.get_providers()[0]}: check the driver and CUDA libraries (nvidia-smi), or {INSTALL_HINT}"
            )
        return session


def open_session(
    folder: Path, manifest: Manifest, asked: Device | None, precision: str, threads: ThreadCount
) -> tuple[Variant, Session]:
    """The session asked for; with no device asked, CUDA where it really runs, else the CPU."""
    if asked is None and Device("cuda").provider in ort.get_available_providers():
        try:
            return open_session(folder, manifest, Device("cuda"), precision, threads)
        except DeviceError as error:
            logger.warning("running on the CPU: %s", error)
    device = asked or Device("cpu")
    variant = choose_variant(manifest.variants, device, precision)
    return variant, Session(folder / variant.file, manifest.inputs, device, threads)
