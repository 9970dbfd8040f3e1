"""Texts to token ids, with the Rust tokenizer; the pair's special tokens, read off that tokenizer."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ._cut import find_cuts, find_words
from ._errors import CheckpointError, InputError
from ._numbers import whole_number
from ._pairs import PairTemplate, Tokens
from ._words import WordMemory

# A Rust Encoding holds offsets and strings, many times its ids: they are dropped every so many texts. A longer text
# goes there in parts, the first with the other texts, the others so many at a time and only as far as they are needed.
_TEXTS_PER_CALL = 512
_TEXTS_PER_PAUSE = 32
_PART_CHARACTERS = 4096
_PARTS_PER_CALL = 8
_ID_BYTES = np.dtype(np.int32).itemsize


def read_template(tokenizer: Tokenizer) -> PairTemplate:
    """The special tokens that a tokenizer puts around a pair, found by letting it join one.

    Args:
        tokenizer: With padding and truncation off.

    Returns:
        The template of the tokenizer's post-processor.

    Raises:
        CheckpointError: If the joined pair is not special tokens, the query, special tokens, the
            document, special tokens.
    """
    query = tokenizer.encode("a", add_special_tokens=False)
    document = tokenizer.encode("b c", add_special_tokens=False)
    pair = tokenizer.post_process(query, document, add_special_tokens=True)
    special = np.array(pair.special_tokens_mask, dtype=bool)
    texts = np.flatnonzero(~special)
    a, b = len(query.ids), len(document.ids)
    joined = [pair.ids[i] for i in texts]
    if not a or not b or joined != query.ids + document.ids:
        raise CheckpointError(
            "tokenizer.json joins a pair in no known way: expected special tokens around the query's and "
            f"the document's own ids {query.ids} and {document.ids}, got {pair.ids}"
        )
    bounds = [0, texts[0], texts[a - 1] + 1, texts[a], texts[-1] + 1, len(special)]
    if texts[a - 1] - texts[0] != a - 1 or texts[-1] - texts[a] != b - 1:
        raise CheckpointError(f"tokenizer.json puts special tokens inside a text: {pair.tokens}")
    if bounds[0] == bounds[1]:
        raise CheckpointError("tokenizer.json puts no special token before a pair, whose place a cross-encoder reads")
    if document.offsets != sorted(document.offsets):
        raise CheckpointError(f"tokenizer.json gives the words of a text again, or in another order: {document.tokens}")
    parts = [slice(bounds[i], bounds[i + 1]) for i in (0, 2, 4)]
    ids, types = pair.ids, pair.type_ids
    return PairTemplate(
        special_ids=(tuple(ids[parts[0]]), tuple(ids[parts[1]]), tuple(ids[parts[2]])),
        special_types=(tuple(types[parts[0]]), tuple(types[parts[1]]), tuple(types[parts[2]])),
        query_type=types[bounds[1]],
        document_type=types[bounds[3]],
    )


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.encode("a", "b")  # some contradictions show only in use
        return tokenizer
    except BaseException as error:  # bare Exception for a malformed file; a panic in Rust is not even that
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise CheckpointError(f"{path}: not a tokenizer.json that tokenizers can read: {error!s:.300}") from error


class PairTokenizer:
    """The tokenizer of one model. Thread-safe.

    Where that is known to give the same ids, it remembers those of words (`WordMemory`). Padding and truncation
    that a tokenizer.json carries are switched off: the planner pads, and pairs are truncated where they are joined.

    Args:
        source: A ``tokenizer.json``, or a tokenizer that was built, which is changed.

    Raises:
        CheckpointError: If the file cannot be read or joins pairs in no known way.
    """

    def __init__(self, source: Path | Tokenizer) -> None:
        self._tokenizer = source if isinstance(source, Tokenizer) else _read_tokenizer(source)
        # The side that a tokenizer.json truncates, "right" without a word of it; see `describe_inputs`.
        self.truncation_side: str = str((self._tokenizer.truncation or {}).get("direction", "right")).lower()
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.template = read_template(self._tokenizer)
        self._cuts = find_cuts(self._tokenizer)
        words = find_words(self._tokenizer)
        self._memory = None if words is None else WordMemory(words, self._tokenizer)

    def save(self, path: Path) -> None:
        """Write it as a ``tokenizer.json``."""
        self._tokenizer.save(str(path))

    @property
    def vocabulary_size(self) -> int:
        """Rows that an embedding table needs for it: its largest id and one, added tokens included."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def kind(self) -> str:
        """The tokenizer's model: WordPiece, BPE, Unigram or WordLevel."""
        return type(self._tokenizer.model).__name__

    def check_max_length(self, max_length: int) -> int:
        """The length as an int, if a pair's special tokens leave room in it.

        Raises:
            InputError: If they do not.
        """
        least = self.template.special_count + 1
        return whole_number(
            "max_length", max_length, least, f"an integer of at least {least}, special tokens and one more"
        )

    def encode(
        self,
        texts: Sequence[str],
        what: str,
        *,
        first: int = 0,
        enough: int | None = None,
        pause: Callable[[], None] | None = None,
    ) -> Tokens:
        """Token ids of each text, without special tokens and without truncation.

        Args:
            texts: Any strings; an empty one has no tokens.
            what: What the texts are, for messages: "query" or "document".
            first: The caller's index of the first text, for messages.
            enough: Of a text's ids, those after so many may be left out, and are where that saves time; None for all.
            pause: Called now and then between texts, for other threads to go first; or None.

        Raises:
            InputError: If one of them is no string or holds a lone surrogate; the message gives its index.
        """
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"{what} {first + index} is {type(text).__name__}, not str: {text!r:.80}")
        ids: list[NDArray[np.int32]] = []
        lengths = np.zeros(len(texts), np.int64)
        # The memory is Python and keeps Python's lock; the Rust tokenizer gives it up.
        size = _TEXTS_PER_CALL if pause is None or self._memory is None else _TEXTS_PER_PAUSE
        for start in range(0, len(texts), size):
            if start and pause is not None:
                pause()
            some = texts[start : start + size]
            try:
                rows = self._encode_some(some, enough)
            except (TypeError, UnicodeEncodeError) as error:  # TypeError: what the binding says of such a text
                bad = next(i for i, text in enumerate(some) if any("\ud800" <= letter <= "\udfff" for letter in text))
                raise InputError(
                    f"{what} {first + start + bad} holds a lone surrogate: {some[bad]!r:.80}; "
                    f"text.encode('utf-8', 'replace').decode() puts a question mark in its place"
                ) from error
            lengths[start : start + len(rows)] = [len(row) // _ID_BYTES for row in rows]
            ids.append(np.frombuffer(b"".join(rows), np.int32))
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return Tokens(ids=np.concatenate(ids) if ids else np.zeros(0, np.int32), offsets=offsets)

    def _encode_some(self, texts: Sequence[str], enough: int | None) -> list[bytes]:
        heads = list(texts)
        rests: dict[int, Iterator[str]] = {}
        if self._cuts is not None:
            for i, text in enumerate(heads):
                if len(text) > _PART_CHARACTERS:
                    text.encode()  # what is left out could hold a lone surrogate too
                    rests[i] = self._cuts.parts(text, _PART_CHARACTERS)
                    heads[i] = next(rests[i])
        encode = self._tokenize if self._memory is None else self._memory.encode
        rows = encode(heads)
        most = None if enough is None else enough * _ID_BYTES
        for i, rest in rests.items():
            row = bytearray(rows[i])
            while (most is None or len(row) < most) and (parts := list(islice(rest, _PARTS_PER_CALL))):
                row += b"".join(encode(parts))
            rows[i] = bytes(row[:most])
        return rows

    def _tokenize(self, texts: Sequence[str]) -> list[bytes]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [array("i", encoding.ids).tobytes() for encoding in encodings]
