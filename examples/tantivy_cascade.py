"""Tantivy finds 1,000 candidates, a small model reads them all, a large one the best 50, and 10 are shown."""

import tantivy

from crossrank import Cascade, CrossEncoder

LARGE = "ms-marco-MiniLM-L12-v2"  # downloaded and exported once

PASSAGES = [
    "Berlin is well known for its museums, and people come to live with art.",
    "Berlin had a population of 3,520,031 in 2015.",
    "How people live in Paris: small flats, long lunches, many people.",
    "Bread dough rises because yeast turns sugar into gas.",
]

schema = tantivy.SchemaBuilder().add_text_field("text", stored=True, tokenizer_name="en_stem").build()
index = tantivy.Index(schema)  # in memory; path= keeps it on disk
writer = index.writer()
for passage in PASSAGES:
    writer.add_document(tantivy.Document(text=passage))
writer.commit()
index.reload()
cascade = Cascade([(CrossEncoder(), None), (CrossEncoder(LARGE, precision="int8"), 50)])


def retrieve(query: str, k: int = 1_000) -> list[str]:
    words, _ = index.parse_query_lenient(query, ["text"])  # a question mark is no mistake of the user's
    searcher = index.searcher()
    return [searcher.doc(address)["text"][0] for _, address in searcher.search(words, k).hits]


if __name__ == "__main__":
    question = "how many people live in berlin?"
    for hit in cascade.rank(question, retrieve(question), top_k=10, return_documents=True):
        print(hit["text"])
