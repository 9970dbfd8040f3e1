"""openvino-genai's TextRerankPipeline: tokenizer and model in OpenVINO, all documents in one batch."""

import json
from pathlib import Path

import openvino_genai

from benchmarks.engines.registry import Engine

from ._expert import copy_settings
from ._scores import from_probabilities, labels_of


def convert(source: Path, output: Path) -> None:
    """Convert an exported model and its tokenizer."""
    import openvino
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    copy_settings(source, output)
    openvino.save_model(openvino.Core().read_model(source / "model.onnx"), output / "openvino_model.xml", False)
    tokenizer = AutoTokenizer.from_pretrained(str(source), local_files_only=True)
    openvino.save_model(convert_tokenizer(tokenizer, number_of_inputs=2), output / "openvino_tokenizer.xml")


def open(folder: Path, threads: int) -> Engine:
    """Open what `convert` wrote.

    Raises:
        ValueError: If the model has several labels.
    """
    if (labels := labels_of(folder)) != 1:
        raise ValueError(f"openvino-genai scores by the first logit, and this model has {labels} labels")
    room = json.loads((folder / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    settings = {"max_length": room, "INFERENCE_NUM_THREADS": threads}
    pipeline = openvino_genai.TextRerankPipeline(folder, "CPU", top_n=1_000_000, **settings)

    return Engine(
        pipeline.rerank,
        lambda: {
            "precision": "bf16 where the CPU has it, its default",
            "graph": "openvino_model.xml, exported by torch",
            "runs_on": "OpenVINO CPU",
            "batches": "all documents in one",
            "scores": "logits of its float32 probabilities",
        },
        ("openvino-genai", "openvino", "openvino-tokenizers"),
        prepare=lambda query, documents: list(documents),
        read=lambda ranking: from_probabilities([score for _, score in sorted(ranking)]),
    )
