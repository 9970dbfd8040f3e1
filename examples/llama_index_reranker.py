"""A reranker for LlamaIndex; pip install llama-index-core."""

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from crossrank import CrossEncoder


class CrossrankRerank(BaseNodePostprocessor):
    model: CrossEncoder
    top_n: int = 10

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("a query is needed")
        texts = [node.node.get_content(MetadataMode.EMBED) for node in nodes]
        ranking = self.model.rank(query_bundle.query_str, texts, self.top_n)
        return [NodeWithScore(node=nodes[hit["corpus_id"]].node, score=hit["score"]) for hit in ranking]
