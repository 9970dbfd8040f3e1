"""The manifest, crossrank.json, read and written: what an artifact holds, where it came from, and how exact it is.

An artifact is a folder that other tools read too: ``config.json``, ``tokenizer.json`` and
``onnx/model*.onnx``, plus this manifest and ``proof.json`` with the texts and reference logits that
its figures were taken on. Paths in a manifest stay inside the folder.
"""

import hashlib
import json
import stat
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

from crossrank._errors import ArtifactError, InputError, join_problems
from crossrank._interrupts import not_thrown_in
from crossrank._json import parse_dataclass, read_json_object
from crossrank._numbers import whole_number

from .activation import ACTIVATIONS
from .links import is_snapshot, leads_out
from .origin import repair
from .parity import BOUNDS, Parity

FORMAT = 1
MANIFEST_NAME = "crossrank.json"
PROOF_NAME = "proof.json"
VARIANTS = ("cpu", "cuda", "portable")
PRECISIONS = ("fp32", "fp16", "int8")
EXPORTERS = ("native", "optimum")
# Beyond these a number means nothing, and would overflow an id or ask for all memory.
_MAX_NUMBER = 2**31 - 1
_MAX_LABELS = 100_000


@dataclass(frozen=True, slots=True)
class Source:
    """The checkpoint that an artifact was made of.

    Attributes:
        name: The hub id, or the folder's name.
        revision: The hub's commit.
        architecture: transformers' model_type.
        fingerprint: Equal for two exports of the same checkpoint with the same length limit.
    """

    name: str
    revision: str | None
    architecture: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Head:
    """What the logits mean.

    Attributes:
        labels: Logits per pair.
        relevant_label: For a relevance model with several labels, the one that means "relevant".
        activation: A name of `ACTIVATIONS`, what a score is made with unless the caller says otherwise.
        activation_origin: Where that name comes from.
        unknown_activation: What the checkpoint names that is not among them, so that the default stands here; or None.
    """

    labels: int
    relevant_label: int | None
    activation: str
    activation_origin: str
    unknown_activation: str | None = None

    def with_relevant(self, label: int) -> "Head":
        """The same head with another label that means "relevant".

        Raises:
            InputError: If it has no such label.
        """
        allowed = f"the model has the labels 0 to {self.labels - 1}"
        number = whole_number("relevant_label", label, 0, allowed)
        if number >= self.labels:
            raise InputError(f"relevant_label={label!r}: {allowed}")
        return replace(self, relevant_label=number)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the graphs expect of their inputs.

    Attributes:
        max_length: Most tokens of a pair.
        max_length_origin: Where that number comes from.
        pad_id: The id that fills a batch.
        position_offset: The position of the first token: 0, or ``pad_id + 1`` for RoBERTa's kind.
        token_types: Whether the tokenizer's segments reach the model.
        embeddings: Rows of the table of embeddings, if the tokenizer has ids beyond it, which no text may hold.
    """

    max_length: int
    max_length_origin: str
    pad_id: int
    position_offset: int
    token_types: bool
    embeddings: int | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """One graph of an artifact and its parity with the reference, None before it was proven.

    Attributes:
        variant: Of `VARIANTS`.
        precision: Of `PRECISIONS`.
        file: The ONNX file.
        parity: By onnxruntime.
        kernels: Of the same weights by crossrank-kernels, None where that did not run.
        float_layers: Of an int8 graph, the layers that are computed in float since its bound needs it, from 0.
    """

    variant: str
    precision: str
    file: str
    parity: Parity | None = None
    kernels: Parity | None = None
    float_layers: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Variant and precision as people write them, such as ``cpu int8``."""
        return f"{self.variant} {self.precision}"

    @property
    def target(self) -> tuple[str, str]:
        """Variant and precision."""
        return self.variant, self.precision

    def problems(self) -> list[str]:
        """Where its parity leaves its precision's bound, one sentence each; empty if it holds or was not measured."""
        if self.parity is None:
            return []
        return [f"{self.name}: {text}" for text in self.parity.problems(BOUNDS[self.precision])]

    def kernels_on(self, provider: str) -> Parity | None:
        """The parity by a crossrank-kernels of this version on such a processor, None where another was measured."""
        return self.kernels if self.kernels is not None and self.kernels.provider == provider else None

    def kernels_problems(self, provider: str) -> list[str]:
        """Where `kernels_on` leaves the bound: then onnxruntime runs the graph there."""
        parity = self.kernels_on(provider)
        return [] if parity is None else parity.problems(BOUNDS[self.precision])


