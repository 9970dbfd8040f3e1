"""Fused operators: one where a graph has several and onnxruntime's CUDA provider has one kernel for them.

Its own fusions look for products in three dimensions and find none in a packed graph, which has two. These are exact in
real arithmetic. What an operator swallows shows no more, and so precision is decided before, on the plain graph
(`half`): between what is in float16 and what is in float32 there is a Cast then, and nothing is fused across one.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from .graph import Model, dtype_of

Array = NDArray[Any]


def fuse(model: Model) -> None:
    """Bring a packed graph, or its twin, to fused operators.

    - The norm of a sum, of two of one shape, becomes SkipLayerNormalization, which takes a bias of one of them too.
    - A bias and GELU become BiasGelu, or FastGelu with a bias.
    - The products of an attention's queries, keys and values become one. The packed attention takes it as it is, and
      their biases; in the twin it is cut into the three again.

    Args:
        model: As a layout writes it; changed in place.
    """
    _Fusion(model).run()


class _Fusion:
    def __init__(self, model: Model) -> None:
        self._model = model
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._nodes = list(model.graph.node)
        self._made = {name: node for node in self._nodes for name in node.output}
        self._uses = Counter(name for node in self._nodes for name in node.input)
        self._instead: dict[str, list[NodeProto]] = {}  # by the name of the node that they replace

    def run(self) -> None:
        rules = {
            "LayerNormalization": self._norm,
            "Gelu": self._activation,
            "FastGelu": self._activation,
            "PackedMultiHeadAttention": self._attention,
            "MultiHeadAttention": self._attention_of_twin,
        }
        for node in self._nodes:
            if node.op_type in rules:
                rules[node.op_type](node)
        self._write(new for node in self._nodes for new in self._instead.get(node.name, [node]))

    def _norm(self, norm: NodeProto) -> None:
        total = self._made.get(norm.input[0])
        if total is None or total.op_type != "Add" or total.name in self._instead:
            return
        if not self._weights.keys().isdisjoint(total.input):  # a row for all is no summand of its own
            return
        (left, bias), right = self._biased(total.input[0], swallow=True), total.input[1]
        if not bias:
            right, bias = self._biased(right, swallow=True)
        scale, offset = [*norm.input, ""][1:3]
        # The sum too, where others take it: they come behind, and what it is made of comes ahead of it.
        outputs = [norm.output[0], *(["", "", total.output[0]] if self._uses[total.output[0]] > 1 else [])]
        epsilon = helper.get_node_attr_value(norm, "epsilon")
        skip = _contrib("SkipLayerNormalization", [left, right, scale, offset, bias], outputs, epsilon=epsilon)
        self._instead |= {total.name: [skip], norm.name: []}

    def _activation(self, node: NodeProto) -> None:
        product, bias = self._biased(node.input[0], swallow=True)
        if bias:
            op = "BiasGelu" if node.op_type == "Gelu" else node.op_type
            self._instead[node.name] = [_contrib(op, [product, bias], node.output)]

    def _attention(self, node: NodeProto) -> None:
        projected = [self._biased(name, swallow=True) for name in node.input[:3]]
        products = self._products(product for product, _ in projected)
        if products:
            node.input[0] = self._join(products, node)
            node.input[1] = node.input[2] = ""
            node.input[3] = self._join_biases(products, [bias for _, bias in projected])

    def _attention_of_twin(self, node: NodeProto) -> None:
        unpacked = (self._unpacked(name) for name in node.input[:3])
        products = self._products(self._biased(name, swallow=False)[0] for name in unpacked)
        joined = self._join(products, node) if products else ""
        for i, product in enumerate(products):
            (name,) = product.output
            ends = (self._integers(value) for value in (i, i + 1, 2))
            self._instead[product.name] += [
                _node("Slice", [joined, *ends], [f"{name}.part"]),  # [tokens, heads, 1, size]
                _node("Reshape", [f"{name}.part", self._integers(0, -1)], [name]),
            ]

    def _products(self, names: Iterable[str]) -> list[NodeProto]:
        """What makes three values, if that is three products of one input with weights of one size, else none."""
        nodes = [node for name in names if (node := self._made.get(name)) is not None]
        products = [node for node in nodes if node.op_type == "MatMul" and self._uses[node.output[0]] == 1]
        sizes = {tuple(self._weights[node.input[1]].dims) for node in products if node.input[1] in self._weights}
        alike = len(products) == 3 and len({node.input[0] for node in products}) == 1
        return products if alike and len(sizes) == 1 else []

    def _join(self, products: Sequence[NodeProto], attention: NodeProto) -> str:
        """One product [tokens, heads, 3, size] in the place of three."""
        heads = helper.get_node_attr_value(attention, "num_heads")

        def by_head(weights: Sequence[Array]) -> Array:
            cut = [weight.reshape(len(weight), heads, -1) for weight in weights]
            return np.stack(cut, axis=2).reshape(len(weights[0]), -1)

        first = products[0]
        weight = self._joined([node.input[1] for node in products], by_head)
        product, joined = f"{first.output[0]}.joined", f"{first.output[0]}.by_head"
        size = self._weights[first.input[1]].dims[1] // heads
        self._instead |= {node.name: [] for node in products}
        self._instead[first.name] = [
            _node("MatMul", [first.input[0], weight], [product]),
            _node("Reshape", [product, self._integers(-1, heads, 3, size)], [joined]),
        ]
        return joined

    def _join_biases(self, products: Sequence[NodeProto], biases: Sequence[str]) -> str:
        """The biases of three products behind each other, zeros where one has none; "" where none has."""
        given = [bias for bias in biases if bias]
        width = self._weights[products[0].input[1]].dims[1]

        def behind_each_other(values: Sequence[Array]) -> Array:
            left = iter(values)
            return np.concatenate([next(left) if bias else np.zeros(width, values[0].dtype) for bias in biases])

        return self._joined(given, behind_each_other) if given else ""

    def _joined(self, names: Sequence[str], join: Callable[[Sequence[Array]], Array]) -> str:
        """One constant made of several; in the type that they are declared with, so that it takes no more memory."""
        dtype = dtype_of(self._weights[names[0]])
        values = [self._model.value(self._weights[name]).astype(dtype) for name in names]
        return self._model.constant(f"{names[0]}.joined", join(values), dtype)

    def _integers(self, *values: int) -> str:
        return self._model.constant("integers_" + "_".join(map(str, values)), np.array(values), np.dtype(np.int64))

    def _biased(self, name: str, *, swallow: bool) -> tuple[str, str]:
        """A value before a constant [width] was added to it, and that; as it is, and "", where none was.

        ``swallow``: none either where the sum has other uses.
        """
        node = self._made.get(name)
        if node is None or node.op_type != "Add" or (swallow and self._uses[name] > 1):
            return name, ""
        value, bias = node.input
        row = bias in self._weights and len(self._weights[bias].dims) == 1
        return (value, bias) if row else (name, "")

    def _unpacked(self, name: str) -> str:
        """What the twin unpacked to a value."""
        while (node := self._made.get(name)) is not None and node.op_type in ("Reshape", "Gather"):
            name = node.input[0]
        return name

    def _write(self, nodes: Iterable[NodeProto]) -> None:
        """Nodes in the place of all, and no more of them and of the constants than the outputs need."""
        graph, arrays = self._model.graph, self._model.arrays
        needed, kept = {value.name for value in graph.output}, list[NodeProto]()
        for node in reversed(list(nodes)):
            if not needed.isdisjoint(node.output):
                needed.update(node.input)
                kept.append(node)
        constants = [tensor for tensor in graph.initializer if tensor.name in needed]
        for field, values in ((graph.node, kept[::-1]), (graph.initializer, constants)):
            del field[:]
            field.extend(values)
        for name in arrays.keys() - needed:
            del arrays[name]


def _node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> NodeProto:
    return helper.make_node(op, inputs, outputs, name=f"{op}_{outputs[0].partition('_')[2]}", **attributes)


def _contrib(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> NodeProto:
    return _node(op, inputs, outputs, domain="com.microsoft", **attributes)
