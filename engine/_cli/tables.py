"""Tables on a terminal: columns one below the other, and an artifact's parity figures."""

from collections.abc import Sequence

from crossrank._artifact.manifest import Manifest
from crossrank._artifact.parity import Parity
from crossrank._printable import printable_line


def align_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines with their cells one below the other.

    >>> print(align_columns([("a", "bc"), ("def", "g")]))
    a    bc
    def  g
    """
    cells = [[printable_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def _figures(parity: Parity) -> tuple[str, ...]:
    errors = (f"{parity.max_abs:.2e}", f"{parity.mean_abs:.2e}", f"{parity.kendall_tau:.4f}")
    return (*errors, f"{parity.top10_overlap:.2f}", str(parity.nan_count), f"{parity.alone_max_abs:.1e}")


def format_parity_table(manifest: Manifest) -> str:
    """The parity figures of an artifact's graphs, a line each, layers in float, and what all was taken against."""
    rows: list[tuple[str, ...]] = [
        ("graph", "MB", "max |Δ|", "mean |Δ|", "tau", "top-10", "NaN", "alone |Δ|", "proven")
    ]
    first: Parity | None = None
    for variant in manifest.variants:
        files = (variant.file, f"{variant.file}_data")
        size = f"{sum(manifest.files[name].size_bytes for name in files if name in manifest.files) / 1e6:.1f}"
        parity = variant.parity
        if parity is None:
            rows.append((variant.name, size, *("-",) * 6, "no"))
            continue
        first = first or parity
        rows.append((variant.name, size, *_figures(parity), "by its CPU twin" if parity.graph == "twin" else "yes"))
        if variant.kernels is not None:
            rows.append((variant.name, "", *_figures(variant.kernels), f"by {variant.kernels.provider}"))
    for refusal in manifest.refused:
        figures = _figures(refusal.parity) if refusal.parity else ("-",) * 6
        rows.append((refusal.name, "-", *figures, "refused"))
    spared = [
        f"{variant.name}: layers {', '.join(map(str, variant.float_layers))} in float, which its bound needs"
        for variant in manifest.variants
        if variant.float_layers
    ]
    table = "\n".join([align_columns(rows), *spared])
    if first is None:
        return table
    about = (
        f"{first.pairs} pairs against {first.reference} (standard deviation of its logits {first.spread:.2f}), "
        f"onnxruntime {first.onnxruntime}, {first.machine}"
    )
    return f"{table}\n{printable_line(about)}"
