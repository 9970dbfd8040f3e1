"""The tensors in a checkpoint's files, each read when it is asked for."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes  # noqa: F401  (numpy knows bfloat16 by name once it is imported, and safetensors asks by name)
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from crossrank._artifact.settings import WEIGHT_FILES, has_weights, lone_adapter_message
from crossrank._errors import CheckpointError, MissingDependencyError
from crossrank._interrupts import not_thrown_in
from crossrank._json import check_regular, has_entry, read_json_object

ReadTensor: TypeAlias = Callable[[], NDArray[Any]]

# safetensors' names of the types that numpy has too.
_STORED = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"},
}
# Names of TensorFlow's checkpoints that old conversions kept; transformers reads them the same way.
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def open_tensors(folder: Path) -> dict[str, ReadTensor]:
    """The tensors of a folder's safetensors or PyTorch files, single or sharded, each read when it is called.

    A name that a safetensors writer dropped because its tensor is tied to another one (the file's metadata
    says to which) reads that other one.

    Args:
        folder: Holds model.safetensors or pytorch_model.bin, or an index of either.

    Returns:
        Name to reader; a reader gives an array of the type that is stored, float32 for bfloat16 of PyTorch files.

    Raises:
        CheckpointError: If there are no weights, or a file or the index is damaged.
        MissingDependencyError: If only PyTorch files are there and torch is not installed.
    """
    for kind in WEIGHT_FILES:
        if has_weights(folder, [kind]):
            break
    else:
        raise CheckpointError(
            lone_adapter_message(folder)
            or f"no weights: neither {' nor '.join(WEIGHT_FILES)}, nor an index of one; transformers writes "
            f"them: AutoModelForSequenceClassification.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    tensors: dict[str, ReadTensor] = {}
    for path in [folder / kind] if has_entry(folder / kind) else _shards(folder, kind):
        tensors |= open_tensor_file(path)
    return {_today(name): read for name, read in tensors.items()}


def open_tensor_file(path: Path) -> dict[str, ReadTensor]:
    """The tensors of one safetensors or PyTorch file, as `open_tensors` gives them, under the names they have there."""
    try:
        check_regular(path)
        path.open("rb").close()  # safetensors takes a file that may not be read for one that is not there
        return _open_safetensors(path) if path.suffix == ".safetensors" else _open_pytorch(path)
    except MissingDependencyError:
        raise
    except not_thrown_in(Exception) as error:  # what the readers of untrusted files raise has no common base
        raise CheckpointError(
            f"{path.name}: weights cannot be read: {type(error).__name__}: {error!s:.300}; download it again"
        ) from error


def _shards(folder: Path, kind: str) -> list[Path]:
    index = folder / f"{kind}.index.json"
    try:
        names = sorted({str(name) for name in read_json_object(index)["weight_map"].values()})
    except not_thrown_in(OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{index.name}: no index of weights: {error!r:.200}") from error
    outside = [name for name in names if Path(name).name != name or "\\" in name or len(name) > 200]
    if outside:
        raise CheckpointError(f"{index.name}: {outside[0]!r:.80} is no file of this folder")
    other = [name for name in names if Path(name).suffix != Path(kind).suffix]  # whose content would go by unseen
    if other:
        raise CheckpointError(f"{index.name}: {other[0]!r:.80} is no {Path(kind).suffix} file")
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise CheckpointError(f"{index.name}: {', '.join(absent[:5])} {'is' if len(absent) == 1 else 'are'} missing")
    return [folder / name for name in names]


def _open_safetensors(path: Path) -> dict[str, ReadTensor]:
    with safe_open(path, framework="numpy") as file:  # which checks that the header fits the file
        metadata = file.metadata() or {}
    with path.open("rb") as content:
        start = 8 + int.from_bytes(content.read(8), "little")
        header = json.loads(content.read(start - 8))
    header.pop("__metadata__", None)
    tensors: dict[str, ReadTensor] = {key: partial(_read_stored, path, start, key, header[key]) for key in header}
    return {dropped: tensors[kept] for dropped, kept in metadata.items() if kept in tensors} | tensors


def _read_stored(path: Path, start: int, key: str, entry: Mapping[str, Any]) -> NDArray[Any]:
    """A tensor of a safetensors file. Read and not mapped: a mapped one would stay in memory beside its copies."""
    kind = _STORED.get(entry["dtype"])
    if kind is None:
        with safe_open(path, framework="numpy") as file:  # its own word for what numpy does not have
            tensor: NDArray[Any] = file.get_tensor(key)
            return tensor
    first, last = entry["data_offsets"]
    count = (last - first) // np.dtype(kind).itemsize
    values = np.fromfile(path, np.dtype(kind).newbyteorder("<"), count, offset=start + first)
    return values.reshape(entry["shape"])


def _open_pytorch(path: Path) -> dict[str, ReadTensor]:
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            f"{path} is a PyTorch file, which only torch reads: pip install 'crossrank[torch]'; or use a revision "
            f"of the model that has model.safetensors"
        ) from error
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as archive:  # torch stores without compression; anything else could be a bomb
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("its entries are compressed, which torch never does")
    # The format of torch before 1.6 states lengths, for which a read of the file itself would make room first.
    content = path if zipped else io.BytesIO(path.read_bytes())
    # weights_only: plain tensors, nothing that the file could make us run
    state = torch.load(content, map_location="cpu", weights_only=True, mmap=zipped)
    if not isinstance(state, Mapping):
        raise ValueError(f"a mapping of names to tensors is expected, this is {type(state).__name__}")
    return {str(name): partial(_to_numpy, tensor) for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}


def _to_numpy(tensor: Any) -> NDArray[Any]:
    array: NDArray[Any] = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).detach().numpy()
    return array


def _today(name: str) -> str:
    for old, new in _OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def read_floats(read: ReadTensor) -> NDArray[np.float32]:
    """A stored tensor as float32, exactly; of float64 the nearest, as transformers computes with it in float32.

    Raises:
        ValueError: If it is of another type than floats of 64, 32 and 16 bits and bfloat16, or holds NaN, infinity, or
            what is beyond float32.
    """
    try:
        value = read()
    except not_thrown_in(Exception) as error:  # a type that numpy does not have, a sparse tensor
        raise ValueError(f"cannot be read: {type(error).__name__}: {error!s:.100}") from error
    if value.dtype not in ("float32", "float16", "bfloat16", "float64"):
        raise ValueError(f"is {value.dtype}; float32, float16, bfloat16 or float64 expected")
    with np.errstate(over="ignore"):  # becomes infinite, which is told below
        floats = value.astype(np.float32, copy=False)
    bad = floats.size - int(np.isfinite(floats).sum())
    if bad:
        raise ValueError(f"holds {bad} values that are NaN or infinite")
    return floats
