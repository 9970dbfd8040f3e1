"""Small sentencepiece files and what transformers 4.57.6 makes of them, in sentencepiece_4.json.

The tests have neither sentencepiece nor that transformers. To write the file anew, in an environment that has both:

    python tests/support/golden_sentencepiece.py
"""

import base64
import json
import tempfile
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).with_name("sentencepiece_4.json")
# Capitals, accents, ligatures, wide letters, runs of spaces, tabs and line ends, special tokens spelled out,
# punctuation, letters that no piece has, an empty document.
PAIRS = (
    ("SKY over Öl", "The naïve kettle of 東京, ﬁve ships"),
    ("what is [SEP] for", " the sea  <mask> or [MASK] </s> lighthouse [UNK] <unk>"),
    ("  two  spaces   and\ttabs\r\nand lines  ", "ｗｉｄｅ letters, (dots...) and don't! ☃"),
    ("<sea> wind", "the <sea> is<sea>here"),
    ("violin", ""),
    ("", "\u00a0 kettle\u200b \u3000 boils"),
)
_TEXTS = (
    "The lighthouse keeper counts ships at dusk and writes their names into a blue book.",
    "A kettle boils faster with its lid on, because less heat is lost to the air.",
    "Rivers carry sand to the sea, and the sea carries it back to the beach.",
    "Hold the blade at twenty degrees and draw it along the bottom of a ceramic cup.",
    "The train to the coast leaves at 7:45 from platform 3, except on Sundays.",
    "Sunlight travels a longer way through the air, and the blue part is scattered first.",
    "Öl und Wasser mischen sich nicht, naïve Köche wundern sich. Le café ouvre à huit heures (même en été)!",
)
# What the table of characters changes, code points in hexadecimal as sentencepiece reads them.
_RULES = "FB01\t66 69\n9\t20\nA\t20\nD\t20\nA0\t20\n3000\t20\n200B\t\n" + "".join(
    f"{0xFF41 + i:X}\t{0x61 + i:X}\n" for i in range(26)
)
_DEBERTA = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3} | {
    **{"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"},
}


@dataclass(frozen=True)
class Case:
    """A folder with a sentencepiece file.

    Attributes:
        model_type: Of config.json.
        file: The name of sentencepiece's file.
        options: Of its training.
        settings: tokenizer_config.json.
        files: More JSON files.
        table: Whether it has a table of characters.
    """

    model_type: str
    file: str = "spm.model"
    options: dict[str, Any] = field(default_factory=lambda: dict(_DEBERTA))
    settings: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    table: bool = True


_BPE = "sentencepiece.bpe.model"
CASES = {
    "DeBERTa": Case("deberta-v2", settings={"tokenizer_class": "DebertaV2Tokenizer"}),
    "DeBERTa, no class": Case("deberta-v2"),
    "DeBERTa, lower case": Case("deberta-v2", settings={"do_lower_case": True}),
    "DeBERTa, split at punctuation": Case("deberta-v2", settings={"split_by_punct": True, "vocab_type": "spm"}),
    "DeBERTa, no table": Case("deberta-v2", table=False),
    "DeBERTa, mask by added_tokens.json": Case("deberta-v2", files={"added_tokens.json": {"[MASK]": 110}}),
    "DeBERTa, user's symbols": Case("deberta-v2", options={**_DEBERTA, "user_defined_symbols": ["<sea>"]}),
    "DeBERTa, map": Case(
        "deberta-v2",
        files={
            "special_tokens_map.json": {
                **{"bos_token": "[CLS]", "cls_token": "[CLS]", "eos_token": "[SEP]", "sep_token": "[SEP]"},
                **{"pad_token": "[PAD]", "mask_token": "[MASK]"},
                "unk_token": {
                    **{"content": "[UNK]", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False},
                },
            }
        },
    ),
    "XLM-R": Case("xlm-roberta", _BPE, {}, {"tokenizer_class": "XLMRobertaTokenizer"}),
    "XLM-R, no table": Case("xlm-roberta", _BPE, {}, table=False),
    "XLM-R, additional": Case("xlm-roberta", _BPE, {}, {"additional_special_tokens": ["kettle"]}),
    "CamemBERT": Case("camembert", _BPE, {}, {"tokenizer_class": "CamembertTokenizer"}),
}


def write_case(folder: Path, name: str, model: bytes) -> Path:
    """Write a case's folder around sentencepiece's file."""
    case = CASES[name]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / case.file).write_bytes(model)
    contents = {"config.json": {"model_type": case.model_type}, "tokenizer_config.json": case.settings, **case.files}
    for file, content in contents.items():
        (folder / file).write_text(json.dumps(content), encoding="utf-8")
    return folder


def _train(place: Path, case: Case) -> bytes:
    trainer = import_module("sentencepiece").SentencePieceTrainer  # which the tests' environment does not have
    (place / "rules.tsv").write_text(_RULES, encoding="utf-8")
    (place / "texts.txt").write_text("\n".join(_TEXTS), encoding="utf-8")
    rules = {"normalization_rule_tsv": str(place / "rules.tsv")} if case.table else {}
    trainer.train(
        input=str(place / "texts.txt"),
        model_prefix=str(place / "trained"),
        model_type="unigram",
        vocab_size=110,
        character_coverage=1.0,
        normalization_rule_name="identity",
        minloglevel=2,
        **rules,
        **case.options,
    )
    return (place / "trained.model").read_bytes()


def main() -> None:
    """Write what the installed transformers gives to `GOLDEN`."""
    transformers = import_module("transformers")
    assert transformers.__version__ == "4.57.6"
    lines = []
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as work:
            model = _train(Path(work), case)
            folder = write_case(Path(work) / "folder", name, model)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            assert tokenizer.is_fast
            batch = tokenizer(*map(list, zip(*PAIRS, strict=True)), return_attention_mask=False)
        found = {"model": base64.b64encode(model).decode(), "ids": batch["input_ids"], "size": len(tokenizer)}
        lines.append(f" {json.dumps(name)}: {json.dumps(found)}")
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
