"""Uses in the consumers' own packages: their code runs, with crossrank's class under the name that they import."""

import asyncio
from typing import Any

from tests.support.consumers import DOCUMENTS, QUERY, import_module, put, use
from tests.support.references import reference

torch = reference("torch")
evaluation = reference("sentence_transformers.cross_encoder.evaluation")

ST = "sentence_transformers"
HERE = "UKPLab/sentence-transformers, sentence_transformers/"
EVALUATION = HERE + "cross_encoder/evaluation/"
EVERYWHERE = "`sentence_transformers.CrossEncoder = crossrank.CrossEncoder` before it loads the model"
PAIRS = [[QUERY, document] for document in DOCUMENTS] + [["sea", document] for document in DOCUMENTS]
LABELS = [1, 0, 0, 0, 1, 0, 0, 1] * 2
SAMPLES = [
    {"query": QUERY, "positive": DOCUMENTS[:2], "documents": DOCUMENTS[1:]},
    {"query": "sea", "positive": [DOCUMENTS[4]], "documents": DOCUMENTS[2:]},
]


# sentence-transformers' own


@use(
    "sentence-transformers: CrossEncoderClassificationEvaluator",
    EVALUATION + "classification.py",
    "pass ours",
    package=ST,
)
def classification(encoder: Any, name: str) -> Any:
    return evaluation.CrossEncoderClassificationEvaluator(PAIRS, LABELS, name="dev", write_csv=False)(encoder(name))


@use(
    "sentence-transformers: CrossEncoderClassificationEvaluator of three labels",
    EVALUATION + "classification.py",
    "pass ours",
    package=ST,
    labels=3,
)
def classification_of_three(encoder: Any, name: str) -> Any:
    labels = [0, 1, 2, 0, 1, 2, 1, 0] * 2
    return evaluation.CrossEncoderClassificationEvaluator(PAIRS, labels, write_csv=False)(
        encoder(name), epoch=1, steps=2
    )


@use("sentence-transformers: CrossEncoderCorrelationEvaluator", EVALUATION + "correlation.py", "pass ours", package=ST)
def correlation(encoder: Any, name: str) -> Any:
    gold = [0.1 * place for place in range(len(PAIRS))]
    return evaluation.CrossEncoderCorrelationEvaluator(PAIRS, gold, name="sts", write_csv=False)(encoder(name))


@use("sentence-transformers: CrossEncoderRerankingEvaluator", EVALUATION + "reranking.py", "pass ours", package=ST)
def reranking(encoder: Any, name: str) -> Any:
    model = encoder(name)
    negatives = [{"query": QUERY, "positive": DOCUMENTS[:2], "negative": DOCUMENTS[2:]}]
    return [
        evaluation.CrossEncoderRerankingEvaluator(samples, write_csv=False, **options)(model)
        for samples, options in ((SAMPLES, {}), (SAMPLES, {"always_rerank_positives": False}), (negatives, {"at_k": 3}))
    ]


@use("sentence-transformers: CrossEncoderNanoBEIREvaluator", EVALUATION + "nano_beir.py", "pass ours", package=ST)
def nano_beir(encoder: Any, name: str) -> Any:
    base: Any = evaluation.CrossEncoderNanoBEIREvaluator

    class Small(base):  # type: ignore[misc]
        """It without the hub: NanoBEIR's data is what we put there."""

        def _load_dataset(self, dataset_name: str, **options: Any) -> Any:
            title = self._get_human_readable_name(dataset_name)
            return evaluation.CrossEncoderRerankingEvaluator(samples=SAMPLES, name=title, **options)

    return Small(["msmarco", "nq"], write_csv=False)(encoder(name))


