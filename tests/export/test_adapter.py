"""LoRA adapters beside their base model's weights are merged into them; what cannot be merged is refused by name.

What peft 0.21.2 gives, unmerged, is in transformers_4.json; golden_checkpoints.py says how it was made.
"""

import json
import shutil
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from crossrank import CheckpointError, CrossEncoder, CrossrankError, ModelNotFoundError, UnsupportedModelError
from crossrank.export import export_model
from crossrank.export._exporters.native import read_native
from crossrank.export._prove.reference import numpy_logits
from crossrank.export._read.adapter import open_weights
from tests.support.checkpoint_files import read_tensors, write_tensors
from tests.support.golden_checkpoints import ADAPTERS, GOLDEN, PAIRS, AdapterCase
from tests.support.references import reference
from tests.support.tiny_models import config_of, make_checkpoint, write_json

torch = reference("torch")
torch_files = reference("safetensors.torch")

OF_PEFT: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))["adapters"]
# Float32 rounding of two layers; the adapters are drawn large.
TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("bases")
    return {name: make_checkpoint(place / name, name) for name in ("bert", "electra", "distilbert")}


@pytest.fixture
def adapted(bases: dict[str, Path], tmp_path: Path) -> Path:
    """A checkpoint with a plain adapter beside it."""
    return write_adapter(bases, ADAPTERS["plain"], tmp_path / "adapted")


def write_adapter(bases: dict[str, Path], case: AdapterCase, folder: Path) -> Path:
    shutil.copytree(bases[case.architecture], folder)
    case.write_beside(folder)
    return folder


def change_options(folder: Path, **options: Any) -> None:
    path = folder / "adapter_config.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | options)


def change_adapter(folder: Path, change: Any) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({name: np.ascontiguousarray(value) for name, value in change(load_file(path)).items()}, path)


def refused(folder: Path, error: type[CrossrankError], out: Path) -> str:
    with pytest.raises(error) as caught:
        export_model(folder, out / "artifact", variants=["cpu"], precisions=["fp32"])
    return str(caught.value)


@pytest.mark.parametrize("name", ADAPTERS)
def test_logits_are_those_of_peft(bases: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = write_adapter(bases, ADAPTERS[name], tmp_path / "adapted")
    blueprint = read_native(folder, None, max_length=None)
    tokenizer, inputs = folder / "tokenizer.json", blueprint.inputs
    name_of_it, logits = blueprint.reference(PAIRS, tokenizer)
    in_numpy = numpy_logits(
        folder, config_of(folder), tokenizer, PAIRS, max_length=inputs.max_length, token_types=inputs.token_types
    )
    assert name_of_it.startswith("transformers" if util.find_spec("torch") else "numpy")
    np.testing.assert_allclose(logits, OF_PEFT[name], atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(in_numpy, OF_PEFT[name], atol=TOLERANCE, rtol=0)


def test_scores_of_an_export_are_those_of_peft(adapted: Path, tmp_path: Path) -> None:
    artifact = export_model(adapted, tmp_path / "artifact", variants=["cpu"], precisions=["fp32"])
    scores = CrossEncoder(artifact, activation_fn="identity").predict(PAIRS)
    np.testing.assert_allclose(scores, np.array(OF_PEFT["plain"])[:, 0], atol=TOLERANCE, rtol=0)


def test_merging_needs_no_torch_and_is_said(adapted: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from crossrank.export._cli import main; sys.exit(main(sys.argv[1:]))"
    )
    options = [str(adapted), "-o", str(tmp_path / "out"), "--variants", "cpu", "--precision", "fp32"]
    done = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = "the LoRA adapter is merged into the weights beside it: 4 of them are changed, 2 replaced"
    assert done.stderr.count(said) == 1


def test_adapter_in_a_pytorch_file_is_read(adapted: Path, bases: dict[str, Path]) -> None:
    expected = {name: read() for name, read in open_weights(adapted).items()}
    torch.save(torch_files.load_file(adapted / "adapter_model.safetensors"), adapted / "adapter_model.bin")
    (adapted / "adapter_model.safetensors").unlink()
    found = open_weights(adapted)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(read(), expected[name]) for name, read in found.items())
    own = read_tensors(bases["bert"])
    assert sum(not np.array_equal(value, own[name]) for name, value in expected.items()) == 6


def test_names_may_stand_without_prefixes_and_with_the_adapters_name(adapted: Path) -> None:
    expected = {name: read() for name, read in open_weights(adapted).items()}

    def rename(tensors: dict[str, Any]) -> dict[str, Any]:
        return {
            name.removeprefix("base_model.model.")
            .replace("lora_A.", "lora_A.default.")
            .replace("classifier.", "classifier.modules_to_save.default."): value
            for name, value in tensors.items()
        }

    change_adapter(adapted, rename)
    write_tensors(adapted, {name.removeprefix("bert."): value for name, value in read_tensors(adapted).items()})
    found = {
        f"bert.{name}" if not name.startswith("classifier") else name: r() for name, r in open_weights(adapted).items()
    }
    assert found.keys() == expected.keys()
    assert all(np.array_equal(value, expected[name]) for name, value in found.items())


def test_head_of_the_adapter_serves_a_base_model_without_one(adapted: Path, tmp_path: Path) -> None:
    write_tensors(adapted, {n: v for n, v in read_tensors(adapted).items() if not n.startswith("classifier")})
    artifact = export_model(adapted, tmp_path / "artifact", variants=["cpu"], precisions=["fp32"])
    scores = CrossEncoder(artifact, activation_fn="identity").predict(PAIRS)
    np.testing.assert_allclose(scores, np.array(OF_PEFT["plain"])[:, 0], atol=TOLERANCE, rtol=0)


def test_weights_with_the_adapter_in_them_already_are_refused(adapted: Path, tmp_path: Path) -> None:
    write_tensors(adapted, {name: read() for name, read in open_weights(adapted).items()})
    message = refused(adapted, CheckpointError, tmp_path)
    assert "the weights hold classifier.weight of the adapter beside them, so it is merged into them already" in message
    assert "remove adapter_config.json" in message


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; merged is LORA"),
        ({"peft_type": "ADALORA"}, "peft_type is 'ADALORA'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights is 'pissa_niter_16', which changes the base"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"trainable_token_indices": [3, 4]}, "trainable_token_indices is set"),
        ({"layer_replication": [[0, 1]], "use_qalora": True}, "layer_replication is set"),
        ({"target_parameters": ["experts.weight"]}, "target_parameters is set"),
        ({"a_formula_to_come": {"of": 2031}}, "a_formula_to_come is set"),
    ],
)
def test_other_adapters_are_refused_by_name(
    adapted: Path, tmp_path: Path, options: dict[str, Any], complaint: str
) -> None:
    change_options(adapted, **options)
    message = refused(adapted, UnsupportedModelError, tmp_path)
    assert complaint in message
    assert "pip install peft; python -c" in message


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"lora_alpha": "16"}, "'lora_alpha' is '16'; a number of float32 is expected"),
        ({"lora_alpha": 10**400}, "'lora_alpha' is 1000"),
        ({"lora_alpha": -1e39}, "'lora_alpha' is -1e+39; a number of float32 is expected"),
        ({"alpha_pattern": {"query": True}}, "'query' is True; a number of float32 is expected"),
        ({"alpha_pattern": {"(.*)*x": 4}}, "without repetitions, is expected"),
        ({"alpha_pattern": {"(query": 4}}, "alpha_pattern '(query'"),
        ({"alpha_pattern": [4]}, "alpha_pattern is [4]; numbers by modules are expected"),
    ],
)
def test_damaged_options_are_named(adapted: Path, tmp_path: Path, options: dict[str, Any], complaint: str) -> None:
    change_options(adapted, **options)
    assert complaint in refused(adapted, CheckpointError, tmp_path)


QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_"


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        (
            {"base_model.model.bert.elsewhere.lora_A.weight": np.zeros((4, 32))},
            "it changes bert.elsewhere.weight, which",
        ),
        ({f"{QUERY}B.weight": None}, "query it holds lora_A; lora_A and lora_B are expected"),
        (
            {f"{QUERY}B.weight": np.zeros((30, 4))},
            "the adapter's matrices are [4, 32] and [30, 4], which do not change",
        ),
        ({f"{QUERY}A.weight": np.full((4, 32), np.nan)}, "holds 128 values that are NaN"),
        (
            {f"{QUERY}A.weight": np.zeros((0, 32)), f"{QUERY}B.weight": np.zeros((32, 0))},
            "which do not change [32, 32]",
        ),
    ],
)
def test_adapter_of_another_model_is_refused(
    adapted: Path, tmp_path: Path, tensors: dict[str, Any], complaint: str
) -> None:
    change_adapter(adapted, lambda found: {n: v for n, v in (found | tensors).items() if v is not None})
    assert complaint in refused(adapted, CheckpointError, tmp_path)


def test_adapter_with_a_head_of_a_type_that_numpy_lacks_is_refused(adapted: Path, tmp_path: Path) -> None:
    path, head = adapted / "adapter_model.safetensors", "base_model.model.classifier.weight"
    tensors = torch_files.load_file(path)
    torch_files.save_file(tensors | {head: tensors[head].to(torch.float8_e4m3fn)}, path)
    assert "classifier.weight cannot be read" in refused(adapted, CheckpointError, tmp_path)


def test_adapter_without_its_file_is_refused(adapted: Path, tmp_path: Path) -> None:
    (adapted / "adapter_model.safetensors").unlink()
    assert "adapter_config.json is there without adapter_model.safetensors" in refused(
        adapted, CheckpointError, tmp_path
    )


def test_dora_without_magnitudes_is_refused(adapted: Path, tmp_path: Path) -> None:
    change_options(adapted, use_dora=True)
    assert "it lacks lora_magnitude_vector, which use_dora wants" in refused(adapted, CheckpointError, tmp_path)


@pytest.mark.parametrize(
    ("gone", "error"),
    [
        (["model.safetensors"], CheckpointError),
        (["model.safetensors", "config.json"], ModelNotFoundError),
    ],
)
def test_adapter_alone_says_whose_it_is(adapted: Path, tmp_path: Path, gone: list[str], error: Any) -> None:
    for name in gone:
        (adapted / name).unlink()
    change_options(adapted, base_model_name_or_path="cross-encoder/ms-marco-MiniLM-L6-v2")
    for message in (refused(adapted, error, tmp_path), _loaded(adapted, error)):
        assert (
            "its weights are an adapter, without those of the base model 'cross-encoder/ms-marco-MiniLM-L6-v2'"
            in message
        )
        assert "merge_and_unload" in message


def _loaded(folder: Path, error: type[CrossrankError]) -> str:
    with pytest.raises(error) as caught:
        CrossEncoder(folder)
    return str(caught.value)
