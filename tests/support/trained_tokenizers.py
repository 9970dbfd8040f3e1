"""Tokenizers of every kind, trained in a second on texts of our own and assembled as published models have them."""

from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from tests.support.random_texts import SCRIPTS, WORDS
from tests.support.texts import SENTENCES
from tests.support.tiny_models import BERT_TOKENS

TEXTS = (*(sentence for sentences in SENTENCES.values() for sentence in sentences), " ".join(WORDS), " ".join(SCRIPTS))
_ROBERTA_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")


def train_wordpiece(*, lowercase: bool) -> Tokenizer:
    """WordPiece in many languages, as BERT has it; the special tokens come first."""
    return Tokenizer.from_str(_wordpiece(lowercase))


def train_byte_level_bpe() -> Tokenizer:
    """Byte-level BPE as RoBERTa has it."""
    return Tokenizer.from_str(_byte_level_bpe())


def train_unigram() -> Tokenizer:
    """Unigram behind Metaspace in many languages, as XLM-RoBERTa has it."""
    return Tokenizer.from_str(_unigram())


@cache
def _wordpiece(lowercase: bool) -> str:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = list(BERT_TOKENS.values())
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=2500, special_tokens=specials, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(name, specials.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer.to_str()


@cache
def _byte_level_bpe() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=list(_ROBERTA_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer.to_str()


@cache
def _unigram() -> str:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=2000, special_tokens=list(_ROBERTA_TOKENS), unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer.to_str()
