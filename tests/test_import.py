"""A lean process: what an import loads and costs, what is public, how much memory."""

import subprocess
import sys
from pathlib import Path

import pytest

import crossrank
import crossrank.export
import crossrank.models
from benchmarks.inputs.random_checkpoint import write_tokenizer
from crossrank import MissingDependencyError
from crossrank._machine.onnxruntime import check_runtime, installed_runtimes
from crossrank.export import export_model
from tests.support.artifacts import make_artifact
from tests.support.large_data import MINILM, case
from tests.support.tiny_models import make_checkpoint

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "sentence_transformers", "onnx", "safetensors", "huggingface_hub", "scipy")
LATE = (*HEAVY, "filelock")  # the engine imports it where it is needed
# What takes a millisecond or more to import, with what comes along, and what only other calls need.
SELDOM = [
    "asyncio",
    "importlib.metadata",
    "multiprocessing",
    "numpy.random",
    "random",
    "shutil",
    "socket",
    "subprocess",
    "tempfile",
    "urllib.request",
    "uuid",
    "zipfile",
    "zlib",
    "google.protobuf",
    "crossrank_kernels",
    "crossrank._artifact.foreign",
    "crossrank._artifact.settings",
    "crossrank._async_cross_encoder",
    "crossrank._cascade",
    "crossrank._info",
    "crossrank._machine.advice",
    "crossrank._machine.gpu",
    "crossrank._proof",
    "crossrank._text.encoded_folder",
]

PUBLIC = [
    "Activation",
    "ActivationFunction",
    "ArtifactError",
    "AsyncCrossEncoder",
    "CallRecord",
    "Cascade",
    "CascadedDocument",
    "CheckpointError",
    "Closed",
    "CrossEncoder",
    "CrossrankError",
    "DeviceError",
    "EncodedDocument",
    "EncodedDocuments",
    "InputError",
    "MissingDependencyError",
    "ModelError",
    "ModelInfo",
    "ModelNotFoundError",
    "Overloaded",
    "Parity",
    "ProofError",
    "RankedDocument",
    "Ranking",
    "Stats",
    "UnsupportedModelError",
    "__version__",
]


def _python(code: str, *arguments: object) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_public_names_are_these_and_sorted() -> None:
    assert crossrank.__all__ == PUBLIC == sorted(PUBLIC)
    for name in PUBLIC:
        assert hasattr(crossrank, name)


@pytest.mark.parametrize("package", [crossrank.export, crossrank.models], ids=lambda package: package.__name__)
def test_public_names_of_the_other_packages_are_sorted_and_there(package: object) -> None:
    names = getattr(package, "__all__")  # noqa: B009  (the modules have no common type)
    assert names == sorted(names)
    for name in names:
        assert hasattr(package, name)


def test_public_modules_are_the_packages_only() -> None:
    for folder in ("engine", "export", "models"):
        public = [path.name for path in (ROOT / folder).glob("*.py") if not path.name.startswith("_")]
        assert public == [], folder


@pytest.mark.parametrize("module", ["crossrank", "crossrank.export", "crossrank.models"])
def test_an_import_loads_nothing_heavy(module: str) -> None:
    assert _python(f"import sys, {module}; print([name for name in {LATE} if name in sys.modules])") == "[]"


def test_scoring_with_an_artifact_loads_nothing_heavy(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path)
    code = (
        "import sys; from crossrank import CrossEncoder\n"
        "model = CrossEncoder(sys.argv[1], device='cpu')\n"
        "model.rank('query', ['one', 'two']); model.predict([('query', 'one')]); str(model.info())\n"
        f"print([name for name in {LATE} if name in sys.modules])"
    )
    assert _python(code, folder) == "[]"


def test_an_import_and_scores_load_nothing_that_they_do_not_need(tmp_path: Path) -> None:
    code = (
        "import sys, numpy, tokenizers, onnxruntime\n"  # whatever these bring
        "before = set(sys.modules); import crossrank\n"
        "if sys.argv[1:]: crossrank.CrossEncoder(sys.argv[1], device='cpu').rank('query', ['one', 'two'])\n"
        f"print([name for name in {SELDOM} if name in sys.modules and name not in before])"
    )
    assert _python(code) == "[]"
    assert _python(code, make_artifact(tmp_path)) == "[]"


def test_names_that_are_imported_late_are_listed_and_the_same_each_time() -> None:
    code = (
        "import crossrank, pickle\n"
        "from crossrank import *\n"
        "assert set(crossrank.__all__) <= set(dir(crossrank)), dir(crossrank)\n"
        "assert Cascade is crossrank.Cascade and pickle.loads(pickle.dumps(Cascade)) is Cascade\n"
        "print(ModelInfo.__name__, CascadedDocument.__name__, AsyncCrossEncoder.__name__, __version__)"
    )
    assert _python(code) == f"ModelInfo CascadedDocument AsyncCrossEncoder {crossrank.__version__}"


def test_an_import_takes_less_than_0_3_seconds() -> None:
    # The importing thread's own time, which neighbours on the machine take no part of, and the best of five.
    code = "import time; start = time.thread_time(); import crossrank; print(time.thread_time() - start)"
    assert min(float(_python(code)) for _ in range(5)) < 0.3


def test_an_import_has_no_effect() -> None:
    code = (
        "import logging, os, warnings, signal\n"
        "def state():\n"
        "    root = logging.getLogger()\n"
        "    ours = logging.getLogger('crossrank')\n"
        "    return dict(os.environ), root.handlers[:], root.level, ours.handlers[:], ours.level, "
        "warnings.filters[:], signal.getsignal(signal.SIGINT), os.getcwd()\n"
        "import numpy, onnxruntime, tokenizers\n"  # theirs is not ours to answer for
        "before = state()\n"
        "import crossrank, crossrank.export, crossrank.models\n"
        "print(state() == before)"
    )
    assert _python(code) == "True"


