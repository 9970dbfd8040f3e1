"""Ways in which people find a checkpoint stored, each a change to its folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file as save_arrays
from tokenizers import Tokenizer

from tests.support.checkpoint_files import Tensors, read_tensors, write_tensors
from tests.support.references import reference
from tests.support.tiny_models import MAX_LENGTH, config_of, write_json

torch = reference("torch")
sentence_transformers = reference("sentence_transformers")
torch_files = reference("safetensors.torch")


def change_state(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    torch_files.save_file(
        change(torch_files.load_file(folder / "model.safetensors")),
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


def without_prefix(folder: Path) -> None:
    write_tensors(folder, {name.removeprefix("bert."): value for name, value in read_tensors(folder).items()})


def sharded(folder: Path) -> None:
    tensors = read_tensors(folder)
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, part in shards.items():
        save_arrays({name: tensors[name] for name in part}, folder / shard, metadata={"format": "pt"})
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def with_padding_and_truncation(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(length=128)
    tokenizer.enable_truncation(7)
    tokenizer.save(str(folder / "tokenizer.json"))


def with_tensors_of_no_use(folder: Path) -> None:
    extra: Tensors = {
        "bert.embeddings.position_ids": np.arange(MAX_LENGTH)[None],
        "cls.predictions.bias": np.zeros(9, np.float32),
    }
    write_tensors(folder, read_tensors(folder) | extra)


def as_pytorch(folder: Path) -> None:
    torch.save(torch_files.load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def as_old_pytorch(folder: Path) -> None:
    """The format of torch before 1.6, which is no zip archive."""
    state = torch_files.load_file(folder / "model.safetensors")
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    (folder / "model.safetensors").unlink()


def as_sharded_pytorch(folder: Path) -> None:
    state = torch_files.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {name: f"pytorch_model-{1 + i % 2:05}-of-00002.bin" for i, name in enumerate(sorted(state))}
    for shard in set(weight_map.values()):
        torch.save({name: state[name] for name in state if weight_map[name] == shard}, folder / shard)
    write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": weight_map})


def with_names_of_tensorflow(folder: Path) -> None:
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def rename(name: str) -> str:
        for new, old in names.items():
            name = name.replace(new, old)
        return name

    change_state(folder, lambda state: {rename(name): value for name, value in state.items()})


def without_model_type(folder: Path) -> None:
    config = config_of(folder)
    del config["model_type"]
    write_json(folder / "config.json", config)


def without_labels(folder: Path) -> None:
    config = config_of(folder)
    for name in ("id2label", "label2id", "num_labels"):
        config.pop(name, None)
    write_json(folder / "config.json", config)


def with_vocabulary_alone(folder: Path) -> None:
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n", "utf-8")
    (folder / "tokenizer.json").unlink()


def as_modules(folder: Path) -> None:
    saved = folder.with_name("saved")
    sentence_transformers.CrossEncoder(str(folder), device="cpu").save_pretrained(str(saved))
    assert (saved / "modules.json").exists()
    shutil.rmtree(folder)
    saved.rename(folder)


def as_modules_with_a_folder(folder: Path) -> None:
    as_modules(folder)
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json", "README.md"):
            path.rename(inner / path.name)
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    write_json(folder / "modules.json", [module | {"path": "0_Transformer"} for module in modules])
