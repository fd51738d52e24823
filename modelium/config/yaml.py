"""YAML as the configuration reads it: plain data, and no key twice (no I/O here)."""

from __future__ import annotations

from typing import Any

import yaml

_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"


def parse(text: str) -> Any:
    """The data of ``text``: mappings, lists, text, numbers, true, false, null.

    Raises:
        yaml.YAMLError: it is no YAML, or gives a key twice, where YAML would drop the first.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except ValueError as exc:  # a number such as 0b_, which PyYAML matches but cannot convert
        raise yaml.YAMLError(str(exc)) from exc


class _Loader(yaml.SafeLoader):
    # No field takes a date: 2026-01-01 is text, and 2026-99-99 no crash.
    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own way
        first: [(tag, pattern) for tag, pattern in known if tag != _TIMESTAMP]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == _MERGE:
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise _wrong(key, "a key has to be plain text")
            if key.value in seen:
                raise _wrong(key, f"the key {key.value} is given twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _wrong(node: yaml.Node, text: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)
