"""The dialects of the clients, and the paths on which they are spoken. Where several share one, the body decides."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from .cohere_v2 import COHERE_V2
from .common import COMMON
from .dialect import Dialect
from .elasticsearch import ELASTICSEARCH
from .infinity import INFINITY
from .nvidia import NVIDIA
from .rag_api import RAG_API
from .sglang import SGLANG
from .tei import TEI
from .vllm_score import VLLM_SCORE
from .voyage import VOYAGE

__all__ = ["DIALECTS", "PATHS", "Dialect", "choose"]

# The key of a body that tells its dialect, the first one that is there; without any it is the last one of a path.
_TELLING: Mapping[str, Dialect[Any]] = {
    "texts": TEI,
    "passages": NVIDIA,
    "candidates": RAG_API,
    "top_k": VOYAGE,
    "raw_scores": INFINITY,
    "instruct": SGLANG,
}
_DOCUMENTS = ("texts", "passages", "candidates")
_ANY = (*_TELLING.values(), COMMON)
PATHS: Mapping[str, Sequence[Dialect[Any]]] = {
    "/rerank": _ANY,
    "/v1/rerank": _ANY,
    "/v2/rerank": (COHERE_V2,),
    "/v3/rerank": (COMMON,),
    "/api/rerank": (COMMON,),
    "/reranking": _ANY,
    "/v1/reranking": _ANY,
    "/v1/ranking": (NVIDIA,),
    "/v1/retrieval/{model:path}/reranking": (NVIDIA,),
    "/score": (VLLM_SCORE,),
    "/v1/score": (VLLM_SCORE,),
    "/_inference/rerank/{model:path}": (ELASTICSEARCH,),
    "/infinity/rerank": (INFINITY,),  # for clients whose requests are those of vLLM's and that read another answer
}
DIALECTS = tuple({dialect.name: dialect for dialects in PATHS.values() for dialect in dialects}.values())
_VALUE: Any = msgspec.Raw | msgspec.UnsetType
# Which of these keys a body has.
_peek = msgspec.json.Decoder(msgspec.defstruct("_Peek", [(key, _VALUE, msgspec.UNSET) for key in _TELLING]))


def choose(dialects: Sequence[Dialect[Any]], body: bytes) -> Dialect[Any]:
    """The dialect of a body, among those of a path.

    >>> choose(PATHS["/v1/rerank"], b'{"query": "q", "documents": ["d"], "top_k": 3}').name
    'voyage'
    """
    if len(dialects) > 1:
        try:
            keys = _peek.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # whichever is chosen says so
            return dialects[-1]
        for key, dialect in _TELLING.items():
            value = getattr(keys, key)
            # Documents of null are none; clients send their options as null.
            absent = value is msgspec.UNSET or (key in _DOCUMENTS and bytes(value) == b"null")
            if dialect in dialects and not absent:
                return dialect
    return dialects[-1]
