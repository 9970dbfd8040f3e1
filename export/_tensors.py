"""The tensors in a checkpoint's files, each read when it is asked for."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from crossrank._errors import CheckpointError
from crossrank._fields import read_json_object

ReadTensor: TypeAlias = Callable[[], NDArray[Any]]


def open_tensors(folder: Path) -> dict[str, ReadTensor]:
    """The tensors of a folder's safetensors files, single or sharded, each read when it is called.

    A name that a writer dropped because its tensor is tied to another one (safetensors' metadata says
    to which) reads that other one.

    Raises:
        CheckpointError: If there are no weights, or a file or the index is damaged.
    """
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    try:
        if single.exists():
            files = {single.name}
        elif index.exists():
            files = {str(name) for name in read_json_object(index)["weight_map"].values()}
        else:
            raise CheckpointError(
                f"{folder}: no model.safetensors and no model.safetensors.index.json; transformers writes them: "
                f"AutoModelForSequenceClassification.from_pretrained(FOLDER).save_pretrained(FOLDER)"
            )
        outside = sorted(name for name in files if Path(name).name != name)
        if outside:
            raise CheckpointError(f"{index}: {outside[0]!r} leaves the folder")
        tensors: dict[str, ReadTensor] = {}
        for name in sorted(files):
            file = safe_open(folder / name, framework="numpy")
            tensors |= {key: partial(file.get_tensor, key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
            metadata = file.metadata() or {}
            tensors |= {dropped: tensors[kept] for dropped, kept in metadata.items() if kept in tensors}
        return tensors
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: weights cannot be read: {error}") from error
