"""What the host does beside a GPU: no Python for an encoded document, little for a batch and for a text.

Calls are counted, not timed, of Python's functions and of compiled ones that Python's code calls, on the caller's
thread; on the CPU twin of a packed graph. `python -m benchmarks host` has the times.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, product
from types import FrameType

import numpy as np
import pytest

from crossrank import CrossEncoder
from crossrank._calls.run import Scorer
from crossrank._device.cuda.session import PackedSession
from crossrank._machine.device import Device
from crossrank._text.tokens import Tokens
from crossrank.export._architectures.checkpoint import read_checkpoint
from crossrank.export._graphs.graph import save_model
from crossrank.export._graphs.layouts.cuda import build_cuda
from tests.support.scorers import scorer_of
from tests.support.tiny_models import make_checkpoint

# Of a call: what is counted differs by a few with what a lock finds, and with the chunks of 4,096 documents.
SLACK = 20
ONE_BATCH = 1 << 20


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    folder = make_checkpoint(tmp_path_factory.mktemp("host"), "bert")
    checkpoint = read_checkpoint(folder, max_length=None, relevant_label=None)
    types = checkpoint.inputs.token_types
    twin = build_cuda(checkpoint.weights, checkpoint.config, token_types=types, dtype=np.float32, twin=True)
    save_model(twin, folder / "twin.onnx")
    session = PackedSession(folder / "twin.onnx", checkpoint.inputs, Device("cpu"))
    return scorer_of(checkpoint.tokenizer, session, checkpoint.inputs.max_length, 1)


def count_calls(work: Callable[[], object]) -> int:
    """Calls on this thread."""
    calls = 0

    def note(_: FrameType, event: str, __: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


def different_texts(count: int) -> list[str]:
    """So many texts of the same length, no two alike, of a few words."""
    found: Iterator[Sequence[str]] = islice(product(["river", "lake", "sea", "rain", "snow", "ice"], repeat=6), count)
    return [" ".join(text) for text in found]


def different_documents(count: int) -> Tokens:
    """So many documents of 20 tokens."""
    ids = np.random.default_rng(0).integers(5, 50, 20 * count, np.int32)
    return Tokens(ids, np.arange(count + 1) * 20)


def score(scorer: Scorer, documents: Tokens | list[str], count: int, max_tokens: int) -> int:
    session = scorer.backend
    assert isinstance(session, PackedSession)
    session.settings = replace(session.settings, max_tokens=max_tokens)
    some = documents.part(0, count) if isinstance(documents, Tokens) else documents[:count]
    index = np.zeros(count, np.intp)
    scorer.logits(["a question"], some, index)
    return count_calls(lambda: scorer.logits(["a question"], some, index))


def test_the_tokenizer_hurries_beside_a_device_that_works_on_its_own_and_on_a_cpu_it_does_not(scorer: Scorer) -> None:
    race = scorer.tokenizer._race
    assert race is not None
    assert replace(scorer).tokenizer._race is race  # what it has learned stays
    assert CrossEncoder()._scorer.tokenizer._race is None


def test_an_encoded_document_costs_no_call(scorer: Scorer) -> None:
    tokens = different_documents(3000)
    few, many = (score(scorer, tokens, count, ONE_BATCH) for count in (300, 3000))
    assert abs(many - few) < SLACK


def test_encoded_documents_that_return_cost_none_either(scorer: Scorer) -> None:
    tokens = different_documents(100).take(np.tile(np.arange(100), 30))
    few, many = (score(scorer, tokens, count, ONE_BATCH) for count in (300, 3000))
    assert abs(many - few) < SLACK


def test_a_batch_costs_less_than_200_calls(scorer: Scorer) -> None:
    tokens = different_documents(2000)
    special = scorer.tokenizer.template.special_count
    one, fifty = (score(scorer, tokens, 2000, size) for size in (ONE_BATCH, 40 * (20 + 2 + special)))
    assert (fifty - one) / 49 < 200


def test_a_text_of_known_words_costs_a_dozen_calls(scorer: Scorer) -> None:
    texts = different_texts(3000)
    race = scorer.tokenizer._race
    assert race is not None
    race.memory_s, race.rust_s = 1e-12, 1.0
    few, many = (score(scorer, texts, count, ONE_BATCH) for count in (1000, 3000))
    assert (many - few) / 2000 < 13
