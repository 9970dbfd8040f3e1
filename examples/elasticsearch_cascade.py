"""Elasticsearch finds 1,000 candidates, a small model reads them all, a large one the best 50, and 10 are shown.

python elasticsearch_cascade.py http://localhost:9200 passages "how many people live in berlin"
"""

import sys

from elasticsearch import Elasticsearch

from crossrank import Cascade, CrossEncoder

LARGE = "ms-marco-MiniLM-L12-v2"  # downloaded and exported once


def retrieve(client: Elasticsearch, index: str, query: str, k: int = 1_000) -> list[tuple[str, str]]:
    """Ids and texts of the best by BM25."""
    answer = client.search(index=index, query={"match": {"text": query}}, size=k, source_includes=["text"])
    return [(hit["_id"], hit["_source"]["text"]) for hit in answer["hits"]["hits"]]


if __name__ == "__main__":
    url, index, question = sys.argv[1:]
    cascade = Cascade([(CrossEncoder(), None), (CrossEncoder(LARGE, precision="int8"), 50)])
    found = retrieve(Elasticsearch(url), index, question)
    for hit in cascade.rank(question, [text for _, text in found], top_k=10):
        print(*found[hit["corpus_id"]])
