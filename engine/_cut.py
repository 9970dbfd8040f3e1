"""Where a long text may be cut so that the ids of its parts, one after the other, are exactly those of the whole.

A tokenizer looks for added tokens in the raw text, normalizes what lies between them, looks for added tokens again,
splits the rest into words and gives each word ids by itself. So a place is safe if no added token, no change by the
normalizer and no word lies across it, and if the part that begins there is treated as it would be in the middle of the
text. Two rules, each for tokenizers of which every component is known:

**BERT** (BertNormalizer or none, then BertPreTokenizer): before white space, ASCII punctuation and CJK ideographs,
unless an added token holds such a character. The normalizer works on single characters, but for canonical
decomposition, and that moves nothing across any of these, which are starters. The splitter drops white space and lets
punctuation stand alone, and the normalizer puts spaces around ideographs.

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
"""

import json
import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tokenizers import Tokenizer

# Not among the plain characters, since they join a neighbour's grapheme cluster: Malayalam's dot reph, Thai and Lao am,
# Hangul jamo, halfwidth voiced sound marks; and what lies beyond the basic plane.
_PLAIN = (
    "(?![\u0d4e\u0e33\u0eb3\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff\uff9e\uff9f\U00010000-\U0010ffff])"
    r"(?:\w|[!-~\u2018-\u2026\u3001-\u301b\uff01-\uff60])"
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
        places: Matches the character before which a text may be cut.
        normalize: The normalizer, where it must leave that character and its neighbours apart; else None.
        refused: What the normalizer must not begin the next character with.
    """

    places: re.Pattern[str]
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
        found = (match.start() for match in islice(self.places.finditer(text, least), _TRIES))
        return next((place for place in found if self._is_apart(text, place)), None)

    def _is_apart(self, text: str, place: int) -> bool:
        if self.normalize is None:
            return True
        around = text[place - 1 : place + 2]
        left, right = self.normalize(around[0]), self.normalize(around[2])
        if not left or not right or right[0] in self.refused or any(letter.isspace() for letter in left + right):
            return False
        return self.normalize(around) in (f"{left} {right}", left + around[1] + right)


def find_cuts(tokenizer: Tokenizer) -> Cuts | None:
    """The safe places for a tokenizer, or None where a component is not known to have any."""
    normalizers = _steps(tokenizer.normalizer, "normalizers")
    splitters = _steps(tokenizer.pre_tokenizer, "pretokenizers")
    added = list(tokenizer.get_added_tokens_decoder().values())
    normalize = None if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str
    contents = [token.content for token in added]
    if normalize is not None:
        contents += [normalize(content) for content in contents]
    if not all(contents):  # one that the normalizer leaves nothing of is found everywhere
        return None
    if type(tokenizer.model).__name__ not in _WORD_MODELS or any(token.single_word for token in added):
        return None
    kinds = [step["type"] for step in normalizers], [step["type"] for step in splitters]
    if kinds in (([], ["BertPreTokenizer"]), (["BertNormalizer"], ["BertPreTokenizer"])):
        return _bert_cuts(normalizers, "".join(contents))
    spaces = _word_spaces(splitters)
    if "Precompiled" in kinds[0] and any(kind.startswith("NF") for kind in kinds[0]):
        return None
    if any(token.rstrip for token in added) or any(re.search(r"(?<!\s)\s(?!\s)", content) for content in contents):
        return None
    if not spaces or not all(_keeps_word_spaces(step, splitters) for step in normalizers):
        return None
    stripped = any(step.get("strip_left") for step in normalizers)
    return Cuts(
        re.compile(f"[{spaces}](?<={_PLAIN}{_PLAIN}.)(?={_PLAIN}{_PLAIN})", re.DOTALL),
        normalize,
        frozenset(content[0] for content in contents if content) if stripped else frozenset(),
    )


def _steps(component: Any, key: str) -> list[Step]:
    """The steps of a normalizer or pre-tokenizer, its sequences unrolled under ``key``."""

    def unroll(step: Step) -> Iterator[Step]:
        if step["type"] == "Sequence":
            for inner in step[key]:
                yield from unroll(inner)
        else:
            yield step

    return [] if component is None else list(unroll(json.loads(component.__getstate__())))


def _bert_cuts(normalizers: list[Step], contents: str) -> Cuts | None:
    spaced = any(letter.isspace() for letter in contents)
    places = "".join(mark for mark in string.punctuation if mark not in contents)
    places = re.escape(places) + ("" if spaced else r" \t\n")
    apart = any(step["handle_chinese_chars"] for step in normalizers)
    if apart and not spaced and not re.search(f"[{_IDEOGRAPHS}]", contents):
        places += _IDEOGRAPHS
    return Cuts(re.compile(f"[{places}]")) if places else None


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
