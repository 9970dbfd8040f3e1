"""Documents longer than a pair: windows against transformers' logits of the same ids, and what is truncated is told.

Tolerance of logits: 1e-5, two float32 implementations of a small model, logits of up to 9.
"""

import asyncio
import logging
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from crossrank import AsyncCrossEncoder, CallRecord, CrossEncoder, InputError, Ranking
from crossrank._text.tokens import Tokens
from crossrank._text.windows import Windows, best_windows
from tests.support.artifacts import make_artifact
from tests.support.callers import open_model
from tests.support.rankings import scores_of
from tests.support.references import auto_classifier, reference
from tests.support.tiny_models import MAX_LENGTH, PAIRS

torch = reference("torch")

ATOL = 1e-5
QUERY = "sky and sea"
# Empty, short, cut, over four windows, and one that goes to the tokenizer in parts.
DOCUMENTS = ["", "sky", PAIRS[3][1], *(document for _, document in PAIRS if len(document) > 300), PAIRS[1][1] * 60]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def model(folder: Path) -> CrossEncoder:
    return CrossEncoder(folder, device="cpu", threads=2, activation_fn="identity")


@pytest.fixture(scope="module")
def artifact_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return cache(lambda architecture: make_artifact(tmp_path_factory.mktemp(architecture), architecture))


def pair_parts(tokenizer: Any, document: str) -> tuple[dict[str, list[int]], list[int]]:
    """Transformers' untruncated pair, and where in it the document stands."""
    pair = tokenizer([QUERY], [document])
    place = [i for i, sequence in enumerate(pair.sequence_ids(0)) if sequence == 1]
    return {name: values[0] for name, values in pair.items()}, place


