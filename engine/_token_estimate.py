"""How many tokens texts have, told by their characters: a full queue refuses them before they are tokenized."""

from collections.abc import Sequence

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
        return int(sum(min(len(text) * rate, most) for text in {text for text in texts if isinstance(text, str)}))