@use("sentence-transformers: the older `CE*Evaluator` classes", EVALUATION + "deprecated.py", "pass ours", package=ST)
def older_evaluators(encoder: Any, name: str) -> Any:
    model = encoder(name)
    kinds = ("CEBinaryAccuracy", "CEBinaryClassification", "CEF1", "CESoftmaxAccuracy", "CECorrelation")
    found = [getattr(evaluation, f"{kind}Evaluator")(PAIRS, LABELS, write_csv=False)(model) for kind in kinds]
    return [*found, evaluation.CERerankingEvaluator(SAMPLES, write_csv=False)(model)]


def letter_counts() -> Any:
    """Embeddings of texts that need no model: how often each letter occurs."""

    base: Any = torch.nn.Module

    class Letters(base):  # type: ignore[misc]
        def forward(self, features: dict[str, Any]) -> dict[str, Any]:
            return features | {"sentence_embedding": features["counts"]}

        def tokenize(self, texts: list[str], **_: Any) -> dict[str, Any]:
            counts = [[float(text.lower().count(chr(i))) for i in range(97, 123)] for text in texts]
            return {"counts": torch.tensor(counts)}

    return import_module(ST).SentenceTransformer(modules=[Letters()], device="cpu")


@use("sentence-transformers: mine_hard_negatives", HERE + "util/hard_negatives.py", "pass ours", package="datasets")
def hard_negatives(encoder: Any, name: str) -> Any:
    rows = {"query": [QUERY, "sea"], "answer": [DOCUMENTS[0], DOCUMENTS[4]]}
    mined = import_module("sentence_transformers.util").mine_hard_negatives(
        import_module("datasets").Dataset.from_dict(rows),
        letter_counts(),
        corpus=DOCUMENTS,
        cross_encoder=encoder(name),
        max_score=0.99,
        absolute_margin=-1.0,
        num_negatives=3,
        output_format="labeled-list",
        output_scores=True,
        verbose=False,
    )
    return mined.to_dict()


# Frameworks


LANGCHAIN = "langchain-ai/langchain-community, libs/community/langchain_community/cross_encoders/huggingface.py"


def langchain_encoder(encoder: Any, name: str) -> Any:
    with put(ST, encoder):
        module = import_module("langchain_community.cross_encoders")
        return module.HuggingFaceCrossEncoder(model_name=name, model_kwargs={"device": "cpu"})


@use("LangChain: HuggingFaceCrossEncoder", LANGCHAIN, EVERYWHERE, package="langchain_community")
def langchain(encoder: Any, name: str) -> Any:
    return list(langchain_encoder(encoder, name).score([(QUERY, document) for document in DOCUMENTS]))


@use("LangChain: HuggingFaceCrossEncoder of two labels", LANGCHAIN, EVERYWHERE, package="langchain_community", labels=2)
def langchain_of_two(encoder: Any, name: str) -> Any:
    return list(langchain_encoder(encoder, name).score([(QUERY, document) for document in DOCUMENTS]))


@use(
    "LangChain: CrossEncoderReranker in a ContextualCompressionRetriever",
    "langchain-ai/langchain, libs/langchain/langchain_classic/retrievers/document_compressors",
    "as above, or [serving.md](serving.md#langchain)'s class",
    package="langchain_community",  # which brings langchain_classic
)
def langchain_reranker(encoder: Any, name: str) -> Any:
    document = import_module("langchain_core.documents").Document
    base: Any = import_module("langchain_core.retrievers").BaseRetriever

    class Everything(base):  # type: ignore[misc]
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Any]:
            return [document(page_content=text) for text in DOCUMENTS]

    compressors = import_module("langchain_classic.retrievers.document_compressors")
    reranker = compressors.CrossEncoderReranker(model=langchain_encoder(encoder, name), top_n=3)
    retrievers = import_module("langchain_classic.retrievers")
    retriever = retrievers.ContextualCompressionRetriever(base_compressor=reranker, base_retriever=Everything())
    return [found.page_content for found in retriever.invoke(QUERY)]


