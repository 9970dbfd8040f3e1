"""Small seeded checkpoints of every architecture, with working tokenizers, and texts to score with them.

Every parameter is drawn at random, biases and layer norms included: a checkpoint fresh from transformers has
zeros and ones there, and a graph that forgot them would look right. Weights are scaled so that attention is
far from uniform and the logits spread by `SPREAD`, else an absolute tolerance would say nothing.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import util
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from benchmarks.inputs.parameters import parameter_shapes
from benchmarks.inputs.random_checkpoint import SPREAD, draw_parameter
from crossrank.export._prove.reference import numpy_logits
from tests.support.references import auto_classifier, reference

__all__ = [
    "ARCHITECTURES",
    "BERT_TOKENS",
    "MAX_LENGTH",
    "PAIRS",
    "SPREAD",
    "config_of",
    "draw_parameter",
    "make_checkpoint",
    "make_wordpiece",
    "transformers_logits",
    "write_json",
    "write_tokenizer",
]

ARCHITECTURES = (
    *("bert", "electra", "roberta", "xlm-roberta", "camembert", "distilbert", "mpnet", "modernbert"),
    *("deberta-v2", "gte"),
)
MAX_LENGTH = 48

_TEXTS = (
    "The lighthouse keeper counts ships at dusk and writes their names into a blue book.",
    "A kettle boils faster with its lid on, because less heat is lost to the air.",
    "Rivers carry sand to the sea, and the sea carries it back to the beach.",
    "How do I sharpen a kitchen knife without a stone?",
    "Hold the blade at twenty degrees and draw it along the bottom of a ceramic cup.",
    "The train to the coast leaves at 7:45 from platform 3, except on Sundays.",
    "Why is the sky red in the evening?",
    "Sunlight travels a longer way through the air, and the blue part is scattered first.",
    "Bread dough rises because yeast turns sugar into gas.",
    "Our museum shows clocks, maps and a wooden globe from 1688.",
    "What does a violin cost?",
    "Feed the goldfish once a day; change a third of the water every week.",
    "Tomatoes want sun, warmth and a stake to climb.",
    "The bridge was closed for repairs (see notice no. 12/4) until further notice.",
    "Öl und Wasser mischen sich nicht, naïve Köche wundern sich.",
    "Le café ouvre à huit heures, même en été.",
    "Море сегодня спокойное.",
    "東京の天気は晴れです。",
)
_LONG = " ".join(_TEXTS)

PAIRS: tuple[tuple[str, str], ...] = (
    *zip(_TEXTS[::2], _TEXTS[1::2], strict=True),
    *pairwise(_TEXTS[3:10]),
    (_TEXTS[3], _TEXTS[3]),
    ("sky", "red"),
    ("knife", _LONG),  # the document is cut
    (_LONG, "knife"),  # the query is cut
    (_LONG, _LONG[200:]),  # both are cut
    (_TEXTS[6], _TEXTS[7] + " " + _TEXTS[0]),
    (_TEXTS[10], ""),
    ("", _TEXTS[11]),
    ("violin", "☃ 🎻 ∑ ꙮ"),  # not in any vocabulary
    ("東京 天気", "Wetter in Tokio: 晴れ, ясно"),
    # Text that spells special tokens becomes them, as in transformers.
    ("what is [SEP] for", "[CLS] marks the start, [PAD] fills, [MASK] hides [UNK]"),
    ("what is </s> for", "<s> marks the start, <pad> fills, <mask> hides <unk>"),
    ("<pad>", "<pad> <pad> sea"),
    ("  spaces\tand\nlines ", "tabs\t\tand  \r\n more   spaces"),
)


@dataclass(frozen=True, slots=True)
class _Family:
    """How transformers names an architecture's parts."""

    config: str
    model: str
    tokenizer: str
    build_tokenizer: Callable[[], Tokenizer]
    special: dict[str, str]
    # Position rows that no token uses: RoBERTa and MPNet count from their padding id plus one.
    offset: int = 0
    settings: dict[str, Any] = field(default_factory=dict)  # of tokenizer_config.json


BERT_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_ROBERTA_TOKENS = {
    "bos_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
}
_MPNET_TOKENS = _ROBERTA_TOKENS | {"unk_token": "[UNK]"}


