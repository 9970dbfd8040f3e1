"""The cache of exported models as a terminal shows it."""

from collections.abc import Sequence
from pathlib import Path

from crossrank._artifact.cache import CachedArtifact, Removal
from crossrank._printable import printable_line

from .tables import align_columns


def format_cache(root: Path, artifacts: Sequence[CachedArtifact]) -> str:
    """The artifacts as a table, and what they take together."""
    if not artifacts:
        return f"{printable_line(root)}: no exported models"
    rows = [("model", "graphs", "MB", "age", "note", "name")]
    for artifact in artifacts:
        notes = (artifact.exporting and "being exported", artifact.damaged and "damaged", artifact.useless)
        note = "; ".join(note for note in notes if note)
        size, age = f"{artifact.size_bytes / 1e6:.1f}", _ago(artifact.age_s)
        rows.append((artifact.source or "-", ", ".join(artifact.graphs) or "-", size, age, note or "-", artifact.name))
    total = sum(artifact.size_bytes for artifact in artifacts)
    plural = "s"[: len(artifacts) != 1]
    return f"{align_columns(rows)}\n{len(artifacts)} model{plural}, {total / 1e6:.1f} MB in {printable_line(root)}"


def format_removals(removals: Sequence[Removal], *, dry_run: bool) -> str:
    """A line for each removal, and what they free together."""
    if not removals:
        return "nothing to remove"
    done, lines = "would remove" if dry_run else "removed", []
    for removal in removals:
        verb = done if removal.problem is None else "left"
        size = f" ({removal.size_bytes / 1e6:.1f} MB)" if removal.size_bytes else ""
        lines.append(printable_line(f"{verb} {removal.name}{size}: {removal.problem or removal.reason}"))
    freed = sum(removal.size_bytes for removal in removals if removal.problem is None)
    return "\n".join([*lines, f"{freed / 1e6:.1f} MB {'would be freed' if dry_run else 'freed'}"])


def _ago(seconds: float) -> str:
    """A time ago as people say it.

    >>> [_ago(seconds) for seconds in (20, 150, 7300, 200_000)]
    ['now', '2 min', '2 h', '2 days']
    """
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= (2 * length if unit == "days" else length):
            return f"{int(seconds // length)} {unit}"
    return "now"
