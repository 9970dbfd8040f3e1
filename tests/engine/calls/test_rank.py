"""`rank` and `score`: order, ties, options, which label means "relevant", and what is refused.

Tolerance of scores against sentence-transformers: as in test_predict.py.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crossrank import CrossEncoder, InputError
from tests.support.artifacts import edit_manifest, make_artifact
from tests.support.rankings import scores_of
from tests.support.references import reference
from tests.support.tiny_models import PAIRS
from tests.support.trained_models import Trained

torch = reference("torch")
sentence_transformers = reference("sentence_transformers")

ATOL, RTOL = 1e-5, 1e-6

QUERY = PAIRS[3][0]
DOCUMENTS = [document for _, document in PAIRS]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return {labels: make_artifact(tmp_path_factory.mktemp(f"labels-{labels}"), labels=labels) for labels in (1, 2)}


@pytest.fixture(scope="module")
def tiny(folders: dict[int, Path]) -> CrossEncoder:
    return CrossEncoder(folders[1], device="cpu")


@pytest.fixture(scope="module")
def theirs(folders: dict[int, Path]) -> Any:
    return sentence_transformers.CrossEncoder(str(folders[1].parent / "checkpoint"), device="cpu")


def assert_same_ranking(ours: Any, theirs: Any) -> None:
    assert [set(entry) for entry in ours] == [set(entry) for entry in theirs]
    assert [entry["corpus_id"] for entry in ours] == [entry["corpus_id"] for entry in theirs]
    assert [entry.get("text") for entry in ours] == [entry.get("text") for entry in theirs]
    scores, expected = ([entry["score"] for entry in ranking] for ranking in (ours, theirs))
    np.testing.assert_allclose(scores, expected, atol=ATOL, rtol=RTOL)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 3},
        {"top_k": 0},
        {"top_k": 1000},
        {"top_k": -1},
        {"top_k": -1000},
        {"top_k": np.int64(2)},
        {"return_documents": True},
        {"top_k": 2, "return_documents": True},
        {"activation_fn": torch.nn.Identity()},
        {"activation_fct": torch.nn.Identity()},
        {"batch_size": 3, "show_progress_bar": False},
    ],
    ids=str,
)
def test_rankings_are_sentence_transformers(tiny: CrossEncoder, theirs: Any, options: dict[str, Any]) -> None:
    # Every document once: duplicates are ties, whose last bit is each library's own.
    documents = list(dict.fromkeys(DOCUMENTS))
    assert_same_ranking(tiny.rank(QUERY, documents, **options), theirs.rank(QUERY, documents, **options))


def test_ranking_of_a_trained_model_is_sentence_transformers(trained: Trained) -> None:
    query, documents = trained.query, trained.passages[:12]
    theirs = sentence_transformers.CrossEncoder(str(trained.checkpoint), device="cpu")
    ours = CrossEncoder(trained.artifact, device="cpu")
    assert_same_ranking(ours.rank(query, documents, top_k=10), theirs.rank(query, documents, top_k=10))


def test_scores_fall_and_entries_are_plain_python(tiny: CrossEncoder) -> None:
    ranking = tiny.rank(QUERY, DOCUMENTS, return_documents=True)
    scores = scores_of(ranking)
    assert scores == sorted(scores, reverse=True)
    assert sorted(entry["corpus_id"] for entry in ranking) == list(range(len(DOCUMENTS)))
    for entry in ranking:
        assert (type(entry["corpus_id"]), type(entry["score"])) == (int, float)
        assert entry["text"] == DOCUMENTS[entry["corpus_id"]]
    assert json.loads(json.dumps(ranking)) == ranking


def test_rank_sorts_by_score(tiny: CrossEncoder) -> None:
    scores = tiny.score(QUERY, DOCUMENTS)
    assert scores.shape == (len(DOCUMENTS),)
    assert scores.dtype == np.float32
    for entry in tiny.rank(QUERY, DOCUMENTS):
        assert entry["score"] == scores[entry["corpus_id"]]
    np.testing.assert_array_equal(scores, tiny.predict([(QUERY, document) for document in DOCUMENTS]))


def test_ties_keep_the_order_of_the_input(tiny: CrossEncoder) -> None:
    # Every score is 0 or 1, whatever the kernels do to the last bit.
    def above_median(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        return (logits > np.median(logits)).astype(np.float32)

    ranking = tiny.rank(QUERY, DOCUMENTS, activation_fn=above_median)
    above = [entry["corpus_id"] for entry in ranking if entry["score"] == 1]
    below = [entry["corpus_id"] for entry in ranking if entry["score"] == 0]
    assert above
    assert below
    assert [entry["corpus_id"] for entry in ranking] == sorted(above) + sorted(below)


def test_equal_documents_of_one_batch_keep_the_order_of_the_input(tiny: CrossEncoder) -> None:
    ranking = tiny.rank(QUERY, ["sky", "red", "sky", "red", "sky"])
    ids = [entry["corpus_id"] for entry in ranking]
    assert ids in ([0, 2, 4, 1, 3], [1, 3, 0, 2, 4])


def test_no_documents_give_an_empty_ranking(tiny: CrossEncoder) -> None:
    assert tiny.rank(QUERY, []) == []
    scores = tiny.score(QUERY, [])
    assert scores.shape == (0,)
    assert scores.dtype == np.float32


@pytest.mark.parametrize("make", [list, tuple, iter, lambda texts: (text for text in texts), np.array])
def test_documents_may_be_any_iterable_of_strings(tiny: CrossEncoder, make: Any) -> None:
    expected = tiny.rank(QUERY, DOCUMENTS, return_documents=True)
    assert tiny.rank(QUERY, make(DOCUMENTS), return_documents=True) == expected
    np.testing.assert_array_equal(tiny.score(QUERY, make(DOCUMENTS)), tiny.score(QUERY, DOCUMENTS))


def test_the_callers_documents_stay_as_they_were(tiny: CrossEncoder) -> None:
    documents = list(DOCUMENTS)
    tiny.rank(QUERY, documents, return_documents=True)
    assert documents == DOCUMENTS


def test_several_labels_of_unknown_meaning_are_refused_as_there(folders: dict[int, Path]) -> None:
    ours = CrossEncoder(folders[2], device="cpu")
    theirs = sentence_transformers.CrossEncoder(str(folders[2].parent / "checkpoint"), device="cpu")
    with pytest.raises(ValueError, match=r"rank\(\) needs a score per document, and .* gives 2 labels .*predict\(\)"):
        ours.rank(QUERY, DOCUMENTS)
    with pytest.raises(ValueError, match="score"):
        ours.score(QUERY, DOCUMENTS)
    with pytest.raises(ValueError, match="num_labels=1"):
        theirs.rank(QUERY, DOCUMENTS)


@pytest.mark.parametrize("relevant", [0, 1])
def test_a_relevance_model_ranks_by_the_softmax_probability_of_its_label(
    folders: dict[int, Path], tmp_path: Path, relevant: int
) -> None:
    folder = shutil.copytree(folders[2], tmp_path / "artifact")
    edit_manifest(folder, lambda manifest: manifest["head"].update(relevant_label=relevant))
    model = CrossEncoder(folder, device="cpu")
    logits = torch.from_numpy(model.predict([(QUERY, document) for document in DOCUMENTS]))
    expected = torch.softmax(logits, dim=1)[:, relevant].numpy()
    scores = model.score(QUERY, DOCUMENTS)
    assert scores.shape == (len(DOCUMENTS),)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-6)  # two float32 formulas of numbers below 1
    order = [entry["corpus_id"] for entry in model.rank(QUERY, DOCUMENTS)]
    assert order == np.argsort(-scores, kind="stable").tolist()


@pytest.mark.parametrize("top_k", [2.0, "3", True])
def test_top_k_that_is_no_count_is_refused_with_its_value(tiny: CrossEncoder, top_k: Any) -> None:
    with pytest.raises(InputError, match=r"how many to return, a negative number for all but .*, or None") as caught:
        tiny.rank(QUERY, DOCUMENTS, top_k=top_k)
    assert f"top_k={top_k!r}" in str(caught.value)


@pytest.mark.parametrize("call", ["rank", "score"])
@pytest.mark.parametrize("documents", ["one document", b"one document"])
def test_one_text_for_documents_is_refused_with_the_remedy(tiny: CrossEncoder, call: str, documents: Any) -> None:
    with pytest.raises(InputError, match=r"documents is one (str|bytes); pass a list: \[b?'one document'\]"):
        getattr(tiny, call)(QUERY, documents)


@pytest.mark.parametrize("wrong", [None, 7, b"bytes", ["a list"], float("nan")], ids=repr)
@pytest.mark.parametrize("index", [0, 5])
def test_a_document_that_is_no_string_is_named_with_its_index(tiny: CrossEncoder, wrong: Any, index: int) -> None:
    documents: list[Any] = ["fine"] * 6
    documents[index] = wrong
    with pytest.raises(InputError, match=f"document {index} is {type(wrong).__name__}, not str"):
        tiny.score(QUERY, documents)


@pytest.mark.parametrize("index", [4095, 4096, 4100])
def test_the_index_is_the_callers_beyond_the_first_window_too(tiny: CrossEncoder, index: int) -> None:
    documents: list[Any] = ["x"] * 4101  # planned in windows of 4096
    documents[index] = None
    with pytest.raises(InputError, match=f"document {index} is NoneType, not str: None"):
        tiny.score("q", documents)


def test_order_is_restored_across_windows(tiny: CrossEncoder) -> None:
    few = ["sky", "red " * 20, "", "tea and sea"]
    many = [few[i % 4] for i in range(4096 + 10)]
    scores = tiny.score("sky", many)
    # 1e-6: equal texts run in batches of other sizes, where float32 sums come in another order.
    np.testing.assert_allclose(scores, np.tile(tiny.score("sky", few), 1027)[: len(many)], atol=1e-6)


@pytest.mark.parametrize("query", [None, 7, b"bytes", ["a", "b"]], ids=repr)
def test_a_query_that_is_no_string_is_refused(tiny: CrossEncoder, query: Any) -> None:
    with pytest.raises(InputError, match=f"query 0 is {type(query).__name__}, not str"):
        tiny.rank(query, DOCUMENTS)


@pytest.mark.parametrize("relevant", [0, 1])
def test_caller_may_say_which_label_means_relevant(folders: dict[int, Path], relevant: int) -> None:
    model = CrossEncoder(folders[2], device="cpu", relevant_label=relevant)
    logits = torch.from_numpy(model.predict([(QUERY, document) for document in DOCUMENTS]))
    expected = torch.softmax(logits, dim=1)[:, relevant].numpy()
    np.testing.assert_allclose(model.score(QUERY, DOCUMENTS), expected, atol=ATOL)
    assert f"label {relevant} means relevant" in str(model.info())


@pytest.mark.parametrize("label", [-1, 2, True, "1"])
def test_label_that_the_model_does_not_have_is_refused(folders: dict[int, Path], label: Any) -> None:
    with pytest.raises(InputError, match=r"relevant_label=.*: the model has the labels 0 to 1"):
        CrossEncoder(folders[2], device="cpu", relevant_label=label)


@pytest.mark.parametrize("documents", [{"a": "text"}, {"text"}, frozenset(["text"])])
def test_documents_without_an_order_of_their_own_are_refused(tiny: CrossEncoder, documents: Any) -> None:
    with pytest.raises(InputError, match="results count documents in their order: pass a list"):
        tiny.rank(QUERY, documents)
