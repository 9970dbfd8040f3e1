"""Seeded texts of every kind that trips a tokenizer: special tokens spelled out, scripts, emoji, spaces."""

import random

SPECIAL = (
    "[SEP]", "[CLS]", "[PAD]", "[UNK]", "[MASK]", "<s>", "</s>", "<pad>", "<unk>", "<mask>",
    "[sep]", "< /s >", "[ SEP ]", "x[SEP]y", "a</s>b", "<pad><pad>", "##ing", "▁the", "Ġthe", "</s></s>",
)  # fmt: skip
WORDS = (
    "the", "of", "quick", "brown", "fox", "ranking", "passages", "unbelievable", "Berlin", "HTTP/2", "co-operate",
    "don't", "3.14159", "1,000,000", "naïve", "Straße", "ÆTHER", "İstanbul", "user@example.org", "a", "I", "...", "—",
    "C++", "$5", "e-mail", "antidisestablishmentarianism", "ﬁne", "½", "Ⅳ", "¿qué?",
)  # fmt: skip
SCRIPTS = (
    "日本語", "東京は今日も雨", "你好，世界", "한국어", "Привет", "мир", "ελληνικά", "مرحبا", "بالعالم", "नमस्ते",
    "क्षत्रिय", "สวัสดี", "ไทย", "שלום", "ქართული", "አማርኛ", "ꙮ",
)  # fmt: skip
EMOJI = ("🙂", "👩‍👩‍👧‍👦", "🇩🇪", "👍🏽", "❤️", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🎻🎻🎻", "☃", "𝔘𝔫𝔦")
MARKS = (
    "e\u0301",
    "n\u0303o",
    "Z\u0351\u036b\u0343a\u0317l\u0353g\u0324o\u031e",
    "\u0301",
    "\u200d",
    "\u200b",
    "\u00ad",
    "\ufeff",
    "\u202e",
)
CONTROLS = ("\x00", "\x07", "\x1b[31m", "\x7f", "\ufffd", "\u2028", "\x85", "\uffff", "\U0010ffff")
SPACES = (" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2003", "\v", "\f")


def random_text(rng: random.Random, longest: int) -> str:
    """One text of at most ``longest`` pieces; now and then empty or only spaces."""
    kind = rng.random()
    if kind < 0.04:
        return ""
    if kind < 0.08:
        return "".join(rng.choices(SPACES, k=rng.randint(1, 4)))
    pieces = rng.randint(1, longest)
    groups = rng.choices((WORDS, SPECIAL, SCRIPTS, EMOJI, MARKS, CONTROLS), weights=(60, 12, 12, 6, 6, 4), k=pieces)
    parts = []
    for group in groups:
        parts.append(rng.choice(group))
        gap = rng.random()
        parts.append(" " if gap < 0.75 else "" if gap < 0.9 else rng.choice(SPACES))
    if rng.random() < 0.1:  # code points from anywhere but the surrogates
        parts.append(
            "".join(chr(rng.choice((rng.randint(1, 0xD7FF), rng.randint(0xE000, 0x10FFFF)))) for _ in range(8))
        )
    return "".join(parts)
