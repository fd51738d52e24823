"""Triton's model repository: ``NAME/config.pbtxt`` and ``NAME/VERSION/FILES`` for each model.

Files are hard links on one file system, else copies: unlike symbolic links, both resolve in a
container that mounts the repository alone.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from modelium.errors import FailureKind, LoadFailed, NeedsApproval
from modelium.models import ModelFormat
from modelium.ports import LoadRequest
from runtimes.triton import model_config

MARKER = ".modelium"
"""A file that marks entries of Modelium's; Triton ignores it."""
CONFIG = "config.pbtxt"
VERSION = re.compile(r"[1-9][0-9]*")


class TritonRepository:
    """The folder that Triton serves. Calls block: they copy files."""

    def __init__(self, *, root: Path) -> None:
        """The first load creates ``root``."""
        self.root = root

    def add(self, request: LoadRequest) -> Path:
        """Write the entry of ``request``'s model, replacing an earlier one, and return its folder.

        Raises:
            LoadFailed: its files cannot be served. They are checked here because a missing file
                can hang the server permanently.
            NeedsApproval: it contains Python code.
        """
        source = Path(request.path)
        if not source.is_dir():
            raise LoadFailed(
                f"{source} does not exist: drop the model again", kind=FailureKind.BAD_FILES
            )
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
        return entry

    def remove(self, model: str) -> None:
        """Remove the entry of ``model`` if Modelium created it."""
        if self.owns(model):
            shutil.rmtree(self.root / model, ignore_errors=True)

    def clear(self) -> None:
        """Remove every entry that Modelium created."""
        for marker in list(self.root.glob(f"*/{MARKER}")):
            self.remove(marker.parent.name)

    def owns(self, model: str) -> bool:
        """Whether Modelium created the entry of ``model``."""
        return (self.root / model / MARKER).is_file()

    def version(self, model: str) -> int | None:
        """Return the version of ``model`` in its entry; None if the entry is not Modelium's."""
        try:
            return int((self.root / model / MARKER).read_text())
        except (OSError, ValueError):
            return None

    def _create_entry(self, request: LoadRequest, source: Path, entry: Path) -> None:
        main = request.profile.files.get("model")
        if not main or not _filled(source / main):
            raise LoadFailed(
                f"{request.model} has no model file ({main or 'none was found'}), or it is empty",
                kind=FailureKind.BAD_FILES,
            )
        file = source / main
        device = request.devices[0]
        config = file.parent / CONFIG
        if config.is_file():
            text = model_config.complete(config.read_text(), name=request.model, device=device)
        else:
            text = model_config.generate(
                name=request.model,
                profile=request.profile,
                filename=file.name,
                device=device,
                max_batch_size=request.settings.max_num_seqs,
                memory_bytes=request.reserve.get(device.id),
            )
        (entry / CONFIG).write_text(text)
        # The graph refers to external weights beside it by their names.
        _link_tree(file.parent, entry / str(request.version), skip={CONFIG})

    def _copy_entry(self, request: LoadRequest, source: Path, entry: Path) -> None:
        versions = [path for path in source.iterdir() if VERSION.fullmatch(path.name)]
        ensemble = request.profile.architecture == "ensemble"
        if not ensemble and not any(_filled(version) for version in versions):
            raise LoadFailed(
                f"{request.model} has no version folder with files in it: "
                "put its files into a folder named 1",
                kind=FailureKind.BAD_FILES,
            )
        if request.profile.architecture == "python":
            self._check_python(request, versions)
        _link_tree(source, entry, skip={CONFIG, MARKER})
        if ensemble:
            (entry / "1").mkdir(exist_ok=True)
        text = (source / CONFIG).read_text() if (source / CONFIG).is_file() else ""
        text = model_config.complete(text, name=request.model, device=request.devices[0])
        (entry / CONFIG).write_text(text)

    def _check_python(self, request: LoadRequest, versions: list[Path]) -> None:
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
