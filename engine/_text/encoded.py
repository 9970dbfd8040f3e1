"""Documents tokenized ahead: their token ids in one array, selected like a list and scored like texts.

The ids are whole texts without special tokens, so that a pair is cut exactly as if it came from texts, whatever the
query. How they lie on a disk is `encoded_folder`'s affair.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from crossrank._errors import ArtifactError, InputError
from crossrank._options import folder_path
from crossrank._progress import Progress

from .identity import TokenizerIdentity
from .tokenizer import PairTokenizer
from .tokens import Int32, Tokens

# Texts held at a time while a stream of them is tokenized.
_TEXTS_PER_PART = 4096


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EncodedDocument:
    """One document of `EncodedDocuments`, for lists and pairs in which it stands for its text.

    Attributes:
        ids: int32 [tokens], read-only, without special tokens.
        tokenizer: Whose ids these are.
    """

    ids: Int32
    tokenizer: TokenizerIdentity

    def __post_init__(self) -> None:
        self.ids.setflags(write=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return EncodedDocument, (self.ids, self.tokenizer)  # through __init__: a pickle forgets that it was read-only

    def __repr__(self) -> str:
        return f"<EncodedDocument: {len(self.ids):,} tokens of {self.tokenizer}>"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EncodedDocuments:
    """Documents tokenized ahead, made by `CrossEncoder.encode` and taken by its other calls in place of texts.

    Immutable; a slice shares its ids, whether they are in memory or in the files of `load`. A pickle holds copies of
    them: give other processes the folder's name, and let them `load` it.

    Attributes:
        tokens: The ids and where each document starts, read-only.
        tokenizer: Whose ids these are.
    """

    tokens: Tokens
    tokenizer: TokenizerIdentity

    def __post_init__(self) -> None:
        self.tokens.ids.setflags(write=False)
        self.tokens.offsets.setflags(write=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return EncodedDocuments, (self.tokens, self.tokenizer)

    def __repr__(self) -> str:
        return f"<EncodedDocuments: {len(self):,} documents, {len(self.tokens.ids):,} tokens of {self.tokenizer}>"

    def __len__(self) -> int:
        return len(self.tokens.offsets) - 1

    def __iter__(self) -> Iterator[EncodedDocument]:
        return map(self._one, range(len(self)))

    @overload
    def __getitem__(self, which: int) -> EncodedDocument: ...

    @overload
    def __getitem__(self, which: slice | Sequence[int] | NDArray[Any]) -> "EncodedDocuments": ...

    def __getitem__(self, which: Any) -> "EncodedDocument | EncodedDocuments":
        """One document by its index, or some of them.

        Args:
            which: An index; or a slice, which shares the ids; or a list or array of indices, or bools [documents],
                which copy the ids that they select. Negative indices count from the end.

        Raises:
            IndexError: If there is no such document.
            InputError: If it is none of these.
        """
        if isinstance(which, slice):
            start, stop, step = which.indices(len(self))
            if step == 1:
                return EncodedDocuments(self.tokens.part(start, max(start, stop)), self.tokenizer)
            return self._gather(np.arange(start, stop, step))
        try:
            selection = np.asarray(which)
        except ValueError:  # lists of several lengths
            selection = np.empty((), object)
        if selection.shape == (0,):
            selection = selection.astype(np.intp)  # an empty list is one of floats
        if selection.ndim == 0 and selection.dtype.kind in "iu":
            return self._one(int(self._places(selection.reshape(1))[0]))
        if selection.ndim == 1 and selection.dtype.kind in "iu":
            return self._gather(self._places(selection))
        if selection.ndim != 1 or selection.dtype.kind != "b":
            raise InputError(f"documents[{which!r:.60}]: an index, a slice, or a list of indices or bools is needed")
        if len(selection) != len(self):
            raise InputError(f"documents[…] got {len(selection)} bools for {len(self)} documents")
        return self._gather(np.flatnonzero(selection))

    @property
    def lengths(self) -> Int32:
        """int32 [documents], tokens of each document."""
        return self.tokens.lengths

    @classmethod
    def concatenate(cls, parts: Iterable["EncodedDocuments"]) -> "EncodedDocuments":
        """The documents of several, one after the other, in a new array.

        Raises:
            InputError: If there is none, or they are of different tokenizers.
        """
        parts = list(parts)
        if not parts or not all(isinstance(part, EncodedDocuments) for part in parts):
            raise InputError("concatenate needs a list of EncodedDocuments, at least one")
        for part in parts:
            _require_same(part.tokenizer, parts[0].tokenizer)
        return cls(join_tokens(part.tokens for part in parts), parts[0].tokenizer)

    def save(self, folder: str | Path) -> None:
        """Write them as a folder that appears whole or not at all; an older one of encoded documents is replaced.

        Raises:
            InputError: If something else is in its place, or it cannot be written.
        """
        from .encoded_folder import write_encoded  # most encoded documents stay in memory

        write_encoded(folder_path("folder", folder), [self.tokens], self.tokenizer)

    @classmethod
    def load(cls, folder: str | Path) -> "EncodedDocuments":
        """Map the files of a folder that `save` or `CrossEncoder.encode` wrote; ids are read as they are used.

        Where documents start is checked here; their ids are checked as they are scored, since reading them all would
        take as long as the disk does.

        Raises:
            InputError: If it is no such folder.
            ArtifactError: If it is damaged or of a newer format; all problems at once.
        """
        from .encoded_folder import read_encoded  # as in `save`

        return cls(*read_encoded(folder_path("folder", folder)))

    def _one(self, place: int) -> EncodedDocument:
        return EncodedDocument(self.tokens.part(place, place + 1).ids, self.tokenizer)

    def _places(self, indices: NDArray[Any]) -> NDArray[np.intp]:
        """Indices counted from the start."""
        count = len(self)
        outside = np.flatnonzero((indices < -count) | (indices >= count))
        if len(outside):
            raise IndexError(f"document {indices[outside[0]]} of {count}")
        indices = indices.astype(np.intp)
        return np.where(indices < 0, indices + count, indices)

    def _gather(self, places: NDArray[np.intp]) -> "EncodedDocuments":
        starts, ends = self.tokens.offsets[places], self.tokens.offsets[places + 1]
        offsets = np.zeros(len(places) + 1, np.int64)
        np.cumsum(ends - starts, out=offsets[1:])
        # A ragged gather: each document's start here, less where it begins in the output.
        index = np.repeat(starts - offsets[:-1], ends - starts) + np.arange(offsets[-1])
        return EncodedDocuments(Tokens(self.tokens.ids[index], offsets), self.tokenizer)


def encode_parts(tokenizer: PairTokenizer, texts: Iterable[str], progress: Progress) -> Iterator[Tokens]:
    """Tokens of texts, some thousand texts at a time, none of which is kept.

    Raises:
        InputError: If one of them is no string or holds a lone surrogate; the message gives its index.
    """
    rest, done = iter(texts), 0
    while some := list(islice(rest, _TEXTS_PER_PART)):
        yield tokenizer.encode(some, "document", first=done)
        done += len(some)
        progress.advance(len(some))


def join_tokens(parts: Iterable[Tokens]) -> Tokens:
    """The texts of all parts in one array; of parts that are made as it goes, each is dropped once it is taken."""
    ids, offsets = array("i"), array("q", [0])  # they grow in place, where a list of parts would need them all twice
    for part in parts:
        offsets.frombytes((part.offsets[1:] + len(ids)).tobytes())
        ids.frombytes(part.ids.tobytes())
    return Tokens(np.asarray(ids), np.asarray(offsets))


def texts_or_tokens(
    documents: Sequence[str | EncodedDocument] | EncodedDocuments,
    tokenizer: PairTokenizer,
    identity: Callable[[], TokenizerIdentity],
) -> Sequence[Any] | Tokens:
    """Documents as the run loop takes them: texts as they are, or the tokens of all where some are encoded.

    Args:
        documents: Texts, encoded documents, or both.
        tokenizer: The model's tokenizer, for texts among encoded documents.
        identity: Gives that tokenizer's identity; asked only if there are encoded documents.

    Raises:
        InputError: If documents were encoded with another tokenizer, or something is no text.
        ArtifactError: If ids are none of the tokenizer's, which a damaged file may hold.
    """
    if isinstance(documents, EncodedDocuments):
        _require_same(documents.tokenizer, identity())
        tokens = documents.tokens
    else:
        encoded = [document for document in documents if isinstance(document, EncodedDocument)]
        if not encoded:
            return documents
        for document in encoded:
            _require_same(document.tokenizer, identity())
        # An empty text in an encoded document's place has no tokens, and keeps the index of the others in messages.
        texts = ["" if isinstance(document, EncodedDocument) else document for document in documents]
        of_texts = tokenizer.encode(texts, "document")
        rows = [
            document.ids if isinstance(document, EncodedDocument) else of_texts.part(i, i + 1).ids
            for i, document in enumerate(documents)
        ]
        tokens = Tokens(np.concatenate(rows), np.cumsum([0, *map(len, rows)], dtype=np.int64))
    known = identity().vocabulary_size
    if len(tokens.ids) and not 0 <= tokens.ids.min() <= tokens.ids.max() < known:
        raise ArtifactError(
            f"encoded documents hold ids from {tokens.ids.min()} to {tokens.ids.max()}, and the tokenizer has 0 to "
            f"{known - 1}: their folder is damaged, encode the texts again"
        )
    return tokens


def _require_same(found: TokenizerIdentity, needed: TokenizerIdentity) -> None:
    if found != needed:
        raise InputError(
            f"documents encoded with the tokenizer of {found} cannot be used with that of {needed}: encode their texts "
            f"with the model that scores them"
        )
