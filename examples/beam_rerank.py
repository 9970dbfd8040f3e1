"""Beam: RunInference with batches of so many tokens, bad elements in the dead letters."""

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from crossrank.beam import RerankModelHandler

if __name__ == "__main__":
    passages = ["Berlin is well known for its museums.", "Bread dough rises.", "Berlin had 3,520,031 people in 2015."]
    elements = [("how many people live in berlin", passages), ("why does bread dough rise", passages), (None, passages)]
    handler = RerankModelHandler("crossrank-mini-en", max_batch_weight=200_000, dead_letter=True, threads=1)
    with beam.Pipeline("DirectRunner") as pipeline:
        good, other = pipeline | beam.Create(elements) | RunInference(handler).with_exception_handling()
        good | "best" >> beam.Map(lambda result: print(result.example[0], result.inference["ranks"]))
        other.failed_preprocessing[0] | "bad" >> beam.Map(lambda failed: print("failed", failed[0][0]))
