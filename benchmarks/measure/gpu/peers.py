"""What others run on a GPU, as contenders: sentence-transformers, transformers without padding, onnxruntime fused.

All of them start from the same checkpoint. torch and transformers are imported here alone; where they are absent, the
peers are named as unavailable.
"""

import contextlib
from collections.abc import Callable, Collection
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure.turns import Floats
from crossrank._device.cuda.batches import plan_packed_batches
from crossrank._device.inputs import packed_positions, padded_ids
from crossrank._machine.onnxruntime import ort
from crossrank._text.pairs import PackedPairs

from .contenders import (
    BASELINES,
    FUSED,
    ST_BF16,
    ST_DEFAULT,
    ST_LARGE,
    VARLEN,
    Call,
    Contender,
    Work,
    in_order,
    like_length,
    select,
)
from .models import GpuModel, write_graph
from .ours import settings_of

_BATCH = 256


def open_peers(
    model: GpuModel, folder: Path, names: Collection[str] | None = None
) -> tuple[list[Contender], dict[str, str]]:
    """The peers that can be opened, and name -> why another one cannot.

    Args:
        model: The model.
        folder: Gets the graph of `_gpu_fused`.
        names: Of peers, None for all.
    """
    makers: dict[tuple[str, ...], Callable[[], list[Contender]]] = {
        BASELINES: lambda: _sentence_transformers(model, "fp16", {ST_DEFAULT: 32, ST_LARGE: _BATCH}),
        (ST_BF16,): lambda: _sentence_transformers(model, "bf16", {ST_BF16: _BATCH}),
        (VARLEN,): lambda: [_varlen(model)],
        (FUSED,): lambda: [_fused(model, folder)],
    }
    opened: list[Contender] = []
    unavailable: dict[str, str] = {}
    with contextlib.suppress(ImportError):
        from transformers.utils import logging

        logging.disable_progress_bar()
    for made, make in makers.items():
        if names is not None and not set(made) & set(names):
            continue
        try:
            opened += make()
        except Exception as error:  # what others' engines raise has no common base
            unavailable |= dict.fromkeys(made, f"{type(error).__name__}: {error}")
    return opened, unavailable


def _sentence_transformers(model: GpuModel, precision: str, sizes: dict[str, int]) -> list[Contender]:
    """Its CrossEncoder with torch's own attention (sdpa), one model for several batch sizes."""
    import torch
    from sentence_transformers import CrossEncoder

    encoder: Any = CrossEncoder(
        str(model.folder),
        device=_torch_device(model),
        local_files_only=True,
        activation_fn=torch.nn.Identity(),
        model_kwargs={"dtype": _torch_type(model, precision), "attn_implementation": "sdpa"},
    )
    labels = model.checkpoint.config.labels

    def texts(work: Work, size: int) -> Call:
        pairs = [(work.queries[i], document) for i, document in zip(work.query_index, work.documents, strict=True)]

        def call() -> Floats:
            scores: Floats = encoder.predict(pairs, batch_size=size, show_progress_bar=False)
            return scores.reshape(-1, labels)

        return call

    facts = {"version": metadata.version("sentence-transformers"), "attention": "sdpa", "dtype": precision}
    return [
        Contender(
            name,
            {
                "model": lambda work, size=size: _padded_forward(model, encoder.model, work.joined, size),  # type: ignore[misc]
                "texts": lambda work, size=size: texts(work, size),  # type: ignore[misc]
            },
            facts | {"batches": f"{size} of like length, padded"},
        )
        for name, size in sizes.items()
    ]


def _padded_forward(model: GpuModel, network: Any, joined: PackedPairs, size: int) -> Call:
    import torch

    device = _torch_device(model)
    batches = like_length(joined.lengths, size)

    def host(values: NDArray[Any]) -> Any:
        tensor = torch.from_numpy(values.astype(np.int64))
        return tensor.pin_memory() if device == "cuda" else tensor

    inputs = [{name: host(values) for name, values in _padded(model, select(joined, i)).items()} for i in batches]

    def call() -> Floats:
        with torch.inference_mode():
            logits = [
                network(**{name: value.to(device, non_blocking=True) for name, value in batch.items()}).logits
                for batch in inputs
            ]
            found: Floats = torch.cat(logits).float().cpu().numpy()  # waits for the GPU
        return in_order(batches, [found])

    return call


def _padded(model: GpuModel, batch: PackedPairs) -> dict[str, NDArray[np.int32]]:
    """The usual inputs of a padded batch, int32 [pairs, tokens] each."""
    return {
        "input_ids": padded_ids(batch.ids, batch.lengths, model.checkpoint.inputs.pad_id),
        "token_type_ids": padded_ids(batch.types, batch.lengths, 0),
        "attention_mask": padded_ids(np.ones_like(batch.ids), batch.lengths, 0),
    }


