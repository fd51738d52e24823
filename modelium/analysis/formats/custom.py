"""Custom applications: the drop's own code for Ray Serve, which ``serve.yaml`` names."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from modelium.analysis.catalog import EngineCatalog, assess
from modelium.analysis.describe import card_of
from modelium.analysis.readers.code_references import SERVE_FILE
from modelium.analysis.readers.folder import Folder, shown
from modelium.errors import DropRejected
from modelium.models import GIB, ModelFormat, ModelProfile, Task

MAX_BYTES = 64 * 1024
KEYS = frozenset({"import_path", "args", "memory_gib"})
MAX_GIB = 65_536
MAX_DEPTH = 32
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def profile_custom(folder: Folder, engines: EngineCatalog) -> ModelProfile:
    """Return the profile of a custom application; raises `DropRejected`. Nothing of it runs."""
    config = _read(folder)
    if unknown := sorted(str(key) for key in config.keys() - KEYS):
        known = ", ".join(sorted(KEYS))
        raise _bad(f"has unknown keys ({shown(', '.join(unknown))}); known: {known}")
    import_path = config.get("import_path")
    if not isinstance(import_path, str) or not _IMPORT_PATH.fullmatch(import_path):
        raise _bad("needs import_path: module:name, of an application or a function building one")
    args = config.get("args") or {}
    if not isinstance(args, dict) or not all(isinstance(key, str) for key in args):
        raise _bad("has args that are not a mapping of names to values")
    try:
        json.dumps(args, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise _bad(f"has args that JSON cannot hold ({shown(str(exc))})") from exc
    memory = config.get("memory_gib")
    if memory is not None and (type(memory) not in (int, float) or not 0 < memory <= MAX_GIB):
        raise _bad("has a memory_gib that is not a number above 0")
    license_id, card = card_of(folder)
    return ModelProfile(
        format=ModelFormat.CUSTOM,
        architecture=import_path,
        task=Task.GENERIC,
        weight_bytes=sum(file.size for file in folder.files),
        files={"config": SERVE_FILE},
        needs_remote_code=True,
        runtimes=assess(
            format=ModelFormat.CUSTOM,
            task=Task.GENERIC,
            architecture=import_path,
            engines=engines,
        ),
        license=license_id,
        card=card,
        details={
            "import_path": import_path,
            "args": args,
            "memory_bytes": None if memory is None else int(memory * GIB),
        },
    )


def _read(folder: Folder) -> dict[str, Any]:
    data = folder.read(SERVE_FILE, limit=MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise _bad(f"is larger than {MAX_BYTES} bytes")
    try:
        _check_cost(data)
        found = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as exc:
        raise _bad(f"is not valid YAML ({shown(str(exc), limit=200)})") from exc
    if not isinstance(found, dict):
        raise _bad("is not a mapping")
    return found


def _check_cost(data: bytes) -> None:
    """Refuse what costs far more to load than its size suggests."""
    depth = 0
    for event in yaml.parse(data, yaml.SafeLoader):  # reads no further than it is asked
        if isinstance(event, yaml.AliasEvent):
            raise _bad("has aliases (*name), which may stand for any number of values")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _bad(f"is nested more than {MAX_DEPTH} levels deep")


def _bad(what: str) -> DropRejected:
    return DropRejected(f"{SERVE_FILE} {what}. Correct it.", reason="bad-serve-yaml")
