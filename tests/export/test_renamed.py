"""Checkpoints in the names of code that comes with them are mapped, and none of that code is run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrank import CrossEncoder, ProofError, UnsupportedModelError
from crossrank._artifact.manifest import read_manifest
from crossrank._proof import read_proof
from crossrank.export import export_model
from crossrank.export._architectures.bert import Roberta
from crossrank.export._graphs.encoder import Body, Layer
from crossrank.export._graphs.layers import Linear
from tests.support.checkpoint_files import change_config, read_tensors
from tests.support.references import PROVEN_BY, reference
from tests.support.renamed import RENAMED, as_flash, as_new, make_renamed
from tests.support.tiny_models import PAIRS, make_checkpoint, transformers_logits

torch = reference("torch")
# As in test_parity.py.
TOLERANCE = 2e-5


def logits_of(checkpoint: Path, artifact: Path, **options: Any) -> Any:
    export_model(checkpoint, artifact, precisions=["fp32"], variants=["cpu", "portable"], **options)
    return CrossEncoder(artifact, device="cpu").predict(list(PAIRS), activation_fn="identity").reshape(len(PAIRS), -1)


def trap(folder: Path) -> None:
    """Code beside the checkpoint, which would be seen if it ran."""
    for name in ("modeling_xlm_roberta", "configuration", "modeling"):
        (folder / f"{name}.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n", encoding="utf-8")


@pytest.mark.parametrize("labels", [1, 3])
def test_jina_rerankers_names_are_xlm_robertas(tmp_path: Path, caplog: pytest.LogCaptureFixture, labels: int) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", "xlm-roberta", labels=labels, max_length=1024)
    theirs = transformers_logits(folder, PAIRS, max_length=1024)
    trap(as_flash(folder))
    ours = logits_of(folder, tmp_path / "artifact")
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0)
    manifest = read_manifest(tmp_path / "artifact")
    assert manifest.source.architecture == "xlm-roberta"
    assert manifest.inputs.max_length == 1024
    assert read_proof(tmp_path / "artifact").reference == "numpy"  # no class of transformers reads it
    assert "the weights are named as those of 'xlm-roberta'" in caplog.text
    assert not (folder / "ran").exists()


def test_jina_reranker_is_exported_with_every_graph(tmp_path: Path) -> None:
    folder = as_flash(make_checkpoint(tmp_path / "checkpoint", "xlm-roberta"))
    artifact = export_model(folder, tmp_path / "artifact")
    names = [variant.name for variant in read_manifest(artifact).variants]
    assert names == ["cpu fp32", "cpu int8", "cuda fp16", "portable fp32"]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("types", [0, 1, 2])
def test_names_of_gtes_authors_are_those_of_transformers(tmp_path: Path, types: int, packed: bool) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", "gte", type_vocab_size=types)
    theirs = transformers_logits(folder, PAIRS)
    trap(as_new(folder, packed=packed))
    np.testing.assert_allclose(logits_of(folder, tmp_path / "artifact"), theirs, atol=TOLERANCE, rtol=0)
    assert read_proof(tmp_path / "artifact").reference == "numpy"
    assert not (folder / "ran").exists()


def test_gte_as_transformers_saves_it_is_read(tmp_path: Path) -> None:
    """Its own model type, in the authors' names."""
    torch.is_tensor(None)
    import transformers

    folder = make_checkpoint(tmp_path / "checkpoint", "gte")
    theirs = transformers_logits(folder, PAIRS)
    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in read_tensors(folder).items()})
    model.save_pretrained(folder)
    assert any("qkv_proj" in name for name in read_tensors(folder))
    np.testing.assert_allclose(logits_of(folder, tmp_path / "artifact"), theirs, atol=TOLERANCE, rtol=0)
    assert read_proof(tmp_path / "artifact").reference == PROVEN_BY


@pytest.mark.parametrize("named", ["rope_type", "type"])
def test_gte_whose_positions_are_not_stretched_is_held_against_transformers(tmp_path: Path, named: str) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", "gte")
    rope = {named: "default", "rope_theta": 50.0, "factor": 4.0}  # a factor of nothing
    change_config(folder, rope_parameters=None, rope_scaling=rope)
    theirs = transformers_logits(folder, PAIRS)
    np.testing.assert_allclose(logits_of(folder, tmp_path / "artifact"), theirs, atol=TOLERANCE, rtol=0)
    assert read_proof(tmp_path / "artifact").reference == PROVEN_BY


