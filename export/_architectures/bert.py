"""BERT, and what is BERT but for names, embeddings and head: ELECTRA, RoBERTa, XLM-RoBERTa, CamemBERT."""

from collections.abc import Mapping
from typing import ClassVar

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


class Roberta(Family):
    """RoBERTa and its kin, all in its name; positions count from the padding id."""

    types = ("roberta", "xlm-roberta", "camembert")
    prefix = "roberta."
    head = ("classifier.dense", "tanh", "classifier.out_proj")


FAMILIES = (Bert(), Electra(), Roberta())
