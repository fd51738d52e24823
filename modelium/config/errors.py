"""Error messages for invalid fields, one line each: source, path, value, what is allowed.

Values that may be secret are never printed. No I/O here.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from modelium.config.conflicts import Conflicts
from modelium.config.fields import FieldPath, Refused
from modelium.config.lookup import (
    Schema,
    document,
    entries,
    find,
    is_secret,
    is_section,
    list_items,
)
from modelium.config.wording import key_words, mapping_values, words

SHOWN_CHARACTERS = 60
_CREDENTIALS = re.compile(r"(^|//)[^/@\s]+@")


def explain(
    error: ValidationError,
    *,
    data: Mapping[str, Any],
    file: str,
    variables: Mapping[FieldPath, str],
) -> list[str]:
    """Return one line per invalid field of ``data``, in the file's order.

    Args:
        error: from validating ``data``.
        data: what was validated.
        file: how to name the source of values that no variable set.
        variables: field path → name of the environment variable that set it.
    """
    lines: dict[FieldPath, str] = {}
    for detail in error.errors(include_url=False):
        for path, text in _problems(detail, data):
            lines.setdefault(path, f"{_source(path, file, variables)}: {'.'.join(path)}: {text}")
    return list(lines.values())


def mask(text: str) -> str:
    """Return ``text`` with user and password of any URL in it replaced by asterisks."""
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
    if isinstance(conflict, Refused):
        return [(path, str(conflict))]
    if detail["type"] == "extra_forbidden":
        return [(path, _unknown_key(path))]
    if "[key]" in loc:
        allowed = key_words(find(path[:-1]) or {})
        return [(path, f"invalid key; allowed: {allowed}")]
    return [(path, f"{_given(path, value)}; allowed: {_allowed(path)}")]


def _walk(loc: tuple[int | str, ...], data: Any) -> tuple[FieldPath, Any]:
    """Follow ``loc`` into ``data``, up to the parts that name branches of a union."""
    path: list[str] = []
    for part in loc:
        if isinstance(data, Mapping):
            # YAML keys may be numbers; ``loc`` has them as they are.
            if part not in data:
                break
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            break
        path.append(str(part))
    return tuple(path), data


def _nearest(path: FieldPath) -> Schema:
    """Return the schema at ``path`` or, if there is none, that of the nearest field above."""
    found = find(path)
    return found if found is not None else _nearest(path[:-1])


def _given(path: FieldPath, value: Any) -> str:
    if isinstance(value, Mapping):
        return "got a mapping"
    if isinstance(value, (list, tuple)):
        return "got a list"
    secret = any(is_secret(_nearest(path[:length])) for length in range(len(path) + 1))
    # A string in place of a whole section may be anything, including a secret.
    secret |= is_section(_nearest(path)) and isinstance(value, str)
    return "got a value (hidden)" if secret else f"got {_show(value)}"


def _show(value: Any) -> str:
    text = mask(value) if isinstance(value, str) else value
    shown = json.dumps(text, ensure_ascii=False, default=str)
    return shown if len(shown) <= SHOWN_CHARACTERS else shown[: SHOWN_CHARACTERS - 1] + "…"


def _allowed(path: FieldPath) -> str:
    schema = find(path)
    if schema is None:
        above = _nearest(path)
        schema = list_items(above) or above
    return f"a mapping with the {words(schema)}" if is_section(schema) else words(schema)


def _unknown_key(path: FieldPath) -> str:
    *parents, key = path
    siblings = list((find(tuple(parents)) or {}).get("properties", ()))
    if near := difflib.get_close_matches(key, siblings, n=1):
        return f"unknown key; did you mean {near[0]}?"
    elsewhere = [dotted for dotted in _all_paths() if dotted.rpartition(".")[2] == key]
    if elsewhere:
        return f"unknown key here; did you mean {' or '.join(elsewhere[:3])}?"
    return f"unknown key; allowed: {', '.join(siblings)}"


def _all_paths() -> list[str]:
    paths = [entry.dotted for entry in entries()]
    for name, schema in document()["properties"].items():
        if is_section(schema):
            paths.append(name)
        elif (item := mapping_values(schema)) is not None and is_section(item):
            paths.extend(f"{name}.<name>.{inner}" for inner in item["properties"])
    return paths
