"""What messages advise: options by the names that they have where the caller is."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Parts of paths of commands, whose messages are read in a shell alone.
_COMMANDS = ("_cli", "serve/_command", "serve/_options", "serve/_workers")
# Of pip, and of what has no counterpart in Python.
_OTHERS = ("--upgrade", "--force-reinstall", "--no-deps", "--list")
_SWITCH = re.compile(r"(?<![\w-])(--[a-z][a-z-]+|-o)\b")


def messages() -> Iterator[tuple[str, str]]:
    """Each text of the library outside of its commands and docstrings, and where it stands."""
    for path in sorted([*(ROOT / "engine").rglob("*.py"), *(ROOT / "export").rglob("*.py")]):
        if any(part in path.relative_to(ROOT).as_posix() for part in _COMMANDS):
            continue
        tree = ast.parse(path.read_text("utf-8"))
        described = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if id(node) in described | inside:
                continue
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
            if texts:
                yield "…".join(texts), f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def test_a_switch_is_named_for_a_shell_beside_the_argument_of_python() -> None:
    found = [
        f"{place}: {text}"
        for text, place in messages()
        for switch in _SWITCH.finditer(text)
        if switch[1] not in _OTHERS and "in a shell" not in text[: switch.start()]
    ]
    assert found == []
