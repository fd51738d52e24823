"""Wrong fields of the configuration, in one line each: where, what was given, what is allowed.

No I/O here. Values that may be secret are never repeated.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from modelium.config.conflicts import Conflicts
from modelium.config.fields import (
    FieldPath,
    Section,
    allowed,
    allowed_item,
    allowed_key,
    entries,
    find,
    hidden,
    item_section_of,
    section_of,
)
from modelium.config.schema import Config

SHOWN_CHARACTERS = 60
_CREDENTIALS = re.compile(r"(^|//)[^/@\s]+@")


def explain(
    error: ValidationError,
    *,
    data: Mapping[str, Any],
    file: str,
    variables: Mapping[FieldPath, str],
) -> list[str]:
    """One line per wrong field of ``data``, in the order of the file, without repetitions."""
    lines: dict[FieldPath, str] = {}
    for detail in error.errors(include_url=False):
        for path, text in _problems(detail, data):
            lines.setdefault(path, f"{_source(path, file, variables)}: {'.'.join(path)}: {text}")
    return list(lines.values())


def mask(text: str) -> str:
    """``text`` without the user and password of an address in it."""
    return _CREDENTIALS.sub(r"\1***@", text)


def _source(path: FieldPath, file: str, variables: Mapping[FieldPath, str]) -> str:
    for length in range(len(path), 0, -1):
        if path[:length] in variables:
            return variables[path[:length]]
    return file


def _problems(detail: ErrorDetails, data: Mapping[str, Any]) -> list[tuple[FieldPath, str]]:
    conflict = detail.get("ctx", {}).get("error")
    if isinstance(conflict, Conflicts):
        return list(conflict.problems)
    loc = detail["loc"]
    path, value = _walk(loc, data)
    if detail["type"] == "extra_forbidden":
        return [(path, _unknown_key(path))]
    if "[key]" in loc:
        holder = find(Config, path[:-1])
        words = allowed_key(holder) if isinstance(holder, FieldInfo) else "text"
        return [(path, f"this key is not allowed; allowed: {words}")]
    return [(path, f"{_given(path, value)}; allowed: {_allowed(path)}")]


def _walk(loc: tuple[int | str, ...], data: Any) -> tuple[FieldPath, Any]:
    """The part of ``loc`` that exists in ``data``: the rest names branches of a union."""
    path: list[str] = []
    for part in loc:
        if isinstance(data, Mapping):
            # YAML has keys that are no text; their place names them as they were.
            if part not in data:
                break
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            break
        path.append(str(part))
    return tuple(path), data


def _field(path: FieldPath) -> FieldInfo | type[Section] | None:
    """What stands at ``path`` or, for an item of a list, what holds it."""
    found = find(Config, path)
    return found if found is not None or not path else _field(path[:-1])


def _given(path: FieldPath, value: Any) -> str:
    what = _field(path)
    if isinstance(value, Mapping):
        return "got a mapping"
    if isinstance(value, (list, tuple)):
        return "got a list"
    # Text in the place of a whole section may be anything, a secret too.
    secret = hidden(what) if isinstance(what, FieldInfo) else isinstance(value, str)
    return "got a value (hidden)" if secret else f"got {_show(value)}"


def _show(value: Any) -> str:
    text = mask(value) if isinstance(value, str) else value
    shown = json.dumps(text, ensure_ascii=False, default=str)
    return shown if len(shown) <= SHOWN_CHARACTERS else shown[: SHOWN_CHARACTERS - 1] + "…"


def _allowed(path: FieldPath) -> str:
    what = find(Config, path)
    if isinstance(what, FieldInfo):
        holder = find(Config, path[:-1])
        return allowed_item(what) if isinstance(holder, FieldInfo) else allowed(what)
    if what is not None:
        return "a mapping with the fields " + ", ".join(what.model_fields)
    above = _field(path)
    return allowed_item(above) if isinstance(above, FieldInfo) else "nothing"


def _unknown_key(path: FieldPath) -> str:
    *parents, key = path
    siblings: list[str] = []
    holder = find(Config, tuple(parents))
    if isinstance(holder, type):
        siblings = list(holder.model_fields)
    if near := difflib.get_close_matches(key, siblings, n=1):
        return f"unknown key; did you mean {near[0]}?"
    elsewhere = [dotted for dotted in _all_paths() if dotted.rpartition(".")[2] == key]
    if elsewhere:
        return f"unknown key here; did you mean {' or '.join(elsewhere[:3])}?"
    return f"unknown key; allowed: {', '.join(siblings)}"


def _all_paths() -> list[str]:
    paths = [entry.dotted for entry in entries(Config)]
    for name, info in Config.model_fields.items():
        if section_of(info) is not None:
            paths.append(name)
        elif (item := item_section_of(info)) is not None:
            paths.extend(f"{name}.<name>.{inner}" for inner in item.model_fields)
    return paths
