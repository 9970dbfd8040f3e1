"""The loss of float16 on a GPU in the ranking of judged queries, through crossrank's public calls alone."""

import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.inputs.collections import Collection, cut_collection, read_collection
from benchmarks.inputs.workloads import TREC_DL19
from benchmarks.measure.quality import measure_scores
from benchmarks.measure.turns import Floats
from crossrank import CrossEncoder
from crossrank._artifact.parity import kendall_tau
from crossrank.export import export_model

from .contenders import Keep
from .models import Place, open_gpu_model

_MODEL = "minilm-l12"


def measure_quality(place: Place, keep: Keep) -> None:
    """float16 on the GPU beside float32 on the CPU on judged queries, through the public calls alone."""
    collection = read_collection(place.test_data / "data" / TREC_DL19)
    if place.rehearse:
        collection = cut_collection(collection, queries=2, documents=10)
    model = open_gpu_model(_MODEL, place)
    with tempfile.TemporaryDirectory() as work:
        artifact = export_model(
            model.model.folder, Path(work) / "artifact", variants=["cpu", "cuda"], precisions=["fp32", "fp16"]
        )
        exact, _ = _scores(artifact, "cpu", collection, keep, "fp32 on the CPU")
        device, name = place.device.kind, "fp16 on the GPU"
        found, measured = _scores(artifact, device, collection, keep, name, warm_up=True)
    pairs = list(zip(exact, found, strict=True))
    keep(
        "agreement",
        {
            "max_abs_delta": max(float(np.abs(a - b).max()) for a, b in pairs),
            "kendall_tau": float(np.mean([kendall_tau(a, b) for a, b in pairs])),
            "not_finite": sum(int(np.count_nonzero(~np.isfinite(b))) for b in found),
            "trained": model.model.trained,
            "queries": len(pairs),
            "ndcg_at_10_loss": round(measure_scores(collection, exact).ndcg_at_10 - measured, 6),
        },
    )


def _scores(
    artifact: Path, device: str, collection: Collection, keep: Keep, name: str, *, warm_up: bool = False
) -> tuple[list[Floats], float]:
    """Logits per query, and nDCG@10. CUDA graphs are captured by warming up alone."""
    model = CrossEncoder(artifact, device=device, activation_fn="identity")
    if warm_up:
        model.warm_up()
    scores = [model.score(entry.query, entry.documents) for entry in collection.candidates]
    quality, info = measure_scores(collection, scores), model.info()
    facts = {"provider": info.provider, "variant": info.variant, "precision": info.precision}
    keep(name, facts | asdict(quality))
    return scores, quality.ndcg_at_10
