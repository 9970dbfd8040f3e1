"""Every error that crossrank raises on purpose, in one small tree.

    CrossrankError
    ├── InputError              what the caller passed: a query, a document, an option (also a ValueError)
    ├── ModelNotFoundError      no model of that name or at that path (also a FileNotFoundError)
    ├── ModelError              a model is there, and something about it is wrong
    │   ├── CheckpointError     config, tokenizer or weights are unusable
    │   ├── UnsupportedModelError   an architecture or setting that the exporter does not know
    │   ├── ArtifactError       an exported folder is damaged, foreign or of a newer format
    │   └── ProofError          an export or a verification left its error bound
    ├── DeviceError             a device was asked for and cannot run (also a RuntimeError)
    ├── Overloaded              too many tokens wait for this model already (also a RuntimeError)
    ├── Closed                  the model takes no more requests (also a RuntimeError)
    └── MissingDependencyError  an extra is not installed (also an ImportError)

Messages give what was received, what is allowed, and what to do.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from ._printable import printable

T = TypeVar("T")


class CrossrankError(Exception):
    """Base of all errors that crossrank raises on purpose. What steers a terminal is escaped in their text."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(printable(text) if isinstance(text, str) else text for text in arguments))


class InputError(CrossrankError, ValueError):
    """A query, a document or an option is not what the call accepts."""


class ModelNotFoundError(CrossrankError, FileNotFoundError):
    """No model of that name in the cache or on the hub, and no folder at that path."""


class ModelError(CrossrankError):
    """A model was found, and something about it is wrong."""


class CheckpointError(ModelError):
    """The config, tokenizer or weights of a checkpoint are unusable."""


class UnsupportedModelError(ModelError):
    """The model has an architecture or a setting that the exporter does not know."""


class ArtifactError(ModelError):
    """An exported folder is damaged, foreign or of a newer format."""


class ProofError(ModelError):
    """A graph's scores left the error bound of its precision."""


class DeviceError(CrossrankError, RuntimeError):
    """A device was asked for that cannot run here."""


class Overloaded(CrossrankError, RuntimeError):
    """Too much waits already for another request to be taken in; later it may be.

    Attributes:
        waiting_tokens: How many wait.
        max_tokens: How many may.
        request_tokens: How many the request has; an estimate of it, where it was refused before tokenizing.
    """

    def __init__(self, waiting_tokens: int, max_tokens: int, request_tokens: int) -> None:
        super().__init__(
            f"{waiting_tokens:,} of {max_tokens:,} tokens wait already and this request has {request_tokens:,} more: "
            "try again later, or raise max_queue_tokens"
        )
        self.waiting_tokens: int = waiting_tokens
        self.max_tokens: int = max_tokens
        self.request_tokens: int = request_tokens

    def __reduce__(self) -> tuple[type["Overloaded"], tuple[int, int, int]]:
        return Overloaded, (self.waiting_tokens, self.max_tokens, self.request_tokens)


class Closed(CrossrankError, RuntimeError):
    """The model was closed, and takes no more requests."""


class MissingDependencyError(CrossrankError, ImportError):
    """A package is needed that is not installed; the message names the command."""


def join_problems(subject: str, problems: Sequence[str]) -> str:
    """One message for all the problems of one thing.

    Args:
        subject: What the problems belong to, usually a path.
        problems: At least one sentence, or such a message, each without a final full stop.

    Returns:
        One line for one problem, an indented list for more; a path in it is not named with each of its files again.

    >>> print(join_problems("config.json", ["no vocab_size", "no hidden_size"]))
    config.json: 2 problems
      - no vocab_size
      - no hidden_size
    """
    problems = [problem.removeprefix(f"{subject}/") for problem in problems]
    if len(problems) == 1:
        return f"{subject}: {problems[0]}"
    lines = (f"  - {problem}".replace("\n", "\n    ") for problem in problems)
    return "\n".join([f"{subject}: {len(problems)} problems", *lines])


def attempt(read: Callable[[], T], problems: list[str]) -> T | None:
    """What ``read`` gives; a `CheckpointError` becomes one of ``problems`` and gives None."""
    try:
        return read()
    except CheckpointError as error:
        problems.append(str(error))
        return None
