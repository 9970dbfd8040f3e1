"""Uses whose calls we play in our own words: the same sequence, argument names and values as at the place named."""

import asyncio
import copy
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import numpy as np

from tests.support.consumers import DOCUMENTS, QUERY, USES, Use, use
from tests.support.references import reference

torch = reference("torch")
sentence_transformers = reference("sentence_transformers")

PAIRS = [(QUERY, document) for document in DOCUMENTS]
LISTS = [[QUERY, document] for document in DOCUMENTS]
EXAMPLES = "UKPLab/sentence-transformers, examples/"


def by_score(scores: Any) -> list[tuple[str, float]]:
    ranked = sorted(zip(DOCUMENTS, scores, strict=True), key=lambda pair: pair[1], reverse=True)
    return [(document, float(score)) for document, score in ranked]


# sentence-transformers' documentation


@use("sentence-transformers: quick start", "UKPLab/sentence-transformers, README.md")
def quick_start(encoder: Any, name: str) -> Any:
    model = encoder(name)
    scores = model.predict(PAIRS)
    ranks = model.rank(QUERY, DOCUMENTS, return_documents=True)
    return scores, ranks, model.predict(PAIRS[0])


@use("sentence-transformers: retrieve and rerank", EXAMPLES + "cross_encoder/applications/cross-encoder_reranking.py")
def retrieve_and_rerank(encoder: Any, name: str) -> Any:
    hits = [DOCUMENTS[place] for place in (4, 2, 0, 7, 1, 5)]
    return encoder(name).rank(QUERY, hits, return_documents=True, top_k=5)


@use(
    "sentence-transformers: search within a document",
    EXAMPLES + "sentence_transformer/applications/retrieve_rerank/in_document_search_crossencoder.py",
)
def search_in_document(encoder: Any, name: str) -> Any:
    model, found = encoder(name), []
    for query in (QUERY, "sea", "bread"):
        inputs = [[query, passage] for passage in DOCUMENTS]
        hits = [{"input": pair, "score": score} for pair, score in zip(inputs, model.predict(inputs), strict=True)]
        found.append(sorted(hits, key=lambda hit: float(hit["score"]), reverse=True)[:5])
    return found


@use(
    "sentence-transformers: Augmented SBERT's silver labels",
    EXAMPLES + "sentence_transformer/training/data_augmentation",
)
def silver_labels(encoder: Any, name: str) -> Any:
    scores = encoder(name).predict(PAIRS)
    assert all(0.0 <= score <= 1.0 for score in scores)
    return scores, [1 if score >= 0.5 else 0 for score in scores]


@use(
    "sentence-transformers: labels of a teacher for distillation",
    "UKPLab/sentence-transformers, sentence_transformers/cross_encoder/losses",
)
def distillation(encoder: Any, name: str) -> Any:
    teacher = encoder(name)
    margin = teacher.predict(PAIRS[:4]) - teacher.predict(PAIRS[4:])
    return {"label": margin.tolist(), "tensor": torch.tensor(margin, dtype=torch.float)}


@use(
    "sentence-transformers: probabilities of a relevance model",
    "UKPLab/sentence-transformers, docs/cross_encoder/pretrained_models.md",
)
def activation_of_the_model(encoder: Any, name: str) -> Any:
    models = [encoder(name, default_activation_function=f()) for f in (torch.nn.Sigmoid, torch.nn.Identity)]
    return [model.predict(list(product([QUERY], DOCUMENTS))) for model in models]


@use(
    "sentence-transformers: natural language inference",
    "UKPLab/sentence-transformers, docs/cross_encoder/pretrained_models.md",
    labels=3,
)
def inference_labels(encoder: Any, name: str) -> Any:
    model = encoder(name)
    scores = model.predict(PAIRS)
    names = ["contradiction", "entailment", "neutral"]
    probabilities = model.predict(PAIRS, apply_softmax=True)
    return scores, [names[label] for label in scores.argmax(axis=1)], probabilities[:, 2]


@use(
    "sentence-transformers: several processes",
    "UKPLab/sentence-transformers, docs/cross_encoder/usage",
    "leave the pool out: one process uses all its cores",
    refused="threads share one model",
)
def process_pool(encoder: Any, name: str) -> Any:
    model = encoder(name)
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    try:
        return model.predict(PAIRS, pool=pool)
    finally:
        model.stop_multi_process_pool(pool)


@use(
    "sentence-transformers: prompts of an instruction",
    EXAMPLES + "cross_encoder/applications/cross-encoder_instruct_reranking.py",
    "write the prompt into the query",
    refused="write the prompt into the query",
)
def prompts(encoder: Any, name: str) -> Any:
    return encoder(name).predict(LISTS, prompt="Given a question, find the document that answers it.")


