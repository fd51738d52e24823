"""Where Modelium's folders are unless the configuration says so."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SHARED = Path("/models")
"""Used where it is: the usual mount point of a volume that runtimes share."""

SHARED_OR_OWN = "/models/{0} where /models is writable, else ~/.local/share/modelium/models/{0}"
"""`default_root` in words, for the reference."""


def default_root(shared: Path = SHARED, *, environ: Mapping[str, str] | None = None) -> Path:
    """Return ``shared`` where it is a folder that this user can write to, else the user's own.

    The user's own is below ``$XDG_DATA_HOME``, by default ``~/.local/share``.
    """
    if shared.is_dir() and os.access(shared, os.W_OK | os.X_OK):
        return shared
    environ = os.environ if environ is None else environ
    data = Path(environ.get("XDG_DATA_HOME") or "")
    if not data.is_absolute():  # the XDG specification has such values ignored
        home = environ.get("HOME") or os.path.expanduser("~")
        data = Path(home).absolute() / ".local" / "share"
    return data / "modelium" / "models"
