"""Code that was written for sentence-transformers' CrossEncoder: its options, names and attributes work, or are refused
with what to use here; no option or attribute is ignored that changes a score there.

Tolerance of scores: as in test_predict.py.
"""

import asyncio
import copy
import inspect
import os
import pickle
import typing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from crossrank import AsyncCrossEncoder, Cascade, CrossEncoder, InputError, ModelNotFoundError
from crossrank._calls import compatibility
from crossrank.export import export_model
from tests.support.artifacts import make_artifact
from tests.support.references import reference
from tests.support.tiny_models import PAIRS, config_of

torch = reference("torch")
sentence_transformers = reference("sentence_transformers")
evaluation = reference("sentence_transformers.cross_encoder.evaluation")

ATOL, RTOL = 1e-5, 1e-6
QUERY = PAIRS[3][0]
DOCUMENTS = list(dict.fromkeys(document for _, document in PAIRS))
LONG = "the sky is red " * 20


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return {labels: make_artifact(tmp_path_factory.mktemp(f"labels-{labels}"), labels=labels) for labels in (1, 2)}


@pytest.fixture
def model(folders: dict[int, Path]) -> CrossEncoder:
    return CrossEncoder(folders[1], device="cpu")


@pytest.fixture(scope="module")
def theirs(folders: dict[int, Path]) -> Any:
    return sentence_transformers.CrossEncoder(str(folders[1].parent / "checkpoint"), device="cpu")


def assert_close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, atol=ATOL, rtol=RTOL)


# --- options

NOTHING_OF_A_MODEL: list[dict[str, Any]] = [
    {"model_kwargs": None, "processor_kwargs": {}, "tokenizer_kwargs": None, "config_kwargs": {}},
    {"automodel_args": {}, "tokenizer_args": None, "config_args": {}},
    {"model_kwargs": {"low_cpu_mem_usage": False}, "tokenizer_args": {"trust_remote_code": True, "token": None}},
    {"prompts": None, "default_prompt_name": None, "model_card_data": None},
    {"prompts": {"query": "", "document": ""}, "keep_in_fp32_modules": None, "modules": None},
    {"backend": "torch", "trust_remote_code": True, "classifier_dropout": 0.1},
    {"backend": "onnx", "num_labels": 1, "trust_remote_code": False},
    {"num_labels": np.int64(1), "cache_dir": None, "default_activation_function": None},
]
NOTHING_OF_A_CALL: list[dict[str, Any]] = [
    {"prompt": None, "prompt_name": None, "pool": None, "chunk_size": None, "device": None},
    {"prompt": "", "chunk_size": 100, "num_workers": 0},
    {"device": "cpu"},
    {"device": "cpu:0", "num_workers": 4},
    {"device": torch.device("cpu")},
]


@pytest.mark.parametrize("options", NOTHING_OF_A_MODEL, ids=str)
def test_options_of_a_model_that_ask_for_nothing_change_nothing(
    folders: dict[int, Path], model: CrossEncoder, options: dict[str, Any]
) -> None:
    loaded = CrossEncoder(folders[1], device="cpu", **options)
    np.testing.assert_array_equal(loaded.predict(PAIRS), model.predict(PAIRS))