@use(
    "sentence-transformers: `save_pretrained`",
    "UKPLab/sentence-transformers, docs/cross_encoder/training_overview.md",
    "copy `model.info().folder`",
    refused=r"copy info\(\)\.folder",
)
def save(encoder: Any, name: str) -> Any:
    encoder(name).save_pretrained(name + "-saved")


# Retrieval and evaluation


@use("PyTerrier: `pt.apply.doc_score`", "terrier-org/pyterrier, docs/apply.rst")
def pyterrier(encoder: Any, name: str) -> Any:
    model = encoder(name, max_length=512)
    frame = {"query": np.array([QUERY] * len(DOCUMENTS), object), "text": np.array(DOCUMENTS, object)}
    return model.predict(list(zip(frame["query"], frame["text"], strict=True)))


@use(
    "mteb: a class of CrossEncoderProtocol",
    "embeddings-benchmark/mteb, mteb/models/models_protocols.py",
    "a class whose `predict(inputs1, inputs2, **_)` joins both and calls ours",
)
def mteb_protocol(encoder: Any, name: str) -> Any:
    model = encoder(name, revision=None)
    queries, documents = [{"text": [QUERY] * 4}] * 2, [{"text": DOCUMENTS[:4]}, {"text": DOCUMENTS[4:]}]
    texts = [[text for batch in loader for text in batch["text"]] for loader in (queries, documents)]
    return model.predict(list(zip(*texts, strict=True)), batch_size=32)


@use(
    "mteb: a CrossEncoder itself",
    "embeddings-benchmark/mteb, mteb/models/model_meta.py",
    "the row above",
    refused="use score, rank and predict",
)
def mteb_instance(encoder: Any, name: str) -> Any:
    return encoder(name, revision=None).model.name_or_path and None


@use("GPL: margins of pseudo labels", "UKPLab/gpl, gpl/toolkit/pl.py")
def gpl(encoder: Any, name: str) -> Any:
    query, positive, negative = [QUERY] * 4, DOCUMENTS[:4], DOCUMENTS[4:]
    pairs = list(zip(query, positive, strict=True)) + list(zip(query, negative, strict=True))
    scores = encoder(name).predict(pairs, show_progress_bar=False)
    return (scores[: len(query)] - scores[len(query) :]).tolist()


@use(
    "Haystack 1: PseudoLabelGenerator", "deepset-ai/haystack, haystack/nodes/label_generator/pseudo_label_generator.py"
)
def haystack_pseudo_labels(encoder: Any, name: str) -> Any:
    # transformers 5 knows no use_auth_token, whose value was None: with it sentence-transformers 6 fails
    options = {} if encoder is sentence_transformers.CrossEncoder else {"use_auth_token": None}
    model = encoder(name, device=str(torch.device("cpu")), tokenizer_args=options, automodel_args=options)
    scores = model.predict(LISTS)
    return [scores[i] - scores[i + 1] for i in range(0, len(scores), 2)]


@use("Haystack 1: TopPSampler", "deepset-ai/haystack, haystack/nodes/sampler/top_p_sampler.py")
def haystack_top_p(encoder: Any, name: str) -> Any:
    scores = encoder(name, device=str(torch.device("cpu"))).predict(LISTS)
    probabilities = np.exp(scores) / np.sum(np.exp(scores))
    kept = np.where(np.cumsum(np.sort(probabilities)[::-1]) <= 0.7)[0]
    return probabilities, [DOCUMENTS[i] for i in np.argsort(probabilities)[::-1][kept]]


@use("Cherche: rank.CrossEncoder", "raphaelsty/cherche, cherche/rank/cross_encoder.py")
def cherche(encoder: Any, name: str) -> Any:
    predict, scores = encoder(name).predict, []
    for start in range(0, len(PAIRS), 3):
        scores.extend(predict(PAIRS[start : start + 3]))
    queue = deque(scores)
    row = np.array([queue.popleft() for _ in DOCUMENTS]).reshape(1, -1)
    match = np.fliplr(np.argsort(row, axis=1))
    return np.take_along_axis(row, match, axis=1), [DOCUMENTS[i] for i in match.flatten()]


@use("Ragas: HuggingfaceEmbeddings for answer similarity", "explodinggradients/ragas, src/ragas/embeddings/base.py")
def ragas(encoder: Any, name: str) -> Any:
    model_options: dict[str, Any] = {}
    encode_options = {"convert_to_tensor": True, "batch_size": 15}
    predictions = encoder(name, **model_options).predict(LISTS, **encode_options)
    assert isinstance(predictions, torch.Tensor)
    return predictions.tolist()


