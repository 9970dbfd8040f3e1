"""What crossrank is meant to reach on one H100, and what the results of a GPU run say of it; pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ._gpu_measure import FORMS
from ._gpu_models import MODELS
from ._gpu_ours import OURS
from ._gpu_peers import BASELINES
from ._gpu_work import Form

# Part -> its sections.
Sections = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Target:
    """One claim.

    Attributes:
        claim: In words.
        wanted: The figure that reaches it.
        find: Gives the figure, None where it was not measured.
        at_most: The figure may be `wanted` at most; otherwise it must be that at least.
    """

    claim: str
    wanted: float
    find: Callable[[Sections], float | None]
    at_most: bool = False

    def state(self, found: float | None) -> str:
        """What a figure means."""
        if found is None:
            return "not measured"
        return "reached" if (found <= self.wanted if self.at_most else found >= self.wanted) else "not reached"


def look_up(content: Any, *path: str) -> Any:
    """What lies at a path in nested tables, None where it does not go on."""
    for name in path:
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


def speed(sections: Sections, key: str, form: Form, names: tuple[str, ...], work: str = "throughput") -> float | None:
    """The most documents per second of some contenders; one that gave logits that are no numbers does not count."""
    table = look_up(sections, f"model-{key}", work, form, "contenders")
    figures = [look_up(table, name) for name in names]
    return max((f["docs_per_s"]["median"] for f in figures if f is not None and not f["not_finite"]), default=None)


def ratio(sections: Sections, key: str, form: Form = "texts") -> float | None:
    """Ours over sentence-transformers in float16, at the better of its batch sizes, in the same turns."""
    ours, theirs = (speed(sections, key, form, names) for names in (OURS, BASELINES))
    return round(ours / theirs, 2) if ours and theirs else None


def latency(sections: Sections, key: str, documents: int, form: Form) -> float | None:
    """Our lowest p50 in ms."""
    table = look_up(sections, f"model-{key}", "latency", str(documents), "contenders")
    figures = [look_up(table, f"{name}: {form}") for name in OURS]
    return min((f["p50_ms"] for f in figures if f is not None and not f["not_finite"]), default=None)


def share_of_peak(sections: Sections, key: str, work: str = "throughput") -> float | None:
    """Operations per second of our best over the machine's own large products in float16."""
    peak = look_up(sections, "facts", "matmul", "tflops")
    operations = look_up(sections, f"model-{key}", work, "operations_per_pair")
    found = speed(sections, key, FORMS[0], OURS, work)
    return round(found * operations / (peak * 1e12), 4) if peak and operations and found else None


def quality_loss(sections: Sections) -> float | None:
    """What nDCG@10 of float16 lacks; of trained weights alone, and of outputs that are all numbers."""
    agreement = look_up(sections, "quality", "agreement")
    if agreement is None or not agreement["trained"] or agreement["not_finite"]:
        return None
    loss: float = agreement["ndcg_at_10_loss"]
    return loss


def worst_error(sections: Sections, key: str) -> tuple[float, float, int] | None:
    """Of our packed forms against float32: largest |Δlogit|, lowest tau, logits that are no numbers."""
    table = look_up(sections, f"model-{key}", "correctness") or {}
    ours = [look_up(table, f"{name}: {form}") for name in OURS for form in FORMS]
    rows = [row for row in ours if row is not None and "max_abs" in row]
    if not rows:
        return None
    return (
        max(row["max_abs"] for row in rows),
        min(row["kendall_tau"] for row in rows),
        max(row["nan_count"] for row in rows),
    )


_LEAST_RATIO = {"small": 3.0, "base": 2.0, "large": 2.0}


def _fast(key: str, form: Form, wanted: float) -> Target:
    what = {"encoded": "encoded documents", "texts": "texts"}[form]
    claim = f"{MODELS[key].name}, {what}, docs/s"
    return Target(claim, wanted, partial(speed, key=key, form=form, names=OURS))


TARGETS: tuple[Target, ...] = (
    *(
        Target(
            f"{shape.name}, texts, docs/s to sentence-transformers fp16",
            _LEAST_RATIO[shape.size],
            partial(ratio, key=key),
        )
        for key, shape in MODELS.items()
    ),
    _fast("minilm-l6", "encoded", 80_000),
    _fast("minilm-l6", "texts", 40_000),
    _fast("tinybert-l2", "encoded", 300_000),
    _fast("tinybert-l2", "texts", 60_000),
    _fast("bert-base", "encoded", 15_000),
    _fast("electra-base", "encoded", 15_000),
    _fast("bert-large", "encoded", 4_500),
    Target(
        "MiniLM-L6, encoded documents, p50 of 100 in ms",
        4,
        partial(latency, key="minilm-l6", documents=100, form="encoded"),
        at_most=True,
    ),
    Target("MiniLM-L12, TREC DL 2019, nDCG@10 lost by fp16", 0.001, quality_loss, at_most=True),
)
