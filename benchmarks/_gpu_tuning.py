"""What batches of other sizes give, and what captured graphs save: figures to set `GPU_SETTINGS` by."""

import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

from crossrank._cuda_plan import make_buckets, sample_of

from ._gpu_models import GpuModel, Place, open_gpu_model, write_graph
from ._gpu_ours import joined_call, open_packed, settings_of
from ._gpu_work import Keep, Work, make_works, take_turns

TUNED_MODELS = ("tinybert-l2", "minilm-l6", "bert-base", "bert-large")
_BUDGETS = (4096, 8192, 16384, 32768, 65536, 131072)


def measure_tuning(place: Place, keep: Keep) -> None:
    """Documents per second by the size of batches, and milliseconds of each captured shape."""
    for key in TUNED_MODELS:
        model = open_gpu_model(key, place)
        with tempfile.TemporaryDirectory() as work:
            path = write_graph(model, "packed", Path(work))
            keep(key, {"docs_per_s": _budgets(model, path), "ms_of_shapes": _shapes(model, path)})


def _budgets(model: GpuModel, path: Path) -> dict[str, float]:
    """Documents per second, from joined pairs on, by most tokens of a batch."""
    usual = settings_of(model)
    documents, rounds = (16, 1) if model.place.rehearse else (4096, 3)
    works = make_works(model.checkpoint, documents, 1 + rounds)
    found = {}
    for budget in (usual.max_tokens,) if model.place.rehearse else _BUDGETS:
        _, session = open_packed(model, path, replace(usual, max_tokens=budget, bucket_tokens=()))
        series, failed = take_turns({"": [joined_call(session, work) for work in works]})
        found[str(budget)] = 0.0 if failed else round(documents / median(series[""].seconds), 1)
    return found


def _shapes(model: GpuModel, path: Path) -> dict[str, list[float]]:
    """Milliseconds of a batch of each bucket's shape, from host to host: plain, and captured."""
    usual = settings_of(model)
    _, plain = open_packed(model, path, replace(usual, bucket_tokens=()))
    _, captured = open_packed(model, path, usual)
    captured.warm_up()
    found = {}
    for shape in make_buckets(usual.bucket_tokens, model.checkpoint.inputs.max_length):
        work = Work(sample_of(shape))
        calls = {
            name: [joined_call(session, work)] * (2 if model.place.rehearse else 25)
            for name, session in (("plain", plain), ("captured", captured))
        }
        series, failed = take_turns(calls, warm_up=1 if model.place.rehearse else 5)
        shown = f"{shape.tokens} tokens, {shape.pairs} pairs, longest {shape.longest}"
        found[shown] = [0.0 if name in failed else round(median(series[name].seconds) * 1e3, 4) for name in calls]
    return found