@use("EvalScope: CrossEncoderModel", "modelscope/evalscope, evalscope/backend/rag_eval/utils/embedding.py")
def evalscope(encoder: Any, name: str) -> Any:
    scores = encoder(name, trust_remote_code=True, max_length=512).predict(PAIRS, convert_to_tensor=True)
    assert isinstance(scores, torch.Tensor)
    return scores


@use("AutoIntent: Ranker", "deeppavlov/AutoIntent, src/autointent/_wrappers/ranker.py")
def autointent(encoder: Any, name: str) -> Any:
    model = encoder(name, trust_remote_code=False, device=None, max_length=None)
    activations = torch.nn.Sigmoid(), torch.nn.Tanh()
    return [np.array(model.predict(PAIRS, batch_size=32, activation_fct=activation)) for activation in activations]


@use(
    "AutoIntent: a head of its own",
    "deeppavlov/AutoIntent, src/autointent/_wrappers/ranker.py",
    "`train_head=False`",
    refused="use score, rank and predict",
)
def autointent_head(encoder: Any, name: str) -> Any:
    encoder(name, trust_remote_code=False, device=None, max_length=None).model.classifier.register_forward_hook(print)


@use("LOTUS: CrossEncoderReranker", "lotus-data/lotus, lotus/models/cross_encoder_reranker.py")
def lotus(encoder: Any, name: str) -> Any:
    found = encoder(name, device=None).rank(QUERY, DOCUMENTS, top_k=3, batch_size=64, show_progress_bar=False)
    return [int(hit["corpus_id"]) for hit in found]


@use("Pathway: CrossEncoderReranker", "pathwaycom/pathway, python/pathway/xpacks/llm/rerankers.py")
def pathway(encoder: Any, name: str) -> Any:
    model = encoder(name)
    return [model.predict([[QUERY, document]])[0] for document in DOCUMENTS]


# Applications


@use("Open WebUI", "open-webui/open-webui, backend/open_webui/routers/retrieval.py and retrieval/utils.py")
def open_webui(encoder: Any, name: str) -> Any:
    found = []
    for sigmoid in (True, False):
        model = encoder(
            name,
            device="cpu",
            trust_remote_code=True,
            backend="torch",
            model_kwargs=None,
            activation_fn=torch.nn.Sigmoid() if sigmoid else None,
        )
        inner = getattr(model, "model", None)
        if inner is not None and hasattr(inner, "config"):
            assert inner.config.pad_token_id is not None
        scores = model.predict(PAIRS, batch_size=int("32"))
        found.append([(document, score) for document, score in by_score(scores.tolist()) if score >= 0.1][:3])
    return found


@use("Khoj", "khoj-ai/khoj, src/khoj/processor/embeddings.py")
def khoj(encoder: Any, name: str) -> Any:
    return encoder(model_name=name, device="cpu").predict(LISTS, activation_fct=torch.nn.Sigmoid())


@use("Onyx (Danswer)", "danswer-ai/danswer, backend/model_server/encoders.py")
def onyx(encoder: Any, name: str) -> Any:
    models = []
    for length in (512, 16):
        model = encoder(name)
        model.max_length = length
        assert model.max_length == length
        models.append(model)
    warm = [model.predict(("hello there", "hello there")) for model in models]
    return warm, [model.predict(PAIRS).tolist() for model in models]


@use("LightRAG", "HKUDS/LightRAG, lightrag/rerank.py")
def lightrag(encoder: Any, name: str) -> Any:
    rankings = encoder(name).rank(query=QUERY, documents=DOCUMENTS, top_k=3)
    return [{"index": hit["corpus_id"], "relevance_score": hit["score"]} for hit in rankings]


@use("LazyLLM", "LazyAGI/LazyLLM, lazyllm/components/deploy/embed.py")
def lazyllm(encoder: Any, name: str) -> Any:
    scores = encoder(name).predict(PAIRS)
    return [(index, scores[index]) for index in np.argsort(scores)[::-1]][:4]


@use("Langchain-Chatchat", "chatchat-space/Langchain-Chatchat, server/reranker/reranker.py")
def chatchat(encoder: Any, name: str) -> Any:
    model = encoder(model_name=name, max_length=1024, device="cpu")
    scores = model.predict(sentences=LISTS, batch_size=32, num_workers=0, convert_to_tensor=True)
    values, places = scores.topk(min(3, len(scores)))
    return [(DOCUMENTS[place], value) for place, value in zip(places.tolist(), values, strict=True)]


