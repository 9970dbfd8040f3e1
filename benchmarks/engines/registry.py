"""The engines that are measured, each by a short key, as data; what opens one lies in ``adapters/``.

Imported in peers' environments too, which have no crossrank: the standard library only.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Option = str | int | float | bool
Kind = Literal["exact", "approximate", "bf16", "int8"]


class WorkerError(RuntimeError):
    """An engine failed, or its process ended."""


class EngineUnavailable(WorkerError):
    """An engine, or what it needs, is not to be had here; the message is the reason, and what to do."""


def reason_of(error: Exception) -> str:
    """Why something failed: of what our processes raise the message, of others' errors their type too.

    >>> reason_of(ValueError("no scores today"))
    'ValueError: no scores today'
    """
    return str(error) if isinstance(error, WorkerError) else f"{type(error).__name__}: {error}"


@dataclass(frozen=True, slots=True)
class Engine:
    """A loaded model, as an adapter's ``open`` returns it, in the engine's process.

    Its scores are comparable between engines: the logit of a model with one label, of one with two labels the
    second's minus the first's, whatever the engine itself makes of them.

    Attributes:
        score: Query and what `prepare` gave -> the engine's own result. This is what is timed: whole calls, tokenizing
            included.
        facts: Gives what runs: precision, file, batching, the origin of the graph.
        packages: Whose versions a result tells.
        prepare: Query and documents -> what `score` takes, not timed; by default the documents themselves.
        read: That result -> one score per document, in their order; not timed.
    """

    score: Callable[[str, Any], Any]
    facts: Callable[[], dict[str, str]]
    packages: tuple[str, ...]
    prepare: Callable[[str, list[str]], Any] = lambda query, documents: documents
    read: Callable[[Any], Iterable[float]] = lambda result: result


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What to open, and where; plain data.

    Attributes:
        name: In tables.
        adapter: Module of ``adapters/`` whose ``open(folder, threads, **options)`` gives an `Engine`; with a dot in
            it, the full name of any module.
        kind: Which rows compare: exact float32, float32 with an approximate GELU, or a reduced precision.
        environment: A name under ``environments/``, which ``make bench-env`` makes; "" for this interpreter.
        model: Whose folder it opens: "" for the checkpoint, else one of `CONVERSIONS`.
        options: Keyword arguments of ``open``.
    """

    name: str
    adapter: str
    kind: Kind
    environment: str = ""
    model: str = ""
    options: dict[str, Option] = field(default_factory=dict)

    @property
    def by_shape(self) -> bool:
        """Whether it prepares each shape of a batch when that comes first, so that warm-up calls must be whole."""
        return "openvino" in f"{self.adapter} {self.model}"

    @property
    def expert(self) -> bool:
        """Whether it is set up as an expert would, beside the packages as they come."""
        return self.environment == _EXPERTS


@dataclass(frozen=True, slots=True)
class Conversion:
    """How a folder that engines open is made of the checkpoint: once, untimed, by their own tools.

    Attributes:
        adapter: Module of ``adapters/`` whose ``convert(source, output, **options)`` fills the folder ``output``.
        environment: Where it runs, as in `EngineSpec`.
        source: What it starts from: "" for the checkpoint, else another conversion.
        options: Keyword arguments of ``convert``.
    """

    adapter: str
    environment: str = ""
    source: str = ""
    options: dict[str, Option] = field(default_factory=dict)


_EXPERTS = "experts"
_ONNX = "sentence-transformers-onnx"  # sentence-transformers 5, the last with an ONNX backend that installs

CONVERSIONS: dict[str, Conversion] = {
    # Apart: where int8 is not proven, fp32 still is.
    "crossrank-fp32": Conversion("crossrank", options={"precision": "fp32"}),
    "crossrank-int8": Conversion("crossrank", options={"precision": "int8"}),
    "onnx": Conversion("sentence_transformers_onnx", _ONNX, options={"form": "onnx"}),
    "onnx-o3": Conversion("sentence_transformers_onnx", _ONNX, "onnx", {"form": "onnx-o3"}),
    "onnx-qint8": Conversion("sentence_transformers_onnx", _ONNX, "onnx", {"form": "onnx-qint8"}),
    "openvino": Conversion("sentence_transformers_onnx", _ONNX, options={"form": "openvino"}),
    "torch-onnx": Conversion("expert_onnxruntime", _EXPERTS, options={"precision": "fp32"}),
    "torch-onnx-int8": Conversion("expert_onnxruntime", _EXPERTS, "torch-onnx", {"precision": "int8"}),
    "nncf-int8": Conversion("expert_openvino", _EXPERTS, "torch-onnx"),
    "openvino-genai": Conversion("openvino_genai", _EXPERTS, "torch-onnx"),
    "ctranslate2": Conversion("expert_ctranslate2", _EXPERTS),
}


