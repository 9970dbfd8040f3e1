"""Score pairs with an artifact's portable graph in sentence-transformers 5: ``python sentence_transformers_5.py``.

For test_interop.py, which runs it in an environment of its own. Reads {"folders": [...], "pairs": [...]} from
standard input, prints {folder: scores} and the versions as the last line of standard output.
"""

import json
import sys
from importlib import metadata


def _main() -> None:
    from sentence_transformers import CrossEncoder

    job = json.load(sys.stdin)
    scores = {}
    for folder in job["folders"]:
        # Without a file name it takes onnx/model.onnx, which is the portable fp32 graph.
        model = CrossEncoder(folder, backend="onnx", device="cpu", local_files_only=True)
        assert "onnxruntime" in type(model.model).__module__
        scores[folder] = model.predict([tuple(pair) for pair in job["pairs"]]).tolist()
    packages = ("sentence-transformers", "transformers", "optimum", "optimum-onnx", "onnxruntime", "torch")
    versions = {package: metadata.version(package) for package in packages}
    print(json.dumps({"scores": scores, "versions": versions}))


if __name__ == "__main__":
    _main()
