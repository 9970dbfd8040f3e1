"""sentence-transformers' heads of modules: what is exported scores as its CrossEncoder does, all else is refused."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from crossrank import CheckpointError, CrossEncoder, ModelError, UnsupportedModelError
from crossrank._artifact.manifest import read_manifest
from crossrank._artifact.settings import read_model_folder
from crossrank._proof import verify_artifact
from crossrank.export import export_model
from crossrank.export._architectures import checkpoint
from crossrank.export._architectures.chain import read_chain
from crossrank.export._prove import reference as proof
from tests.support.references import needs_torch, reference
from tests.support.tiny_models import PAIRS, SPREAD, make_checkpoint, write_json

torch = reference("torch")
sentence_transformers = reference("sentence_transformers")

TOLERANCE = 2e-5
HIDDEN = 32

Floats = NDArray[np.float32]


def pooling(mode: Any = "cls") -> dict[str, Any]:
    return {"embedding_dimension": HIDDEN, "pooling_mode": mode, "include_prompt": True}


def dense(inputs: int, outputs: int, activation: str, **settings: Any) -> dict[str, Any]:
    module = "linear" if activation == "Identity" else "activation"
    return {
        "in_features": inputs,
        "out_features": outputs,
        "bias": True,
        "activation_function": f"torch.nn.modules.{module}.{activation}",
        "module_input_name": "sentence_embedding",
        "module_output_name": "sentence_embedding",
    } | settings


def scores(inputs: int, labels: int, activation: str = "Identity") -> tuple[str, dict[str, Any]]:
    return "Dense", dense(inputs, labels, activation, module_output_name="scores")


Modules = list[tuple[str, dict[str, Any]]]
# ettin's.
CHAIN: Modules = [
    ("Pooling", pooling()),
    ("Dense", dense(HIDDEN, HIDDEN, "GELU", bias=False)),
    ("LayerNorm", {"dimension": HIDDEN}),
    scores(HIDDEN, 1),
]
CHAINS: dict[str, tuple[str, Modules]] = {
    "as ettin": ("modernbert", CHAIN),
    "mean, three labels": ("modernbert", [("Pooling", pooling("mean")), *CHAIN[1:3], scores(HIDDEN, 3)]),
    "one dense layer": ("modernbert", [("Pooling", pooling()), scores(HIDDEN, 2)]),
    "no transformer of its own": ("bert", [("Pooling", pooling(["mean"])), *CHAIN[1:]]),
    "positions from the padding": ("roberta", CHAIN),
    "dropouts": ("distilbert", [*CHAIN[:1], ("Dropout", {"dropout": 0.1}), *CHAIN[1:], ("Dropout", {"dropout": 0.1})]),
    "null for false": ("bert", [*CHAIN[:1], ("Dense", dense(HIDDEN, HIDDEN, "GELU", bias=None)), *CHAIN[2:]]),
    "several widths": (
        "modernbert",
        [
            ("Pooling", pooling("mean")),
            ("Dense", dense(HIDDEN, 24, "Tanh")),
            ("Dense", dense(24, 24, "SiLU", use_residual=True)),
            ("Dense", dense(24, 20, "LeakyReLU")),
            ("Dense", dense(20, 16, "ReLU", use_residual=True)),
            scores(16, 1),
        ],
    ),
    "other activations": (
        "modernbert",
        [("Pooling", pooling()), ("Dense", dense(HIDDEN, 20, "ELU")), scores(20, 2, "Sigmoid")],
    ),
}
PACKAGES = {"Pooling": "sentence_transformer.modules.pooling", "Dense": "base.modules.dense"}
PACKAGES |= {"LayerNorm": "sentence_transformer.modules.layer_norm", "Dropout": "sentence_transformer.modules.dropout"}


def write_chain(folder: Path, architecture: str, modules: Modules) -> Path:
    """A folder as version 6 writes it, its weights drawn; the last layer's so that the logits spread by `SPREAD`."""
    make_checkpoint(folder, architecture)
    tensors = load_file(folder / "model.safetensors")
    heads = ("classifier", "head.", "pooler", "pre_classifier")
    prefix = {"modernbert": "model"}.get(architecture, architecture)
    body = {
        name.removeprefix(f"{prefix}."): value
        for name, value in tensors.items()
        if not name.removeprefix(f"{prefix}.").startswith(heads)
    }
    save_file(body, folder / "model.safetensors", metadata={"format": "pt"})
    rng = np.random.default_rng(0)
    entries = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    ]
    for i, (kind, config) in enumerate(modules, start=1):
        path, package = f"{i}_{kind}", f"sentence_transformers.{PACKAGES[kind]}"
        entries.append({"idx": i, "name": str(i), "path": path, "type": f"{package}.{kind}"})
        (folder / path).mkdir()
        write_json(folder / path / "config.json", config)
        weights = dict(_weights(kind, config, rng))
        if weights:
            save_file(weights, folder / path / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "modules.json", entries)
    identity = "torch.nn.modules.linear.Identity"
    write_json(folder / "config_sentence_transformers.json", {"model_type": "CrossEncoder", "activation_fn": identity})
    method = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    settings = {"transformer_task": "feature-extraction", "modality_config": method}
    write_json(folder / "sentence_bert_config.json", settings | {"module_output_name": "token_embeddings"})
    end, (_, head) = max((i, module) for i, module in enumerate(modules, start=1) if module[0] == "Dense")
    last = folder / f"{end}_Dense" / "model.safetensors"
    scaled = load_file(last)
    spread = logits_of(folder).std(axis=0)
    if head["activation_function"].endswith("Identity"):
        scaled["linear.weight"] *= (SPREAD / spread)[:, None]
        save_file(scaled, last, metadata={"format": "pt"})
    return folder


