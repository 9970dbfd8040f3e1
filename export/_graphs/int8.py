"""Static int8: activations by constant scales from calibration text, weights per output channel, all in 8 bits.

Dynamic quantization takes one scale for a whole batch, so that a document's score would depend on its
batch mates. Here every scale is a constant of the graph: a score is a function of its pair alone, up
to float rounding between shapes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossrank._artifact.manifest import Inputs
from crossrank._device.batches import plan_even_batches
from crossrank._device.session import Session
from crossrank._machine.cpu import available_threads
from crossrank._machine.device import Device
from crossrank._text.pairs import PairSource
from crossrank.export._architectures.config import EncoderConfig
from crossrank.export._architectures.weights import EncoderWeights, Layer, Linear

from .compact import CompactGraph, quantize
from .graph import Graph, Model, save_model
from .layers import dense
from .layouts import write_cpu

# Tokens whose smallest and largest values count once: those of fewer lie nearer to zero, those of more are outliers'.
_CALIBRATION_TOKENS = 2048
# The smallest and largest value of the input of each quantized product, by its point's name.
Ranges = dict[str, tuple[float, float]]


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
            weight, scales = quantize(linear.weight, axis=0)
            results.append(
                graph.contrib(
                    "MatMulIntegerToFloat",
                    quantized,
                    graph.constant(f"{linear.name}.int8", weight),
                    scale_name,
                    graph.constant(f"{linear.name}.scales", scales[0]),
                    zero_name,
                    "",
                    graph.constant(f"{linear.name}.bias", linear.bias),
                )
            )
        return results


@dataclass(frozen=True, slots=True)
class Extremes:
    """Smallest and largest values of the input of a quantized product in calibration text.

    Attributes:
        lows: float32 [parts of the text, channels].
        highs: float32 [parts of the text, channels].
    """

    lows: NDArray[np.float32]
    highs: NDArray[np.float32]

    def range(self) -> tuple[float, float]:
        """Mean over the parts of the tensor's smallest and largest value, 0 between them.

        The mean clips rare outliers, whose range would cost the other values resolution.
        """
        low, high = self.lows.min(axis=1).mean(), self.highs.max(axis=1).mean()
        return min(0.0, float(low)), max(0.0, float(high))

    def largest(self, count: int) -> NDArray[np.intp]:
        """The channels with the largest values by magnitude, in the order they lie in."""
        peaks = np.maximum(-self.lows, self.highs).mean(axis=0)
        return np.sort(np.argsort(-peaks, kind="stable")[:count])

    def without(self, channels: NDArray[np.intp]) -> "Extremes":
        """The same without some channels."""
        return Extremes(np.delete(self.lows, channels, axis=1), np.delete(self.highs, channels, axis=1))


class _Watch:
    """`Dense` in float that remembers its inputs, to put out the smallest and largest value of each channel of them."""

    def __init__(self) -> None:
        self._inputs: dict[str, str] = {}

    def __call__(self, graph: Graph, hidden: str, linears: Sequence[Linear], point: str) -> list[str]:
        self._inputs[point] = hidden
        return [dense(graph, hidden, linear) for linear in linears]

    @property
    def points(self) -> list[str]:
        return list(self._inputs)

    def put_out(self, graph: Graph) -> None:
        """Declare the outputs, those of the first layer last.

        onnxruntime computes what leads to the last output first. In the order of the layers it would compute them all
        before it looks at any, and keep every input until then.
        """
        for point, hidden in reversed(self._inputs.items()):
            for op in ("ReduceMin", "ReduceMax"):
                graph.output(graph.add(op, hidden, graph.integers(0), keepdims=0), f"{op}:{point}", ["channels"])


def calibrate(
    weights: EncoderWeights, config: EncoderConfig, inputs: Inputs, pairs: PairSource, work: Path
) -> dict[str, Extremes]:
    """What the inputs of the products reach in text, by their points' names.

    Args:
        weights: The model.
        config: Its sizes.
        inputs: What its graphs expect.
        pairs: The calibration text.
        work: A folder for a graph that is removed again.
    """
    watch, graph = _Watch(), Graph(opset=23)
    write_cpu(graph, weights, config, token_types=inputs.token_types, apply=watch)
    if not watch.points:
        return {}
    watch.put_out(graph)
    save_model(graph.model(), work / "calibration.onnx", limit_bytes=0)
    session = Session(work / "calibration.onnx", inputs, Device("cpu"), available_threads().count)
    names = [f"{op}:{point}" for point in watch.points for op in ("ReduceMin", "ReduceMax")]
    batches = plan_even_batches(pairs.lengths, max_tokens=_CALIBRATION_TOKENS)
    seen = [session.outputs(pairs.batch(index), names) for index in batches]
    for file in work.glob("calibration.onnx*"):
        file.unlink()
    # Batches have one length each, so that some are small: several are one part of the text.
    ends = np.cumsum([pairs.lengths[index].sum() for index in batches])
    _, firsts = np.unique((ends - 1) // _CALIBRATION_TOKENS, return_index=True)
    lows, highs = ([np.stack(rows) for rows in zip(*seen, strict=True)][kind::2] for kind in (0, 1))
    return {
        point: Extremes(np.minimum.reduceat(low, firsts), np.maximum.reduceat(high, firsts))
        for point, low, high in zip(watch.points, lows, highs, strict=True)
    }


def build_int8(
    weights: EncoderWeights, config: EncoderConfig, extremes: Mapping[str, Extremes], *, token_types: bool
) -> Model:
    """The graph for onnxruntime's CPU provider in int8, its last layer computed in float.

    Of a feed-forward's units, a few reach many times what the others do (27 against 6 in MiniLM's first layer), and
    with them in its range, a scale leaves the others few steps. They are computed in float, as in LLM.int8()
    (Dettmers et al., 2022), but chosen once and for all. On MiniLM-L12 that halves the mean error and costs nothing
    that shows.

    Args:
        weights: The model.
        config: Its sizes.
        extremes: From `calibrate`.
        token_types: Whether the graph takes them.
    """
    known = dict(extremes)
    layers = []
    for i, layer in enumerate(weights.layers):
        point = f"layer.{i}.down"
        if point in known:
            channels = known[point].largest(max(8, config.intermediate // 96))
            layer = _set_apart(layer, channels)
            known[point] = known[point].without(channels)
        layers.append(layer)
    ranges = {point: found.range() for point, found in known.items()}
    split = replace(weights, layers=tuple(layers))
    graph = CompactGraph(opset=23)
    write_cpu(graph, split, config, token_types=token_types, apply=Int8Dense(ranges))
    return graph.model()


def _set_apart(layer: Layer, units: NDArray[np.intp]) -> Layer:
    """The same layer with some feed-forward units apart."""
    up, down = layer.up, layer.down
    apart = (
        Linear(f"{up.name}.apart", up.weight[:, units], up.bias[units]),
        Linear(f"{down.name}.apart", down.weight[units], np.zeros_like(down.bias)),
    )
    return replace(
        layer,
        up=replace(up, weight=np.delete(up.weight, units, axis=1), bias=np.delete(up.bias, units)),
        down=replace(down, weight=np.delete(down.weight, units, axis=0)),
        apart=apart,
    )
