"""Peaks: how fast a model's matrix products alone would be on a machine, and how many operations a model asks for."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossrank._machine.onnxruntime import ort
from crossrank.export._architectures.gte import GteConfig
from crossrank.export._architectures.modernbert import ModernBertConfig
from crossrank.export._graphs.encoder import EncoderConfig
from crossrank.export._graphs.graph import Graph, Model

_ROWS = (128, 512)  # tokens of a batch: few stay in the caches, many share the reading of weights
PEAK_S = 0.3  # of products, of which the fastest count

Add = Callable[[Graph, str, str, tuple[int, int], np.random.Generator], str]  # weights and a product; its output


def products_of(config: EncoderConfig) -> list[tuple[int, int]]:
    """A layer's weights, as (depth, columns): attention's four, and two of the feed-forward layer, gated ones three."""
    hidden, inner = config.hidden, config.intermediate
    up = 2 if isinstance(config, ModernBertConfig | GteConfig) else 1
    return [*[(hidden, hidden)] * 4, *[(hidden, inner)] * up, (inner, hidden)]


def operations_per_pair(config: EncoderConfig, tokens: NDArray[np.int32]) -> NDArray[np.float64]:
    """Floating point operations that the whole encoder needs for pairs of so many tokens, int32 -> float64 [pairs].

    Per layer, with hidden size h and feed-forward size f: 2 t (4 h² + 2 h f) for the projections and the feed-forward
    layer, 3 h f where that is gated, and 4 t² h for scores and weighted sum of attention, of which a window has a part.
    Every layer counts for every token, also where a graph of ours computes one row of the last; embeddings, norms,
    activations and the head are left out, below 1%, and DeBERTa's products with its table of distances.
    """
    t = tokens.astype(np.float64)
    linear = sum(depth * columns for depth, columns in products_of(config))
    total: NDArray[np.float64] = config.layers * 2 * t * linear
    for layer in range(config.layers):
        seen = t
        if isinstance(config, ModernBertConfig) and not config.sees_all(layer):
            seen = np.minimum(t, config.window + 1)
        total += 4 * t * seen * config.hidden
    return total


class Peaks:
    """The speed of one layer's matrix products on onnxruntime's CPU provider, in float32 and in int8.

    They have the shapes of the model, as large square products are slower than what many a model has; and as with our
    batches, each thread computes products of its own.

    Args:
        config: Of the model.
        threads: As the engines have.
        batch_s: Of a measurement of each precision and number of rows, in which each thread's fastest run counts.

    Attributes:
        gflops: Per precision the figures of every `measure`.
    """

    def __init__(self, config: EncoderConfig, threads: int, *, batch_s: float = PEAK_S) -> None:
        self._threads, self._batch_s = threads, batch_s
        self._pool = ThreadPoolExecutor(threads)
        self._products = products_of(config)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        rng = np.random.default_rng(0)
        depths = sorted({depth for depth, _ in self._products})
        self._runs = []
        for precision, add in (("fp32", _add_fp32), ("int8", _add_int8)):
            model = _graph(self._products, precision, add, rng).whole().SerializeToString()
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            for rows in _ROWS:
                inputs = {f"x{depth}": _draw(precision, (rows, depth), rng) for depth in depths}
                self._runs.append((precision, rows, session, inputs))
                session.run(None, inputs)  # the first run prepares the weights
        self.gflops: dict[str, list[float]] = {precision: [] for precision, *_ in self._runs}

    def measure(self) -> None:
        """Take one more figure of each precision: of the better number of rows."""
        best = dict.fromkeys(self.gflops, 0.0)
        for precision, rows, session, inputs in self._runs:
            operations = 2 * rows * sum(depth * columns for depth, columns in self._products)
            fastest = self._pool.map(_fastest, repeat(session), repeat(inputs), [self._batch_s] * self._threads)
            best[precision] = max(best[precision], sum(operations / seconds for seconds in fastest) / 1e9)
        for precision, gflops in best.items():
            self.gflops[precision].append(gflops)


def _fastest(session: Any, inputs: dict[str, NDArray[Any]], batch_s: float) -> float:
    times: list[float] = []
    while sum(times) < batch_s:
        start = time.perf_counter()
        session.run(None, inputs)
        times.append(time.perf_counter() - start)
    return min(times)


def _draw(precision: str, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[Any]:
    return rng.standard_normal(shape, np.float32) if precision == "fp32" else rng.integers(0, 256, shape, np.uint8)


def _graph(products: list[tuple[int, int]], precision: str, add: Add, rng: np.random.Generator) -> Model:
    """Each product with weights of its own, of the input that is as deep as they are."""
    graph = Graph(np.float32)
    kind = np.float32 if precision == "fp32" else np.uint8
    inputs = {depth: graph.input(f"x{depth}", kind, ["rows", depth]) for depth in sorted({d for d, _ in products})}
    for i, (depth, columns) in enumerate(products):
        graph.output(add(graph, inputs[depth], str(i), (depth, columns), rng), f"y{i}", ["rows", columns])
    return graph.model()


def _add_fp32(graph: Graph, x: str, name: str, shape: tuple[int, int], rng: np.random.Generator) -> str:
    return graph.add("MatMul", x, graph.weight(f"weight{name}", rng.standard_normal(shape, np.float32)))


def _add_int8(graph: Graph, x: str, name: str, shape: tuple[int, int], rng: np.random.Generator) -> str:
    """Unsigned inputs and signed weights with a scale per column, as the int8 graphs have them."""
    constants = {
        "weight": rng.integers(-127, 128, shape, np.int8),
        "x_scale": np.array(0.01, np.float32),
        "weight_scale": np.full(shape[1], 0.01, np.float32),
        "x_zero": np.array(128, np.uint8),
    }
    inputs = [graph.constant(f"{part}{name}", value) for part, value in constants.items()]
    return graph.contrib("MatMulIntegerToFloat", x, *inputs)