def _weights(kind: str, config: Mapping[str, Any], rng: np.random.Generator) -> Any:
    def draw(*shape: int) -> Floats:
        return rng.normal(0, 1, shape).astype(np.float32)

    if kind == "LayerNorm":
        yield from (("norm.weight", draw(HIDDEN) + 1), ("norm.bias", draw(HIDDEN)))
    elif kind == "Dense":
        inputs, outputs = config["in_features"], config["out_features"]
        yield "linear.weight", draw(outputs, inputs) / np.float32(inputs**0.5)
        if config["bias"]:
            yield "linear.bias", draw(outputs)
        if config.get("use_residual") and inputs != outputs:
            yield "residual.weight", draw(outputs, inputs) / np.float32(inputs**0.5)


def logits_of(folder: Path) -> Floats:
    """By the forward pass in numpy."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    tokenizer, types = folder / "tokenizer.json", config["model_type"] == "bert"
    return proof.numpy_logits(folder, config, tokenizer, PAIRS, max_length=48, token_types=types, root=folder)


def peer_logits(folder: Path) -> Floats:
    """By sentence-transformers."""
    model = sentence_transformers.CrossEncoder(str(folder), device="cpu", local_files_only=True)
    found: Floats = model.predict(list(PAIRS), activation_fn=torch.nn.Identity(), batch_size=1)
    return found.reshape(len(PAIRS), -1)


@pytest.fixture(scope="module")
def make_chain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def make(name: str) -> Path:
        return write_chain(tmp_path_factory.mktemp("chain") / "checkpoint", *CHAINS[name])

    return make


def predict(artifact: Path) -> Floats:
    logits: Floats = CrossEncoder(artifact, precision="fp32").predict(list(PAIRS), activation_fn="identity")
    return logits.reshape(len(PAIRS), -1)


@pytest.mark.parametrize("name", CHAINS)
def test_exported_chains_score_as_sentence_transformers(
    make_chain: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    folder = make_chain(name)
    expected = peer_logits(folder)
    artifact = export_model(folder, tmp_path / "artifact", precisions=["fp32", "fp16"], variants=["cpu", "cuda"])
    assert np.abs(predict(artifact) - expected).max() <= TOLERANCE
    assert expected.std(axis=0).min() >= (1 if "other" not in name else 0.02)  # a sigmoid's range is 1
    manifest = read_manifest(artifact)
    assert manifest.head.labels == expected.shape[1]
    assert [variant.name for variant in manifest.variants] == ["cpu fp32", "cuda fp16"]
    assert (manifest.head.activation, manifest.inputs.max_length) == ("Identity", 48)


@pytest.mark.parametrize("name", CHAINS)
def test_the_forward_pass_in_numpy_scores_as_sentence_transformers(
    make_chain: Callable[[str], Path], name: str
) -> None:
    assert np.abs(logits_of(make_chain(name)) - peer_logits(make_chain(name))).max() <= TOLERANCE


def test_an_artifact_of_a_chain_is_one_model(make_chain: Callable[[str], Path], tmp_path: Path) -> None:
    """Without the modules, which are in its graphs; and it is proven without torch too."""
    artifact = export_model(make_chain("as ettin"), tmp_path / "artifact", variants=["cpu", "portable"])
    names = {path.name for path in artifact.iterdir()}
    assert names.isdisjoint({"modules.json", "sentence_bert_config.json", "1_Pooling", "2_Dense"})
    config = json.loads((artifact / "config.json").read_text("utf-8"))
    assert config["num_labels"] == 1
    assert config["sentence_transformers"] == {"activation_fn": "torch.nn.modules.linear.Identity"}
    verify_artifact(artifact)


def test_a_chain_is_proven_without_torch(
    make_chain: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "util", SimpleNamespace(find_spec=lambda name: None))
    artifact = export_model(make_chain("as ettin"), tmp_path / "artifact", variants=["cpu"], precisions=["fp32"])
    assert json.loads((artifact / "proof.json").read_text("utf-8"))["reference"] == "numpy"


@needs_torch
def test_the_form_of_version_5_is_the_same_model(make_chain: Callable[[str], Path], tmp_path: Path) -> None:
    """Other paths of classes, a flag for each pooling, no task; the rows' names where a Dense has others alone."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(make_chain("as ettin"), folder)
    entries = json.loads((folder / "modules.json").read_text("utf-8"))
    for entry in entries:
        entry["type"] = "sentence_transformers.models." + entry["type"].rpartition(".")[2]
    write_json(folder / "modules.json", entries)
    flags = {f"pooling_mode_{name}": False for name in ("max_tokens", "mean_tokens", "lasttoken")}
    old = {"word_embedding_dimension": HIDDEN, "pooling_mode_cls_token": True, **flags, "include_prompt": True}
    write_json(folder / "1_Pooling/config.json", old)
    first = json.loads((folder / "2_Dense/config.json").read_text("utf-8"))
    shorter = {name: value for name, value in first.items() if not name.startswith("module_")}
    write_json(folder / "2_Dense/config.json", shorter)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 40, "do_lower_case": False})
    artifact = export_model(folder, tmp_path / "artifact", variants=["cpu"], precisions=["fp32"])
    assert np.abs(predict(artifact) - peer_logits(folder)).max() <= TOLERANCE
    assert read_manifest(artifact).inputs.max_length == 40


