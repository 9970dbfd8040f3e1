"""The chunks that a failed batch's exception belongs to."""

from collections.abc import Callable, Sequence

from crossrank._text.pairs import PackedPairs

from .chunk import Chunk, Floats, Piece, pack


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
