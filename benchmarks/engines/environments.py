"""Environments of engines that cannot live with ours, or with each other; ``make bench-env`` runs this module.

One per requirement file of ``environments/``, in ``.bench/environments``. An environment is good for as long as the
copy of its requirement file, which is written last, equals that file.
"""

import argparse
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path

from benchmarks import ROOT

_REQUIREMENTS = ROOT / "benchmarks" / "environments"
_MADE = ROOT / ".bench" / "environments"
_STAMP = "made-from.txt"


class SetupError(RuntimeError):
    """What an engine needs is not there and cannot be made; the message says what to do."""


def requirements(environment: str) -> str:
    """The text of an environment's requirement file.

    Raises:
        SetupError: If there is no such environment.
    """
    try:
        return (_REQUIREMENTS / f"{environment}.txt").read_text(encoding="utf-8")
    except FileNotFoundError:
        known = ", ".join(sorted(path.stem for path in _REQUIREMENTS.glob("*.txt")))
        raise SetupError(f"there is no environment {environment!r}: known are {known}") from None


def interpreter(environment: str) -> Path:
    """The Python of an environment; of "" the one that runs.

    Raises:
        SetupError: If it has not been made, or was made from another requirement file.
    """
    if not environment:
        return Path(sys.executable)
    wanted = requirements(environment)
    folder = _MADE / environment
    if not (folder / _STAMP).exists():
        raise SetupError(f"its environment {environment} is absent: run make bench-env")
    if (folder / _STAMP).read_text(encoding="utf-8") != wanted:
        raise SetupError(f"its environment {environment} is of other requirements than now: run make bench-env")
    return _python(folder)


def _python(folder: Path) -> Path:
    return folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"


def _make(environment: str) -> None:
    folder = _MADE / environment
    venv.create(folder, clear=True, with_pip=True)
    command = [str(_python(folder)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    install = [*command, "--requirement", str(_REQUIREMENTS / f"{environment}.txt")]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupError("\n".join(line for line in done.stderr.splitlines() if not line.startswith("WARNING"))[-2000:])
    (folder / _STAMP).write_text(requirements(environment), encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    """Make the named environments, by default all, that are not up to date; 1 if one cannot be made."""
    known = sorted(path.stem for path in _REQUIREMENTS.glob("*.txt"))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines.environments", description="Make environments of peers."
    )
    parser.add_argument("environments", nargs="*", metavar="NAME", help=f"of {', '.join(known)} (default: all)")
    chosen = parser.parse_args(arguments).environments
    if unknown := set(chosen) - set(known):
        parser.error(f"{', '.join(sorted(unknown))}: known are {', '.join(known)}")
    failed = []
    for environment in chosen or known:
        try:
            interpreter(environment)
        except SetupError:
            print(f"{environment}: installing, which takes minutes ...", flush=True)
        else:
            print(f"{environment}: up to date")
            continue
        start = time.monotonic()
        try:
            _make(environment)
        except (SetupError, OSError, subprocess.SubprocessError) as error:
            failed.append(environment)
            print(f"{environment}: cannot be made\n{error}", file=sys.stderr)
        else:
            print(f"{environment}: made in {time.monotonic() - start:.0f} s")
    if failed:
        print(f"without {', '.join(failed)}: their engines will be listed as unavailable", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