@pytest.mark.parametrize("kind", ["new", "gte"])
def test_stretched_positions_are_those_of_the_authors_formula(tmp_path: Path, kind: str) -> None:
    """Of gte-multilingual-reranker-base: factor 8, type ntk, for which transformers needs its inverse frequencies."""
    torch.is_tensor(None)
    import transformers

    folder = make_checkpoint(
        tmp_path / "checkpoint", "gte", rope_parameters={"rope_type": "default", "rope_theta": 2e4}
    )
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    size, factor = 8, 8.0
    inverse = 1.0 / ((2e4 * factor) ** (torch.arange(0, size, 2).float() / size)) / factor ** (2 / size)
    plain = model.gte.rotary_emb.inv_freq.clone()
    model.gte.rotary_emb.inv_freq.copy_(inverse)
    queries, documents = (list(side) for side in zip(*PAIRS, strict=True))
    batch = tokenizer(queries, documents, truncation="longest_first", max_length=48, padding=True, return_tensors="pt")
    with torch.inference_mode():
        theirs = model(**batch).logits.numpy()
        model.gte.rotary_emb.inv_freq.copy_(plain)
        without = model(**batch).logits.numpy()
    if kind == "new":
        as_new(folder, type="ntk", factor=factor)
    else:
        change_config(folder, rope_parameters={"rope_type": "ntk", "rope_theta": 2e4, "factor": factor})
    ours = logits_of(folder, tmp_path / "artifact")
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0)
    assert np.abs(ours - without).max() > 10 * TOLERANCE
    assert read_proof(tmp_path / "artifact").reference == "numpy"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"layer_norm_type": "rms_norm"}, "layer_norm_type is 'rms_norm'; supported is layer_norm"),
        ({"logn_attention_scale": True}, "logn_attention_scale is True; supported is False"),
        ({"rope_scaling": 3}, "rope_scaling is 3; an object is expected"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling is of type 'yarn'; supported are default"),
        ({"rope_scaling": {"type": "ntk", "rope_type": "default", "factor": 4.0}}, "of type 'default' and 'ntk'; supp"),
        ({"rope_scaling": {"type": "ntk", "factor": 4.0, "mixed_b": 0.6}}, "mixed_b 0.6; supported is none"),
        ({"position_embedding_type": "absolute"}, "position_embedding_type is 'absolute'; supported is rope"),
    ],
)
def test_setting_of_gte_that_is_not_known_is_refused_by_name(
    tmp_path: Path, setting: dict[str, Any], message: str
) -> None:
    folder = make_renamed(tmp_path / "checkpoint", "new")
    change_config(folder, **setting)
    with pytest.raises(UnsupportedModelError) as error:
        export_model(folder, tmp_path / "artifact")
    assert message in str(error.value)


@pytest.mark.parametrize("kind", [kind for kind in RENAMED if kind != "new"])
def test_architecture_that_differs_in_names_alone_equals_transformers(tmp_path: Path, kind: str) -> None:
    folder = make_renamed(tmp_path / "checkpoint", kind, labels=2)
    theirs = transformers_logits(folder, PAIRS)
    assert theirs.std(axis=0).min() >= 1
    np.testing.assert_allclose(logits_of(folder, tmp_path / "artifact"), theirs, atol=TOLERANCE, rtol=0)
    assert read_proof(tmp_path / "artifact").reference == PROVEN_BY


def test_ernie_with_tasks_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_renamed(tmp_path / "checkpoint", "ernie")
    change_config(folder, use_task_id=True)
    with pytest.raises(UnsupportedModelError, match="use_task_id is set"):
        export_model(folder, tmp_path / "artifact")


def rolled_thirds(layer: Layer) -> Layer:
    old = layer.attention
    return replace(layer, attention=replace(old, query=old.key, key=old.value, value=old.query))


FAULTS: dict[str, Callable[[Body], Body]] = {
    "thirds of Wqkv rolled": lambda body: in_layers(body, rolled_thirds),
    "query and key swapped": lambda body: in_layers(
        body, lambda layer: replace(layer, attention=replace(layer.attention, query=layer.attention.key))
    ),
    "norms swapped": lambda body: in_layers(
        body, lambda layer: replace(layer, attention_norm=layer.output_norm, output_norm=layer.attention_norm)
    ),
    "no norm behind the feed-forward": lambda body: in_layers(body, lambda layer: replace(layer, output_norm=None)),
    "no norm behind attention": lambda body: in_layers(body, lambda layer: replace(layer, attention_norm=None)),
    "no bias of Wqkv": lambda body: in_layers(
        body, lambda layer: replace(layer, attention=replace(layer.attention, value=unbiased(layer.attention.value)))
    ),
    "no bias of out_proj": lambda body: in_layers(
        body, lambda layer: replace(layer, attention=replace(layer.attention, output=unbiased(layer.attention.output)))
    ),
    "no bias of fc1": lambda body: in_layers(
        body, lambda layer: replace(layer, feed_forward=replace(layer.feed_forward, up=unbiased(layer.feed_forward.up)))
    ),
    "layers in reverse": lambda body: replace(body, layers=body.layers[::-1]),
    "positions without the offset": lambda body: in_embeddings(body, "positions", lambda t: np.roll(t, 2, axis=0)),
    "no token type": lambda body: in_embeddings(body, "types", lambda t: t * 0),
}


def in_layers(body: Body, change: Callable[[Layer], Layer]) -> Body:
    return replace(body, layers=tuple(map(change, body.layers)))


def in_embeddings(body: Body, part: str, change: Callable[[Any], Any]) -> Body:
    changes: dict[str, Any] = {part: change(getattr(body.embeddings, part))}
    return replace(body, embeddings=replace(body.embeddings, **changes))


def unbiased(linear: Linear) -> Linear:
    return replace(linear, bias=np.zeros_like(linear.bias))


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_in_the_mapping_is_refused_by_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """The forward pass in numpy has the names once more: with the builder's wrong, no graph holds."""
    folder = as_flash(make_checkpoint(tmp_path / "checkpoint", "xlm-roberta"))
    read = Roberta.read_body
    monkeypatch.setattr(Roberta, "read_body", lambda *arguments: FAULTS[fault](read(*arguments)))
    with pytest.raises(ProofError, match="against numpy"):
        export_model(folder, tmp_path / "artifact", variants=["cpu"], precisions=["fp32"])