def _varlen(model: GpuModel) -> Contender:
    """Transformers' model on packed tokens, with the attention that torch has for sequences of any lengths.

    The batches are those that crossrank makes.
    """
    import torch
    from transformers import AttentionInterface, AutoModelForSequenceClassification

    AttentionInterface.register("crossrank_varlen", attend_in_parts if model.place.rehearse else attend_varlen)
    device = _torch_device(model)
    network: Any = AutoModelForSequenceClassification.from_pretrained(
        model.folder,
        dtype=_torch_type(model, "fp16"),
        attn_implementation="crossrank_varlen",
        local_files_only=True,
    )
    network.to(device).eval()
    encoder = network.base_model
    pool = getattr(encoder, "pooler", None) or (lambda rows: rows)  # ELECTRA's head has it inside
    inputs, most = model.checkpoint.inputs, settings_of(model).max_tokens

    def host(values: NDArray[Any], kind: type[np.generic] = np.int64) -> Any:
        tensor = torch.from_numpy(values.astype(kind))
        return tensor.pin_memory() if device == "cuda" else tensor

    def forward(ids: Any, types: Any, positions: Any, offsets: Any, longest: int) -> Any:
        ids, types, positions, offsets = (
            value.to(device, non_blocking=True) for value in (ids, types, positions, offsets)
        )
        hidden = encoder(
            input_ids=ids[None],
            token_type_ids=types[None],
            position_ids=positions[None],
            cu_seq_lens_q=offsets,
            max_length_q=longest,
        ).last_hidden_state
        rows = hidden[0, offsets[:-1].long()][:, None]  # [pairs, 1, hidden]: [CLS] of each
        return network.classifier(pool(rows))

    def joined(work: Work) -> Call:
        batches = plan_packed_batches(work.joined.lengths, max_tokens=most)
        prepared = []
        for index in batches:
            batch = select(work.joined, index)
            offsets = np.append(0, np.cumsum(batch.lengths))
            positions = packed_positions(batch, inputs.pad_id, inputs.position_offset)
            arrays = (host(batch.ids), host(batch.types), host(positions), host(offsets, np.int32))
            prepared.append((*arrays, int(batch.lengths.max())))

        def call() -> Floats:
            with torch.inference_mode():
                found: Floats = torch.cat([forward(*batch) for batch in prepared]).float().cpu().numpy()
            return in_order(batches, [found])

        return call

    facts = {"version": metadata.version("transformers"), "batches": f"packed, up to {most} tokens", "dtype": "fp16"}
    return Contender(VARLEN, {"model": joined}, facts)


def attend_varlen(
    module: Any, query: Any, key: Any, value: Any, mask: Any, *, cu_seq_lens_q: Any, max_length_q: int, **_: Any
) -> tuple[Any, None]:
    """[1, heads, tokens, size] each -> [1, tokens, heads, size]."""
    import torch
    from torch.nn.attention.varlen import varlen_attn

    size = query.shape[-1]
    lacking = -size % 8  # its kernel takes multiples of 8, and scales by the size that it gets
    packed = [part[0].transpose(0, 1) for part in (query, key, value)]
    if lacking:  # not always: padding by nothing copies too
        packed[0] = packed[0] * ((size + lacking) / size) ** 0.5
        packed = [torch.nn.functional.pad(part, (0, lacking)) for part in packed]
    found = varlen_attn(*packed, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
    return found[None, ..., :size], None


def attend_in_parts(
    module: Any, query: Any, key: Any, value: Any, mask: Any, *, cu_seq_lens_q: Any, **_: Any
) -> tuple[Any, None]:
    """The same on a CPU, one pair after the other."""
    import torch

    bounds = cu_seq_lens_q.tolist()
    parts = [
        torch.nn.functional.scaled_dot_product_attention(*(part[:, :, a:b] for part in (query, key, value)))
        for a, b in pairwise(bounds)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _fused(model: GpuModel, folder: Path) -> Contender:
    """An onnxruntime session with its own choice of kernels, behind transformers' tokenizer."""
    from transformers import AutoTokenizer

    path = write_graph(model, "fused", folder)
    provider = model.place.device.provider
    session = ort.InferenceSession(path, providers=[provider])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"{provider} did not start")
    split: Any = AutoTokenizer.from_pretrained(model.folder, local_files_only=True)
    limit = model.checkpoint.inputs.max_length
    names = {node.name for node in session.get_inputs()}

    def feed(batch: PackedPairs) -> dict[str, NDArray[np.int32]]:
        return {name: values for name, values in _padded(model, batch).items() if name in names}

    def joined(work: Work) -> Call:
        batches = like_length(work.joined.lengths, _BATCH)
        feeds = [feed(select(work.joined, index)) for index in batches]
        return lambda: in_order(batches, [session.run(["logits"], some)[0] for some in feeds])

    def texts(work: Work) -> Call:
        queries = [work.queries[i] for i in work.query_index]

        def call() -> Floats:
            found = split(queries, list(work.documents), truncation=True, max_length=limit)
            lengths = np.array([len(ids) for ids in found["input_ids"]], np.int32)
            ids, types = (np.concatenate(found[name]).astype(np.int32) for name in ("input_ids", "token_type_ids"))
            return joined(Work(PackedPairs(ids, types, lengths)))()

        return call

    facts = {"version": ort.__version__, "provider": provider, "batches": f"{_BATCH} of like length, padded"}
    return Contender(FUSED, {"model": joined, "texts": texts}, facts)


def _torch_device(model: GpuModel) -> str:
    return model.place.device.kind


def _torch_type(model: GpuModel, precision: str) -> Any:
    """The type of a precision; a CPU rehearses float16 in float32."""
    import torch

    types = {"fp16": torch.float32 if model.place.rehearse else torch.float16, "bf16": torch.bfloat16}
    return types[precision]
