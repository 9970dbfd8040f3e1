"""Real clients, unmodified, from their own packages, against a server on loopback.

Those that `make test` lacks are skipped there; `make test-clients` brings all. Some cannot be pointed at a URL, or are
no packages: LangChain's JinaRerank, the plugins of Dify and RAGFlow, Open WebUI; `test_dialects` sends what they send.
"""

import importlib
import math
import os
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("msgspec", reason="crossrank[serve] is not installed")

from crossrank import CrossEncoder
from crossrank.serve import create_app
from tests.support.serving import ANSWER, DOCUMENTS, QUERY, serving

KEY = "a-key"
MODEL = "mini"
ORDER = [2, 0, 1]


def package(name: str) -> Any:
    """A client's package; absent it is skipped, or fails where all must be there."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    if name.startswith("infinity_client"):  # it wants an older httpx than litellm: an environment of its own
        return pytest.importorskip(name, reason="pip install infinity-client 'httpx<0.28' in another environment")
    if os.environ.get("CROSSRANK_TEST_CLIENTS"):
        return importlib.import_module(name)
    return pytest.importorskip(name, reason=f"{name} is not installed: make test-clients brings it")


@pytest.fixture(scope="module")
def model() -> CrossEncoder:
    return CrossEncoder(threads=1)


@pytest.fixture(scope="module")
def logits(model: CrossEncoder) -> list[float]:
    found: list[float] = model.score(QUERY, DOCUMENTS).tolist()
    return found


@pytest.fixture(scope="module")
def url(model: CrossEncoder) -> Iterator[str]:
    with serving(create_app({MODEL: model}, api_keys=[KEY])) as client:
        yield str(client.base_url)


def right(pairs: list[tuple[int, float]], logits: list[float], *, raw: bool = False) -> bool:
    """Whether indices and scores are the model's."""
    expected = [logits[i] if raw else 1 / (1 + math.exp(-logits[i])) for i in ORDER[: len(pairs)]]
    return [index for index, _ in pairs] == ORDER[: len(pairs)] and [score for _, score in pairs] == pytest.approx(
        expected, abs=1e-3
    )


def test_cohere_v1(url: str, logits: list[float]) -> None:
    cohere = package("cohere")
    client = cohere.Client(api_key=KEY, base_url=url)
    got = client.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=2, return_documents=True)
    assert right([(result.index, result.relevance_score) for result in got.results], logits)
    assert got.results[0].document.text == ANSWER
    assert got.meta.billed_units.search_units == 1


def test_cohere_v2(url: str, logits: list[float]) -> None:
    cohere = package("cohere")
    client = cohere.ClientV2(api_key=KEY, base_url=url)
    got = client.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, max_tokens_per_doc=4096)
    assert right([(result.index, result.relevance_score) for result in got.results], logits)
    assert got.id
    for wrong, status in (({"model": "absent"}, 404), ({"documents": []}, 400)):
        with pytest.raises(cohere.core.ApiError) as caught:
            client.rerank(**{"model": MODEL, "query": QUERY, "documents": DOCUMENTS} | wrong)
        assert (caught.value.status_code, set(caught.value.body)) == (status, {"id", "message"})
    with pytest.raises(cohere.UnauthorizedError):
        cohere.ClientV2(api_key="wrong", base_url=url).rerank(model=MODEL, query=QUERY, documents=DOCUMENTS)


def test_voyageai(url: str, logits: list[float]) -> None:
    voyageai = package("voyageai")
    client = voyageai.Client(api_key=KEY, base_url=f"{url}/v1")
    for top_k in (None, 2):
        got = client.rerank(QUERY, DOCUMENTS, MODEL, top_k=top_k)
        assert right([(result.index, result.relevance_score) for result in got.results], logits)
        assert (got.results[0].document, got.total_tokens > 20) == (ANSWER, True)


@pytest.mark.parametrize(
    ("provider", "base"),
    [
        ("cohere", "/v2/rerank"),
        ("hosted_vllm", ""),
        ("hosted_vllm", "/v1/rerank"),
        ("infinity", "/infinity/rerank"),
        ("jina_ai", "/v1/rerank"),
        ("huggingface", ""),
        ("nvidia_nim", ""),
        ("voyage", "/v1/rerank"),
    ],
)
def test_litellm(url: str, logits: list[float], provider: str, base: str) -> None:
    litellm = package("litellm")
    got = litellm.rerank(
        model=f"{provider}/{MODEL}", query=QUERY, documents=DOCUMENTS, top_n=3, api_base=f"{url}{base}", api_key=KEY
    )
    pairs = [(result["index"], result["relevance_score"]) for result in got.results]
    assert right(pairs, logits, raw=provider == "nvidia_nim")
    document = got.results[0].get("document")
    assert document is None or document["text"] == ANSWER


def test_elasticsearch(url: str, logits: list[float]) -> None:
    elasticsearch = package("elasticsearch")
    with elasticsearch.Elasticsearch(url, api_key=KEY) as client:
        got = client.inference.rerank(inference_id=MODEL, query=QUERY, input=DOCUMENTS, return_documents=True)
        assert right([(result["index"], result["relevance_score"]) for result in got["rerank"]], logits)
        assert got["rerank"][0]["text"] == ANSWER
        with pytest.raises(elasticsearch.NotFoundError):
            client.inference.rerank(inference_id="absent", query=QUERY, input=DOCUMENTS)


