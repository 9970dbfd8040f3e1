"""Matrices stored in 8 bits that are computed with in float32."""

import numpy as np
import onnx
from numpy.typing import NDArray

from .graph import Graph

# A matrix with fewer values, or with fewer to a scale, stays in float32: there is little to save.
_LEAST_VALUES = 4096
_LEAST_PER_SCALE = 16
_PART_VALUES = 1 << 22

Floats = NDArray[np.float32]


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
    """

    def weight(self, name: str, value: Floats) -> str:
        """A constant, a matrix with a scale per column: [..., in, out] has its scales in [..., 1, out]."""
        if value.ndim < 2 or value.shape[-2] < _LEAST_PER_SCALE or value.size < _LEAST_VALUES:
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
