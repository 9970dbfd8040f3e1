"""ONNX folders that others wrote score as the model they were made of, and what cannot be used is refused by name."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import transformers
from numpy.typing import NDArray
from onnxruntime.quantization import quantize_dynamic

from crossrank import (
    ArtifactError,
    CheckpointError,
    CrossEncoder,
    CrossrankError,
    InputError,
    ModelError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from crossrank.export import export_model
from tests.support.artifacts import edit_manifest
from tests.support.checkpoint_files import change_config, files_of
from tests.support.foreign_graphs import (
    declare_int32,
    edit_graph,
    fix_dimensions,
    foreign_folder,
    one_dimension,
    put_weights_outside,
    rename_output,
    squeezed,
    strip_artifact,
    trace,
)
from tests.support.tiny_models import MAX_LENGTH, PAIRS, config_of, make_checkpoint, transformers_logits, write_json

# Two float32 graphs of the same weights at logits of standard deviation 1.5: 4e-6 was seen.
ATOL = 2e-5
MODEL = Path("onnx", "model.onnx")


def logits_of(model: Path, **options: Any) -> NDArray[np.float32]:
    encoder = CrossEncoder(model, device="cpu", **options)
    scores: NDArray[np.float32] = encoder.predict(list(PAIRS), activation_fn="identity")
    return scores.reshape(len(PAIRS), -1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny-bert", "bert")


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> NDArray[np.float32]:
    return transformers_logits(checkpoint, PAIRS)


@pytest.fixture(scope="module")
def artifact(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(
        checkpoint, tmp_path_factory.mktemp("artifact") / "tiny-bert", variants=["cpu", "portable"], precisions=["fp32"]
    )


@pytest.fixture
def folder(artifact: Path, tmp_path: Path) -> Path:
    """The portable graph and the model's settings, without what is crossrank's own; to change."""
    return strip_artifact(artifact, tmp_path / "foreign")


def refused(model: Path, error: type[CrossrankError], **options: Any) -> str:
    with pytest.raises(error) as caught:
        CrossEncoder(model, device="cpu", **options)
    return str(caught.value)


SETTINGS = [
    *("config.json", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
]

# Scores.


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta"])  # with and without token types; with offset
def test_a_folder_without_a_manifest_scores_as_transformers(tmp_path: Path, architecture: str, labels: int) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", architecture, labels=labels)
    folder = foreign_folder(checkpoint, tmp_path / "foreign")
    np.testing.assert_allclose(logits_of(folder), transformers_logits(checkpoint, PAIRS), atol=ATOL)


def test_a_tokenizer_without_segments_gives_zeros_to_a_graph_that_wants_them(
    checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    """As transformers does it where model_input_names leaves token_type_ids out."""
    reference = Path(shutil.copytree(checkpoint, tmp_path / "reference"))
    for place in (reference, folder):
        path = place / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        write_json(path, settings | {"model_input_names": ["input_ids", "attention_mask"]})
    np.testing.assert_allclose(logits_of(folder), transformers_logits(reference, PAIRS), atol=ATOL)


def test_a_named_file_keeps_the_settings_above_a_modules_json(folder: Path, tmp_path: Path) -> None:
    inner = tmp_path / "root" / "0_Transformer"
    shutil.copytree(folder, inner)
    kind = "sentence_transformers.models.Transformer"
    write_json(tmp_path / "root" / "modules.json", [{"type": kind, "path": "0_Transformer"}])
    write_json(inner / "sentence_bert_config.json", {"transformer_task": "sequence-classification"})
    activation = {"activation_fn": "torch.nn.modules.linear.Identity"}
    write_json(tmp_path / "root" / "config_sentence_transformers.json", activation)
    whole, named = (CrossEncoder(place, device="cpu") for place in (tmp_path / "root", inner / MODEL))
    assert whole.info().activation == named.info().activation == "Identity"
    np.testing.assert_array_equal(whole.predict(PAIRS), named.predict(PAIRS))


@pytest.mark.parametrize(
    ("architecture", "inputs"),
    [("bert", ["input_ids", "attention_mask", "token_type_ids"]), ("distilbert", ["input_ids", "attention_mask"])],
)
def test_a_graph_that_torch_traced_scores_as_transformers(tmp_path: Path, architecture: str, inputs: list[str]) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", architecture, labels=2)
    expected = transformers_logits(checkpoint, PAIRS)
    trace(checkpoint, checkpoint / "model.onnx", inputs)
    (checkpoint / "model.safetensors").unlink()
    np.testing.assert_allclose(logits_of(checkpoint), expected, atol=ATOL)


def test_a_quantized_graph_scores_as_plain_onnxruntime_does(folder: Path) -> None:
    quantize_dynamic(folder / MODEL, folder / "onnx" / "model_quantized.onnx")
    model = CrossEncoder(folder, device="cpu", precision="int8")
    assert (model.info().precision, model.info().file) == ("int8", "onnx/model_quantized.onnx")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    session = onnxruntime.InferenceSession(folder / "onnx" / "model_quantized.onnx")
    for query, document in PAIRS:  # alone: its scales depend on the batch
        batch = tokenizer([query], [document], truncation="longest_first", max_length=MAX_LENGTH, return_tensors="np")
        (logits,) = session.run(["logits"], dict(batch))
        ours = model.predict([(query, document)], activation_fn="identity")
        # The same integers in both; only sums of floats may be ordered otherwise.
        np.testing.assert_allclose(ours, logits[:, 0], atol=1e-4)


def test_scores_of_a_graph_that_was_quantized_elsewhere_depend_on_the_batch(folder: Path) -> None:
    """As docs/migrating.md says; those of an artifact do not (tests/engine/calls/test_properties.py)."""
    quantize_dynamic(folder / MODEL, folder / "onnx" / "model_quantized.onnx")
    session = onnxruntime.InferenceSession(folder / "onnx" / "model_quantized.onnx")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def logits(pairs: list[tuple[str, str]]) -> Any:
        return session.run(["logits"], dict(tokenizer(pairs, padding=True, return_tensors="np")))[0]

    pairs = [("the sea", "the sea is calm"), ("a knife", "bread is cut with a knife")]
    assert abs(logits(pairs)[0] - logits(pairs[:1])[0]).max() > 1e-4


def test_a_graph_in_fp16_scores_within_its_rounding(
    checkpoint: Path, tmp_path: Path, expected: NDArray[np.float32]
) -> None:
    folder = foreign_folder(checkpoint, tmp_path / "foreign", precisions=["fp16"])
    assert CrossEncoder(folder, device="cpu").info().file == "onnx/model_fp16.onnx"  # nothing else is there
    np.testing.assert_allclose(logits_of(folder), expected, atol=0.02)  # the exporter's own bound


def test_inputs_of_32_bits_are_given_as_such(folder: Path, expected: NDArray[np.float32]) -> None:
    edit_graph(folder / MODEL, declare_int32)
    np.testing.assert_allclose(logits_of(folder), expected, atol=ATOL)


def test_a_single_output_holds_the_logits_whatever_its_name(folder: Path, expected: NDArray[np.float32]) -> None:
    edit_graph(folder / MODEL, lambda graph: rename_output(graph, "scores"))
    np.testing.assert_allclose(logits_of(folder), expected, atol=ATOL)


@pytest.mark.parametrize("change", [one_dimension, squeezed])
def test_logits_without_a_dimension_for_labels_are_those_of_one(
    folder: Path, expected: NDArray[np.float32], change: Callable[[onnx.GraphProto], object]
) -> None:
    edit_graph(folder / MODEL, change)
    model = CrossEncoder(folder, device="cpu")
    assert model.info().labels == 1
    np.testing.assert_allclose(logits_of(folder), expected, atol=ATOL)
    for pair, logits in zip(PAIRS[:3], expected, strict=False):
        np.testing.assert_allclose(model.predict([pair], activation_fn="identity"), logits, atol=ATOL)


def test_two_labels_of_one_pair_are_no_two_pairs(tmp_path: Path) -> None:
    """A graph that leaves out whatever dimension is 1."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "bert", labels=2)
    folder = foreign_folder(checkpoint, tmp_path / "foreign")
    edit_graph(folder / MODEL, squeezed)
    expected = transformers_logits(checkpoint, PAIRS)
    np.testing.assert_allclose(logits_of(folder), expected, atol=ATOL)
    one = CrossEncoder(folder, device="cpu").predict([PAIRS[0]], activation_fn="identity")
    np.testing.assert_allclose(one, expected[:1], atol=ATOL)


