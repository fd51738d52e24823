"""A Triton repository of its own: ``NAME/config.pbtxt`` and ``NAME/VERSION/FILES`` per model.

Files are hard links on one file system, else copies: unlike symbolic links, both resolve in a
container that mounts the repository alone.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from modelium.errors import FailureKind, LoadFailed
from modelium.models import ModelFormat
from modelium.ports import LoadRequest
from runtimes.triton import model_config
from runtimes.triton.entry import (
    CONFIG,
    Entry,
    check_versions,
    config_of,
    main_file,
    source_of,
)

MARKER = ".modelium"
"""A file that marks entries of Modelium's; Triton ignores it."""


class SeparateRepository:
    """`runtimes.triton.entry.Repository` in a folder that holds nothing else."""

    def __init__(self, *, root: Path) -> None:
        """The first load creates ``root``."""
        self.root = root

    def add(self, request: LoadRequest) -> Entry:
        """See `Repository.add`."""
        source = source_of(request)
        entry = self.root / request.model
        if entry.exists() and not self.owns(request.model):
            raise LoadFailed(
                f"{entry} was not created by Modelium: set triton.model_repository to another "
                "folder, or remove that entry",
                kind=FailureKind.BAD_SETTINGS,
            )
        fresh = self.root / f".{request.model}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            if request.profile.format == ModelFormat.TRITON:
                self._copy_entry(request, source, fresh)
            else:
                self._create_entry(request, source, fresh)
            (fresh / MARKER).write_text(f"{request.version}\n")
            shutil.rmtree(entry, ignore_errors=True)
            fresh.replace(entry)
        except OSError as exc:
            raise LoadFailed(
                f"cannot write {request.model} to {self.root}: {exc.strerror}",
                kind=FailureKind.ENVIRONMENT,
            ) from exc
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return Entry(name=request.model, path=entry)

    def remove(self, name: str) -> None:
        """See `Repository.remove`."""
        if self.owns(name):
            shutil.rmtree(self.root / name, ignore_errors=True)

    def clear(self) -> None:
        """See `Repository.clear`."""
        for marker in list(self.root.glob(f"*/{MARKER}")):
            self.remove(marker.parent.name)

    def owns(self, name: str) -> bool:
        """Whether Modelium created the entry ``name``."""
        return (self.root / name / MARKER).is_file()

    def version(self, name: str) -> int | None:
        """See `Repository.version`."""
        try:
            return int((self.root / name / MARKER).read_text())
        except (OSError, ValueError):
            return None

    def _create_entry(self, request: LoadRequest, source: Path, entry: Path) -> None:
        file = main_file(request, source)
        (entry / CONFIG).write_text(config_of(request, file, name=request.model))
        # The graph refers to external weights beside it by their names.
        _link_tree(file.parent, entry / str(request.version), skip={CONFIG})

    def _copy_entry(self, request: LoadRequest, source: Path, entry: Path) -> None:
        check_versions(request, source)
        _link_tree(source, entry, skip={CONFIG, MARKER})
        if request.profile.architecture == "ensemble":
            (entry / "1").mkdir(exist_ok=True)
        text = (source / CONFIG).read_text() if (source / CONFIG).is_file() else ""
        text = model_config.complete(text, name=request.model, device=request.devices[0])
        (entry / CONFIG).write_text(text)


def _link_tree(source: Path, target: Path, skip: set[str]) -> None:
    """Mirror ``source`` without its symbolic links, which may point outside."""
    for folder, names, files in os.walk(source):
        at = target / Path(folder).relative_to(source)
        at.mkdir(parents=True, exist_ok=True)
        names[:] = [name for name in names if not (Path(folder) / name).is_symlink()]
        for name in files:
            file = Path(folder) / name
            if (folder == str(source) and name in skip) or file.is_symlink():
                continue
            try:
                os.link(file, at / name)
            except OSError:  # another file system, or one without hard links
                shutil.copy2(file, at / name)
