"""The attributes of a model: only what it has can be assigned, and what sentence-transformers has says what to use.

An attribute that nobody reads would be assigned without a word, and every score be another than its caller thinks.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ._artifact.activation import Activation
from ._artifact.tokenizer_file import TokenizerFile
from ._calls.call import Calls
from ._calls.compatibility import NO_PROMPTS
from ._calls.run import Scorer
from ._device.open import OpenModel
from ._errors import ArtifactError
from ._interrupts import not_thrown_in
from ._json import read_json_object

_TENSORS = "there is no torch module here, an ONNX graph runs: use score, rank and predict"
_TOKENIZER = "encode() tokenizes documents ahead; the tokenizer's file is tokenizer.json in info().folder"
_DEVICE = "pass device= to CrossEncoder"
_PRECISION = "pass precision= to CrossEncoder"
_NOTHING = "leave it out: a CrossEncoder only scores"
_SAVING = "copy info().folder, or write it elsewhere with crossrank.export.export_model(NAME, FOLDER)"
_NO_POOL = "leave it out, and pool= too: threads share one model, a process that gets a pickle of it opens its own"

# Attributes of sentence-transformers and torch, and what to use here.
_INSTEAD: dict[str, str] = {
    **dict.fromkeys(("model", "transformers_model", "modules", "forward", "parameters", "state_dict"), _TENSORS),
    **dict.fromkeys(("tokenizer", "processor", "tokenize", "preprocess"), _TOKENIZER),
    **dict.fromkeys(("to", "cpu", "cuda", "device", "_target_device"), _DEVICE),
    **dict.fromkeys(("half", "float", "double", "bfloat16", "dtype"), _PRECISION),
    **dict.fromkeys(("eval", "train", "training", "compile", "requires_grad_"), _NOTHING),
    **dict.fromkeys(("save", "save_pretrained", "save_to_hub", "push_to_hub"), _SAVING),
    **dict.fromkeys(("prompts", "default_prompt_name"), NO_PROMPTS),
    **dict.fromkeys(("start_multi_process_pool", "stop_multi_process_pool"), _NO_POOL),
    **dict.fromkeys(("fit", "old_fit"), "train with sentence-transformers, and name the folder that it saves here"),
    "evaluate": "call the evaluator with the model: evaluator(model)",
    "get_max_seq_length": "read max_length",
    "num_labels": "a head is not made anew here",
    "config": "nothing here is computed by it",
    "model_card_data": "write to it",
}


class KnownAttributes:
    """A class of ours whose unknown attributes cannot be assigned; a subclass of someone else's may have its own."""

    # Attributes that are assigned without a property.
    _assigned: ClassVar[frozenset[str]] = frozenset()
    # Attributes that the class makes itself when it is loaded, which no pickle holds.
    _made: ClassVar[frozenset[str]] = frozenset()
    # Where the CrossEncoder is that a class drives, and its class.
    _driven: ClassVar[tuple[str, type] | None] = None

    if not TYPE_CHECKING:  # or type checkers would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            text = f"{type(self).__name__!r} object has no attribute {name!r}{self._advice(name)}"
            raise AttributeError(text, name=name, obj=self)

        def __setattr__(self, name: str, value: Any) -> None:
            kind = type(self)
            of_class = getattr(kind, name, None)
            if isinstance(of_class, property) and of_class.fset is None:
                raise AttributeError(f"{name!r} of {kind.__name__!r} cannot be assigned{self._advice(name)}")
            known = of_class is not None or name.startswith("_") or name in kind._assigned
            if not known and kind.__module__.partition(".")[0] == __name__.partition(".")[0]:
                raise AttributeError(
                    f"{kind.__name__!r} has no attribute {name!r} that could be assigned{self._advice(name)}"
                )
            object.__setattr__(self, name, value)

    def __getstate__(self) -> object:
        """What a subclass, or its user, added: a pickle holds it beside what the class is loaded with."""
        attributes, slots = self._state()
        own = {name: value for name, value in attributes.items() if name not in self._made}
        return (own, slots) if slots else own or None

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Attributes, and those of a subclass's slots."""
        state: Any = super().__getstate__()
        attributes, slots = state if isinstance(state, tuple) else (state, None)
        return attributes or {}, slots or {}

    def _advice(self, name: str) -> str:
        if self._driven is not None and not name.startswith("_") and hasattr(self._driven[1], name):
            return f": it is the CrossEncoder's, {self._driven[0]}.{name}"
        return f": {_INSTEAD[name]}" if name in _INSTEAD else ""


class DeviceName(str):
    """A device as sentence-transformers' users read it: text such as "cuda:0" that torch takes, with its kind."""

    __slots__ = ()

    @property
    def type(self) -> str:
        """Without its number, such as "cuda"."""
        return self.partition(":")[0]

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other)  # a torch.device too

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return super().__hash__()


