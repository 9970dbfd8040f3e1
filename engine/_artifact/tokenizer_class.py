"""Facts of transformers' classes, by name alone: segments, padding, special tokens.

The same class name does not do the same in transformers 4 and 5. What counts is the version that wrote the tokenizer's
files, since a model learned from what they gave there: 5 leaves its marks in tokenizer_config.json, everything else is
read as 4 reads it (checked against 4.57.6), whichever version is installed, or none.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .special_tokens import SpecialDefaults

# Of the models, those that count positions from their padding id plus one.
COUNT_FROM_PADDING = frozenset({
    "camembert", "data2vec-text", "ibert", "lilt", "longformer", "luke", "markuplm", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
})  # fmt: skip
# Of the tokenizers, names are in lower case, without "Fast" and "Tokenizer" behind the model's name.
# Those whose class in transformers 4 gives no token_type_ids; every other one does.
_WITHOUT_TYPES_IN_4 = frozenset({
    "bart", "barthez", "bigbird", "blenderbot", "blenderbotsmall", "bloom", "camembert", "clip", "codegen", "codellama",
    "cohere", "distilbert", "gemma", "gpt2", "gptneox", "layoutlmv3", "layoutxlm", "led", "llama", "longformer",
    "mbart", "mbart50", "mpnet", "mt5", "mvp", "nllb", "nougat", "openaigpt", "pegasus", "qwen2", "reformer",
    "retribert", "roberta", "seamlessm4t", "t5", "udop", "whisper", "xglm", "xlmroberta",
})  # fmt: skip
# Those whose class in transformers 5 gives them; no other one does (huggingface/transformers#48128).
_WITH_TYPES_IN_5 = frozenset({
    "bert", "canine", "convbert", "deberta", "debertav2", "dprcontextencoder", "dprquestionencoder", "dprreader",
    "electra", "fnet", "layoutlm", "layoutlmv2", "lxmert", "markuplm", "mobilebert", "squeezebert", "tapas",
})  # fmt: skip
# Classes that transformers 5 brought.
_BACKENDS_OF_5 = ("TokenizersBackend", "PythonBackend", "SentencePieceBackend", "MistralCommonBackend")

_LOWERCASE, _STRIP_ACCENTS = ("do_lower_case", "lowercase", True), ("strip_accents", "strip_accents", None)
_CHINESE = ("tokenize_chinese_chars", "handle_chinese_chars", True)
# Of tokenizer_config.json: the setting, the part of a BertNormalizer that it stands for, the class's default.
_BERT = (_LOWERCASE, _STRIP_ACCENTS, _CHINESE)
_OF_BERT = (
    *("bert", "convbert", "distilbert", "dprcontextencoder", "dprquestionencoder", "dprreader", "electra", "funnel"),
    *("layoutlm", "lxmert", "mobilebert", "realm", "retribert", "squeezebert"),
)
_NORMALIZERS_OF_4 = dict.fromkeys(_OF_BERT, _BERT) | dict.fromkeys(
    ("layoutlmv2", "mpnet", "roformer", "splinter"), (_LOWERCASE, _STRIP_ACCENTS)
)
_NORMALIZERS_OF_5 = dict.fromkeys((*_OF_BERT, "layoutlmv2", "mpnet", "roformer", "splinter"), _BERT)
# Byte-level classes, whose add_prefix_space is false unless the settings say otherwise.
_BYTE_LEVEL = ("bart", "blenderbot", "deberta", "gpt2", "layoutlmv3", "led", "longformer", "mvp", "roberta")

_BERT_TOKENS = SpecialDefaults(
    {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
)
_SENTENCE_TOKENS = {
    **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>"},
    **{"pad_token": "<pad>", "cls_token": "<s>", "mask_token": "<mask>"},
}
ROBERTA_TOKENS = SpecialDefaults(_SENTENCE_TOKENS, normalized=True, mask_strips=True)
SENTENCE_TOKENS = replace(ROBERTA_TOKENS, normalized=False)
DEBERTA_TOKENS = SpecialDefaults(
    {**_BERT_TOKENS.tokens, "bos_token": "[CLS]", "eos_token": "[SEP]"}, also_normalized=("unk_token",)
)
# Those whose vocab.txt is WordPiece's, read and joined as the special tokens say.
WORDPIECE_TOKENS = {
    **dict.fromkeys(("bert", "electra", "distilbert"), _BERT_TOKENS),
    "mpnet": SpecialDefaults(_SENTENCE_TOKENS | {"unk_token": "[UNK]"}, mask_strips=True),
}
_TOKENS = (
    dict.fromkeys(("convbert", "mobilebert", "squeezebert"), _BERT_TOKENS)
    | dict.fromkeys(("camembert", "longformer", "roberta", "xlmroberta"), ROBERTA_TOKENS)
    | {"debertav2": DEBERTA_TOKENS}
    | WORDPIECE_TOKENS
)


def tokenizer_kind(settings: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Whose tokenizer a model has, as transformers finds it: by either file's tokenizer class, else the model type.

    Args:
        settings: tokenizer_config.json, or empty.
        config: config.json, or empty.

    Returns:
        The class's name in lower case without what follows the model, empty if nothing says it.

    >>> tokenizer_kind({"tokenizer_class": "XLMRobertaTokenizerFast"}, {}), tokenizer_kind({}, {"model_type": "bert"})
    ('xlmroberta', 'bert')
    """
    name = settings.get("tokenizer_class") or config.get("tokenizer_class")
    if name is None:
        return str(config.get("model_type") or "").replace("-", "").replace("_", "").lower()
    return str(name).removesuffix("Fast").removesuffix("Tokenizer").lower()