def _crossrank(precision: str, kind: Kind, encoded: bool = False, kernels: bool = False) -> EngineSpec:
    name = f"crossrank {precision}{', encoded documents' if encoded else ''}{', kernels' if kernels else ''}"
    options: dict[str, Option] = {"precision": precision, "encoded": encoded, "kernels": kernels}
    return EngineSpec(name, "crossrank", kind, model=f"crossrank-{precision}", options=options)


def _st_torch(dtype: str, kind: Kind) -> EngineSpec:
    name = f"sentence-transformers torch {dtype}"
    return EngineSpec(name, "sentence_transformers_torch", kind, options={"dtype": dtype})


def _st_onnx(name: str, kind: Kind, model: str, **options: Option) -> EngineSpec:
    name = f"sentence-transformers {name}"
    return EngineSpec(name, "sentence_transformers_onnx", kind, _ONNX, model, {"form": model, **options})


def _expert(name: str, adapter: str, kind: Kind, model: str, precision: str) -> EngineSpec:
    options: dict[str, Option] = {"precision": precision}
    return EngineSpec(f"expert {name}", f"expert_{adapter}", kind, _EXPERTS, model, options)


ENGINES: dict[str, EngineSpec] = {
    "crossrank-fp32": _crossrank("fp32", "exact"),
    "crossrank-int8": _crossrank("int8", "int8"),
    "crossrank-int8-kernels": _crossrank("int8", "int8", kernels=True),
    "crossrank-fp32-encoded": _crossrank("fp32", "exact", encoded=True),
    "crossrank-int8-encoded": _crossrank("int8", "int8", encoded=True),
    "st-torch-fp32": _st_torch("fp32", "exact"),
    "st-torch-bf16": _st_torch("bf16", "bf16"),
    "st-onnx": _st_onnx("onnx", "exact", "onnx"),
    "st-onnx-o3": _st_onnx("onnx-O3", "approximate", "onnx-o3"),
    "st-onnx-qint8": _st_onnx("onnx-qint8", "int8", "onnx-qint8"),
    # OpenVINO's default is bf16 where the CPU has it.
    "st-openvino": _st_onnx("openvino", "bf16", "openvino"),
    "st-openvino-fp32": _st_onnx("openvino fp32", "exact", "openvino", inference_precision="f32"),
    "fastembed-fp32": EngineSpec("fastembed fp32", "fastembed", "exact", "fastembed", "onnx"),
    "fastembed-qint8": EngineSpec("fastembed qint8", "fastembed", "int8", "fastembed", "onnx-qint8"),
    "flashrank-int8": EngineSpec("flashrank int8", "flashrank", "int8", "flashrank", "onnx-qint8"),
    "expert-onnxruntime-fp32": _expert("onnxruntime fp32", "onnxruntime", "exact", "torch-onnx", "fp32"),
    "expert-onnxruntime-int8": _expert("onnxruntime dynamic int8", "onnxruntime", "int8", "torch-onnx-int8", "int8"),
    "expert-openvino-fp32": _expert("openvino fp32", "openvino", "exact", "torch-onnx", "f32"),
    "expert-openvino-bf16": _expert("openvino bf16", "openvino", "bf16", "torch-onnx", "bf16"),
    "expert-openvino-int8": _expert("openvino NNCF int8", "openvino", "int8", "nncf-int8", "bf16"),
    "expert-ctranslate2-fp32": _expert("ctranslate2 fp32", "ctranslate2", "exact", "ctranslate2", "float32"),
    "expert-ctranslate2-int8": _expert("ctranslate2 int8", "ctranslate2", "int8", "ctranslate2", "int8"),
    "openvino-genai": EngineSpec("openvino-genai", "openvino_genai", "bf16", _EXPERTS, "openvino-genai"),
}
