"""First-stage candidates by BM25, for folders that bring no run of their own."""

from collections.abc import Sequence


def top_documents(queries: Sequence[str], documents: Sequence[str], *, depth: int) -> list[list[int]]:
    """Indices of the best documents of each query, best first.

    The library is bm25s (Lucene's variant) with Anserini's k1 = 0.9 and b = 0.4, English stop words, no stemming.

    Args:
        queries: The queries.
        documents: The documents, at least one.
        depth: Most documents per query.

    Returns:
        For each query at most ``depth`` indices, of documents that share a word with it.

    >>> top_documents(["red apple"], ["green pear", "one red apple", "red car"], depth=2)
    [[1, 2]]
    """
    import bm25s  # here, so that what needs no search runs without it

    index = bm25s.BM25(k1=0.9, b=0.4)
    index.index(bm25s.tokenize(list(documents), show_progress=False), show_progress=False)
    asked = bm25s.tokenize(list(queries), show_progress=False)
    found, scores = index.retrieve(asked, k=min(depth, len(documents)), show_progress=False)
    return [row[score > 0].tolist() for row, score in zip(found, scores, strict=True)]
