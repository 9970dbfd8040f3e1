"""BM25 finds 1,000 candidates, a small model reads them all, a large one the best 50, and 10 are shown."""

import bm25s

from crossrank import Cascade, CrossEncoder

LARGE = "ms-marco-MiniLM-L12-v2"  # downloaded and exported once

PASSAGES = [
    "Berlin is well known for its museums, and people come to live with art.",
    "Berlin had a population of 3,520,031 in 2015.",
    "How people live in Paris: small flats, long lunches, many people.",
    "Bread dough rises because yeast turns sugar into gas.",
]

index = bm25s.BM25()
index.index(bm25s.tokenize(PASSAGES, show_progress=False), show_progress=False)
cascade = Cascade([(CrossEncoder(), None), (CrossEncoder(LARGE, precision="int8"), 50)])


def retrieve(query: str, k: int = 1_000) -> list[str]:
    found, _ = index.retrieve(bm25s.tokenize(query, show_progress=False), k=min(k, len(PASSAGES)), show_progress=False)
    return [PASSAGES[i] for i in found[0]]


if __name__ == "__main__":
    question = "how many people live in berlin"
    for hit in cascade.rank(question, retrieve(question), top_k=10, return_documents=True):
        print(hit["text"])
