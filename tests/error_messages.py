"""The messages of crossrank's own errors and warnings, read from its source.

python -m tests.error_messages     # those that TROUBLESHOOTING.md does not quote yet
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "TROUBLESHOOTING.md"
# Not models/: what is raised there is about registry.toml, which ships with crossrank and which tests hold right.
_FOLDERS = ("engine", "export")
# Messages may be made of sentences that were collected first, in lists and functions that have such names.
_COLLECTED = ("problems", "refused", "damaged", "skipped")
# What a function gives whose words may end up in a message.
_TEXTS = ("str", "tuple[str, str]")
# Shorter parts of a message vary like names and numbers do.
_LEAST_WORDS = 3


@dataclass(frozen=True)
class _Source:
    """What is defined in all modules.

    Attributes:
        functions: Functions at the top of a module that give texts, by name.
        calls: Calls of a function by its name, each with the function or module that it stands in.
    """

    functions: dict[str, ast.FunctionDef]
    calls: dict[str, list[tuple[ast.stmt, ast.Call]]]


@dataclass(frozen=True)
class _Reader:
    """The texts that an expression can be.

    Attributes:
        source: All modules.
        scope: The statement at the top of a module or class that the expression stands in, mostly a function.
        followed: Where it was led by names until here, so that what is made of itself is not followed for ever.
    """

    source: _Source
    scope: ast.stmt
    followed: frozenset[tuple[ast.stmt, str]] = frozenset()

    def texts(self, node: ast.expr) -> Iterator[str]:
        """Whole texts, and those that stand for a part of one and have words enough to be looked for."""
        match node:
            case ast.Constant(value=str()):
                yield _template([node])
            case ast.JoinedStr(values=values):
                yield _template(values)
                for value in values:
                    if isinstance(value, ast.FormattedValue):
                        yield from (text for text in self.texts(value.value) if _words(text) >= _LEAST_WORDS)
            case ast.BinOp(left=first, op=ast.Add(), right=second) | ast.IfExp(body=first, orelse=second):
                yield from self.texts(first)
                yield from self.texts(second)
            case ast.Tuple(elts=values) | ast.List(elts=values):
                for value in values:
                    yield from self.texts(value)
            case ast.ListComp(elt=value) | ast.Starred(value=value):
                yield from self.texts(value)
            case ast.Call(func=ast.Name(id="join_problems"), args=[subject, *_]):
                yield from self.texts(subject)
            case ast.Call(func=ast.Name(id=name)) | ast.Name(id=name) if (self.scope, name) not in self.followed:
                here = replace(self, followed=self.followed | {(self.scope, name)})
                found = (
                    _returned(self.source.functions.get(name))
                    if isinstance(node, ast.Call)
                    else chain(self._assigned(name), self._passed(name))
                )
                for scope, value in found:
                    yield from replace(here, scope=scope).texts(value)

    def messages(self) -> Iterator[str]:
        """The texts that are raised, warned of or collected here."""
        for node in ast.walk(self.scope):
            match node:
                case ast.Raise(exc=ast.Call(args=[message, *_])):
                    yield from self.texts(message)
                case ast.Call(func=ast.Attribute(value=owner, attr="append"), args=[message]) if _collects(owner):
                    yield from self.texts(message)
                case ast.Assign(targets=[owner], value=message) | ast.AugAssign(target=owner, value=message):
                    yield from self.texts(message) if _collects(owner) else ()
                case ast.FunctionDef(name=name) if name.endswith(_COLLECTED):
                    for _, value in _returned(node):
                        yield from self.texts(value)
                case ast.Call(func=ast.Attribute(value=ast.Name(id="parser"), attr="error"), args=[message]):
                    yield from self.texts(message)
                case ast.Call(func=ast.Attribute(value=ast.Name(id="logger"), attr="warning"), args=[message, *_]):
                    yield from (re.sub("%[a-z]", "…", text) for text in self.texts(message))

    def _assigned(self, name: str) -> Iterator[tuple[ast.stmt, ast.expr]]:
        """What a variable gets here; where several get theirs at once, what any of them gets."""
        for node in ast.walk(self.scope):
            if isinstance(node, ast.Assign):
                targets = (leaf for target in node.targets for leaf in ast.walk(target))
                if any(isinstance(leaf, ast.Name) and leaf.id == name for leaf in targets):
                    yield self.scope, node.value

    def _passed(self, name: str) -> Iterator[tuple[ast.stmt, ast.expr]]:
        """What a parameter of this function gets, and where."""
        if not isinstance(self.scope, ast.FunctionDef):
            return
        parameters = [argument.arg for argument in self.scope.args.args]
        if name in parameters:
            for scope, call in self.source.calls.get(self.scope.name, []):
                yield from ((scope, value) for value in call.args[parameters.index(name) :][:1])
                yield from ((scope, keyword.value) for keyword in call.keywords if keyword.arg == name)


def _returned(function: ast.FunctionDef | None) -> Iterator[tuple[ast.stmt, ast.expr]]:
    """What a function gives, and where."""
    if function is None:
        return
    for node in ast.walk(function):
        if isinstance(node, ast.Return) and node.value is not None:
            yield function, node.value


def _template(values: list[ast.expr]) -> str:
    """A message with … for what varies."""
    text = "".join(str(value.value) if isinstance(value, ast.Constant) else "…" for value in values)
    return " ".join(re.sub("…+", "…", text).split())


def _words(template: str) -> int:
    return sum(any(letter.isalpha() for letter in word) for word in template.split())


def _collects(owner: ast.expr) -> bool:
    return ast.unparse(owner).rpartition(".")[2] in _COLLECTED


def _scopes(module: ast.Module) -> Iterator[ast.stmt]:
    """What stands at the top of a module, methods included. A function inside another sees its variables."""
    for node in module.body:
        yield from node.body if isinstance(node, ast.ClassDef) else [node]


def error_templates() -> dict[str, str]:
    """Each message with … for what varies, and the module that it comes from."""
    paths = [path for folder in _FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
    scopes = [(path, scope) for path in paths for scope in _scopes(ast.parse(path.read_text(encoding="utf-8")))]
    source = _Source({}, {})
    for _, scope in scopes:
        if isinstance(scope, ast.FunctionDef) and scope.returns and ast.unparse(scope.returns) in _TEXTS:
            source.functions[scope.name] = scope
        for node in ast.walk(scope):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                source.calls.setdefault(node.func.id, []).append((scope, node))
    return {
        text: f"{path.parent.name}/{path.name}"
        for path, scope in scopes
        for text in _Reader(source, scope).messages()
        if _words(text)
    }


def unexplained() -> dict[str, str]:
    """Those that no table of TROUBLESHOOTING.md quotes."""
    lines = GUIDE.read_text(encoding="utf-8").splitlines() if GUIDE.exists() else []
    rows = [line.replace("\\|", "|") for line in lines if line.startswith("|")]
    quoted = [quote for row in rows for quote in re.findall("`([^`]+)`", row)]
    return {text: module for text, module in error_templates().items() if not any(text in quote for quote in quoted)}


if __name__ == "__main__":
    for text, module in unexplained().items():
        print(f"{module}: {text}")
