"""Names: of models, of their versions in the repository, and of what is no model."""

from __future__ import annotations

import re
from pathlib import Path

from modelium.analysis.readers.folder import shown
from modelium.errors import DropRejected
from modelium.intake.origin import ORIGIN
from modelium.intake.trash import NOTE
from modelium.models import MODEL_NAME

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
"""Endings of files that are unpacked; other files are models themselves."""
REASON = "reason.json"
"""Beside a rejected drop: the error, and the options that the drop came with."""
RESERVED = frozenset({ORIGIN, REASON, NOTE})
"""No models' names: a model's folder lies beside the file of that name."""
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


def version_of(path: Path) -> tuple[str, int] | None:
    """Return name and version that an entry of the repository stands for; ``None``: no model."""
    name, at, number = path.name.partition("@")
    if not is_name(name) or (at and not _VERSION.fullmatch(number)):
        return None
    return name, int(number or 1)


def check_name(name: str) -> None:
    """Raise `DropRejected` where no model can have ``name``."""
    if not is_name(name):
        raise DropRejected(refused_name(name), reason="name")


def refused_name(name: str) -> str:
    """Return why no model can have ``name``."""
    return (
        f"{shown(name)!r} is not a valid model name: use up to 128 letters, digits, '.', '_' and "
        f"'-', starting with a letter or digit, and none of {', '.join(sorted(RESERVED))}"
    )


def is_name(name: str) -> bool:
    """Whether a model can have ``name``."""
    return re.fullmatch(MODEL_NAME, name) is not None and name not in RESERVED


def model_name(path: Path) -> str:
    """Return the model name that a drop's own name stands for: a file's ending is left out."""
    if not path.is_file():
        return path.name
    for ending in (*ARCHIVES, path.suffix):
        if ending and path.name.endswith(ending):
            return path.name[: -len(ending)]
    return path.name


def with_ending(name: str, drop: Path) -> str:
    """Return ``name`` with the ending of a file, so that `model_name` of it is ``name``."""
    return name if drop.is_dir() else name + drop.name.removeprefix(model_name(drop))
