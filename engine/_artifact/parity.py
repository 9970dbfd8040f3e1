"""Parity: the distance of a graph's logits from the reference, and its bounds.

Shared by the exporter, which proves a graph before it writes it, and by ``crossrank verify``, which
proves it again on the machine at hand.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossrank._machine.cpu import processor_name
from crossrank._machine.onnxruntime import ort

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Bound:
    """The largest error that a precision may have.

    The limits of fp16 and int8 grow with the reference's standard deviation where that is above 1:
    rounding is relative, and a model that spreads its logits wider errs wider and ranks as well.

    Attributes:
        max_abs: Largest error of a logit.
        mean_abs: Mean error of a logit.
        min_tau: Smallest Kendall rank correlation with the reference.
        rounding: Scores of the reference that differ by this multiple of ``max(1, standard deviation)`` or less have no
            order: the steps of the numbers that the graph computes with.
        relative: Whether the first two are multiples of ``max(1, standard deviation)``.
    """

    max_abs: float
    mean_abs: float
    min_tau: float
    rounding: float
    relative: bool


# Rounding: a few steps of float32 (2^-23), one of float16 (2^-10), two of int8 (2^-7). A model that was never trained
# gives logits within 1e-4 of each other; those of a trained one are so near in less than a hundredth of all pairs.
BOUNDS: dict[str, Bound] = {
    "fp32": Bound(max_abs=1e-4, mean_abs=1e-4, min_tau=0.999, rounding=2**-20, relative=False),
    "fp16": Bound(max_abs=0.02, mean_abs=0.006, min_tau=0.98, rounding=2**-10, relative=True),
    "int8": Bound(max_abs=0.25, mean_abs=0.05, min_tau=0.90, rounding=2**-6, relative=True),
}


@dataclass(frozen=True, slots=True)
class Parity:
    """One graph against the reference on the proof's pairs.

    Attributes:
        reference: What the reference was: "transformers VERSION" or "numpy".
        graph: What was run: "graph", or "twin" where the graph itself needs another device.
        provider: The execution provider that ran it.
        onnxruntime: Its version.
        machine: The processor.
        pairs: How many pairs.
        max_abs: Largest distance of a logit to the reference's.
        mean_abs: Mean error of a logit.
        kendall_tau: Rank correlation with the reference where its scores differ by more than the graph's rounding, the
            worst label's; 1.0 where none do.
        top10_overlap: Share of the reference's ten best that are among ours, the worst label's.
        nan_count: Logits that are not finite.
        alone_pairs: How many pairs were also scored alone.
        alone_max_abs: Largest distance of a logit of a pair alone to that of the same pair in its batch.
        spread: Standard deviation of the reference's logits, the widest label's.
    """

    reference: str
    graph: str
    provider: str
    onnxruntime: str
    machine: str
    pairs: int
    max_abs: float
    mean_abs: float
    kendall_tau: float
    top10_overlap: float
    nan_count: int
    alone_pairs: int
    alone_max_abs: float
    spread: float

    def problems(self, bound: Bound) -> list[str]:
        """Where these figures leave ``bound``, one sentence each; empty if they hold."""
        scale = max(1.0, self.spread) if bound.relative else 1.0
        limits = (
            ("max |Δlogit|", self.max_abs, bound.max_abs * scale),
            ("mean |Δlogit|", self.mean_abs, bound.mean_abs * scale),
            ("1 - Kendall tau", 1 - self.kendall_tau, 1 - bound.min_tau),
            ("alone against batched", self.alone_max_abs, bound.max_abs * scale),
        )
        # Not "greater": a NaN is beyond every limit.
        found = [f"{name} {value:.3g}, allowed {limit:.3g}" for name, value, limit in limits if not value <= limit]
        return [*found, f"{self.nan_count} logits are not finite"] if self.nan_count else found


def kendall_tau(first: Floats, second: Floats, rounding: float = 0.0) -> float:
    """Kendall's tau-b of two score lists (Kendall 1945), 1.0 for fewer than two distinct values.

    Args:
        first: float32 [n].
        second: float32 [n].
        rounding: Values of ``first`` that differ by no more are left out as pairs; 0 leaves out none, ties count as
            in Kendall's.

    >>> kendall_tau(np.array([1, 2, 3], np.float32), np.array([1, 3, 2], np.float32))
    0.3333333333333333
    >>> kendall_tau(np.array([1, 2, 2.1], np.float32), np.array([1, 3, 2], np.float32), rounding=0.2)
    1.0
    """
    upper = np.triu_indices(len(first), k=1)
    apart = (first[:, None] - first[None, :])[upper]
    counted = ~((np.abs(apart) <= rounding) & (rounding > 0))
    a = np.sign(apart[counted])
    b = np.sign((second[:, None] - second[None, :])[upper][counted])
    norm = float(np.sqrt(np.count_nonzero(a) * float(np.count_nonzero(b))))
    return float(np.sum(a * b, dtype=np.float64)) / norm if norm else 1.0


@np.errstate(invalid="ignore")  # logits that are not finite are counted
def compare_logits(
    reference: Floats,
    batched: Floats,
    alone: Floats,
    *,
    precision: str,
    name: str,
    graph: str,
    provider: str,
) -> Parity:
    """Figures of one graph.

    Args:
        reference: float32 [pairs, labels].
        batched: The graph's logits, the same shape.
        alone: The graph's logits of the first k pairs, each scored alone, float32 [k, labels].
        precision: The graph's.
        name: What the reference is.
        graph: "graph" or "twin".
        provider: The provider that ran the graph.
    """
    error = np.abs(batched.astype(np.float64) - reference)
    spread = float(reference.std(axis=0).max())
    rounding = BOUNDS[precision].rounding * max(1.0, spread)
    top = min(10, len(reference))
    labels = range(reference.shape[1])
    overlaps = [
        len(np.intersect1d(np.argsort(-reference[:, i])[:top], np.argsort(-batched[:, i])[:top])) / top for i in labels
    ]
    return Parity(
        reference=name,
        graph=graph,
        provider=provider,
        onnxruntime=ort.__version__,
        machine=processor_name(),
        pairs=len(reference),
        max_abs=float(error.max()),
        mean_abs=float(error.mean()),
        kendall_tau=min(kendall_tau(reference[:, i], batched[:, i], rounding) for i in labels),
        top10_overlap=min(overlaps),
        nan_count=int(np.count_nonzero(~np.isfinite(batched))),
        alone_pairs=len(alone),
        alone_max_abs=float(np.abs(alone.astype(np.float64) - batched[: len(alone)]).max(initial=0.0)),
        spread=spread,
    )
