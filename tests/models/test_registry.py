"""The registry of published models: what it finds by name, promises, and says of mistakes."""

import dataclasses
import subprocess
import sys

import pytest

import crossrank.models
from crossrank.models import RegisteredModel, find_model, load_registry, nearest_names
from crossrank.models._registry import parse_registry

AMBEROAD = "amberoad/bert-multilingual-passage-reranking-msmarco"
# The nine of sentence-transformers' old table: what people type -> today's hub id.
OLD_NAMES = {
    "sentence-transformers/ce-ms-marco-TinyBERT-L-2": "cross-encoder/ms-marco-TinyBERT-L2",
    "sentence-transformers/ce-ms-marco-TinyBERT-L-4": "cross-encoder/ms-marco-TinyBERT-L4",
    "sentence-transformers/ce-ms-marco-TinyBERT-L-6": "cross-encoder/ms-marco-TinyBERT-L6",
    "sentence-transformers/ce-ms-marco-electra-base": "cross-encoder/ms-marco-electra-base",
    "nboost/pt-tinybert-msmarco": "nboost/pt-tinybert-msmarco",
    "nboost/pt-bert-base-uncased-msmarco": "nboost/pt-bert-base-uncased-msmarco",
    "nboost/pt-bert-large-msmarco": "nboost/pt-bert-large-msmarco",
    "Capreolus/electra-base-msmarco": "Capreolus/electra-base-msmarco",
    AMBEROAD: AMBEROAD,
}

MODELS = load_registry()
each_model = pytest.mark.parametrize("model", MODELS, ids=[model.id for model in MODELS])

GOOD = """
[[model]]
id = "someone/ranker"
names = ["ranker"]
architecture = "bert"
layers = 2
hidden = 128
heads = 2
intermediate = 512
vocabulary = 30522
labels = 1
activation = "Sigmoid"
max_length = 512
licence = "MIT"
checked = ["everything: made up"]
"""


def found(name: str) -> RegisteredModel:
    model = find_model(name)
    assert model is not None, f"{name} is not found"
    return model


def problems_of(text: str) -> list[str]:
    with pytest.raises(ValueError, match="the model registry is not right") as caught:
        parse_registry(text)
    return str(caught.value).splitlines()[1:]


@pytest.mark.parametrize(("old_name", "hub_id"), OLD_NAMES.items())
def test_the_nine_are_found_by_old_short_and_new_name(old_name: str, hub_id: str) -> None:
    new = found(hub_id)
    assert new.id == hub_id
    assert found(old_name) is new
    assert found(old_name.split("/")[1]) is new
    assert found(hub_id.split("/")[1]) is new


@pytest.mark.parametrize("size", ["TinyBERT-L2", "MiniLM-L2", "MiniLM-L4", "MiniLM-L6", "MiniLM-L12"])
def test_v2_models_are_found_with_and_without_the_dash(size: str) -> None:
    today = f"cross-encoder/ms-marco-{size}-v2"
    dashed = today.replace("-L", "-L-")
    assert found(today).id == today
    assert found(dashed) is found(dashed.split("/")[1]) is found(today)


def test_case_does_not_matter_and_the_whole_name_does() -> None:
    assert found("baai/BGE-reranker-BASE").id == "BAAI/bge-reranker-base"
    assert find_model("bge-reranker") is None
    assert find_model("") is None


def test_no_name_belongs_to_two_models() -> None:
    names = [name.lower() for model in MODELS for name in (model.id, *model.names)]
    assert len(names) == len(set(names))


@each_model
def test_every_name_leads_to_its_model(model: RegisteredModel) -> None:
    for name in (model.id, *model.names):
        assert found(name) is model


def test_first_generation_is_sigmoid_and_v2_identity() -> None:
    family = [model for model in MODELS if model.id.startswith("cross-encoder/ms-marco-")]
    assert len(family) == 9
    for model in family:
        assert model.activation == ("Identity" if model.id.endswith("-v2") else "Sigmoid"), model.id


def test_bge_and_mxbai_are_sigmoid() -> None:
    family = [model for model in MODELS if model.id.startswith(("BAAI/", "mixedbread-ai/"))]
    assert len(family) == 6
    assert {model.activation for model in family} == {"Sigmoid"}


def test_exactly_the_five_two_label_models_say_which_label_is_relevant() -> None:
    two_labels = {model.id: model.relevant_label for model in MODELS if model.labels == 2}
    assert two_labels == dict.fromkeys(list(OLD_NAMES.values())[4:], 1)
    assert all(model.relevant_label is None for model in MODELS if model.labels != 2)


