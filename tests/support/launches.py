"""The launches of one batch on a packed graph, by kernel, on an emulation of CUDA (`tests.support.rig`).

python -m tests.support.launches [ARCHITECTURE] [TOKENS]     # of tests.support.tiny_models; bert, 32768
"""

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
from tests.support import rig
from tests.support.tiny_models import MAX_LENGTH, make_checkpoint


def open_packed(folder: Path, architecture: str = "bert", **config: Any) -> PackedSession:
    """The packed graph of a tiny checkpoint, loaded on a GPU.

    Args:
        folder: Gets "checkpoint" and "artifact".
        architecture: Of `tests.support.tiny_models.ARCHITECTURES`.
        config: Fields of its config.
    """
    checkpoint = make_checkpoint(folder / "checkpoint", architecture, **config)
    artifact = export_model(checkpoint, folder / "artifact", variants=["cuda"])
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


def main() -> None:
    if not rig.EMULATED:
        sys.exit("there is no emulation of CUDA: FAKE_CUDART names none")
    architecture = sys.argv[1] if len(sys.argv) > 1 else "bert"
    tokens = sys.argv[2] if len(sys.argv) > 2 else "32768"
    with tempfile.TemporaryDirectory() as folder:
        found = count_launches(open_packed(Path(folder), architecture), batch_of(int(tokens)))
    print(f"{architecture}, {tokens} tokens: {found.total()} launches on {rig.describe()}")
    for name, count in found.most_common():
        print(f"{count:5}  {name:.110}")


if __name__ == "__main__":
    main()
