"""The accepted values of a field in words, from its JSON Schema (no I/O here)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_TYPES = {
    "string": "string",
    "boolean": "true or false",
    "integer": "integer",
    "number": "number",
    "null": "null",
}
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤"}


def words(schema: Mapping[str, Any]) -> str:
    """Return the values that ``schema`` accepts, in words."""
    if "x-allowed" in schema:
        return str(schema["x-allowed"])
    if "anyOf" in schema:
        accepted = list(dict.fromkeys(words(part) for part in schema["anyOf"]))
        if "number" in accepted and "integer" in accepted:
            accepted.remove("integer")
        return " or ".join(accepted)
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"])
    if "properties" in schema:
        return "fields " + ", ".join(schema["properties"])
    if (values := mapping_values(schema)) is not None:
        return f"mapping of {key_words(schema)} to {words(values)}"
    if "items" in schema:
        return f"list of {words(schema['items'])}"
    bounds = [f"{sign} {schema[name]:g}" for name, sign in _BOUNDS.items() if name in schema]
    return " ".join(
        [_TYPES.get(schema.get("type", ""), "value"), *([" and ".join(bounds)] if bounds else [])]
    )


def key_words(schema: Mapping[str, Any]) -> str:
    """Return the keys that the mapping ``schema`` accepts, in words."""
    return words({"type": "string", **schema.get("propertyNames", {})})


def mapping_values(schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the schema of a mapping's values, or ``None`` if ``schema`` is not a mapping."""
    if "properties" in schema:
        return None
    candidates = (*schema.get("patternProperties", {}).values(), schema.get("additionalProperties"))
    return next((inner for inner in candidates if isinstance(inner, Mapping)), None)


def alternatives(schema: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the branches of a union, or ``schema`` itself."""
    branches: Sequence[Mapping[str, Any]] = schema.get("anyOf", [schema])
    return branches