def test_one_dimension_beside_two_labels_in_config_is_refused(tmp_path: Path) -> None:
    folder = foreign_folder(make_checkpoint(tmp_path / "checkpoint", "bert"), tmp_path / "foreign")
    edit_graph(folder / MODEL, one_dimension)
    change_config(folder, id2label={"0": "no", "1": "yes"})
    assert "gives 1 labels" in refused(folder, ArtifactError)


@pytest.mark.parametrize("declared", [True, False])
def test_labels_that_config_does_not_give_are_the_graphs(tmp_path: Path, declared: bool) -> None:
    # transformers writes no id2label for two labels, its default.
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "bert", labels=2)
    folder = foreign_folder(checkpoint, tmp_path / "foreign")
    config = {key: value for key, value in config_of(folder).items() if key not in ("id2label", "label2id")}
    write_json(folder / "config.json", config)
    if not declared:
        edit_graph(folder / MODEL, lambda graph: graph.output[0].type.tensor_type.ClearField("shape"))
    assert CrossEncoder(folder).info().labels == 2
    np.testing.assert_allclose(logits_of(folder), transformers_logits(checkpoint, PAIRS), atol=ATOL)


def test_settings_are_read_as_of_a_checkpoint(folder: Path) -> None:
    change_config(folder, sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"})
    settings = {"tokenizer_class": "BertTokenizer", "model_max_length": 20}
    write_json(folder / "tokenizer_config.json", settings)
    info = CrossEncoder(folder).info()
    assert (info.activation, info.max_length) == ("Identity", 20)
    assert info.max_length_origin == "tokenizer_config.json model_max_length"


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ({"max_len": 20}, 20),
        ({"max_len": 20, "model_max_length": 30}, 30),
        ({"max_len": 20, "model_max_length": None}, 64),
    ],
)
def test_the_older_name_of_a_length_counts_as_in_transformers(
    folder: Path, lengths: dict[str, int | None], expected: int
) -> None:
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", **lengths})
    positions = config_of(folder)["max_position_embeddings"]
    theirs = transformers.AutoTokenizer.from_pretrained(folder).model_max_length
    info = CrossEncoder(folder).info()
    assert info.max_length == min(theirs, positions) == min(expected, positions)
    if expected == 20:
        assert info.max_length_origin == "tokenizer_config.json max_len"


