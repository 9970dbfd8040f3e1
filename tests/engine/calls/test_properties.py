"""What must hold whatever the model: documents do not know each other, and batches do not show.

`ATOL`: the last layer's kernels order the same sums by the number of pairs. Seen: 4e-6 on the tiny models' logits of
up to 9, 1.4e-6 on a published model's of up to 11. It holds for int8 too: there the layers before the last one treat a
pair bit for bit alike in every batch, so that no quantizer sees a difference that it could turn into a step.
"""

import random
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrank import CrossEncoder
from crossrank.export import export_model
from tests.support.random_texts import random_text
from tests.support.tiny_models import ARCHITECTURES, PAIRS, make_checkpoint
from tests.support.trained_models import Trained

ATOL = 1e-5

QUERY = "Why is the sky red in the evening?"
DOCUMENTS = [document for _, document in PAIRS] + [random_text(random.Random(seed), 20) for seed in range(20)]


@pytest.fixture(scope="module", params=[*ARCHITECTURES, "bert int8", "mpnet int8"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    architecture, _, int8 = request.param.partition(" ")
    folder = tmp_path_factory.mktemp(architecture)
    checkpoint = make_checkpoint(folder / "checkpoint", architecture)
    precision = "int8" if int8 else "fp32"
    artifact = export_model(checkpoint, folder / "artifact", variants=["cpu"], precisions=[precision])
    return CrossEncoder(artifact, device="cpu", activation_fn="identity", threads=2)


@settings(deadline=None, max_examples=15)
@given(order=st.permutations(range(len(DOCUMENTS))))
def test_permuting_documents_permutes_scores(model: CrossEncoder, order: list[int]) -> None:
    scores = model.score(QUERY, DOCUMENTS)
    permuted = model.score(QUERY, [DOCUMENTS[i] for i in order])
    np.testing.assert_allclose(permuted, scores[order], atol=ATOL)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16, 1000])
def test_batch_size_changes_nothing(model: CrossEncoder, batch_size: int) -> None:
    pairs = [(QUERY, document) for document in DOCUMENTS]
    np.testing.assert_allclose(model.predict(pairs, batch_size=batch_size), model.score(QUERY, DOCUMENTS), atol=ATOL)


def test_a_score_does_not_depend_on_batch_mates(model: CrossEncoder) -> None:
    together = model.score(QUERY, DOCUMENTS)
    alone = np.array([model.score(QUERY, [document])[0] for document in DOCUMENTS])
    np.testing.assert_allclose(together, alone, atol=ATOL)


def test_queries_do_not_mix(model: CrossEncoder) -> None:
    queries = [QUERY, "", "[SEP] </s>", "knife " * 80, "日本"]
    pairs = [(query, document) for query in queries for document in DOCUMENTS[:12]]
    shuffled = random.Random(5).sample(range(len(pairs)), len(pairs))
    scores = model.predict([pairs[i] for i in shuffled])
    expected = np.concatenate([model.score(query, DOCUMENTS[:12]) for query in queries])
    np.testing.assert_allclose(scores, expected[shuffled], atol=ATOL)


@pytest.mark.parametrize(
    "document",
    [
        "",
        " ",
        "\n\t",
        "sea",
        "🙂",
        "👩‍👩‍👧‍👦" * 50,
        "日" * 5000,
        "overlong " * 5000,
        "\x00",
        "[SEP]" * 40,
        "<pad>" * 40,
    ],
    ids=lambda document: ascii(document)[:24],
)
def test_every_document_has_a_finite_score(model: CrossEncoder, document: str) -> None:
    scores = model.score(QUERY, [document])
    assert scores.shape == (1,)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    with_others = model.score(QUERY, [*DOCUMENTS[:3], document, *DOCUMENTS[3:6]])
    np.testing.assert_allclose(with_others[3:4], scores, atol=ATOL)


def test_what_lies_beyond_the_limit_does_not_count(model: CrossEncoder) -> None:
    start = "the blue part is scattered first " * 60
    scores = model.score("sky", [start + "sea", start + "knife knife knife"])
    assert scores[0] == scores[1]


def test_no_documents_no_scores(model: CrossEncoder) -> None:
    assert model.score(QUERY, []).shape == (0,)


def test_the_same_call_gives_the_same_scores(model: CrossEncoder) -> None:
    np.testing.assert_array_equal(model.score(QUERY, DOCUMENTS), model.score(QUERY, DOCUMENTS))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_batches_do_not_show_on_a_trained_model(trained: Trained, precision: Literal["fp32", "int8"]) -> None:
    # The last document is longer than the model reads.
    query, documents = trained.query, [*trained.passages[:20], "", "🙂", "flea", " ".join(trained.passages)]
    model = CrossEncoder(trained.artifact, device="cpu", precision=precision)
    together = model.score(query, documents)
    alone = np.array([model.score(query, [document])[0] for document in documents])
    backwards = model.score(query, documents[::-1])[::-1]
    np.testing.assert_allclose(together, alone, atol=ATOL)
    np.testing.assert_allclose(together, backwards, atol=ATOL)
    assert np.std(together) > 1  # scores that are far apart, so that the tolerance says something
