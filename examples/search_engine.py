"""A search engine in front: it finds candidates, the model ranks them."""

import bm25s

from crossrank import CrossEncoder

PASSAGES = [
    "Berlin is well known for its museums, and people come to live with art.",
    "Berlin had a population of 3,520,031 in 2015.",
    "Hamburg is a port on the Elbe.",
    "How people live in Paris: small flats, long lunches, many people.",
    "Bread dough rises because yeast turns sugar into gas.",
]

index = bm25s.BM25()
index.index(bm25s.tokenize(PASSAGES, show_progress=False), show_progress=False)
model = CrossEncoder()
model.warm_up()


def candidates(query: str, k: int = 100) -> list[str]:
    words = bm25s.tokenize(query, show_progress=False)
    found, _ = index.retrieve(words, k=min(k, len(PASSAGES)), show_progress=False)
    return [PASSAGES[i] for i in found[0]]


def search(query: str, top_k: int = 10, deadline_ms: float = 200) -> list[str]:
    passages = candidates(query)
    ranking = model.rank(query, passages, top_k, deadline_ms=deadline_ms)
    return [passages[hit["corpus_id"]] for hit in ranking]


if __name__ == "__main__":
    for passage in search("how many people live in berlin"):
        print(passage)
