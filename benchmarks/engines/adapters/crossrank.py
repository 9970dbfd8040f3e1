"""crossrank, on an artifact that this checkout exports of the checkpoint."""

import os
from pathlib import Path
from typing import Any, Literal

from benchmarks.engines.registry import Engine
from crossrank import CrossEncoder

from ._scores import labels_of

PACKAGES = ("crossrank", "onnxruntime", "tokenizers", "numpy")


def convert(source: Path, output: Path, *, precision: str) -> None:
    """Export the CPU graph in this precision.

    Deep models with drawn weights magnify rounding as no trained one does, and may leave the bounds of int8: then the
    same graph is built without a proof, and the facts say so.
    """
    import shutil

    from crossrank import ProofError
    from crossrank.export import export_model
    from crossrank.export._exporters.native import read_native

    try:
        export_model(source, output, variants=["cpu"], precisions=[precision])
    except ProofError:
        blueprint = read_native(source, None, max_length=None)
        (output / "onnx").mkdir(parents=True)
        blueprint.build(("cpu", precision), output / "onnx" / f"model_{precision}.onnx")
        blueprint.tokenizer.save(output / "tokenizer.json")
        for name in ("config.json", "tokenizer_config.json"):
            shutil.copyfile(source / name, output / name)


def open(folder: Path, threads: int, *, precision: Literal["fp32", "int8"], encoded: bool, kernels: bool) -> Engine:
    """Open what `convert` wrote, on onnxruntime or on the compiled kernels.

    With encoded documents, which were tokenized before, the time of `score` is the query's tokens, the joining and the
    model. Where the kernels do not run, the facts raise ValueError.
    """
    os.environ["CROSSRANK_KERNELS"] = str(int(kernels))
    two_labels = labels_of(folder) == 2
    model: Any = CrossEncoder(
        folder,
        precision=precision,
        threads=threads,
        device="cpu",
        relevant_label=1 if two_labels else None,
        # The second label's lead, in its own column.
        activation_fn=(lambda logits: logits - logits[:, ::-1]) if two_labels else "identity",
    )

    def facts() -> dict[str, str]:
        info = model.info()
        if kernels and not info.provider.startswith("crossrank-kernels"):
            why = info.kernels or "the graph left its bound, so it is no artifact"
            raise ValueError(f"crossrank-kernels do not run here: {why}")
        return {
            "precision": info.precision,
            "graph": info.file,
            "runs_on": info.provider,
            "batches": "planned by length",
            "documents": "token ids" if encoded else "texts",
            "proof": "left the bounds" if info.parity is None else "within the bounds",
        }

    if not encoded:
        return Engine(model.score, facts, PACKAGES)
    return Engine(model.score, facts, PACKAGES, prepare=lambda query, documents: model.encode(documents))
