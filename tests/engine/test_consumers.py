"""Uses of a CrossEncoder in public libraries and applications: equal with both libraries' class, or refused with words.

What runs without a package of its own runs in `make test`, the others in `make test-frameworks`, which sets
CROSSRANK_TEST_FRAMEWORKS so that none of them is left out.

Tolerance: both compute in float32; their sums differ in the last bits, as in test_predict.py.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import crossrank
from tests.support import consumer_packages, consumer_replays, consumers
from tests.support.consumers import USES, Use
from tests.support.references import reference
from tests.support.tiny_models import SPREAD, make_checkpoint, transformers_logits

torch = reference("torch")
sentence_transformers = reference("sentence_transformers")

ATOL, RTOL = 1e-5, 1e-5
MIGRATING = Path(__file__).resolve().parents[2] / "docs" / "migrating.md"
MODULES = (consumer_packages, consumer_replays)  # imported for the uses that they enter

# A package that is not there has no test here: a skip in `make test` would say nothing that anyone can act on.
WANTED = [row for row in USES if row.play and (row.is_installed or os.environ.get("CROSSRANK_TEST_FRAMEWORKS"))]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Checkpoints of one, two and three labels that tell the uses' documents apart."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {labels: str(spread_out(root / f"labels-{labels}", labels)) for labels in (1, 2, 3)}


def spread_out(folder: Path, labels: int) -> Path:
    """A tiny checkpoint whose logits of the uses' pairs are about 0 and 1.5 apart, so that a sigmoid loses nothing."""
    make_checkpoint(folder, "bert", labels=labels, max_length=512)
    pairs = [(query, document) for query in (consumers.QUERY, "sea") for document in consumers.DOCUMENTS]
    logits = transformers_logits(folder, pairs, max_length=512)
    weights = safetensors.numpy.load_file(folder / "model.safetensors")
    scale = SPREAD / logits.std(axis=0)
    weights["classifier.weight"] *= scale[:, None]
    weights["classifier.bias"] = (weights["classifier.bias"] - logits.mean(axis=0)) * scale
    safetensors.numpy.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small only wait when torch spreads them over threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No consumer reports anything to anyone from here."""
    for name in ("HAYSTACK_TELEMETRY_ENABLED", "MEM0_TELEMETRY", "GRAPHITI_TELEMETRY_ENABLED"):
        monkeypatch.setenv(name, "false")


def assert_equal(ours: Any, theirs: Any, place: str = "result") -> None:
    """The same structure, with numbers that are equal within float32's rounding."""
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), place
        for key in theirs:
            assert_equal(ours[key], theirs[key], f"{place}[{key!r}]")
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs), place
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_equal(a, b, f"{place}[{i}]")
    elif isinstance(theirs, str | bool | None):
        assert ours == theirs, place
    else:
        a, b = np.asarray(ours), np.asarray(theirs)
        assert a.shape == b.shape, place
        assert (type(ours), a.dtype) == (type(theirs), b.dtype), place
        np.testing.assert_allclose(a, b, atol=ATOL, rtol=RTOL, err_msg=place)


@pytest.mark.parametrize("row", [row for row in WANTED if row.outcome == "equal"], ids=lambda row: row.consumer)
def test_a_use_gives_what_it_gives_with_sentence_transformers(row: Use, checkpoints: dict[int, str]) -> None:
    assert row.play is not None
    theirs = row.play(sentence_transformers.CrossEncoder, checkpoints[row.labels])
    assert_equal(row.play(crossrank.CrossEncoder, checkpoints[row.labels]), theirs)


@pytest.mark.parametrize("row", [row for row in WANTED if row.outcome == "refused"], ids=lambda row: row.consumer)
def test_a_use_that_cannot_be_is_refused_with_words_that_help(row: Use, checkpoints: dict[int, str]) -> None:
    assert row.play is not None
    with pytest.raises((crossrank.CrossrankError, AttributeError), match=row.words):
        row.play(crossrank.CrossEncoder, checkpoints[row.labels])


def test_most_uses_are_equal() -> None:
    outcomes = Counter(row.outcome for row in USES)
    assert outcomes["equal"] >= 45
    assert outcomes.total() >= 50
    assert len({row.consumer for row in USES}) == len(USES)


def test_migrating_has_the_table_of_uses() -> None:
    text = MIGRATING.read_text(encoding="utf-8")
    assert consumers.table() in text, "python -m tests.support.consumers prints the table"
    counts = Counter(row.outcome for row in USES)
    said = re.search(r"(\d+) uses .*?(\d+) are equal", text, re.DOTALL)
    assert said is not None
    assert [int(number) for number in said.groups()] == [len(USES), counts["equal"]]
