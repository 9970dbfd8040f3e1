"""Safe cuts: places where a text's parts, one after the other, give exactly the ids of the whole.

A tokenizer looks for added tokens in the raw text, normalizes what lies between them, looks for added tokens again,
splits the rest into words and gives each word ids by itself. So a place is safe if no added token, no change by the
normalizer and no word lies across it, and if the part that begins there is treated as it would be in the middle of the
text. Three rules, each for tokenizers of which every component is known:

**BERT** (BertNormalizer or none, then BertPreTokenizer): before white space, punctuation and CJK ideographs (of each,
what is listed here), unless an added token holds such a character. The normalizer works on single characters, but for
canonical decomposition, and that moves nothing across any of these, which are starters. The splitter drops white space
and lets punctuation stand alone, and the normalizer puts spaces around ideographs.

**Others**: before a single space, or a line feed where any white space parts words, that has two plain characters on
each side; plain are letters, digits and common punctuation that never join a neighbour, and of which the normalizer
makes something without spaces.

- Normalizers: most work on single characters. Unicode normalization is blind across a space, a starter that is the
  second of no composition. Precompiled maps grapheme clusters, and each of the four plain characters is a cluster (if
  Unicode normalization has not changed them). Replacing runs of spaces does not reach a single one, nor does replacing
  a string without spaces. Stripping takes the space off the part that begins with it, which changes nothing where the
  splitter drops spaces or puts "▁" before every word, and a word follows, not an added token.
- Splitters: white space splitters and Metaspace cut there. No word of ByteLevel's pattern goes on from such a character
  into a space, the pattern never looks back, and the next word begins with that space. What Metaspace and ByteLevel put
  before a text, they do not put before one that begins with a space.
- Added tokens: none lies across that neither is nor holds a single space (to runs of them no single space belongs). One
  that takes the spaces before it along finds them in its own part. One that takes those after it, or asks what stands
  beside it, could see the cut: with such a token there is none.

**Words**, of BERT's tokenizers with WordPiece: behind these characters too, if no added token holds white space or asks
what stands beside it. They stand alone, so a word begins behind them whatever it is, and no mark joins them, since the
normalizer decomposes and never composes. White space (four characters of ASCII, on which Python and Rust agree) has no
ids, and an added token that takes it along takes nothing. So a word, which is one of these characters or what lies
between two, has ids of its own. Of letters the normalizer makes letters and marks, nothing that parts words: a word of
letters has the ids that the model alone gives, unless it could hold an added token.
"""

import json
import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

from tokenizers import Tokenizer

# Not among the plain characters, since they join a neighbour's grapheme cluster: Malayalam's dot reph, Thai and Lao am,
# Hangul jamo, halfwidth voiced sound marks; and what lies beyond the basic plane.
_PLAIN = (
    "(?![\u0d4e\u0e33\u0eb3\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff\uff9e\uff9f\U00010000-\U0010ffff])"
    r"(?:\w|[!-~\u2018-\u2026\u3001-\u301b\uff01-\uff60])"
)
# Characters of which each is a word alone: ASCII's punctuation, dashes and quotes to the ellipsis, Arabic's comma,
# semicolon and question mark, danda, ideographic punctuation, and the fullwidth forms of ASCII's most common ones.
_MARKS = (
    string.punctuation
    + "".join(map(chr, range(0x2010, 0x2028)))
    + "\u060c\u061b\u061f\u0964\u0965\u3001\u3002\u300a\u300b\u300c\u300d\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f"
)
# Letters, digits and marks of which the normalizer makes no punctuation and no space: Latin, Greek, Cyrillic, Hebrew,
# Arabic, Devanagari, Thai, kana and Hangul.
_LETTERS = (
    "0-9A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0386\u0388-\u03ff\u0400-\u0481\u048a-\u052f\u05d0-\u05ea"
    "\u0620-\u0669\u066e-\u06d3\u0900-\u0963\u0966-\u096f\u0e01-\u0e3a\u0e40-\u0e4e\u3041-\u3096\u30a1-\u30fa\u30fc"
    "\uac00-\ud7a3"
)
_IDEOGRAPHS = "\u3400-\u4dbf\u4e00-\u9fff"
_WORD_MODELS = frozenset({"BPE", "Unigram", "WordLevel", "WordPiece"})
_LOCAL_NORMALIZERS = frozenset(
    {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "StripAccents"}
)
_SPACE_RUNS = frozenset({" {2,}", r"\s{2,}|[\n\r\t]"})
_SPACE_SPLITTERS = frozenset({"BertPreTokenizer", "Whitespace", "WhitespaceSplit"})
# Places where the normalizer has its say against, before the rest of a text is taken to be in one piece.
_TRIES = 100

