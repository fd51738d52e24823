"""Modelium's own model repository, served by Triton in place.

What Triton needs lies beside the drop's own files: ``config.pbtxt`` and a version folder of links.
A marker names it; analysis leaves it out. A drop in Triton's own form is served as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from modelium.analysis.readers.code_references import is_code
from modelium.analysis.readers.folder import FileEntry, Folder
from modelium.analysis.readers.laid import CACHE, CONFIG, MARKER, Laid, read_marker, unlay
from modelium.errors import DropRejected, FailureKind, LoadFailed, NeedsApproval
from modelium.models import ModelFormat
from modelium.ports import LoadRequest
from runtimes.triton import model_config
from runtimes.triton.entry import (
    VERSION,
    Entry,
    check_versions,
    config_of,
    main_file,
    source_of,
)


class SharedRepository:
    """`runtimes.triton.entry.Repository` in the folder of the published models."""

    def __init__(self, *, root: Path) -> None:
        """``root``: Modelium's model repository."""
        self.root = root

    def add(self, request: LoadRequest) -> Entry:
        """See `Repository.add`; the drop's own files are neither changed nor moved."""
        source = source_of(request)
        if source.name != request.model:
            raise LoadFailed(
                f"{source} is not called {request.model}, and Triton names a model after its "
                "folder: drop the model again",
                kind=FailureKind.BAD_FILES,
            )
        try:
            unlay(source)
            if request.profile.format == ModelFormat.TRITON:
                config = self._serve_entry(request, source)
            else:
                config = None
                self._lay(request, source)
        except OSError as exc:
            with suppress(OSError):  # what stays is marked, and goes with the next try
                unlay(source)
            raise LoadFailed(
                f"cannot lay what Triton needs into {source}: {exc.strerror}; give "
                "triton.model_repository a folder of its own",
                kind=FailureKind.ENVIRONMENT,
            ) from exc
        return Entry(name=source.name, path=source, config=config)

    def remove(self, name: str) -> None:
        """See `Repository.remove`; the drop's own files stay."""
        unlay(self.root / name)

    def clear(self) -> None:
        """See `Repository.clear`."""
        for marker in list(self.root.glob(f"*/{MARKER}")):
            self.remove(marker.parent.name)

    def version(self, name: str) -> int | None:
        """See `Repository.version`."""
        laid = read_marker(self.root / name)
        return laid.version if laid else None

    def _serve_entry(self, request: LoadRequest, source: Path) -> str | None:
        """Check a drop in Triton's own form; return the configuration that its own lacks."""
        check_versions(request, source)
        listed = _listed(source)
        ensemble = request.profile.architecture == "ensemble"
        if ensemble and not request.allow_remote_code:
            self._check_steps(request.model, source)
        folder = "1" if ensemble and not (source / "1").exists() else ""
        caches = not any(f"/{CACHE}/" in file.name for file in listed)
        Laid(version=request.version, folder=folder, caches=caches).write(source)
        if folder:
            (source / folder).mkdir()
        return model_config.override(
            _text(source / CONFIG), name=source.name, device=request.devices[0]
        )

    def _check_steps(self, model: str, source: Path) -> None:
        """Raise `NeedsApproval` where a step has code: Triton loads the steps with the ensemble.

        Their folders may hold anything: what Modelium refuses stays in the repository.
        """
        present = frozenset(os.listdir(self.root))
        seen: set[str] = set()
        pending = model_config.steps(_text(source / CONFIG))
        while pending:
            name = pending.pop()
            if name in seen or name not in present:  # Triton reports what is not there
                continue
            seen.add(name)
            text = _text(self.root / name / CONFIG)
            if model_config.runs_code(text) or _holds_code(self.root / name):
                raise NeedsApproval(
                    f"the step {name} of {model} contains code that Triton would run: if you "
                    f"trust it, set models.{model}.approvals to [remote-code], and drop {model} "
                    "again"
                )
            pending += model_config.steps(text)

    def _lay(self, request: LoadRequest, source: Path) -> None:
        file = main_file(request, source)
        beside = file.parent.relative_to(source).as_posix()
        if VERSION.fullmatch(beside):  # the drop has a version folder, and no configuration
            folder, version = "", int(beside)
        else:
            version = request.version
            while os.path.lexists(source / str(version)):
                version += 1
            folder = str(version)
        text = config_of(request, file, name=source.name, version=version)
        if os.path.lexists(source / CONFIG):
            raise LoadFailed(
                f"{source / CONFIG} appeared after the model was analyzed: drop the model again "
                "with it, or remove it",
                kind=FailureKind.BAD_FILES,
            )
        names = list(_beside(file, source)) if folder else []
        laid = Laid(
            version=request.version,
            config=True,
            folder=folder,
            source="" if beside == "." else beside,
        )
        laid.write(source)
        for name in names:
            _link(file.parent / name, source / folder / name)
        with (source / CONFIG).open("x") as written:  # not through a link that was put there
            written.write(text)


def _text(config: Path) -> str:
    return config.read_text(errors="replace") if config.is_file() else ""


def _holds_code(folder: Path) -> bool:
    return any(is_code(file) for _at, _folders, files in os.walk(folder) for file in files)


def _beside(file: Path, source: Path) -> Iterator[str]:
    """Yield the names of the files in ``file``'s folder: a graph refers to external weights."""
    prefix = "" if file.parent == source else f"{file.parent.relative_to(source).as_posix()}/"
    for entry in _listed(source):
        if entry.name.startswith(prefix):
            yield entry.name.removeprefix(prefix)


def _listed(source: Path) -> Sequence[FileEntry]:
    """Return the files of ``source``; no link leaves it, as Triton would follow it there."""
    try:
        return Folder(source).files
    except DropRejected as exc:
        raise LoadFailed(str(exc), kind=FailureKind.BAD_FILES) from exc


def _link(file: Path, target: Path) -> None:
    """Link ``file`` at ``target``: a hard link, else a relative symbolic one inside the folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    original = file.resolve()
    try:
        os.link(original, target)
    except OSError:  # a file system without hard links, or a file of another user
        relative = os.path.relpath(original, target.parent.resolve())
        os.symlink(relative, target)
