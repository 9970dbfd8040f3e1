"""Static int8: activations by constant scales from calibration text, weights per output channel.

Dynamic quantization takes one scale for a whole batch, so that a document's score would depend on its
batch mates. Here every scale is a constant of the graph: a score is a function of its pair alone, up
to float rounding between shapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossrank._manifest import Inputs
from crossrank._pairs import PairSource
from crossrank._plan import plan_batches
from crossrank._session import Device, Session
from crossrank._threads import available_threads

from ._build import write_cpu
from ._config import EncoderConfig
from ._graph import Graph, save_model
from ._layers import dense
from ._weights import EncoderWeights, Linear

# The smallest and largest value of the input of each quantized product, by its point's name.
Ranges = dict[str, tuple[float, float]]


def quantize_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 per output channel.

    Args:
        weight: float32 [in, out].

    Returns:
        int8 [in, out] and its scales float32 [out]; ``weight`` is about ``quantized * scales``.
    """
    scales = np.maximum(np.abs(weight).max(axis=0), np.finfo(np.float32).tiny) / np.float32(127)
    return np.rint(weight / scales).astype(np.int8), scales.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Int8Dense:
    """`Dense` with a constant scale per input, shared by all products that read it."""

    ranges: Ranges

    def __call__(self, graph: Graph, hidden: str, linears: Sequence[Linear], point: str) -> list[str]:
        low, high = self.ranges[point]
        scale = np.float32(max(high - low, 1e-12) / 255)
        zero = np.uint8(np.clip(round(-low / float(scale)), 0, 255))
        scale_name = graph.constant(f"{point}.scale", np.array(scale))
        zero_name = graph.constant(f"{point}.zero_point", np.array(zero))
        quantized = graph.add("QuantizeLinear", hidden, scale_name, zero_name)
        results = []
        for linear in linears:
            weight, scales = quantize_weight(linear.weight)
            results.append(
                graph.contrib(
                    "MatMulIntegerToFloat",
                    quantized,
                    graph.constant(f"{linear.name}.int8", weight),
                    scale_name,
                    graph.constant(f"{linear.name}.scales", scales),
                    zero_name,
                    "",
                    graph.constant(f"{linear.name}.bias", linear.bias),
                )
            )
        return results


class _Watch:
    """`Dense` in float that also puts out the smallest and largest value of each input."""

    def __init__(self) -> None:
        self.points: list[str] = []

    def __call__(self, graph: Graph, hidden: str, linears: Sequence[Linear], point: str) -> list[str]:
        for op in ("ReduceMin", "ReduceMax"):
            graph.output(graph.add(op, hidden, keepdims=0), f"{op}:{point}", [])
        self.points.append(point)
        return [dense(graph, hidden, linear) for linear in linears]


def calibrate(weights: EncoderWeights, config: EncoderConfig, inputs: Inputs, pairs: PairSource, work: Path) -> Ranges:
    """Ranges of the quantized inputs: per batch the smallest and largest value, then their mean over batches.

    The mean clips rare outliers, whose range would cost the other values resolution.

    Args:
        weights: The model.
        config: Its sizes.
        inputs: What its graphs expect.
        pairs: The calibration text.
        work: A folder for a graph that is removed again.
    """
    watch, graph = _Watch(), Graph()
    write_cpu(graph, weights, config, token_types=inputs.token_types, apply=watch)
    if not watch.points:
        return {}
    save_model(graph.model(), work / "calibration.onnx")
    session = Session(work / "calibration.onnx", inputs, Device("cpu"), available_threads())
    names = [f"{op}:{point}" for op in ("ReduceMin", "ReduceMax") for point in watch.points]
    batches = plan_batches(pairs.lengths)
    values = np.mean([session.outputs(pairs.batch(index), names) for index in batches], axis=0)
    for file in work.glob("calibration.onnx*"):
        file.unlink()
    lows, highs = np.split(values, 2)
    return {
        point: (min(0.0, float(low)), max(0.0, float(high)))
        for point, low, high in zip(watch.points, lows, highs, strict=True)
    }
