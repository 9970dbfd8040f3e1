"""Graphs that other exporters wrote: an ONNX folder of optimum or sentence-transformers, used as it is.

Nothing is known of them but what their names, their declared inputs and the model's settings say. Where
the folder holds weights too, the exporter is the better road, since it proves what it makes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from crossrank._errors import CheckpointError, ModelNotFoundError, UnsupportedModelError, attempt, join_problems
from crossrank._json import has_entry
from crossrank._text.tokenizer import PairTokenizer

from .manifest import PRECISIONS, Inputs, Variant
from .settings import (
    ModelFolder,
    count_labels,
    describe_inputs,
    has_weights,
    read_model_folder,
    transformer_folder,
)
from .tokenizer_class import gives_token_types
from .tokenizer_settings import limit_ids, open_tokenizer

# What optimum and sentence-transformers append to "model", in the order in which files of one precision are taken:
# from O3 on the GELU is an approximation.
_SUFFIXES = {"": "fp32", "_O1": "fp32", "_O2": "fp32", "_O3": "fp32", "_fp16": "fp16", "_O4": "fp16"}
_INT8 = ("_qint8", "_quint8", "_quantized", "_int8", "_uint8")


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds ONNX files and no weights that the exporter could start from.

    Raises:
        ModelError: If its modules.json is damaged or of another kind of model.
    """
    inner = transformer_folder(folder)
    return bool(_onnx_files(inner)) and not has_weights(inner)


def settings_folder(file: Path) -> Path:
    """The folder of the model that an ONNX file belongs to: the one beside it, or else above it.

    Raises:
        ModelNotFoundError: If neither holds a model's settings.
    """
    folders = (file.parent, file.parent.parent)
    for folder in folders:
        if any(has_entry(folder / name) for name in ("config.json", "modules.json")):
            # A modules.json above it may have put it there, with settings of its own beside it.
            above = [place for place in folder.parents[:3] if (place / "modules.json").is_file()]
            return next((place for place in above if transformer_folder(place) == folder), folder)
    raise ModelNotFoundError(f"{file}: no config.json beside it in {folders[0]}, nor in {folders[1]}")


def name_precision(file: PurePath) -> str:
    """The precision that a file's name speaks of: one of `PRECISIONS`, another such as "q4", or "unknown".

    >>> [name_precision(Path(f"{name}.onnx")) for name in ("model", "model_O4", "model_qint8_avx2", "model_q4", "m")]
    ['fp32', 'fp16', 'int8', 'q4', 'unknown']
    """
    model, underscore, rest = file.stem.partition("_")
    if model != "model":
        return "unknown"
    suffix = underscore + rest
    return _SUFFIXES.get(suffix) or ("int8" if suffix.startswith(_INT8) else rest)


def files_beside(graph: Path) -> list[str]:
    """The names of the files beside an ONNX file that may hold its weights: all but other graphs."""
    return sorted(file.name for file in graph.parent.iterdir() if file.suffix != ".onnx" and file.is_file())


def _onnx_files(folder: Path) -> list[Path]:
    return [f for glob in ("*.onnx", "onnx/*.onnx") for f in folder.glob(glob) if f.is_file()]


def describe_variants(files: Iterable[PurePath]) -> tuple[Variant, ...]:
    """The graphs of a model's ONNX files, in the order of preference among those of one precision.

    Raises:
        CheckpointError: If there are several, and none is named as one of `PRECISIONS`.
    """
    known = list(_SUFFIXES)

    def order(file: PurePath) -> tuple[int, str, int]:
        suffix = file.stem.removeprefix("model")
        place = known.index(suffix) if suffix in known else len(known)
        return place, file.name, len(file.parts)  # beside config.json before onnx/, as sentence-transformers does

    found = [Variant("portable", name_precision(file), file.as_posix()) for file in sorted(files, key=order)]
    # What is alone is taken whatever its name.
    usable = tuple(variant for variant in found if len(found) == 1 or variant.precision in PRECISIONS)
    if not usable:
        raise CheckpointError(
            f"no ONNX file is named as one of {', '.join(PRECISIONS)} (model.onnx, model_fp16.onnx, "
            f"model_quantized.onnx and the like): there is {', '.join(variant.file for variant in found)}; "
            "name the file itself to take it"
        )
    return usable


@dataclass(frozen=True, slots=True)
class ForeignModel:
    """Foreign graphs of one model, and what its folder says of it.

    Attributes:
        source: The model's settings.
        tokenizer: The model's tokenizer.
        inputs: What the graphs expect, as far as it is known before one is loaded.
        labels: Logits per pair as config.json says, None where it does not.
        variants: The graphs, those of one precision in the order of preference.
    """

    source: ModelFolder
    tokenizer: PairTokenizer
    inputs: Inputs
    labels: int | None
    variants: tuple[Variant, ...]


def read_foreign(folder: Path, file: Path | None) -> ForeignModel:
    """Read what a folder with foreign graphs says of its model.

    Args:
        folder: Holds config.json and tokenizer.json, or a modules.json that says where they are.
        file: The graph to use, or None for all whose names say a known precision; a graph that is alone may have any.

    Raises:
        ModelNotFoundError: If there is no config.json.
        CheckpointError: For what is missing, damaged or does not fit, all at once.
        UnsupportedModelError: For another kind of model, or a setting that would change scores.
    """
    source = read_model_folder(folder)
    if source.modules:
        raise UnsupportedModelError(
            f"{folder}: the ONNX files of a model of several modules end before {source.modules[0].kind}; export its "
            f"weights, of which modules.json tells: export-model {folder.name} (pip install 'crossrank[export]')"
        )
    problems: list[str] = []
    files = _onnx_files(source.folder) if file is None else [file]
    variants = attempt(lambda: describe_variants(f.relative_to(source.root) for f in files), problems)
    labels = count_labels(source.config)
    if labels is not None and labels < 1:
        problems.append("config.json: num_labels or id2label gives no number of labels")
    tokenizer = attempt(lambda: _read_tokenizer(source), problems)
    inputs = None if tokenizer is None else attempt(lambda: _describe_inputs(source, tokenizer), problems)
    if problems or variants is None or tokenizer is None or inputs is None:
        raise CheckpointError(join_problems(str(folder), problems))
    return ForeignModel(source, tokenizer, inputs, labels, variants)


def _describe_inputs(source: ModelFolder, tokenizer: PairTokenizer) -> Inputs:
    rows = source.config.get("vocab_size")
    embeddings = None
    if isinstance(rows, int) and not isinstance(rows, bool):
        embeddings = limit_ids(tokenizer, rows, _plain_texts)
    types = gives_token_types(source.tokenizer, source.config)
    return describe_inputs(source, tokenizer, token_types=types, embeddings=embeddings)


def _plain_texts() -> list[str]:
    from crossrank._text.sample_texts import sample_texts  # rarely asked for, and no model is loaded sooner with it

    return sample_texts(64, kind="document", seed=0)


def _read_tokenizer(source: ModelFolder) -> PairTokenizer:
    if has_entry(source.folder / "tokenizer.json"):
        return open_tokenizer(source)
    raise CheckpointError(
        "there is no tokenizer.json; transformers writes one of the tokenizer's other files: "
        "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
    )