Step = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cuts:
    """The safe places for one tokenizer.

    Attributes:
        places: A pattern of the character before which a text may be cut. It is compiled when a long text comes, which
            takes some milliseconds.
        normalize: The normalizer, where it must leave that character and its neighbours apart; else None.
        refused: What the normalizer must not begin the next character with.
    """

    places: str
    normalize: Callable[[str], str] | None = None
    refused: frozenset[str] = frozenset()

    def parts(self, text: str, size: int) -> Iterator[str]:
        """Cut a text into parts of ``size`` characters and as few more as it takes; the last may be shorter."""
        start = 0
        while (end := self._next(text, start + size)) is not None:
            yield text[start:end]
            start = end
        yield text[start:]

    def _next(self, text: str, least: int) -> int | None:
        found = (match.start() for match in islice(re.compile(self.places, re.DOTALL).finditer(text, least), _TRIES))
        return next((place for place in found if self._is_apart(text, place)), None)

    def _is_apart(self, text: str, place: int) -> bool:
        if self.normalize is None:
            return True
        around = text[place - 1 : place + 2]
        left, right = self.normalize(around[0]), self.normalize(around[2])
        if not left or not right or right[0] in self.refused or any(letter.isspace() for letter in left + right):
            return False
        return self.normalize(around) in (f"{left} {right}", left + around[1] + right)


@dataclass(frozen=True, slots=True)
class Words:
    """How a text comes apart into words whose ids, one after the other, are the text's.

    First at every space (U+0020), then what lies between two of them by ``pattern``.

    Attributes:
        pattern: Its matches are the words; what it passes over has no ids.
        fold: What the normalizer makes of a word of letters, of which the model alone then gives the ids; None for
            other words, and where one could hold an added token.
        marks: Characters of ASCII that are words alone, wherever they stand.
    """

    pattern: re.Pattern[str]
    fold: Callable[[str], str | None]
    marks: frozenset[str]


def find_cuts(tokenizer: Tokenizer) -> Cuts | None:
    """The safe places for a tokenizer, or None where a component is not known to have any."""
    normalizers = _steps(tokenizer.normalizer, "normalizers")
    splitters = _steps(tokenizer.pre_tokenizer, "pretokenizers")
    contents = _added_contents(tokenizer)
    if contents is None or type(tokenizer.model).__name__ not in _WORD_MODELS:
        return None
    if _is_bert(normalizers, splitters):
        alone, spaces = _bert_places(normalizers, contents)
        return Cuts(f"[{alone}{spaces}]") if alone or spaces else None
    spaces = _word_spaces(splitters)
    kinds = [step["type"] for step in normalizers]
    if "Precompiled" in kinds and any(kind.startswith("NF") for kind in kinds):
        return None
    added = tokenizer.get_added_tokens_decoder().values()
    if any(token.rstrip for token in added) or any(re.search(r"(?<!\s)\s(?!\s)", content) for content in contents):
        return None
    if not spaces or not all(_keeps_word_spaces(step, splitters) for step in normalizers):
        return None
    stripped = any(step.get("strip_left") for step in normalizers)
    return Cuts(
        f"[{spaces}](?<={_PLAIN}{_PLAIN}.)(?={_PLAIN}{_PLAIN})",
        None if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str,
        frozenset(content[0] for content in contents if content) if stripped else frozenset(),
    )