def test_a_model_in_a_subfolder_is_found_by_modules_json(
    folder: Path, tmp_path: Path, expected: NDArray[np.float32]
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    folder.rename(root / "0_Transformer")
    kind = "sentence_transformers.models.Transformer"
    write_json(root / "modules.json", [{"idx": 0, "name": "0", "path": "0_Transformer", "type": kind}])
    task = {"transformer_task": "sequence-classification"}
    write_json(root / "0_Transformer" / "sentence_bert_config.json", task)
    np.testing.assert_allclose(logits_of(root), expected, atol=ATOL)
    assert CrossEncoder(root).info().file == "0_Transformer/onnx/model.onnx"


# Which graph.


def add_files(folder: Path, *names: str) -> None:
    content = (folder / MODEL).read_bytes()
    (folder / MODEL).unlink()
    for name in names:
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("names", "precision", "chosen"),
    [
        (["onnx/model.onnx", "onnx/model_O1.onnx", "onnx/model_fp16.onnx"], "auto", "onnx/model.onnx"),
        (["onnx/model_O3.onnx", "onnx/model_O2.onnx", "onnx/model_qint8_avx2.onnx"], "auto", "onnx/model_O2.onnx"),
        (["model.onnx", "onnx/model.onnx"], "auto", "model.onnx"),
        (["onnx/model.onnx", "model_O1.onnx"], "fp32", "onnx/model.onnx"),
        (["onnx/model_O4.onnx", "onnx/model_fp16.onnx"], "fp16", "onnx/model_fp16.onnx"),
        (["onnx/model_O4.onnx"], "auto", "onnx/model_O4.onnx"),
        (["onnx/model_q4.onnx", "onnx/model_quint8_avx2.onnx"], "auto", "onnx/model_quint8_avx2.onnx"),
        (
            ["onnx/model_quint8_avx2.onnx", "onnx/model_qint8_avx512_vnni.onnx", "onnx/model.onnx"],
            "int8",
            "onnx/model_qint8_avx512_vnni.onnx",
        ),
    ],
)
def test_a_file_is_chosen_by_the_precision_in_its_name(
    folder: Path, names: list[str], precision: Any, chosen: str
) -> None:
    add_files(folder, *names)
    info = CrossEncoder(folder, device="cpu", precision=precision).info()
    assert info.file == chosen
    assert f"{info.precision}, {chosen} (foreign)" in str(info)