@use("Hindsight", "vectorize-io/hindsight, hindsight-api/hindsight_api/engine/cross_encoder.py")
def hindsight(encoder: Any, name: str) -> Any:
    model = encoder(name, device="cpu", model_kwargs={"low_cpu_mem_usage": False})

    async def predict(pool: ThreadPoolExecutor) -> Any:
        def call() -> Any:
            return model.predict(PAIRS, show_progress_bar=False).tolist()

        return await asyncio.gather(*(asyncio.get_running_loop().run_in_executor(pool, call) for _ in range(4)))

    with ThreadPoolExecutor(max_workers=4) as pool:
        return asyncio.run(predict(pool))


@use("Langroid: DocChatAgent", "langroid/langroid, langroid/agent/special/doc_chat_agent.py")
def langroid(encoder: Any, name: str) -> Any:
    scores = 1.0 / (1 + np.exp(-np.array(encoder(name).predict(PAIRS))))
    return by_score(scores)[:4]


@use("xagent", "Xing-Zhuang/xagent, src/xagent/rag/rerank.py")
def xagent(encoder: Any, name: str) -> Any:
    return encoder(model_name=name, cache_dir=None).rank(QUERY, DOCUMENTS, return_documents=True)


@use("AIsync: RerankerCrossEncoder", "loctvl842/aisync, machine/robot/aisync/engines/reranker/configs")
def aisync(encoder: Any, name: str) -> Any:
    return by_score(encoder(model_name=name, num_labels=1).predict(LISTS))


@use("applications that pass a `torch.device`", "many, such as wrappers of jina-reranker-v2")
def torch_device(encoder: Any, name: str) -> Any:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scores = encoder(name, max_length=512, device=device, trust_remote_code=True).predict(LISTS, convert_to_tensor=True)
    return torch.sigmoid(scores).cpu().tolist()


@use(
    "applications that move the model after loading it",
    "nguyenjacobak/Fashion_SegCBIR, src/model/cross_encoder_model.py",
    "`CrossEncoder(..., device=)`",
    refused="pass device= to CrossEncoder",
)
def moved(encoder: Any, name: str) -> Any:
    model = encoder(name)
    model.to("cpu")
    return model.predict(PAIRS)


@use("copies of an agent that holds the model (LangChain, pydantic)", "langchain-ai/langchain, libs/core")
def deep_copy(encoder: Any, name: str) -> Any:
    return copy.deepcopy({"model": encoder(name, device="cpu")})["model"].predict(LISTS)


# Servers that take the model apart


@use(
    "Xinference",
    "xorbitsai/inference, xinference/model/rerank/sentence_transformers/core.py",
    "serve it yourself, as [serving.md](serving.md) shows",
    refused=r"encode\(\) tokenizes documents ahead",
)
def xinference(encoder: Any, name: str) -> Any:
    model = encoder(name, device="cpu", trust_remote_code=True, max_length=512)
    return model.tokenizer(LISTS, padding=True, truncation=True, return_tensors="pt") and None


@use(
    "Infinity: CrossEncoderPatched",
    "michaelfeil/infinity, libs/infinity_emb/infinity_emb/transformer/crossencoder/torch.py",
    "serve it yourself, as [serving.md](serving.md) shows",
    refused="use score, rank and predict",
)
def infinity(encoder: Any, name: str) -> Any:
    class Patched(encoder):  # type: ignore[misc]
        def __init__(self) -> None:
            options = {"trust_remote_code": True}
            super().__init__(name, revision=None, tokenizer_args=options, automodel_args=options, device="cpu")
            self.model.eval()

    Patched()


@use(
    "vLLM's tests: HfRunner in half precision",
    "vllm-project/vllm, tests/conftest.py",
    '`CrossEncoder(..., precision="fp16")`',
    refused="pass precision=",
)
def vllm(encoder: Any, name: str) -> Any:
    encoder(name, device="cpu", automodel_args={"torch_dtype": torch.float16}, trust_remote_code=True)


USES += [
    Use(
        "sentence-transformers: CrossEncoderTrainer, losses, `fit`",
        "UKPLab/sentence-transformers, sentence_transformers/cross_encoder/trainer.py",
        "train there, then load the folder here",
        "not applicable",
        words="training",
    ),
    Use(
        "rerankers, txtai, FlagEmbedding",
        "AnswerDotAI/rerankers, neuml/txtai, FlagOpen/FlagEmbedding",
        "call ours in their place",
        "not applicable",
        words="they load transformers' classes, no CrossEncoder",
    ),
]
