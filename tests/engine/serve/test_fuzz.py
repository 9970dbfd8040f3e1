"""Bodies that no client sends: whatever comes, an answer in the dialect's form, and never a 5xx."""

import random
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("msgspec", reason="crossrank[serve] is not installed")

import httpx
import msgspec

from crossrank import CrossEncoder
from crossrank.serve import create_app
from crossrank.serve._dialects import PATHS
from tests.support.artifacts import make_artifact
from tests.support.serving import serving

KEYS = [
    *("query", "documents", "texts", "passages", "candidates", "input", "text_1", "text_2", "top_n", "top_k", "model"),
    *("return_documents", "return_text", "raw_scores", "truncate", "truncation", "rank_fields", "max_chunks_per_doc"),
    *(
        "max_tokens_per_doc",
        "relevant_spans",
        "truncation_direction",
        "task_settings",
        "instruction",
        "truncate_prompt",
    ),
]
TEXTS = [
    "",
    "a",
    "the sea is calm",
    "\x00",
    "\ufeff",
    "🏙️",
    "e\u0301" * 40,
    "word " * 300,
    "\u2028",
    "-1",
    "true",
    "null",
]
PATH_LIST = [path.replace("{model:path}", "tiny") for path in PATHS]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    model = CrossEncoder(make_artifact(tmp_path_factory.mktemp("tiny")), device="cpu", threads=1)
    with serving(create_app({"tiny": model})) as client:
        yield client


def value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(12 if depth < 3 else 8)
    if kind < 3:
        return rng.choice(TEXTS)
    if kind < 8:
        return rng.choice([None, True, False, 0, 1, -1, 3, 10**6, 2**70, 0.5, -0.0, 1e300, "enabled", "END", "Left"])
    if kind < 10:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice([*KEYS, "text", "content", "mode"]): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def body(rng: random.Random) -> bytes:
    """Mostly a request with a strange field or two; else anything; sometimes with bytes changed."""
    made: Any = {"query": rng.choice(TEXTS)}
    key = rng.choice(["documents", "texts", "passages", "candidates", "input", "text_2"])
    texts = rng.choices(TEXTS, k=rng.randrange(1, 5))
    made[key] = [{"text": text} for text in texts] if key in ("passages", "candidates") else texts
    made |= {"query": {"text": "a"}} if key == "passages" else {"text_1": "a"} if key == "text_2" else {}
    for _ in range(rng.randrange(3)):
        made[rng.choice(KEYS)] = value(rng)
    if rng.random() < 0.1:
        made = value(rng)
    data = bytearray(msgspec.json.encode(made))
    for _ in range(rng.choice([0, 0, 0, 1, 4])):
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data[: rng.randrange(len(data) + 1)]) if rng.random() < 0.05 else bytes(data)


@pytest.mark.parametrize("count", [1_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_no_body_makes_the_server_fail(client: httpx.Client, count: int) -> None:
    rng = random.Random(count)
    seen: dict[int, int] = {}
    for _ in range(count):
        path, content = rng.choice(PATH_LIST), body(rng)
        headers = {"X-Rerank-Budget-Ms": rng.choice(["50", "0", "x"])} if rng.random() < 0.2 else {}
        answer = client.post(path, content=content, headers=headers)
        assert answer.status_code in (200, 400, 404, 413, 422), (path, content, answer.text)
        assert answer.json() is not None
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
    assert seen[200] > count / 10
    assert seen[422] > count / 10
    assert client.get("/ready").status_code == 200
