"""What tests read off a ranking."""

from collections.abc import Iterable

from crossrank import RankedDocument


def scores_of(ranking: Iterable[RankedDocument]) -> list[float]:
    """The scores of entries that all have one."""
    scores: list[float] = []
    for entry in ranking:
        assert entry["score"] is not None
        scores.append(entry["score"])
    return scores
