"""Devices by name: a kind and an index, and whether the installed onnxruntime has a provider for it."""

from dataclasses import dataclass

from crossrank._errors import DeviceError, InputError

from .onnxruntime import INSTALL_HINT, ort

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


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


def parse_device(device: object) -> Device:
    """``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"tensorrt"`` or ``"tensorrt:1"``, or a torch.device that prints like one.

    Raises:
        InputError: For anything else.
    """
    kind, colon, index = str(device).partition(":")
    if kind == "cpu" and (not colon or index == "0"):
        return Device("cpu")
    if kind in ("cuda", "tensorrt") and (not colon or (index.isascii() and index.isdecimal())):
        return Device(kind, int(index or 0))
    here = [kind for kind, provider in _PROVIDERS.items() if provider in ort.get_available_providers()]
    raise InputError(
        f"device={device!r:.60}: 'cpu', 'cuda', 'cuda:N', 'tensorrt', 'tensorrt:N', or None for the best that runs "
        f"here; the installed onnxruntime has {', '.join(here)}"
    )


def check_device(device: Device) -> None:
    """Raise `DeviceError` if the installed onnxruntime has no provider for the device."""
    if device.kind == "cpu":  # which each has
        return
    available = ort.get_available_providers()
    if device.provider not in available:
        raise DeviceError(
            f"device {device}: the installed onnxruntime {ort.__version__} has no {device.provider} "
            f"(only {', '.join(available)}): pip uninstall -y onnxruntime, then {INSTALL_HINT}"
        )
