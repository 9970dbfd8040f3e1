"""A checkpoint scores as with the transformers that it was trained with, beside that, beside another, and beside none.

Its ids are those of transformers 4.57.6 (golden_checkpoints.py); the model that reads them here is the installed one's.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from numpy.typing import NDArray

from crossrank import CheckpointError, CrossEncoder, UnsupportedModelError
from crossrank._artifact.settings import read_model_folder
from crossrank._proof import read_proof
from crossrank.export import export_model
from crossrank.export._exporters.native import read_native
from tests.support.checkpoint_files import change_config, read_tensors, write_tensors
from tests.support.golden_checkpoints import GOLDEN, PAIRS, TOKENIZERS
from tests.support.references import needs_torch, reference
from tests.support.tiny_models import make_checkpoint, write_json

torch = reference("torch")

IN_4: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))["tokenizers"]
# Float32 rounding of two layers at logits of standard deviation 1.5.
TOLERANCE = 2e-5
NAMES = (
    *("PreTrainedTokenizerFast", "HerbertTokenizerFast", "AlbertTokenizer", "do_lower_case bert"),
    *("NFKC before, cased", "shorter words", "lower-case RoBERTa", "RoBERTa with a space", "lower-case XLM-R"),
)
# Read as these, other ids or segments come out; with their own version they must not be refused.
KNOWN_TO_DIFFER = {
    "PreTrainedTokenizerFast": "other token types for TokenizersBackend",
    "NFKC before, cased": "the normalizer",
    "shorter words": "the model",
    "lower-case RoBERTa": "the normalizer null in place of",
    "lower-case XLM-R": "the normalizer null in place of",
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint with each of these tokenizers."""
    place = tmp_path_factory.mktemp("checkpoints")
    plain = {name: make_checkpoint(place / f"tiny-{name}", name) for name in ("bert", "roberta", "xlm-roberta")}
    folders = {}
    for name in NAMES:
        folders[name] = Path(shutil.copytree(plain[TOKENIZERS[name].architecture], place / name))
        TOKENIZERS[name].write(folders[name])
    return folders