def written_by_5(settings: Mapping[str, Any]) -> bool:
    """Whether transformers 5 wrote this tokenizer_config.json: it names its backend, which 4 does not know."""
    return "backend" in settings or settings.get("tokenizer_class") in _BACKENDS_OF_5


def gives_token_types(settings: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether the model learned with the segments of its tokenizer, or with zeros.

    Args:
        settings: tokenizer_config.json, or empty.
        config: config.json.
    """
    names = settings.get("model_input_names")
    if isinstance(names, list):
        return "token_type_ids" in names
    kind = tokenizer_kind(settings, config)
    return kind in _WITH_TYPES_IN_5 if written_by_5(settings) else kind not in _WITHOUT_TYPES_IN_4


def normalizer_settings(
    settings: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[tuple[str, str, bool | None], ...]:
    """The settings that change the tokenizer's BertNormalizer.

    Args:
        settings: tokenizer_config.json, or empty.
        config: config.json.

    Returns:
        For each the setting's name, the normalizer's part and the class's default; empty for a class that reads none.
    """
    known = _NORMALIZERS_OF_5 if written_by_5(settings) else _NORMALIZERS_OF_4
    return known.get(tokenizer_kind(settings, config), ())


def default_prefix_space(settings: Mapping[str, Any], config: Mapping[str, Any]) -> bool | None:
    """What add_prefix_space is for a byte-level tokenizer whose settings do not say it, None for what its file says."""
    return False if tokenizer_kind(settings, config) in _BYTE_LEVEL else None


def tokens_of_class(kind: str, settings: Mapping[str, Any]) -> SpecialDefaults:
    """The special tokens that a tokenizer class brings along, but for those that the settings do away with by null.

    Args:
        kind: As `tokenizer_kind` gives it; one that is not known here brings none.
        settings: tokenizer_config.json, or empty.
    """
    defaults = _TOKENS.get(kind, SpecialDefaults({}))
    tokens = {name: token for name, token in defaults.tokens.items() if settings.get(name, token) is not None}
    return replace(defaults, tokens=tokens)
