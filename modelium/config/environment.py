"""Apply ``MODELIUM_SECTION__FIELD`` environment variables to the file's data (no I/O here)."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from typing import Any

import yaml

from modelium.config.fields import FieldPath
from modelium.config.lookup import Schema, entries, find, is_nullable, is_section, is_text
from modelium.config.strict_yaml import parse
from modelium.config.wording import mapping_values, words

PREFIX = "MODELIUM_"
RESERVED = {
    "MODELIUM_CONFIG": "path of the configuration file, used without --config",
    "MODELIUM_URL": "address of the Modelium service that commands connect to",
    "MODELIUM_BRAIN_API_KEY": "API key of the brain's LLM (see brain.api_key_env)",
}
"""Variables with the prefix that are not fields. The variable that ``brain.api_key_env`` names is
reserved, too."""

SHORT: Mapping[str, FieldPath] = {"MODELIUM_JOIN_TOKEN": ("orchestration", "join_token")}
"""Shorter names of fields that are set once, when a machine is installed."""


def variable(path: FieldPath) -> str:
    """Return the name of the environment variable that overrides the field at ``path``."""
    return PREFIX + "__".join(path).upper()


def apply(
    environ: Mapping[str, str], raw: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[FieldPath, str], list[str]]:
    """Override ``raw`` with the variables in ``environ``.

    Section and field names match in any case; keys of a mapping such as ``models`` are
    case-sensitive.

    Returns:
        The new data, the variable that set each path, and one line per problem.
    """
    data: dict[str, Any] = copy.deepcopy(dict(raw))
    used: dict[FieldPath, str] = {}
    unknown: list[str] = []
    problems: list[str] = []
    # In sorted order, a variable for a whole mapping precedes those for single keys of it.
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in RESERVED:
            continue
        path = SHORT.get(name) or _path(name)
        schema = find(path)
        if schema is None or is_section(schema):
            unknown.append(name)
            continue
        try:
            value = _value(environ[name], schema)
        except yaml.YAMLError:
            allowed = words(schema)
            problems.append(f"{name}: {'.'.join(path)}: not YAML; allowed: {allowed}, as YAML")
            continue
        if _put(data, path, value):
            used[path] = name
    key = _string(data, ("brain", "api_key_env"))
    return data, used, [*problems, *(_unknown(name) for name in unknown if name != key)]


def _path(name: str) -> FieldPath:
    """Return the path that a variable names: fields in lower case, keys of mappings unchanged."""
    path: list[str] = []
    for part in name.removeprefix(PREFIX).split("__"):
        above = find(tuple(path))
        is_key = above is not None and mapping_values(above) is not None
        is_field = not is_key and find((*path, part.lower())) is not None
        path.append(part.lower() if is_field else part)
    return tuple(path)


def _value(text: str, schema: Schema) -> Any:
    if is_text(schema):
        # Verbatim: YAML would turn a token such as 0123 or 1e5 into a number.
        return None if text in ("", "null", "~") and is_nullable(schema) else text
    return parse(text)


def _put(data: dict[str, Any], path: FieldPath, value: Any) -> bool:
    here = data
    for name in path[:-1]:
        inner = here.get(name)
        if inner is None:
            inner = here[name] = {}
        if not isinstance(inner, dict):
            return False  # already wrong in the file, which validation reports
        here = inner
    here[path[-1]] = value
    return True


def _string(data: Any, path: FieldPath) -> str | None:
    for name in path:
        data = data.get(name) if isinstance(data, dict) else None
    return data if isinstance(data, str) else None


def _unknown(name: str) -> str:
    known = [*(variable(entry.path) for entry in entries()), *SHORT, *RESERVED]
    # Without the prefix, which would make all names similar.
    bare = [text.removeprefix(PREFIX) for text in known]
    near = difflib.get_close_matches(name.removeprefix(PREFIX).upper(), bare, n=1)
    if not near:
        return f"{name}: unknown variable; docs/configuration.md lists all fields"
    return f"{name}: unknown variable; did you mean {PREFIX}{near[0]}?"
