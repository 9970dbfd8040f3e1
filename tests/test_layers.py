"""Who imports whom: the engine's rooms in layers, GPU code opened in one place, the exporter and the others beside."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "engine": "crossrank",
    "export": "crossrank.export",
    "models": "crossrank.models",
    "benchmarks": "benchmarks",
}
HEAVY = {"torch", "transformers", "sentence_transformers", "onnx", "safetensors", "huggingface_hub", "scipy"}

# Rooms and single modules, the highest first. Each imports from those below it and from itself.
FRONT_ENDS = {"serve", "ray", "beam", "triton"}  # made of public names, each with an extra of its own
PUBLIC_ROOMS = {"batch", "serve"}  # whose own public names other front ends may use
LAYERS = (
    {"_cli"},  # whose commands may be a front end's
    FRONT_ENDS,
    {"batch"},  # made of public names too
    {"_async_cross_encoder", "_cascade", "_proof"},
    {"_cross_encoder"},
    {"_attributes", "_info"},
    {"_calls"},
    {"_schedule"},
    {"_device"},
    {"_artifact"},
    {"_text", "_machine"},
    {"_json", "_numbers", "_options", "_progress"},
    {"_errors"},
    {"_interrupts", "_printable"},
)
EXPORT_LAYERS = (
    {"_cli"},
    {"_api"},
    {"_convert"},
    {"_exporters"},
    {"_architectures"},
    {"_blueprint", "_graphs", "_prove", "_refusal", "_write"},  # the proof shares no code with what it proves
    {"_read", "_report", "_targets"},
)
BENCHMARK_LAYERS = (
    {"__main__"},
    {"commands"},
    {"reporting"},
    {"options"},
    {"measure"},
    {"inputs"},
    {"engines"},
    {""},  # the package itself, which knows where the checkout lies
)
# Of GPUs and of what is installed beside, loaded when it is asked for: by one module each, in a function.
OPENER = "crossrank._device.open"
LATE_FOLDERS = {
    "crossrank._device.cuda": OPENER,
    "crossrank._device.kernels": "crossrank._device.compiled",
    "crossrank._device.tensorrt": OPENER,
}
# Of the engine, what the exporter is made of: to prove a graph it needs no scheduler.
FOR_EXPORT = {"_errors", "_interrupts", "_json", "_numbers", "_options", "_printable"}
FOR_EXPORT |= {"_artifact", "_text", "_device", "_machine", "_proof"}
# The exporter's command prints and fails as the other one does.
COMMAND = ("crossrank.export._cli", "_cli")
# Of convert_to_tensor, in a function.
TORCH = ("crossrank._calls.answers", "torch")


@dataclass(frozen=True)
class Import:
    """One name, or a module as a whole, that a module imports.

    Attributes:
        importer: The module that imports.
        module: What it imports from.
        name: Which name of it, or None.
        level: Of a relative import.
        late: Whether that happens in a function, or for type checkers alone.
        place: File and line.
    """

    importer: str
    module: str
    name: str | None
    level: int
    late: bool
    place: str


def imports_of(root: Path) -> list[Import]:
    """What the packages in the folders of a checkout import."""
    files = {}
    for folder, package in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            parents = path.relative_to(root / folder).parents
            if all((root / folder / parent / "__init__.py").exists() for parent in parents):  # else of no package
                parts = path.relative_to(root / folder).with_suffix("").parts
                files[".".join([package, *parts]).removesuffix(".__init__")] = path
    return [found for module, path in files.items() for found in _read(root, module, path, set(files))]


def _read(root: Path, module: str, path: Path, modules: set[str]) -> Iterator[Import]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(path.read_text("utf-8"))
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        is_late, place = id(node) in late, f"{path.relative_to(root).as_posix()}:{node.lineno}"
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, None, 0, is_late, place) for alias in node.names)
            continue
        above = package.split(".")
        start = above[: len(above) - node.level + 1] if node.level else []
        base = ".".join([*start, node.module] if node.module else start)
        for alias in node.names:
            whole = f"{base}.{alias.name}"
            target, name = (whole, None) if whole in modules else (base, alias.name)
            yield Import(module, target, name, node.level, is_late, place)


def room(module: str) -> str:
    """A module's room: ``_calls`` of ``crossrank._calls.run``, empty for the package itself."""
    package = FOLDERS[folder_of(module)]
    return module.removeprefix(package).lstrip(".").partition(".")[0]


def folder_of(module: str) -> str:
    """The folder of the checkout that a module belongs to, "" for others' modules."""
    owners = [(package, folder) for folder, package in FOLDERS.items() if f"{module}.".startswith(f"{package}.")]
    return max(owners, default=("", ""), key=lambda owner: len(owner[0]))[1]


