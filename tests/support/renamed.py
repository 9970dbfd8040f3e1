"""Checkpoints of known architectures in the names that other code gives them, made of those in transformers' names."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.checkpoint_files import read_tensors, write_tensors
from tests.support.tiny_models import config_of, make_checkpoint, write_json

# Model types that are another one's but for names.
RENAMED = ("new", "ernie", "data2vec-text")


def make_renamed(folder: Path, kind: str, **options: Any) -> Path:
    """A checkpoint of one of `RENAMED`, as `make_checkpoint` makes them."""
    if kind == "new":
        return as_new(make_checkpoint(folder, "gte", **options))
    old = {"ernie": "bert", "data2vec-text": "roberta"}[kind]
    make_checkpoint(folder, old, **options)
    prefix = f"{kind.replace('-', '_')}."
    write_tensors(folder, {_moved(name, f"{old}.", prefix): value for name, value in read_tensors(folder).items()})
    model = {"ernie": "Ernie", "data2vec-text": "Data2VecText"}[kind]
    described = {"model_type": kind, "architectures": [f"{model}ForSequenceClassification"]}
    write_json(folder / "config.json", config_of(folder) | described)
    return folder


def _moved(name: str, old: str, new: str) -> str:
    return new + name.removeprefix(old) if name.startswith(old) else name


def as_new(folder: Path, *, packed: bool = True, **rope: Any) -> Path:
    """A checkpoint of "gte" as Alibaba-NLP publishes it, for code of its own; ``rope`` is its rope_scaling."""
    tensors, renamed = read_tensors(folder), {}
    for name, value in tensors.items():
        found = re.fullmatch(r"gte\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if found is None:
            renamed[_moved(name, "gte.", "new.")] = value
            continue
        number, part, kind = found.groups()
        at, old = f"new.encoder.layer.{number}", f"gte.layers.{number}"
        if part == "self_attn.q_proj" and packed:
            parts = [tensors[f"{old}.self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            renamed[f"{at}.attention.qkv_proj.{kind}"] = np.concatenate(parts)
        elif part == "mlp.up_proj":
            renamed[f"{at}.mlp.up_gate_proj.{kind}"] = np.concatenate([value, tensors[f"{old}.mlp.gate_proj.{kind}"]])
        elif part not in ("mlp.gate_proj", *(f"self_attn.{letter}_proj" for letter in "qkv" if packed)):
            new = part.replace("self_attn.", "attention.").replace("post_attention_layernorm", "attn_ln")
            renamed[f"{at}.{new.replace('post_mlp_layernorm', 'mlp_ln')}.{kind}"] = value
    write_tensors(folder, renamed)
    config = config_of(folder)
    theta = config.pop("rope_parameters")["rope_theta"]
    config |= {"model_type": "new", "architectures": ["NewForSequenceClassification"], "rope_theta": theta}
    config |= {"position_embedding_type": "rope", "layer_norm_type": "layer_norm", "pack_qkv": packed}
    config |= {"auto_map": {"AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig"}}
    config |= {"rope_scaling": rope or None, "logn_attention_scale": False, "unpad_inputs": False}
    write_json(folder / "config.json", config)
    return folder


def as_flash(folder: Path) -> Path:
    """A checkpoint of XLM-R as jina-reranker-v2 is published: in the names of flash-attention, without a model type."""
    tensors, renamed = read_tensors(folder), {}
    parts = {
        **{"attention.output.dense": "mixer.out_proj", "attention.output.LayerNorm": "norm1"},
        **{"intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2", "output.LayerNorm": "norm2"},
    }
    for name, value in tensors.items():
        found = re.fullmatch(r"roberta\.encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", name)
        if found is None:
            renamed[name.replace("embeddings.LayerNorm", "emb_ln")] = value
            continue
        number, part, kind = found.groups()
        if part in parts:
            renamed[f"roberta.encoder.layers.{number}.{parts[part]}.{kind}"] = value
        elif part == "attention.self.query":
            own = f"roberta.encoder.layer.{number}.attention.self"
            three = [tensors[f"{own}.{which}.{kind}"] for which in ("query", "key", "value")]
            renamed[f"roberta.encoder.layers.{number}.mixer.Wqkv.{kind}"] = np.concatenate(three)
    write_tensors(folder, renamed)
    config = {name: value for name, value in config_of(folder).items() if name not in ("model_type", "dtype")}
    names = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification")
    config |= {"auto_map": dict.fromkeys(names, "modeling_xlm_roberta.XLMRobertaModel"), "use_flash_attn": True}
    config |= {"position_embedding_type": "absolute", "torch_dtype": "bfloat16"}
    write_json(folder / "config.json", config)
    return folder
