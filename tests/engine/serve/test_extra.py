"""The extra `serve`: nothing of it is imported unasked, and who lacks it is told the command."""

import subprocess
import sys

import pytest

WITHOUT = "import sys; sys.modules['msgspec'] = None; "
SERVING = ("crossrank.serve", "starlette", "msgspec", "uvicorn", "prometheus_client")


def run(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_the_package_does_not_import_it() -> None:
    code = (
        "import sys, crossrank; from crossrank._cli.main import main; main(['rank', 'q', '/dev/null'])\n"
        f"print([name for name in {SERVING} if name in sys.modules])"
    )
    done = run(code)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_without_the_extra_an_import_names_the_command() -> None:
    done = run(
        f"{WITHOUT}from crossrank import MissingDependencyError\n"
        "try: import crossrank.serve\n"
        "except MissingDependencyError as error: print(error)"
    )
    assert done.stdout.strip() == "crossrank.serve needs msgspec: pip install 'crossrank[serve]'", done.stderr


def test_without_the_extra_the_command_ends_in_one_line() -> None:
    done = run(f"{WITHOUT}from crossrank._cli.main import main; sys.exit(main(['serve', '--help']))")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: crossrank.serve needs msgspec: pip install 'crossrank[serve]'\n"


def test_public_names_are_sorted_and_there() -> None:
    pytest.importorskip("msgspec", reason="crossrank[serve] is not installed")
    import crossrank.serve as serve

    assert serve.__all__ == sorted(serve.__all__)
    assert all(hasattr(serve, name) for name in serve.__all__)
