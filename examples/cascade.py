"""A cascade: a small model ranks all passages, a large one the best of them."""

import sys

from crossrank import Cascade, CrossEncoder

LARGE = "ms-marco-MiniLM-L12-v2"  # downloaded and exported once

PASSAGES = ["Berlin is well known for its museums.", "Berlin had a population of 3,520,031 in 2015."]

if __name__ == "__main__":
    large = CrossEncoder(sys.argv[1] if len(sys.argv) > 1 else LARGE, precision="int8")
    cascade = Cascade([(CrossEncoder(), None), (large, 20)])
    for hit in cascade.rank("how many people live in berlin", PASSAGES, top_k=10, return_documents=True):
        print(f"{hit['score']:7.3f}  {hit['text']}")
