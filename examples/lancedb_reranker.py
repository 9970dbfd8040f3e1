"""LanceDB's reranker interface: of vector search, full text search, and both."""

import pyarrow as pa
from lancedb.rerankers import Reranker

from crossrank import CrossEncoder


class CrossrankReranker(Reranker):
    """table.search(question, query_type="hybrid").limit(1_000).rerank(CrossrankReranker()).limit(10)"""

    def __init__(self, model: CrossEncoder | None = None, column: str = "text") -> None:
        super().__init__("relevance")
        self.model, self.column = model or CrossEncoder(), column

    def rerank_hybrid(self, query: str, vector_results: pa.Table, fts_results: pa.Table) -> pa.Table:
        return self._best_first(query, self.merge_results(vector_results, fts_results))

    def rerank_vector(self, query: str, vector_results: pa.Table) -> pa.Table:
        return self._best_first(query, vector_results)

    def rerank_fts(self, query: str, fts_results: pa.Table) -> pa.Table:
        return self._best_first(query, fts_results)

    def _best_first(self, query: str, found: pa.Table) -> pa.Table:
        ranking = self.model.rank(query, found[self.column])
        scores = pa.array([hit["score"] for hit in ranking], pa.float32())
        order = pa.array([hit["corpus_id"] for hit in ranking], pa.int64())
        kept = [name for name in found.column_names if name not in ("_distance", "_score")]
        return found.select(kept).take(order).append_column("_relevance_score", scores)
