"""The tokenizer of a model: texts to token ids, and the pair's special tokens, read off the Rust tokenizer."""

import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from crossrank._errors import CheckpointError, InputError
from crossrank._interrupts import not_thrown_in, thrown_in
from crossrank._json import read_file
from crossrank._numbers import whole_number

from .pairs import PairTemplate
from .race import Race
from .safe_cuts import find_cuts, find_words
from .tokens import Tokens
from .word_memory import WordMemory

# A Rust Encoding holds offsets and strings, many times its ids: they are dropped every so many texts. A longer text
# goes there in parts, the first with the other texts, the others so many at a time and only as far as they are needed.
_TEXTS_PER_CALL = 512
_TEXTS_PER_PAUSE = 32
# Texts of a turn in a hurry: by words remembered, and by the Rust tokenizer, enough for all of its threads.
_HURRIED, _TEXTS_PER_TURN = 64, 128
_PART_CHARACTERS = 4096
_PARTS_PER_CALL = 8
_ID_BYTES = np.dtype(np.int32).itemsize
_LARGEST_ID = int(np.iinfo(np.int32).max)
# Words to remember in a hurry: 32 MB of English.
_MORE_WORDS = 131_072


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
    if max(pair.ids + pair.type_ids) > _LARGEST_ID:
        raise CheckpointError(
            f"tokenizer.json joins a pair with ids beyond 32 bits: {pair.ids}, of type {pair.type_ids}"
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


def _is_damage(error: BaseException) -> bool:
    """Whether an exception is what a damaged tokenizer.json does to the tokenizers library, or to ids of 32 bits.

    Most of the library's have no class of their own, and a panic in Rust is no Exception.
    """
    own = type(error) in (Exception, ValueError, OverflowError) or type(error).__module__ == "pyo3_runtime"
    return own and not thrown_in(error)


_NO_TOKENIZER = "not a tokenizer.json that tokenizers can read"


def _describe(place: object, what: str, error: BaseException) -> str:
    return f"{place}: {what}: {error!s:.300}; if the file is damaged, download or export the model again"


def read_tokenizer(path: Path) -> bytes:
    """A ``tokenizer.json``, for `parse_tokenizer`.

    Raises:
        CheckpointError: If it cannot be read.
    """
    try:
        return read_file(path)
    except not_thrown_in(OSError) as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    except not_thrown_in(ValueError) as error:
        raise CheckpointError(_describe(path, _NO_TOKENIZER, error)) from error


def parse_tokenizer(content: bytes) -> Tokenizer:
    """What the tokenizers library makes of a ``tokenizer.json``, for `PairTokenizer`, which says what its errors mean.

    All but a hundredth of its time is the library's, in which other threads go on.
    """
    tokenizer = Tokenizer.from_buffer(content)
    kind, unknown = type(tokenizer.model).__name__, getattr(tokenizer.model, "unk_token", None)
    if kind in ("WordPiece", "WordLevel") and tokenizer.model.token_to_id(unknown) is None:
        raise ValueError(f"{kind} takes {unknown!r:.80} for what it does not know, and has no such token")
    tokenizer.encode("a", "b")  # some contradictions show only in use
    return tokenizer


class PairTokenizer:
    """The tokenizer of one model. Thread-safe.

    Where that is known to give the same ids, it remembers those of words (`WordMemory`). Padding and truncation
    that a tokenizer.json carries are switched off: the planner pads, and pairs are truncated where they are joined.

    Args:
        source: A ``tokenizer.json``, or a tokenizer that was built, which is changed.
        adapt: Changes what was read and says how, a phrase each; or None.
        parsed: What gives, or raises, what `parse_tokenizer` does of that file, where it has begun; or None.
        rows: Of the model's table of embeddings, where the tokenizer has ids beyond it; else None.

    Attributes:
        changes: What ``adapt`` said.

    Raises:
        CheckpointError: If the file cannot be read or joins pairs in no known way.
    """

    def __init__(
        self,
        source: Path | Tokenizer,
        *,
        adapt: Callable[[Tokenizer], Sequence[str]] | None = None,
        parsed: Callable[[], Tokenizer] | None = None,
        rows: int | None = None,
    ) -> None:
        self._rows = rows
        try:
            if isinstance(source, Tokenizer):
                self._tokenizer = source
            else:
                self._tokenizer = parsed() if parsed else parse_tokenizer(read_tokenizer(source))
            self.changes: tuple[str, ...] = tuple(adapt(self._tokenizer)) if adapt else ()
            # The side that a tokenizer.json truncates, "right" without a word of it; see `describe_inputs`.
            self.truncation_side: str = str((self._tokenizer.truncation or {}).get("direction", "right")).lower()
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
            self.template = read_template(self._tokenizer)
            self._cuts = find_cuts(self._tokenizer)
            words = find_words(self._tokenizer)
        except BaseException as error:
            if not _is_damage(error):
                raise
            place = source if isinstance(source, Path) else "tokenizer.json"
            raise CheckpointError(_describe(place, _NO_TOKENIZER, error)) from error
        self._memory = None if words is None else WordMemory(words, self._tokenizer)
        self._remembered = self._tokenize if self._memory is None else self._memory.encode
        self._race: Race | None = None

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

    def is_added(self, token_id: int) -> bool:
        """Whether an id is that of a token that is looked for before a text is split, as special tokens are."""
        return int(token_id) in self._tokenizer.get_added_tokens_decoder()

    def limit_ids(self, rows: int) -> None:
        """Refuse from now on texts with ids that a table of so many embeddings does not hold."""
        self._rows = rows

    def hurry(self) -> None:
        """From now on remember eight times as many words, and take the Rust tokenizer's threads where that is quicker.

        For models that compute sooner than texts are tokenized, and leave the cores idle.
        """
        if self._memory is not None and self._race is None:
            self._memory.enlarge(_MORE_WORDS)
            self._race = Race()

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
            pause: Called now and then between texts and parts of long ones, for other threads to go first, or to end
                this by an exception; or None.

        Raises:
            InputError: If one of them is no string, holds a lone surrogate, or a token that the model has no embedding
                for; the message gives its index.
            CheckpointError: If the tokenizer fails on one of them, as a damaged one may; with its index too.
        """
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"{what} {first + index} is {type(text).__name__}, not str: {text!r:.80}")
        found: list[bytes] = []
        race = self._race
        while (start := len(found)) < len(texts):
            if start and pause is not None:
                pause()
            # The memory is Python and keeps Python's lock; the Rust tokenizer gives it up.
            size = _TEXTS_PER_CALL if pause is None or self._memory is None else _TEXTS_PER_PAUSE
            size = size if race is None else _HURRIED
            rust = race is not None and len(texts) - start >= _TEXTS_PER_TURN and race.rust_is_next()
            some, begun = texts[start : start + (_TEXTS_PER_TURN if rust else size)], time.perf_counter()
            found += self._encode_slice(some, enough, pause, rust=rust, what=what, first=first + start)
            if race is not None and len(some) >= _HURRIED:  # what a few take says nothing of many
                race.learn(sum(map(len, some)), time.perf_counter() - begun, rust=rust)
        offsets = np.fromiter(accumulate(map(len, found), initial=0), np.int64, len(found) + 1) // _ID_BYTES
        tokens = Tokens(ids=np.frombuffer(b"".join(found), np.int32), offsets=offsets)
        if self._rows is not None:
            self.check_ids(tokens, what, first=first)
        return tokens

    def check_ids(self, tokens: Tokens, what: str, *, first: int = 0) -> None:
        """Refuse ids that the model has no embedding for.

        Args:
            tokens: Of texts.
            what: What the texts are, for messages.
            first: The caller's index of the first text, for messages.

        Raises:
            InputError: If there is one; the message gives its text's index.
        """
        if self._rows is None or not len(tokens.ids) or int(tokens.ids.max()) < self._rows:
            return
        place = int(np.argmax(tokens.ids >= self._rows))
        index = first + int(np.searchsorted(tokens.offsets, place, side="right")) - 1
        bad = int(tokens.ids[place])
        raise InputError(
            f"{what} {index} holds the token {self._tokenizer.id_to_token(bad)!r:.80}, id {bad}, and the model has "
            f"embeddings for ids below {self._rows} alone: leave it out of the text"
        )

    def _encode_slice(
        self,
        texts: Sequence[str],
        enough: int | None,
        pause: Callable[[], None] | None,
        *,
        rust: bool,
        what: str,
        first: int,
    ) -> list[bytes]:
        """As `_encode_some`, with what may go wrong said as `encode` says it."""
        try:
            return self._encode_some(texts, enough, pause, self._tokenize if rust else self._remembered)
        except (TypeError, UnicodeEncodeError) as error:  # TypeError: what the binding says of such a text
            lone = (i for i, text in enumerate(texts) if any("\ud800" <= letter <= "\udfff" for letter in text))
            bad = next(lone, None)
            if bad is None or thrown_in(error):
                raise
            raise InputError(
                f"{what} {first + bad} holds a lone surrogate: {texts[bad]!r:.80}; "
                f"text.encode('utf-8', 'replace').decode() puts a question mark in its place"
            ) from error
        except BaseException as error:
            if not _is_damage(error):
                raise
            where = f"{what} {first}" + (f" or one of the {len(texts) - 1} after it" if len(texts) > 1 else "")
            raise CheckpointError(_describe("tokenizer.json", f"fails on {where}", error)) from error

    def _encode_some(
        self,
        texts: Sequence[str],
        enough: int | None,
        pause: Callable[[], None] | None,
        encode: Callable[[Sequence[str]], list[bytes]],
    ) -> list[bytes]:
        heads = list(texts)
        rests: dict[int, Iterator[str]] = {}
        if self._cuts is not None:
            for i, text in enumerate(heads):
                if len(text) > _PART_CHARACTERS:
                    text.encode()  # what is left out could hold a lone surrogate too
                    rests[i] = self._cuts.parts(text, _PART_CHARACTERS)
                    heads[i] = next(rests[i])
        rows = encode(heads)
        most = None if enough is None else enough * _ID_BYTES
        for i, rest in rests.items():
            row = bytearray(rows[i])
            while (most is None or len(row) < most) and (parts := list(islice(rest, _PARTS_PER_CALL))):
                row += b"".join(encode(parts))
                if pause is not None:
                    pause()
            rows[i] = bytes(row[:most])
        return rows

    def _tokenize(self, texts: Sequence[str]) -> list[bytes]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [array("i", encoding.ids).tobytes() for encoding in encodings]


# Of what is expected: of texts like those before, one that would fit is hardly ever refused, and the others mostly are.
_LOW = 0.75


class TokenEstimate:
    """Tokens per character, as the texts until now had them. Threads may share it: what a race loses is little."""

    def __init__(self) -> None:
        self._seen = (0, 0)  # tokens and characters

    def learn(self, texts: Sequence[str], tokens: int) -> None:
        """Take notice of how many tokens some texts have, all together."""
        before, characters = self._seen
        self._seen = before + tokens, characters + sum(map(len, texts))

    def expected(self, at_least: int) -> int:
        """What is expected where `at_least` gave so many."""
        return int(at_least / _LOW)

    def at_least(self, texts: Sequence[object], most: int) -> int:
        """A low estimate of the tokens of texts, the same ones counted once; 0 while nothing is known.

        Args:
            texts: The texts.
            most: Tokens of a text beyond so many do not count.

        >>> estimate = TokenEstimate()
        >>> estimate.learn(["four", "letters"], 2)
        >>> estimate.at_least(["eleven more", "eleven more", "a" * 1000], 20)
        21
        """
        tokens, characters = self._seen
        if not characters:
            return 0
        rate = _LOW * tokens / characters
        # What is no text is for the tokenizer to refuse.
        return int(sum([min(len(text) * rate, most) for text in {text for text in texts if isinstance(text, str)}]))
