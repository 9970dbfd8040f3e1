"""Ray Serve: replicas of one core that come and go with the load, for every rerank client.

serve run ray_serve:app    # then: curl http://127.0.0.1:8000/v1/rerank -d …
"""

from crossrank.ray import deployment

app = deployment(
    "crossrank-mini-en",
    documents_per_s=400,  # of one replica: crossrank bench --threads 1
    documents=100,
    latency_ms=2_000,  # so 8 requests under way at most, and another replica from 5.6 on
    min_replicas=1,
    max_replicas=8,
    num_cpus=1,
)
