"""The ids of words, remembered: most words of a text were in texts before it.

For tokenizers whose texts consist of words that are tokenized by themselves (`safe_cuts.Words`). What stands between
two spaces is looked up as it is; what is not known there is taken apart into words, of which most are known; the
tokenizer gives the ids of the others, one by one.
"""

from array import array
from collections.abc import Sequence

from tokenizers import Tokenizer

from .safe_cuts import Words

# Entries of a generation. On English passages half as many leave a quarter more unknown, twice as many a sixth less.
_ENTRIES = 16_384
# Longer ones, in characters or in ids, are not remembered: they are rare, and the memory's bound is theirs.
_LONGEST = 24
_LONGEST_BYTES = 4 * _LONGEST

Ids = bytes  # int32, in the machine's byte order


class WordMemory:
    """The ids of the words that a tokenizer has met. Thread-safe without a lock, and across a fork; empty at first.

    There are two generations. A word that is met goes to the young one; when that is full, it takes the older one's
    place, and an empty one begins. So words in use stay. That is 4 MB for English text, and 12 MB at worst: 2 x 16,384
    entries of at most 24 characters and 24 ids; as much more as there are more entries.

    Args:
        words: How texts come apart.
        tokenizer: The tokenizer of these words.

    Attributes:
        entries: Of a generation; the next one has as many.
    """

    def __init__(self, words: Words, tokenizer: Tokenizer) -> None:
        self._words = words
        self._tokenizer = tokenizer
        self.entries = _ENTRIES
        self._young = _Generation(words, tokenizer, {}, self.entries)

    def enlarge(self, entries: int) -> None:
        """Remember more from now on."""
        self.entries = self._young.entries = entries

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, exactly those that the tokenizer gives it."""
        young = self._young
        rows: list[Ids] = []
        for text in texts:
            # Of a subclass of str, `str.split` makes plain strings, unless it is empty.
            rows.append(b"".join(map(young.__getitem__, str.split(text, " "))) if text else b"")
            if len(young) >= young.entries:
                young = self._succeed(young)
        return rows

    def _succeed(self, young: "_Generation") -> "_Generation":
        """The generation after this one, unless another thread was first: then its."""
        if self._young is young:
            self._young = _Generation(self._words, self._tokenizer, young, self.entries)
            young.older = {}  # or all the generations there ever were would stay
        return self._young


class _Generation(dict[str, Ids]):
    """The ids of words, and of what stands between two spaces, to any that is asked for.

    It keeps them until it is full, and never changes or removes one.

    Attributes:
        older: Where to look first for what is not here.
        entries: How many make it full.
    """

    __slots__ = ("_fold", "_marks", "_model", "_pattern", "_tokenizer", "entries", "older")

    def __init__(self, words: Words, tokenizer: Tokenizer, older: dict[str, Ids], entries: int) -> None:
        self._pattern, self._fold, self._marks = words.pattern, words.fold, words.marks
        self._tokenizer, self._model = tokenizer, tokenizer.model
        self.older, self.entries = older, entries

    def __missing__(self, piece: str) -> Ids:
        ids = self.older.get(piece)
        if ids is None:
            ids = self._find(piece)
            if len(piece) > _LONGEST or len(ids) > _LONGEST_BYTES:
                return ids
        if len(self) < self.entries:
            self[piece] = ids
        return ids

    def _find(self, piece: str) -> Ids:
        if not piece.isalnum() and piece.isascii():  # words with a mark are most of these, and sooner without a pattern
            word, mark = piece[:-1], piece[-1:]
            if mark in self._marks and word.isalnum():
                return self[word] + self[mark]
        elif (folded := self._fold(piece)) is not None:
            return array("i", [token.id for token in self._model.tokenize(folded)]).tobytes()
        words = self._pattern.findall(piece)
        if words != [piece]:
            return b"".join(map(self.__getitem__, words))
        return array("i", self._tokenizer.encode(piece, add_special_tokens=False).ids).tobytes()
