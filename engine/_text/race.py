"""A race between the memory of words and the Rust tokenizer: which of them takes less time on this machine, of late.

The memory takes a fifth of the other's time, on one core, since Python's lock is its own. The Rust tokenizer gives that
lock up and takes all cores there are. Which one wins hangs on their number, on what else they do, and on the texts.
"""

# Turns of the winner before the other one has another: the memory's are short, and a lost one costs little. The Rust
# tokenizer's are long, so that on two cores what it loses stays below a hundredth.
_MEMORY_AFTER, _RUST_AFTER = 16, 1024
# Of what was known, what remains beside a new measurement; a single one that was interrupted says little.
_KEPT, _MOST_CHANGE = 0.8, 2.0
# Characters of a turn that says what one takes: of fewer, such as empty texts, the time is that of the call.
_LEAST_CHARACTERS = 1000


class Race:
    """The seconds that each takes for a character. Threads may share it: what two of them lose to each other is little.

    Attributes:
        memory_s: Of the memory; 0 until measured.
        rust_s: Of the Rust tokenizer.
    """

    def __init__(self) -> None:
        self.memory_s = self.rust_s = 0.0
        self._since = 0  # turns of the winner

    def rust_is_next(self) -> bool:
        """Whose turn it is: the quicker one's, and now and then the other's.

        >>> race = Race()
        >>> race.learn(10_000, 0.002, rust=False)
        >>> race.learn(10_000, 0.001, rust=True)
        >>> [race.rust_is_next() for _ in range(17)].count(True)
        16
        """
        if not self.memory_s or not self.rust_s:
            return bool(self.memory_s)
        rust = self.rust_s < self.memory_s
        if self._since >= (_MEMORY_AFTER if rust else _RUST_AFTER):
            self._since = 0
            return not rust
        self._since += 1
        return rust

    def learn(self, characters: int, seconds: float, *, rust: bool) -> None:
        """Take notice of a turn, if it had enough to do."""
        if characters < _LEAST_CHARACTERS:
            return
        new = seconds / characters
        before = self.rust_s if rust else self.memory_s
        if before:
            new = _KEPT * before + (1 - _KEPT) * min(new, _MOST_CHANGE * before)
        if rust:
            self.rust_s = new
        else:
            self.memory_s = new