def llama_index_nodes(rerank: Any) -> Any:
    schema = import_module("llama_index.core.schema")
    nodes = [schema.NodeWithScore(node=schema.TextNode(text=text), score=0.5) for text in DOCUMENTS]
    found = rerank.postprocess_nodes(nodes, query_str=QUERY)
    return [(node.node.text, node.score, node.node.metadata) for node in found]


@use(
    "LlamaIndex: SentenceTransformerRerank",
    "run-llama/llama_index, llama-index-integrations/postprocessor/llama-index-postprocessor-sbert-rerank",
    EVERYWHERE,
    package="llama_index.postprocessor.sbert_rerank",
)
def llama_index(encoder: Any, name: str) -> Any:
    with put(ST, encoder):
        kind = import_module("llama_index.postprocessor.sbert_rerank").SentenceTransformerRerank
        return llama_index_nodes(kind(model=name, top_n=3, device="cpu", keep_retrieval_score=True))


@use(
    "LlamaIndex: SentenceTransformerRerank of llama-index-core",
    "run-llama/llama_index, llama-index-core/llama_index/core/postprocessor/sbert_rerank.py",
    EVERYWHERE,
    package="llama_index.core",
)
def llama_index_core(encoder: Any, name: str) -> Any:
    with put(ST, encoder):
        kind = import_module("llama_index.core.postprocessor").SentenceTransformerRerank
        return llama_index_nodes(kind(model=name, top_n=4, device="cpu"))


RANKERS = "haystack_integrations.components.rankers.sentence_transformers"


@use(
    "Haystack: SentenceTransformersSimilarityRanker",
    f"deepset-ai/haystack-core-integrations, {RANKERS.replace('.', '/')}",
    f"`{RANKERS}.sentence_transformers_similarity.CrossEncoder = crossrank.CrossEncoder`",
    package=RANKERS,
)
def haystack_ranker(encoder: Any, name: str) -> Any:
    document = import_module("haystack").Document
    documents, found = [document(content=text) for text in DOCUMENTS], []
    with put(f"{RANKERS}.sentence_transformers_similarity", encoder) as module:
        for scale_score in (True, False):
            ranker = module.SentenceTransformersSimilarityRanker(
                model=name, device=import_module("haystack.utils").ComponentDevice.from_str("cpu"), token=None, top_k=4
            )
            ranker.warm_up()
            found += ranker.run(query=QUERY, documents=documents, scale_score=scale_score)["documents"]
    return [(hit.content, hit.score) for hit in found]


@use(
    "Haystack: SASEvaluator",
    "deepset-ai/haystack, haystack/components/evaluators/sas_evaluator.py",
    "`haystack.components.evaluators.sas_evaluator.CrossEncoder = crossrank.CrossEncoder`",
    package="haystack",
)
def haystack_evaluator(encoder: Any, name: str) -> Any:
    with put("haystack.components.evaluators.sas_evaluator", encoder) as module:
        device = import_module("haystack.utils").ComponentDevice.from_str("cpu")
        evaluator = module.SASEvaluator(model=name, device=device, token=None)
        evaluator.warm_up()
        return evaluator.run(ground_truth_answers=[QUERY] * len(DOCUMENTS), predicted_answers=DOCUMENTS)


# Databases, evaluation, memory


@use(
    "LanceDB: CrossEncoderReranker",
    "lancedb/lancedb, python/python/lancedb/rerankers/cross_encoder.py",
    EVERYWHERE,
    package="lancedb",
)
def lancedb(encoder: Any, name: str) -> Any:
    table = import_module("pyarrow").table({"text": DOCUMENTS, "_distance": [0.5] * len(DOCUMENTS)})
    with put(ST, encoder):
        reranker = import_module("lancedb.rerankers").CrossEncoderReranker(name, device="cpu")
        return reranker.rerank_vector(QUERY, table).to_pylist()


