"""Worker processes that each load a model of their own."""

import multiprocessing

from crossrank import CrossEncoder

START, WORKERS, THREADS = "spawn", 2, 1

QUERY = "how many people live in berlin"
DOCUMENTS = ["Berlin is well known for its museums.", "Berlin had a population of 3,520,031 in 2015."]

model: CrossEncoder


def load() -> None:
    global model
    model = CrossEncoder(threads=THREADS)
    model.warm_up()


def score(job: tuple[str, list[str]]) -> list[float]:
    query, documents = job
    return model.score(query, documents).tolist()


if __name__ == "__main__":
    with multiprocessing.get_context(START).Pool(WORKERS, initializer=load) as pool:
        for scores in pool.imap(score, [(QUERY, DOCUMENTS)] * 4):
            print(scores)
