"""Lays models out as Triton wants them: ``NAME/config.pbtxt`` and ``NAME/VERSION/FILES``.

Files are hard links where the file systems are one, else copies: unlike symbolic links, both are
there in a container that mounts the repository alone.
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
"""A file that tells our entries from the user's; Triton ignores it."""
CONFIG = "config.pbtxt"
VERSION = re.compile(r"[1-9][0-9]*")


class TritonRepository:
    """The folder that Triton serves from. Blocking: files are copied."""

    def __init__(self, *, root: Path) -> None:
        """``root`` is made on the first load."""
        self.root = root

    def add(self, request: LoadRequest) -> Path:
        """Lay out ``request``'s model anew and return its entry.

        Raises:
            LoadFailed: its files cannot be served; they are checked here because a server that
                misses one can hang for good.
            NeedsApproval: it brings Python code.
        """
        source = Path(request.path)
        if not source.is_dir():
            raise LoadFailed(f"{source} is not there", kind=FailureKind.BAD_FILES)
        entry = self.root / request.model
        if entry.exists() and not self.owns(request.model):
            raise LoadFailed(
                f"{entry} is not of Modelium's making: give triton.model_repository a folder of "
                "its own, or remove that one",
                kind=FailureKind.BAD_SETTINGS,
            )
        fresh = self.root / f".{request.model}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            if request.profile.format == ModelFormat.TRITON:
                self._take_over(request, source, fresh)
            else:
                self._compose(request, source, fresh)
            (fresh / MARKER).write_text(f"{request.version}\n")
            shutil.rmtree(entry, ignore_errors=True)
            fresh.replace(entry)
        except OSError as exc:
            raise LoadFailed(
                f"cannot lay {request.model} out in {self.root}: {exc.strerror}",
                kind=FailureKind.ENVIRONMENT,
            ) from exc
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return entry

    def remove(self, model: str) -> None:
        """Remove the entry of ``model``, if it is ours."""
        if self.owns(model):
            shutil.rmtree(self.root / model, ignore_errors=True)

    def clear(self) -> None:
        """Remove every entry that is ours."""
        for marker in list(self.root.glob(f"*/{MARKER}")):
            self.remove(marker.parent.name)

    def owns(self, model: str) -> bool:
        """Whether the entry of ``model`` was laid out by us."""
        return (self.root / model / MARKER).is_file()

    def version(self, model: str) -> int | None:
        """Which version of ``model`` its entry holds; None where the entry is not ours."""
        try:
            return int((self.root / model / MARKER).read_text())
        except (OSError, ValueError):
            return None

    def _compose(self, request: LoadRequest, source: Path, entry: Path) -> None:
        main = request.profile.files.get("model")
        if not main or not _filled(source / main):
            raise LoadFailed(
                f"{request.model} has no model file ({main or 'none was found'})",
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
        # External weights lie beside the graph under the names that it refers to.
        _link_tree(file.parent, entry / str(request.version), skip={CONFIG})

    def _take_over(self, request: LoadRequest, source: Path, entry: Path) -> None:
        versions = [path for path in source.iterdir() if VERSION.fullmatch(path.name)]
        ensemble = request.profile.architecture == "ensemble"
        if not ensemble and not any(_filled(version) for version in versions):
            raise LoadFailed(
                f"{request.model} has no version folder with files in it: "
                "put them into a folder named 1",
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
                f"{request.model} is Python code that Triton would run: allow it with "
                f"`modelium approve {request.model} remote-code`"
            )
        main = Path(request.profile.files.get("model", "1/model.py")).name
        for version in versions:
            if not _filled(version / main):
                raise LoadFailed(
                    f"version {version.name} of {request.model} has no {main}: the server would "
                    "hang over it",
                    kind=FailureKind.BAD_FILES,
                )


def _filled(path: Path) -> bool:
    if path.is_dir():
        return any(_filled(inner) for inner in path.iterdir())
    return path.is_file() and path.stat().st_size > 0


def _link_tree(source: Path, target: Path, skip: set[str]) -> None:
    """Mirror ``source``; symbolic links are not followed out of it."""
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
