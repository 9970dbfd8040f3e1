"""What is wrong with a checkpoint is said by name, all of it at once, and nothing is written."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from crossrank import (
    CheckpointError,
    CrossEncoder,
    CrossrankError,
    InputError,
    ModelError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from crossrank.export import export_model
from tests.support.checkpoint_files import change_config, files_of, read_tensors, write_tensors
from tests.support.foreign_graphs import foreign_folder
from tests.support.references import reference
from tests.support.stored_checkpoints import as_pytorch, as_sharded_pytorch, sharded
from tests.support.tiny_models import MAX_LENGTH, make_checkpoint, write_json

torch = reference("torch")
sentence_transformers = reference("sentence_transformers")
torch_files = reference("safetensors.torch")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny-bert", "bert")


@pytest.fixture
def checkpoint(bert: Path, tmp_path: Path) -> Path:
    """A copy of `bert` to change."""
    return Path(shutil.copytree(bert, tmp_path / "checkpoint"))


def export_fp32(source: Path, output: Path) -> Path:
    return export_model(source, output, variants=["cpu"], precisions=["fp32"])


def message_of(checkpoint: Path, error: type[CrossrankError]) -> str:
    """What a user is told; nothing is written."""
    out = checkpoint.parent / "out"
    with pytest.raises(error) as caught:
        export_fp32(checkpoint, out / "artifact")
    assert files_of(out) <= {".artifact.lock"}
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "albert"}, "model_type is 'albert'; supported are bert, ernie, electra"),
        ({"model_type": 7}, "model_type is 7; supported are"),
        ({"hidden_act": "gelu_10"}, "the activation is 'gelu_10'; supported are gelu, gelu_python, gelu_new"),
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type is 'relative_key'; supported is absolute",
        ),
        ({"is_decoder": True}, "is_decoder is set"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is not empty"),
        ({"model_type": "mpnet", "pad_token_id": 3}, "pad_token_id is 3; transformers' MPNet computes with 1"),
        (
            {"model_type": "mpnet", "pad_token_id": 1, "relative_attention_num_buckets": 16},
            "relative_attention_num_buckets is 16; .* 32",
        ),
    ],
)
def test_unknown_setting_is_refused_by_name(
    checkpoint: Path, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    change_config(checkpoint, **fields)
    with pytest.raises(UnsupportedModelError, match=message):
        export_fp32(checkpoint, tmp_path / "out" / "artifact")
    assert files_of(tmp_path / "out") <= {".artifact.lock"}


def test_all_unknown_settings_are_named_at_once(checkpoint: Path, tmp_path: Path) -> None:
    change_config(checkpoint, model_type="t5", hidden_act="mish", position_embedding_type="rotary")
    with pytest.raises(UnsupportedModelError) as caught:
        export_fp32(checkpoint, tmp_path / "artifact")
    assert all(name in str(caught.value) for name in ("'t5'", "'mish'", "'rotary'"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": "32"}, "hidden_size is '32'; int expected"),
        ({"hidden_size": 33}, "33 is no multiple of the 4 heads"),
        ({"num_hidden_layers": 0}, "layers is 0; 1 to 1000 expected"),
        ({"pad_token_id": -1}, "pad_token_id is -1"),
        ({"vocab_size": 50}, "the tokenizer has .* tokens, the model 50, and plain texts hold"),
    ],
)
def test_contradicting_config_is_refused(
    checkpoint: Path, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    change_config(checkpoint, **fields)
    with pytest.raises(CheckpointError, match=message):
        export_fp32(checkpoint, tmp_path / "artifact")


def test_every_missing_tensor_is_named(checkpoint: Path, tmp_path: Path) -> None:
    tensors = read_tensors(checkpoint)
    gone = ["bert.embeddings.LayerNorm.bias", "bert.encoder.layer.1.output.dense.weight", "classifier.bias"]
    write_tensors(checkpoint, {name: value for name, value in tensors.items() if name not in gone})
    with pytest.raises(CheckpointError, match="3 problems") as caught:
        export_fp32(checkpoint, tmp_path / "artifact")
    assert all(f"{name.removeprefix('bert.')} is missing" in str(caught.value) for name in gone)


def test_every_tensor_of_another_shape_is_named(checkpoint: Path, tmp_path: Path) -> None:
    tensors = read_tensors(checkpoint)
    tensors["bert.pooler.dense.weight"] = tensors["bert.pooler.dense.weight"][:, :31]
    tensors["classifier.weight"] = np.zeros((2, 32), np.float32)
    write_tensors(checkpoint, tensors)
    with pytest.raises(CheckpointError, match="2 problems") as caught:
        export_fp32(checkpoint, tmp_path / "artifact")
    assert "pooler.dense.weight has shape [32, 31]; [32, 32] expected" in str(caught.value)
    assert "classifier.weight has shape [2, 32]; [1, 32] expected" in str(caught.value)


def test_tensor_of_integers_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    tensors = read_tensors(checkpoint)
    tensors["classifier.bias"] = np.zeros(1, np.int32)
    write_tensors(checkpoint, tensors)
    with pytest.raises(
        CheckpointError, match=r"classifier\.bias is int32; float32, float16, bfloat16 or float64 expected"
    ):
        export_fp32(checkpoint, tmp_path / "artifact")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("config.json", ModelNotFoundError, "holds no model: it has no config.json"),
        ("tokenizer.json", CheckpointError, "no tokenizer"),
        ("model.safetensors", CheckpointError, "no weights: neither model.safetensors nor pytorch_model.bin"),
    ],
)
def test_missing_file_is_named(checkpoint: Path, name: str, error: type[CrossrankError], message: str) -> None:
    (checkpoint / name).unlink()
    assert message in message_of(checkpoint, error)


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
        *("chat_template.jinja", "chat_template.json", "additional_chat_templates"),
        *("model.safetensors", "adapter_config.json"),
    ],
)
@pytest.mark.parametrize("target", ["../../blobs/0123", "loop"])
def test_a_link_that_leads_nowhere_is_no_absent_file(checkpoint: Path, name: str, target: str) -> None:
    """As of a hub's cache that lost a file: without it the model would be another one."""
    (checkpoint / name).unlink(missing_ok=True)
    (checkpoint / name).symlink_to(name if target == "loop" else target)
    if name == "vocab.txt":
        (checkpoint / "tokenizer.json").unlink()
    message = message_of(checkpoint, ModelError)
    assert message.startswith(f"{checkpoint}")
    assert message.count(f"{checkpoint}") == 1
    assert name in message
    assert "chat_template" in name or "a link that leads nowhere" in message


