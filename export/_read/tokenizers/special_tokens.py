"""Special and added tokens of a tokenizer that is built of an older form of vocabulary."""

from pathlib import Path

from tokenizers import Tokenizer

from crossrank._artifact.special_tokens import SpecialTokens, require_ids
from crossrank._errors import CheckpointError


def add_special_tokens(
    tokenizer: Tokenizer, tokens: SpecialTokens, folder: Path, vocabulary: str
) -> dict[str, tuple[str, int]]:
    """Add them to a tokenizer that has the checkpoint's vocabulary.

    Args:
        tokenizer: Gets the tokens.
        tokens: Of the checkpoint.
        folder: The checkpoint, for messages.
        vocabulary: Its vocabulary file, for messages.

    Returns:
        Text and id of each special token by its name.

    Raises:
        CheckpointError: If special tokens are in neither the vocabulary nor the added tokens, or an added token would
            not get the id that the files give it (transformers 4 numbers it anew; the model knows the other one).
    """
    missing = [
        f"{token} ({name})"
        for name, token in tokens.named.items()
        if tokenizer.token_to_id(token) is None and token not in tokens.ids
    ]
    if missing:
        raise CheckpointError(
            f"{folder}: {vocabulary} does not hold {', '.join(missing)}; all of {', '.join(tokens.named.values())} are "
            f"expected there, unless tokenizer_config.json or special_tokens_map.json gives them other names"
        )
    tokenizer.add_tokens(list(tokens.added))
    require_ids(tokenizer, tokens.ids, folder, vocabulary)
    ids = tokenizer.get_vocab(with_added_tokens=True)
    return {name: (token, ids[token]) for name, token in tokens.named.items()}