@each_model
def test_every_known_field_names_its_source(model: RegisteredModel) -> None:
    sourced = {key for line in model.checked for key in line.split(": ", 1)[0].split(", ")}
    known = {key for key, value in dataclasses.asdict(model).items() if value is not None}
    assert known - sourced <= {"checked", "note"}
    assert sourced <= known


@each_model
def test_sizes_fit_together(model: RegisteredModel) -> None:
    assert model.hidden % model.heads == 0
    assert model.intermediate > model.hidden
    known = {"bert", "electra", "roberta", "xlm-roberta", "distilbert", "deberta-v2", "modernbert", "new"}
    assert model.architecture in known


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("ms-marco-TinyBert-L2-v3", "ms-marco-TinyBERT-L2-v2"),
        ("cross-encoder/ms-macro-MiniLM-L-6-v2", "cross-encoder/ms-marco-MiniLM-L-6-v2"),
        ("BAAI/bge-rerank-large", "BAAI/bge-reranker-large"),
        ("mxbai-rerank-small-v1", "mxbai-rerank-xsmall-v1"),
    ],
)
def test_a_mistyped_name_gets_the_meant_one_first(typed: str, meant: str) -> None:
    assert nearest_names(typed)[0] == meant


def test_suggestions_are_of_different_models_and_no_more_than_asked_for() -> None:
    suggestions = nearest_names("ms-marco-MiniLM-L-v2", count=4)
    assert len(suggestions) == 4
    assert len({found(name).id for name in suggestions}) == 4
    assert nearest_names("ms-marco-MiniLM-L-v2", count=1) == suggestions[:1]


def test_nothing_alike_gives_no_suggestion() -> None:
    assert nearest_names("zzzzzzzz") == []


def test_a_count_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="count = 0"):
        nearest_names("bge", count=0)


def test_a_good_text_gives_its_entries_and_none_for_what_is_left_out() -> None:
    (model,) = parse_registry(GOOD)
    assert (model.id, model.names, model.hidden) == ("someone/ranker", ("ranker",), 128)
    left_out = (model.revision, model.relevant_label, model.docs_per_sec_v100, model.note)
    assert left_out == (None, None, None, None)


def test_all_problems_of_a_text_are_reported_at_once() -> None:
    broken = (
        GOOD.replace("layers = 2", "layer = 2")
        .replace("hidden = 128", 'hidden = "128"')
        .replace("heads = 2", "heads = true")
        .replace('"Sigmoid"', '"Softmax"')
        .replace('names = ["ranker"]', 'names = "ranker"')
        .replace("labels = 1", 'labels = 2\nrevision = "main"')
    )
    where = "- model 2 (someone/ranker):"
    assert problems_of(f"version = 1\n{GOOD}{broken}") == [
        "- version is not a known key, only [[model]] tables are",
        f"{where} layer is not a known key, did you mean layers?",
        f"{where} names = 'ranker', must be a list of one or more non-empty strings",
        f"{where} layers is missing, must be a whole number from 1 up",
        f"{where} hidden = '128', must be a whole number from 1 up",
        f"{where} heads = True, must be a whole number from 1 up",
        f"{where} activation = 'Softmax', must be Sigmoid or Identity",
        f"{where} revision = 'main', must be 40 lower-case hexadecimal digits (leave it out where it is not known)",
        f"{where} relevant_label is missing, must be 0 or 1 where labels = 2",
        "- the name someone/ranker stands 2 times, must stand once",
    ]


def test_a_name_that_differs_from_anothers_only_in_case_is_reported() -> None:
    other = GOOD.replace("someone/ranker", "other/ranker").replace('["ranker"]', '["Ranker"]')
    assert problems_of(GOOD + other) == ["- the name ranker stands 2 times, must stand once"]


@pytest.mark.parametrize("text", ["", "model = 1", "model = []", "model = [1]"])
def test_a_text_without_model_tables_is_reported(text: str) -> None:
    assert problems_of(text) == ["- there must be one or more [[model]] tables"]


def test_a_text_that_is_not_toml_is_a_value_error_with_its_line() -> None:
    with pytest.raises(ValueError, match="line 1"):
        parse_registry("id: someone/ranker")


def test_the_public_surface() -> None:
    public = ["RegisteredModel", "find_model", "load_registry", "nearest_names"]
    assert crossrank.models.__all__ == public


def test_reading_the_registry_loads_no_exporter_and_nothing_heavier() -> None:
    code = "import sys, crossrank.models as m; m.load_registry(); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    heavy = {"crossrank.export", "huggingface_hub", "onnx", "torch", "transformers"}
    assert not heavy & set(run.stdout.split())
