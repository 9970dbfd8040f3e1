"""Peaks: how much a machine can compute at most, and how much a model asks for."""

import time

import numpy as np
from numpy.typing import NDArray

from crossrank._machine.onnxruntime import ort
from crossrank.export._architectures.gte import GteConfig
from crossrank.export._architectures.modernbert import ModernBertConfig
from crossrank.export._graphs.encoder import EncoderConfig
from crossrank.export._graphs.graph import Graph, Model

_SIZE = 1024  # rows, columns and depth of the products: large enough that only multiplying counts
PEAK_S = 0.3  # of products, of which the fastest counts


def operations_per_pair(config: EncoderConfig, tokens: NDArray[np.int32]) -> NDArray[np.float64]:
    """Floating point operations that the whole encoder needs for pairs of so many tokens, int32 -> float64 [pairs].

    Per layer, with hidden size h and feed-forward size f: 2 t (4 h² + 2 h f) for the projections and the feed-forward
    layer, 3 h f where that is gated, and 4 t² h for scores and weighted sum of attention, of which a window has a part.
    Every layer counts for every token, also where a graph of ours computes one row of the last; embeddings, norms,
    activations and the head are left out, below 1%, and DeBERTa's products with its table of distances.
    """
    t = tokens.astype(np.float64)
    products = 3 if isinstance(config, ModernBertConfig | GteConfig) else 2
    linear = 4 * config.hidden**2 + products * config.hidden * config.intermediate
    total: NDArray[np.float64] = config.layers * 2 * t * linear
    for layer in range(config.layers):
        seen = t
        if isinstance(config, ModernBertConfig) and not config.sees_all(layer):
            seen = np.minimum(t, config.window + 1)
        total += 4 * t * seen * config.hidden
    return total


class Peaks:
    """The speed of large matrix products on onnxruntime's CPU provider, in float32 and in int8.

    Args:
        threads: As the engines have.
        batch_s: Of a measurement of each precision, in which the fastest product counts.

    Attributes:
        gflops: Per precision the figures of every `measure`.
    """

    def __init__(self, threads: int, *, batch_s: float = PEAK_S) -> None:
        self._batch_s = batch_s
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # Its threads sleep as soon as it is done: the engines come next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        rng = np.random.default_rng(0)
        shape = (_SIZE, _SIZE)
        self._runs = {
            precision: (
                ort.InferenceSession(graph.whole().SerializeToString(), options, providers=["CPUExecutionProvider"]),
                {"x": x},
            )
            for precision, graph, x in (
                ("fp32", _fp32_graph(rng), rng.standard_normal(shape, np.float32)),
                ("int8", _int8_graph(rng), rng.integers(0, 256, shape, np.uint8)),
            )
        }
        self.gflops: dict[str, list[float]] = {precision: [] for precision in self._runs}
        self._multiply()  # the first run prepares the weights

    def measure(self) -> None:
        """Take one more figure of each precision."""
        for precision, seconds in self._multiply().items():
            self.gflops[precision].append(2 * _SIZE**3 / seconds / 1e9)

    def _multiply(self) -> dict[str, float]:
        fastest = {}
        for precision, (session, inputs) in self._runs.items():
            times: list[float] = []
            while sum(times) < self._batch_s:
                start = time.perf_counter()
                session.run(None, inputs)
                times.append(time.perf_counter() - start)
            fastest[precision] = min(times)
        return fastest


def _fp32_graph(rng: np.random.Generator) -> Model:
    graph = Graph(np.float32)
    x = graph.input("x", np.float32, [_SIZE, _SIZE])
    product = graph.add("MatMul", x, graph.weight("weight", rng.standard_normal((_SIZE, _SIZE), np.float32)))
    graph.output(product, "y", [_SIZE, _SIZE])
    return graph.model()


def _int8_graph(rng: np.random.Generator) -> Model:
    """Unsigned inputs and signed weights with a scale per column, as the int8 graphs have them."""
    graph = Graph(np.float32)
    x = graph.input("x", np.uint8, [_SIZE, _SIZE])
    constants = {
        "weight": rng.integers(-127, 128, (_SIZE, _SIZE), np.int8),
        "x_scale": np.array(0.01, np.float32),
        "weight_scale": np.full(_SIZE, 0.01, np.float32),
        "x_zero": np.array(128, np.uint8),
    }
    inputs = [graph.constant(name, value) for name, value in constants.items()]
    graph.output(graph.contrib("MatMulIntegerToFloat", x, *inputs), "y", [_SIZE, _SIZE])
    return graph.model()
