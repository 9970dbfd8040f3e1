"""crossrank: the fastest honest way to run a cross-encoder.

>>> from crossrank import CrossEncoder                                    # doctest: +SKIP
>>> CrossEncoder("cross-encoder/ms-marco-MiniLM-L6-v2").rank(query, docs)  # doctest: +SKIP
"""

from importlib.metadata import version

from ._activation import Activation, ActivationFunction
from ._cascade import Cascade, CascadedDocument
from ._cross_encoder import CrossEncoder
from ._encoded import EncodedDocument, EncodedDocuments
from ._errors import (
    ArtifactError,
    CheckpointError,
    CrossrankError,
    DeviceError,
    InputError,
    MissingDependencyError,
    ModelError,
    ModelNotFoundError,
    ProofError,
    UnsupportedModelError,
)
from ._info import ModelInfo
from ._outputs import RankedDocument
from ._parity import Parity

__version__ = version("crossrank")

__all__ = [
    "Activation",
    "ActivationFunction",
    "ArtifactError",
    "Cascade",
    "CascadedDocument",
    "CheckpointError",
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
    "Parity",
    "ProofError",
    "RankedDocument",
    "UnsupportedModelError",
    "__version__",
]
