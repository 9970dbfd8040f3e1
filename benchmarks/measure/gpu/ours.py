"""crossrank on a GPU, as contenders: as `CrossEncoder` runs after `warm_up`, and two ablations of that.

One captures no CUDA graph, the other has the graph for any runtime, padded and sorted by length.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.measure.turns import Floats
from crossrank._calls.run import Scorer
from crossrank._device.cuda.batches import plan_packed_batches
from crossrank._device.cuda.session import CPU_SETTINGS, GPU_SETTINGS, PackedSession, PackedSettings
from crossrank._device.gpu_options import provider_options, session_entries
from crossrank._device.open import load_graph
from crossrank._device.session import Session
from crossrank._machine.device import Device
from crossrank._machine.onnxruntime import ort
from crossrank._schedule.processes import Schedulers
from crossrank._schedule.scheduler import Scheduler
from crossrank._text.pairs import PairSource

from .contenders import GRAPHS, PACKED, PADDED, Call, Contender, Forms, Work, batched, in_order, like_length
from .models import GpuModel, write_graph

_PADDED_BATCH = 256


def settings_of(model: GpuModel) -> PackedSettings:
    """What a session has unless asked otherwise."""
    return CPU_SETTINGS if model.place.rehearse else GPU_SETTINGS


def open_packed(model: GpuModel, path: Path, settings: PackedSettings) -> tuple[Scorer, PackedSession]:
    """A model's packed graph, not warmed up."""
    checkpoint, place = model.checkpoint, model.place
    session = load_graph(path, checkpoint.inputs, place.device, place.threads, packed=True)
    assert isinstance(session, PackedSession)
    session.settings = settings
    schedulers = Schedulers(lambda: Scheduler(session))
    inputs, labels = checkpoint.inputs, checkpoint.config.labels
    return Scorer(checkpoint.tokenizer, session, inputs.max_length, labels, schedulers), session


def packed_contender(model: GpuModel, path: Path, *, graphs: bool) -> Contender:
    """A packed graph, whose small batches are brought to captured shapes, as a session does it by itself, or not.

    Raises:
        RuntimeError: If no CUDA graph can be captured.
    """
    usual = settings_of(model)
    scorer, session = open_packed(model, path, usual if graphs else replace(usual, bucket_tokens=()))
    session.warm_up()
    if graphs and not session.buckets:
        raise RuntimeError("no CUDA graph could be captured; the session's warning on standard error says why")

    def encoded(work: Work) -> Call:
        return lambda: scorer.logits(work.queries, work.tokens, work.query_index)

    def texts(work: Work) -> Call:
        return lambda: scorer.logits(work.queries, work.documents, work.query_index)

    facts = {"batches": f"packed, up to {session.max_tokens} tokens", "buckets": f"{len(session.buckets)} shapes"}
    forms: Forms = {"model": lambda work: joined_call(session, work), "encoded": encoded, "texts": texts}
    return Contender(GRAPHS if graphs else PACKED, forms, {"provider": session.provider, **facts})


def open_otherwise(
    path: Path,
    device: Device,
    threads: int = 1,
    *,
    packed: bool = False,
    capture: bool = False,
    kernels: int | None = None,
    without: Sequence[str] = (),
) -> Any:
    """A session as `crossrank._device.session.open_graph` opens it after an earlier one, but for what is asked.

    That is the attention kernels that may be taken, bits as in `provider_options`, and optimizers of onnxruntime's
    that are left out.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    chosen: dict[str, str] = {}
    if device.kind != "cpu":
        chosen = provider_options(device.index, capture=capture)
        if kernels is not None:
            chosen["sdpa_kernel"] = str(kernels)
        for key, value in session_entries(all_on_device=packed).items():
            options.add_session_config_entry(key, value)
    providers = [(device.provider, chosen)]
    return ort.InferenceSession(path, options, providers=providers, disabled_optimizers=[*without], enable_fallback=0)


def joined_call(session: PackedSession, work: Work) -> Call:
    """A call that begins with joined pairs, batched as `CrossEncoder` does it."""
    batches = plan_packed_batches(work.joined.lengths, max_tokens=session.max_tokens)
    counts = [len(index) for index in batches]
    return batched(work.joined, batches, lambda some: some, lambda joined: session.submit([*joined], counts)())


def padded_contender(model: GpuModel, folder: Path) -> Contender:
    """The graph for any runtime, in padded batches of like length."""
    checkpoint = model.checkpoint
    path = write_graph(model, "padded", folder)
    session = Session(path, checkpoint.inputs, model.place.device, model.place.threads)
    tokenizer, limit = checkpoint.tokenizer, checkpoint.inputs.max_length

    def joined(work: Work) -> Call:
        batches = like_length(work.joined.lengths, _PADDED_BATCH)
        return batched(work.joined, batches, lambda some: some, lambda pairs: [session.run(some) for some in pairs])

    def tokenized(*, encoded: bool) -> Callable[[Work], Call]:
        def call(work: Work) -> Floats:
            queries = tokenizer.encode(work.queries, "query")
            tokens = work.tokens if encoded else tokenizer.encode(work.documents, "document")
            source = PairSource(tokenizer.template, queries, tokens, work.query_index, limit)
            batches = like_length(source.lengths, _PADDED_BATCH)
            return in_order(batches, [session.run(source.batch(index)) for index in batches])

        return lambda work: lambda: call(work)

    forms: Forms = {"model": joined, "encoded": tokenized(encoded=True), "texts": tokenized(encoded=False)}
    facts = {"provider": session.provider, "batches": f"{_PADDED_BATCH} of like length, padded"}
    return Contender(PADDED, forms, facts)
