"""Ray Data: actors with a core and a model each, lists of candidates in, the best ten out."""

import ray

from crossrank.ray import rerank

if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)  # address="auto" in a cluster
    passages = ["Berlin is well known for its museums.", "Bread dough rises.", "Berlin had 3,520,031 people in 2015."]
    rows = [{"id": i, "query": "how many people live in berlin", "documents": passages} for i in range(4)]
    candidates = ray.data.from_items(rows)  # ray.data.read_parquet("s3://…")
    best = rerank(candidates, "crossrank-mini-en", top_k=10, actors=2, num_cpus=1)
    for row in sorted(best.take_all(), key=lambda row: row["id"]):  # best.write_parquet("s3://…")
        print(row["id"], row["documents"][0])
