"""Contenders on a GPU of others: sentence-transformers, transformers without padding, onnxruntime fused.

All of them start from the same checkpoint. torch and transformers are imported here alone; where they are absent, the
peers are named as unavailable.
"""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure.turns import Floats, Turns
from crossrank._device.cuda.batches import plan_packed_batches
from crossrank._device.inputs import packed_positions, padded_ids
from crossrank._machine.onnxruntime import ort
from crossrank._text.pairs import PackedPairs

from .contenders import FUSED, PEERS, ST_BF16, ST_DEFAULT, ST_LARGE, VARLEN, Call, Contender, Work, batched, like_length
from .models import GpuModel, write_graph
from .ours import settings_of

_BATCH = 256


def open_peers(model: GpuModel, folder: Path, names: Sequence[str] = PEERS) -> tuple[list[Contender], dict[str, str]]:
    """Of some peers those that can be opened, and name -> why another one cannot; the folder gets graphs."""
    opened_once: dict[str, Any] = {}  # sentence-transformers' model of a precision, for several batch sizes

    def sentence_transformers(name: str, precision: str, size: int) -> Contender:
        if precision not in opened_once:
            opened_once[precision] = _cross_encoder(model, precision)
        return _sentence_transformers(name, model, opened_once[precision], precision, size)

    makers: dict[str, Callable[[], Contender]] = {
        ST_DEFAULT: partial(sentence_transformers, ST_DEFAULT, "fp16", 32),
        ST_LARGE: partial(sentence_transformers, ST_LARGE, "fp16", _BATCH),
        ST_BF16: partial(sentence_transformers, ST_BF16, "bf16", _BATCH),
        VARLEN: partial(_varlen, model),
        FUSED: partial(_fused, model, folder),
    }
    with contextlib.suppress(ImportError):
        from transformers.utils import logging

        logging.disable_progress_bar()
    turns = Turns(names, catch=Exception)  # what others' engines raise has no common base
    return list(turns.each(lambda name: makers[name]()).values()), turns.failed


def _cross_encoder(model: GpuModel, precision: str) -> Any:
    """sentence-transformers' CrossEncoder with torch's own attention (sdpa)."""
    import torch
    from sentence_transformers import CrossEncoder

    return CrossEncoder(
        str(model.folder),
        device=model.place.device.kind,
        local_files_only=True,
        activation_fn=torch.nn.Identity(),
        model_kwargs={"dtype": _torch_type(model, precision), "attn_implementation": "sdpa"},
    )


def _sentence_transformers(name: str, model: GpuModel, encoder: Any, precision: str, size: int) -> Contender:
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
    facts = {"version": version, "attention": "sdpa", "dtype": precision, "batches": f"{size} of like length, padded"}
    return Contender(name, {"model": joined, "texts": texts}, facts)


def _all_logits(forward: Callable[[Any], Any], batches: Sequence[Any]) -> list[Floats]:
    """Of prepared batches, brought to the host once, which waits for the GPU."""
    import torch

    with torch.inference_mode():
        return [torch.cat([forward(batch) for batch in batches]).float().cpu().numpy()]


def _host(model: GpuModel, values: NDArray[Any], kind: type[np.generic] = np.int64) -> Any:
    import torch

    tensor = torch.from_numpy(values.astype(kind))
    return tensor.pin_memory() if model.place.device.kind == "cuda" else tensor


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
    from transformers import AttentionInterface, AutoModelForSequenceClassification

    AttentionInterface.register("crossrank_varlen", attend_in_parts if model.place.rehearse else attend_varlen)
    device = model.place.device.kind
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

    def prepare(batch: PackedPairs) -> tuple[list[Any], int]:
        positions = packed_positions(batch, inputs.pad_id, inputs.position_offset)
        arrays = [_host(model, values) for values in (batch.ids, batch.types, positions)]
        offsets = _host(model, np.append(0, np.cumsum(batch.lengths)), np.int32)
        return [*arrays, offsets], int(batch.lengths.max())

    def forward(batch: tuple[list[Any], int]) -> Any:
        ids, types, positions, offsets = (value.to(device, non_blocking=True) for value in batch[0])
        hidden = encoder(
            input_ids=ids[None],
            token_type_ids=types[None],
            position_ids=positions[None],
            cu_seq_lens_q=offsets,
            max_length_q=batch[1],
        ).last_hidden_state
        rows = hidden[0, offsets[:-1].long()][:, None]  # [pairs, 1, hidden]: [CLS] of each
        return network.classifier(pool(rows))

    def joined(work: Work) -> Call:
        batches = plan_packed_batches(work.joined.lengths, max_tokens=most)
        return batched(work.joined, batches, prepare, partial(_all_logits, forward))

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

    parts = [
        torch.nn.functional.scaled_dot_product_attention(*(part[:, :, a:b] for part in (query, key, value)))
        for a, b in pairwise(cu_seq_lens_q.tolist())
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _fused(model: GpuModel, folder: Path) -> Contender:
    """An onnxruntime session with its own choice of kernels, behind transformers' tokenizer."""
    from transformers import AutoTokenizer

    path, provider = write_graph(model, "fused", folder), model.place.device.provider
    session = ort.InferenceSession(path, providers=[provider])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"{provider} did not start")
    split: Any = AutoTokenizer.from_pretrained(model.folder, local_files_only=True)
    limit = model.checkpoint.inputs.max_length
    names = {node.name for node in session.get_inputs()}

    def feed(batch: PackedPairs) -> dict[str, NDArray[np.int32]]:
        return {name: values for name, values in _padded(model, batch).items() if name in names}

    def run(feeds: Sequence[dict[str, NDArray[np.int32]]]) -> list[Floats]:
        return [session.run(["logits"], some)[0] for some in feeds]

    def joined(work: Work) -> Call:
        return batched(work.joined, like_length(work.joined.lengths, _BATCH), feed, run)

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


def _torch_type(model: GpuModel, precision: str) -> Any:
    """The type of a precision; a CPU rehearses float16 in float32."""
    import torch

    types = {"fp16": torch.float32 if model.place.rehearse else torch.float16, "bf16": torch.bfloat16}
    return types[precision]
