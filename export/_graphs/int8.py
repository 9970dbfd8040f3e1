"""Static int8: activations by constant scales from calibration text, weights per output channel, all in 8 bits.

Dynamic quantization takes one scale for a whole batch, so that a document's score would depend on its
batch mates. Here every scale is a constant of the graph: a score is a function of its pair alone, up
to float rounding between shapes.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from crossrank._artifact.manifest import Inputs
from crossrank._device.batches import plan_even_batches
from crossrank._device.session import Session
from crossrank._machine.cpu import available_threads
from crossrank._machine.device import Device
from crossrank._text.pairs import PairSource

from .encoder import EncoderConfig, EncoderWeights, Layer
from .graph import Graph, Model, save_model
from .layers import Floats, Linear, float_dense
from .layouts.cpu import write_cpu

# A matrix with fewer values, or with fewer to a scale, stays in float32: there is little to save.
_LEAST_VALUES = 4096
_LEAST_PER_SCALE = 16
_PART_VALUES = 1 << 22
# Tokens whose smallest and largest values count once: those of fewer lie nearer to zero, those of more are outliers'.
_CALIBRATION_TOKENS = 2048
# Of the calibration text, to tell which layers err most.
_MEASURED_PAIRS = 16


def quantize(values: Floats, axis: int) -> tuple[NDArray[np.int8], Floats]:
    """Symmetric int8 with one scale for all values along an axis.

    Args:
        values: float32 [..., n, ...].
        axis: Of n.

    Returns:
        int8 in the shape of ``values`` and scales float32 [..., 1, ...]; their product is within half a scale of
        ``values``.

    >>> quantize(np.array([[0.0, 127.0], [2.0, -254.0]], np.float32), axis=1)[0].tolist()
    [[0, 127], [1, -127]]
    """
    along = axis % values.ndim
    across = 0 if along else values.ndim - 1  # parts of another axis, so that no temporary is as large as a table
    step = max(1, _PART_VALUES * values.shape[across] // max(1, values.size))
    quantized = np.empty(values.shape, np.int8)
    scales = np.empty([1 if i == along else n for i, n in enumerate(values.shape)], np.float32)
    for start in range(0, values.shape[across], step):
        part = tuple(slice(start, start + step) if i == across else slice(None) for i in range(values.ndim))
        peaks = np.maximum(np.abs(values[part]).max(axis=along, keepdims=True), np.finfo(np.float32).tiny)
        scales[part] = peaks / np.float32(127)
        quantized[part] = np.rint(values[part] / scales[part])
    return quantized, scales


class CompactGraph(Graph):
    """A float32 graph whose matrices are stored as int8 and scales, a quarter of the size.

    What enters a product is scaled by Cast and Mul, which onnxruntime folds into a float32 constant when it loads
    the graph: no call pays for it. DequantizeLinear it would keep, or turn into a product in fewer bits. Of the
    table of words only a call's rows are scaled, so it stays a quarter of the size in memory too.

    Attributes:
        whole: What the names of matrices begin with that are stored as they are.
    """

    whole: tuple[str, ...] = ()

    def weight(self, name: str, value: Floats) -> str:
        """A constant, a matrix with a scale per column: [..., in, out] has its scales in [..., 1, out]."""
        small = value.ndim < 2 or value.shape[-2] < _LEAST_PER_SCALE or value.size < _LEAST_VALUES
        if small or name.startswith(self.whole):
            return super().weight(name, value)
        return self._scale(*self._quantized(name, value, axis=-2))

    def lookup(self, name: str, table: Floats, rows: str) -> str:
        """Rows of a table that has a scale per row."""
        quantized, scales = self._quantized(name, table, axis=-1)
        return self._scale(self.add("Gather", quantized, rows), self.add("Gather", scales, rows))

    def _quantized(self, name: str, value: Floats, axis: int) -> tuple[str, str]:
        quantized, scales = quantize(value, axis)
        return self.constant(f"{name}.int8", quantized), self.constant(f"{name}.scales", scales)

    def _scale(self, quantized: str, scales: str) -> str:
        return self.add("Mul", self.add("Cast", quantized, to=onnx.TensorProto.FLOAT), scales)


@dataclass(frozen=True, slots=True)
class Int8Dense:
    """`Dense` with a constant scale for each input, of its smallest and largest value; in float without these."""

    ranges: Mapping[str, tuple[float, float]]

    def __call__(self, graph: Graph, hidden: str, linears: Sequence[Linear], point: str) -> list[str]:
        if point not in self.ranges:
            return float_dense(graph, hidden, linears, point)
        low, high = self.ranges[point]
        scale = np.float32(max(high - low, 1e-12) / 255)
        zero = np.uint8(np.clip(round(-low / float(scale)), 0, 255))
        scale_name = graph.constant(f"{point}.scale", np.array(scale))
        zero_name = graph.constant(f"{point}.zero_point", np.array(zero))
        quantized = graph.add("QuantizeLinear", hidden, scale_name, zero_name)

        def product(linear: Linear) -> str:
            weight, scales = quantize(linear.weight, axis=0)
            weight_name = graph.constant(f"{linear.name}.int8", weight)
            scales_name = graph.constant(f"{linear.name}.scales", scales[0])
            inputs = [quantized, weight_name, scale_name, scales_name, zero_name]
            if linear.bias.any():
                inputs += ["", graph.constant(f"{linear.name}.bias", linear.bias)]
            return graph.contrib("MatMulIntegerToFloat", *inputs)

        return [product(linear) for linear in linears]


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
        self.points: dict[str, str] = {}  # the inputs by their names

    def __call__(self, graph: Graph, hidden: str, linears: Sequence[Linear], point: str) -> list[str]:
        self.points[point] = hidden
        return float_dense(graph, hidden, linears, point)

    def put_out(self, graph: Graph) -> None:
        """Declare the outputs, those of the first layer last.

        onnxruntime computes what leads to the last output first. In the order of the layers it would compute them all
        before it looks at any, and keep every input until then.
        """
        for point, hidden in reversed(self.points.items()):
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
    names = [f"{op}:{point}" for point in watch.points for op in ("ReduceMin", "ReduceMax")]
    batches = plan_even_batches(pairs.lengths, max_tokens=_CALIBRATION_TOKENS)
    try:
        save_model(graph.model(), work / "calibration.onnx", limit_bytes=0)
        session = Session(work / "calibration.onnx", inputs, Device("cpu"), available_threads().count)
        seen = [session.outputs(pairs.batch(index), names) for index in batches]
    finally:
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
    weights: EncoderWeights,
    config: EncoderConfig,
    extremes: Mapping[str, Extremes],
    *,
    token_types: bool,
    spared: Collection[int] = (),
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
        spared: Layers that are computed in float too, with their weights as they are.
    """
    layers, known = _split(weights, config, extremes)
    for i in spared:
        layers[i] = weights.layers[i]
        for point in _points(weights.layers[i]):
            known.pop(point, None)
    ranges = {point: found.range() for point, found in known.items()}
    graph = CompactGraph(opset=23)
    graph.whole = tuple(weights.layers[i].attention.name.rpartition(".")[0] + "." for i in spared)
    split = replace(weights, layers=tuple(layers))
    write_cpu(graph, split, config, token_types=token_types, apply=Int8Dense(ranges))
    return graph.model()


