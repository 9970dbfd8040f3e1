"""The GPU's tests on an emulation of CUDA (`tests.support.rig`), which is built from test data where that has one.

python -m tests.support.emulated [--all] [ARGUMENT ...]

An onnxruntime-gpu of each CUDA runs them, as the GPU that it is installed for; with --all each of `ALL`. The arguments
are pytest's, "tests" by default. What passes has run on no GPU.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from tests.support.large_data import FOLDER

SOURCE = FOLDER / "cuda-rig"
BUILT = Path(".rig")
# onnxruntime-gpu, and what the emulated GPU is: a V100 and an H200. 1.24.4 is for CUDA 12, 1.31.1 for 13.
RUNS = (("1.24.4", 70), ("1.31.1", 90))
ALL = (
    ("1.24.4", 70),
    ("1.24.4", 80),
    *((version, sm) for version in ("1.28.0", "1.30.0", "1.31.1") for sm in (80, 90, 120)),
)
TIMEOUT_S = 1800


def why_not() -> str:
    """What is missing here to build it, "" if nothing is."""
    if not (SOURCE / "make.sh").is_file():
        return f"there is no {SOURCE}: set CROSSRANK_TEST_DATA"
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        return f"it is for Linux on x86-64, and this is {system} on {machine}"
    missing = [tool for tool in ("g++", "nm", "readelf") if shutil.which(tool) is None]
    return f"{', '.join(missing)} not found: install g++ 12 or newer, and binutils" if missing else ""


def build(versions: Sequence[str]) -> str:
    """Build it, or bring it up to date. Returns why it could not be downloaded, "" if it could.

    Raises:
        SystemExit: If it cannot be built.
    """
    BUILT.mkdir(parents=True, exist_ok=True)
    command: list[str] = ["bash", str(SOURCE / "make.sh"), str(BUILT), "--onnxruntime", *versions]
    done = subprocess.run(
        command, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return ""
    said = done.stdout.splitlines()
    if said and said[-1].startswith("download "):
        return f"{said[-1]} failed: {' '.join(done.stderr.split())[-300:]}"
    sys.exit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")


def run(version: str, sm: int, arguments: Sequence[str]) -> tuple[str, bool]:
    """One run of the tests, as a row of the table, and whether they passed."""
    report = BUILT / f"report-{version}-{sm}.xml"
    report.unlink(missing_ok=True)
    reporting = ["-o", "junit_family=xunit1", f"--junitxml={report}"]  # the one that takes properties
    command = [str(BUILT / f"run-{version}"), "-m", "pytest", "-q", "-m", "gpu and not slow", *reporting]
    more = {
        "FAKE_COMPUTE": "1",
        "FAKE_IMAGES": "1",
        "FAKE_SM": str(sm),
        "LIMIT": str(TIMEOUT_S),
        "PYTHON": sys.executable,
    }
    done = subprocess.run([*command, *arguments], env=os.environ | more, check=False)
    suite = ElementTree.parse(report).getroot().find("testsuite") if report.exists() else None
    if suite is None:
        return f"| {version} | sm_{sm} | no report |", False
    errors = dict[str, float]()
    for case in suite.iter("testcase"):
        said = {each.get("name"): each.get("value") or "" for each in case.iter("property")}
        if "error" in said:
            errors[said["case"]] = float(said["error"])
    worst = max(errors, key=lambda case: errors[case], default="")
    largest = f"{errors[worst]:.4f} ({worst})" if errors else ""
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    passed = int(suite.get("tests", 0)) - failed - int(suite.get("skipped", 0))
    return f"| {version} | sm_{sm} | {passed} passed, {failed} failed | {largest} |", done.returncode == 0


def main() -> int:
    arguments = sys.argv[1:]
    runs = ALL if "--all" in arguments else RUNS
    arguments = [argument for argument in arguments if argument != "--all"] or ["tests"]
    reason = why_not() or build(sorted({version for version, _ in runs}))
    if reason:
        print(f"skipped, no emulation of CUDA: {reason}")
        return 0
    rows = [run(version, sm, arguments) for version, sm in runs]
    print("\nOn an emulation of CUDA, not on a GPU:\n")
    print("| onnxruntime-gpu | as | tests | largest error of logits |\n|---|---|---|---|")
    print("\n".join(row for row, _ in rows))
    return 0 if all(passed for _, passed in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
