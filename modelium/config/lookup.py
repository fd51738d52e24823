"""Find fields of the configuration by path, in the file's JSON Schema (no I/O here).

pydantic writes the JSON Schema from the section models; everything that is said about a field to
people is read from it. `modelium.config.fields` documents the ``x-`` keywords.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from modelium.config.fields import FieldPath
from modelium.config.schema import Config
from modelium.config.wording import alternatives, mapping_values, words

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One field of the file that holds a value."""

    path: FieldPath
    schema: Schema

    @property
    def dotted(self) -> str:
        """Its path as users write it."""
        return ".".join(self.path)

    @property
    def description(self) -> str:
        """What it means, and the reason for its default."""
        return str(self.schema["description"])

    @property
    def allowed(self) -> str:
        """Its accepted values in words."""
        return words(self.schema)

    @property
    def unit(self) -> str:
        """Unit of its number, or an empty string."""
        units = (part["x-unit"] for part in _parts(self.schema) if "x-unit" in part)
        return next(units, "")

    @property
    def secret(self) -> bool:
        """Whether its value must never be printed."""
        return is_secret(self.schema)

    @property
    def default(self) -> Any:
        """Its default as plain data; ``None`` if the default depends on the machine."""
        return self.schema.get("default")

    @property
    def default_note(self) -> str:
        """Its default in words, if that depends on the machine."""
        return str(self.schema.get("x-default", ""))


@cache
def document() -> Schema:
    """Return the JSON Schema of the file, each ``$ref`` replaced by its definition."""
    schema = Config.model_json_schema()
    inlined = _inline(schema, schema["$defs"])
    assert isinstance(inlined, dict)  # noqa: S101 - a schema's type, for mypy
    return inlined


def find(path: FieldPath) -> Schema | None:
    """Return the schema at ``path``, or ``None`` if there is no such field.

    Any key of a mapping exists; its schema is that of the mapping's values.
    """
    here: Schema | None = document()
    for name in path:
        here = child(here, name) if here is not None else None
    return here


def child(schema: Schema, name: str) -> Schema | None:
    """Return the schema of the field or key ``name`` below ``schema``."""
    if is_section(schema):
        found: Schema | None = schema["properties"].get(name)
        return found
    return mapping_values(schema)


def list_items(schema: Schema) -> Schema | None:
    """Return the schema of a list's items."""
    return next((part["items"] for part in alternatives(schema) if "items" in part), None)


def is_section(schema: Schema) -> bool:
    """Whether ``schema`` is a section, with fields of its own."""
    return "properties" in schema


def is_secret(schema: Schema) -> bool:
    """Whether values of ``schema`` must never be printed."""
    return any(part.get("writeOnly", False) for part in _parts(schema))


def is_text(schema: Schema) -> bool:
    """Whether values are strings, or null, and nothing else."""
    return all(part.get("type") in ("string", "null") for part in alternatives(schema))


def is_nullable(schema: Schema) -> bool:
    """Whether a value may be null."""
    return any(part.get("type") == "null" for part in alternatives(schema))


def entries(schema: Schema | None = None, path: FieldPath = ()) -> Iterator[Entry]:
    """Yield all fields below ``schema`` (the whole file by default), in the file's order."""
    schema = document() if schema is None else schema
    for name, inner in schema["properties"].items():
        if is_section(inner):
            yield from entries(inner, (*path, name))
        else:
            yield Entry(path=(*path, name), schema=inner)


def own_entries(schema: Schema) -> Iterator[Entry]:
    """Yield the fields of the section ``schema`` itself, without those of inner sections."""
    for name, inner in schema["properties"].items():
        if not is_section(inner):
            yield Entry(path=(name,), schema=inner)


def _parts(schema: Schema) -> list[Schema]:
    return [schema, *alternatives(schema)]


def _inline(node: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if reference := node.get("$ref"):
        node = definitions[reference.rpartition("/")[2]] | node
    return {
        name: _inline(item, definitions)
        for name, item in node.items()
        if name not in ("$ref", "$defs")
    }
