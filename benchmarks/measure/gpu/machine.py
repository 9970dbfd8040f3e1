"""A GPU machine: what is installed there, and how fast its own products of matrices and copies are."""

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from statistics import median
from typing import Any

from crossrank._machine.gpu import read_gpu_facts

from .contenders import Keep
from .models import Place

_PACKAGES = ("crossrank", "numpy", "onnx", "sentence-transformers", "tokenizers", "torch", "transformers", "triton")
_SERIES, _TOGETHER = 5, 100


def measure_facts(place: Place, keep: Keep) -> None:
    """The GPU, its software, and how fast its float16 products and copies are."""
    facts = read_gpu_facts()
    keep("gpu", asdict(facts))
    keep("versions", {"onnxruntime": facts.onnxruntime} | {name: _version(name) for name in _PACKAGES})
    import torch

    device, kind = place.device.kind, torch.float32 if place.rehearse else torch.float16
    size = 256 if place.rehearse else 8192
    # Several operands, so that no product finds its own in the cache; drawn, since zeros take less power.
    operands = [torch.randn(size, size, device=device).to(kind) for _ in range(4)]
    products = itertools.count()

    def multiply() -> Any:
        i = next(products)
        return operands[i % 4] @ operands[(i + 1) % 4]

    # Enough of them that the clock settles where long work holds it, and that a call's start does not weigh.
    together = 1 if place.rehearse else _TOGETHER
    took = _seconds_of(multiply, device, together)
    keep("matmul", {"size": size, "dtype": str(kind), "tflops": round(2 * size**3 / took / 1e12, 2)})
    count = 1 << (20 if place.rehearse else 30)
    source = torch.randint(0, 255, (count,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    took = _seconds_of(lambda: target.copy_(source), device, together)
    keep("copy", {"bytes": count, "gb_per_s_read_and_written": round(2 * count / took / 1e9, 1)})


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _seconds_of(act: Callable[[], Any], device: str, together: int) -> float:
    """Seconds of an action on a device, the median of a few series of so many that are waited for together."""
    import torch

    seconds = []
    for _ in range(1 + _SERIES):  # the first warms up
        start = time.perf_counter()
        for _ in range(together):
            act()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - start) / together)
    return median(seconds[1:])
