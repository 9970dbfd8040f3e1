"""A tokenizer's identity, which goes with token ids, so that no other model reads them.

The identity is the sha256 of tokenizer.json as a canonical text: parsed, without what no id of a text hangs on, and
written again with sorted keys. So neither layout nor the padding, truncation and decoder that a file happens to carry
set two models apart, and, since the file is hashed and not what the tokenizers library made of it, no other version of
that library does. Lower-casing, vocabulary and special tokens are in the file and count.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from crossrank._errors import ArtifactError
from crossrank._interrupts import not_thrown_in
from crossrank._json import read_json_object

# Parts of a tokenizer.json that change no id here: the first three are switched off or unused, the last is the file's.
_WITHOUT_EFFECT = ("padding", "truncation", "decoder", "version")


@dataclass(frozen=True, slots=True)
class TokenizerIdentity:
    """A tokenizer by what it does; what else is known of it is for messages and is not compared.

    Attributes:
        sha256: Of the canonical tokenizer.json, in hexadecimal.
        model: The model that it was read with.
        kind: WordPiece, BPE, Unigram or WordLevel.
        vocabulary_size: Its largest id and one.
    """

    sha256: str
    model: str = field(compare=False)
    kind: str = field(compare=False)
    vocabulary_size: int = field(compare=False)

    def __str__(self) -> str:
        return f"{self.model} ({self.kind}, {self.vocabulary_size:,} tokens, sha256 {self.sha256[:12]})"


def hash_tokenizer(path: Path) -> str:
    """The sha256 of a tokenizer.json in its canonical form, in hexadecimal.

    Raises:
        ArtifactError: If it cannot be read any more.
    """
    try:
        content = read_json_object(path)
    except not_thrown_in(OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read again: {error}; load the model anew") from error
    known = {key: value for key, value in content.items() if key not in _WITHOUT_EFFECT}
    canonical = json.dumps(known, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
