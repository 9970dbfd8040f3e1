"""Long documents: cut, or read in windows."""

from crossrank import CrossEncoder

QUERY = "how many people live in berlin"
FILLER = "The museums are open on all days but Monday. " * 100
DOCUMENTS = [FILLER, FILLER + "Berlin had a population of 3,520,031 in 2015."]

model = CrossEncoder()

cut = model.rank(QUERY, DOCUMENTS)
print([hit["corpus_id"] for hit in cut], cut.truncated)

read = model.rank(QUERY, DOCUMENTS, max_windows=4, window_overlap=32)
print([(hit["corpus_id"], hit["window"]) for hit in read], read.truncated)
