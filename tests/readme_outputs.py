"""README.md's console blocks: a command behind ``$``, and what it prints.

python -m tests.readme_outputs CHECKPOINT     # writes them anew, with an export of that checkpoint
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
# What the blocks call the export of the real checkpoint.
ARTIFACT = "artifact"
_BLOCK = re.compile(r"```console\n\$ (?P<command>[^\n]+)\n(?P<output>.*?)```", re.DOTALL)


def blocks(text: str) -> dict[str, str]:
    """The commands of a Markdown text and their outputs."""
    return {found["command"]: found["output"] for found in _BLOCK.finditer(text)}


def run(command: str, folder: Path) -> str:
    """What a command prints on standard output, run in ``folder`` with the package's commands on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, shell=True, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True
    )
    return done.stdout


def mask(text: str) -> str:
    """A text without what differs from machine to machine: numbers, spaces, the folder, threads, the processor."""
    text = re.sub(r"^((folder|threads) ).*$", r"\1…", text, flags=re.MULTILINE)
    text = re.sub(r"(logits [\d.]+\), onnxruntime [\d.]+), .*$", r"\1, …", text, flags=re.MULTILINE)
    return re.sub(r"[\s-]+", " ", re.sub(r"[\d.]+(e-?\d+)?", "#", text))


def main() -> None:
    """Write the blocks anew."""
    from crossrank.export import export_model

    with tempfile.TemporaryDirectory() as place:
        export_model(sys.argv[1], Path(place) / ARTIFACT, variants=["cpu", "portable"])
        text = README.read_text(encoding="utf-8")
        for command, output in blocks(text).items():
            new = run(command, Path(place)).replace(f"{Path(place).resolve()}/", "")
            text = text.replace(f"$ {command}\n{output}", f"$ {command}\n{new}")
        README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
