"""crossrank: the fastest honest way to run a cross-encoder.

>>> from crossrank import CrossEncoder
>>> passages = ["Berlin is well known for its museums.", "Berlin had a population of 3,520,031 in 2015."]
>>> CrossEncoder().rank("how many people live in berlin", passages)[0]["corpus_id"]
1
"""

from typing import TYPE_CHECKING, Any

from ._artifact.activation import Activation, ActivationFunction
from ._artifact.parity import Parity
from ._calls.answers import RankedDocument, Ranking
from ._cascade import Cascade, CascadedDocument
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
from ._info import ModelInfo
from ._schedule.meter import CallRecord, Stats
from ._text.encoded import EncodedDocument, EncodedDocuments

if TYPE_CHECKING:
    from ._async_cross_encoder import AsyncCrossEncoder

    __version__: str
else:  # or type checkers would take every name for one of ours

    def __getattr__(name: str) -> Any:
        """What is imported when it is asked for.

        `AsyncCrossEncoder` comes with asyncio, which takes 30 ms, the version with importlib.metadata, which takes 15.
        """
        if name == "AsyncCrossEncoder":
            from ._async_cross_encoder import AsyncCrossEncoder

            return AsyncCrossEncoder
        if name == "__version__":
            from importlib.metadata import version

            return version("crossrank")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
