"""Texts that trip tokenizers which are built from vocabularies."""

TEXTS = (
    "",
    " ",
    "The QUICK brown fox, naïve Straße İstanbul!",
    "[SEP] [MASK][CLS] x[PAD]y [UNK] [sep] [ MASK ]",
    "<s> </s> <mask> foxNEW a <new>b Foo foo",
    "東京は今日も雨 你好，世界 한국어",
    "👩‍👩‍👧‍👦 🇩🇪 e\u0301 n\u0303o",
    "\x00 a\x07b \x1b[31m \ufffd \u2028 \u200b\u00ad",
    "x" * 100 + " " + "x" * 101 + " " + "é" * 100,
    "antidisestablishmentarianism " * 50,
)
