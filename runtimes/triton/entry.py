"""An entry of a Triton repository, what makes one, and the checks before Triton reads it.

A missing file can hang the server permanently: the files are checked here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modelium.errors import FailureKind, LoadFailed, NeedsApproval
from modelium.ports import LoadRequest
from runtimes.triton import model_config

CONFIG = "config.pbtxt"
VERSION = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One model as Triton knows it."""

    name: str
    """The name of its folder, which is its name in Triton."""
    path: Path
    config: str | None = None
    """JSON of the configuration to load it with; ``None``: its ``config.pbtxt``."""


class Repository(Protocol):
    """The folder that Triton serves. Calls block: they link or copy files."""

    root: Path

    def add(self, request: LoadRequest) -> Entry:
        """Make the entry of ``request``'s model, replacing an earlier one.

        Raises:
            LoadFailed: its files cannot be served, or the entry cannot be written.
            NeedsApproval: it contains Python code.
        """

    def remove(self, name: str) -> None:
        """Remove what Modelium made of the entry ``name``."""

    def clear(self) -> None:
        """Remove everything that Modelium made."""

    def version(self, name: str) -> int | None:
        """Return the model's version in the entry ``name``; None if it is not Modelium's."""


def source_of(request: LoadRequest) -> Path:
    """Return the folder of the model's files.

    Raises:
        LoadFailed: it is gone.
    """
    source = Path(request.path)
    if not source.is_dir():
        raise LoadFailed(
            f"{source} does not exist: drop the model again", kind=FailureKind.BAD_FILES
        )
    return source


def main_file(request: LoadRequest, source: Path) -> Path:
    """Return the model file in ``source``, which is there and not empty.

    Raises:
        LoadFailed: it is missing or empty.
    """
    main = request.profile.files.get("model")
    if not main or not _filled(source / main):
        raise LoadFailed(
            f"{request.model} has no model file ({main or 'none was found'}), or it is empty",
            kind=FailureKind.BAD_FILES,
        )
    return source / main


def config_of(request: LoadRequest, file: Path, *, name: str, version: int | None = None) -> str:
    """Return the configuration for the model in ``file``: generated, or the one beside it.

    ``version``: the only version folder to serve; None: the newest.
    """
    device = request.devices[0]
    config = file.parent / CONFIG
    # One beside the drop's own files makes the drop an entry: that here is Modelium's.
    if file.parent != Path(request.path) and config.is_file():
        return model_config.complete(config.read_text(), name=name, device=device)
    return model_config.generate(
        name=name,
        profile=request.profile,
        filename=file.name,
        device=device,
        max_batch_size=request.settings.max_num_seqs,
        memory_bytes=request.reserve.get(device.id),
        version=version,
    )


def check_versions(request: LoadRequest, source: Path) -> None:
    """Check the version folders of a drop in Triton's own form.

    Raises:
        LoadFailed: none has files, or the server would hang on one.
        NeedsApproval: they contain Python code.
    """
    versions = [path for path in source.iterdir() if VERSION.fullmatch(path.name)]
    ensemble = request.profile.architecture == "ensemble"
    if not ensemble and not any(_filled(version) for version in versions):
        raise LoadFailed(
            f"{request.model} has no version folder with files in it: "
            "put its files into a folder named 1",
            kind=FailureKind.BAD_FILES,
        )
    if request.profile.architecture == "python":
        _check_python(request, versions)


def _check_python(request: LoadRequest, versions: Sequence[Path]) -> None:
    if not request.allow_remote_code:
        raise NeedsApproval(
            f"{request.model} contains Python code that Triton would run: approve it with "
            f"`modelium approve {request.model} remote-code`"
        )
    main = Path(request.profile.files.get("model", "1/model.py")).name
    for version in versions:
        if not _filled(version / main):
            raise LoadFailed(
                f"version {version.name} of {request.model} has no {main}: the server would "
                "hang on it",
                kind=FailureKind.BAD_FILES,
            )


def _filled(path: Path) -> bool:
    if path.is_dir():
        return any(_filled(inner) for inner in path.iterdir())
    return path.is_file() and path.stat().st_size > 0
