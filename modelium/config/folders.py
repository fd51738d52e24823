"""Whether the configured folders can be made and written to, and what to do where not.

The one module of this package that touches the disk beyond reading the file.
"""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from modelium import private
from modelium.config.schema import Config
from modelium.errors import ConfigError

PROBE_BYTES = 4096
"""Written and deleted again: a full file system still makes empty files."""
STATE = "orchestration.state_directory"
PRIVATE = frozenset({STATE, "store.url"})
"""Fields of folders that are made for this user alone: the store has the keys of the engines, and
engines run the kernels that they find in their caches."""


def folders(config: Config) -> dict[str, Path]:
    """Return field → folder of all that Modelium writes to."""
    orchestration = config.orchestration
    return {
        "orchestration.model_repository": orchestration.model_repository,
        "orchestration.incoming_directory": orchestration.incoming_directory,
        "orchestration.rejected_directory": orchestration.rejected,
        "orchestration.state_directory": orchestration.state,
    }


def problems(config: Config) -> Iterator[str]:
    """Yield a sentence for each folder that `make` would fail for; nothing is left on the disk."""
    for field, folder in folders(config).items():
        if problem := find_problem(field, folder):
            yield problem


def find_problem(field: str, folder: Path) -> str | None:
    """Return why ``folder`` cannot be used and what to do; ``None``: it can, or can be made."""
    place = _existing(folder)
    try:
        if place == folder:
            _write(folder)
        else:
            os.rmdir(tempfile.mkdtemp(prefix=".modelium-", dir=place))
    except OSError as exc:
        return _sentence(field, folder, place, exc)
    return None


def free_bytes(folder: Path) -> int:
    """Return the free space where ``folder`` is, or would be made."""
    return shutil.disk_usage(_existing(folder)).free


def make(field: str, folder: Path) -> None:
    """Make ``folder`` where it is missing, and make sure that it can be written to.

    Raises:
        ConfigError: it cannot; one line with the field, the folder and what to do.
    """
    place = _existing(folder)
    try:
        if place != folder:
            mode = 0o700 if field in PRIVATE else 0o777
            folder.mkdir(parents=True, exist_ok=True, mode=mode)
        _write(folder)
    except OSError as exc:
        raise ConfigError(_sentence(field, folder, place, exc)) from exc


def close_to_others(config: Config) -> None:
    """Take other users' access to the state directory and to the files in it away.

    A directory that others reach the drop zone or the repository through stays open itself.
    """
    state = config.orchestration.state
    inside = any(
        folder.is_relative_to(state) for field, folder in folders(config).items() if field != STATE
    )
    for path in state.iterdir():
        if path.is_file():
            private.tighten(path)
    if not inside:
        private.tighten(state)


def open_to_others(config: Config) -> str | None:
    """Return how other users get at the state directory, and what to do; ``None``: they cannot."""
    folder = config.orchestration.state
    return "; ".join(private.doors(folder)) or None if folder.exists() else None


def _existing(folder: Path) -> Path:
    """Return ``folder``, or its nearest parent that exists."""
    while not os.path.lexists(folder):
        folder = folder.parent
    return folder


def _write(folder: Path) -> None:
    with tempfile.TemporaryFile(prefix=".modelium-", dir=folder) as file:
        file.write(bytes(PROBE_BYTES))
        file.flush()


def _sentence(field: str, folder: Path, place: Path, exc: OSError) -> str:
    other = f"set {field} to another folder"
    match exc.errno:
        case errno.EACCES | errno.EPERM:
            advice = f"let the user {_user()} write to {place}, or {other}"
        case errno.EROFS:
            advice = f"mount the file system of {place} writable, or {other}"
        case errno.ENOTDIR | errno.EEXIST:
            advice = f"{place} is not a folder: move it away, or {other}"
        case errno.ENOSPC | errno.EDQUOT:
            advice = f"free space on the file system of {place}, or {other}"
        case _:
            advice = other
    verb = "write to" if place == folder else "make"
    return f"{field}: cannot {verb} {folder} ({exc.strerror or exc}); {advice}"


def _user() -> str:
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