@pytest.fixture(scope="module")
def lean(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """Logits of each where neither transformers nor torch is there."""
    code = """
import json, sys
sys.modules["torch"] = sys.modules["transformers"] = None
from crossrank import CrossEncoder
from crossrank.export import export_model
folders, pairs, place = json.loads(sys.argv[1])
found = {}
for name, folder in folders.items():
    artifact = export_model(folder, f"{place}/{name}", variants=["cpu"], precisions=["fp32"])
    found[name] = CrossEncoder(artifact, activation_fn="identity").predict([tuple(pair) for pair in pairs]).tolist()
print(json.dumps(found))
"""
    place = tmp_path_factory.mktemp("lean")
    folders = {name: str(folder) for name, folder in checkpoints.items()}
    arguments = json.dumps([folders, PAIRS, str(place)])
    done = subprocess.run([sys.executable, "-c", code, arguments], capture_output=True, text=True, check=True)
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def trained_logits(folder: Path, name: str) -> NDArray[np.float32]:
    """What the installed transformers' model makes of the ids and segments of transformers 4, float32 [pairs]."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    golden, rows = IN_4[name], []
    for i, ids in enumerate(golden["ids"]):
        inputs = {"input_ids": torch.tensor([ids])}
        if golden["types"] is not None and TOKENIZERS[name].architecture == "bert":
            inputs["token_type_ids"] = torch.tensor([golden["types"][i]])
        with torch.inference_mode():
            rows.append(model(**inputs).logits[0, 0].item())
    return np.array(rows, np.float32)


@needs_torch
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_its_training(
    checkpoints: dict[str, Path],
    lean: dict[str, list[float]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    expected = trained_logits(checkpoints[name], name)
    artifact = export_model(checkpoints[name], tmp_path / "artifact", variants=["cpu"], precisions=["fp32"])
    assert read_proof(artifact).reference == f"transformers {transformers.__version__}"
    scores = CrossEncoder(artifact, activation_fn="identity").predict(PAIRS)
    np.testing.assert_allclose(scores, expected, atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(lean[name], expected, atol=TOLERANCE, rtol=0)
    if name in KNOWN_TO_DIFFER:
        assert KNOWN_TO_DIFFER[name] in caplog.text
        assert "Transformers 4 wrote the tokenizer's files, and its reading is kept" in caplog.text


def test_tokenizer_that_transformers_cannot_read_is_said(
    checkpoints: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    torch.is_tensor(None)  # without it the proof's reference is another
    folder = checkpoints["AlbertTokenizer"]
    read_native(folder, None, max_length=None).reference(PAIRS, folder / "tokenizer.json")
    assert "cannot read its tokenizer, which is not held against it" in caplog.text


def test_files_that_contradict_the_transformers_that_wrote_them_are_refused(tmp_path: Path) -> None:
    """5 wrote the settings, and somebody the normalizer that it does not read."""
    torch.is_tensor(None)
    folder = make_checkpoint(tmp_path / "checkpoint", "xlm-roberta")
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    write_json(folder / "tokenizer.json", content | {"normalizer": {"type": "Lowercase"}})
    with pytest.raises(CheckpointError, match=r"gives other ids .*: its tokenizer's files contradict each other"):
        export_model(folder, tmp_path / "artifact", variants=["cpu"], precisions=["fp32"])


# What a config says of running and training is nothing to the proof.


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("plain")
    return {name: make_checkpoint(place / name, name) for name in ("bert", "roberta")}


def reference_of(folder: Path) -> NDArray[np.float32]:
    torch.is_tensor(None)
    name, logits = read_native(folder, None, max_length=None).reference(PAIRS, folder / "tokenizer.json")
    assert name.startswith("transformers")
    return logits


@pytest.mark.parametrize(
    "fields",
    [
        {"return_dict": False},
        {"torchscript": True},
        {"attn_implementation": "flash_attention_2", "_attn_implementation": "flash_attention_2"},
        {"output_attentions": True, "output_hidden_states": True},
        {"chunk_size_feed_forward": 7},
        {"problem_type": "single_label_classification"},
        {"torch_dtype": "float16"},
        {"dtype": "bfloat16"},
        {"auto_map": {"AutoModelForSequenceClassification": "elsewhere.Model"}},
        {"num_labels": 1, "id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_setting_that_is_not_the_models_does_not_trip_the_reference(
    plain: dict[str, Path], tmp_path: Path, fields: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(plain["bert"], tmp_path / "checkpoint"))
    change_config(folder, **fields)
    np.testing.assert_allclose(reference_of(folder), reference_of(plain["bert"]), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
@pytest.mark.parametrize("settings", [{"padding_side": "left"}, {"pad_token": None}])
def test_reference_does_not_pad_as_the_tokenizer_would(
    plain: dict[str, Path], tmp_path: Path, architecture: str, settings: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(plain[architecture], tmp_path / "checkpoint"))
    (folder / "special_tokens_map.json").unlink()
    path = folder / "tokenizer_config.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | settings)
    change_config(folder, **({"pad_token_id": None} if "pad_token" in settings else {}))
    np.testing.assert_allclose(reference_of(folder), reference_of(plain[architecture]), atol=TOLERANCE, rtol=0)


def test_leftover_names_of_labels_give_way_to_the_weights(
    plain: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(plain["bert"], tmp_path / "checkpoint"))
    change_config(folder, num_labels=1, id2label={"0": "no", "1": "yes"}, label2id={"no": 0, "yes": 1})
    artifact = export_model(folder, tmp_path / "artifact", variants=["cpu"], precisions=["fp32"])
    assert "config.json has num_labels 1 and id2label of 2: the head has 1 outputs" in caplog.text
    config = read_model_folder(artifact).config
    assert config["num_labels"] == 1
    assert "id2label" not in config
    assert CrossEncoder(artifact).predict(PAIRS).shape == (len(PAIRS),)


@pytest.mark.parametrize("labels", [{"num_labels": 3}, {"num_labels": 2}])
def test_labels_that_the_weights_do_not_confirm_are_refused(
    plain: dict[str, Path], tmp_path: Path, labels: dict[str, int]
) -> None:
    folder = Path(shutil.copytree(plain["bert"], tmp_path / "checkpoint"))
    change_config(folder, id2label={"0": "no", "1": "yes"}, **labels)
    with pytest.raises(CheckpointError, match=r"classifier.weight has shape \[1, 32\]; \[2, 32\] expected"):
        export_model(folder, tmp_path / "artifact", variants=["cpu"])


def test_weights_of_64_bits_are_taken_in_32(plain: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain["bert"], tmp_path / "checkpoint"))
    write_tensors(folder, {name: value.astype(np.float64) for name, value in read_tensors(folder).items()})
    change_config(folder, dtype="float64")
    artifacts = [
        export_model(source, tmp_path / f"artifact{i}", variants=["cpu"], precisions=["fp32"])
        for i, source in enumerate((folder, plain["bert"]))
    ]
    of_64, of_32 = (CrossEncoder(artifact).predict(PAIRS) for artifact in artifacts)
    np.testing.assert_array_equal(of_64, of_32)


def test_weight_beyond_float32_is_refused(plain: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain["bert"], tmp_path / "checkpoint"))
    tensors = {name: value.astype(np.float64) for name, value in read_tensors(folder).items()}
    tensors["classifier.weight"][0, 0] = 1e300
    write_tensors(folder, tensors)
    with pytest.raises(CheckpointError, match=r"classifier\.weight holds 1 values that are NaN or infinite"):
        export_model(folder, tmp_path / "artifact", variants=["cpu"])


@needs_torch
@pytest.mark.parametrize("name", ["gelu_python", "gelu_fast", "gelu_pytorch_tanh", "swish"])
def test_activation_by_another_name_scores_the_same(tmp_path: Path, name: str) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", "bert", hidden_act=name)
    artifact = export_model(folder, tmp_path / "artifact", variants=["cpu"], precisions=["fp32"])
    ours = CrossEncoder(artifact, activation_fn="identity").predict(PAIRS)
    np.testing.assert_allclose(ours, trained_logits(folder, "bert"), atol=TOLERANCE, rtol=0)


def test_activation_that_is_another_function_is_refused_with_the_other_exporter(
    plain: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(plain["bert"], tmp_path / "checkpoint"))
    for name in ("gelu_10", "quick_gelu", "mish", ["gelu"]):
        change_config(folder, hidden_act=name)
        with pytest.raises(
            UnsupportedModelError,
            match=r"the activation is .*; supported are .* or export_model\(exporter=\"optimum\"\)",
        ):
            export_model(folder, tmp_path / "artifact", variants=["cpu"])
