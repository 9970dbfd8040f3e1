"""crossrank on a GPU, as contenders: packed, packed with CUDA graphs, and its padded graph sorted by length."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from crossrank._cuda_plan import make_buckets, plan_packed_batches
from crossrank._cuda_session import CPU_SETTINGS, GPU_SETTINGS, PackedSession, PackedSettings
from crossrank._pairs import PairSource
from crossrank._runner import Runner
from crossrank._scoring import Scorer
from crossrank._session import Session

from ._gpu_models import GpuModel, write_graph
from ._gpu_work import Call, Contender, Floats, Work, in_order, like_length, select

PACKED, GRAPHS, PADDED = "crossrank packed", "crossrank packed, CUDA graphs", "crossrank padded"
OURS = (PACKED, GRAPHS)  # what crossrank does on a GPU; the padded graph shows what packing is worth
_PADDED_BATCH = 256


def settings_of(model: GpuModel) -> PackedSettings:
    """What a session has unless asked otherwise."""
    return CPU_SETTINGS if model.place.rehearse else GPU_SETTINGS


def captured_settings(model: GpuModel) -> PackedSettings:
    """Settings with which every batch of usual texts can be brought to a captured shape.

    A shape is filled up with pairs of one token at least, so a batch must lack as many tokens of the largest shape as
    it may lack pairs.
    """
    usual = settings_of(model)
    shapes = make_buckets(usual.bucket_tokens, model.checkpoint.inputs.max_length)
    room = max(shape.pairs for shape in shapes if shape.tokens == shapes[-1].tokens)
    return replace(usual, max_tokens=shapes[-1].tokens - room)


def open_packed(model: GpuModel, path: Path, settings: PackedSettings) -> tuple[Scorer, PackedSession]:
    """A packed graph, not warmed up.

    Args:
        model: The model.
        path: Its packed graph.
        settings: Of the session.
    """
    checkpoint, place = model.checkpoint, model.place
    runner = Runner(path, checkpoint.inputs, place.device, place.threads, packed=True)
    session = runner.session
    assert isinstance(session, PackedSession)
    session.settings = settings
    return Scorer(checkpoint.tokenizer, runner, checkpoint.inputs.max_length, checkpoint.config.labels), session


def packed_contender(model: GpuModel, path: Path, *, graphs: bool) -> Contender:
    """A packed graph.

    Args:
        model: The model.
        path: Its packed graph.
        graphs: Whether all batches are small enough for captured shapes; otherwise nothing is captured.
    """
    settings = captured_settings(model) if graphs else replace(settings_of(model), bucket_tokens=())
    scorer, session = open_packed(model, path, settings)
    if graphs:
        session.warm_up()

    def encoded(work: Work) -> Call:
        return lambda: scorer.logits(work.queries, work.tokens, work.query_index)

    def texts(work: Work) -> Call:
        return lambda: scorer.logits(work.queries, work.documents, work.query_index)

    return Contender(
        GRAPHS if graphs else PACKED,
        {"model": lambda work: joined_call(session, work), "encoded": encoded, "texts": texts},
        {
            "provider": session.provider,
            "batches": f"packed, up to {session.max_tokens} tokens",
            "buckets": f"{len(session.buckets)} shapes",
        },
    )


def joined_call(session: PackedSession, work: Work) -> Call:
    """A call that begins with joined pairs, batched as `Runner` does it."""
    batches = plan_packed_batches(work.joined.lengths, max_tokens=session.max_tokens)
    joined = [select(work.joined, index) for index in batches]
    counts = [len(index) for index in batches]
    return lambda: in_order(batches, session.submit(joined, counts)())


def padded_contender(model: GpuModel, folder: Path) -> Contender:
    """The graph for any runtime, in padded batches of like length."""
    checkpoint = model.checkpoint
    path = write_graph(model, "padded", folder)
    session = Session(path, checkpoint.inputs, model.place.device, model.place.threads.count)
    tokenizer, limit = checkpoint.tokenizer, checkpoint.inputs.max_length

    def run(source: PairSource) -> Floats:
        batches = like_length(source.lengths, _PADDED_BATCH)
        return in_order(batches, [session.run(source.batch(index)) for index in batches])

    def joined(work: Work) -> Call:
        batches = like_length(work.joined.lengths, _PADDED_BATCH)
        pairs = [select(work.joined, index) for index in batches]
        return lambda: in_order(batches, [session.run(some) for some in pairs])

    def tokenized(*, encoded: bool) -> Callable[[Work], Call]:
        def call(work: Work) -> Floats:
            queries = tokenizer.encode(work.queries, "query")
            tokens = work.tokens if encoded else tokenizer.encode(work.documents, "document")
            return run(PairSource(tokenizer.template, queries, tokens, work.query_index, limit))

        return lambda work: lambda: call(work)

    return Contender(
        PADDED,
        {"model": joined, "encoded": tokenized(encoded=True), "texts": tokenized(encoded=False)},
        {"provider": session.provider, "batches": f"{_PADDED_BATCH} of like length, padded"},
    )