def test_a_changed_module_is_exported_anew(make_chain: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(make_chain("as ettin"), folder)
    before = CrossEncoder(folder, cache_folder=tmp_path / "cache").predict(list(PAIRS[:3]))
    weights = load_file(folder / "4_Dense/model.safetensors")
    weights["linear.bias"] += 5
    save_file(weights, folder / "4_Dense/model.safetensors", metadata={"format": "pt"})
    after = CrossEncoder(folder, cache_folder=tmp_path / "cache").predict(list(PAIRS[:3]))
    np.testing.assert_allclose(after - before, 5, atol=1e-4)


# Faults in what the exporter reads: each must be seen by what proves it.

FAULTS: dict[str, Callable[[Any], Any]] = {
    "no norm": lambda steps: [steps[0], steps[2]],
    "norm before the first": lambda steps: [steps[1], steps[0], steps[2]],
    "no activation": lambda steps: [replace(steps[0], activation="identity"), *steps[1:]],
    "another activation": lambda steps: [replace(steps[0], activation="gelu_new"), *steps[1:]],
    "activation behind the scores": lambda steps: [*steps[:2], replace(steps[2], activation="tanh")],
    "another epsilon": lambda steps: [steps[0], replace(steps[1], epsilon=1e-1), steps[2]],
    "a residual": lambda steps: [replace(steps[0], residual="same"), *steps[1:]],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_head_is_seen(
    make_chain: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def read(source: Any, hidden: int) -> Any:
        head, labels = read_chain(source, hidden)
        return replace(head, steps=tuple(FAULTS[fault](list(head.steps)))), labels

    monkeypatch.setattr(checkpoint, "read_chain", read)
    with pytest.raises(ModelError, match="leave the bounds"):
        export_model(make_chain("as ettin"), tmp_path / "artifact", variants=["cpu"], precisions=["fp32"])


# Refusals.


@pytest.mark.parametrize(
    ("module", "settings", "messages"),
    [
        ("1_Pooling", {"pooling_mode": "max"}, ["1_Pooling: the pooling is 'max'; supported are cls, mean"]),
        ("1_Pooling", {"pooling_mode": ["cls", "mean"]}, ["the pooling is ['cls', 'mean']"]),
        ("1_Pooling", {"scale": 2.0}, ["1_Pooling: scale is not known; supported are embedding_dimension"]),
        ("3_LayerNorm", {"eps": 0.5}, ["3_LayerNorm: eps is not known; supported are dimension"]),
        ("2_Dense", {"activation_function": "my.Own"}, ["2_Dense: activation_function is 'my.Own'; supported are"]),
        ("2_Dense", {"module_input_name": "token_embeddings"}, ["2_Dense takes 'token_embeddings'"]),
        ("4_Dense", {"module_output_name": "sentence_embedding"}, ["no reranker but an embedding model"]),
    ],
)
def test_other_settings_of_modules_are_refused_by_name(
    make_chain: Callable[[str], Path], tmp_path: Path, module: str, settings: Mapping[str, Any], messages: list[str]
) -> None:
    folder = change(make_chain("as ettin"), tmp_path / "checkpoint", {module: settings})
    with pytest.raises(UnsupportedModelError) as caught:
        export_model(folder, tmp_path / "artifact")
    assert all(message in str(caught.value) for message in messages)


def test_all_that_is_refused_is_said_at_once(make_chain: Callable[[str], Path], tmp_path: Path) -> None:
    changes = {"1_Pooling": {"pooling_mode": "max"}, "2_Dense": {"activation_function": "torch.nn.Mish"}}
    folder = change(make_chain("as ettin"), tmp_path / "checkpoint", changes)
    with pytest.raises(UnsupportedModelError, match=r"pooling is 'max'(.|\n)*'torch.nn.Mish'"):
        export_model(folder, tmp_path / "artifact")


def change(source: Path, folder: Path, changes: Mapping[str, Mapping[str, Any]]) -> Path:
    shutil.copytree(source, folder)
    for module, settings in changes.items():
        path = folder / module / "config.json"
        write_json(path, json.loads(path.read_text("utf-8")) | settings)
    return folder


def test_damaged_modules_are_named_all_at_once(make_chain: Callable[[str], Path], tmp_path: Path) -> None:
    changes = {"1_Pooling": {"embedding_dimension": 31}, "2_Dense": {"out_features": 30}}
    folder = change(make_chain("as ettin"), tmp_path / "checkpoint", changes)
    (folder / "4_Dense/model.safetensors").unlink()
    (folder / "3_LayerNorm/config.json").write_text("{")
    with pytest.raises(CheckpointError) as caught:
        export_model(folder, tmp_path / "artifact")
    for said in (
        "1_Pooling: embedding_dimension is 31; 32 come in",
        "linear.weight has shape [32, 32]; [30, 32] expected",
        "3_LayerNorm/config.json",
        "4_Dense: in_features is 32; 30 come in",
        "no weights",
    ):
        assert said in str(caught.value)


def test_modules_of_other_code_are_refused_by_name(make_chain: Callable[[str], Path], tmp_path: Path) -> None:
    folder = change(make_chain("as ettin"), tmp_path / "checkpoint", {})
    entries = json.loads((folder / "modules.json").read_text("utf-8"))
    entries[3]["type"] = "my_code.LayerNorm"
    write_json(folder / "modules.json", entries)
    with pytest.raises(UnsupportedModelError, match=r"modules of other code \(my_code.LayerNorm\)"):
        read_model_folder(folder)


def test_a_graph_of_the_transformer_alone_is_refused(make_chain: Callable[[str], Path], tmp_path: Path) -> None:
    """As sentence-transformers exports it: what is behind it would be missing."""
    folder = change(make_chain("as ettin"), tmp_path / "checkpoint", {})
    (folder / "model.safetensors").unlink()
    (folder / "onnx").mkdir()
    (folder / "onnx/model.onnx").write_bytes(b"")
    with pytest.raises(UnsupportedModelError, match="end before Pooling; export its weights"):
        CrossEncoder(folder)
