"""YAML that is plain data and has no duplicate keys (no I/O here)."""

from __future__ import annotations

from typing import Any

import yaml

_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"


def parse(text: str) -> Any:
    """Return the data in ``text``: mappings, lists, strings, numbers, booleans, null.

    Raises:
        yaml.YAMLError: ``text`` is not YAML, or a mapping has a duplicate key, of which PyYAML
            alone would silently keep the last.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except ValueError as exc:  # such as 0b_, which matches PyYAML's pattern of integers
        raise yaml.YAMLError(str(exc)) from exc


class _Loader(yaml.SafeLoader):
    # No field takes a date: 2026-01-01 stays a string, and 2026-99-99 is not an error.
    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML reads a class attribute
        first: [(tag, pattern) for tag, pattern in known if tag != _TIMESTAMP]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == _MERGE:
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise _error(key, "keys must be plain scalars")
            if key.value in seen:
                raise _error(key, f"duplicate key {key.value}")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _error(node: yaml.Node, text: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)
