"""crossrank.beam in Beam's DirectRunner: results of every element, bad ones marked or in the dead letters."""

import time
from typing import Any

import pytest

from crossrank import CrossEncoder, InputError
from crossrank.batch import judge

beam = pytest.importorskip("apache_beam", reason="crossrank[beam] is not installed; make test-scale")

QUERY = "how many people live in berlin"
DOCUMENTS = [
    "Berlin is well known for its museums.",
    "Bread dough rises because yeast turns sugar into gas.",
    "Berlin had a population of 3,520,031 in 2015.",
]
ATOL = 1e-4  # the same kernels on batches of other sizes


def handler(**options: Any) -> Any:
    from crossrank.beam import RerankModelHandler

    return RerankModelHandler(threads=1, **options)


def run(elements: list[Any], steps: Any) -> tuple[dict[str, list[Any]], Any]:
    """What named collections hold when a pipeline has run, and its result."""
    found: dict[str, list[Any]] = {}
    pipeline = beam.Pipeline("DirectRunner")
    for name, collection in steps(pipeline | beam.Create(elements)).items():
        found[name] = _SEEN.setdefault(name, [])
        found[name].clear()
        collection | f"keep {name}" >> beam.Map(_keep, name)
    result = pipeline.run()
    result.wait_until_finish()
    return found, result


_SEEN: dict[str, list[Any]] = {}


def _keep(element: Any, name: str) -> None:
    _SEEN[name].append(element)


def infer(model_handler: Any) -> Any:
    from apache_beam.ml.inference.base import RunInference

    return RunInference(model_handler)


def test_every_element_gets_the_scores_of_the_model_and_a_bad_one_its_status() -> None:
    elements = [(f"{QUERY} {i}", DOCUMENTS[: i % 4]) for i in range(20)] + [(QUERY, None), (QUERY, [None, "d"]), "no"]
    found, result = run(elements, lambda items: {"out": items | infer(handler(max_batch_weight=100))})
    results = found["out"]
    assert len(results) == len(elements)
    model, given = CrossEncoder(threads=1), {str(element): element for element in elements}
    for entry in results:
        assert str(entry.example) in given
        inference = entry.inference
        if inference["status"] == "ok":
            query, documents = entry.example
            assert inference["scores"] == pytest.approx(model.score(query, documents).tolist(), abs=ATOL)
            ranking = model.rank(query, documents)
            assert [inference["ranks"][hit["corpus_id"]] for hit in ranking] == list(range(1, len(documents) + 1))
    statuses = sorted(entry.inference["status"] for entry in results if entry.inference["status"] != "ok")
    assert statuses == ["1 of 2 documents: documents[0]: null", "documents: null", "query: null"]
    names = {counter.key.metric.name for counter in result.metrics().query()["counters"]}
    spaces = {counter.key.metric.namespace for counter in result.metrics().query()["counters"]}
    assert "num_inferences" in names
    assert "crossrank" in spaces


def test_batches_are_cut_by_tokens() -> None:
    from apache_beam.transforms.util import BatchElements

    from crossrank.beam._handler import weight

    elements = [("q", ["x" * 400] * 10)] * 40  # of 1,000 tokens each
    options = handler(max_batch_weight=5_000).batch_elements_kwargs()
    found, _ = run(elements, lambda items: {"batches": items | BatchElements(**options)})
    assert sum(len(batch) for batch in found["batches"]) == 40
    assert max(sum(map(weight, batch)) for batch in found["batches"]) <= 5_100


@pytest.mark.parametrize(
    ("element", "tokens"),
    [
        (("q" * 40, ["x" * 400] * 10), 1_100),
        (("q" * 40, ["x" * 400] * 9 + [None]), 990),
        (("q" * 40, ("x" * 400, "x" * 400)), 220),
        (("q" * 40, ("x" * 400, None)), 110),
        (("key", ("q" * 40, ["x" * 400] * 10)), 1_100),
        ((7, ["q" * 40, ["x" * 400] * 10]), 1_100),
        ((None, ["x" * 400]), 100),
        (("q", []), 1),
        (("q", "x" * 400), 1),
        ("no pair", 1),
        (3, 1),
    ],
)
def test_an_element_weighs_its_texts_with_a_key_and_with_bad_documents_too(element: Any, tokens: int) -> None:
    from crossrank.beam._handler import weight

    assert weight(element) == tokens


def test_batches_of_keyed_elements_are_cut_by_tokens_too() -> None:
    from apache_beam.ml.inference.base import KeyedModelHandler
    from apache_beam.transforms.util import BatchElements

    elements = [(i, ("q", ["x" * 400] * 10)) for i in range(40)]  # of 1,000 tokens each
    options = KeyedModelHandler(handler(max_batch_weight=5_000)).batch_elements_kwargs()
    found, _ = run(elements, lambda items: {"batches": items | BatchElements(**options)})
    assert sum(len(batch) for batch in found["batches"]) == 40
    assert max(map(len, found["batches"])) <= 5


def test_dead_letters_hold_bad_elements_alone_and_what_the_model_raised() -> None:
    elements = [(QUERY, DOCUMENTS), (QUERY, [1]), (None, DOCUMENTS), (QUERY, "one text")]

    def steps(items: Any) -> dict[str, Any]:
        good, other = items | infer(handler(dead_letter=True)).with_exception_handling()
        return {"good": good, "bad": other.failed_preprocessing[0], "failed": other.failed_inferences}

    found, _ = run(elements, steps)
    assert [entry.inference["status"] for entry in found["good"]] == ["ok"]
    assert sorted(str(entry[0]) for entry in found["bad"]) == sorted(map(str, elements[1:]))
    assert all("InputError" in str(entry[1]) for entry in found["bad"])
    assert found["failed"] == []


def test_keys_stay_with_their_results() -> None:
    from apache_beam.ml.inference.base import KeyedModelHandler

    elements = [(i, (QUERY, DOCUMENTS)) for i in range(3)]
    found, _ = run(elements, lambda items: {"out": items | infer(KeyedModelHandler(handler()))})
    assert sorted(key for key, _ in found["out"]) == [0, 1, 2]


def test_bad_options_are_refused() -> None:
    with pytest.raises(InputError, match="max_batch_weight=0"):
        handler(max_batch_weight=0)
    with pytest.raises(InputError, match="pass options to RerankModelHandler"):
        handler().validate_inference_args({"batch_size": 3})


@pytest.mark.slow
def test_the_direct_runner_keeps_four_fifths_of_the_plain_classes_speed() -> None:
    elements = [(f"{QUERY} {i}", [f"{text} {i} {k}" for text in DOCUMENTS for k in range(30)]) for i in range(60)]
    model, ratios = CrossEncoder(threads=1), []
    model.warm_up()
    for _ in range(3):
        start = time.perf_counter()
        judge(model, [query for query, _ in elements], [documents for _, documents in elements])
        plain_s = time.perf_counter() - start
        start = time.perf_counter()
        found, _ = run(elements, lambda items: {"out": items | infer(handler())})
        ratios.append(plain_s / (time.perf_counter() - start))
        assert len(found["out"]) == len(elements)
    print("DirectRunner / plain", ratios)
    assert max(ratios) >= 0.8
