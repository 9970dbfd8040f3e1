"""Facts about a loaded model: what it is and runs on, as data and as text."""

from dataclasses import dataclass
from pathlib import Path

from ._artifact.parity import Parity
from ._calls.relevance import Meaning
from ._device.open import OpenModel
from ._machine.onnxruntime import ort
from ._printable import printable_line

# Kinds of device that no committed results file was measured on.
_NOTES = {"tensorrt": "TensorRT is not yet run on hardware: its options and shapes are checked without a GPU"}


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts about a `CrossEncoder`, each with where it comes from.

    Attributes:
        source: The checkpoint's name and revision.
        folder: The artifact, or the folder of a foreign graph's settings.
        architecture: transformers' model_type.
        device: The device that runs.
        provider: The execution provider that runs.
        onnxruntime: Its version.
        variant: The graph's shape: cpu, cuda or portable.
        precision: fp32, fp16 or int8; of a foreign graph what its file's name says.
        file: The graph's file in ``folder``.
        exporter: What wrote the graph: native, optimum, or foreign for an ONNX file that crossrank did not make.
        threads: Threads on a CPU.
        threads_reason: Why so many.
        batch_tokens: Most tokens of a batch of several pairs.
        batch_tokens_origin: Whether that was measured on this machine.
        labels: Logits per pair.
        relevant_label: The one that means "relevant", None where that is not known or there is but one.
        activation: What turns logits into scores.
        activation_origin: Where that comes from.
        max_length: Most tokens of a pair.
        max_length_origin: Where that comes from.
        tokenizer: The tokenizer's model and vocabulary size.
        parity: Error of this graph, by what runs it, against the reference when it was exported; None for a foreign
            graph, and where that ran by other kernels or on a processor with other instructions.
        kernels: Why crossrank-kernels does not run an int8 graph, None where it does or the graph is another one.
        float_layers: Of an int8 graph, the layers that are computed in float since its bound needs it, from 0.
    """

    source: str
    folder: Path
    architecture: str
    device: str
    provider: str
    onnxruntime: str
    variant: str
    precision: str
    file: str
    exporter: str
    threads: int
    threads_reason: str
    batch_tokens: int
    batch_tokens_origin: str
    labels: int
    relevant_label: int | None
    activation: str
    activation_origin: str
    max_length: int
    max_length_origin: str
    tokenizer: str
    parity: Parity | None
    kernels: str | None = None
    float_layers: tuple[int, ...] = ()

    @property
    def by_kernels(self) -> bool:
        """Whether crossrank-kernels runs, in the place of onnxruntime."""
        return self.provider.startswith("crossrank-kernels ")

    @property
    def name(self) -> str:
        """The checkpoint's name, without its revision."""
        return self.source.partition(" at ")[0]

    @property
    def note(self) -> str | None:
        """What one should know of the device, None where there is nothing."""
        return _NOTES.get(self.device.partition(":")[0])

    def __str__(self) -> str:
        head = f"{self.labels} label{'s'[: self.labels != 1]}, {self.activation} ({self.activation_origin})"
        if self.relevant_label is not None:
            head += f"; label {self.relevant_label} means relevant"
        if self.relevant_label is not None and self.labels > 1 and self.activation_origin != "as asked":
            head += ", by Softmax in score and rank"
        rows = [
            ("model", self.source),
            ("folder", str(self.folder)),
            ("architecture", self.architecture),
            (
                "runs on",
                f"{self.device}, {self.provider}{'' if self.by_kernels else f', onnxruntime {self.onnxruntime}'}",
            ),
            ("graph", f"{self.variant} {self.precision}, {self.file} ({self.exporter})"),
            ("threads", f"{self.threads} ({self.threads_reason})"),
            ("batches", f"up to {self.batch_tokens} tokens ({self.batch_tokens_origin})"),
            ("head", head),
            ("max length", f"{self.max_length} tokens ({self.max_length_origin})"),
            ("tokenizer", self.tokenizer),
        ]
        proof = "not proven by crossrank"
        if self.by_kernels:
            proof = "not recorded of these kernels on this processor: crossrank verify shows it"
        if self.parity is not None:
            proof = (
                f"max |Δlogit| {self.parity.max_abs:.2g}, mean {self.parity.mean_abs:.2g}, "
                f"Kendall tau {self.parity.kendall_tau:.4f} against {self.parity.reference}"
            )
        rows.append(("parity", proof))
        if self.float_layers:
            spared = f"layers {', '.join(map(str, self.float_layers))}, which the bound needs"
            if self.by_kernels:
                spared += f", by products of {'bfloat16' if 'bf16' in self.provider else 'float32'}"
            rows.append(("in float", spared))
        if self.kernels is not None:
            rows.append(("kernels", self.kernels))
        if self.note is not None:
            rows.append(("note", self.note))
        return "\n".join(f"{name:<13} {printable_line(value)}" for name, value in rows)


def describe_model(model: OpenModel, meaning: Meaning, max_length: int, max_length_origin: str) -> ModelInfo:
    """What a loaded model is and runs on.

    Args:
        model: The model.
        meaning: What its logits mean.
        max_length: Most tokens of a pair.
        max_length_origin: Where that comes from.
    """
    source, variant, backend = model.manifest.source, model.variant, model.backend
    return ModelInfo(
        source=source.name if source.revision is None else f"{source.name} at {source.revision}",
        folder=model.folder,
        architecture=source.architecture,
        device=str(backend.device),
        provider=backend.provider,
        onnxruntime=ort.__version__,
        variant=variant.variant,
        precision=variant.precision,
        file=variant.file,
        exporter=model.manifest.exporter,
        threads=model.threads.count,
        threads_reason=model.threads.reason,
        batch_tokens=backend.max_tokens,
        batch_tokens_origin=backend.max_tokens_origin,
        labels=meaning.head.labels,
        relevant_label=meaning.head.relevant_label,
        activation=meaning.name,
        activation_origin=meaning.origin,
        max_length=max_length,
        max_length_origin=max_length_origin,
        tokenizer=f"{model.tokenizer.kind}, {model.tokenizer.vocabulary_size:,} tokens",
        parity=variant.kernels_on(backend.provider) if backend.flat else variant.parity,
        kernels=model.kernels,
        float_layers=variant.float_layers,
    )
