"""Scores of pairs by FlashRank and fastembed on one of our artifacts; runs in an environment that has them.

Reads {"artifact", "work", "pairs"} from standard input, prints {"flashrank", "fastembed"} as one line.
"""

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

# FlashRank knows its models by name; this one's folder gets our files.
NAME, FILE = "ms-marco-MiniLM-L-12-v2", "flashrank-MiniLM-L-12-v2_Q.onnx"


def score_with_flashrank(artifact: Path, work: Path, pairs: list[tuple[str, str]]) -> list[float]:
    flashrank: Any = importlib.import_module("flashrank")
    folder = work / NAME
    folder.mkdir()
    for path in [*artifact.glob("*.json"), *artifact.glob("*.txt")]:
        shutil.copyfile(path, folder / path.name)
    (folder / FILE).symlink_to(artifact / "onnx" / "model.onnx")
    ranker = flashrank.Ranker(NAME, cache_dir=str(work), log_level="ERROR")
    request = flashrank.RerankRequest
    return [float(ranker.rerank(request(query=q, passages=[{"text": d}]))[0]["score"]) for q, d in pairs]


def score_with_fastembed(artifact: Path, pairs: list[tuple[str, str]]) -> list[float]:
    encoders: Any = importlib.import_module("fastembed.rerank.cross_encoder")
    descriptions: Any = importlib.import_module("fastembed.common.model_description")
    encoders.TextCrossEncoder.add_custom_model(
        model="local/model", sources=descriptions.ModelSource(hf="local/model"), model_file="onnx/model.onnx"
    )
    encoder = encoders.TextCrossEncoder("local/model", specific_model_path=str(artifact))
    return [float(score) for query, document in pairs for score in encoder.rerank(query, [document])]


def main() -> None:
    job = json.load(sys.stdin)
    artifact, pairs = Path(job["artifact"]), [tuple(pair) for pair in job["pairs"]]
    scores = {
        "flashrank": score_with_flashrank(artifact, Path(job["work"]), pairs),
        "fastembed": score_with_fastembed(artifact, pairs),
    }
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
