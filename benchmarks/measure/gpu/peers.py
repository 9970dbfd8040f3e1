"""Contenders on a GPU of others: sentence-transformers, and onnxruntime's usual graph with fused operators.

All of them start from the same checkpoint. torch and transformers are imported here alone; where they are absent, the
peers are named as unavailable.
"""

import contextlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure.turns import Floats, Turns
from crossrank._device.inputs import padded_ids
from crossrank._machine.onnxruntime import ort
from crossrank._text.pairs import PackedPairs

from .contenders import FUSED, PEERS, ST_DEFAULT, ST_LARGE, Call, Contender, Work, batched, like_length
from .fused import mask_lengths
from .models import GpuModel, write_graph

_BATCH = 256


def open_peers(model: GpuModel, folder: Path, names: Sequence[str] = PEERS) -> tuple[list[Contender], dict[str, str]]:
    """Of some peers those that can be opened, and name -> why another one cannot; the folder gets graphs."""
    encoder = cache(partial(_cross_encoder, model))  # one for both sizes of batches
    makers: dict[str, Callable[[], Contender]] = {
        ST_DEFAULT: lambda: _sentence_transformers(ST_DEFAULT, model, encoder(), 32),
        ST_LARGE: lambda: _sentence_transformers(ST_LARGE, model, encoder(), _BATCH),
        FUSED: partial(_fused, model, folder),
    }
    with contextlib.suppress(ImportError):
        from transformers.utils import logging

        logging.disable_progress_bar()
    turns = Turns(names, catch=Exception)  # what others' engines raise has no common base
    return list(turns.each(lambda name: makers[name]()).values()), turns.failed


def _cross_encoder(model: GpuModel) -> Any:
    """sentence-transformers' CrossEncoder with torch's own attention (sdpa); a CPU rehearses in float32."""
    import torch
    from sentence_transformers import CrossEncoder

    return CrossEncoder(
        str(model.model.folder),
        device=model.place.device.kind,
        local_files_only=True,
        activation_fn=torch.nn.Identity(),
        model_kwargs={"dtype": torch.float32 if model.place.rehearse else torch.float16, "attn_implementation": "sdpa"},
    )


def _sentence_transformers(name: str, model: GpuModel, encoder: Any, size: int) -> Contender:
    labels = model.checkpoint.config.labels

    def texts(work: Work) -> Call:
        pairs = [(work.queries[i], document) for i, document in zip(work.query_index, work.documents, strict=True)]

        def call() -> Floats:
            scores: Floats = encoder.predict(pairs, batch_size=size, show_progress_bar=False)
            return scores.reshape(-1, labels)

        return call

    def forward(inputs: dict[str, Any]) -> Any:
        device = model.place.device.kind
        return encoder.model(**{name: value.to(device, non_blocking=True) for name, value in inputs.items()}).logits

    def joined(work: Work) -> Call:
        def prepare(batch: PackedPairs) -> dict[str, Any]:
            return {name: _host(model, values) for name, values in _padded(model, batch).items()}

        return batched(work.joined, like_length(work.joined.lengths, size), prepare, partial(_all_logits, forward))

    version = metadata.version("sentence-transformers")
    facts = {"version": version, "attention": "sdpa", "dtype": "fp16", "batches": f"{size} of like length, padded"}
    return Contender(name, {"model": joined, "texts": texts}, facts)


def _all_logits(forward: Callable[[Any], Any], batches: Sequence[Any]) -> list[Floats]:
    """Of prepared batches, brought to the host once, which waits for the GPU."""
    import torch

    with torch.inference_mode():
        return [torch.cat([forward(batch) for batch in batches]).float().cpu().numpy()]


def _host(model: GpuModel, values: NDArray[Any]) -> Any:
    import torch

    tensor = torch.from_numpy(values.astype(np.int64))
    return tensor.pin_memory() if model.place.device.kind == "cuda" else tensor


def _padded(model: GpuModel, batch: PackedPairs) -> dict[str, NDArray[np.int32]]:
    """The usual inputs of a padded batch, int32 [pairs, tokens] each."""
    return {
        "input_ids": padded_ids(batch.ids, batch.lengths, model.checkpoint.inputs.pad_id),
        "token_type_ids": padded_ids(batch.types, batch.lengths, 0),
        "attention_mask": padded_ids(np.ones_like(batch.ids), batch.lengths, 0),
    }


def _fused(model: GpuModel, folder: Path) -> Contender:
    """An onnxruntime session with its own choice of kernels; it begins with joined pairs, and tokenizes nothing."""
    path, provider = write_graph(model, "fused", folder), model.place.device.provider
    session = ort.InferenceSession(path, providers=[provider])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"{provider} did not start")

    def feed(batch: PackedPairs) -> dict[str, NDArray[np.int32]]:
        ids, types, _ = _padded(model, batch).values()
        return {"input_ids": ids, "token_type_ids": types, "lengths": mask_lengths(batch.lengths, ids.shape[1])}

    def run(feeds: Sequence[dict[str, NDArray[np.int32]]]) -> list[Floats]:
        return [session.run(["logits"], some)[0] for some in feeds]

    def joined(work: Work) -> Call:
        return batched(work.joined, like_length(work.joined.lengths, _BATCH), feed, run)

    facts = {"version": ort.__version__, "provider": provider, "batches": f"{_BATCH} of like length, padded"}
    return Contender(FUSED, {"model": joined}, facts)
