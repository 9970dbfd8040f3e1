"""Figures looked up in the sections of a GPU run: who stands for crossrank, speeds, ratios, latencies, errors."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.measure.gpu.contenders import BASELINES, FORMS, GRAPHS, OURS, PACKED, Form

from .result import look_up

Sections = Mapping[str, Mapping[str, Any]]  # part -> its sections


def ours(sections: Sections, key: str) -> str:
    """Who stands for crossrank: with CUDA graphs, as it runs by itself, and without where none could be captured."""
    return GRAPHS if look_up(sections, f"model-{key}", "contenders", GRAPHS) is not None else PACKED


def fastest(
    sections: Sections, key: str, form: Form, names: Sequence[str], work: str = "throughput"
) -> tuple[float, str] | None:
    """The most documents per second of some contenders, and whose.

    One that gave logits that are no numbers does not count.
    """
    table = look_up(sections, f"model-{key}", work, form, "contenders")
    figures = {name: look_up(table, name) for name in names}
    kept = [(f["docs_per_s"]["median"], name) for name, f in figures.items() if f is not None and not f["not_finite"]]
    return max(kept, default=None)


def speed(
    sections: Sections, key: str, form: Form, names: Sequence[str] | None = None, work: str = "throughput"
) -> float | None:
    """The most documents per second of some contenders, by default ours."""
    found = fastest(sections, key, form, names or [ours(sections, key)], work)
    return found and found[0]


def ratio(
    sections: Sections, key: str, form: Form = "texts", names: Sequence[str] = BASELINES, work: str = "throughput"
) -> float | None:
    """Ours over the fastest of some, by default sentence-transformers in float16, in the same turns."""
    found, theirs = speed(sections, key, form, work=work), speed(sections, key, form, names, work)
    return round(found / theirs, 2) if found and theirs else None


def latency(
    sections: Sections, key: str, documents: int, form: Form, names: Sequence[str] | None = None
) -> tuple[float, float] | None:
    """p50 and p99 in ms of whom of some, by default ours, has the lowest p50."""
    table = look_up(sections, f"model-{key}", "latency", str(documents), "contenders")
    figures = [look_up(table, f"{name}: {form}") for name in names or [ours(sections, key)]]
    return min(((f["p50_ms"], f["p99_ms"]) for f in figures if f is not None and not f["not_finite"]), default=None)


def share_of_peak(sections: Sections, key: str, work: str = "throughput") -> float | None:
    """Our operations per second over the machine's own large products in float16."""
    peak = look_up(sections, "facts", "matmul", "tflops")
    operations = look_up(sections, f"model-{key}", work, "operations_per_pair")
    found = speed(sections, key, FORMS[0], work=work)
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
    forms = [look_up(table, f"{name}: {form}") for name in OURS for form in FORMS]
    rows = [row for row in forms if row is not None and "max_abs" in row]
    if not rows:
        return None
    return (
        max(row["max_abs"] for row in rows),
        min(row["kendall_tau"] for row in rows),
        max(row["nan_count"] for row in rows),
    )
