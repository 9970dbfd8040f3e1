"""Rerankers of other kinds than encoders are refused by name before their weights are read or downloaded."""

from pathlib import Path
from typing import Any

import pytest

from crossrank import CheckpointError, UnsupportedModelError
from crossrank.export import export_model
from tests.support.tiny_models import write_json

# As their authors publish them.
CAUSAL: dict[str, dict[str, Any]] = {
    "Qwen3-Reranker-0.6B": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"},
    "mxbai-rerank-base-v2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
    "Qwen3-Reranker-0.6B-seq-cls": {"architectures": ["Qwen3ForSequenceClassification"], "model_type": "qwen3"},
    "bge-reranker-v2-gemma": {"architectures": ["GemmaForCausalLM"], "model_type": "gemma"},
    "bge-reranker-v2-minicpm-layerwise": {
        "architectures": ["LayerWiseMiniCPMForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_minicpm_reranker.LayerWiseMiniCPMConfig"},
        "model_type": "minicpm",
    },
    "llama-nemotron-rerank-1b-v2": {
        "architectures": ["LlamaBidirectionalForSequenceClassification"],
        "model_type": "llama_bidirec",
    },
    "rank_zephyr_7b_v1_full": {"architectures": ["MistralForCausalLM"], "model_type": "mistral"},
}
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "jina-reranker-v3": (
        {"architectures": ["JinaForRanking"], "model_type": "qwen3"},
        "this is a listwise reranker (JinaForRanking)",
    ),
    "jina-reranker-m0": (
        {"architectures": ["JinaVLForRanking"], "model_type": "qwen2_vl", "vision_config": {"depth": 32}},
        "this is a multimodal reranker (JinaVLForRanking)",
    ),
    "Qwen3-VL-Reranker-2B": (
        {"architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl", "vision_config": {}},
        "this is a multimodal reranker (Qwen3VLForConditionalGeneration)",
    ),
    "monot5-base-msmarco": (
        {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "is_encoder_decoder": True},
        "this is an encoder-decoder (T5ForConditionalGeneration)",
    ),
}


def checkpoint(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir()
    write_json(folder / "config.json", config)
    (folder / "model.safetensors").write_bytes(b"not looked at")
    return folder


def message_of(folder: Path, **options: Any) -> str:
    with pytest.raises(UnsupportedModelError) as error:
        export_model(folder, folder.parent / "artifact", **options)
    return str(error.value)


@pytest.mark.parametrize("exporter", ["auto", "native", "optimum"])
@pytest.mark.parametrize("name", CAUSAL)
def test_causal_reranker_is_refused_by_name(tmp_path: Path, name: str, exporter: Any) -> None:
    message = message_of(checkpoint(tmp_path / name, CAUSAL[name]), exporter=exporter)
    assert f"config.json: this is a causal language model ({CAUSAL[name]['architectures'][0]})" in message
    assert "sentence-transformers' CrossEncoder or vLLM runs it" in message
    assert "cross-encoder/ettin-reranker-150m-v1" in message
    assert "pip install" not in message  # the other exporter is no road either


@pytest.mark.parametrize("name", OTHERS)
def test_listwise_multimodal_and_generating_rerankers_are_refused_by_name(tmp_path: Path, name: str) -> None:
    config, expected = OTHERS[name]
    message = message_of(checkpoint(tmp_path / name, config))
    assert f"config.json: {expected}" in message
    assert "supported are encoders with a classification head" in message


def test_whatever_else_the_settings_hold_against_it_is_in_the_same_message(tmp_path: Path) -> None:
    """As sentence-transformers 6 writes a Qwen3-Reranker."""
    folder = checkpoint(tmp_path / "model", CAUSAL["Qwen3-Reranker-0.6B"])
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {"truncation_side": "left"})
    message = message_of(folder)
    assert "this is a causal language model (Qwen3ForCausalLM)" in message
    assert "chat_template.jinja: a chat template" in message
    assert "truncation_side 'left'" in message
    package = "sentence_transformers.cross_encoder.modules"
    modules = [("Transformer", ""), ("LogitScore", "1_LogitScore")]
    write_json(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": p, "type": f"{package}.{t}"} for i, (t, p) in enumerate(modules)],
    )
    message = message_of(folder)
    assert "this is a causal language model (Qwen3ForCausalLM)" in message
    assert "scored by the logit of a token (LogitScore)" in message


def test_a_damaged_config_is_still_called_damaged(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", {})
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        export_model(folder, tmp_path / "artifact")