@pytest.mark.parametrize("options", NOTHING_OF_A_CALL, ids=str)
def test_options_of_a_call_that_ask_for_nothing_change_nothing(
    model: CrossEncoder, theirs: Any, options: dict[str, Any]
) -> None:
    assert_close(model.predict(PAIRS, **options), theirs.predict(list(PAIRS), **options))
    of_rank = options | {"convert_to_numpy": True, "convert_to_tensor": True, "apply_softmax": True}
    ours, expected = model.rank(QUERY, DOCUMENTS, **of_rank), theirs.rank(QUERY, DOCUMENTS, **of_rank)
    assert [hit["corpus_id"] for hit in ours] == [hit["corpus_id"] for hit in expected]
    again = asyncio.run(AsyncCrossEncoder(model).rank(QUERY, DOCUMENTS, **of_rank))
    assert [hit["corpus_id"] for hit in again] == [hit["corpus_id"] for hit in expected]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_kwargs": {"torch_dtype": "float16"}}, "in place of 'torch_dtype' pass precision='fp32', 'fp16' or"),
        ({"model_kwargs": {"device_map": "auto", "odd": 1}}, "device_map' pass device=.*; in place of 'odd' there is"),
        ({"model_kwargs": {"attn_implementation": "sdpa"}}, "the graphs bring their own attention; leave it out"),
        ({"model_kwargs": {"file_name": "a.onnx"}}, "name the ONNX file itself as the model"),
        ({"automodel_args": {"load_in_8bit": True}}, "pass precision='int8'"),
        ({"tokenizer_kwargs": {"model_max_length": 64}}, "pass max_length="),
        ({"processor_kwargs": 3}, "processor_kwargs=3: None or {}"),
        ({"config_kwargs": {"num_labels": 2}}, "pass num_labels=, which must be the model's"),
        ({"prompts": {"query": "find: "}}, "prompts=.*: write the prompt into the query"),
        ({"default_prompt_name": "query"}, "default_prompt_name='query': prompts are not put before texts"),
        ({"backend": "openvino"}, "backend='openvino': .* run on onnxruntime"),
        ({"num_labels": 3}, "num_labels=3: the model has 1; a head is not made anew here"),
        ({"model_card_data": object()}, "model_card_data=.*: nothing here writes a model card"),
        ({"modules": [torch.nn.Identity()]}, "modules=.*: a model is loaded by its name or folder"),
        ({"keep_in_fp32_modules": ["classifier"]}, "pass precision='fp32' for all of the model"),
        ({"model_name": "a", "model_name_or_path": "b"}, "model_name is another name of name_or_folder: pass one"),
        ({"cache_dir": "a", "cache_folder": "b"}, "cache_dir is another name of cache_folder: pass one of them"),
        ({"device": "mps"}, "device='mps': 'cpu', .* the installed onnxruntime has cpu"),
    ],
)
def test_any_other_value_of_a_models_option_is_refused_with_our_counterpart(
    folders: dict[int, Path], options: dict[str, Any], message: str
) -> None:
    named = options if "model_name" in options else {"name_or_folder": folders[1]} | options
    with pytest.raises(InputError, match=message):
        CrossEncoder(**named)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "find: "}, "prompt='find: ': .* write the prompt into the query"),
        ({"prompt_name": "query"}, "prompt_name='query': "),
        ({"pool": {"processes": []}}, "pool=.*: threads share one model"),
        (
            {"device": "cuda"},
            r"device='cuda': a model runs where it was loaded: make one with CrossEncoder\(\.\.\., device",
        ),
        ({"device": ["cpu", "cpu"]}, r"device=\['cpu', 'cpu'\]: a model runs where it was loaded"),
    ],
)
def test_any_other_value_of_a_calls_option_is_refused_with_our_counterpart(
    model: CrossEncoder, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        model.predict(PAIRS, **options)
    with pytest.raises(InputError, match=message):
        model.rank(QUERY, DOCUMENTS, **options)
    with pytest.raises(InputError, match=message):
        asyncio.run(AsyncCrossEncoder(model).predict(PAIRS, **options))


def test_a_softmax_over_several_labels_is_not_asked_of_rank(folders: dict[int, Path]) -> None:
    model = CrossEncoder(folders[2], device="cpu", relevant_label=1)
    assert model.rank(QUERY, DOCUMENTS, apply_softmax=False) == model.rank(QUERY, DOCUMENTS)
    with pytest.raises(InputError, match="of a model with several labels rank gives the softmax by itself"):
        model.rank(QUERY, DOCUMENTS, apply_softmax=True, activation_fn="identity")


def test_an_unknown_option_is_a_type_error_that_names_the_class(model: CrossEncoder) -> None:
    calls: dict[str, Callable[[Any], Any]] = {
        "__init__": lambda misspelt: CrossEncoder(**misspelt),
        "predict": lambda misspelt: model.predict(PAIRS, **misspelt),
        "rank": lambda misspelt: model.rank(QUERY, DOCUMENTS, **misspelt),
        "score": lambda misspelt: model.score(QUERY, DOCUMENTS, **misspelt),
    }
    for name, call in calls.items():
        with pytest.raises(TypeError) as caught:
            call({"batchsize": 3})
        assert str(caught.value) == f"CrossEncoder.{name}() got an unexpected keyword argument 'batchsize'"


def test_every_option_that_type_checkers_see_has_its_rule() -> None:
    for options, rules in (
        (compatibility.ModelOptions, compatibility.MODEL),
        (compatibility.PredictOptions, compatibility.PREDICT),
        (compatibility.RankOptions, compatibility.RANK),
    ):
        assert set(typing.get_type_hints(options)) == set(rules)


def test_every_option_of_sentence_transformers_is_known_here() -> None:
    class_ = sentence_transformers.CrossEncoder
    for call, rules in (
        ("__init__", compatibility.MODEL),
        ("predict", compatibility.PREDICT),
        ("rank", compatibility.RANK),
    ):
        names = set(inspect.signature(getattr(class_, call)).parameters) - {"self", "kwargs"}
        ours = set(inspect.signature(getattr(CrossEncoder, call)).parameters)
        assert names <= ours | set(rules)


def test_a_models_other_names_are_its_own(folders: dict[int, Path], model: CrossEncoder, tmp_path: Path) -> None:
    expected = model.predict(PAIRS, activation_fn="identity")
    for alias in ("model_name_or_path", "model_name"):
        names: Any = {alias: str(folders[1]), "cache_dir": tmp_path, "default_activation_function": "identity"}
        np.testing.assert_array_equal(CrossEncoder(**names, device="cpu").predict(PAIRS), expected)
    missing: Any = {"model_name": None}
    with pytest.raises(InputError, match="the model's name is None"):  # and not the embedded model
        CrossEncoder(**missing)
    with pytest.raises(ModelNotFoundError):
        CrossEncoder(model_name=str(tmp_path / "absent.onnx"))


def test_numpys_whole_numbers_are_whole_numbers(folders: dict[int, Path], tmp_path: Path) -> None:
    forty, one = np.int64(40), np.int32(1)
    options: Any = {
        "max_length": forty,
        "threads": one,
        "relevant_label": np.int8(0),
        "max_queue_tokens": np.uint32(10**6),
    }
    model = CrossEncoder(folders[1], device="cpu", **options)
    plain = CrossEncoder(folders[1], device="cpu", max_length=40, threads=1)
    options = {
        "batch_size": np.int64(2),
        "top_k": np.int16(3),
        "max_windows": np.int64(2),
        "window_overlap": np.int64(1),
    }
    found = model.rank(QUERY, DOCUMENTS, deadline_ms=typing.cast(Any, np.float32(60_000)), **options)
    assert found == plain.rank(QUERY, DOCUMENTS, 3, batch_size=2, max_windows=2, window_overlap=1)
    depth: Any = np.int64(4)
    assert len(Cascade([(model, None), (plain, depth)]).rank(QUERY, DOCUMENTS)) == len(DOCUMENTS)
    exported = export_model(
        folders[1].parent / "checkpoint",
        tmp_path / "a",
        max_length=typing.cast(Any, forty),
        variants=["cpu"],
        precisions=["fp32"],
    )
    assert CrossEncoder(exported, device="cpu").max_length == 40


@pytest.mark.parametrize("wrong", [True, 2.0, "2", np.float64(2), np.True_, None], ids=repr)
def test_what_is_no_whole_number_is_refused(folders: dict[int, Path], model: CrossEncoder, wrong: Any) -> None:
    with pytest.raises(InputError, match="window_overlap="):
        model.rank(QUERY, DOCUMENTS, max_windows=2, window_overlap=wrong)
    if wrong is None:
        return
    for name in ("max_length", "threads", "max_queue_tokens", "relevant_label"):
        with pytest.raises(InputError, match=f"{name}="):
            CrossEncoder(folders[1], **{name: wrong})
    for name in ("batch_size", "max_windows", "top_k"):
        with pytest.raises(InputError, match=f"{name}="):
            model.rank(QUERY, [], **{name: wrong})


# --- attributes


@pytest.mark.parametrize("name", ["max_length", "max_seq_length"])
def test_an_assigned_length_holds_as_in_sentence_transformers(
    folders: dict[int, Path], model: CrossEncoder, name: str
) -> None:
    theirs = sentence_transformers.CrossEncoder(str(folders[1].parent / "checkpoint"), device="cpu")
    own = model.max_length
    for length in (32, 8, np.int64(16)):
        setattr(model, name, length)
        setattr(theirs, name, int(length))
        assert_close(model.predict([(QUERY, LONG)]), theirs.predict([(QUERY, LONG)]))
        assert_close(model.score(QUERY, [LONG]), theirs.predict([(QUERY, LONG)]))
        assert (model.max_length, model.max_seq_length, theirs.max_seq_length) == (length,) * 3
        assert (model.info().max_length, model.info().max_length_origin) == (length, "as asked")
    model.max_length = None
    assert model.max_length == own
    with pytest.raises(InputError, match="max_length=2: an integer of at least 4"):
        model.max_length = 2
    model.max_length = 10_000  # the model's own limit holds, as in the constructor; there it fails
    assert model.max_length == own
    assert model.score(QUERY, [LONG * 20]).shape == (1,)
    theirs.max_seq_length = 10_000
    with pytest.raises((IndexError, RuntimeError)):
        theirs.predict([(QUERY, LONG * 20)])
    assert model.info().max_length_origin == CrossEncoder(folders[1]).info().max_length_origin


@pytest.mark.parametrize("name", ["activation_fn", "default_activation_function"])
@pytest.mark.parametrize("activation", [torch.nn.Identity(), torch.nn.Tanh(), torch.nn.Softplus()], ids=str)
def test_an_assigned_activation_holds_as_in_sentence_transformers(
    folders: dict[int, Path], model: CrossEncoder, name: str, activation: Any
) -> None:
    theirs = sentence_transformers.CrossEncoder(str(folders[1].parent / "checkpoint"), device="cpu")
    before = model.activation_fn
    scores = model.predict(PAIRS)
    setattr(model, name, activation)
    theirs.activation_fn = activation
    assert model.activation_fn is getattr(model, name) is activation
    assert_close(model.predict(PAIRS), theirs.predict(list(PAIRS)))
    assert_close(model.score(QUERY, DOCUMENTS), theirs.predict([(QUERY, document) for document in DOCUMENTS]))
    assert model.info().activation_origin == "as asked"
    model.activation_fn = before  # the model's own again
    np.testing.assert_array_equal(model.predict(PAIRS), scores)
    assert model.info().activation_origin != "as asked"


def test_an_activation_that_cannot_be_assigned_leaves_the_one_before(model: CrossEncoder) -> None:
    scores = model.predict(PAIRS)
    wrong: Any
    for wrong, message in (
        ("softmax", "one label"),
        (3, "a function, or one of"),
        (None, "assign 'identity' for them"),
    ):
        with pytest.raises(InputError, match=message):
            model.activation_fn = wrong
    np.testing.assert_array_equal(model.predict(PAIRS), scores)


def test_a_call_under_way_keeps_the_length_and_the_activation_that_it_began_with(model: CrossEncoder) -> None:
    expected = model.rank(QUERY, DOCUMENTS)

    def documents() -> Any:
        yield from DOCUMENTS
        model.activation_fn = "identity"

    assert model.rank(QUERY, documents()) == expected
    assert model.rank(QUERY, DOCUMENTS) != expected


def test_a_relevance_model_gets_its_softmax_back(folders: dict[int, Path]) -> None:
    model = CrossEncoder(folders[2], device="cpu", relevant_label=1)
    own, scores = model.activation_fn, model.score(QUERY, DOCUMENTS)
    model.activation_fn = "identity"
    assert model.score(QUERY, DOCUMENTS).tolist() != scores.tolist()
    model.activation_fn = own
    np.testing.assert_array_equal(model.score(QUERY, DOCUMENTS), scores)


def test_what_sentence_transformers_lets_read_can_be_read(folders: dict[int, Path], theirs: Any) -> None:
    for labels in (1, 2):
        model = CrossEncoder(folders[labels], device="cpu")
        expected = sentence_transformers.CrossEncoder(str(folders[labels].parent / "checkpoint"), device="cpu")
        assert model.num_labels == expected.num_labels == model.config.num_labels == labels
        for name in ("id2label", "label2id", "model_type", "hidden_size", "vocab_size", "max_position_embeddings"):
            assert getattr(model.config, name) == getattr(expected.config, name)
        assert model.max_length == expected.max_seq_length
        assert str(model.device) == str(expected.device) == "cpu"
        assert model.device.type == expected.device.type
        assert model.device == expected.device
        assert expected.device == model.device
        assert model.device != torch.device("meta")
        assert torch.zeros(1).to(model.device).device == expected.device
        assert_close(
            model.activation_fn(np.ones((2, labels), np.float32)), expected.activation_fn(torch.ones(2, labels))
        )
        given = config_of(folders[labels]) | {"num_labels": labels, "id2label": None, "label2id": None}
        assert model.config.to_dict() | {"id2label": None, "label2id": None} == given


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("tokenizer", r"encode\(\) tokenizes documents ahead; .* tokenizer.json in info\(\).folder"),
        ("model", "there is no torch module here, an ONNX graph runs: use score, rank and predict"),
        ("to", "pass device= to CrossEncoder"),
        ("half", "pass precision= to CrossEncoder"),
        ("eval", "leave it out: a CrossEncoder only scores"),
        ("save_pretrained", r"copy info\(\).folder, or write it elsewhere with crossrank.export.export_model"),
        ("fit", "train with sentence-transformers"),
        ("evaluate", r"call the evaluator with the model: evaluator\(model\)"),
        ("start_multi_process_pool", "leave it out, and pool= too"),
    ],
)
def test_an_attribute_that_is_not_here_says_what_to_use(model: CrossEncoder, name: str, advice: str) -> None:
    assert not hasattr(model, name)
    assert getattr(model, name, None) is None
    with pytest.raises(AttributeError, match=f"'CrossEncoder' object has no attribute '{name}': {advice}"):
        getattr(model, name)
    with pytest.raises(AttributeError, match=f"'CrossEncoder' has no attribute '{name}' that could be .*: {advice}"):
        setattr(model, name, None)