def _lowercase_wordpiece(entries: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({entry: i for i, entry in enumerate(entries)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _bert_template(tokenizer: Tokenizer) -> processors.TemplateProcessing:
    """Pairs between BERT's special tokens, which the tokenizer has."""
    return processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )


def make_wordpiece(entries: Sequence[str]) -> Tokenizer:
    """Lower-cased WordPiece as BERT has it, with these entries."""
    tokenizer = _lowercase_wordpiece(entries)
    tokenizer.add_special_tokens(list(BERT_TOKENS.values()))
    tokenizer.post_processor = _bert_template(tokenizer)
    return tokenizer


def _wordpiece_entries(specials: Sequence[str]) -> list[str]:
    """The special tokens, the texts' letters, and their words of up to six letters."""
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = [word for text in _TEXTS for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]
    letters = sorted({letter for word in words for letter in word})
    entries = [*specials, *letters, *(f"##{letter}" for letter in letters)]
    return [*entries, *sorted({word for word in words if 1 < len(word) <= 6})]


def _wordpiece() -> Tokenizer:
    return make_wordpiece(_wordpiece_entries([*BERT_TOKENS.values()]))


def _mpnet_wordpiece() -> Tokenizer:
    """BERT's WordPiece between RoBERTa's special tokens, as MPNet has it."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]"]
    tokenizer = _lowercase_wordpiece([*_wordpiece_entries(specials), "<mask>"])
    tokenizer.add_special_tokens([*specials, AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s>:0 $A:0 </s>:0",
        pair="<s>:0 $A:0 </s>:0 </s>:0 $B:1 </s>:1",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer


def _byte_bpe() -> Tokenizer:
    """Byte-level BPE as RoBERTa has it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    tokenizer.add_special_tokens([*specials[:4], AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    return tokenizer


def _modernbert_bpe() -> Tokenizer:
    """Byte-level BPE behind NFC, between BERT's special tokens, as ModernBERT has it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    plain = [name for name in BERT_TOKENS.values() if name != "[MASK]"]
    tokenizer.add_special_tokens([*plain, AddedToken("[MASK]", lstrip=True, special=True)])
    tokenizer.post_processor = _bert_template(tokenizer)
    return tokenizer


def _unigram(specials: Sequence[str], cls: int, sep: int, *, mask: str = "<mask>") -> Tokenizer:
    """Unigram behind Metaspace as XLM-RoBERTa has it: the texts' words and letters with made-up scores."""
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    words = [word for text in _TEXTS for word, _ in splitter.pre_tokenize_str(text)]
    letters = sorted({letter for word in words for letter in word})
    pieces = [(name, 0.0) for name in specials]
    pieces += [(letter, -8.0 - 0.01 * i) for i, letter in enumerate(letters)]
    parts = {word[:5] for word in words if len(word) > 2} | {word[-3:] for word in words if len(word) > 5}
    pieces += [(part, -6.0 - 0.01 * i) for i, part in enumerate(sorted(parts))]
    tokenizer = Tokenizer(
        models.Unigram(
            [*pieces, (mask, 0.0)], len(specials) - 1 if mask == "[MASK]" else specials.index("<unk>"), False
        )
    )
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens([*specials, AddedToken(mask, lstrip=mask == "<mask>", special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", cls), ("</s>", sep)]
    )
    return tokenizer


def _deberta_unigram() -> Tokenizer:
    """Unigram between BERT's special tokens, with the normalizer that transformers 5 has for DeBERTa-v2."""
    specials = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    tokenizer = _unigram(specials, 1, 2, mask="[MASK]")
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "),
            normalizers.NFC(),
            normalizers.Strip(left=False, right=True),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.post_processor = _bert_template(tokenizer)
    return tokenizer


def _xlm_roberta_unigram() -> Tokenizer:
    return _unigram(["<s>", "<pad>", "</s>", "<unk>"], 0, 2)


def _camembert_unigram() -> Tokenizer:
    return _unigram(["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"], 5, 6)


_FAMILIES = {
    "bert": _Family("BertConfig", "BertForSequenceClassification", "BertTokenizer", _wordpiece, BERT_TOKENS),
    "electra": _Family(
        "ElectraConfig", "ElectraForSequenceClassification", "ElectraTokenizer", _wordpiece, BERT_TOKENS
    ),
    "distilbert": _Family(
        "DistilBertConfig", "DistilBertForSequenceClassification", "DistilBertTokenizer", _wordpiece, BERT_TOKENS
    ),
    "mpnet": _Family(
        "MPNetConfig", "MPNetForSequenceClassification", "MPNetTokenizer", _mpnet_wordpiece, _MPNET_TOKENS, 2
    ),
    "roberta": _Family(
        "RobertaConfig", "RobertaForSequenceClassification", "RobertaTokenizer", _byte_bpe, _ROBERTA_TOKENS, 2
    ),
    "xlm-roberta": _Family(
        "XLMRobertaConfig",
        "XLMRobertaForSequenceClassification",
        "XLMRobertaTokenizer",
        _xlm_roberta_unigram,
        _ROBERTA_TOKENS,
        2,
    ),
    "camembert": _Family(
        "CamembertConfig",
        "CamembertForSequenceClassification",
        "CamembertTokenizer",
        _camembert_unigram,
        _ROBERTA_TOKENS,
        2,
    ),
    "modernbert": _Family(
        "ModernBertConfig",
        "ModernBertForSequenceClassification",
        "PreTrainedTokenizerFast",
        _modernbert_bpe,
        BERT_TOKENS,
        settings={"clean_up_tokenization_spaces": True, "model_input_names": ["input_ids", "attention_mask"]},
    ),
    "deberta-v2": _Family(
        "DebertaV2Config",
        "DebertaV2ForSequenceClassification",
        "DebertaV2Tokenizer",
        _deberta_unigram,
        {"bos_token": "[CLS]", "eos_token": "[SEP]", **BERT_TOKENS},
    ),
    "gte": _Family(
        "GteConfig", "GteForSequenceClassification", "XLMRobertaTokenizer", _xlm_roberta_unigram, _ROBERTA_TOKENS
    ),
}


def make_checkpoint(
    folder: Path,
    architecture: str,
    *,
    labels: int = 1,
    seed: int = 0,
    max_length: int = MAX_LENGTH,
    **overrides: Any,
) -> Path:
    """Write a small random checkpoint as its authors would publish it.

    Args:
        folder: Made if it is absent.
        architecture: Of `ARCHITECTURES`.
        labels: Outputs of the head.
        seed: Another seed gives other weights.
        max_length: Most tokens of a pair.
        overrides: Fields of the architecture's transformers config.

    Returns:
        ``folder``, with config.json, model.safetensors, tokenizer.json, tokenizer_config.json and
        special_tokens_map.json, which transformers' Auto classes load.
    """
    family, tokenizer = _FAMILIES[architecture], write_tokenizer(folder, architecture, max_length=max_length)
    made = getattr(transformers, family.config)(
        **_sizes(architecture)
        | {
            "vocab_size": tokenizer.get_vocab_size(with_added_tokens=True),
            "max_position_embeddings": max_length + family.offset,
            "num_labels": labels,
            "pad_token_id": tokenizer.token_to_id(family.special["pad_token"]),
        }
        | overrides
    )
    fields = json.loads(made.to_json_string()) | {"architectures": [family.model], "dtype": "float32"}
    config = dict(sorted(fields.items()))
    write_json(folder / "config.json", config)
    rng = np.random.default_rng([seed, labels])
    tensors = {name: draw_parameter(name, shape, rng) for name, shape in parameter_shapes(config, labels)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    logits = _logits(folder, config, max_length, token_types=architecture in ("bert", "electra"))
    last = next(name for name in ("classifier.out_proj.weight", "classifier.weight") if name in tensors)
    tensors[last] *= (SPREAD / logits.std(axis=0))[:, None]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_tokenizer(folder: Path, architecture: str, *, max_length: int = MAX_LENGTH) -> Tokenizer:
    """Write an architecture's tokenizer as transformers 4 does: tokenizer.json and the settings beside it."""
    family = _FAMILIES[architecture]
    tokenizer = family.build_tokenizer()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": family.tokenizer, "model_max_length": max_length, **family.special}
    settings |= family.settings
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", family.special)
    return tokenizer


_MORE_SIZES: dict[str, dict[str, Any]] = {
    "electra": {"embedding_size": 24},
    # As DeBERTa-v3 has it; 16 buckets, so that distances from 8 on share some.
    "deberta-v2": {
        **{"relative_attention": True, "position_buckets": 16, "max_relative_positions": -1},
        **{"norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"]},
        **{"position_biased_input": False, "type_vocab_size": 0},
    },
}


def _sizes(architecture: str) -> dict[str, Any]:
    if architecture == "distilbert":
        return {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    if architecture == "modernbert":  # tokens see 6 places far in the two middle layers
        sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
        return sizes | {"local_attention": 12}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return sizes | _MORE_SIZES.get(architecture, {})


def _logits(folder: Path, config: dict[str, Any], max_length: int, *, token_types: bool) -> NDArray[np.float32]:
    """Of `PAIRS`, float32 [pairs, labels], with or without torch."""
    if util.find_spec("torch"):
        return transformers_logits(folder, PAIRS, max_length=max_length)
    tokenizer = folder / "tokenizer.json"
    return numpy_logits(folder, config, tokenizer, PAIRS, max_length=max_length, token_types=token_types)


def transformers_logits(
    folder: Path, pairs: Sequence[tuple[str, str]], *, max_length: int = MAX_LENGTH
) -> NDArray[np.float32]:
    """What transformers' own tokenizer and forward pass give, one pair at a time, so without padding.

    Returns:
        float32 [pairs, labels].
    """
    torch = reference("torch")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = auto_classifier().from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # models this small only wait when torch spreads them, most of all on a busy machine
    try:
        with torch.inference_mode():
            for query, document in pairs:
                batch = tokenizer(
                    [query], [document], truncation="longest_first", max_length=max_length, return_tensors="pt"
                )
                rows.append(model(**batch).logits[0].numpy())
    finally:
        torch.set_num_threads(threads)
    return np.stack(rows)


def config_of(folder: Path) -> dict[str, Any]:
    """A folder's config.json."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def write_json(path: Path, value: Any) -> None:
    """Write JSON as people do."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
