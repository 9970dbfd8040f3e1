"""crossrank: the fastest honest way to run a cross-encoder.

>>> from crossrank import CrossEncoder
>>> passages = ["Berlin is well known for its museums.", "Berlin had a population of 3,520,031 in 2015."]
>>> CrossEncoder().rank("how many people live in berlin", passages)[0]["corpus_id"]
1
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._artifact.activation import Activation, ActivationFunction
from ._artifact.parity import Parity
from ._calls.answers import RankedDocument, Ranking
from ._cross_encoder import CrossEncoder
from ._errors import (
    ArtifactError,
    CheckpointError,
    Closed,
    CrossrankError,
    DeviceError,
    InputError,
    MissingDependencyError,
    ModelError,
    ModelNotFoundError,
    Overloaded,
    ProofError,
    UnsupportedModelError,
)
from ._schedule.meter import CallRecord, Stats
from ._text.encoded import EncodedDocument, EncodedDocuments

if TYPE_CHECKING:
    from ._async_cross_encoder import AsyncCrossEncoder
    from ._cascade import Cascade, CascadedDocument
    from ._info import ModelInfo

    __version__: str
else:  # or type checkers would take every name for one of ours
    # Names that few programs use, by their modules: AsyncCrossEncoder comes with asyncio, which takes 30 ms.
    _LATE = {
        "AsyncCrossEncoder": "_async_cross_encoder",
        "Cascade": "_cascade",
        "CascadedDocument": "_cascade",
        "ModelInfo": "_info",
    }

    def __getattr__(name: str) -> Any:
        """What is imported when it is asked for."""
        if name in _LATE:
            return getattr(import_module(f".{_LATE[name]}", __name__), name)
        if name == "__version__":
            from importlib.metadata import version  # takes 15 ms

            return version("crossrank")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "Activation",
    "ActivationFunction",
    "ArtifactError",
    "AsyncCrossEncoder",
    "CallRecord",
    "Cascade",
    "CascadedDocument",
    "CheckpointError",
    "Closed",
    "CrossEncoder",
    "CrossrankError",
    "DeviceError",
    "EncodedDocument",
    "EncodedDocuments",
    "InputError",
    "MissingDependencyError",
    "ModelError",
    "ModelInfo",
    "ModelNotFoundError",
    "Overloaded",
    "Parity",
    "ProofError",
    "RankedDocument",
    "Ranking",
    "Stats",
    "UnsupportedModelError",
    "__version__",
]