def test_no_attribute_is_assigned_that_nobody_reads(model: CrossEncoder) -> None:
    for holder in (model, AsyncCrossEncoder(model), Cascade([(model, None)])):
        kind = type(holder).__name__
        with pytest.raises(AttributeError, match=f"'{kind}' has no attribute 'max_lenght' that could be assigned$"):
            setattr(holder, "max_lenght", 32)  # noqa: B010  (mypy knows that there is none)
    for name, advice in (("device", "pass device="), ("num_labels", "not made anew"), ("config", "nothing here is")):
        with pytest.raises(AttributeError, match=f"'{name}' of 'CrossEncoder' cannot be assigned: .*{advice}"):
            setattr(model, name, None)
    with pytest.raises(AttributeError, match="pad_token_id cannot be assigned: nothing here is computed by it"):
        setattr(model.config, "pad_token_id", 0)  # noqa: B010
    with pytest.raises(
        AttributeError, match=r"'max_length' that could be assigned: it is the CrossEncoder's, model\.max_"
    ):
        setattr(AsyncCrossEncoder(model), "max_length", 32)  # noqa: B010
    with pytest.raises(
        AttributeError, match=r"no attribute 'predict': it is the CrossEncoder's, stages\[i\]\[0\]\.predict"
    ):
        getattr(Cascade([(model, None)]), "predict")  # noqa: B009


