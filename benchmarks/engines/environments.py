"""Environments of engines that cannot live with ours, or with each other; ``make bench-env`` runs this module.

One per requirement file of ``benchmarks/environments``, in ``.bench/environments``. An environment is good for as long
as the copy of its requirement file, which is written last, equals that file.
"""

import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ROOT

from .registry import EngineUnavailable

_STAMP = "made-from.txt"


@dataclass(frozen=True, slots=True)
class Environments:
    """Environments by name; what is wrong with one is raised as `EngineUnavailable`, which says what to do.

    Attributes:
        requirements: Has a requirement file NAME.txt for each.
        made: Where they are made.
    """

    requirements: Path = ROOT / "benchmarks" / "environments"
    made: Path = ROOT / ".bench" / "environments"

    def names(self) -> list[str]:
        """All that there are."""
        return sorted(path.stem for path in self.requirements.glob("*.txt"))

    def requirements_of(self, name: str) -> str:
        """The text of an environment's requirement file."""
        try:
            return (self.requirements / f"{name}.txt").read_text(encoding="utf-8")
        except FileNotFoundError:
            known = ", ".join(self.names())
            raise EngineUnavailable(f"there is no environment {name!r}: known are {known}") from None

    def interpreter(self, name: str) -> Path:
        """The Python of an environment that was made from these requirements; of "" the one that runs."""
        if not name:
            return Path(sys.executable)
        wanted, stamp = self.requirements_of(name), self.made / name / _STAMP
        if not stamp.exists():
            raise EngineUnavailable(f"its environment {name} is absent: run make bench-env")
        if stamp.read_text(encoding="utf-8") != wanted:
            raise EngineUnavailable(f"its environment {name} is of other requirements than now: run make bench-env")
        return self._python(name)

    def make(self, name: str) -> None:
        """Make an environment anew; an error has what pip says."""
        venv.create(self.made / name, clear=True, with_pip=True)
        pip = [str(self._python(name)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        install = [*pip, "--requirement", str(self.requirements / f"{name}.txt")]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = (line for line in done.stderr.splitlines() if not line.startswith("WARNING"))
            raise EngineUnavailable("\n".join(lines)[-2000:])
        (self.made / name / _STAMP).write_text(self.requirements_of(name), encoding="utf-8")

    def _python(self, name: str) -> Path:
        return self.made / name / "bin" / "python"


ENVIRONMENTS = Environments()


def main(environments: Environments = ENVIRONMENTS) -> int:
    """Make the environments that are not up to date; 1 if one cannot be made."""
    failed = []
    for name in environments.names():
        try:
            environments.interpreter(name)
            print(f"{name}: up to date")
            continue
        except EngineUnavailable:
            print(f"{name}: installing, which takes minutes ...", flush=True)
        start = time.monotonic()
        try:
            environments.make(name)
            print(f"{name}: made in {time.monotonic() - start:.0f} s")
        except (EngineUnavailable, OSError, subprocess.SubprocessError) as error:
            failed.append(name)
            print(f"{name}: cannot be made\n{error}", file=sys.stderr)
    if failed:
        print(f"without {', '.join(failed)}: their engines will be listed as unavailable", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
