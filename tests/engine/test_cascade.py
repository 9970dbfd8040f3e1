"""A cascade is its models' own rankings, one after the other: order, scores, ties, and what is refused.

Scores are compared with the models' own bit for bit: a stage is the same call with the same texts. Tolerance against
sentence-transformers: as in test_predict.py.
"""

import json
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from crossrank import Cascade, CascadedDocument, CrossEncoder, InputError, ModelNotFoundError
from tests.support.artifacts import make_artifact
from tests.support.random_texts import random_text
from tests.support.references import reference
from tests.support.tiny_models import PAIRS

sentence_transformers = reference("sentence_transformers")

ATOL, RTOL = 1e-5, 1e-6

QUERY = "Why is the sky red in the evening?"
DOCUMENTS = list(
    dict.fromkeys([*(document for _, document in PAIRS), *(random_text(random.Random(seed), 20) for seed in range(20))])
)
# Without those that begin as another one does: cut to the same tokens they are ties, which go by the input's order.
NO_TIES = [
    text for text in DOCUMENTS if not any(text.startswith(other) for other in DOCUMENTS if other not in ("", text))
]
KINDS: dict[str, dict[str, Any]] = {
    "small": {"seed": 1},
    "middle": {"seed": 2},
    "large": {"seed": 3},
    "roberta": {"architecture": "roberta"},
    "two labels": {"labels": 2},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make_artifact(tmp_path_factory.mktemp("model"), **kind) for name, kind in KINDS.items()}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, CrossEncoder]:
    names = ("small", "middle", "large", "roberta")
    return {name: CrossEncoder(folders[name], device="cpu", activation_fn="identity") for name in names}


@pytest.fixture(scope="module")
def cascade(models: dict[str, CrossEncoder]) -> Cascade:
    return Cascade([(models["small"], None), (models["large"], 7)])


def ids(ranking: Sequence[Any]) -> list[int]:
    return [entry["corpus_id"] for entry in ranking]


def by_hand(stages: Sequence[tuple[CrossEncoder, int | None]], documents: list[str]) -> list[CascadedDocument]:
    """What a cascade gives, written with `score`: every document by the last model that reads it, and by its score."""
    scores: dict[int, list[float]] = {i: [] for i in range(len(documents))}
    reads = list(scores)
    for stage, (model, depth) in enumerate(stages):
        if depth is not None:
            best_first = sorted(reads, key=lambda i: -scores[i][stage - 1])
            reads = sorted(best_first[:depth])
        for i, score in zip(reads, model.score(QUERY, [documents[i] for i in reads]).tolist(), strict=True):
            scores[i].append(score)
    order = sorted(scores, key=lambda i: (-len(scores[i]), -scores[i][-1]))
    return [
        {"corpus_id": i, "score": scores[i][-1] if len(scores[i]) == len(stages) else None, "scores": scores[i]}
        for i in order
    ]


# --- order and scores


@pytest.mark.parametrize("top_k", [None, 3, 12])
def test_two_models_of_sentence_transformers_one_after_the_other_give_the_same(
    folders: dict[str, Path], cascade: Cascade, top_k: int | None
) -> None:
    small, large = (
        sentence_transformers.CrossEncoder(str(folders[name].parent / "checkpoint"), device="cpu", activation_fn=None)
        for name in ("small", "large")
    )
    raw = {"activation_fn": lambda logits: logits}
    first = small.rank(QUERY, DOCUMENTS, **raw)
    best = sorted(ids(first[:7]))
    second = large.rank(QUERY, [DOCUMENTS[i] for i in best], **raw)
    expected = [(best[hit["corpus_id"]], hit["score"]) for hit in second]
    expected += [(hit["corpus_id"], hit["score"]) for hit in first[7:]]

    ranking = cascade.rank(QUERY, DOCUMENTS, top_k)
    assert ids(ranking) == [i for i, _ in expected[:top_k]]
    scores = [entry["scores"][-1] for entry in ranking]
    np.testing.assert_allclose(scores, [score for _, score in expected[:top_k]], atol=ATOL, rtol=RTOL)


