"""Figures of other settings than crossrank's own, to set `GPU_SETTINGS` and the session's options by."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from crossrank._device.cuda.batches import make_buckets, sample_of
from crossrank._device.cuda.session import PackedSession, PackedSettings

from .contenders import Keep, Work, make_works, take_turns
from .models import GpuModel, Place, open_gpu_model, write_graph
from .ours import joined_call, open_otherwise, open_packed, settings_of

TUNED_MODELS = ("minilm-l6", "bert-base", "tinybert-l2", "bert-large")
_BUDGETS = (4096, 8192, 16384, 32768, 65536, 131072)
_UNFUSED = ("MatMulAddFusion",)  # to Gemm, which first spreads the bias over all rows


def measure_tuning(place: Place, keep: Keep) -> None:
    """Documents per second by settings, and milliseconds of each captured shape."""
    for key in TUNED_MODELS:
        model = open_gpu_model(key, place)
        with tempfile.TemporaryDirectory() as work:
            path = write_graph(model, "packed", Path(work))
            works = make_works(model.checkpoint, *((16, 2) if place.rehearse else (4096, 4)))
            figures = {
                "docs_per_s": _budgets(model, path, works),
                "variants": _variants(model, path, works),
                "ms_of_shapes": _shapes(model, path),
            }
            keep(key, figures)


def captured_settings(model: GpuModel) -> PackedSettings:
    """Settings with which every batch of usual texts can be brought to a captured shape.

    A shape is filled up with pairs of one token at least, so a batch must lack as many tokens of the largest shape as
    it may lack pairs.
    """
    usual = settings_of(model)
    shapes = make_buckets(usual.bucket_tokens, model.checkpoint.inputs.max_length)
    room = max(shape.pairs for shape in shapes if shape.tokens == shapes[-1].tokens)
    return replace(usual, max_tokens=shapes[-1].tokens - room)


def _budgets(model: GpuModel, path: Path, works: list[Work]) -> dict[str, float]:
    """Documents per second, from joined pairs on, by most tokens of a batch."""
    usual = replace(settings_of(model), bucket_tokens=())
    found: dict[str, float] = {}
    for budget in (usual.max_tokens,) if model.place.rehearse else _BUDGETS:
        _, session = open_packed(model, path, replace(usual, max_tokens=budget))  # one at a time, for small memories
        found |= _in_turns({str(budget): session}, works)
    return found


def _variants(model: GpuModel, path: Path, works: list[Work]) -> dict[str, float]:
    """The same beside usual settings without captured shapes: without a fusion, and with every batch captured."""
    usual = replace(settings_of(model), bucket_tokens=())
    inputs, device = model.checkpoint.inputs, model.place.device
    unfused = partial(open_otherwise, without=_UNFUSED)
    sessions = {
        "usual": open_packed(model, path, usual)[1],
        f"without {', '.join(_UNFUSED)}": PackedSession(path, inputs, device, settings=usual, open_graph=unfused),
    }
    if model.place.graphs:
        settings = captured_settings(model)
        _, captured = open_packed(model, path, settings)
        captured.warm_up()
        if captured.buckets:
            sessions[f"every batch captured, up to {settings.max_tokens} tokens"] = captured
    return _in_turns(sessions, works)


def _in_turns(sessions: Mapping[str, PackedSession], works: list[Work]) -> dict[str, float]:
    """Documents per second of each, 0 where it fails."""
    calls = {name: [joined_call(session, work) for work in works] for name, session in sessions.items()}
    series, failed = take_turns(calls)
    return {name: 0.0 if name in failed else round(works[0].size / median(series[name].seconds), 1) for name in calls}


def _shapes(model: GpuModel, path: Path) -> dict[str, list[float]]:
    """Milliseconds of a batch of each bucket's shape, from host to host: plain, and captured where that is done."""
    usual = settings_of(model)
    sessions = {"plain": open_packed(model, path, replace(usual, bucket_tokens=()))[1]}
    if model.place.graphs:
        sessions["captured"] = open_packed(model, path, usual)[1]
        sessions["captured"].warm_up()
    found = {}
    for shape in make_buckets(usual.bucket_tokens, model.checkpoint.inputs.max_length):
        work = Work(sample_of(shape))
        calls = {
            name: [joined_call(session, work)] * (2 if model.place.rehearse else 25)
            for name, session in sessions.items()
        }
        series, failed = take_turns(calls, warm_up=1 if model.place.rehearse else 5)
        shown = f"{shape.tokens} tokens, {shape.pairs} pairs, longest {shape.longest}"
        found[shown] = [0.0 if name in failed else round(median(series[name].seconds) * 1e3, 4) for name in calls]
    return found