def test_the_one_installed_runtime_is_found() -> None:
    assert len(installed_runtimes()) == 1
    check_runtime(installed_runtimes(), importable=True)


@pytest.mark.parametrize(("same_folder", "status"), [(False, 0), (True, 1)])
def test_a_second_runtime_counts_only_where_it_overwrites_the_first(
    tmp_path: Path, same_folder: bool, status: int
) -> None:
    """In front of the path stands a runtime; onnxruntime-gpu's metadata lies beside it or in a folder behind it."""
    front, behind = tmp_path / "front", tmp_path / "behind"
    for folder, name in ((front, "onnxruntime"), (front if same_folder else behind, "onnxruntime_gpu")):
        (folder / "onnxruntime").mkdir(parents=True, exist_ok=True)
        (folder / "onnxruntime" / "__init__.py").touch()
        (folder / f"{name}-9.9.dist-info").mkdir()
        (folder / f"{name}-9.9.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 9.9\n")
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from crossrank._machine.onnxruntime import installed_runtimes, ort\n"
        "names = installed_runtimes(); print(names)\n"
        "if len(names) > 1: ort.get_available_providers()"
    )
    result = subprocess.run([sys.executable, "-c", code, str(front), str(behind)], capture_output=True, text=True)
    assert result.returncode == status, result.stderr
    if same_folder:
        assert "onnxruntime and onnxruntime-gpu are both installed" in result.stderr
    else:
        assert result.stdout.strip() == "['onnxruntime']"


def test_a_runtime_of_ones_own_build_is_accepted() -> None:
    check_runtime([], importable=True)


def test_without_a_runtime_the_commands_are_named() -> None:
    with pytest.raises(MissingDependencyError) as caught:
        check_runtime([], importable=False)
    message = str(caught.value)
    assert "crossrank needs one onnxruntime" in message
    for extra in ("cpu", "cuda13", "cuda12", "volta"):
        assert f"'crossrank[{extra}]'" in message
    assert isinstance(caught.value, ImportError)


def test_two_runtimes_are_named_with_the_way_out() -> None:
    with pytest.raises(MissingDependencyError) as caught:
        check_runtime(["onnxruntime", "onnxruntime-gpu"], importable=True)
    message = str(caught.value)
    assert "onnxruntime and onnxruntime-gpu are both installed" in message
    assert "pip uninstall -y onnxruntime onnxruntime-gpu, then one of: pip install 'crossrank[cpu]'" in message


WITHOUT = "import sys; sys.modules['onnxruntime'] = None; "


@pytest.mark.parametrize(
    "arguments",
    [["info"], ["rank", "query", "-"], ["bench"], ["verify"], ["info", "--device", "cuda"], ["export", "absent"]],
    ids=" ".join,
)
def test_a_command_without_a_runtime_ends_in_one_line_that_names_the_commands(arguments: list[str]) -> None:
    module = "crossrank.export._cli" if arguments[0] == "export" else "crossrank._cli.main"
    code = f"{WITHOUT}from {module} import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *arguments[arguments[0] == "export" :]]
    result = subprocess.run(command, input="a document", capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: crossrank needs one onnxruntime: pip install 'crossrank[cpu]'")


def test_without_a_runtime_help_and_version_are_there_and_a_model_says_what_is_missing() -> None:
    """Not the import: what only looks crossrank up goes on."""
    code = (
        f"{WITHOUT}import crossrank\n"
        "from crossrank._cli.main import main\n"
        "for make in (crossrank.CrossEncoder, crossrank.AsyncCrossEncoder):\n"
        "    try: make('owner/name')\n"
        "    except ImportError as error: print(type(error).__name__, error)\n"
        "main(['--version'])"
    )
    *errors, version = _python(code).splitlines()
    assert [error.partition(":")[0] for error in errors] == [
        "MissingDependencyError crossrank needs one onnxruntime"
    ] * 2
    assert version == f"crossrank {crossrank.__version__}"


def test_a_runtime_that_cannot_be_imported_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text("import libonnxruntime_that_is_absent")
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from crossrank._cli.main import main\n"
        "sys.exit(main(['info']))"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "onnxruntime is installed and cannot be imported (No module named 'libonnxruntime_that_is_absent')" in line
    assert "pip install" in line


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read the peak from")
@pytest.mark.parametrize("vocabulary", [None, case(f"{MINILM}/vocab.txt")])
def test_scoring_with_the_smallest_published_shape_stays_under_150_mb(tmp_path: Path, vocabulary: Path | None) -> None:
    # TinyBERT-L-2: the tokenizer has as many entries as BERT's own, which count too.
    checkpoint = make_checkpoint(
        tmp_path / "checkpoint",
        "bert",
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        vocab_size=30522,
        max_position_embeddings=512,
    )
    write_tokenizer(checkpoint, 30_522, vocabulary)
    folder = export_model(checkpoint, tmp_path / "artifact", variants=["cpu"], precisions=["fp32"])
    code = (
        "import sys; from crossrank import CrossEncoder\n"
        "model = CrossEncoder(sys.argv[1], device='cpu')\n"
        "documents = [f'passage number {i} ' + 'of some web page ' * (i % 150) for i in range(600)]\n"
        "assert model.score('what does a passage say', documents).shape == (600,)\n"
        # Not getrusage: its ru_maxrss starts at what the parent had when it forked, here pytest with torch.
        "status = open('/proc/self/status').read().split()\n"
        "print(status[status.index('VmHWM:') + 1])"
    )
    assert int(_python(code, folder)) * 1024 / 1e6 < 150
