"""The run of a batch, the chunks that its exception belongs to where it fails, and the failure of those never run."""

from collections.abc import Callable, Sequence

from crossrank._device.backend import Backend
from crossrank._errors import Closed, CrossrankError
from crossrank._interrupts import raised_by_handler
from crossrank._text.pairs import PackedPairs

from .chunk import Chunk, Floats, Piece, pack


def run_batch(
    backend: Backend, pieces: Sequence[Piece], own: Sequence[Chunk]
) -> tuple[list[tuple[Chunk, Exception]], Exception | None]:
    """Run a batch, and give its logits to its chunks.

    Args:
        backend: The graph.
        pieces: The batch.
        own: The chunks that this thread waits for, if it is a caller's.

    Returns:
        The chunks that fail, and with what; and what a signal handler raised in here, if none of them fails with it.

    Raises:
        Exception: Where all of them are this thread's own.
    """
    try:
        logits = backend.run(pack(pieces), alone=pieces[0].chunk.alone)
        first = 0
        for chunk, begin, stop in pieces:
            if chunk.outcome is None:
                chunk.take(chunk.order[begin:stop], logits[first : first + stop - begin])
            first += stop - begin
    except Exception as error:
        if own and all(piece.chunk in own for piece in pieces):
            raise
        failed = run_apart(backend.run, pieces, error, thrown=bool(own))
        # A signal handler's, which is this thread's affair. What is ours was too much for all of them together.
        ours = not own or (isinstance(error, CrossrankError) and not raised_by_handler(error))
        return failed, None if failed or ours else error
    return [], None


def run_apart(
    run: Callable[[PackedPairs], Floats], pieces: Sequence[Piece], error: Exception, *, thrown: bool
) -> list[tuple[Chunk, Exception]]:
    """Run each chunk's pairs by themselves, after a batch of all of them has failed.

    Args:
        run: Gives the logits of joined pairs, float32 [pairs, labels].
        pieces: The batch.
        error: What it failed with.
        thrown: Whether a signal handler may have raised it, and may raise another one.

    Returns:
        The chunks that fail, and with what.
    """
    if not thrown and all(piece.chunk is pieces[0].chunk for piece in pieces):
        return [(pieces[0].chunk, error)]
    failed: list[tuple[Chunk, Exception]] = []
    kind = type(error) if thrown else Exception
    for piece in pieces:
        chunk, start, stop = piece
        try:
            logits = run(pack([piece]))
            if chunk.outcome is None:
                chunk.take(chunk.order[start:stop], logits)
        except kind as its_own:
            failed.append((chunk, its_own))
    return failed


def closed_at_exit() -> Closed:
    """What a call fails with that the interpreter would not wait for when it ends."""
    return Closed(
        "the program is ending, and does not wait for its daemon threads: join them, or close the model, before the "
        "main thread ends"
    )
