"""The folders of the checkout become the packages of pyproject.toml, and the wheel holds them."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import pytest

import crossrank
from tests.support.offline import OFFLINE

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("engine", "export", "models")
KERNELS = ROOT / "engine" / "kernels"  # a distribution of its own
MODEL_CARD = Path("crossrank-mini-en", "README.md")


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    _build("build_sdist", ROOT, folder)
    (archive,) = folder.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    _build("build_wheel", source, folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel_files(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def _build(hook: str, source: Path, target: Path) -> None:
    """Run a build hook of setuptools on a source folder, as a frontend without isolation does."""
    code = f"import sys, setuptools.build_meta as backend; backend.{hook}(sys.argv[1])"
    command = [sys.executable, "-c", code, str(target)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _folders(pyproject: dict[str, Any]) -> dict[str, str]:
    """The folder of each package: its own, or the one of that name in its parent's."""
    places = pyproject["tool"]["setuptools"]["package-dir"]

    def folder(package: str) -> str:
        parent, _, name = package.rpartition(".")
        return str(places[package]) if package in places else f"{folder(parent)}/{name}"

    return {package: folder(package) for package in pyproject["tool"]["setuptools"]["packages"]}


def _shipped(folder: str) -> set[str]:
    """Files of a package that belong in the wheel: its modules and data, and what the embedded model is.

    Not READMEs for readers of the checkout (the model's is its card), nor scripts: they lie in no package. Not those of
    packages below it.
    """
    top = ROOT / folder
    files = [
        path.relative_to(top)
        for path in top.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and KERNELS not in path.parents and _package_of(path) == top
    ]
    return {
        file.as_posix()
        for file in files
        if (file.suffix != ".md" or file == MODEL_CARD)
        and (file.suffix != ".py" or (top / file).with_name("__init__.py").exists())
    }


def _package_of(file: Path) -> Path:
    return next(folder for folder in file.parents if (folder / "__init__.py").exists())


def test_packages_are_the_folders_that_hold_an_init(pyproject: dict[str, Any]) -> None:
    found = set()
    for folder in FOLDERS:
        inits = (ROOT / folder).rglob("__init__.py")
        found |= {init.parent.relative_to(ROOT).as_posix() for init in inits if KERNELS not in init.parents}
    assert set(_folders(pyproject).values()) == found
    assert set(pyproject["tool"]["setuptools"]["package-dir"].values()) == set(FOLDERS)