texts = st.lists(st.sampled_from([*DOCUMENTS, "", "sky"]) | st.text(max_size=30), max_size=25)


@settings(max_examples=25)
@given(documents=texts, depths=st.lists(st.integers(1, 30), max_size=2, unique=True))
def test_every_stages_scores_are_its_models_own_to_the_bit(
    models: dict[str, CrossEncoder], documents: list[str], depths: list[int]
) -> None:
    depth = [None, *sorted(depths, reverse=True)]
    stages = list(zip([models["small"], models["middle"], models["large"]], depth, strict=False))
    assert Cascade(stages).rank(QUERY, documents) == by_hand(stages, documents)


@settings(max_examples=15)
@given(beyond=st.integers(0, 100), count=st.integers(1, len(DOCUMENTS)))
def test_a_depth_of_all_documents_gives_the_last_models_ranking(
    models: dict[str, CrossEncoder], beyond: int, count: int
) -> None:
    cascade = Cascade([(models["small"], None), (models["large"], count + beyond)])
    ranking = cascade.rank(QUERY, DOCUMENTS[:count])
    expected = models["large"].rank(QUERY, DOCUMENTS[:count])
    assert [(entry["corpus_id"], entry["score"]) for entry in ranking] == [
        (e["corpus_id"], e["score"]) for e in expected
    ]


def test_one_stage_gives_its_models_ranking(models: dict[str, CrossEncoder]) -> None:
    ranking = Cascade([(models["small"], None)]).rank(QUERY, DOCUMENTS, return_documents=True)
    expected = models["small"].rank(QUERY, DOCUMENTS, return_documents=True)
    assert ranking == [{**entry, "scores": [entry["score"]]} for entry in expected]


@settings(max_examples=15)
@given(order=st.permutations(range(len(NO_TIES))), depth=st.integers(1, len(NO_TIES)))
def test_permuting_documents_permutes_the_ranking(
    models: dict[str, CrossEncoder], order: list[int], depth: int
) -> None:
    for name in ("small", "large"):  # no scores so near that other batches, which move them by 1e-6, may swap them
        assert np.diff(np.sort(models[name].score(QUERY, NO_TIES))).min() > ATOL
    cascade = Cascade([(models["small"], None), (models["large"], depth)])
    permuted = cascade.rank(QUERY, [NO_TIES[i] for i in order])
    assert [order[i] for i in ids(permuted)] == ids(cascade.rank(QUERY, NO_TIES))


def test_all_documents_come_once_and_those_of_later_stages_first(models: dict[str, CrossEncoder]) -> None:
    stages = [(models["small"], None), (models["middle"], 9), (models["large"], 4)]
    ranking = Cascade(stages).rank(QUERY, DOCUMENTS)
    assert sorted(ids(ranking)) == list(range(len(DOCUMENTS)))
    assert [len(entry["scores"]) for entry in ranking] == [3] * 4 + [2] * 5 + [1] * (len(DOCUMENTS) - 9)
    assert set(ids(ranking[:4])) < set(ids(models["small"].rank(QUERY, DOCUMENTS, top_k=9)))
    assert set(ids(ranking[:9])) == set(ids(models["small"].rank(QUERY, DOCUMENTS, top_k=9)))
    # Behind the last depth the order of the stage before stays.
    assert ids(ranking[9:]) == ids(models["small"].rank(QUERY, DOCUMENTS))[9:]


def test_score_is_the_last_models_alone_and_sorting_by_it_never_mixes_models(cascade: Cascade) -> None:
    ranking = cascade.rank(QUERY, DOCUMENTS)
    scores = [entry["score"] for entry in ranking]
    assert scores[:7] == [entry["scores"][1] for entry in ranking[:7]]
    assert scores[:7] == sorted(scores[:7], reverse=True)  # type: ignore[type-var]  # no None among them
    assert scores[7:] == [None] * (len(DOCUMENTS) - 7)
    with pytest.raises(TypeError):
        sorted(ranking, key=lambda entry: entry["score"])  # type: ignore[arg-type, return-value]
    assert sorted(ranking, key=lambda entry: (len(entry["scores"]), entry["scores"][-1]), reverse=True) == ranking


