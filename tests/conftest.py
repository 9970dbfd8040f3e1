"""What every test may use: the test data beside the checkout and a cache of its own.

Large data (models, judged queries) is not part of the repository. CROSSRANK_TEST_DATA names its
folder, by default ../shared beside the checkout; a test that wants it skips, saying so, where it is
absent.
"""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"engine": "", "export": "export", "models": "models"}  # folder -> place in crossrank


def pytest_configure() -> None:
    """Stop where the installed package is not this checkout's: it would fail less clearly later."""
    hypothesis.settings.register_profile("crossrank", deadline=None)  # the machines are noisy
    hypothesis.settings.load_profile("crossrank")
    spec = importlib.util.find_spec("crossrank")
    if spec is None or not spec.submodule_search_locations:
        raise pytest.UsageError("not installed: crossrank; run make install")
    package = Path(spec.submodule_search_locations[0])
    missing = [
        f"{folder}/{module}"
        for folder, place in FOLDERS.items()
        for module in sorted(p.relative_to(ROOT / folder) for p in (ROOT / folder).rglob("*.py"))
        if (ROOT / folder / module).with_name("__init__.py").exists()  # else scripts of no package
        and not (package / place / module).exists()
    ]
    if missing:
        raise pytest.UsageError(f"not installed: {', '.join(missing)}; run make install")


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep exports of the tests out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSRANK_HOME", str(tmp_path_factory.mktemp("crossrank-home")))
        yield


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of the test data."""
    folder = Path(os.environ.get("CROSSRANK_TEST_DATA") or ROOT.parent / "shared").resolve()
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}: set CROSSRANK_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def minilm_checkpoint(test_data: Path) -> Path:
    """A real trained cross-encoder as a Hugging Face folder."""
    folder = test_data / "models" / "ms-marco-MiniLM-L12-v2"
    if not folder.is_dir():
        pytest.skip(f"no checkpoint at {folder}")
    return folder


@pytest.fixture(scope="session")
def minilm_artifact(minilm_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That checkpoint exported: cpu in fp32 and int8, portable in fp32."""
    from crossrank.export import export_model  # not at the top: pytest_configure must be able to say "not installed"

    return export_model(minilm_checkpoint, tmp_path_factory.mktemp("minilm") / "artifact", variants=["cpu", "portable"])
