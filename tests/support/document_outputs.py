"""The documents' console blocks: a command behind ``$``, and what it prints.

python -m tests.support.document_outputs CHECKPOINT     # writes them anew, with an export of that checkpoint
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

DOCUMENTS = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))
# The model that the blocks show, and what they call its export.
SHOWN, ARTIFACT = "ms-marco-MiniLM-L12-v2", "artifact"
_BLOCK = re.compile(r"```console\n\$ (?P<command>[^\n]+)\n(?P<output>.*?)```", re.DOTALL)


def blocks(*documents: Path) -> dict[str, str]:
    """The commands of Markdown files and their outputs."""
    texts = [path.read_text(encoding="utf-8") for path in documents]
    return {found["command"]: found["output"] for text in texts for found in _BLOCK.finditer(text)}


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
        for document in DOCUMENTS:
            text = document.read_text(encoding="utf-8")
            for command, output in blocks(document).items():
                new = run(command, Path(place)).replace(f"{Path(place).resolve()}/", "")
                text = text.replace(f"$ {command}\n{output}", f"$ {command}\n{new}")
            document.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
