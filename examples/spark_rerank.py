"""Spark: each Python worker has one model, Arrow batches in and out."""

import os
import sys
from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import SparkSession

from crossrank.batch import Reranker

reranker = Reranker("crossrank-mini-en", top_k=2)  # its pickle is its options; workers load the model


def rerank(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield reranker(batch)


if __name__ == "__main__":
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # here; on a cluster the environment that is shipped
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    passages = ["Berlin is well known for its museums.", "Bread dough rises.", "Berlin had 3,520,031 people in 2015."]
    rows = [(i, f"how many people live in berlin {i}", [*passages, None] if i == 1 else passages) for i in range(4)]
    frame = spark.createDataFrame(rows, "id long, query string, documents array<string>")
    new = "scores array<float>, ranks array<int>, status string"
    for row in (
        frame.mapInArrow(rerank, f"id long, query string, documents array<string>, {new}").orderBy("id").collect()
    ):
        print(row.id, row.ranks, row.status)
    spark.stop()