def test_a_subclass_and_a_replaced_method_are_pythons(model: CrossEncoder, folders: dict[int, Path]) -> None:
    class Reranker(CrossEncoder):
        """One of a user's own."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.top_n = 2

    reranker = Reranker(folders[1], device="cpu")
    reranker.top_n = 3
    assert reranker.top_n == copy.deepcopy(reranker).top_n == 3
    model.predict = lambda *arguments, **options: "mocked"  # type: ignore[method-assign]
    assert model.predict(PAIRS) == "mocked"


def test_sentence_transformers_evaluators_write_their_figures(folders: dict[int, Path]) -> None:
    pairs = [list(pair) for pair in PAIRS[:12]]
    samples = [{"query": QUERY, "positive": DOCUMENTS[:2], "negative": DOCUMENTS[2:9]}]
    made: list[tuple[int, Callable[[], Any]]] = [
        (1, lambda: evaluation.CrossEncoderCorrelationEvaluator(pairs, [i / 12 for i in range(12)])),
        (1, lambda: evaluation.CrossEncoderClassificationEvaluator(pairs, [i % 2 for i in range(12)])),
        (2, lambda: evaluation.CrossEncoderClassificationEvaluator(pairs, [i % 2 for i in range(12)])),
        (1, lambda: evaluation.CrossEncoderRerankingEvaluator(samples)),
    ]
    for labels, make in made:
        model, evaluator = CrossEncoder(folders[labels], device="cpu"), make()
        expected = make()(sentence_transformers.CrossEncoder(str(folders[labels].parent / "checkpoint"), device="cpu"))
        found = evaluator(model)
        assert found.keys() == expected.keys()
        assert_close([float(value) for value in found.values()], [float(value) for value in expected.values()])
        written = model.model_card_data.eval_results_dict[evaluator]
        assert written
        assert all(found[name] == value for name, value in written.items() if name in found)


def test_options_after_the_texts_are_given_by_name(model: CrossEncoder, theirs: Any) -> None:
    """There by place too; but for two of `rank`, which people do give so."""
    ranking = model.rank(QUERY, DOCUMENTS, 3, True)
    expected = theirs.rank(QUERY, DOCUMENTS, 3, True)
    assert [(hit["corpus_id"], hit["text"]) for hit in ranking] == [(hit["corpus_id"], hit["text"]) for hit in expected]
    assert_close(model.predict(PAIRS, batch_size=32), theirs.predict(list(PAIRS), None, None, 32))
    untyped: list[tuple[Any, list[Any]]] = [
        (model.predict, [PAIRS, None, None, 32]),
        (model.rank, [QUERY, DOCUMENTS, 3, True, 32]),
        (CrossEncoder, [model.info().folder, 1]),
    ]
    for call, arguments in untyped:
        with pytest.raises(TypeError, match="positional argument"):
            call(*arguments)


# --- tables, columns and arrays, which pandas, Polars and Arrow hand to numpy by `__array__`


class Table:
    """As a DataFrame: numpy reads its rows, an iteration gives the names of its columns."""

    def __init__(self, columns: dict[str, list[str]]) -> None:
        self.columns = columns

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array(list(zip(*self.columns.values(), strict=True)), dtype or object).reshape(-1, len(self.columns))

    def __iter__(self) -> Any:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


class Column:
    """As an array of Arrow: numpy reads its texts, an iteration gives scalars that are none."""

    def __init__(self, texts: list[Any]) -> None:
        self.texts = texts

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        values = np.empty(len(self.texts), dtype or object)
        values[:] = self.texts
        return values

    def __iter__(self) -> Any:
        return iter([SimpleNamespace()] * len(self.texts))

    def __len__(self) -> int:
        return len(self.texts)


def _tables() -> dict[str, Callable[[dict[str, list[str]]], Any]]:
    makers: dict[str, Callable[[dict[str, list[str]]], Any]] = {"stand-in": Table}
    for package, make in (("pandas", "DataFrame"), ("polars", "DataFrame"), ("pyarrow", "table")):
        if _is_installed(package):
            makers[package] = getattr(__import__(package), make)
    return makers


def _columns() -> dict[str, Callable[[list[str]], Any]]:
    makers: dict[str, Callable[[list[str]], Any]] = {
        "stand-in": Column,
        "numpy text": np.array,
        "numpy objects": lambda texts: np.array(texts, dtype=object),
    }
    for package, make in (("pandas", "Series"), ("pandas", "Index"), ("polars", "Series"), ("pyarrow", "array")):
        if _is_installed(package):
            makers[f"{package} {make}"] = getattr(__import__(package), make)
    if _is_installed("pyarrow"):
        arrow = __import__("pyarrow")
        makers["pyarrow chunks"] = lambda texts: arrow.chunked_array([texts[:2], texts[2:]])
        makers["pyarrow dictionary"] = lambda texts: arrow.array(texts).dictionary_encode()
    return makers


def _is_installed(package: str) -> bool:
    """Whether it is there, or must be: `make test-frameworks` leaves none of them out."""
    wanted = bool(os.environ.get("CROSSRANK_TEST_FRAMEWORKS"))
    return wanted or __import__("importlib.util").util.find_spec(package) is not None


@pytest.mark.parametrize("table", _tables())
def test_a_table_of_two_columns_is_scored_row_by_row(model: CrossEncoder, table: str) -> None:
    make = _tables()[table]
    queries, documents = [query for query, _ in PAIRS], [document for _, document in PAIRS]
    np.testing.assert_array_equal(model.predict(make({"query": queries, "text": documents})), model.predict(PAIRS))
    for count in (1, 2):
        few = make({"query": queries[:count], "text": documents[:count]})
        np.testing.assert_array_equal(model.predict(few), model.predict(PAIRS[:count]))
    with pytest.raises(InputError, match=r"of shape \(2, 3\): two columns, of queries and of documents, are needed"):
        model.predict(make({"a": ["1", "2"], "b": ["3", "4"], "c": ["5", "6"]}))
    one = make({"text": documents})
    for call in (model.score, model.rank, Cascade([(model, None)]).rank):
        with pytest.raises(InputError, match=r"documents is a \w+ of shape .*: pass one column of it"):
            call(QUERY, one)
    with pytest.raises(InputError, match=r"documents is a \w+ of shape .*: pass one column of it"):
        model.encode(one)


@pytest.mark.parametrize("column", _columns())
def test_a_column_of_texts_counts_by_its_values(model: CrossEncoder, column: str) -> None:
    documents = _columns()[column](DOCUMENTS)
    expected = model.rank(QUERY, DOCUMENTS, return_documents=True)
    assert model.rank(QUERY, documents, return_documents=True) == expected
    assert all(type(hit["text"]) is str for hit in model.rank(QUERY, documents, return_documents=True))
    np.testing.assert_array_equal(model.score(QUERY, documents), model.score(QUERY, DOCUMENTS))
    np.testing.assert_array_equal(model.score(QUERY, model.encode(documents)), model.score(QUERY, DOCUMENTS))
    cascade = Cascade([(model, None), (model, 2)])
    assert cascade.rank(QUERY, documents) == cascade.rank(QUERY, DOCUMENTS)


def test_a_column_of_pairs_and_rows_of_a_column_count_by_their_values(model: CrossEncoder) -> None:
    expected = model.predict(PAIRS)
    np.testing.assert_array_equal(model.predict(typing.cast(Any, Column(list(PAIRS)))), expected)
    np.testing.assert_array_equal(model.predict([Column(list(pair)) for pair in PAIRS]), expected)
    assert model.predict(typing.cast(Any, Column(list(PAIRS[0])))) == model.predict(PAIRS[0])


def test_what_holds_columns_and_gives_no_values_is_refused_by_name(model: CrossEncoder) -> None:
    class OnAGpu(Table):
        """As a DataFrame of cuDF."""

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            raise TypeError("implicit conversion is not allowed")

    class Lazy:
        """As a DataFrame of Spark."""

        columns = ("query", "text")

        def __iter__(self) -> Any:
            return iter(self.columns)

        def __len__(self) -> int:
            return 2

    wrong: Any
    for wrong, message in ((OnAGpu({"a": ["b"], "c": ["d"]}), "OnAGpu .implicit conv"), (Lazy(), "a Lazy has columns")):
        for call in (lambda value: model.predict(value), lambda value: model.rank(QUERY, value)):
            with pytest.raises(InputError, match=f"{message}.*: pass a list"):
                call(wrong)


# --- pickles and copies


def _square(logits: Any) -> Any:
    return logits**2


def test_a_pickle_is_loaded_again_with_its_options(folders: dict[int, Path]) -> None:
    model = CrossEncoder(folders[2], device="cpu", threads=1, relevant_label=1, max_queue_tokens=1000, max_length=40)
    model.max_length, model.activation_fn = 20, _square
    other = pickle.loads(pickle.dumps(model))
    assert other is not model
    assert (other.max_length, other.activation_fn, str(other.info())) == (20, _square, str(model.info()))
    np.testing.assert_array_equal(other.score(QUERY, DOCUMENTS), model.score(QUERY, DOCUMENTS))
    other.close()
    assert len(model.score(QUERY, ["a"])) == 1


def test_a_pickle_names_its_folder_from_everywhere(
    folders: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders[1].parent)
    data = pickle.dumps(CrossEncoder("artifact", cache_folder="cache"))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(data).info().folder == folders[1].resolve()
    embedded = pickle.dumps(CrossEncoder())
    assert b"/" not in embedded  # wherever crossrank is installed there
    assert pickle.loads(embedded).info().source == "crossrank-mini-en"


def test_a_pickle_holds_no_secret(folders: dict[int, Path]) -> None:
    data = pickle.dumps(CrossEncoder(folders[1], token="hf_a_secret"))
    assert b"hf_a_secret" not in data
    assert pickle.loads(data).num_labels == 1


class Reranker(CrossEncoder):
    """One of a user's own, whose options are not ours."""

    __slots__ = ("slot",)

    def __init__(self, folder: Path, top_n: int, *, log: str = "") -> None:
        self.log = log
        super().__init__(folder, device="cpu", threads=1, max_length=30)
        self.top_n, self.slot = top_n, "slot"

    def best(self) -> list[int]:
        return [hit["corpus_id"] for hit in self.rank(QUERY, DOCUMENTS)[: self.top_n]]


