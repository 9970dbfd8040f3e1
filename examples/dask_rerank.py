"""Dask: partitions of a dataframe, each process with one model."""

import dask.dataframe as dd
import pandas as pd
import pyarrow as pa

from crossrank.batch import Reranker

reranker = Reranker("crossrank-mini-en", ranks=False)  # a query's pairs may lie in several partitions


def rerank(partition: pd.DataFrame) -> pd.DataFrame:
    return reranker(pa.Table.from_pandas(partition)).to_pandas()


if __name__ == "__main__":
    passages = ["Berlin is well known for its museums.", "Bread dough rises.", "Berlin had 3,520,031 people in 2015."]
    frame = pd.DataFrame({"query": ["how many people live in berlin"] * 3, "documents": passages})
    ahead = rerank(frame[:0])  # names and types
    scored = dd.from_pandas(frame, npartitions=2).map_partitions(rerank, meta=ahead).compute()
    for row in scored.sort_values("score", ascending=False).itertuples():
        print(row.Index, row.status, row.documents)