def windows_by_hand(checkpoint: Path, document: str, most: int, overlap: int) -> tuple[list[float], int, int]:
    """Logits of each window by transformers; tokens of the document; tokens that the windows reach."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    network = auto_classifier().from_pretrained(checkpoint, dtype=torch.float32).eval()
    pair, place = pair_parts(tokenizer, document)
    count = len(place)
    first = place[0] if place else len(pair_parts(tokenizer, "a")[0]["input_ids"]) - 2
    size = MAX_LENGTH - (len(pair["input_ids"]) - count)
    logits, start = [], 0
    while True:
        kept = slice(first + start, first + min(start + size, count))
        inputs = {
            name: torch.tensor([values[:first] + values[kept] + values[first + count :]])
            for name, values in pair.items()
        }
        with torch.inference_mode():
            logits.append(float(network(**inputs).logits[0, 0]))
        if len(logits) == most or start + size >= count:
            return logits, count, start + size
        start += size - overlap


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta", "mpnet"])
@pytest.mark.parametrize(("most", "overlap"), [(1, 0), (4, 0), (100, 7)])
def test_scores_are_the_highest_of_transformers_for_the_same_windows(
    architecture: str, most: int, overlap: int, artifact_of: Callable[[str], Path]
) -> None:
    artifact = artifact_of(architecture)
    model = CrossEncoder(artifact, device="cpu", threads=2, activation_fn="identity")
    ranking = model.rank(QUERY, DOCUMENTS, max_windows=most, window_overlap=overlap)
    truncated = []
    for entry in sorted(ranking, key=lambda entry: entry["corpus_id"]):
        logits, count, reach = windows_by_hand(
            artifact.parent / "checkpoint", DOCUMENTS[entry["corpus_id"]], most, overlap
        )
        assert abs(scores_of([entry])[0] - max(logits)) <= ATOL, entry
        assert max(logits) - logits[entry["window"]] <= ATOL
        truncated += [entry["corpus_id"]] * (count > reach)
    assert ranking.truncated == tuple(truncated)
    if most == 4:
        assert 0 < len(truncated) < len(DOCUMENTS)
    assert (ranking.complete, ranking.scored, ranking.reason) == (True, len(DOCUMENTS), None)
    encoded = model.rank(QUERY, model.encode(DOCUMENTS), max_windows=most, window_overlap=overlap)
    assert encoded == ranking
    assert encoded.truncated == ranking.truncated


def test_the_first_window_is_what_the_model_reads_without_windows(model: CrossEncoder) -> None:
    plain = model.rank(QUERY, DOCUMENTS)
    first = model.rank(QUERY, DOCUMENTS, max_windows=1)
    assert [{**entry, "window": 0} for entry in plain] == first
    assert first.truncated == plain.truncated


def test_a_ranking_names_the_documents_that_were_cut(model: CrossEncoder, folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder.parent / "checkpoint")
    long = [len(pair_parts(tokenizer, document)[0]["input_ids"]) > MAX_LENGTH for document in DOCUMENTS]
    cut = tuple(np.flatnonzero(long).tolist())
    assert 0 < len(cut) < len(DOCUMENTS)
    assert model.rank(QUERY, DOCUMENTS, top_k=1).truncated == cut
    assert model.rank(QUERY, model.encode(DOCUMENTS)).truncated == cut
    # A query that is cut beside a document that is not.
    assert model.rank(PAIRS[1][1] * 20, ["sky"]).truncated == ()


def test_duplicates_across_documents_and_windows_are_computed_once(folder: Path) -> None:
    model, session = open_model(folder)
    size = MAX_LENGTH - 3 - len(model._scorer.tokenizer.encode([QUERY], "query").ids)
    word = next(word for word in ("the", "sea", "is") if len(model._scorer.tokenizer.encode([word], "x").ids) == 1)
    ranking = model.rank(QUERY, [" ".join([word] * 3 * size), " ".join([word] * size)], max_windows=5)
    assert sum(session.batches) == 1
    assert [(entry["corpus_id"], entry["window"]) for entry in ranking] == [(0, 0), (1, 0)]
    assert ranking[0]["score"] == ranking[1]["score"]


def test_more_windows_than_are_planned_together(model: CrossEncoder) -> None:
    documents = [f"{word} " * 60 for word in ("sky", "sea", "bread", "violin")] * 50
    many = model.rank(QUERY, documents, max_windows=2000, show_progress_bar=False)
    few = model.rank(QUERY, documents[:4], max_windows=9)
    scores = {entry["corpus_id"]: score for entry, score in zip(many, scores_of(many), strict=True)}
    for entry, score in zip(few, scores_of(few), strict=True):  # 1e-6: equal pairs in batches of other sizes
        assert abs(scores[entry["corpus_id"] + 100] - score) <= 1e-6


def test_score_and_predict_count_and_warn_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    records: list[CallRecord] = []
    model = CrossEncoder(folder, device="cpu", on_call=records.append)
    cut = model.rank(QUERY, DOCUMENTS).truncated
    caplog.clear()  # a ranking tells it itself
    with caplog.at_level(logging.DEBUG, logger="crossrank._calls.call"):
        model.score(QUERY, DOCUMENTS)
        model.predict([(QUERY, document) for document in DOCUMENTS])
    told = [record for record in caplog.records if record.name == "crossrank._calls.call"]
    assert [record.levelno for record in told] == [logging.WARNING, logging.DEBUG]
    assert told[0].getMessage().startswith(f"{len(cut)} of {len(DOCUMENTS)} documents are cut: longer than")
    assert [record.truncated for record in records] == [len(cut)] * 3
    assert model.stats().truncated == 3 * len(cut)


def test_the_asynchronous_class_gives_the_same(folder: Path, model: CrossEncoder) -> None:
    async def main() -> Ranking:
        async with AsyncCrossEncoder(folder, device="cpu", threads=2, activation_fn="identity") as other:
            return await other.rank(QUERY, DOCUMENTS, 3, True, max_windows=4, window_overlap=2)

    ranking, expected = asyncio.run(main()), model.rank(QUERY, DOCUMENTS, 3, True, max_windows=4, window_overlap=2)
    np.testing.assert_allclose(scores_of(ranking), scores_of(expected), atol=1e-6)
    assert [e["window"] for e in ranking] == [e["window"] for e in expected]
    assert ranking.truncated == expected.truncated


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "3"])
def test_max_windows_that_is_no_count_is_refused(model: CrossEncoder, value: Any) -> None:
    with pytest.raises(InputError, match=r"max_windows=.*: how many windows of a long document to score, 1 or more"):
        model.rank(QUERY, DOCUMENTS, max_windows=value)


@pytest.mark.parametrize("value", [-1, True, 2.0, None])
def test_an_overlap_that_is_no_count_is_refused(model: CrossEncoder, value: Any) -> None:
    with pytest.raises(InputError, match=r"window_overlap=.*: tokens that neighbouring windows share, 0 or more"):
        model.rank(QUERY, DOCUMENTS, max_windows=3, window_overlap=value)


def test_an_overlap_without_windows_is_refused(model: CrossEncoder) -> None:
    with pytest.raises(InputError, match="window_overlap=3 without windows: pass max_windows= too"):
        model.rank(QUERY, DOCUMENTS, window_overlap=3)


def test_windows_that_would_not_get_on_are_refused(model: CrossEncoder) -> None:
    with pytest.raises(InputError, match=r"window_overlap=400: beside this query a window has \d+ tokens"):
        model.rank(QUERY, DOCUMENTS, max_windows=3, window_overlap=400)


def test_a_query_over_half_of_the_room_is_refused(model: CrossEncoder) -> None:
    room = MAX_LENGTH - 3
    with pytest.raises(InputError, match=rf"a query of {room // 2 + 1} tokens, over half of the {room} that a pair"):
        model.rank("the " * (room // 2 + 1), DOCUMENTS, max_windows=3)
    model.rank("the " * (room // 2), DOCUMENTS, max_windows=3)


def test_rankings_are_lists_that_survive_a_pickle(model: CrossEncoder) -> None:
    ranking = model.rank(QUERY, DOCUMENTS)
    assert ranking == list(ranking)
    assert type(ranking[:2]) is list
    again = pickle.loads(pickle.dumps(ranking))
    assert again == ranking
    assert vars(again) == vars(ranking)
    assert (Ranking(), Ranking().complete, Ranking().scored, Ranking().tokens) == ([], True, 0, 0)


def test_rankings_tell_the_tokens_of_distinct_pairs(model: CrossEncoder) -> None:
    special = 3
    one, two = (len(model.encode([text]).tokens.ids) for text in DOCUMENTS[:2])
    query = len(model.encode([QUERY]).tokens.ids)
    assert model.rank(QUERY, [DOCUMENTS[0]]).tokens == one + query + special
    assert model.rank(QUERY, DOCUMENTS[:2] * 3).tokens == one + two + 2 * (query + special)
    assert model.rank(QUERY, []).tokens == 0


@given(
    lengths=st.lists(st.integers(0, 40), max_size=6),
    size=st.integers(1, 12),
    overlap=st.integers(0, 11),
    most=st.sampled_from([1, 2, 3, 50, 10**30]),
)
def test_windows_are_those_of_a_loop(lengths: list[int], size: int, overlap: int, most: int) -> None:
    overlap = min(overlap, size - 1)
    ids = np.arange(sum(lengths), dtype=np.int32)
    offsets = np.cumsum([0, *lengths])
    expected, counts = [], []
    for i in range(len(lengths)):
        document, start = ids[offsets[i] : offsets[i + 1]], 0
        windows: list[list[int]] = []
        while not windows or (len(windows) < most and start - (size - overlap) + size < len(document)):
            windows.append(document[start : start + size].tolist())
            start += size - overlap
        expected += windows
        counts.append(len(windows))
    found, found_counts = Windows(most, overlap).cut(Tokens(ids, offsets), size)
    assert [found.ids[a:b].tolist() for a, b in zip(found.offsets[:-1], found.offsets[1:], strict=True)] == expected
    assert found_counts.tolist() == counts


def test_a_window_without_a_score_leaves_its_document_without_one() -> None:
    assert best_windows(np.array([1, np.nan, 3, 5], np.float32), np.array([3, 1])).tolist() == [1, 3]
