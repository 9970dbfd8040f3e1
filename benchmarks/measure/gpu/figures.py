"""One model on a GPU: how near every contender is to float32, documents per second, and latency."""

import contextlib
import gc
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure.peaks import operations_per_pair
from benchmarks.measure.turns import Turns, percentiles, spread
from crossrank._artifact.parity import BOUNDS, compare_logits
from crossrank.export._prove.reference import reference_logits
from crossrank.export._read.texts import load_pairs

from .contenders import (
    BASELINES,
    FORMS,
    GRAPHS,
    OURS,
    PACKED,
    PADDED,
    Call,
    Contender,
    Form,
    Keep,
    Series,
    Work,
    fixed_works,
    make_works,
    take_turns,
    text_work,
)
from .models import GpuModel, Place, Size, open_gpu_model, write_graph
from .ours import packed_contender, padded_contender
from .peers import open_peers

_LENGTHS = (128, 512)  # tokens of every pair, beside texts of real lengths
_CALL_SIZES = (10, 100, 1000)  # documents of a call whose latency is taken
_LATENCY_MODELS = ("minilm-l6", "bert-base", "tinybert-l2", "minilm-l12", "bert-large")
_ALONE = 8  # pairs that are scored alone too
_LATENCY_WARM_UP, _LATENCY_LIMIT_S = 5, 6.0


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much is scored: documents of a call, rounds of such calls that count, and pairs compared with float32.

    Of calls whose latency is taken, size -> how many count.
    """

    documents: int
    rounds: int
    proof: int
    latency_calls: Mapping[int, int]


# A call is long enough for the next texts to be tokenized while the GPU works, and short enough for all contenders.
_DOCUMENTS: dict[Size, int] = {"small": 8192, "base": 4096, "large": 2048}
_REHEARSED = Amounts(16, 1, 8, dict.fromkeys(_CALL_SIZES, 1))


def measure_model(key: str, place: Place, keep: Keep) -> None:
    """Measure one of `MODELS`; ``keep`` is called with each section's name and content, when it is done.

    Raises:
        RuntimeError: At the end, if crossrank or sentence-transformers in float16 failed anywhere: what remains is no
            comparison.
    """
    failures: dict[str, str] = {}

    def kept(name: str, content: Mapping[str, Any]) -> None:
        keep(name, content)
        failures.update(find_failures(content))

    with tempfile.TemporaryDirectory() as work:
        model = open_gpu_model(key, place)
        sizes = model.checkpoint.config
        weights = "published" if model.trained else "random, seed 0"
        keep("model", {"name": model.shape.name, "size": model.shape.size, "weights": weights, "shape": asdict(sizes)})
        contenders, unavailable = open_contenders(model, Path(work))
        keep("unavailable", unavailable)
        failures.update(unavailable)
        keep("contenders", {contender.name: dict(contender.facts) for contender in contenders})
        usual = Amounts(_DOCUMENTS[model.shape.size], 4, 64, {10: 200, 100: 200, 1000: 60})
        amounts = _REHEARSED if place.rehearse else usual
        kept("correctness", measure_correctness(model, contenders, amounts.proof))
        works = make_works(model.checkpoint, amounts.documents, 1 + amounts.rounds)
        kept("throughput", measure_throughput(model, contenders, works))
        for length in _LENGTHS:
            pairs = max(2, amounts.documents * 64 // length)  # about as many tokens as the texts have, at 64 each
            random = fixed_works(sizes.vocabulary, length, pairs, 1 + (amounts.rounds + 1) // 2)
            kept(f"throughput-{length}", measure_throughput(model, contenders, random))
        if key in _LATENCY_MODELS:
            kept("latency", measure_latency(model, contenders, works, amounts))
    main = (*(OURS if place.graphs else (PACKED,)), *BASELINES)
    missing = [f"{name}: {why}" for name, why in failures.items() if name.partition(": ")[0] in main]
    if missing:
        raise RuntimeError(f"main contenders failed, so this must be run again: {'; '.join(missing)}")


def find_failures(section: Mapping[str, Any]) -> dict[str, str]:
    """Who failed in a section, with a form behind a colon or without -> why.

    >>> find_failures({"documents": 8, "texts": {"contenders": {}, "failed": {"a": "no memory"}}})
    {'a': 'no memory'}
    >>> find_failures({"a: texts": {"failed": "no memory"}, "b: texts": {"max_abs": 0.1}})
    {'a: texts': 'no memory'}
    """
    found: dict[str, str] = {}
    for name, row in section.items():
        failed = row.get("failed") if isinstance(row, Mapping) else None
        if failed:
            found |= failed if isinstance(failed, Mapping) else {name: failed}
    return found


def open_contenders(model: GpuModel, folder: Path) -> tuple[list[Contender], dict[str, str]]:
    """All who can score a model, ours first, and name -> why another one cannot; the folder gets graphs."""
    packed = write_graph(model, "packed", folder)
    makers: dict[str, Callable[[], Contender]] = {
        PACKED: partial(packed_contender, model, packed, graphs=False),
        GRAPHS: partial(packed_contender, model, packed, graphs=True),
        PADDED: partial(padded_contender, model, folder),
    }
    turns = Turns([name for name in makers if name != GRAPHS or model.place.graphs], catch=Exception)
    opened = turns.each(lambda name: makers[name]())
    peers, absent = open_peers(model, folder)
    return [*opened.values(), *peers], turns.failed | absent


def measure_correctness(model: GpuModel, contenders: Sequence[Contender], pairs: int) -> Mapping[str, object]:
    """Each contender's logits against float32 on the CPU, in every form that it has.

    The reference is transformers where that is installed.
    """
    queries, documents = zip(*load_pairs("proof")[:pairs], strict=True)
    source, inputs = model.checkpoint.source, model.checkpoint.inputs
    reference_name, reference = reference_logits(
        source,
        source.folder / "tokenizer.json",
        list(zip(queries, documents, strict=True)),
        max_length=inputs.max_length,
        token_types=inputs.token_types,
        bare_projection=False,
    )
    together = text_work(model.checkpoint, queries, documents)
    alone = [text_work(model.checkpoint, queries[i : i + 1], documents[i : i + 1]) for i in range(min(_ALONE, pairs))]
    wanted = {f"{c.name}: {form}": (c, form) for c in contenders for form in c.forms}

    def compare(name: str) -> dict[str, object]:
        contender, form = wanted[name]
        make = contender.forms[form]
        logits, singles = make(together)(), np.concatenate([make(work)() for work in alone])
        how = {"name": reference_name, "graph": "graph", "provider": contender.facts.get("provider", "torch")}
        parity = compare_logits(reference, logits, singles, precision="fp16", **how)
        return asdict(parity) | {"problems": parity.problems(BOUNDS["fp16"])}

    turns = Turns(wanted, catch=Exception)
    return turns.each(compare) | {name: {"failed": why} for name, why in turns.failed.items()}


def measure_throughput(model: GpuModel, contenders: Sequence[Contender], works: Sequence[Work]) -> dict[str, object]:
    """Documents per second of every contender in every form that it has, form by form.

    The works are all of one size; the first warms up. Without texts only one form is taken.
    """
    lengths = np.concatenate([work.joined.lengths for work in works[1:]])
    operations = float(operations_per_pair(model.checkpoint.config, lengths).mean())
    result: dict[str, object] = {
        "documents": works[0].size,
        "rounds": len(works) - 1,
        "mean_pair_tokens": round(float(lengths.mean()), 1),
        "operations_per_pair": operations,
    }
    for form in FORMS if works[0].documents else FORMS[:1]:
        series, failed = _timed({c.name: (c, form) for c in contenders if form in c.forms}, works)
        figures = {name: _speed(found, works[0].size, operations) for name, found in series.items()}
        baseline = max((figures[name]["docs_per_s"]["median"] for name in BASELINES if name in figures), default=None)
        for figure in figures.values():
            figure["ratio"] = None if baseline is None else round(figure["docs_per_s"]["median"] / baseline, 2)
        result[form] = {"contenders": figures, "failed": failed}
    return result


def _speed(found: Series, documents: int, operations: float) -> dict[str, Any]:
    speeds = spread(documents / seconds for seconds in found.seconds)
    tflops = round(speeds.median * operations / 1e12, 3)
    return {"docs_per_s": asdict(speeds), "tflops": tflops, "not_finite": found.not_finite}


def measure_latency(
    model: GpuModel, contenders: Sequence[Contender], works: Sequence[Work], amounts: Amounts
) -> dict[str, object]:
    """Time of one call of one query, with encoded documents and with texts, ours and sentence-transformers'.

    The texts are those of the works; they return where there are too few.
    """
    chosen = [contender for contender in contenders if contender.name in (*OURS, *BASELINES)]
    wanted = {f"{c.name}: {form}": (c, form) for c in chosen for form in FORMS[1:] if form in c.forms}
    queries = [query for work in works for query in work.queries]
    result: dict[str, object] = {}
    for size, calls in amounts.latency_calls.items():
        documents = min(size, _REHEARSED.documents) if model.place.rehearse else size
        texts = cycle([document for work in works for document in work.documents])
        warm_up = min(_LATENCY_WARM_UP, calls)
        some = [
            text_work(model.checkpoint, [query], list(islice(texts, documents)))
            for query in islice(cycle(queries), warm_up + calls)
        ]
        series, failed = _timed(wanted, some, warm_up=warm_up, limit_s=_LATENCY_LIMIT_S)
        figures = {name: percentiles(it.seconds) | {"not_finite": it.not_finite} for name, it in series.items()}
        result[str(size)] = {"contenders": figures, "failed": failed}
    return result


def _timed(
    wanted: Mapping[str, tuple[Contender, Form]], works: Sequence[Work], **how: Any
) -> tuple[dict[str, Series], dict[str, str]]:
    """Name -> what a contender gave in a form, and name -> why it failed, before or in a call."""

    def prepare(name: str) -> list[Call]:
        contender, form = wanted[name]
        return [contender.forms[form](work) for work in works]

    turns = Turns(wanted, catch=Exception)
    calls = turns.each(prepare)
    with _undisturbed():
        series, failed = take_turns(calls, **how)
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