class AsyncReranker(AsyncCrossEncoder):
    """One that drives it."""

    def __init__(self, top_n: int, folder: Path) -> None:
        super().__init__(CrossEncoder(folder, device="cpu"))
        self.top_n = top_n


class Stages(Cascade):
    """One of a model."""

    def __init__(self, top_n: int, folder: Path) -> None:
        super().__init__([(folder, None)])
        self.top_n = top_n


def test_a_pickle_of_a_subclass_holds_its_own_attributes(folders: dict[int, Path]) -> None:
    model = Reranker(folders[1], 2, log="name")
    model.top_n, model.max_length = 3, 20
    other = pickle.loads(pickle.dumps(model))
    assert type(other) is Reranker
    assert (other.top_n, other.log, other.slot, other.max_length) == (3, "name", "slot", 20)
    assert other.best() == model.best()
    assert (copy.copy(model).slot, copy.deepcopy(model).top_n) == ("slot", 3)
    for driver in (AsyncReranker(4, folders[1]), Stages(4, folders[1])):
        for again in (pickle.loads(pickle.dumps(driver)), copy.deepcopy(driver)):
            assert (type(again), again.top_n) == (type(driver), 4)


def test_bound_methods_go_to_other_processes(model: CrossEncoder) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        np.testing.assert_array_equal(
            pool.submit(model.score, QUERY, DOCUMENTS).result(), model.score(QUERY, DOCUMENTS)
        )


