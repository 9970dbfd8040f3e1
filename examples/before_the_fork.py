"""A model that is loaded before the fork: each child opens a session of its own."""

import multiprocessing
import os

from crossrank import CrossEncoder

WORKERS, THREADS = 2, 1

QUERY = "how many people live in berlin"
DOCUMENTS = ["Berlin is well known for its museums.", "Berlin had a population of 3,520,031 in 2015."]

model = CrossEncoder(threads=THREADS)


def score(job: tuple[str, list[str]]) -> tuple[int, int, list[float]]:
    query, documents = job
    scores = model.score(query, documents).tolist()
    return os.getpid(), model.stats().requests, scores


if __name__ == "__main__":
    print(os.getpid(), 0, model.score(QUERY, DOCUMENTS).tolist())
    with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
        for process, requests, scores in pool.imap(score, [(QUERY, DOCUMENTS)] * 4):
            print(process, requests, scores)