def test_a_precision_that_no_file_is_named_for_is_refused(folder: Path) -> None:
    assert "portable fp32" in refused(folder, ArtifactError, precision="int8")


def test_other_precisions_are_taken_only_when_the_file_is_named(folder: Path, expected: NDArray[np.float32]) -> None:
    add_files(folder, "onnx/model_q4.onnx", "onnx/model_bnb4.onnx", "reranker.onnx")
    message = refused(folder, CheckpointError)
    for name in ("onnx/model_q4.onnx", "onnx/model_bnb4.onnx", "reranker.onnx"):
        assert name in message
    assert "name the file itself" in message
    for name, precision in (("onnx/model_q4.onnx", "q4"), ("reranker.onnx", "unknown")):
        info = CrossEncoder(folder / name).info()
        assert (info.precision, info.file) == (precision, name)
        np.testing.assert_allclose(logits_of(folder / name), expected, atol=ATOL)


@pytest.mark.parametrize(
    ("name", "precision"),
    [("reranker.onnx", "unknown"), ("onnx/model_q4.onnx", "q4"), ("onnx/bge-reranker-base-int8.onnx", "unknown")],
)
def test_a_file_that_is_alone_is_taken_whatever_its_name(
    folder: Path, name: str, precision: str, expected: NDArray[np.float32]
) -> None:
    add_files(folder, name)
    info = CrossEncoder(folder, device="cpu").info()
    assert (info.file, info.precision) == (name, precision)
    np.testing.assert_allclose(logits_of(folder), expected, atol=ATOL)
    message = refused(folder, InputError, precision="fp32")
    assert f"precision='fp32': {name} is {precision} by its name; leave the precision away" in message


def test_a_file_that_is_named_is_taken_as_it_is(folder: Path) -> None:
    shutil.copyfile(folder / MODEL, folder / "onnx" / "model_O3.onnx")
    assert CrossEncoder(folder / "onnx" / "model_O3.onnx").info().file == "onnx/model_O3.onnx"
    message = refused(folder / "onnx" / "model_O3.onnx", InputError, precision="int8")
    assert "onnx/model_O3.onnx is fp32 by its name" in message


def test_weights_lead_to_the_exporter_unless_a_file_is_named(
    checkpoint: Path, folder: Path, expected: NDArray[np.float32]
) -> None:
    shutil.copyfile(checkpoint / "model.safetensors", folder / "model.safetensors")
    assert CrossEncoder(folder).info().exporter == "native"
    assert CrossEncoder(folder / MODEL).info().exporter == "foreign"
    np.testing.assert_allclose(logits_of(folder / MODEL), expected, atol=ATOL)


@pytest.mark.parametrize("file", ["onnx/model.onnx", "onnx/model_cpu_fp32.onnx"])
def test_a_graph_of_an_artifact_keeps_its_proof_when_its_file_is_named(
    artifact: Path, file: str, expected: NDArray[np.float32]
) -> None:
    info = CrossEncoder(artifact / file, device="cpu").info()
    assert (info.file, info.exporter, info.folder) == (file, "native", artifact)
    assert info.parity is not None
    np.testing.assert_allclose(logits_of(artifact / file), expected, atol=ATOL)