def test_a_cascade_and_an_asynchronous_model_go_by_their_models(model: CrossEncoder) -> None:
    cascade = pickle.loads(pickle.dumps(Cascade([(model, None), (model, 3)])))
    assert cascade.stages[0][0] is cascade.stages[1][0]
    assert cascade.rank(QUERY, DOCUMENTS) == Cascade([(model, None), (model, 3)]).rank(QUERY, DOCUMENTS)
    for other in (pickle.loads(pickle.dumps(AsyncCrossEncoder(model))), copy.deepcopy(AsyncCrossEncoder(model))):
        np.testing.assert_array_equal(asyncio.run(other.score(QUERY, DOCUMENTS)), model.score(QUERY, DOCUMENTS))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_the_same_model_with_a_length_and_an_activation_of_its_own(
    model: CrossEncoder, copied: Callable[[CrossEncoder], CrossEncoder]
) -> None:
    scores, twin = model.score(QUERY, DOCUMENTS), copied(model)
    np.testing.assert_array_equal(twin.score(QUERY, DOCUMENTS), scores)
    assert model.stats().requests == twin.stats().requests == 2
    twin.max_length, twin.activation_fn = 8, "identity"
    assert twin.score(QUERY, DOCUMENTS).tolist() != scores.tolist()
    np.testing.assert_array_equal(model.score(QUERY, DOCUMENTS), scores)
    twin.close()
    with pytest.raises(RuntimeError, match="the model is closed"):
        model.score(QUERY, DOCUMENTS)