def layer_errors(
    weights: EncoderWeights,
    config: EncoderConfig,
    inputs: Inputs,
    extremes: Mapping[str, Extremes],
    pairs: PairSource,
    work: Path,
) -> dict[int, float]:
    """What each layer in int8, all others in float, changes of the logits: mean squares, which add up.

    Activations that spike do so in few layers (Yang et al., "Mitigating Quantization Errors Due to Activation Spikes in
    GLU-Based LLMs", 2024), who leave those in float whose largest value is the farthest from the median. That says
    little of what a layer costs: of a drawn ModernBERT with ten layers it is 57% in the first, where nothing spikes.

    Args:
        weights: The model.
        config: Its sizes.
        inputs: What its graphs expect.
        extremes: From `calibrate`.
        pairs: The calibration text, of which the first pairs are taken.
        work: A folder for graphs that are removed again.
    """
    some = range(min(_MEASURED_PAIRS, len(pairs.lengths)))
    batches = [np.array([i for i in some if pairs.lengths[i] == n]) for n in np.unique(pairs.lengths[: len(some)])]
    quantized = [i for i, layer in enumerate(weights.layers) if any(point in extremes for point in _points(layer))]

    def logits(spared: Collection[int]) -> Floats:
        path = work / "measured.onnx"
        try:
            save_model(build_int8(weights, config, extremes, token_types=inputs.token_types, spared=spared), path)
            session = Session(path, inputs, Device("cpu"), available_threads().count)
            return np.concatenate([session.run(pairs.batch(index)) for index in batches])
        finally:
            for file in work.glob("measured.onnx*"):
                file.unlink()

    exact = logits(quantized)
    return {i: float(np.square(logits(set(quantized) - {i}) - exact).mean()) for i in quantized}


def _split(
    weights: EncoderWeights, config: EncoderConfig, extremes: Mapping[str, Extremes]
) -> tuple[list[Layer], dict[str, Extremes]]:
    """The layers with their largest units apart, and what the others' inputs reach."""
    known, layers = dict(extremes), []
    for layer in weights.layers:
        point = layer.feed_forward.down.name
        if point in known:
            units = known[point].largest(max(8, config.intermediate // 96))
            layer = replace(layer, feed_forward=layer.feed_forward.set_apart(units))
            if layer.feed_forward.apart is not None:
                known[point] = known[point].without(units)
        layers.append(layer)
    return layers, known


def _points(layer: Layer) -> tuple[str, ...]:
    attention, feed_forward = layer.attention, layer.feed_forward
    return attention.name, attention.output.name, feed_forward.up.name, feed_forward.down.name