def test_a_manifest_says_what_exported_it(artifact: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(artifact, tmp_path / "copy")
    edit_manifest(copy, lambda manifest: manifest.pop("exporter"))  # as before there was another
    assert CrossEncoder(copy).info().exporter == "native"
    edit_manifest(copy, lambda manifest: manifest.update(exporter="foreign"))
    assert "exporter is 'foreign'; known are native, optimum" in refused(copy, ArtifactError)


def test_info_says_that_nobody_proved_it(folder: Path) -> None:
    info = CrossEncoder(folder).info()
    assert (info.exporter, info.parity, info.source) == ("foreign", None, "foreign")
    assert "not proven by crossrank" in str(info)


def test_nothing_is_written(folder: Path) -> None:
    before = files_of(folder.parent)
    CrossEncoder(folder).rank("sky", ["red", "blue"])
    assert files_of(folder.parent) == before


def test_a_relative_path_holds_when_the_process_moves(
    folder: Path, monkeypatch: pytest.MonkeyPatch, expected: NDArray[np.float32]
) -> None:
    monkeypatch.chdir(folder / "onnx")
    model = CrossEncoder("model.onnx", device="cpu")
    assert model.info().folder == folder


def test_a_lean_process_loads_nothing_heavy(folder: Path) -> None:
    code = (
        "import sys; from crossrank import CrossEncoder\n"
        "CrossEncoder(sys.argv[1]).rank('query', ['one', 'two'])\n"
        "print([name for name in ('torch', 'transformers', 'onnx', 'crossrank.export') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


# Inputs and outputs that cannot be used.


def three_dimensions(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.shape.dim.add().dim_param = "choices"


def without_mask(graph: onnx.GraphProto) -> None:
    """A graph that takes every id for a token."""
    graph.input.remove(next(value for value in graph.input if value.name == "attention_mask"))
    shape = onnx.helper.make_node("Shape", ["input_ids"], ["shape_of_ids"])
    one = onnx.helper.make_tensor("one", onnx.TensorProto.INT64, [1], [1])
    ones = onnx.helper.make_node("ConstantOfShape", ["shape_of_ids"], ["attention_mask"], value=one)
    graph.node.insert(0, ones)
    graph.node.insert(0, shape)


def float_mask(graph: onnx.GraphProto) -> None:
    mask = next(value for value in graph.input if value.name == "attention_mask")
    mask.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    cast = onnx.helper.make_node("Cast", [mask.name], ["mask_64"], to=onnx.TensorProto.INT64)
    for node in graph.node:
        node.input[:] = ["mask_64" if name == mask.name else name for name in node.input]
    graph.node.insert(0, cast)


def position_ids(graph: onnx.GraphProto) -> None:
    value = onnx.helper.make_tensor_value_info("position_ids", onnx.TensorProto.INT64, ["batch", "tokens"])
    graph.input.append(value)


def two_outputs(graph: onnx.GraphProto) -> None:
    rename_output(graph, "scores")
    graph.output.append(onnx.helper.make_tensor_value_info("labels", onnx.TensorProto.FLOAT, ["batch"]))
    graph.node.append(onnx.helper.make_node("ReduceMax", ["scores"], ["labels"], axes=[1], keepdims=0))


def chosen_label(graph: onnx.GraphProto) -> None:
    graph.node.append(onnx.helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0))
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info("label", onnx.TensorProto.INT64, ["batch"]))


def per_token(graph: onnx.GraphProto) -> None:
    rename_output(graph, "scores")
    graph.node[-1].CopyFrom(onnx.helper.make_node("Unsqueeze", ["logits", "axis"], ["scores"]))
    graph.initializer.append(onnx.helper.make_tensor("axis", onnx.TensorProto.INT64, [1], [1]))
    graph.output[0].type.tensor_type.ClearField("shape")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda graph: fix_dimensions(graph, 1, 16),
            ["input_ids fixes dimension 0 to 1 and dimension 1 to 16", "attention_mask fixes", "dynamic"],
        ),
        (lambda graph: fix_dimensions(graph, None, 16), ["input_ids fixes dimension 1 to 16"]),
        (three_dimensions, ["input_ids has 3 dimensions; 2 expected"]),
        (float_mask, ["attention_mask is tensor(float); tensor(int64) or tensor(int32) expected"]),
        (position_ids, ["inputs are attention_mask, input_ids, position_ids, token_type_ids; known are"]),
        (two_outputs, ["outputs are scores, labels; one named logits is needed"]),
        (chosen_label, ["the output label is tensor(int64) [batch]; logits are float [pairs, labels] or"]),
        (per_token, ["the output scores is tensor(float) [batch_size, 1, 1]; logits are"]),
    ],
    ids=["shape", "length", "rank", "mask", "positions", "two outputs", "label", "per token"],
)
def test_a_graph_that_cannot_take_every_batch_is_refused(
    folder: Path, change: Callable[[onnx.GraphProto], object], words: list[str]
) -> None:
    edit_graph(folder / MODEL, change)
    message = refused(folder, ArtifactError)
    for word in [str(folder / MODEL), *words]:
        assert word in message


def test_a_graph_without_a_mask_is_never_padded(folder: Path, expected: NDArray[np.float32]) -> None:
    edit_graph(folder / MODEL, without_mask)
    np.testing.assert_allclose(logits_of(folder), expected, atol=ATOL)


def test_labels_that_contradict_config_are_refused(folder: Path) -> None:
    change_config(folder, id2label={str(i): str(i) for i in range(3)})
    message = refused(folder, ArtifactError)
    assert "gives 1 labels" in message
    assert f"{folder / 'config.json'} says 3" in message