def find_words(tokenizer: Tokenizer) -> Words | None:
    """How the texts of a tokenizer come apart into words, or None where it is not known to take them one by one."""
    normalizers = _steps(tokenizer.normalizer, "normalizers")
    contents = _added_contents(tokenizer)
    if contents is None or any(letter.isspace() for content in contents for letter in content):
        return None
    is_bert = _is_bert(normalizers, _steps(tokenizer.pre_tokenizer, "pretokenizers"))
    if not is_bert or type(tokenizer.model).__name__ != "WordPiece":
        return None
    alone, spaces = _bert_places(normalizers, contents)
    lower = any(step["lowercase"] for step in normalizers)
    normalize = str if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str
    marked = all(any(mark in content for mark in string.punctuation) for content in contents)

    @cache
    def letters() -> re.Pattern[str]:
        return re.compile(f"[{_LETTERS}]+")

    def fold(word: str) -> str | None:
        if not marked:  # an added token could lie in it
            return None
        if word.isascii():  # the same, sooner
            return None if not word.isalnum() else word.lower() if lower else word
        return normalize(word) if letters().fullmatch(word) else None

    marks = frozenset(string.punctuation).difference(*contents)
    return Words(re.compile(f"[^{alone}{spaces}]+" + (f"|[{alone}]" if alone else "")), fold, marks)


def _added_contents(tokenizer: Tokenizer) -> list[str] | None:
    """The added tokens, raw and normalized; None where one is found everywhere, or asks what stands beside it."""
    added = list(tokenizer.get_added_tokens_decoder().values())
    contents = [token.content for token in added]
    if tokenizer.normalizer is not None:
        contents += [tokenizer.normalizer.normalize_str(content) for content in contents]
    # What the normalizer leaves nothing of is found everywhere.
    return None if not all(contents) or any(token.single_word for token in added) else contents


def _is_bert(normalizers: list[Step], splitters: list[Step]) -> bool:
    kinds = [step["type"] for step in normalizers], [step["type"] for step in splitters]
    return kinds in (([], ["BertPreTokenizer"]), (["BertNormalizer"], ["BertPreTokenizer"]))


def _steps(component: Any, key: str) -> list[Step]:
    """The steps of a normalizer or pre-tokenizer, its sequences unrolled under ``key``."""

    def unroll(step: Step) -> Iterator[Step]:
        if step["type"] == "Sequence":
            for inner in step[key]:
                yield from unroll(inner)
        else:
            yield step

    return [] if component is None else list(unroll(json.loads(component.__getstate__())))


def _bert_places(normalizers: list[Step], contents: list[str]) -> tuple[str, str]:
    """What may be cut before, as a pattern's brackets take it: characters that stand alone, and white space."""
    held = "".join(contents)
    spaced = any(letter.isspace() for letter in held)
    alone = re.escape("".join(mark for mark in _MARKS if mark not in held))
    apart = any(step["handle_chinese_chars"] for step in normalizers)
    if (
        apart
        and not spaced
        and not any("\u3400" <= letter <= "\u4dbf" or "\u4e00" <= letter <= "\u9fff" for letter in held)
    ):
        alone += _IDEOGRAPHS
    return alone, "" if spaced else r" \t\n\r"


def _word_spaces(splitters: list[Step]) -> str:
    """The white space that parts words whatever is before and after it; empty if not every splitter is known."""
    known = _SPACE_SPLITTERS | {"ByteLevel", "Metaspace"}
    if not splitters or any(step["type"] not in known for step in splitters):
        return ""
    if any(step["type"] == "Metaspace" and step["prepend_scheme"] == "first" for step in splitters):
        return ""
    match splitters[0]:  # what parts words first; the others see them apart
        case {"type": "ByteLevel", "use_regex": True, "add_prefix_space": prefix}:
            return " " if prefix else r" \n"
        case {"type": "Metaspace", "split": True}:
            return " "
        case {"type": kind} if kind in _SPACE_SPLITTERS:
            return r" \n"
    return ""


def _keeps_word_spaces(normalizer: Step, splitters: list[Step]) -> bool:
    match normalizer:
        case {"type": "Replace", "pattern": {"Regex": pattern}, "content": " " | "▁"}:
            return pattern in _SPACE_RUNS
        case {"type": "Replace", "pattern": {"String": pattern}, "content": content}:
            return bool(content) and not any(letter.isspace() for letter in pattern + content)
        case {"type": "Strip", "strip_left": True}:
            first = splitters[0]
            return first["type"] in _SPACE_SPLITTERS or first.get("prepend_scheme") == "always"
    return normalizer["type"] in _LOCAL_NORMALIZERS or normalizer["type"] == "Strip"