def test_a_link_that_leads_nowhere_is_noticed_after_an_export(checkpoint: Path, tmp_path: Path) -> None:
    CrossEncoder(checkpoint, cache_folder=tmp_path / "cache", precision="fp32", device="cpu")
    (checkpoint / "added_tokens.json").symlink_to("nowhere")
    with pytest.raises(CheckpointError, match=r"added_tokens\.json: a link that leads nowhere"):
        CrossEncoder(checkpoint, cache_folder=tmp_path / "cache", precision="fp32", device="cpu")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("change", ["folder", "garbage"])
def test_a_folder_is_named_once(checkpoint: Path, name: str, change: str) -> None:
    (checkpoint / name).unlink()
    if change == "folder":
        (checkpoint / name).mkdir()
    else:
        (checkpoint / name).write_bytes(b"\xff")
    message = message_of(checkpoint, CheckpointError)
    assert message.startswith(f"{checkpoint}: {name}: ")
    assert message.count(f"{checkpoint}") == 1


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff garbage", b"[1, 2]"])
def test_damaged_file_is_named(checkpoint: Path, tmp_path: Path, name: str, content: bytes) -> None:
    (checkpoint / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name.partition(".")[0] if name != "model.safetensors" else "weights"):
        export_fp32(checkpoint, tmp_path / "artifact")


def test_truncated_weights_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="weights cannot be read"):
        export_fp32(checkpoint, tmp_path / "artifact")


def test_shard_index_cannot_leave_the_folder(checkpoint: Path, tmp_path: Path) -> None:
    sharded(checkpoint)
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text(encoding="utf-8"))
    index["weight_map"]["classifier.bias"] = "../elsewhere.safetensors"
    write_json(checkpoint / "model.safetensors.index.json", index)
    with pytest.raises(CheckpointError, match="is no file of this folder"):
        export_fp32(checkpoint, tmp_path / "artifact")


def test_shard_that_is_absent_is_named(checkpoint: Path, tmp_path: Path) -> None:
    sharded(checkpoint)
    (checkpoint / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"index.json: model-00002-of-00002.safetensors is missing"):
        export_fp32(checkpoint, tmp_path / "artifact")


def test_truncation_on_the_left_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint / "tokenizer_config.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"truncation_side": "left"})
    with pytest.raises(UnsupportedModelError, match="truncation_side 'left'"):
        export_fp32(checkpoint, tmp_path / "artifact")


