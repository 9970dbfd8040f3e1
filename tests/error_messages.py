"""The messages of crossrank's own errors, read from its source.

python -m tests.error_messages     # those that TROUBLESHOOTING.md does not explain yet
"""

import ast
from pathlib import Path

from crossrank import _errors

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "TROUBLESHOOTING.md"
_CLASSES = {name for name, value in vars(_errors).items() if isinstance(value, type) and issubclass(value, Exception)}
_RAISED = {*_CLASSES, "ValueError"}
# A message may be made of sentences that were collected first, and these may begin as a ValueError.
_COLLECTED = ("problems", "refused", "damaged", "known")


def _template(node: ast.expr) -> str | None:
    """A message with … for what varies; None for what is no text."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_template(value) or "…" for value in values)
        case ast.FormattedValue():
            return "…"
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return (_template(left) or "…") + (_template(right) or "…")
        case ast.Call(func=ast.Name(id="join_problems")):
            return None
        case _:
            return None


def _messages(tree: ast.Module) -> list[str]:
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Raise(exc=ast.Call(func=ast.Name(id=name), args=[message, *_])) if name in {
                *_CLASSES,
                "ValueError",
            }:
                found.append(_template(message))
            case ast.Call(func=ast.Attribute(value=owner, attr="append"), args=[message]):
                if ast.unparse(owner).rpartition(".")[2] in _COLLECTED:
                    found.append(_template(message))
            case ast.AugAssign(target=ast.Name(id=name), value=ast.ListComp(elt=message)) if name in _COLLECTED:
                found.append(_template(message))
    return [" ".join(text.split()) for text in found if text]


def error_templates() -> dict[str, str]:
    """Each message with … for what varies, and the module that it comes from."""
    templates = {}
    for folder in ("engine", "export", "models"):
        for path in sorted((ROOT / folder).glob("*.py")):
            for text in _messages(ast.parse(path.read_text(encoding="utf-8"))):
                templates[text] = f"{folder}/{path.name}"
    return templates


def unexplained() -> dict[str, str]:
    """Those whose wording TROUBLESHOOTING.md does not hold."""
    guide = " ".join(GUIDE.read_text(encoding="utf-8").replace("\\|", "|").split()) if GUIDE.exists() else ""
    return {text: module for text, module in error_templates().items() if text not in guide}


if __name__ == "__main__":
    for text, module in unexplained().items():
        print(f"{module}: {text}")
