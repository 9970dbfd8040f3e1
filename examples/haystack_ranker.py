"""A ranker for Haystack; pip install haystack-ai."""

from dataclasses import replace
from typing import Any

from haystack import Document, component

from crossrank import CrossEncoder


@component
class CrossrankRanker:
    def __init__(self, model: str = "crossrank-mini-en", top_k: int = 10) -> None:
        self.model, self.top_k = model, top_k
        self._encoder: CrossEncoder | None = None

    def warm_up(self) -> None:
        if self._encoder is None:
            self._encoder = CrossEncoder(self.model)
            self._encoder.warm_up()

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, Any]:
        self.warm_up()
        texts = [document.content or "" for document in documents]
        ranking = self._encoder.rank(query, texts, self.top_k if top_k is None else top_k)
        return {"documents": [replace(documents[hit["corpus_id"]], score=hit["score"]) for hit in ranking]}
