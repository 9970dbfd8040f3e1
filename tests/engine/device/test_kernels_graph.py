"""What crossrank-kernels takes of a graph: of what it would compute otherwise, nothing."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache

import pytest

from crossrank._artifact.manifest import Inputs, read_manifest
from crossrank._device.kernels.model import NotCovered, recognize
from crossrank._device.kernels.onnx_file import OnnxGraph, OnnxNode, read_onnx
from crossrank.export import export_model
from tests.support.compiled_kernels import float_layers
from tests.support.tiny_models import make_checkpoint

Made = Callable[..., tuple[OnnxGraph, Inputs]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """An architecture's int8 graph, of three layers where some are in float, and its manifest's facts about inputs."""

    @cache
    def make(architecture: str, floats: tuple[int, ...] = ()) -> tuple[OnnxGraph, Inputs]:
        folder = tmp_path_factory.mktemp(architecture)
        sizes = {"embedding_size": 32} if architecture == "electra" else {}  # as wide as its layers
        sizes |= {"num_hidden_layers": 3} if floats else {}
        checkpoint = make_checkpoint(folder / "checkpoint", architecture, **sizes)
        with float_layers(*floats):
            artifact = export_model(checkpoint, folder / "artifact", variants=["cpu"], precisions=["int8"])
        manifest = read_manifest(artifact)
        return read_onnx(artifact / manifest.variants[0].file), manifest.inputs

    return make


@pytest.mark.parametrize(
    ("architecture", "activation"),
    [("bert", "tanh"), ("electra", "gelu"), ("distilbert", "relu"), ("roberta", "tanh")],
)
def test_the_head_and_the_positions_are_read_off_the_graph(made: Made, architecture: str, activation: str) -> None:
    graph, inputs = made(architecture)
    found = recognize(graph, inputs)
    assert (found.activation, found.head_activation) == ("gelu", activation)
    assert found.pad_id == (inputs.pad_id if architecture == "roberta" else None)


@pytest.mark.parametrize("op", ["Tanh", "Add", "Mul"])
def test_what_follows_the_classifier_is_not_left_out(made: Made, op: str) -> None:
    graph, inputs = made("bert")
    *nodes, last = graph.nodes
    assert (last.op, list(last.outputs)) == ("Cast", ["logits"])
    others = () if op == "Tanh" else ("input_ids",)
    more = OnnxNode(op, (last.inputs[0], *others), ("more",), {})
    with pytest.raises(NotCovered, match=f"more than head.classifier before its output, {op}"):
        recognize(replace(graph, nodes=[*nodes, more, replace(last, inputs=("more",))]), inputs)


def test_what_is_between_the_heads_products_is_not_left_out(made: Made) -> None:
    graph, inputs = made("bert")
    (activation,) = (node for node in graph.nodes if node.op == "Tanh")
    (value,) = activation.outputs
    more = OnnxNode("Add", (value, "input_ids"), ("more",), {})

    def moved(node: OnnxNode) -> OnnxNode:
        return replace(node, inputs=tuple("more" if name == value else name for name in node.inputs))

    with pytest.raises(NotCovered, match=r"more between head\.dense and head\.classifier"):
        recognize(replace(graph, nodes=[*map(moved, graph.nodes), more]), inputs)
    with pytest.raises(NotCovered, match="2 times in place of once"):
        recognize(replace(graph, nodes=[*graph.nodes, more]), inputs)


@pytest.mark.parametrize(("pad_id", "offset"), [(1, 1), (1, 0), (0, 1), (-1, 0)])
def test_positions_that_count_otherwise_than_the_manifest_says_are_refused(
    made: Made, pad_id: int, offset: int
) -> None:
    graph, inputs = made("roberta")
    other = replace(inputs, pad_id=inputs.pad_id + pad_id, position_offset=inputs.position_offset + offset)
    with pytest.raises(NotCovered, match="counts positions otherwise"):
        recognize(graph, other)


@pytest.mark.parametrize("floats", [(0,), (0, 1), (1, 2)])
def test_layers_in_float_are_taken(made: Made, floats: tuple[int, ...]) -> None:
    found = recognize(*made("bert", floats))
    assert [f"layer.{i}.up.weight" in found.tensors for i in range(2)] == [i in floats for i in range(2)]


def test_of_a_layer_whose_bytes_come_from_nowhere_it_is_said(made: Made) -> None:
    graph, inputs = made("bert")
    nodes = [node for node in graph.nodes if not _quantizes(node, "layer.0.")]
    assert len(nodes) < len(graph.nodes)
    with pytest.raises(NotCovered, match="its norms elsewhere than BERT"):
        recognize(replace(graph, nodes=nodes), inputs)


@pytest.mark.parametrize("layer", range(3))
def test_a_feed_forward_that_takes_what_no_norm_gave_is_refused(made: Made, layer: int) -> None:
    graph, inputs = made("bert", (0,))
    (product,) = (
        node for node in graph.nodes if f"layer.{layer}.up.{'int8' if layer == 1 else 'weight'}" in node.inputs
    )
    other = replace(product, inputs=("input_ids", *product.inputs[1:]))
    with pytest.raises(NotCovered, match="its norms elsewhere than BERT"):
        recognize(replace(graph, nodes=[other if node is product else node for node in graph.nodes]), inputs)


def _quantizes(node: OnnxNode, layer: str) -> bool:
    return node.op == "QuantizeLinear" and node.inputs[1].startswith(layer)


@pytest.mark.parametrize(("architecture", "floats"), [("bert", ()), ("bert", (0,)), ("roberta", ())])
@pytest.mark.parametrize("part", ["inputs", "outputs"])
def test_a_graph_that_lacks_names_is_refused_and_breaks_nothing(
    made: Made, architecture: str, floats: tuple[int, ...], part: str
) -> None:
    graph, inputs = made(architecture, floats)
    names: list[tuple[str, ...]] = [(), ("nobody",)]
    for i, node in enumerate(graph.nodes):
        for some in names:
            other = replace(node, inputs=some) if part == "inputs" else replace(node, outputs=some)
            with suppress(NotCovered):
                recognize(replace(graph, nodes=[*graph.nodes[:i], other, *graph.nodes[i + 1 :]]), inputs)
    for damaged in (replace(graph, nodes=[]), replace(graph, nodes=graph.nodes[:-1]), replace(graph, outputs=[])):
        with pytest.raises(NotCovered):
            recognize(damaged, inputs)
