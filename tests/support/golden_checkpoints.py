"""Small checkpoints and what transformers 4.57.6 and peft 0.21.2 make of them, in transformers_4.json.

The tests have another transformers. To write the file anew, with these two versions in an environment of their own:

    python -m tests.support.golden_checkpoints write FOLDER          in the tests' environment
    python tests/support/golden_checkpoints.py read FOLDER           in that one

Case by case of tokenizers: an architecture's tokenizer, with other settings beside it, or with another tokenizer.json.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).with_name("transformers_4.json")
# Capitals, accents, Chinese, a ligature, special tokens spelled out, spaces before a mask, an empty document.
PAIRS = (
    ("SKY over Öl", "The naïve kettle of 東京, ﬁve ships"),
    ("what is [SEP] for", " the sea  <mask> or [MASK] </s> lighthouse"),
    ("violin", ""),
)
Change = Callable[[dict[str, Any]], Any]


def _normalizer(value: Any) -> Change:
    return lambda content: content.update(normalizer=value(content["normalizer"]) if callable(value) else value)


def _part(name: str, **fields: Any) -> Change:
    return lambda content: content[name].update(fields)


def _mask_keeps_spaces(content: dict[str, Any]) -> None:
    for token in content["added_tokens"]:
        if token["content"] == "<mask>":
            token["lstrip"] = False


@dataclass(frozen=True)
class TokenizerCase:
    """A tokenizer whose files may contradict each other.

    Attributes:
        architecture: Of tiny_models.
        settings: Of tokenizer_config.json; None takes one away.
        change: Of tokenizer.json's content.
        files: More files, or others, by name; None takes one away.
        unlike_5: Whether transformers 5 gives other ids, or other token types, or fails.
    """

    architecture: str
    settings: dict[str, Any] = field(default_factory=dict)
    change: Change | None = None
    files: dict[str, Any] = field(default_factory=dict)
    unlike_5: bool = False

    def write(self, folder: Path) -> None:
        """Write the tokenizer, and where there is none a config.json that says its architecture alone."""
        from tests.support.tiny_models import write_json, write_tokenizer

        write_tokenizer(folder, self.architecture)
        path, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
        stated = json.loads(settings.read_text(encoding="utf-8")) | self.settings
        write_json(settings, {name: value for name, value in stated.items() if value is not None})
        if self.change is not None:
            content = json.loads(path.read_text(encoding="utf-8"))
            self.change(content)
            write_json(path, content)
        if not (folder / "config.json").exists():
            write_json(folder / "config.json", {"model_type": self.architecture})
        for name, value in self.files.items():
            if value is None:
                (folder / name).unlink()
            else:
                write_json(folder / name, value)


_MASK = {"content": "[MASK]", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
_LOWERCASE = _normalizer({"type": "Lowercase"})
_NFKC_FIRST = _normalizer(lambda found: {"type": "Sequence", "normalizers": [{"type": "NFKC"}, found]})
_TWICE = [{"SpecialToken": {"id": "[SEP]", "type_id": 0}}] * 2
TOKENIZERS = {
    **{name: TokenizerCase(name) for name in ("bert", "electra", "roberta", "xlm-roberta", "camembert", "distilbert")},
    "mpnet": TokenizerCase("mpnet"),
    "no class": TokenizerCase("bert", {"tokenizer_class": None}),
    "no class, DistilBERT": TokenizerCase("distilbert", {"tokenizer_class": None}, unlike_5=True),
    # Token types.
    "PreTrainedTokenizerFast": TokenizerCase("bert", {"tokenizer_class": "PreTrainedTokenizerFast"}, unlike_5=True),
    "HerbertTokenizerFast": TokenizerCase("bert", {"tokenizer_class": "HerbertTokenizerFast"}, unlike_5=True),
    "AlbertTokenizer": TokenizerCase("bert", {"tokenizer_class": "AlbertTokenizer"}, unlike_5=True),
    "DistilBertTokenizer": TokenizerCase("bert", {"tokenizer_class": "DistilBertTokenizer"}),
    "ConvBertTokenizer": TokenizerCase("bert", {"tokenizer_class": "ConvBertTokenizer"}),
    "model_input_names without": TokenizerCase("bert", {"model_input_names": ["input_ids", "attention_mask"]}),
    "model_input_names with": TokenizerCase("distilbert", {"model_input_names": ["input_ids", "token_type_ids"]}),
    # A BertNormalizer.
    **{
        f"{name} {architecture}": TokenizerCase(architecture, {name: False})
        for architecture in ("bert", "electra", "distilbert", "mpnet")
        for name in ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
        if (architecture, name) != ("mpnet", "tokenize_chinese_chars")
    },
    "MPNet's Chinese": TokenizerCase("mpnet", {"tokenize_chinese_chars": False}, unlike_5=True),
    "cased by tokenizer.json alone": TokenizerCase("bert", change=_part("normalizer", lowercase=False)),
    "accents by tokenizer.json alone": TokenizerCase("bert", change=_part("normalizer", strip_accents=False)),
    "not cleaned": TokenizerCase("bert", {"do_lower_case": False}, _part("normalizer", clean_text=False)),
    "generic class, cased": TokenizerCase(
        "bert", {"do_lower_case": False, "tokenizer_class": "PreTrainedTokenizerFast"}, unlike_5=True
    ),
    # Parts that transformers 5 takes from the class.
    "lower-case XLM-R": TokenizerCase("xlm-roberta", change=_LOWERCASE, unlike_5=True),
    "lower-case RoBERTa": TokenizerCase("roberta", change=_LOWERCASE, unlike_5=True),
    "lower-case BERT": TokenizerCase("bert", {"do_lower_case": False}, _LOWERCASE, unlike_5=True),
    "NFKC before": TokenizerCase("bert", change=_NFKC_FIRST, unlike_5=True),
    "NFKC before, cased": TokenizerCase("bert", {"do_lower_case": False}, _NFKC_FIRST, unlike_5=True),
    "shorter words": TokenizerCase("bert", change=_part("model", max_input_chars_per_word=5), unlike_5=True),
    "two separators": TokenizerCase(
        "bert",
        change=lambda c: c["post_processor"].update(
            pair=c["post_processor"]["pair"][:2] + _TWICE + c["post_processor"]["pair"][3:]
        ),
        unlike_5=True,
    ),
    # Spaces before a text.
    "RoBERTa with a space": TokenizerCase("roberta", {"add_prefix_space": True}),
    "RoBERTa without, which its file has": TokenizerCase(
        "roberta", change=_part("pre_tokenizer", add_prefix_space=True)
    ),
    "generic class with a space": TokenizerCase(
        "roberta", {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": True}, unlike_5=True
    ),
    "XLM-R without a space": TokenizerCase("xlm-roberta", {"add_prefix_space": False}, unlike_5=True),
    # Special and added tokens.
    "none in tokenizer.json": TokenizerCase("bert", change=lambda content: content.update(added_tokens=[])),
    "another cls_token": TokenizerCase(
        "bert", {"cls_token": "[MASK]"}, files={"special_tokens_map.json": None}, unlike_5=True
    ),
    "additional": TokenizerCase("bert", {"additional_special_tokens": ["kettle"]}),
    "additional in the map": TokenizerCase(
        "bert", files={"special_tokens_map.json": {"additional_special_tokens": ["sea"]}}
    ),
    "mask without spaces": TokenizerCase("roberta", change=_mask_keeps_spaces),
    "mask by added_tokens_decoder": TokenizerCase(
        "roberta",
        {"added_tokens_decoder": {"4": _MASK | {"content": "<mask>", "rstrip": True, "special": True}}},
    ),
    "added by added_tokens_decoder": TokenizerCase(
        "bert", {"added_tokens_decoder": {"246": _MASK | {"content": "ship", "special": False}}}
    ),
}  # fmt: skip


@dataclass(frozen=True)
class AdapterCase:
    """A LoRA adapter beside a checkpoint.

    Attributes:
        modules: The modules that it changes, by the ends of their names.
        options: Of adapter_config.json.
        whole: Parameters that were trained in full, by the ends of their names.
        architecture: Of tiny_models.
    """

    modules: tuple[str, ...] = ("query", "value")
    options: dict[str, Any] = field(default_factory=dict)
    whole: tuple[str, ...] = ("classifier.weight", "classifier.bias")
    architecture: str = "bert"

    def write(self, folder: Path) -> None:
        """Write a checkpoint and the adapter beside it."""
        from tests.support.tiny_models import make_checkpoint

        make_checkpoint(folder, self.architecture)
        self.write_beside(folder)

    def write_beside(self, folder: Path) -> None:
        """Write adapter_config.json, and adapter_model.safetensors drawn at random, beside a checkpoint."""
        from tests.support.tiny_models import write_json

        options = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 4, "lora_alpha": 8, **self.options}
        modules = {"target_modules": list(self.modules), "base_model_name_or_path": str(folder)}
        write_json(folder / "adapter_config.json", options | modules)
        self._write_tensors(folder)

    def _write_tensors(self, folder: Path) -> None:
        import numpy as np
        from safetensors.numpy import load_file, save_file

        rng = np.random.default_rng(7)

        def draw(*shape: int) -> Any:
            return rng.normal(scale=0.2, size=shape).astype(np.float32)

        found: dict[str, Any] = {}
        for name, value in sorted(load_file(folder / "model.safetensors").items()):
            module, _, kind = name.rpartition(".")
            if kind == "weight" and module.endswith(self.modules):
                rank = next((r for key, r in self.options.get("rank_pattern", {}).items() if module.endswith(key)), 4)
                outputs, inputs = value.shape
                at, start, end = f"base_model.model.{module}", "lora_", ".weight"
                if "embeddings" in module:
                    (inputs, outputs), start, end = value.shape, "lora_embedding_", ""
                found[f"{at}.{start}A{end}"], found[f"{at}.{start}B{end}"] = draw(rank, inputs), draw(outputs, rank)
                if self.options.get("use_dora"):
                    found[f"{at}.lora_magnitude_vector"] = 1 + draw(outputs)
                if self.options.get("lora_bias"):
                    found[f"{at}.lora_B.bias"] = draw(outputs)
            if name.endswith(self.whole):
                inner = ".base_layer" if module.endswith(self.modules) else ""
                found[f"base_model.model.{module}{inner}.{kind}"] = value + draw(*value.shape)
        save_file(found, folder / "adapter_model.safetensors", metadata={"format": "pt"})


ADAPTERS = {
    "plain": AdapterCase(),
    "rsLoRA": AdapterCase(options={"use_rslora": True}),
    "DoRA": AdapterCase(("query", "key", "dense"), {"use_dora": True}),
    "fan_in_fan_out": AdapterCase(options={"fan_in_fan_out": True}),
    "patterns": AdapterCase(
        options={
            "rank_pattern": {"layer.1.attention.self.query": 2},
            "alpha_pattern": {"layer.1.attention.self.query": 32, "value": 3, "layer.[01].attention.self.value": 5},
        }
    ),
    "bias of its modules": AdapterCase(
        options={"bias": "lora_only"}, whole=("classifier.weight", "classifier.bias", "query.bias", "value.bias")
    ),
    "all biases": AdapterCase(options={"bias": "all"}, whole=("classifier.weight", "bias")),
    "bias of the product": AdapterCase(options={"lora_bias": True}),
    "embeddings": AdapterCase(("word_embeddings", "query")),
    "embeddings, DoRA": AdapterCase(("word_embeddings", "query"), {"use_dora": True}),
    "norms": AdapterCase(
        options={"modules_to_save": ["LayerNorm", "classifier"]},
        whole=("LayerNorm.weight", "LayerNorm.bias", "classifier.weight", "classifier.bias"),
    ),
    "ELECTRA": AdapterCase(
        ("query", "output.dense"),
        {"exclude_modules": ["classifier.dense"]},
        whole=tuple(
            f"classifier.{part}" for part in ("dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias")
        ),
        architecture="electra",
    ),
    "DistilBERT": AdapterCase(
        ("q_lin", "v_lin"),
        {"modules_to_save": ["pre_classifier", "classifier"]},
        whole=("pre_classifier.weight", "pre_classifier.bias", "classifier.weight", "classifier.bias"),
        architecture="distilbert",
    ),
}


def write(place: Path) -> None:
    """Write every case to a folder of its own."""
    for kind, cases in (("tokenizers", TOKENIZERS), ("adapters", ADAPTERS)):
        for name, case in cases.items():
            case.write(place / kind / name)


def read(place: Path) -> None:
    """Write what the installed transformers and peft give to `GOLDEN`."""
    import torch
    import transformers

    peft = import_module("peft")  # which the tests' environment does not have

    assert (transformers.__version__, peft.__version__) == ("4.57.6", "0.21.2")

    def ids(folder: Path) -> Any:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        batch = tokenizer(*map(list, zip(*PAIRS, strict=True)), return_attention_mask=False)
        return {"ids": batch["input_ids"], "types": batch.get("token_type_ids")}

    def logits(folder: Path) -> Any:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = peft.AutoPeftModelForSequenceClassification.from_pretrained(folder).eval()
        with torch.inference_mode():  # unmerged, one pair at a time
            return [model(**tokenizer([q], [d], return_tensors="pt")).logits[0].tolist() for q, d in PAIRS]

    lines = []
    for kind, look in (("tokenizers", ids), ("adapters", logits)):
        cases = {folder.name: look(folder) for folder in sorted((place / kind).iterdir())}
        inner = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in cases.items())
        lines.append(f" {json.dumps(kind)}: {{\n{inner}\n }}")
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