@use(
    "beir: CrossEncoder and Rerank",
    "beir-cellar/beir, beir/reranking/models/cross_encoder.py and beir/reranking/rerank.py",
    "`Rerank(crossrank.CrossEncoder(...))`",
    package="beir",
)
def beir(encoder: Any, name: str) -> Any:
    rerank = import_module("beir.reranking").Rerank
    corpus = {str(i): {"title": "a title", "text": text} for i, text in enumerate(DOCUMENTS)}
    results = {"q": {str(i): 1.0 / (i + 1) for i in range(len(DOCUMENTS))}}
    with put("beir.reranking.models.cross_encoder", encoder, "CE") as module:
        wrapped = rerank(module.CrossEncoder(name), batch_size=128).rerank(corpus, {"q": QUERY}, results, top_k=5)
    return wrapped, rerank(encoder(name), batch_size=4).rerank(corpus, {"q": QUERY}, results, top_k=100)


@use(
    "mem0: SentenceTransformerReranker",
    "mem0ai/mem0, mem0/reranker/sentence_transformer_reranker.py",
    "`mem0.reranker.sentence_transformer_reranker.CrossEncoder = crossrank.CrossEncoder`",
    package="mem0",
)
def mem0(encoder: Any, name: str) -> Any:
    with put("mem0.reranker.sentence_transformer_reranker", encoder) as module:
        reranker = module.SentenceTransformerReranker({"model": name, "device": "cpu", "top_k": 3})
        return reranker.rerank(QUERY, [{"memory": text, "id": i} for i, text in enumerate(DOCUMENTS)])


@use(
    "agno: SentenceTransformerReranker",
    "agno-agi/agno, libs/agno/agno/knowledge/reranker/sentence_transformer.py",
    "`agno.knowledge.reranker.sentence_transformer.CrossEncoder = crossrank.CrossEncoder`",
    package="agno",
)
def agno(encoder: Any, name: str) -> Any:
    document = import_module("agno.knowledge.document").Document
    with put("agno.knowledge.reranker.sentence_transformer", encoder) as module:
        reranker = module.SentenceTransformerReranker(model=name, top_n=3)
        found = reranker.rerank(QUERY, [document(content=text) for text in DOCUMENTS])
    return [(hit.content, hit.reranking_score) for hit in found]


@use(
    "Graphiti: BGERerankerClient",
    "getzep/graphiti, graphiti_core/cross_encoder/bge_reranker_client.py",
    "`BGERerankerClient().model = crossrank.CrossEncoder(...)`",
    package="graphiti_core",
)
def graphiti(encoder: Any, name: str) -> Any:
    with put("graphiti_core.cross_encoder.bge_reranker_client", lambda _: encoder(name)) as module:
        return asyncio.run(module.BGERerankerClient().rank(QUERY, DOCUMENTS))


@use(
    "GPTCache: SbertCrossencoderEvaluation",
    "zilliztech/GPTCache, gptcache/similarity_evaluation/sbert_crossencoder.py",
    "`gptcache.similarity_evaluation.sbert_crossencoder.CrossEncoder = crossrank.CrossEncoder`",
    package="gptcache",
)
def gptcache(encoder: Any, name: str) -> Any:
    with put("gptcache.similarity_evaluation.sbert_crossencoder", encoder) as module:
        evaluator = module.SbertCrossencoderEvaluation(name)
        return [evaluator.evaluation({"question": QUERY}, {"question": document}) for document in DOCUMENTS]


@use(
    "Milvus: CrossEncoderRerankFunction",
    "milvus-io/milvus-model, milvus_model/reranker/cross_encoder.py",
    "`sentence_transformers.cross_encoder.CrossEncoder = crossrank.CrossEncoder` before it loads the model",
    package="pymilvus.model",
)
def milvus(encoder: Any, name: str) -> Any:
    with put("sentence_transformers.cross_encoder", encoder):
        module = import_module("pymilvus.model.reranker.cross_encoder")
        function = module.CrossEncoderRerankFunction(model_name=name, device="cpu", activation_fct=torch.nn.Identity())
    return [(hit.text, hit.score, hit.index) for hit in function(QUERY, DOCUMENTS, top_k=3)]
