"""crossrank.batch: tables and files reranked in bulk, by one process or by the workers of an engine.

>>> from crossrank.batch import Reranker
>>> reranked = Reranker("crossrank-mini-en", top_k=10)(table)  # doctest: +SKIP
"""

from ._files import Summary, rerank_file
from ._judge import Judged, judge, problem_of
from ._reranker import Reranker

__all__ = ["Judged", "Reranker", "Summary", "judge", "problem_of", "rerank_file"]
