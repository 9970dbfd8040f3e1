"""Postgres' full text search finds 1,000 candidates, a small model reads them all, a large one 50, and 10 are shown.

python postgres_cascade.py postgresql://localhost/search "how many people live in berlin"
"""

import sys

import psycopg

from crossrank import Cascade, CrossEncoder

LARGE = "ms-marco-MiniLM-L12-v2"  # downloaded and exported once

TABLE = """
CREATE TABLE IF NOT EXISTS passages (
    id bigint PRIMARY KEY,
    text text NOT NULL,
    words tsvector GENERATED ALWAYS AS (to_tsvector('english', text)) STORED
);
CREATE INDEX IF NOT EXISTS passages_words ON passages USING gin (words);
"""
# Any of the words: all of them, as Postgres takes a question, finds next to nothing.
SEARCH = """
SELECT id, text
FROM passages, (SELECT replace(plainto_tsquery('english', %s)::text, '&', '|')::tsquery AS question) AS asked
WHERE words @@ question
ORDER BY ts_rank_cd(words, question) DESC, id
LIMIT %s
"""


def retrieve(connection: psycopg.Connection, query: str, k: int = 1_000) -> list[tuple[int, str]]:
    return connection.execute(SEARCH, (query, k)).fetchall()


if __name__ == "__main__":
    address, question = sys.argv[1:]
    cascade = Cascade([(CrossEncoder(), None), (CrossEncoder(LARGE, precision="int8"), 50)])
    with psycopg.connect(address) as connection:
        connection.execute(TABLE)
        found = retrieve(connection, question)
    for hit in cascade.rank(question, [text for _, text in found], top_k=10):
        print(*found[hit["corpus_id"]])