def test_all_problems_of_a_folder_are_named_at_once(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").write_text("{}")
    (checkpoint / "model.safetensors").write_bytes(b"garbage")
    change_config(checkpoint, hidden_size="wide", num_attention_heads=None)
    message = message_of(checkpoint, CheckpointError)
    for part in ("tokenizer.json", "model.safetensors", "hidden_size is 'wide'", "num_attention_heads is None"):
        assert part in message


def test_all_damaged_settings_are_named_at_once(checkpoint: Path) -> None:
    for name in ("config.json", "tokenizer_config.json", "config_sentence_transformers.json"):
        (checkpoint / name).write_text("{")
    message = message_of(checkpoint, CheckpointError)
    assert "3 problems" in message
    assert all(f"  - {name}: " in message for name in ("config.json", "tokenizer_config.json"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_by_tensor(checkpoint: Path, value: float) -> None:
    tensors = read_tensors(checkpoint)
    tensors["classifier.weight"][0, :3] = value
    tensors["bert.pooler.dense.bias"][5] = value
    write_tensors(checkpoint, tensors)
    message = message_of(checkpoint, CheckpointError)
    assert "classifier.weight holds 3 values that are NaN or infinite" in message
    assert "pooler.dense.bias holds 1 values that are NaN or infinite" in message


def test_gigantic_sizes_take_no_memory(checkpoint: Path) -> None:
    """Placeholders for tensors of another shape would be 400 TB."""
    change_config(checkpoint, hidden_size=10_000_000, intermediate_size=10_000_000, num_attention_heads=1)
    assert "[10000000, 10000000] expected" in message_of(checkpoint, CheckpointError)


def test_layers_that_are_missing_are_counted(checkpoint: Path) -> None:
    change_config(checkpoint, num_hidden_layers=1000)
    assert "of 1000 layers the weights hold 2; missing: 2 to 999" in message_of(checkpoint, CheckpointError)


def test_model_without_a_classification_head_lacks_its_tensors(checkpoint: Path) -> None:
    write_tensors(checkpoint, {n: v for n, v in read_tensors(checkpoint).items() if not n.startswith("classifier")})
    assert "classifier.weight is missing" in message_of(checkpoint, CheckpointError)


# PyTorch files.


def test_truncated_pytorch_file_is_refused(checkpoint: Path) -> None:
    as_pytorch(checkpoint)
    path = checkpoint / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-5000])
    assert "pytorch_model.bin: weights cannot be read" in message_of(checkpoint, CheckpointError)


def test_pytorch_shard_that_is_absent_is_named(checkpoint: Path) -> None:
    as_sharded_pytorch(checkpoint)
    (checkpoint / "pytorch_model-00002-of-00002.bin").unlink()
    assert "pytorch_model-00002-of-00002.bin is missing" in message_of(checkpoint, CheckpointError)


@pytest.mark.parametrize("shard", ["pytorch_model-00001-of-00001.bin", "weights.pt"])
def test_index_of_safetensors_that_names_files_of_other_kinds_is_refused(checkpoint: Path, shard: str) -> None:
    """Retrained ones would not be seen."""
    (checkpoint / "model.safetensors").rename(checkpoint / shard)
    write_json(checkpoint / "model.safetensors.index.json", {"weight_map": {"classifier.weight": shard}})
    message = f"model.safetensors.index.json: '{shard}' is no .safetensors file"
    assert message in message_of(checkpoint, CheckpointError)


class _Attack:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_file_cannot_run_code(checkpoint: Path, tmp_path: Path, zipped: bool) -> None:
    state: dict[str, Any] = dict(torch_files.load_file(checkpoint / "model.safetensors"))
    state["classifier.bias"] = _Attack(tmp_path / "owned")
    torch.save(state, checkpoint / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    (checkpoint / "model.safetensors").unlink()
    assert "weights cannot be read: UnpicklingError" in message_of(checkpoint, CheckpointError)
    assert not (tmp_path / "owned").exists()


def test_compressed_pytorch_file_is_refused(checkpoint: Path) -> None:
    """It could unpack to any size."""
    as_pytorch(checkpoint)
    path = checkpoint / "pytorch_model.bin"
    with zipfile.ZipFile(path) as plain:
        entries = {name: plain.read(name) for name in plain.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in entries.items():
            packed.writestr(name, content)
    assert "its entries are compressed" in message_of(checkpoint, CheckpointError)


def test_pytorch_file_that_holds_no_mapping_is_refused(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    torch.save([torch.zeros(3)], checkpoint / "pytorch_model.bin")
    assert "a mapping of names to tensors is expected, this is list" in message_of(checkpoint, CheckpointError)


def test_pytorch_file_without_torch_names_the_extra(checkpoint: Path, tmp_path: Path) -> None:
    as_pytorch(checkpoint)
    code = """
import sys
sys.modules["torch"] = None
from crossrank.export._cli import main
sys.exit(main(sys.argv[1:]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(checkpoint), "-o", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "is a PyTorch file, which only torch reads: pip install 'crossrank[torch]'" in done.stderr
    assert "Traceback" not in done.stderr


# sentence-transformers' folders that are something else.


def test_embedding_model_is_refused_by_name(bert: Path, checkpoint: Path) -> None:
    modules = sentence_transformers.sentence_transformer.modules
    model = sentence_transformers.SentenceTransformer(
        modules=[modules.Transformer(str(bert)), modules.Pooling(32)], device="cpu"
    )
    shutil.rmtree(checkpoint)
    model.save_pretrained(str(checkpoint))
    assert "this is an embedding model (Pooling)" in message_of(checkpoint, UnsupportedModelError)


def write_modules(folder: Path, *modules: tuple[str, str]) -> None:
    package = "sentence_transformers.cross_encoder.modules"
    entries = [{"idx": i, "name": str(i), "path": p, "type": f"{package}.{t}"} for i, (t, p) in enumerate(modules)]
    write_json(folder / "modules.json", entries)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([("Transformer", ""), ("LogitScore", "1_LogitScore")], "a causal language model scored by the logit of a"),
        ([("Transformer", ""), ("Normalize", "1_Normalize")], "a chain of Transformer, Normalize"),
        (
            [("Transformer", ""), ("Pooling", "1"), ("Normalize", "2"), ("Dense", "3"), ("CNN", "4")],
            "a reranker of pooled token embeddings with Normalize, CNN",
        ),
        ([], "a chain of no modules"),
        ([("Transformer", "")], "transformer_task is 'feature-extraction'; only 'sequence-classification'"),
    ],
)
def test_other_chains_of_modules_are_refused_by_name(checkpoint: Path, modules: Any, message: str) -> None:
    write_modules(checkpoint, *modules)
    assert message in message_of(checkpoint, UnsupportedModelError)


@pytest.mark.parametrize("place", ["..", "/etc", "a/../../b", "..\\up", "9" * 5000])
def test_modules_cannot_leave_the_folder(checkpoint: Path, place: str) -> None:
    write_modules(checkpoint, ("Transformer", place))
    assert "is no folder inside this one" in message_of(checkpoint, CheckpointError)


@pytest.mark.parametrize("content", ["{}", "7", "[7]", '[{"type": 1}]', "[", '[{"path": 1, "type": "a"}]'])
def test_damaged_list_of_modules_is_refused(checkpoint: Path, content: str) -> None:
    (checkpoint / "modules.json").write_text(content)
    assert "modules.json: a list of modules with type and path is expected" in message_of(checkpoint, CheckpointError)


def test_setting_that_would_change_scores_is_refused(checkpoint: Path) -> None:
    write_json(checkpoint / "config_sentence_transformers.json", {"default_prompt_name": "query"})
    write_json(checkpoint / "sentence_bert_config.json", {"do_lower_case": True})
    message = message_of(checkpoint, UnsupportedModelError)
    assert "default_prompt_name is 'query'; no prompts only" in message
    assert "do_lower_case is set" in message


TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }} {% endfor %}"


def set_template(folder: Path, place: str) -> None:
    """A chat template as transformers 4 (in the settings) and 5 (in a file) write it."""
    if place == "tokenizer_config.json":
        write_json(folder / place, json.loads((folder / place).read_text("utf-8")) | {"chat_template": TEMPLATE})
    else:
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_text(TEMPLATE, encoding="utf-8")


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("tokenizer_config.json", "tokenizer_config.json: chat_template is set: a chat template"),
        (
            "chat_template.jinja",
            "chat_template.jinja: a chat template, which sentence-transformers writes each pair into",
        ),
        ("additional_chat_templates/rerank.jinja", "additional_chat_templates: a chat template"),
    ],
)
def test_chat_template_is_refused_by_name(checkpoint: Path, place: str, named: str) -> None:
    set_template(checkpoint, place)
    assert named in message_of(checkpoint, UnsupportedModelError)


def test_chat_template_changes_what_sentence_transformers_reads(bert: Path, checkpoint: Path) -> None:
    set_template(checkpoint, "chat_template.jinja")
    templated, plain = (sentence_transformers.CrossEncoder(str(folder), device="cpu") for folder in (checkpoint, bert))
    assert "message" in templated[0].modality_config
    assert "message" not in plain[0].modality_config


def test_chat_template_that_is_not_used_is_no_obstacle(bert: Path, checkpoint: Path, tmp_path: Path) -> None:
    """sentence-transformers writes what its model reads; where that is text alone, no template is applied."""
    set_template(checkpoint, "chat_template.jinja")
    text = {"text": {"method": "forward", "method_output_name": "logits"}}
    task = {"transformer_task": "sequence-classification", "module_output_name": "scores"}
    write_json(checkpoint / "sentence_bert_config.json", {"modality_config": text, **task})
    export_fp32(checkpoint, tmp_path / "artifact")
    write_json(checkpoint / "sentence_bert_config.json", {"modality_config": text | {"message": {}}, **task})
    assert "chat_template.jinja: a chat template" in message_of(checkpoint, UnsupportedModelError)


@pytest.mark.parametrize(
    "settings",
    [
        {"prompts": {"query": "find: "}, "default_prompt_name": None},
        {"prompts": {"query": ""}, "default_prompt_name": "query"},
    ],
)
def test_prompt_that_is_not_used_is_no_obstacle(checkpoint: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    write_json(checkpoint / "config_sentence_transformers.json", settings)
    export_fp32(checkpoint, tmp_path / "artifact")


def test_arguments_of_the_tokenizer_are_refused_by_name(checkpoint: Path) -> None:
    write_json(checkpoint / "sentence_bert_config.json", {"processing_kwargs": {"text": {"truncation": "only_first"}}})
    assert "processing_kwargs is {'text': {'truncation': 'only_first'}}; only none" in message_of(
        checkpoint, UnsupportedModelError
    )


@pytest.mark.parametrize("said", [False, True])
def test_truncation_on_the_left_by_the_tokenizer_is_refused_unless_its_settings_say_right(
    checkpoint: Path, tmp_path: Path, said: bool
) -> None:
    """As transformers takes the side from tokenizer.json where tokenizer_config.json is silent."""
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_LENGTH, direction="left")
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    if said:
        path = checkpoint / "tokenizer_config.json"
        write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"truncation_side": "right"})
        export_fp32(checkpoint, tmp_path / "artifact")
    else:
        assert "tokenizer.json: truncation direction 'left'" in message_of(checkpoint, UnsupportedModelError)


def test_activation_is_asked_for_by_the_name_that_the_family_gives_it(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "distilbert")
    change_config(checkpoint, activation="mish", hidden_act="gelu")
    assert "the activation is 'mish'" in message_of(checkpoint, UnsupportedModelError)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda checkpoint: checkpoint / "config.json", "is a file; pass the folder that holds it"),
        (lambda checkpoint: export_fp32(checkpoint, checkpoint / "art"), "is an exported artifact and no checkpoint"),
        (
            lambda checkpoint: foreign_folder(checkpoint, checkpoint / "graphs"),
            "holds ONNX files without weights to export",
        ),
        (lambda checkpoint: checkpoint.parent, "holds no model: it has no config.json"),
    ],
)
def test_place_that_is_no_checkpoint_says_what_it_is(checkpoint: Path, tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(ModelNotFoundError, match=message):
        export_model(make(checkpoint), tmp_path / "out")


def test_revision_of_a_folder_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"revision='v1': .* is a folder, which has no revisions"):
        export_model(checkpoint, tmp_path / "out", revision="v1")


def test_revision_of_a_folder_is_refused_however_often_it_was_loaded(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSRANK_HOME", str(tmp_path / "cache"))
    artifact = CrossEncoder(checkpoint, device="cpu", precision="fp32").info().folder
    foreign = foreign_folder(checkpoint, tmp_path / "foreign", precisions=["fp32"])
    file = foreign / "onnx" / "model.onnx"
    for place, kind in ((checkpoint, "folder"), (artifact, "folder"), (foreign, "folder"), (file, "file")):
        with pytest.raises(InputError, match=rf"revision='v1': .* is a {kind}, which has no revisions; leave it out"):
            CrossEncoder(place, device="cpu", revision="v1")
    with pytest.raises(InputError, match=r"revision='v1': .*crossrank-mini-en is a folder, which has no revisions"):
        CrossEncoder(revision="v1")


def test_chat_template_that_comes_after_an_export_is_noticed(checkpoint: Path, tmp_path: Path) -> None:
    CrossEncoder(checkpoint, cache_folder=tmp_path / "cache", precision="fp32", device="cpu")
    set_template(checkpoint, "chat_template.jinja")
    with pytest.raises(UnsupportedModelError, match="chat template"):
        CrossEncoder(checkpoint, cache_folder=tmp_path / "cache", precision="fp32", device="cpu")