def test_a_graph_that_was_traced_for_one_batch_is_refused(folder: Path, checkpoint: Path) -> None:
    # Free by its declaration, and with the batch of the example baked in.
    def bake(graph: onnx.GraphProto) -> None:
        rename_output(graph, "scores")
        graph.node[-1].CopyFrom(onnx.helper.make_node("Reshape", ["logits", "shape"], ["scores"]))
        graph.initializer.append(onnx.helper.make_tensor("shape", onnx.TensorProto.INT64, [2], [2, 1]))

    edit_graph(folder / MODEL, bake)
    message = refused(folder, ArtifactError)
    assert "onnxruntime" in message
    assert "fails in it" in message


# Folders that cannot be used.


def test_all_that_is_wrong_with_a_folder_is_said_at_once(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "vocab.txt")
    add_files(folder, "onnx/model_q4.onnx", "onnx/model_bnb4.onnx")
    change_config(folder, id2label=7, num_labels=0)
    message = refused(folder, CheckpointError)
    for word in ("3 problems", "there is no tokenizer.json", "save_pretrained", "onnx/model_q4.onnx", "num_labels"):
        assert word in message


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    change_config(folder, vocab_size=100)
    assert "the model 100" in refused(folder, CheckpointError)


def test_a_folder_without_config_is_no_model(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert refused(folder, ModelNotFoundError) == f"{folder} holds no model: it has no config.json"
    message = refused(folder / MODEL, ModelNotFoundError)
    assert f"no config.json beside it in {folder / 'onnx'}, nor in {folder}" in message


@pytest.mark.parametrize(
    "name",
    [*SETTINGS, "crossrank.json"],
)
def test_a_link_that_leads_nowhere_is_no_absent_file(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("../blobs/0123")
    message = refused(folder, ModelError)
    assert message.startswith(str(folder))
    assert message.count(str(folder)) == 1
    assert name in message
    assert "a link that leads nowhere, to '../blobs/0123'" in message


def test_a_file_that_is_not_there_is_not_looked_for_on_the_hub(folder: Path) -> None:
    assert refused(folder / "onnx" / "absent.onnx", ModelNotFoundError).endswith("absent.onnx: no such file")


def test_an_unknown_activation_is_refused_unless_the_caller_names_one(folder: Path) -> None:
    change_config(folder, sentence_transformers={"activation_fn": "torch.nn.GELU"})
    assert "torch.nn.GELU" in refused(folder, UnsupportedModelError)
    assert CrossEncoder(folder, device="cpu", activation_fn="identity").score("a", ["b"]).shape == (1,)


@pytest.mark.parametrize("size", [0, 100, 0.5])
def test_a_truncated_graph_is_refused(folder: Path, size: float) -> None:
    content = (folder / MODEL).read_bytes()
    (folder / MODEL).write_bytes(content[: int(size * len(content)) if size < 1 else int(size)])
    message = refused(folder, ArtifactError)
    assert message.startswith(f"{folder / MODEL}: onnxruntime")
    assert message.count(str(folder)) == 1


# Weights outside the graph's file.


def test_weights_beside_the_graph_are_read(folder: Path, expected: NDArray[np.float32]) -> None:
    put_weights_outside(folder / MODEL, "weights.bin")
    np.testing.assert_allclose(logits_of(folder), expected, atol=ATOL)


@pytest.mark.parametrize("place", ["parent", "absolute", "link", "linked folder"])
def test_weights_outside_the_graphs_folder_are_refused(folder: Path, tmp_path: Path, place: str) -> None:
    outside = tmp_path / "outside" / "weights.bin"
    outside.parent.mkdir()
    locations = {"parent": "../../outside/weights.bin", "absolute": str(outside), "linked folder": "in/weights.bin"}
    put_weights_outside(folder / MODEL, locations.get(place, "weights.bin"))
    (folder / "onnx" / "weights.bin").rename(outside)
    if place == "link":
        (folder / "onnx" / "weights.bin").symlink_to(outside)
    if place == "linked folder":
        (folder / "onnx" / "in").symlink_to(outside.parent)
    assert "External data path" in refused(folder, ArtifactError)


def test_the_hubs_cache_of_links_is_read(folder: Path, tmp_path: Path, expected: NDArray[np.float32]) -> None:
    put_weights_outside(folder / MODEL, "weights.bin")
    blobs, snapshot = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "0"
    blobs.mkdir(parents=True)
    for i, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(blobs / str(i))
        link.symlink_to(blobs / str(i))
    for model in (snapshot, snapshot / MODEL):
        np.testing.assert_allclose(logits_of(model), expected, atol=ATOL)
