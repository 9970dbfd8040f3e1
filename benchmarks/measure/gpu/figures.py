"""Models on a GPU: how near crossrank is to float32, documents per second, and latency, beside peers."""

import contextlib
import gc
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines.registry import reason_of
from benchmarks.engines.worker import Call as Timing
from benchmarks.measure.peaks import operations_per_pair
from benchmarks.measure.turns import Floats, Series, Turns, interleave, percentiles, spread, timed
from crossrank._artifact.parity import BOUNDS, compare_logits
from crossrank.export._prove.reference import reference_logits
from crossrank.export._read.texts import load_pairs

from .contenders import (
    BASELINES,
    FORMS,
    FUSED,
    GRAPHS,
    OURS,
    PACKED,
    PEERS,
    Call,
    Contender,
    Form,
    Keep,
    Work,
    make_works,
    text_work,
)
from .kernels import printed_kernels, read_kernels
from .models import GPU_MODELS, GpuModel, Place, Size, open_gpu_model, size_of, write_graph
from .ours import packed_contender
from .peers import open_peers

_PROOF_PAIRS, _ALONE = 64, 8  # that are compared with float32, of which so many are scored alone too
_LATENCY_WARM_UP, _LATENCY_LEAST = 3, 20  # calls


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much is scored: documents of a call, and rounds of such calls that count.

    Of calls whose latency is taken: documents -> how many count, in so many seconds.
    """

    documents: int
    rounds: int
    calls: Mapping[int, int]
    latency_s: float


# A call is long enough for the next texts to be tokenized while the GPU works, and short enough for all contenders.
_DOCUMENTS: dict[Size, int] = {"small": 8192, "base": 4096, "large": 2048}
_REHEARSED = Amounts(16, 1, {10: 1, 100: 1, 1000: 1}, 0.0)


# Parity


def measure_parity(place: Place, keep: Keep, keys: Iterable[str] = GPU_MODELS) -> None:
    """Compare crossrank's logits with float32, model by model, and say which attention kernels were taken.

    Raises:
        RuntimeError: At the end, if ours failed or left the bounds of float16.
    """
    found = {}
    for key in keys:
        try:
            row = compare_with_reference(open_gpu_model(key, place))
        except Exception as error:  # the others are to be compared
            row = {"rows": {}, "problems": [reason_of(error)]}
        keep(key, row)
        found[key] = row["problems"]
    if wrong := {key: why for key, why in found.items() if why}:
        raise RuntimeError("; ".join(f"{key}: {', '.join(why)}" for key, why in wrong.items()))


def compare_with_reference(model: GpuModel) -> dict[str, Any]:
    """Our logits, plain and from captured graphs, and those of the fused peer, against float32 on the CPU.

    Each in every form that it has, together and alone. The reference is transformers where that is installed.
    """
    pairs = _PROOF_PAIRS if not model.place.rehearse else _ALONE
    queries, documents = zip(*load_pairs("proof")[:pairs], strict=True)
    checkpoint = model.checkpoint
    name, reference = reference_logits(
        checkpoint.source,
        checkpoint.source.folder / "tokenizer.json",
        list(zip(queries, documents, strict=True)),
        max_length=checkpoint.inputs.max_length,
        token_types=checkpoint.inputs.token_types,
        bare_projection=False,
    )
    together = text_work(checkpoint, queries, documents)
    alone = [text_work(checkpoint, queries[i : i + 1], documents[i : i + 1]) for i in range(_ALONE)]
    logits: dict[str, Floats] = {}

    def compare(contender: Contender, form: Form) -> dict[str, object]:
        make = contender.forms[form]
        logits[f"{contender.name}: {form}"] = found = make(together)()
        singles = np.concatenate([make(work)() for work in alone])
        facts = {"name": name, "graph": "graph", "provider": contender.facts["provider"]}
        parity = compare_logits(reference, found, singles, precision="fp16", **facts)
        return asdict(parity) | {"problems": parity.problems(BOUNDS["fp16"])}

    with tempfile.TemporaryDirectory() as work, printed_kernels() as printed:
        contenders, failed = open_contenders(model, Path(work), [FUSED])
        wanted = {f"{it.name}: {form}": (it, form) for it in contenders for form in it.forms}
        turns = Turns(wanted, catch=Exception)
        rows = turns.each(lambda name: compare(*wanted[name]))
    problems = [f"{name}: {why}" for name, why in (failed | turns.failed).items()]
    problems += [f"{name}: {why}" for name, row in rows.items() for why in row["problems"]]  # type: ignore[attr-defined]
    both = [
        [logits[f"{name}: {form}"] for name in OURS] for form in FORMS if all(f"{it}: {form}" in logits for it in OURS)
    ]
    return {
        "weights": model.model.weights,
        "rows": rows,
        "captured_to_plain": max((float(np.abs(captured - plain).max()) for captured, plain in both), default=None),
        "kernels": read_kernels(printed[0]),
        "problems": [why for why in problems if why.startswith(OURS)],
        "failed": failed | turns.failed,
    }


def open_contenders(model: GpuModel, folder: Path, peers: Sequence[str]) -> tuple[list[Contender], dict[str, str]]:
    """Ours and some peers, and name -> why one cannot score the model; the folder gets graphs."""
    packed = write_graph(model, "packed", folder)
    turns = Turns((PACKED, GRAPHS), catch=Exception)
    opened = turns.each(lambda name: packed_contender(model, packed, graphs=name == GRAPHS))
    others, absent = open_peers(model, folder, peers)
    return [*opened.values(), *others], turns.failed | absent


# Speed


def measure_model(key: str, place: Place, keep: Keep, *, quick: bool = False) -> None:
    """Measure one of `GPU_MODELS`; ``keep`` gets each section as it grows. Quick is with fewer calls and peers.

    Raises:
        RuntimeError: At the end, if crossrank or sentence-transformers in float16 failed anywhere: what remains is no
            comparison.
    """
    documents, calls = _DOCUMENTS[size_of(key)], {10: 200, 100: 200, 1000: 60}
    amounts = Amounts(documents // 2, 3, calls, 2.5) if quick else Amounts(documents, 4, calls, 6.0)
    amounts = _REHEARSED if place.rehearse else amounts
    with tempfile.TemporaryDirectory() as work:
        model = open_gpu_model(key, place)
        keep("model", model.model.describe())
        contenders, failed = open_contenders(model, Path(work), BASELINES if quick else PEERS)
        keep("unavailable", dict(failed))
        keep("contenders", {contender.name: dict(contender.facts) for contender in contenders})
        works = make_works(model.checkpoint, amounts.documents, 1 + amounts.rounds)
        for measured in (
            measure_throughput(model, contenders, works),
            measure_latency(model, contenders, works, amounts),
        ):
            for section, content, why in measured:
                keep(section, content)
                failed |= why
    missing = [f"{name}: {why}" for name, why in failed.items() if name.partition(": ")[0] in (*OURS, *BASELINES)]
    if missing:
        raise RuntimeError(f"main contenders failed, so this must be run again: {'; '.join(missing)}")


Section = tuple[str, dict[str, Any], dict[str, str]]  # its name, what it holds until now, who failed and why


def measure_throughput(model: GpuModel, contenders: Sequence[Contender], works: Sequence[Work]) -> Iterator[Section]:
    """Documents per second of every contender in every form that it has, form by form.

    The works are all of one size; the first warms up.
    """
    lengths = np.concatenate([work.joined.lengths for work in works[1:]])
    operations = float(operations_per_pair(model.checkpoint.config, lengths).mean())
    result: dict[str, Any] = {
        "documents": works[0].size,
        "rounds": len(works) - 1,
        "mean_pair_tokens": round(float(lengths.mean()), 1),
        "operations_per_pair": operations,
    }
    for form in FORMS:
        wanted = {it.name: (it, form) for it in contenders if form in it.forms}
        series, failed = _in_turns(wanted, works, warm_up=1)
        figures = {name: _speed(found, works[0].size, operations) for name, found in series.items()}
        baseline = max((figures[name]["docs_per_s"]["median"] for name in BASELINES if name in figures), default=None)
        for figure in figures.values():
            figure["ratio"] = None if baseline is None else round(figure["docs_per_s"]["median"] / baseline, 2)
        result[form] = {"contenders": figures, "failed": failed}
        yield "throughput", result, failed


def _speed(found: Series, documents: int, operations: float) -> dict[str, Any]:
    speeds = spread(documents / seconds for seconds in found.round_seconds)
    tflops = round(speeds.median * operations / 1e12, 3)
    return {"docs_per_s": asdict(speeds), "tflops": tflops, "not_finite": _not_finite(found)}


def measure_latency(
    model: GpuModel, contenders: Sequence[Contender], works: Sequence[Work], amounts: Amounts
) -> Iterator[Section]:
    """Time of one call of one query, with encoded documents and with texts, ours and sentence-transformers'.

    The texts are those of the works; they return where there are too few.
    """
    chosen = [contender for contender in contenders if contender.name in (*OURS, *BASELINES)]
    wanted = {f"{it.name}: {form}": (it, form) for it in chosen for form in FORMS[1:] if form in it.forms}
    queries = [query for work in works for query in work.queries]
    result: dict[str, Any] = {}
    for size, calls in amounts.calls.items():
        documents = min(size, _REHEARSED.documents) if model.place.rehearse else size
        texts = cycle([document for work in works for document in work.documents])
        warm_up = min(_LATENCY_WARM_UP, calls)
        some = [
            text_work(model.checkpoint, [query], list(islice(texts, documents)))
            for query in islice(cycle(queries), warm_up + calls)
        ]
        series, failed = _in_turns(wanted, some, warm_up=warm_up, limit_s=amounts.latency_s)
        figures = {
            name: percentiles(found.round_seconds) | {"not_finite": _not_finite(found)}
            for name, found in series.items()
        }
        result[str(size)] = {"contenders": figures, "failed": failed}
        yield "latency", result, failed


def _not_finite(found: Series) -> int:
    return sum(int(np.count_nonzero(~np.isfinite(logits))) for logits in found.all_scores)


def _in_turns(
    wanted: Mapping[str, tuple[Contender, Form]], works: Sequence[Work], *, warm_up: int, limit_s: float = float("inf")
) -> tuple[dict[str, Series], dict[str, str]]:
    """Name -> what a contender gave in a form, a call a round, and name -> why it failed, before or in a call.

    After so many seconds the rounds end, but not before there were enough.
    """

    def prepare(name: str) -> Callable[[int], Timing]:
        contender, form = wanted[name]
        calls: list[Call] = [contender.forms[form](work) for work in works]
        return timed(lambda number: calls[number]())

    def rounds() -> Iterator[list[int]]:
        begin = time.perf_counter()
        for number in range(warm_up, len(works)):
            if number >= warm_up + _LATENCY_LEAST and time.perf_counter() - begin > limit_s:
                return
            yield [number]

    turns = Turns(wanted, catch=Exception)  # what others' engines raise has no common base
    engines = turns.each(prepare)
    with _undisturbed():
        series, failed = interleave(engines, range(warm_up), rounds(), pause_s=0, catch=Exception)
    return series, turns.failed | failed


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """No garbage is collected meanwhile: it would hit one contender's call or another's."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
