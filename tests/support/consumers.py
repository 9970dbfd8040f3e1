"""The table of uses: who uses sentence-transformers' `CrossEncoder`, where, and what becomes of it with crossrank's.

A use is a function of the class `CrossEncoder` and of a model's folder; it gives what the consumer gets. It runs once
with each library's class. `tests/support/consumer_packages.py` runs the consumers' own packages,
`tests/support/consumer_replays.py` plays their calls in our words, with their arguments, where a package is too heavy
or no library.

``python -m tests.support.consumers`` prints the table as docs/migrating.md has it.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import pytest

__all__ = ["DOCUMENTS", "QUERY", "USES", "Use", "import_module", "put", "table", "use"]

Outcome = Literal["equal", "refused", "not applicable"]
Play = Callable[[Any, str], Any]

QUERY = "How do I sharpen a kitchen knife without a stone?"
DOCUMENTS = [
    "Hold the blade at twenty degrees and draw it along the bottom of a ceramic cup.",
    "Bread dough rises because yeast turns sugar into gas.",
    "The lighthouse keeper counts ships at dusk.",
    "A kettle boils faster with its lid on.",
    "Rivers carry sand to the sea, and the sea carries it back to the beach.",
    "Tomatoes want sun, warmth and a stake to climb.",
    "Le café ouvre à huit heures, même en été.",
    "knife",
]


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a CrossEncoder.

    Attributes:
        consumer: The library or application, and the part of it.
        place: Its public repository and the file there.
        swap: How crossrank gets there, as docs/migrating.md says it.
        outcome: What becomes of it.
        play: The use; None where there is nothing to run.
        package: The module that must be there, or "" where we play the calls.
        labels: Of the model that it is used with.
        words: Of a refusal: what the message must say, as a pattern. Else the reason why it does not apply.
    """

    consumer: str
    place: str
    swap: str
    outcome: Outcome
    play: Play | None = None
    package: str = ""
    labels: int = 1
    words: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether it can run here."""
        try:
            return not self.package or importlib.util.find_spec(self.package) is not None
        except ModuleNotFoundError:  # of a package above it
            return False


USES: list[Use] = []


def use(
    consumer: str,
    place: str,
    swap: str = "import it from crossrank",
    *,
    refused: str = "",
    package: str = "",
    labels: int = 1,
) -> Callable[[Play], Play]:
    """Enter the decorated function into `USES`; ``refused`` is what the message of a refused one must say."""

    def enter(play: Play) -> Play:
        outcome: Outcome = "refused" if refused else "equal"
        USES.append(Use(consumer, place, swap, outcome, play, package, labels, refused))
        return play

    return enter


def import_module(name: str) -> Any:
    """A consumer's module, of whose types we know nothing."""
    return importlib.import_module(name)


@contextmanager
def put(module: str, encoder: Any, name: str = "CrossEncoder") -> Iterator[Any]:
    """Let ``module.name`` be this class, as a user would assign it, and give the module."""
    found: ModuleType = importlib.import_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(found, name, encoder)
        yield found


def table() -> str:
    """The table in docs/migrating.md: one line per way and outcome; ¹ marks what is played in our words."""
    lines: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in USES:
        outcome = f"{row.outcome}: {row.words}" if row.outcome == "not applicable" else row.outcome
        library, _, part = row.consumer.partition(": ")
        mark = "" if row.package or row.play is None else " ¹"
        lines.setdefault((row.swap, outcome), {}).setdefault(library, []).append((part or library) + mark)
    body = ["| who | how crossrank gets there | outcome |", "|---|---|---|"]
    for (swap, outcome), who in lines.items():
        names = (
            ", ".join(parts) if parts[0].startswith(library) else f"{library}: {', '.join(parts)}"
            for library, parts in who.items()
        )
        body.append(f"| {'; '.join(names)} | {swap} | {outcome} |")
    return "\n".join(body) + "\n"


if __name__ == "__main__":
    tests = import_module("tests.engine.test_consumers")  # imports all uses
    sys.stdout.write(tests.support.consumers.table())
