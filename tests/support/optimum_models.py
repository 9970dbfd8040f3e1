"""Small seeded checkpoints of architectures that the native builder does not know, as `tests.support.tiny_models`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.support.references import reference
from tests.support.tiny_models import (
    BERT_TOKENS,
    MAX_LENGTH,
    PAIRS,
    SPREAD,
    draw_parameter,
    transformers_logits,
    write_json,
)

torch = reference("torch")

# [CLS] query [SEP] document [SEP], all of them DeBERTa's and ModernBERT's too.
_TEXTS = sorted({text for pair in PAIRS for text in pair})


def _join(tokenizer: Tokenizer, document_type: int) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in BERT_TOKENS.values()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair=f"[CLS]:0 $A:0 [SEP]:0 $B:{document_type} [SEP]:{document_type}",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _unigram() -> Tokenizer:
    """Unigram behind Metaspace as DeBERTa-v3 has it: the texts' letters and beginnings of words, made-up scores."""
    splitter = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    words = [word for text in _TEXTS for word, _ in splitter.pre_tokenize_str(text)]
    pieces = [*sorted({letter for word in words for letter in word}), *sorted({word[:5] for word in words} - {"▁"})]
    entries = [("[PAD]", 0.0), ("[CLS]", 0.0), ("[SEP]", 0.0), ("[UNK]", 0.0)]
    entries += [
        (piece, (-8.0 if len(piece) == 1 else -6.0) - 0.01 * i) for i, piece in enumerate(dict.fromkeys(pieces))
    ]
    tokenizer = Tokenizer(models.Unigram([*entries, ("[MASK]", 0.0)], 3, False))
    # transformers 5 puts this one in place of whatever tokenizer.json has; older ones take the file's.
    spaces = normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " ")
    tokenizer.normalizer = normalizers.Sequence([spaces, normalizers.NFC(), normalizers.Strip(left=False)])
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return _join(tokenizer, document_type=1)


def _byte_bpe() -> Tokenizer:
    """Byte-level BPE between BERT's special tokens, one segment, as ModernBERT has it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[*BERT_TOKENS.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    return _join(tokenizer, document_type=0)


@dataclass(frozen=True, slots=True)
class _Family:
    """How transformers names an architecture's parts, and the fields of its published config.json that matter."""

    config: str
    model: str
    tokenizer: str
    build_tokenizer: Callable[[], Tokenizer]
    fields: dict[str, Any]


_SIZES = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
_FAMILIES = {
    # As microsoft/deberta-v3-*: relative positions only, in buckets that the pairs here leave.
    "deberta-v2": _Family(
        "DebertaV2Config",
        "DebertaV2ForSequenceClassification",
        "DebertaV2Tokenizer",
        _unigram,
        {
            **{"num_hidden_layers": 2, "relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm"},
            **{"share_att_key": True, "pos_att_type": "p2c|c2p", "position_biased_input": False, "type_vocab_size": 0},
        },
    ),
    # As answerdotai/ModernBERT-*: a global layer, then local ones whose window the pairs here leave.
    "modernbert": _Family(
        "ModernBertConfig",
        "ModernBertForSequenceClassification",
        "PreTrainedTokenizerFast",
        _byte_bpe,
        {"num_hidden_layers": 4, "local_attention": 16, "global_attn_every_n_layers": 3},
    ),
}


def make_checkpoint(
    folder: Path, architecture: str, *, labels: int = 1, max_length: int = MAX_LENGTH, **overrides: Any
) -> Path:
    """Write a small random checkpoint as its authors would publish it.

    Args:
        folder: Made if it is absent.
        architecture: "deberta-v2" or "modernbert".
        labels: Outputs of the head.
        max_length: Most tokens of a pair.
        overrides: Fields of the architecture's config.json.

    Returns:
        ``folder``, with config.json, model.safetensors, tokenizer.json and tokenizer_config.json.
    """
    family = _FAMILIES[architecture]
    tokenizer = family.build_tokenizer()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": family.tokenizer, "model_max_length": max_length, **BERT_TOKENS}
    write_json(folder / "tokenizer_config.json", settings)

    fields = _SIZES | family.fields | {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": max_length}
    names = {"pad_token_id": "[PAD]", "cls_token_id": "[CLS]", "sep_token_id": "[SEP]", "bos_token_id": "[CLS]"}
    fields |= {field: tokenizer.token_to_id(token) for field, token in names.items()} | overrides
    config = getattr(transformers, family.config)(**fields, num_labels=labels)
    model = getattr(transformers, family.model)(config).eval()
    rng = np.random.default_rng([17, labels])
    for name, parameter in model.named_parameters():
        parameter.data.copy_(torch.from_numpy(_draw(name, parameter.shape, rng)))

    def save() -> None:
        model.save_pretrained(folder)
        # transformers 5 writes what older ones do not read; published files have these fields.
        labelled = {"num_labels": labels, "id2label": {str(i): f"LABEL_{i}" for i in range(labels)}}
        about = {"model_type": architecture, "architectures": [family.model]}
        write_json(folder / "config.json", about | fields | labelled)

    save()
    spread = transformers_logits(folder, PAIRS, max_length=max_length).std(axis=0)
    model.classifier.weight.data *= torch.from_numpy(SPREAD / spread)[:, None]
    save()
    return folder


def _draw(name: str, shape: Sequence[int], rng: np.random.Generator) -> NDArray[np.float32]:
    if name.endswith("norm.weight") and "LayerNorm" not in name:  # ModernBERT's names
        return rng.standard_normal(tuple(shape), np.float32) * np.float32(0.2) + 1
    return draw_parameter(name, shape, rng)