@dataclass(frozen=True, slots=True)
class Refusal:
    """A graph that an export made and did not keep.

    Attributes:
        variant: Of `VARIANTS`.
        precision: Of `PRECISIONS`.
        problems: Why, one sentence each.
        parity: Its figures, None where it could not be built or run.
    """

    variant: str
    precision: str
    problems: tuple[str, ...]
    parity: Parity | None = None

    @property
    def name(self) -> str:
        """Variant and precision as people write them."""
        return f"{self.variant} {self.precision}"

    @property
    def target(self) -> tuple[str, str]:
        """Variant and precision."""
        return self.variant, self.precision

    def __str__(self) -> str:
        return f"{self.name}: {'; '.join(self.problems)}"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Size and hash of one file of an artifact."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """All of crossrank.json.

    Attributes:
        source: What it was made of.
        head: What the logits mean.
        inputs: What the graphs expect.
        variants: The graphs.
        files: Every other file of the folder.
        crossrank: Version that wrote it.
        format: Version of the manifest's format.
        exporter: Of `EXPORTERS`, what wrote the graphs; "foreign" in the memory of one that reads others' graphs.
        refused: Graphs that this version made and did not keep, since they do not hold. It does not try them again.
    """

    source: Source
    head: Head
    inputs: Inputs
    variants: tuple[Variant, ...]
    files: dict[str, FileRecord]
    crossrank: str
    format: int = FORMAT
    exporter: str = "native"
    refused: tuple[Refusal, ...] = ()


def graph_files(manifest: Manifest, variant: Variant) -> list[str]:
    """The files of a graph: the ONNX file, and that of its weights where they lie outside of it."""
    return [name for name in (variant.file, f"{variant.file}_data") if name in manifest.files]


def all_graph_files(manifest: Manifest) -> set[str]:
    """The files of all of an artifact's graphs, which the hub's cache may hold a part of."""
    return {name for variant in manifest.variants for name in graph_files(manifest, variant)}


def hash_file(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def holds(path: Path, record: FileRecord) -> bool:
    """Whether a file has the content that a manifest says.

    Raises:
        OSError: If it cannot be read.
    """
    return _size(path) == record.size_bytes and hash_file(path) == record.sha256


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``crossrank.json`` into ``folder``."""
    text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False)
    (folder / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path, *, files: bool = True) -> Manifest:
    """Read and check an artifact's manifest, and the presence and size of its files.

    Args:
        folder: An artifact folder. In the hub's cache graphs may be absent, which were not asked for yet.
        files: Whether the files are looked at.

    Raises:
        ArtifactError: Naming every problem found: no manifest, a newer format, missing or mistyped
            fields, a path that leaves the folder, a file that is absent or of another size.
    """
    path = folder / MANIFEST_NAME
    try:
        data = read_json_object(path)
    except not_thrown_in(OSError, ValueError) as error:
        raise ArtifactError(f"{path}: {error}; {repair(folder)}") from error
    found = data.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise ArtifactError(
            f"{path}: format {found}, this crossrank reads up to {FORMAT}: pip install --upgrade crossrank"
        )
    problems: list[str] = []
    manifest = parse_dataclass(Manifest, data, problems)
    if manifest is not None:
        problems = _value_problems(manifest) or (_file_problems(folder, manifest) if files else [])
    if manifest is None or problems:
        raise ArtifactError(f"{join_problems(str(path), problems)}\nIt is damaged: {repair(folder)}")
    return manifest


def _value_problems(manifest: Manifest) -> list[str]:
    head, inputs = manifest.head, manifest.inputs
    known = [("head.activation", head.activation, tuple(ACTIVATIONS)), ("exporter", manifest.exporter, EXPORTERS)]
    graphs: dict[str, tuple[Variant | Refusal, ...]] = {"variants": manifest.variants, "refused": manifest.refused}
    for field, members in graphs.items():
        for i, graph in enumerate(members):
            known.append((f"{field}[{i}].variant", graph.variant, VARIANTS))
            known.append((f"{field}[{i}].precision", graph.precision, PRECISIONS))
    problems = [f"{name} is {value!r:.60}; known are {', '.join(ok)}" for name, value, ok in known if value not in ok]
    if not 0 < head.labels <= _MAX_LABELS or not 0 <= (head.relevant_label or 0) < head.labels:
        problems.append(f"head has {head.labels} labels of which {head.relevant_label} is the relevant one")
    numbers = [("max_length", inputs.max_length, 1), ("pad_id", inputs.pad_id, 0)]
    numbers.append(("position_offset", inputs.position_offset, 0))
    if inputs.embeddings is not None:
        numbers.append(("embeddings", inputs.embeddings, 1))
    problems += [
        f"inputs.{name} is {value}; {least} to {_MAX_NUMBER} expected"
        for name, value, least in numbers
        if not least <= value <= _MAX_NUMBER
    ]
    if not manifest.variants:
        problems.append("variants is empty")
    for i, refusal in enumerate(manifest.refused):  # printed as it is, and not all who write manifests are ours
        if not all(text.isprintable() for text in refusal.problems):
            problems.append(f"refused[{i}].problems hold what cannot be printed")
    return problems


def _file_problems(folder: Path, manifest: Manifest) -> list[str]:
    problems = []
    graphs = all_graph_files(manifest)
    for name, record in manifest.files.items():
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
            problems.append(f"{name!r:.80} leaves the folder")
            continue
        size = _size(folder / pure) if len(name) <= 200 else None
        if size is None:
            if name not in graphs or not is_snapshot(folder):
                problems.append(f"{name} is missing")
        elif leads_out(folder, pure):
            problems.append(f"{name} is a link that leaves the folder")
        elif size != record.size_bytes:
            problems.append(f"{name} has {size} bytes, the manifest says {record.size_bytes}")
    needed = {"config.json", "tokenizer.json", PROOF_NAME, *(variant.file for variant in manifest.variants)}
    problems += [f"{name!r:.80} is not among its files" for name in sorted(needed - manifest.files.keys())]
    return problems


def _size(path: Path) -> int | None:
    """The size of a regular file, None if there is none."""
    try:
        found = path.stat()
    except not_thrown_in(OSError, ValueError):  # ValueError: of characters that no file's name has
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None
