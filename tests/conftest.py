"""What every test may use: trained models, texts to rank with them, and a cache of its own.

The trained model is the embedded one, which needs nothing beside the checkout. Test data that is no part of the
repository adds cases (`tests.support.large_data`), a GPU or what poses as one runs others (`tests.support.rig`).
"""

import importlib.util
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.support import large_data, rig

if TYPE_CHECKING:
    from tests.support.trained_models import Trained

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"engine": "", "export": "export", "models": "models"}  # folder -> place in crossrank


def pytest_configure() -> None:
    """Stop where the installed package is not this checkout's: it would fail less clearly later."""
    hypothesis.settings.register_profile("crossrank", deadline=None)  # the machines are noisy
    hypothesis.settings.load_profile("crossrank")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # of a shell's job in the background, for its children too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    spec = importlib.util.find_spec("crossrank")
    if spec is None or not spec.submodule_search_locations:
        raise pytest.UsageError("not installed: crossrank; run make install")
    package = Path(spec.submodule_search_locations[0])
    missing = [
        f"{folder}/{module}"
        for folder, place in FOLDERS.items()
        for module in sorted(p.relative_to(ROOT / folder) for p in (ROOT / folder).rglob("*.py"))
        # Else scripts of no package, or a distribution of its own.
        if all((ROOT / folder / parent / "__init__.py").exists() for parent in module.parents)
        and not (package / place / module).exists()
    ]
    if missing:
        raise pytest.UsageError(f"not installed: {', '.join(missing)}; run make install")


def pytest_report_header() -> list[str]:
    """Whether the test data and a GPU add their cases."""
    there = "" if large_data.FOLDER.is_dir() else " is absent, its cases are left out: set CROSSRANK_TEST_DATA"
    return [f"test data: {large_data.FOLDER}{there}", f"GPU: {rig.describe()}"]


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Never count as passed on a GPU what ran on an emulation."""
    return rig.status(report)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs test data or a GPU that is not there."""
    absent = [item for item in items if large_data.is_absent(item) or rig.is_absent(item)]
    if absent:
        config.hook.pytest_deselected(items=absent)
        items[:] = [item for item in items if item not in set(absent)]


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep exports of the tests out of the user's cache, and what all graphs do off the compiled kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSRANK_HOME", str(tmp_path_factory.mktemp("crossrank-home")))
        patch.setenv("CROSSRANK_KERNELS", "0")
        yield


@pytest.fixture
def emulated_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms by the kernel that an emulation knows, where it does not know that of onnxruntime's strict mode.

    That is up to 1.26, and what passes there says nothing of strict mode, but of all else.
    """
    if rig.EMULATED and not rig.knows_strict_norms():
        from crossrank._device.gpu_options import provider_options

        def without(index: int, *, capture: bool = False) -> dict[str, str]:
            return provider_options(index, capture=capture) | {"enable_skip_layer_norm_strict_mode": "0"}

        monkeypatch.setattr("crossrank._device.session.provider_options", without)


@pytest.fixture(scope="session")
def embedded_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model's weights as a checkpoint in float32."""
    # Not at the top, here and below: pytest_configure must be able to say "not installed".
    from tests.support.trained_models import write_embedded_checkpoint

    return write_embedded_checkpoint(tmp_path_factory.mktemp("embedded") / "crossrank-mini-en")


@pytest.fixture(scope="session")
def embedded_artifact(embedded_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That checkpoint exported: cpu in fp32 and int8, portable in fp32."""
    return _export(embedded_checkpoint, tmp_path_factory)


@pytest.fixture(scope="session")
def minilm_checkpoint() -> Path:
    """A published cross-encoder as a Hugging Face folder, for tests marked ``data(MINILM)``."""
    return large_data.FOLDER / large_data.MINILM


@pytest.fixture(scope="session")
def minilm_artifact(minilm_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That checkpoint exported as `embedded_artifact` is."""
    return _export(minilm_checkpoint, tmp_path_factory)


def _export(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from crossrank.export import export_model

    folder = tmp_path_factory.mktemp(checkpoint.name) / "artifact"
    return export_model(checkpoint, folder, variants=["cpu", "portable"])


@pytest.fixture(scope="module", params=["crossrank-mini-en", large_data.case(large_data.MINILM)])
def trained_checkpoint(request: pytest.FixtureRequest) -> Path:
    """The embedded model's checkpoint, and of the test data a published one."""
    embedded = request.param == "crossrank-mini-en"
    folder: Path = request.getfixturevalue("embedded_checkpoint" if embedded else "minilm_checkpoint")
    return folder


@pytest.fixture(scope="module")
def trained(trained_checkpoint: Path, request: pytest.FixtureRequest) -> "Trained":
    """The embedded model with texts of our own, and of the test data a published one with web passages."""
    from tests.support.texts import QUERY, ranked_passages
    from tests.support.trained_models import Trained

    if trained_checkpoint.name == "crossrank-mini-en":
        return Trained(trained_checkpoint, request.getfixturevalue("embedded_artifact"), QUERY, ranked_passages(60))
    query, passages = large_data.read_run()[0]
    return Trained(trained_checkpoint, request.getfixturevalue("minilm_artifact"), query, passages[:60])
