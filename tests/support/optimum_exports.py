"""Export models where optimum is installed: ``python optimum_exports.py``.

For test_optimum.py, which runs it in an environment of its own. Reads {"jobs": [...], "pairs": [...]} from standard
input, and prints a result for each job as the last line of standard output:

- {"export": folder, "output": folder, options}: our exporter; null, or the error's kind and message.
- {"optimum": folder, "output": folder}: optimum's own command; null.
- {"sentence_transformers": folder, "output": folder}: version 5 saves a model with ONNX backend, optimizes and
  quantizes it; the logits of each file, of pairs that are scored alone.
"""

import json
import sys
from pathlib import Path
from typing import Any


def _export(folder: str, options: dict[str, Any]) -> list[str] | None:
    from crossrank import CrossrankError
    from crossrank.export import export_model

    try:
        export_model(folder, **options)
    except CrossrankError as error:
        return [type(error).__name__, str(error)]
    return None


def _optimum(folder: str, output: str) -> None:
    from optimum.exporters.onnx import main_export

    main_export(folder, output, task="text-classification", local_files_only=True)


def _sentence_transformers(folder: str, output: str, pairs: list[list[str]]) -> dict[str, list[float]]:
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.backend import export_dynamic_quantized_onnx_model, export_optimized_onnx_model

    options: dict[str, Any] = {"backend": "onnx", "device": "cpu", "local_files_only": True}
    model = CrossEncoder(folder, **options)
    model.save_pretrained(output)
    export_optimized_onnx_model(model, "O3", output)
    export_dynamic_quantized_onnx_model(model, "avx512_vnni", output)
    scores = {}
    for path in sorted(Path(output, "onnx").glob("*.onnx")):
        model = CrossEncoder(output, model_kwargs={"file_name": f"onnx/{path.name}"}, **options)
        identity = torch.nn.Identity()
        scores[path.name] = [float(model.predict([tuple(pair)], activation_fn=identity)[0]) for pair in pairs]
    return scores


def _main() -> None:
    work = json.load(sys.stdin)
    results: list[Any] = []
    for job in work["jobs"]:
        if folder := job.pop("export", None):
            results.append(_export(folder, job))
        elif folder := job.pop("optimum", None):
            _optimum(folder, job["output"])
            results.append(None)
        else:
            results.append(_sentence_transformers(job["sentence_transformers"], job["output"], work["pairs"]))
    print(json.dumps(results))


if __name__ == "__main__":
    _main()
