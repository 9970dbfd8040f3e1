"""Graphs in float16 where it holds: nodes whose values would overflow it stay in float32.

A CPU runs float16 graphs in float32, so that an overflow does not show in a proof there. What values reach is measured
in float32 instead, on the proof's texts, and what comes near the largest float16 is not left to it. All of it on plain
graphs, in which every value shows; `fused` operators come later.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from crossrank._errors import UnsupportedModelError

from .graph import Model, save_model

# Other texts than the proof's may reach four times as far before float16's 65504 is left.
LARGEST = 65504 / 4
_OVERFLOW = 65520  # and more becomes infinite
_PEAK = "peak:"
_FLOATS = (TensorProto.FLOAT16, TensorProto.FLOAT)

# Runs a graph on text: gets its path and names of outputs, gives the largest value of each over all runs.
Measure = Callable[[Path, list[str]], Mapping[str, float]]


def keep_in_float32(graph: Model, twin: Model, exact: Model, path: Path, measure: Measure) -> list[str]:
    """Change a packed float16 graph and its twin where values come near the largest float16.

    Args:
        graph: The graph for a GPU, plain; changed in place.
        twin: What differs from it in attention alone and runs on a CPU, changed in place.
        exact: The twin in float32.
        path: A file that is there for a while.
        measure: Runs a graph on text.

    Returns:
        The nodes of ``graph`` that are now in float32; none, and nothing changed, if there is no need.

    Raises:
        UnsupportedModelError: If weights are too large for float16.
    """
    infinite = [tensor.name for tensor in twin.graph.initializer if _overflows(twin, tensor)]
    if infinite:
        raise UnsupportedModelError(f"weights that are no numbers in float16: {', '.join(infinite[:5])}")
    types = _value_types(twin.proto)
    large = {name for name in _large_values(exact, path, measure) if types[name] == TensorProto.FLOAT16}
    if not large:
        return []
    kept = widen(graph, {ours for ours, theirs in _same_values(graph, twin).items() if theirs in large})
    widen(twin, large)
    return kept


def _overflows(model: Model, tensor: onnx.TensorProto) -> bool:
    """Whether a float16 weight holds what rounds beyond the largest float16."""
    if tensor.data_type != TensorProto.FLOAT16:
        return False
    value = model.value(tensor)
    return max(float(value.max()), -float(value.min())) >= _OVERFLOW


def widen(model: Model, large: set[str]) -> list[str]:
    """Compute values in float32 that float16 does not hold.

    Args:
        model: A float16 graph, changed in place.
        large: The values. What makes or takes one runs in float32; what it makes becomes float16 where it is taken
            by another, unless it is large itself.

    Returns:
        Names of the nodes that run in float32.
    """
    types = _value_types(model.proto)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = list(model.graph.node)
    del model.graph.node[:]
    wide: set[str] = set()  # values that are float32 under their own name
    made: set[str] = set()  # values in their other type
    kept = []

    def other(name: str, kind: int) -> str:
        renamed = f"{name}.float{32 if kind == TensorProto.FLOAT else 16}"
        if renamed not in made:
            made.add(renamed)
            if name in weights:
                tensor = model.graph.initializer.add(name=renamed, data_type=kind, dims=weights[name].dims)
                if name in model.arrays:
                    model.arrays[renamed] = model.arrays[name]
                else:
                    tensor.raw_data = numpy_helper.to_array(weights[name]).astype(np.float32).tobytes()
            else:
                model.graph.node.append(helper.make_node("Cast", [name], [renamed], name=renamed, to=kind))
        return renamed

    for node in nodes:
        if node.op_type not in ("Shape", "Cast"):  # these take any type
            keep = not large.isdisjoint([*node.input, *node.output])
            for i, name in enumerate(node.input):
                if types.get(name) in _FLOATS and (name in wide) != keep:
                    node.input[i] = other(name, TensorProto.FLOAT if keep else TensorProto.FLOAT16)
            if keep:
                wide.update(node.output)
                kept.append(node.name)
        model.graph.node.append(node)
    return kept


def _large_values(exact: Model, path: Path, measure: Measure) -> set[str]:
    """The values of a float32 graph that come near the largest float16."""
    watched = onnx.ModelProto()
    watched.CopyFrom(exact.proto)
    types = _value_types(watched)
    names = [name for node in exact.graph.node for name in node.output if types[name] in _FLOATS]
    for name in reversed(names):  # onnxruntime computes the last first, and keeps no value until the end
        sizes = helper.make_node("Abs", [name], [f"size:{name}"])
        watched.graph.node.extend([sizes, helper.make_node("ReduceMax", [f"size:{name}"], [_PEAK + name], keepdims=0)])
        watched.graph.output.append(helper.make_tensor_value_info(_PEAK + name, TensorProto.FLOAT, []))
    try:
        save_model(Model(watched, exact.arrays), path, limit_bytes=0)
        peaks = measure(path, [_PEAK + name for name in names])
    finally:
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
    return {name for name in names if not peaks[_PEAK + name] <= LARGEST}  # a NaN is large too


def _value_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of each value of a graph as the builder writes them: of its float inputs, else an integer."""
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        kinds = [types[name] for name in node.input if name]
        if node.op_type == "Cast":
            found = helper.get_node_attr_value(node, "to")
        elif node.op_type == "Shape":
            found = TensorProto.INT64
        else:
            found = next((kind for kind in kinds if kind in _FLOATS), kinds[0])
        types |= dict.fromkeys(node.output, found)
    return types


def _same_values(model: Model, twin: Model) -> dict[str, str]:
    """The values of a packed graph, each with the name of the same one in its twin."""

    def key(node: NodeProto, inputs: Sequence[str]) -> tuple[str, ...]:
        return node.op_type, *inputs, *map(str, node.attribute)

    theirs = {key(node, node.input): node.output[0] for node in twin.graph.node}
    # What stands for the fused operator is many nodes, and behind attention itself a Gather that packs is the last.
    after = iter(twin.graph.node)
    packed = [next(n for n in after if n.op_type == "Gather") for n in after if n.op_type == "MultiHeadAttention"]
    fused, found = iter(packed), dict[str, str]()
    for node in model.graph.node:
        inputs = [found.get(name, name) for name in node.input]
        same = next(fused).output[0] if node.op_type == "PackedMultiHeadAttention" else theirs[key(node, inputs)]
        found[node.output[0]] = same
    return found
