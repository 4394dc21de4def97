"""What a map is made of, so that none is continued with another model or image."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxfc.io.external_data import all_tensors
from onnxfc.io.model_file import ModelFile


def of_model(given: Any, file: ModelFile) -> dict[str, Any]:
    """Of a model as it was given, and opened: its files, those of its weights too; what is in memory by its digest."""
    if isinstance(given, ModelFile):
        given = given.path or given.proto
    if isinstance(given, onnx.ModelProto):
        given = given.SerializeToString(deterministic=True)
    for tensor in all_tensors(file.proto):
        file.store.span(tensor)  # after which the store knows all files
    weights = [_file(source.path) for source in file.store.files() if source is not file.store.main]
    found = {"sha256": _digest(given)} if isinstance(given, bytes) else _file(Path(given))
    return found | ({"weights": weights} if weights else {})


def of_image(image: Any) -> dict[str, Any]:
    """Files by name, size and time, arrays by their digest. A user's own source is taken for the same."""
    if isinstance(image, str | Path):
        path = Path(image)
        return _folder(path) if path.is_dir() else _file(path)
    found: dict[str, Any] = {"array": list(map(int, image.shape)), "dtype": str(image.dtype)}
    return found | ({"sha256": _digest(np.ascontiguousarray(image).data)} if isinstance(image, np.ndarray) else {})


def _file(path: Path) -> dict[str, Any]:
    info = os.stat(path)
    return {"file": os.path.realpath(path), "bytes": info.st_size, "changed": info.st_mtime_ns}


def _folder(path: Path) -> dict[str, Any]:
    """As zarr arrays are: changed wherever one of its files is."""
    names = sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    listed = json.dumps([_file(Path(name)) for name in names])
    return {"folder": os.path.realpath(path), "files": len(names), "sha256": _digest(listed.encode())}


def _digest(content: Any) -> str:
    return hashlib.sha256(content).hexdigest()
