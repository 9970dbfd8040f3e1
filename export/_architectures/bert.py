"""BERT, and what is BERT but for names, embeddings and head: ERNIE, ELECTRA, RoBERTa, XLM-R, CamemBERT, data2vec."""

from collections.abc import Mapping
from typing import Any, ClassVar

from crossrank.export._graphs.encoder import Body, EncoderConfig

from .base import Family, Tensors


class Bert(Family):
    """BERT."""

    types = ("bert",)
    prefix = "bert."


class Electra(Family):
    """ELECTRA, whose embeddings may be narrower."""

    types = ("electra",)
    prefix = "electra."
    fields: ClassVar[Mapping[str, str]] = {**Family.fields, "embedding": "embedding_size"}
    head = ("classifier.dense", "gelu", "classifier.out_proj")

    def has_bare_head(self, tensors: Tensors) -> bool:
        """As Capreolus trained it."""
        dense, _, classifier = self.head
        return not tensors.has(dense) and tensors.has(classifier)


class Ernie(Bert):
    """ERNIE, which is BERT where it has no tasks."""

    types = ("ernie",)
    prefix = "ernie."

    def refused(self, config: Mapping[str, Any]) -> list[str]:
        """Embeddings of tasks."""
        return ["use_task_id is set; supported is false"] if config.get("use_task_id") else []


class Roberta(Family):
    """RoBERTa and its kin, most in its name; positions count from the padding id."""

    types = ("roberta", "xlm-roberta", "camembert", "data2vec-text")
    prefix = "roberta."
    other_prefixes = ("data2vec_text.",)
    head = ("classifier.dense", "tanh", "classifier.out_proj")

    def read_body(self, tensors: Tensors, config: EncoderConfig) -> Body:
        """As `Family.read_body`; also in the names of flash-attention's BERT, as jina-reranker-v2 has them."""
        if tensors.has("encoder.layers.0.mixer.Wqkv"):
            return _FLASH.read_body(tensors, config)
        return super().read_body(tensors, config)


class _Flash(Family):
    """The names of flash-attention's BERT."""

    layers = "encoder.layers."
    parts = ("mixer.Wqkv", "mixer.out_proj", "norm1", "mlp.fc1", "mlp.fc2", "norm2")
    first_norm = "emb_ln"


_FLASH = _Flash()
FAMILIES = (Bert(), Ernie(), Electra(), Roberta())