@pytest.mark.skipif(not KERNELS.exists(), reason="an sdist has no engine/kernels")
def test_the_kernels_are_a_distribution_of_their_own_of_the_same_version(
    pyproject: dict[str, Any], sdist: Path
) -> None:
    own = tomllib.loads((KERNELS / "pyproject.toml").read_text("utf-8"))["project"]
    assert own["name"] == "crossrank-kernels"
    assert own["version"] == pyproject["project"]["version"]
    assert f'\n__version__ = "{own["version"]}"' in (KERNELS / "crossrank_kernels" / "__init__.py").read_text("utf-8")
    assert own["license-files"] == ["LICENSE"]
    assert (KERNELS / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    extra = pyproject["project"]["optional-dependencies"]["cpu-kernels"]
    # Elsewhere pip would compile a library without kernels, or fail for want of a compiler.
    marker = "sys_platform == 'linux' and platform_machine == 'x86_64'"
    assert f"crossrank-kernels=={own['version']}; {marker}" in extra
    with tarfile.open(sdist) as archive:
        assert not [name for name in archive.getnames() if name.partition("/")[2].startswith("engine/kernels")]


@pytest.mark.skipif(not KERNELS.exists(), reason="an sdist has no engine/kernels")
def test_kernels_that_cannot_be_compiled_name_what_is_needed_and_that_crossrank_runs_without() -> None:
    settings = tomllib.loads((KERNELS / "pyproject.toml").read_text("utf-8"))["tool"]["scikit-build"]
    said = settings["messages"]["after-failure"].format()  # as scikit-build-core prints it, behind the tools' output
    for part in ("C++17", "AVX512-BF16", "CMake", "apt install g++", "pip install 'crossrank[cpu]'"):
        assert part in said


def test_every_data_file_is_listed_and_exists(pyproject: dict[str, Any]) -> None:
    listed = pyproject["tool"]["setuptools"]["package-data"]
    for name, place in _folders(pyproject).items():
        data = {file for file in _shipped(place) if not file.endswith(".py")}
        assert data == set(listed.get(name, [])), name


def test_wheel_holds_every_module_and_data_file_and_nothing_else(
    pyproject: dict[str, Any], wheel_files: set[str]
) -> None:
    expected = set()
    for name, place in _folders(pyproject).items():
        expected |= {f"{name.replace('.', '/')}/{file}" for file in _shipped(place)}
    assert {file for file in wheel_files if ".dist-info/" not in file} == expected
    assert any(file.endswith(".dist-info/licenses/LICENSE") for file in wheel_files)


def test_sdist_holds_tests_benchmarks_and_makefile(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for file in ("tests/conftest.py", "benchmarks/__main__.py", "Makefile", "LICENSE", "setup.cfg"):
        assert file in names
    scripts = {path.relative_to(ROOT).as_posix() for path in (ROOT / "models" / MODEL_CARD.parent).rglob("*.py")}
    assert scripts <= names
    assert not [name for name in names if name.endswith(".pyc")]


def test_embedded_model_takes_20_mb_of_the_wheel_at_most(wheel: Path) -> None:
    files = zipfile.ZipFile(wheel).infolist()
    assert sum(file.file_size for file in files if MODEL_CARD.parent.name in file.filename) <= 20e6


def test_embedded_model_is_not_ignored_by_git() -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no git checkout, or no git")
    graph = ROOT / "models" / MODEL_CARD.parent / "onnx" / "model_cpu_int8.onnx"
    assert graph.is_file()
    ignored = subprocess.run(["git", "check-ignore", "--no-index", str(graph)], cwd=ROOT, capture_output=True)
    assert ignored.returncode == 1, f"{graph} would be missing in a clone: .gitignore"


@pytest.mark.slow
def test_the_wheel_with_a_runtime_alone_ranks_without_a_network(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    pip = [str(programs / "python"), "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", f"{wheel}[cpu]"], check=True, timeout=600)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(OFFLINE)
    (tmp_path / "passages.txt").write_text(
        "Berlin is well known for its museums.\nBerlin has 3.5 million inhabitants.\n"
    )
    done = subprocess.run(
        [programs / "crossrank", "rank", "how many people live in berlin", "passages.txt", "--top-k", "1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site"), "HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("  Berlin has 3.5 million inhabitants.\n")


def test_version_is_pyprojects(pyproject: dict[str, Any]) -> None:
    assert crossrank.__version__ == version("crossrank") == pyproject["project"]["version"]


def test_base_and_export_extra_bring_no_torch_and_no_onnxruntime(pyproject: dict[str, Any]) -> None:
    project = pyproject["project"]
    assert _names(project["dependencies"]) == {"filelock", "numpy", "tokenizers"}
    assert _names(project["optional-dependencies"]["export"]) == {
        "huggingface-hub",
        "ml-dtypes",
        "onnx",
        "protobuf",
        "safetensors",
    }


@pytest.mark.parametrize("extra", ["cpu", "cuda13", "cuda12", "volta"])
def test_each_device_extra_brings_one_onnxruntime(pyproject: dict[str, Any], extra: str) -> None:
    names = _names(pyproject["project"]["optional-dependencies"][extra])
    assert len(names & {"onnxruntime", "onnxruntime-gpu"}) == 1


def test_scripts_and_entry_points_resolve() -> None:
    points = distribution("crossrank").entry_points
    assert {(point.group, point.name) for point in points} == {
        ("console_scripts", "crossrank"),
        ("console_scripts", "export-model"),
        ("crossrank.artifacts", "export"),
    }
    for point in points:
        assert callable(point.load())


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower() for requirement in requirements}
