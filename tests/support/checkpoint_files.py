"""Changing a checkpoint's files, and looking at what an export wrote."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tests.support.tiny_models import config_of, write_json

Tensors = dict[str, NDArray[Any]]


def change_config(folder: Path, **fields: Any) -> None:
    write_json(folder / "config.json", config_of(folder) | fields)


def read_tensors(folder: Path) -> Tensors:
    return {name: value.copy() for name, value in load_file(folder / "model.safetensors").items()}


def write_tensors(folder: Path, tensors: Tensors, **metadata: str) -> None:
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt", **metadata})


def scale_tensors(folder: Path, name: str, factor: float) -> Path:
    """Multiply a linear layer's weight and bias. Returns ``folder``."""
    tensors = read_tensors(folder)
    for part in (f"{name}.weight", f"{name}.bias"):
        tensors[part] *= np.float32(factor)
    write_tensors(folder, tensors)
    return folder


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
