"""A reranker for LangChain; pip install langchain-classic."""

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.retrievers import BaseRetriever

from crossrank import CrossEncoder


class CrossrankEncoder(BaseCrossEncoder):
    def __init__(self, model: CrossEncoder) -> None:
        self.model = model

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        return self.model.predict(text_pairs).tolist()


def reranked(retriever: BaseRetriever, model: CrossEncoder, top_n: int = 10) -> ContextualCompressionRetriever:
    reranker = CrossEncoderReranker(model=CrossrankEncoder(model), top_n=top_n)
    return ContextualCompressionRetriever(base_compressor=reranker, base_retriever=retriever)
