"""BERT, and what is BERT but for names, embeddings and head: ERNIE, ELECTRA, RoBERTa, XLM-R, CamemBERT, data2vec."""

from collections.abc import Mapping
from typing import Any, ClassVar

from crossrank.export._graphs.encoder import Attention, Body, Embeddings, EncoderConfig, FeedForward, Layer

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
        if not tensors.has("encoder.layers.0.mixer.Wqkv"):
            return super().read_body(tensors, config)
        hidden, types = config.hidden, config.token_types
        embeddings = Embeddings(
            tensors.tensor("embeddings.word_embeddings.weight", config.vocabulary, hidden),
            tensors.tensor("embeddings.position_embeddings.weight", config.positions, hidden),
            tensors.tensor("embeddings.token_type_embeddings.weight", types, hidden) if types else None,
            tensors.norm("embeddings.norm", "emb_ln", hidden),
        )
        held = tensors.numbers("encoder.layers.", config.layers)
        return Body(embeddings, tuple(_read_flash_layer(tensors, config, i) for i in held))


def _read_flash_layer(tensors: Tensors, config: EncoderConfig, i: int) -> Layer:
    hidden, inner, at, label = config.hidden, config.intermediate, f"encoder.layers.{i}", f"layer.{i}"
    names = [f"{label}.{name}" for name in ("query", "key", "value")]
    query, key, value = tensors.fused(names, f"{at}.mixer.Wqkv", hidden, hidden)
    output = tensors.linear(f"{label}.output", f"{at}.mixer.out_proj", hidden, hidden)
    up = tensors.linear(f"{label}.up", f"{at}.mlp.fc1", hidden, inner)
    down = tensors.linear(f"{label}.down", f"{at}.mlp.fc2", inner, hidden)
    return Layer(
        Attention(f"{label}.attention", query, key, value, output),
        tensors.norm(f"{label}.attention_norm", f"{at}.norm1", hidden),
        FeedForward(up, down),
        tensors.norm(f"{label}.output_norm", f"{at}.norm2", hidden),
    )


FAMILIES = (Bert(), Ernie(), Electra(), Roberta())