def test_infinity_client(url: str, logits: list[float]) -> None:
    infinity, models = package("infinity_client"), package("infinity_client.models")
    rerank = package("infinity_client.api.default.rerank")
    with infinity.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}) as client:
        for raw in (False, True):
            body = models.RerankInput(
                query=QUERY, documents=DOCUMENTS, model=MODEL, raw_scores=raw, return_documents=True
            )
            got: Any = rerank.sync(client=client, body=body)
            pairs = [(result.index, result.relevance_score) for result in got.results]
            assert right(pairs, logits, raw=raw)
            assert got.results[0].document == ANSWER


def langchain_documents() -> list[Any]:
    documents = package("langchain_core.documents")
    return [documents.Document(page_content=text) for text in DOCUMENTS]


def found_by_langchain(reranker: Any) -> list[tuple[int, float]]:
    found = reranker.compress_documents(langchain_documents(), QUERY)
    return [(DOCUMENTS.index(document.page_content), document.metadata["relevance_score"]) for document in found]


def test_langchain_cohere(url: str, logits: list[float]) -> None:
    cohere = package("langchain_cohere")
    reranker = cohere.CohereRerank(model=MODEL, cohere_api_key=KEY, base_url=url, top_n=2)
    assert right(found_by_langchain(reranker), logits)


def test_langchain_nvidia(url: str, logits: list[float]) -> None:
    nvidia = package("langchain_nvidia_ai_endpoints")
    reranker = nvidia.NVIDIARerank(model=MODEL, base_url=f"{url}/v1", api_key=KEY, top_n=2, truncate="END")
    assert right(found_by_langchain(reranker), logits, raw=True)


def test_langchain_infinity(url: str, logits: list[float]) -> None:
    infinity = package("langchain_community.document_compressors.infinity_rerank")
    client = package("infinity_client").Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"})
    assert right(found_by_langchain(infinity.InfinityRerank(client=client, model=MODEL, top_n=2)), logits)


def test_langchain_voyageai(url: str, logits: list[float]) -> None:
    voyage = package("langchain_voyageai")
    reranker = voyage.VoyageAIRerank(model=MODEL, voyage_api_key=KEY, base_url=f"{url}/v1", top_k=2)
    if reranker.client._params.get("base_url") != f"{url}/v1":
        pytest.skip("this version has no option for its URL; test_voyageai sends the same")
    assert right(found_by_langchain(reranker), logits)


def found_by_llama_index(reranker: Any) -> list[tuple[int, float]]:
    schema = package("llama_index.core.schema")
    nodes = [schema.NodeWithScore(node=schema.TextNode(text=text), score=0.0) for text in DOCUMENTS]
    found = reranker.postprocess_nodes(nodes, query_str=QUERY)
    return [(DOCUMENTS.index(node.node.get_content()), node.score) for node in found]


def test_llama_index_tei(url: str, logits: list[float]) -> None:
    tei = package("llama_index.postprocessor.tei_rerank")
    reranker = tei.TextEmbeddingInference(base_url=url, top_n=2, auth_token=KEY)
    assert right(found_by_llama_index(reranker), logits)


def test_llama_index_cohere(url: str, logits: list[float]) -> None:
    cohere = package("llama_index.postprocessor.cohere_rerank")
    reranker = cohere.CohereRerank(model=MODEL, api_key=KEY, base_url=url, top_n=2)
    assert right(found_by_llama_index(reranker), logits)


def test_llama_index_jina(url: str, logits: list[float]) -> None:
    jina = package("llama_index.postprocessor.jinaai_rerank")
    reranker = jina.JinaRerank(model=MODEL, api_key=KEY, base_url=f"{url}/v1", top_n=2)
    assert right(found_by_llama_index(reranker), logits)
    wrong = jina.JinaRerank(model="absent", api_key=KEY, base_url=f"{url}/v1", top_n=2)
    with pytest.raises(RuntimeError, match="there are: mini"):  # it reads `detail`
        found_by_llama_index(wrong)


def test_llama_index_nvidia(url: str, logits: list[float]) -> None:
    nvidia = package("llama_index.postprocessor.nvidia_rerank")
    reranker = nvidia.NVIDIARerank(model=MODEL, base_url=f"{url}/v1", api_key=KEY, top_n=2)
    assert right(found_by_llama_index(reranker), logits, raw=True)


def test_haystack_tei(url: str, logits: list[float]) -> None:
    rankers = package("haystack_integrations.components.rankers.huggingface_api")
    haystack = package("haystack")
    secret = package("haystack.utils").Secret.from_token(KEY)
    for raw in (False, True):
        ranker = rankers.HuggingFaceTEIRanker(url=url, token=secret, raw_scores=raw)
        documents = [haystack.Document(content=text) for text in DOCUMENTS]
        found = ranker.run(QUERY, documents, truncation_direction=rankers.TruncationDirection.RIGHT)["documents"]
        pairs = [(DOCUMENTS.index(document.content), document.score) for document in found]
        assert right(pairs, logits, raw=raw)
