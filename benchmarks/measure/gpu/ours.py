"""crossrank on a GPU, as contenders: as `CrossEncoder` runs after `warm_up`, and without captured CUDA graphs."""

from dataclasses import replace
from pathlib import Path

from crossrank._calls.run import Scorer
from crossrank._device.cuda.batches import plan_packed_batches
from crossrank._device.cuda.session import CPU_SETTINGS, GPU_SETTINGS, PackedSession, PackedSettings
from crossrank._device.open import load_graph
from crossrank._schedule.processes import Schedulers
from crossrank._schedule.scheduler import Scheduler

from .contenders import GRAPHS, PACKED, Call, Contender, Forms, Work, batched
from .models import GpuModel


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


def joined_call(session: PackedSession, work: Work) -> Call:
    """A call that begins with joined pairs, batched as `CrossEncoder` does it."""
    batches = plan_packed_batches(work.joined.lengths, max_tokens=session.max_tokens)
    counts = [len(index) for index in batches]
    return batched(work.joined, batches, lambda some: some, lambda joined: session.submit([*joined], counts)())
