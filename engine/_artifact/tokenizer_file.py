"""A loaded model's tokenizer.json, and the identity that is read off it when it is asked for."""

import hashlib
from pathlib import Path

from crossrank._text.identity import TokenizerIdentity, hash_tokenizer
from crossrank._text.tokenizer import PairTokenizer

from .held import ModelFile


class TokenizerFile:
    """A loaded model's tokenizer.json, hashed at the first use only: BERT's takes longer to hash than to load.

    Args:
        file: The file.
        tokenizer: What was read from it.
        model: The model's name, for messages.
    """

    def __init__(self, file: Path | ModelFile, tokenizer: PairTokenizer, model: str) -> None:
        self._file, self._tokenizer, self._model = ModelFile.of(file), tokenizer, model
        self._identity: TokenizerIdentity | None = None

    def identity(self) -> TokenizerIdentity:
        """The tokenizer's identity.

        Raises:
            ArtifactError: If the file is another one than when the model was loaded.
        """
        if self._identity is None:
            with self._file.opened() as place:
                sha256 = hash_tokenizer(place)
            tokenizer = self._tokenizer
            if tokenizer.changes:  # of a folder that is no artifact of ours: not what the file alone would give
                sha256 = hashlib.sha256("\n".join([sha256, *tokenizer.changes]).encode()).hexdigest()
            self._identity = TokenizerIdentity(sha256, self._model, tokenizer.kind, tokenizer.vocabulary_size)
        return self._identity
