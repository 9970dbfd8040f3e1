"""Out of memory on a GPU: which errors say so, and the batch that is run in halves, or refused with a DeviceError."""

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from crossrank._errors import DeviceError
from crossrank._text.pairs import PackedPairs

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]

# What onnxruntime's exceptions say, which have one type for everything: its arena, the CUDA runtime, cuBLAS and cuDNN.
_SIGNS = (
    "failed to allocate memory",
    "bfcarena",
    "available memory of",
    "out of memory",
    "cudaerrormemoryallocation",
    "alloc_failed",
    "resource allocation failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of onnxruntime's says that memory did not suffice.

    >>> is_out_of_memory(RuntimeError("CUDA failure 2: out of memory ; GPU=0"))
    True
    """
    text = str(error).lower()
    return any(sign in text for sign in _SIGNS)


def run_halved(run: Callable[[PackedPairs], Floats], batch: PackedPairs, error: Exception, device: str) -> Floats:
    """Run the halves of a batch that was too large.

    Args:
        run: Gives the logits of a batch, float32 [pairs, labels].
        batch: What did not fit.
        error: What it failed with.
        device: For the message.

    Raises:
        DeviceError: If a half does not fit either, or the batch is one pair.
        Exception: Whatever else ``run`` raises.
    """
    tokens, pairs = len(batch.ids), len(batch.lengths)
    logger.warning("device %s: out of memory in a batch of %d tokens, which is halved", device, tokens)
    if pairs > 1:
        try:
            return np.concatenate([run(half) for half in halve(batch)])
        except Exception as again:
            if not is_out_of_memory(again):
                raise
            error = again
    raise DeviceError(
        f"device {device}: out of memory with {pairs} pairs of {tokens} tokens in a batch, and in halves of it too: "
        f"free memory on the GPU (nvidia-smi lists who holds it), give predict or rank a smaller batch_size, or use "
        f"device='cpu' ({error})"
    ) from error


def halve(batch: PackedPairs) -> tuple[PackedPairs, PackedPairs]:
    """A batch of several pairs in two, each with half of the pairs."""
    pairs = len(batch.lengths) // 2
    tokens = int(batch.lengths[:pairs].sum())
    return (
        PackedPairs(batch.ids[:tokens], batch.types[:tokens], batch.lengths[:pairs]),
        PackedPairs(batch.ids[tokens:], batch.types[tokens:], batch.lengths[pairs:]),
    )