@pytest.mark.parametrize("top_k", [1, 7])
def test_no_score_is_missing_while_top_k_is_at_most_the_last_depth(cascade: Cascade, top_k: int) -> None:
    for count in (1, 5, 7, 8, len(DOCUMENTS)):
        ranking = cascade.rank(QUERY, DOCUMENTS[:count], top_k)
        assert len(ranking) == min(top_k, count)
        assert all(type(entry["score"]) is float for entry in ranking)


def _above_median(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every score is 0 or 1, whatever the kernels do to the last bit."""
    return (logits > np.sort(logits, axis=0)[len(logits) // 2 :][:1]).astype(np.float32)


def _all_alike(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.zeros_like(logits)


def test_ties_keep_the_order_of_the_input_in_every_stage_and_at_the_cut(folders: dict[str, Path]) -> None:
    alike = CrossEncoder(folders["small"], device="cpu", activation_fn=_all_alike)
    halves = CrossEncoder(folders["large"], device="cpu", activation_fn=_above_median)
    count = len(DOCUMENTS)
    assert ids(Cascade([(alike, None), (alike, 5)]).rank(QUERY, DOCUMENTS)) == list(range(count))

    ranking = Cascade([(alike, None), (halves, 6)]).rank(QUERY, DOCUMENTS)
    above, below = ([e["corpus_id"] for e in ranking[:6] if e["score"] == score] for score in (1, 0))
    assert above
    assert below
    assert ids(ranking) == sorted(above) + sorted(below) + list(range(6, count))

    # The order of the stage before is no tie-breaker: the second stage reads its documents in the input's order.
    ranked = ids(halves.rank(QUERY, DOCUMENTS))
    assert ranked[: count // 2] != list(range(count // 2))
    assert ids(Cascade([(halves, None), (alike, count - 1)]).rank(QUERY, DOCUMENTS)) == [
        *sorted(ranked[:-1]),
        ranked[-1],
    ]


# --- the call


@pytest.mark.parametrize("top_k", [0, 1, 7, 8, 1000, np.int64(3)])
def test_top_k_gives_the_start_of_the_whole_ranking(cascade: Cascade, top_k: int) -> None:
    assert cascade.rank(QUERY, DOCUMENTS, top_k) == cascade.rank(QUERY, DOCUMENTS)[:top_k]


def test_entries_are_plain_python_and_hold_their_texts(cascade: Cascade) -> None:
    ranking = cascade.rank(QUERY, DOCUMENTS, return_documents=True)
    assert [entry["text"] for entry in ranking] == [DOCUMENTS[i] for i in ids(ranking)]
    assert {type(score) for entry in ranking for score in entry["scores"]} == {float}
    assert {type(i) for i in ids(ranking)} == {int}
    assert json.loads(json.dumps(ranking)) == ranking


@pytest.mark.parametrize("make", [tuple, iter, lambda texts: (text for text in texts), np.array])
def test_documents_may_be_any_iterable_of_strings(cascade: Cascade, make: Any) -> None:
    expected = cascade.rank(QUERY, DOCUMENTS, return_documents=True)
    assert cascade.rank(QUERY, make(DOCUMENTS), return_documents=True) == expected


def test_no_documents_give_an_empty_ranking(cascade: Cascade) -> None:
    assert cascade.rank(QUERY, []) == []
    assert cascade.rank(QUERY, iter(())) == []


def test_batch_size_changes_no_order_and_progress_is_drawn_per_stage(
    cascade: Cascade, capsys: pytest.CaptureFixture[str]
) -> None:
    ranking = cascade.rank(QUERY, DOCUMENTS, batch_size=2, show_progress_bar=True)
    assert ids(ranking) == ids(cascade.rank(QUERY, DOCUMENTS))
    printed = capsys.readouterr().err
    assert f"{len(DOCUMENTS)}/{len(DOCUMENTS)} documents" in printed
    assert "7/7 documents" in printed


def test_threads_may_share_a_cascade(cascade: Cascade) -> None:
    queries = [text for text, _ in PAIRS]
    expected = [cascade.rank(query, DOCUMENTS) for query in queries]
    with ThreadPoolExecutor(4) as pool:
        rankings = list(pool.map(lambda query: cascade.rank(query, DOCUMENTS), queries))
        for found, ranking in zip(rankings, expected, strict=True):
            assert [hit["corpus_id"] for hit in found] == [hit["corpus_id"] for hit in ranking]
            for hit, entry in zip(found, ranking, strict=True):  # 1e-5: several callers' pairs join into other batches
                np.testing.assert_allclose(hit["scores"], entry["scores"], atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((QUERY, "one document"), "documents is one str; pass a list"),
        ((QUERY, {"a", "set"}), "pass a list"),
        ((QUERY, ["fine", None]), "document 1 is NoneType, not str"),
        ((7, ["fine"]), "query 0 is int, not str"),
        ((7, []), "query 0 is int, not str"),
        ((QUERY, ["fine"], 1.5), "top_k=1.5: how many to return"),
    ],
)
def test_calls_are_refused_as_the_models_refuse_them(cascade: Cascade, arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cascade.rank(*arguments)
    with pytest.raises(InputError, match=message):
        cascade.stages[0][0].rank(*arguments)


# --- encoded documents


def test_encoded_documents_rank_as_their_texts_to_the_bit(cascade: Cascade) -> None:
    encoded = cascade.stages[0][0].encode(DOCUMENTS)
    expected = cascade.rank(QUERY, DOCUMENTS)
    assert cascade.rank(QUERY, encoded) == expected
    assert cascade.rank(QUERY, list(encoded)) == expected
    assert cascade.rank(QUERY, [*encoded[:20], *DOCUMENTS[20:]]) == expected
    assert cascade.rank(QUERY, encoded[:0]) == []
    with pytest.raises(InputError, match="encoded documents keep no texts"):
        cascade.rank(QUERY, encoded, return_documents=True)


def test_encoded_documents_need_one_tokenizer_and_texts_do_not(models: dict[str, CrossEncoder]) -> None:
    mixed = Cascade([(models["small"], None), (models["roberta"], 5)])
    assert sorted(ids(mixed.rank(QUERY, DOCUMENTS))) == list(range(len(DOCUMENTS)))
    encoded = models["small"].encode(DOCUMENTS)
    # Decided by the stages: one that happens to read texts only, or nothing, changes nothing.
    given: list[Any] = [encoded, [*DOCUMENTS, encoded[0]], encoded[:0]]
    for documents in given:
        with pytest.raises(InputError, match=r"of one tokenizer; stage 0 .*WordPiece.* stage 1 .*BPE.*: pass texts"):
            mixed.rank(QUERY, documents)


def test_documents_of_a_foreign_tokenizer_are_refused_by_the_first_model(
    cascade: Cascade, models: dict[str, CrossEncoder]
) -> None:
    with pytest.raises(InputError, match="cannot be used with that of"):
        cascade.rank(QUERY, models["roberta"].encode(DOCUMENTS))


# --- the stages


def test_models_may_be_named_by_their_folders(folders: dict[str, Path]) -> None:
    cascade = Cascade([(str(folders["small"]), None), (folders["large"], 7)])
    stages = [(CrossEncoder(folders["small"]), None), (CrossEncoder(folders["large"]), 7)]
    assert cascade.rank(QUERY, DOCUMENTS) == by_hand(stages, DOCUMENTS)
    assert [(model.info().folder, depth) for model, depth in cascade.stages] == [
        (folders["small"], None),
        (folders["large"], 7),
    ]


def test_an_activation_is_not_tried_out_on_no_documents(folders: dict[str, Path]) -> None:
    def behind_the_best(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        best: np.float32 = logits.max()  # an error of numpy's if there is none
        return logits - best

    model = CrossEncoder(folders["small"], device="cpu", activation_fn=behind_the_best)
    assert Cascade([(model, None), (model, 2)]).rank(QUERY, DOCUMENTS[:3])[0]["score"] == 0


def test_stages_may_be_one_model_twice(models: dict[str, CrossEncoder]) -> None:
    large = models["large"]
    ranking = Cascade([(large, None), (large, 4)]).rank(QUERY, DOCUMENTS)
    assert ids(ranking) == ids(large.rank(QUERY, DOCUMENTS))


ONE = "an absent model that is not looked for"


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], r"stages=\[\]: a list of pairs \(model, depth\) is needed, such as \[\(small, None\), \(large, 50\)\]"),
        (None, "stages=None: a list of pairs"),
        (ONE, "stages='an absent model .*: a list of pairs"),
        ([ONE, ONE], r"stage 0 is 'an absent .*: a pair \(model, depth\) is needed"),
        ([(ONE, None), (ONE,)], r"stage 1 is \('an absent .*,\): a pair"),
        (["ab"], "stage 0 is 'ab': a pair"),
        ([(ONE, 100), (ONE, 10)], "the depth of stage 0 is 100: the first model reads all documents, pass None"),
        ([(ONE, None), (ONE, None)], "the depth of stage 1 is None: how many of the best .*, an integer from 1"),
        ([(ONE, None), (ONE, 0)], "the depth of stage 1 is 0: "),
        ([(ONE, None), (ONE, -5)], "the depth of stage 1 is -5: "),
        ([(ONE, None), (ONE, 5.0)], r"the depth of stage 1 is 5\.0: "),
        ([(ONE, None), (ONE, True)], "the depth of stage 1 is True: "),
        ([(ONE, None), (ONE, "50")], "the depth of stage 1 is '50': "),
        ([(ONE, None), (ONE, 10), (ONE, 20)], "the depth of stage 2 is 20, that of stage 1 10: each must be smaller"),
        ([(ONE, None), (ONE, 10), (ONE, 10)], "the depth of stage 2 is 10, that of stage 1 10: each must be smaller"),
        ([(None, None)], "the model of stage 0 is a builtins.NoneType: a crossrank.CrossEncoder, a name or a folder"),
        ([(ONE, None), (CrossEncoder, 5)], r"the model of stage 1 is a builtins\.type: "),
    ],
    ids=lambda value: repr(value)[:60] if not isinstance(value, str) else "",
)
def test_stages_that_make_no_cascade_are_refused_before_a_model_is_loaded(stages: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Cascade(stages)


def test_another_librarys_model_is_named(folders: dict[str, Path]) -> None:
    theirs: Any = sentence_transformers.CrossEncoder(str(folders["small"].parent / "checkpoint"), device="cpu")
    with pytest.raises(
        InputError, match=r"the model of stage 0 is a sentence_transformers\..*CrossEncoder: a crossrank"
    ):
        Cascade([(theirs, None)])


def test_a_model_that_is_not_there_is_refused_as_ever() -> None:
    with pytest.raises(ModelNotFoundError):
        Cascade([(ONE, None)])


def test_labels_of_unknown_meaning_are_refused_at_once_and_a_relevant_one_ranks(
    folders: dict[str, Path], models: dict[str, CrossEncoder]
) -> None:
    with pytest.raises(
        InputError, match=r"gives 2 labels of which none is known to mean relevant: pass relevant_label="
    ):
        Cascade([(models["small"], None), (CrossEncoder(folders["two labels"], device="cpu"), 5)])
    relevant = CrossEncoder(folders["two labels"], device="cpu", relevant_label=1)
    stages = [(models["small"], None), (relevant, 5)]
    assert Cascade(stages).rank(QUERY, DOCUMENTS) == by_hand(stages, DOCUMENTS)
