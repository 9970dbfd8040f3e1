"""The backend of a model: one graph on one device, however that wants to be driven."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crossrank._machine.device import Device
from crossrank._text.pairs import PackedPairs

from .costs import Costs

Floats = NDArray[np.float32]
Ints = NDArray[np.intp]


class Backend(Protocol):
    """A graph on a device. Threads may share it.

    A CPU's has lanes: threads that each have it `run` a batch of pairs, of one length unless it is `flat`. Any other
    device is given all batches of a chunk by `submit`, and keeps itself busy.
    """

    @property
    def path(self) -> Path:
        """The ONNX file."""

    @property
    def device(self) -> Device:
        """Where it runs."""

    @property
    def provider(self) -> str:
        """Onnxruntime's name of what runs it."""

    @property
    def labels(self) -> int | None:
        """Logits per pair; None where the graph does not say."""

    @property
    def input_names(self) -> Sequence[str]:
        """The graph's inputs."""

    @property
    def lanes(self) -> int:
        """Threads that may `run` batches side by side; 0 where it keeps itself busy."""

    @property
    def flat(self) -> bool:
        """Whether a batch of a lane's may hold pairs of any lengths."""

    @property
    def max_tokens(self) -> int:
        """Most tokens of a batch of several pairs."""

    @property
    def max_tokens_origin(self) -> str:
        """Where that comes from, as a user reads it."""

    @property
    def costs(self) -> Costs | None:
        """What batches take on one lane, where it is known."""

    def plan(self, lengths: NDArray[np.int32], max_pairs: int | None) -> list[Ints]:
        """Batches.

        Args:
            lengths: int32 [pairs], tokens of each pair.
            max_pairs: Most pairs of a batch, or None.

        Returns:
            int, the pairs of each batch; each pair is in one.
        """

    def run(self, batch: PackedPairs, *, alone: bool = False) -> Floats:
        """Logits of joined pairs, float32 [pairs, labels].

        Args:
            batch: The pairs.
            alone: Whether no other batch is known to want the device.

        Raises:
            DeviceError: If the device fails, or its memory does not suffice for half of them.
            ArtifactError: If onnxruntime fails in the graph.
        """

    def submit(self, batches: Iterable[PackedPairs], pairs: Sequence[int]) -> Callable[[], list[Floats]]:
        """Have batches run.

        Args:
            batches: Joined pairs, taken one by one, as the device comes to them.
            pairs: How many are in each.

        Returns:
            What waits for them and gives the logits of each, float32 [pairs, labels]; it raises as `run` does. On a
            GPU the caller may meanwhile prepare others.
        """

    def worked(self, seconds: float) -> None:
        """Take notice of seconds that each lane worked, and learn from them at times, which takes half a second."""

    def warm_up(self) -> None:
        """Pay ahead what first calls would.

        Raises:
            DeviceError: If the device's memory does not suffice, or it fails.
        """
