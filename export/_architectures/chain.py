"""sentence-transformers' heads of modules: a Pooling, then Dense and LayerNorm in any number, read as one head."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from crossrank._artifact.activation import name_in_torch
from crossrank._artifact.settings import ModelFolder, Module
from crossrank._errors import CheckpointError, UnsupportedModelError, attempt, join_problems
from crossrank._interrupts import not_thrown_in
from crossrank._json import read_json_object
from crossrank.export._graphs.encoder import Step, StepsHead
from crossrank.export._graphs.layers import Linear, Norm
from crossrank.export._read.tensors import open_tensors

from .base import Tensors

# What a Dense computes behind its product, by the class that its config.json names; made without arguments.
_ACTIVATIONS = {
    **{"Identity": "identity", "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu", "SiLU": "silu", "Sigmoid": "sigmoid"},
    **{"ELU": "elu", "LeakyReLU": "leaky_relu"},
}
_POOLINGS = ("cls", "mean")
# The settings of a Pooling as sentence-transformers 5 writes it, which 6 still reads.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_EPSILON = 1e-5  # of torch's LayerNorm, which takes no other here
_POOLED, _SCORES = "sentence_embedding", "scores"
_LARGEST = 10**7


def read_chain(source: ModelFolder, hidden: int) -> tuple[StepsHead, int]:
    """The head that a model's modules are, and the logits that it gives.

    Args:
        source: A model with modules behind its transformer.
        hidden: What the transformer gives for each token.

    Raises:
        CheckpointError: For files that are missing, damaged or do not fit each other, all at once.
        UnsupportedModelError: For settings that are not known here, all at once.
    """
    reader = _Reader(source.root, hidden)
    pooling, *rest = source.modules
    mode = reader.read_pooling(pooling)
    steps = [step for module in rest if (step := reader.read(module)) is not None]
    if reader.row != _SCORES:
        reader.refused.append(
            f"{rest[-1].path} gives {reader.row!r:.60}, not {_SCORES!r}: this is no reranker but an embedding model, "
            f"which encodes queries and documents apart"
        )
    if reader.refused:
        raise UnsupportedModelError(join_problems(f"{source.root}: modules.json", reader.refused + reader.problems))
    if reader.problems:
        raise CheckpointError(join_problems("modules.json", reader.problems))
    return StepsHead(mode, tuple(steps)), reader.width


class _Reader:
    """The state of a row on its way through the modules: its name among sentence-transformers' features, its width.

    Args:
        root: The model's folder.
        width: Of a token's row.
    """

    def __init__(self, root: Path, width: int) -> None:
        self._root = root
        self.width, self.row = width, _POOLED
        self.problems: list[str] = []
        self.refused: list[str] = []

    def read_pooling(self, module: Module) -> Literal["cls", "mean"]:
        config, widths = self._config(module), ("embedding_dimension", "word_embedding_dimension")
        self._check_width(module, config, *widths)
        self._check_names(module, config, *widths, "pooling_mode", "include_prompt", *_FLAGS)
        flags = [mode for flag, mode in _FLAGS.items() if config.get(flag)]
        modes = config.get("pooling_mode", flags or "mean")
        mode = modes[0] if isinstance(modes, list) and len(modes) == 1 else modes
        if mode not in _POOLINGS:
            self.refused.append(f"{module.path}: the pooling is {mode!r:.80}; supported are {', '.join(_POOLINGS)}")
        return "mean" if mode == "mean" else "cls"

    def read(self, module: Module) -> Step | Norm | None:
        """The step of a module, None for one that does nothing."""
        if module.kind == "Dropout":
            return None
        config = self._config(module)
        opened = attempt(lambda: open_tensors(self._root / module.path), self.problems)
        tensors = Tensors(opened or {}, "")
        read = self._norm if module.kind == "LayerNorm" else self._dense
        step = read(module, config, tensors)
        if opened is not None and config:
            attempt(tensors.check, self.problems)
        return step

    def _norm(self, module: Module, config: Mapping[str, Any], tensors: Tensors) -> Norm:
        self._check_width(module, config, "dimension")
        self._check_names(module, config, "dimension")
        self._check_row(module, _POOLED)
        norm = tensors.norm(f"head.{module.path}", "norm", self.width)
        return Norm(norm.name, norm.scale, norm.bias, _EPSILON)

    def _dense(self, module: Module, config: Mapping[str, Any], tensors: Tensors) -> Step:
        self._check_width(module, config, "in_features")
        taken = config.get("module_input_name") or _POOLED
        self._check_row(module, taken)
        self.row = config.get("module_output_name") or taken
        outputs = self._count(module, config, "out_features")
        label, bias = f"head.{module.path}", bool(config.get("bias", True))
        linear = tensors.linear(label, "linear", self.width, outputs, bias=bias)
        residual: Linear | Literal["same"] | None = None
        if config.get("use_residual"):
            residual = "same"
            if self.width != outputs:
                residual = tensors.linear(f"{label}.residual", "residual", self.width, outputs, bias=False)
        self.width = outputs
        return Step(linear, self._activation(module, config), residual)

    def _activation(self, module: Module, config: Mapping[str, Any]) -> str:
        path = config.get("activation_function", "torch.nn.modules.activation.Tanh")
        name = name_in_torch(path)
        if name not in _ACTIVATIONS:
            known = ", ".join(_ACTIVATIONS)
            self.refused.append(f"{module.path}: activation_function is {path!r:.80}; supported are torch's {known}")
            return "identity"
        return _ACTIVATIONS[name]

    def _config(self, module: Module) -> dict[str, Any]:
        try:
            return read_json_object(self._root / module.path / "config.json")
        except not_thrown_in(OSError, ValueError) as error:
            self.problems.append(f"{module.path}/config.json: {error!s:.200}")
            return {}

    def _check_width(self, module: Module, config: Mapping[str, Any], *names: str) -> None:
        name = next((name for name in names if name in config), names[0])
        if config and config.get(name) != self.width:
            self.problems.append(f"{module.path}: {name} is {config.get(name)!r:.60}; {self.width} come in")

    def _check_names(self, module: Module, config: Mapping[str, Any], *known: str) -> None:
        """As sentence-transformers, which ignores what it does not know in a Dense alone."""
        if unknown := ", ".join(sorted(config.keys() - set(known))):
            self.refused.append(f"{module.path}: {unknown:.80} is not known; supported are {', '.join(known)}")

    def _check_row(self, module: Module, taken: object) -> None:
        if taken != self.row:
            self.refused.append(f"{module.path} takes {taken!r:.60}; before it stands {self.row!r:.60}")

    def _count(self, module: Module, config: Mapping[str, Any], name: str) -> int:
        value = config.get(name)
        if type(value) is int and 1 <= value <= _LARGEST:
            return value
        if config:
            self.problems.append(f"{module.path}: {name} is {value!r:.60}; 1 to {_LARGEST} expected")
        return 1
