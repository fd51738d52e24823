"""Compiled models that are recognized by their files: TorchScript, TensorRT plans, OpenVINO."""

from __future__ import annotations

import re
import zipfile
from typing import Any

from modelium.analysis.catalog import EngineCatalog, assess
from modelium.analysis.describe import card_of
from modelium.analysis.readers.code_references import is_code
from modelium.analysis.readers.folder import FileEntry, Folder, shown
from modelium.analysis.readers.zip_directory import open_zip
from modelium.errors import DropRejected
from modelium.models import ModelFormat, ModelProfile, Task

_PLAN_MAGIC = (b"ftrt", b"blkt", b"ptrt")
"""First bytes of serialized TensorRT engines."""
_NET = re.compile(rb"<net\s[^>]{0,512}?name=\"([^\"]{0,256})\"[^>]{0,512}>")


def profile_compiled(folder: Folder, engines: EngineCatalog) -> ModelProfile | None:
    """Return the profile of the folder's compiled model; ``None``: there is none.

    Raises `DropRejected` for a damaged TensorRT plan.
    """
    for entry in folder.having(".plan", ".engine", ".trt"):
        if folder.read(entry.name, limit=4) not in _PLAN_MAGIC:
            raise DropRejected(
                f"{shown(entry.name)!r} is not a TensorRT plan. Build it again.", reason="bad-plan"
            )
        details = {"bound_to": "the GPU architecture and TensorRT version of its build"}
        return _profile(
            folder, engines, ModelFormat.TENSORRT, "tensorrt", entry, entry.size, details
        )
    for entry in folder.having(".xml"):
        blob = entry.name.removesuffix(".xml") + ".bin"
        net = _NET.search(folder.read(entry.name, limit=4096))
        if net is None or blob not in folder:
            continue
        network = {"network": shown(net[1].decode("utf-8", "replace"))}
        size = folder.sizes[blob]
        return _profile(folder, engines, ModelFormat.OPENVINO, "openvino", entry, size, network)
    for entry in folder.having(".pt", ".pth"):
        if is_torchscript(folder, entry):
            return _profile(
                folder, engines, ModelFormat.TORCHSCRIPT, "pytorch", entry, entry.size, {}
            )
    return None


def is_torchscript(folder: Folder, entry: FileEntry) -> bool:
    """Return whether a file is a TorchScript archive, judged by its table of contents only."""
    if not folder.read(entry.name, limit=2).startswith(b"PK"):
        return False
    try:
        with open_zip(folder.path(entry.name)) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False
    tops = {name.partition("/")[2].partition("/")[0] for name in names}
    return {"code", "constants.pkl", "data.pkl"} <= tops


def _profile(
    folder: Folder,
    engines: EngineCatalog,
    format: ModelFormat,
    backend: str,
    entry: FileEntry,
    size: int,
    details: dict[str, Any],
) -> ModelProfile:
    license_id, card = card_of(folder)
    return ModelProfile(
        format=format,
        architecture=format.value,
        task=Task.GENERIC,
        weight_bytes=size,
        files={"model": entry.name},
        needs_remote_code=is_code(entry.name),
        runtimes=assess(
            format=format,
            task=Task.GENERIC,
            architecture=format.value,
            engines=engines,
            backend=backend,
        ),
        license=license_id,
        card=card,
        details=details,
    )