class ModelConfig:
    """A model's config.json, each field an attribute, read-only.

    Args:
        fields: What the file holds.
        labels: Logits per pair.
    """

    def __init__(self, fields: dict[str, Any], labels: int) -> None:
        names = fields.get("id2label")
        # As transformers has them: by number, and there for every label.
        id2label = {i: f"LABEL_{i}" for i in range(labels)}
        if isinstance(names, dict) and sorted(names) == sorted(map(str, id2label)):
            id2label = {i: str(names[str(i)]) for i in id2label}
        label2id = {name: i for i, name in id2label.items()}
        vars(self).update(fields | {"num_labels": labels, "id2label": id2label, "label2id": label2id})

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            raise AttributeError(f"config.{name} cannot be assigned: nothing here is computed by it")

    else:

        def __getattr__(self, name: str) -> Any: ...

    def to_dict(self) -> dict[str, Any]:
        """The fields."""
        return dict(vars(self))


class ModelCardData:
    """What sentence-transformers' evaluators write their figures to.

    Attributes:
        eval_results_dict: The last figures of each evaluator.
    """

    def __init__(self) -> None:
        self.eval_results_dict: dict[Any, dict[str, Any]] = {}

    def set_evaluation_metrics(self, evaluator: Any, metrics: dict[str, Any], epoch: int = 0, step: int = 0) -> None:
        """Keep an evaluator's figures; ``epoch`` and ``step`` are training's."""
        self.eval_results_dict[evaluator] = dict(metrics)


class ModelAttributes(KnownAttributes):
    """What can be read of a `CrossEncoder`, and assigned, under sentence-transformers' names; its pickle and copies."""

    _model: OpenModel
    _scorer: Scorer
    _calls: Calls
    _tokenizer_file: TokenizerFile
    _max_length_origin: str
    _model_card_data: ModelCardData
    _name: str | Path | None
    _options: dict[str, Any]

    @property
    def max_length(self) -> int:
        """Most tokens of a joined pair. What is assigned holds for calls that begin then; None is the model's own."""
        return self._scorer.max_length

    @max_length.setter
    def max_length(self, max_length: int | None) -> None:
        length, self._max_length_origin = self._read_max_length(max_length)
        self._options = self._options | {"max_length": max_length}
        self._scorer = replace(self._scorer, max_length=length)

    max_seq_length = max_length

    @property
    def activation_fn(self) -> Callable[[Any], Any]:
        """What turns logits into scores: as it was passed, or a function on arrays. It may be assigned, by name too."""
        return self._calls.meaning.function

    @activation_fn.setter
    def activation_fn(self, activation_fn: Activation) -> None:
        self._calls = replace(self._calls, meaning=self._calls.meaning.with_activation(activation_fn))

    default_activation_function = activation_fn

    @property
    def num_labels(self) -> int:
        """Logits per pair."""
        return self._scorer.labels

    @property
    def device(self) -> DeviceName:
        """Where it runs, as "cpu" or "cuda:0"."""
        return DeviceName(self._calls.device)

    @property
    def config(self) -> ModelConfig:
        """The model's config.json, read when it is asked for.

        Raises:
            ArtifactError: If the file is another one than when the model was loaded, or damaged.
        """
        with self._model.config_file.opened() as place:
            try:
                return ModelConfig(read_json_object(place), self.num_labels)
            except not_thrown_in(OSError, ValueError) as error:
                raise ArtifactError(f"{place}: {error}; download or export the model again") from error

    @property
    def model_card_data(self) -> ModelCardData:
        """What sentence-transformers' evaluators write to."""
        return self._model_card_data

    def __copy__(self) -> Self:
        twin = object.__new__(type(self))
        for state in self._state():
            for name, value in state.items():
                object.__setattr__(twin, name, value)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.__copy__()

    def _read_max_length(self, asked: int | None) -> tuple[int, str]:
        """Most tokens of a pair, and where that comes from."""
        inputs = self._model.manifest.inputs
        if asked is not None and (length := self._model.tokenizer.check_max_length(asked)) < inputs.max_length:
            return length, "as asked"
        return inputs.max_length, inputs.max_length_origin


ModelAttributes._made = frozenset(ModelAttributes.__annotations__)


def load_again(kind: Any, ours: type[Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """What a pickle names, made as `ours` is; a subclass's ``__init__``, whose options are its own, does not run.

    Args:
        kind: `ours`, or a subclass.
        ours: A class of this package.
        arguments: Of its ``__init__``.
        options: Of its ``__init__``.
    """
    made = kind.__new__(kind)
    ours.__init__(made, *arguments, **options)
    return made