def public_names(root: Path) -> set[str]:
    """``__all__`` of the engine."""
    for node in ast.parse((root / "engine/__init__.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    raise AssertionError("no __all__")


def violations(root: Path) -> list[str]:
    """Imports that the layers forbid, a sentence each."""
    public = public_names(root)
    found = []
    for entry in imports_of(root):
        problem = (
            _between_folders(entry)
            or _private(entry)
            or _loaded_late(entry)
            or _IN_FOLDER.get(folder_of(entry.importer), _nothing)(entry, public)
        )
        if problem:
            found.append(f"{entry.place}: {entry.importer} {problem}")
    return found


def _nothing(entry: Import, public: set[str]) -> str | None:
    return None


def _between_folders(entry: Import) -> str | None:
    """benchmarks -> export -> engine, models; each by its import name."""
    top, target = entry.module.partition(".")[0], folder_of(entry.module)
    if top in ("engine", "export", "models", "tests"):
        return f"imports {entry.module}: no package that is installed"
    if entry.level > 1:
        return f"imports {entry.module} relatively, from outside its own folder"
    allowed = {
        "engine": {"engine"},
        "models": {"models"},
        "export": {"engine", "export", "models"},
        "benchmarks": {"engine", "export", "models", "benchmarks"},
    }
    own = folder_of(entry.importer)
    if target and target not in allowed[own]:
        return f"imports {entry.module}: {own}/ knows nothing of {target}/"
    if top in HEAVY and own in ("engine", "models") and not ((entry.importer, top) == TORCH and entry.late):
        return f"imports {top}"
    return None


def _private(entry: Import) -> str | None:
    """A name with an underscore stays in its folder."""
    if entry.name is None or not entry.name.startswith("_") or entry.name.startswith("__"):
        return None
    near = entry.importer.rpartition(".")[0] == entry.module.rpartition(".")[0]
    return None if near or not folder_of(entry.module) else f"imports {entry.module}'s private {entry.name}"


def _loaded_late(entry: Import) -> str | None:
    """What a GPU or the compiled kernels need is loaded by one module, when it is asked for."""
    for folder, opener in LATE_FOLDERS.items():
        if not f"{entry.module}.".startswith(f"{folder}.") or f"{entry.importer}.".startswith(f"{folder}."):
            continue
        if folder_of(entry.importer) == "benchmarks":
            return None  # it measures what lies there
        if entry.importer != opener:
            return f"imports {entry.module}: {opener} alone does"
        if not entry.late:
            return f"imports {entry.module} when it is imported: every process would"
    return None


def _in_the_engine(entry: Import, public: set[str]) -> str | None:
    own, other = room(entry.importer), room(entry.module) if folder_of(entry.module) else ""
    if own in FRONT_ENDS | {"batch"} and folder_of(entry.module) and own != other:
        good = (other == "" and entry.name in public) or (
            own != "batch" and entry.module in {f"crossrank.{name}" for name in PUBLIC_ROOMS}
        )
        return None if good else f"imports {entry.module} {entry.name or ''}: a front end is made of public names"
    return _upwards(entry, LAYERS)


def _upwards(entry: Import, layers: Sequence[set[str]]) -> str | None:
    """An import within one of the checkout's folders goes down."""
    if folder_of(entry.importer) != folder_of(entry.module):
        return None
    own, other = room(entry.importer), room(entry.module)
    if own in ("", other):
        return None
    high, low = (next((i for i, names in enumerate(layers) if name in names), None) for name in (own, other))
    if high is None or (low is None and other):
        return f"imports {entry.module}: {own if high is None else other} is in no layer of this test"
    if low is None or low <= high:
        return f"imports {entry.module}: {own} is not above {other or 'the package itself'}"
    return None


def _in_the_exporter(entry: Import, public: set[str]) -> str | None:
    if folder_of(entry.module) != "engine":
        return _upwards(entry, EXPORT_LAYERS)
    other = room(entry.module)
    if other in FOR_EXPORT or (entry.importer, other) == COMMAND:
        return None
    if other == "" and entry.name in public:
        return None
    return f"imports {entry.module}: the exporter is made of {', '.join(sorted(FOR_EXPORT))}"


def _in_the_benchmarks(entry: Import, public: set[str]) -> str | None:
    return _upwards(entry, BENCHMARK_LAYERS)


_IN_FOLDER = {"engine": _in_the_engine, "export": _in_the_exporter, "benchmarks": _in_the_benchmarks}


def test_imports_go_down_only() -> None:
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("folder", "layers"), [("engine", LAYERS), ("export", EXPORT_LAYERS), ("benchmarks", BENCHMARK_LAYERS)]
)
def test_every_room_is_in_one_layer(folder: str, layers: Sequence[set[str]]) -> None:
    listed = [name for names in layers for name in names]
    packages = {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}
    rooms = packages | {path.stem for path in (ROOT / folder).glob("*.py") if path.stem != "__init__"}
    assert len(listed) == len(set(listed))
    assert rooms <= set(listed)


@pytest.mark.parametrize(
    ("file", "line", "problem"),
    [
        ("engine/_text/tokens.py", "from crossrank._calls.call import Call", "_text is not above _calls"),
        ("engine/_device/session.py", "from crossrank._schedule.meter import Stats", "_device is not above _schedule"),
        ("engine/_artifact/manifest.py", "import crossrank._device.session", "_artifact is not above _device"),
        ("engine/_machine/cpu.py", "from crossrank._text.tokens import Tokens", "_machine is not above _text"),
        ("engine/_calls/run.py", "def f(): from crossrank._cross_encoder import CrossEncoder", "_calls is not above"),
        (
            "engine/_calls/run.py",
            "if TYPE_CHECKING: from crossrank import CrossEncoder",
            "not above the package",
        ),
        ("engine/_new/thing.py", "from crossrank._errors import InputError", "_new is in no layer"),
        ("engine/_errors.py", "from crossrank.export import export_model", "engine/ knows nothing of export/"),
        ("engine/_errors.py", "def f(): import torch", "imports torch"),
        ("engine/_calls/answers.py", "import torch", "imports torch"),
        ("engine/_calls/run.py", "from ..export import export_model", "imports crossrank.export relatively"),
        ("engine/_device/session.py", "def f(): from .cuda.graph import Bucket", "crossrank._device.open alone does"),
        ("engine/_device/open.py", "from .cuda.graph import Bucket", "when it is imported"),
        ("engine/_device/tensorrt/session.py", "from crossrank._device.cuda import graph", "open alone does"),
        ("export/_convert.py", "from crossrank._device.cuda.graph import Bucket", "crossrank._device.open alone does"),
        ("export/_convert.py", "from crossrank._calls.run import Scorer", "imports crossrank._calls.run: the exporter"),
        ("export/_convert.py", "def f(): import crossrank._schedule.meter", "imports crossrank._schedule.meter: the"),
        ("export/_convert.py", "from crossrank._cli.tables import align_columns", "crossrank._cli.tables: the"),
        ("export/_read/hub.py", "from crossrank.export._report import stage", "_read is not above _report"),
        ("export/_targets.py", "from ._graphs.layouts.cpu import build_cpu", "_targets is not above _graphs"),
        ("export/_graphs/int8.py", "from crossrank.export._architectures import bert", "_graphs is not above"),
        ("export/_prove/reference.py", "from crossrank.export._graphs import graph", "_prove is not above _graphs"),
        ("models/_registry.py", "from crossrank import InputError", "models/ knows nothing of engine/"),
        (
            "benchmarks/commands/gpu.py",
            "from crossrank._device.session import _live",
            "session's private _live",
        ),
        ("benchmarks/commands/gpu.py", "import engine._errors", "imports engine._errors: no package"),
        (
            "benchmarks/measure/turns.py",
            "from benchmarks.reporting.result import Result",
            "measure is not above reporting",
        ),
        ("benchmarks/engines/serve.py", "from benchmarks.inputs.trec import Run", "engines is not above inputs"),
        ("engine/serve/app.py", "from crossrank._errors import InputError", "a front end is made of public names"),
        ("engine/serve/app.py", "from crossrank import _errors", "imports crossrank's private _errors"),
        ("engine/ray/data.py", "from crossrank.batch._files import Run", "a front end is made of public names"),
        ("engine/batch/files.py", "from crossrank.ray import rerank", "a front end is made of public names"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, line: str, problem: str) -> None:
    _make_checkout(tmp_path, {file: line})
    (found,) = violations(tmp_path)
    assert found.startswith(f"{file}:1: ")
    assert problem in found


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("engine/serve/app.py", "from crossrank import CrossEncoder, InputError\nfrom .routes import routes"),
        ("engine/ray/data.py", "from crossrank.batch import Reranker\ndef f(): from crossrank.serve import create_app"),
        ("engine/_device/open.py", "def f(): from .cuda.graph import Bucket"),
        ("engine/_calls/answers.py", "def f(): import torch"),
        ("engine/_cross_encoder.py", "from ._calls.run import Scorer\nfrom ._errors import InputError"),
        ("export/_cli.py", "from crossrank._cli.tables import align_columns"),
        ("export/_convert.py", "from crossrank import CrossEncoder\nfrom crossrank._proof import measure_parity"),
        ("benchmarks/commands/gpu.py", "from crossrank._device.cuda.graph import Bucket"),
    ],
)
def test_what_the_layers_allow_is_no_violation(tmp_path: Path, file: str, line: str) -> None:
    _make_checkout(tmp_path, {file: line})
    assert violations(tmp_path) == []


def test_neither_an_import_nor_a_cpu_loads_code_of_gpus_or_compiled_kernels() -> None:
    code = (
        "import sys; from crossrank import CrossEncoder\n"
        "CrossEncoder(device='cpu').rank('query', ['one', 'two'])\n"
        f"print([name for name in sys.modules if name.startswith({tuple(LATE_FOLDERS)})])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def _make_checkout(root: Path, texts: dict[str, str]) -> None:
    """A checkout of modules with these texts, each in packages."""
    public = '__all__ = ["CrossEncoder", "InputError"]'
    for name, text in {"engine/__init__.py": public, "engine/_device/cuda/graph.py": "", **texts}.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        for folder in file.relative_to(root).parents[:-1]:
            (root / folder / "__init__.py").touch()
        file.write_text(text, "utf-8")
