"""``MODELIUM_SECTION__FIELD`` environment variables over the file's values (no I/O here)."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from typing import Any, get_origin

import yaml
from pydantic.fields import FieldInfo

from modelium.config.fields import (
    FieldPath,
    allowed,
    entries,
    find,
    item_type,
    takes_nothing,
    takes_text,
)
from modelium.config.schema import Config
from modelium.config.yaml import parse

PREFIX = "MODELIUM_"
RESERVED = {
    "MODELIUM_CONFIG": "the configuration file, where --config names none",
    "MODELIUM_URL": "the address of the service that commands talk to, on another machine",
    "MODELIUM_BRAIN_API_KEY": "the key of the brain's endpoint (see brain.api_key_env)",
}
"""Variables of our prefix that are no fields. The variable that ``brain.api_key_env`` names
is one of them, too."""


def variable(path: FieldPath) -> str:
    """Name of the environment variable that overrides the field at ``path``."""
    return PREFIX + "__".join(path).upper()


def apply(
    environ: Mapping[str, str], raw: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[FieldPath, str], list[str]]:
    """Lay the variables over ``raw``: the new data, path → variable, one line per problem.

    Sections and fields are matched in any case; keys of a mapping such as ``models`` are taken
    as they are written.
    """
    data: dict[str, Any] = copy.deepcopy(dict(raw))
    used: dict[FieldPath, str] = {}
    unknown: list[str] = []
    problems: list[str] = []
    # Shorter names first: a whole mapping, then single keys of it.
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in RESERVED:
            continue
        path = _path(name)
        info = find(Config, path)
        if not isinstance(info, FieldInfo):
            unknown.append(name)
            continue
        try:
            value = _value(environ[name], _type(info, path))
        except yaml.YAMLError:
            problems.append(
                f"{name}: {'.'.join(path)}: not YAML; allowed: {allowed(info)}, as YAML"
            )
            continue
        if _put(data, path, value):
            used[path] = name
    key = _text(data, ("brain", "api_key_env"))
    return data, used, [*problems, *(_unknown(name) for name in unknown if name != key)]


def _path(name: str) -> FieldPath:
    """Where a variable's name points, names of fields in lower case, keys as they are."""
    path: list[str] = []
    for part in name.removeprefix(PREFIX).split("__"):
        known = find(Config, (*path, part.lower()))
        inside = find(Config, tuple(path)) if path else None
        is_key = isinstance(inside, FieldInfo) and get_origin(inside.annotation) is dict
        path.append(part if is_key or known is None else part.lower())
    return tuple(path)


def _type(info: FieldInfo, path: FieldPath) -> Any:
    """The type at ``path``: the field's, or that of one value where it is a mapping's key."""
    return item_type(info) if isinstance(find(Config, path[:-1]), FieldInfo) else info.annotation


def _value(text: str, annotation: Any) -> Any:
    if takes_text(annotation):
        # As it stands: YAML would read a token such as 0123 or 1e5 as a number.
        return None if text in ("", "null", "~") and takes_nothing(annotation) else text
    return parse(text)


def _put(data: dict[str, Any], path: FieldPath, value: Any) -> bool:
    here = data
    for name in path[:-1]:
        inner = here.get(name)
        if inner is None:
            inner = here[name] = {}
        if not isinstance(inner, dict):
            return False  # wrong in the file already: the check of the file says so
        here = inner
    here[path[-1]] = value
    return True


def _text(data: Any, path: FieldPath) -> str | None:
    for name in path:
        data = data.get(name) if isinstance(data, dict) else None
    return data if isinstance(data, str) else None


def _unknown(name: str) -> str:
    known = [*(variable(entry.path) for entry in entries(Config)), *RESERVED]
    # The prefix, common to all, would make everything look alike.
    bare = [text.removeprefix(PREFIX) for text in known]
    near = difflib.get_close_matches(name.removeprefix(PREFIX).upper(), bare, n=1)
    if not near:
        return f"{name}: unknown variable; docs/configuration.md lists the fields"
    return f"{name}: unknown variable; did you mean {PREFIX}{near[0]}?"
