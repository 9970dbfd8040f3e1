"""The launches of one batch on a packed graph, by kernel, on an emulation of CUDA (`tests.support.rig`).

python -m tests.support.launches [ARCHITECTURE] [--tokens N] [--config JSON]

ARCHITECTURE is of tests.support.tiny_models, JSON fields of its config: MiniLM-L6 is {"hidden_size": 384,
"num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}. Of the plain graph and the fused one,
with what passes through memory for a document of 85 tokens (`traffic_bytes`).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from crossrank._device.cuda.session import PackedSession
from crossrank._machine.device import Device
from crossrank._text.pairs import PackedPairs
from crossrank.export import export_model
from crossrank.export._architectures.checkpoint import read_checkpoint
from crossrank.export._graphs.graph import Model, save_model
from crossrank.export._graphs.layouts.cuda import build_cuda
from tests.support import rig
from tests.support.tiny_models import MAX_LENGTH, make_checkpoint

_DOCUMENT = 85  # tokens, as the published figures have them on average


def open_packed(folder: Path, architecture: str = "bert", **config: Any) -> PackedSession:
    """The packed graph of a tiny checkpoint, loaded on a GPU.

    Args:
        folder: Gets "checkpoint" and "artifact".
        architecture: Of `tests.support.tiny_models.ARCHITECTURES`.
        config: Fields of its config.
    """
    return open_exported(make_checkpoint(folder / "checkpoint", architecture, **config), folder / "artifact")


def open_exported(checkpoint: Path, artifact: Path) -> PackedSession:
    """The packed graph of a checkpoint, loaded on a GPU; ``artifact`` is a folder to be."""
    export_model(checkpoint, artifact, variants=["cuda"])
    inputs = read_checkpoint(checkpoint, max_length=None, relevant_label=None).inputs
    return PackedSession(artifact / "onnx" / "model_cuda_fp16.onnx", inputs, Device("cuda"))


def batch_of(tokens: int, length: int = MAX_LENGTH) -> PackedPairs:
    """About so many tokens, all zero, in pairs of one length."""
    lengths = np.full(tokens // length, length, np.int32)
    nothing = np.zeros(lengths.sum(), np.int32)
    return PackedPairs(nothing, nothing, lengths)


def count_launches(session: PackedSession, batch: PackedPairs) -> Counter[str]:
    """What a batch launches, by readable name, when it is not the first of its size."""
    session.run(batch)
    with rig.trace() as lines:
        session.run(batch)
    found = rig.launches(lines)
    named = subprocess.run(["c++filt"], input="\n".join(found), capture_output=True, text=True, check=True)
    readable = Counter[str]()
    for name, count in zip(named.stdout.splitlines(), found.values(), strict=True):
        readable[name.replace("onnxruntime::", "")] += count
    return readable


def traffic_bytes(model: Model, tokens: int) -> int:
    """What the kernels of a packed graph read and write of activations for one pair: counted, not measured.

    Each value is read where it is used and written where it is made, as if no cache held it: weights, which all pairs
    of a batch share, are not counted. A product with a bias behind it is one kernel that reads what another has filled
    with the bias; joined queries, keys and values are parted by a kernel of their own.
    """
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    sizes: dict[str, tuple[int, int]] = {}  # rows, width
    uses = Counter(name for node in model.graph.node for name in node.input)
    total, products = 0, set[str]()
    for node in model.graph.node:
        operands = [sizes[name] for name in node.input if name in sizes]
        rows, width = operands[0] if operands else (tokens, 0)
        moved = sum(map(np.prod, operands))
        match node.op_type:
            case "MatMul":
                width = weights[node.input[1]][1]
                if uses[node.output[0]] == 1:
                    products.add(node.output[0])
            case "Gather":
                table = weights.get(node.input[0])
                rows, width = (tokens, table[1]) if table else (1, width)
                moved = rows * width
            case "PackedMultiHeadAttention" if len(operands) == 1:
                width //= 3
                moved = 3 * moved  # read, written in parts, read
            case "Add" if node.input[0] in products and node.input[1] in weights:
                moved = rows * width  # and what is filled is written as below
            case "Slice" | "Shape":
                continue
        sizes[node.output[0]] = rows, width
        if node.op_type != "Reshape":
            total += moved + rows * width
    return 2 * total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture", nargs="?", default="bert")
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--config", type=json.loads, default={})
    options = parser.parse_args()
    if not rig.EMULATED:
        sys.exit("there is no emulation of CUDA: FAKE_CUDART names none")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_checkpoint(Path(folder) / "checkpoint", options.architecture, **options.config)
        read, path = read_checkpoint(checkpoint, max_length=None, relevant_label=None), Path(folder) / "packed.onnx"
        for fused in (False, True):
            model = build_cuda(read.weights, read.config, token_types=read.inputs.token_types, fused=fused)
            save_model(model, path)
            found = count_launches(PackedSession(path, read.inputs, Device("cuda")), batch_of(options.tokens))
            print(
                f"{'fused' if fused else 'plain'}: {found.total()} launches on {rig.describe()}, "
                f"{traffic_bytes(model, _DOCUMENT) / 1e6:.1f} MB for {_DOCUMENT} tokens"
            )
            for name, count in found.most_common():
                print(f"{count:5}  {name:.110}")


if __name__ == "__main__":
    main()
