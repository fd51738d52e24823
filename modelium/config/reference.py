"""The configuration as text for people and editors, all from the models themselves.

Starter file, reference page, JSON Schema, and the effective values with secrets hidden.
No I/O here.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from modelium.config.environment import RESERVED, variable
from modelium.config.errors import mask
from modelium.config.fields import (
    Entry,
    Section,
    entries,
    item_section_of,
    own_entries,
    plain,
    section_of,
)
from modelium.config.loading import SEARCHED, Effective
from modelium.config.schema import Config

HIDDEN = "********"
WIDTH = 96


def starter() -> str:
    """A configuration file with every field, its meaning and its default; it changes nothing."""
    lines = [
        "# Modelium's configuration: every field with its default. Delete what you do not change.",
        "# MODELIUM_SECTION__FIELD environment variables override it. Check it with",
        "# `modelium config check FILE`.",
    ]
    for name, info in Config.model_fields.items():
        section = section_of(info)
        if section is not None:
            lines += ["", *_starter_section(name, section, depth=0)]
        else:
            entry = Entry(path=(name,), section=Config, info=info)
            lines += ["", *_starter_field(entry, depth=0), *_starter_item(entry)]
    return "\n".join(lines) + "\n"


def _starter_section(name: str, section: type[Section], *, depth: int) -> Iterator[str]:
    yield from _comment(_summary(section), depth=depth)
    yield f"{'  ' * depth}{name}:"
    for inner, info in section.model_fields.items():
        nested = section_of(info)
        if nested is not None:
            yield ""
            yield from _starter_section(inner, nested, depth=depth + 1)
        else:
            entry = Entry(path=(inner,), section=section, info=info)
            yield from _starter_field(entry, depth=depth + 1)


def _starter_field(entry: Entry, *, depth: int) -> Iterator[str]:
    unit = f" Unit: {entry.unit}." if entry.unit else ""
    yield from _comment(f"{entry.info.description} Allowed: {entry.allowed}.{unit}", depth=depth)
    name = entry.path[-1]
    if entry.default_note:
        yield f"{'  ' * depth}# {name}: NAME  # default: {entry.default_note}"
    else:
        yield f"{'  ' * depth}{name}: {_flow(entry.default)}"


def _starter_item(entry: Entry) -> Iterator[str]:
    item = item_section_of(entry.info)
    if item is None:
        return
    yield "# For example, for a model named chat-model:"
    yield "#   chat-model:"
    for inner in own_entries(item):
        yield f"#     # {inner.info.description} Allowed: {inner.allowed}."
        yield f"#     {inner.path[-1]}: {_flow(inner.default)}"


def _comment(text: str, *, depth: int) -> Iterator[str]:
    indent = "  " * depth + "# "
    yield from textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def schema() -> str:
    """The JSON Schema of the file, for editors."""
    body: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Config.model_json_schema(),
        "title": "Modelium configuration",
    }
    for info in body["properties"].values():
        if "patternProperties" in info:
            # pydantic leaves names open that do not match the pattern.
            info["additionalProperties"] = False
    return json.dumps(body, indent=2, ensure_ascii=False, sort_keys=False) + "\n"


def effective_yaml(effective: Effective) -> str:
    """All values as YAML, secrets hidden; what is not a default says where it comes from."""
    lines = [f"# file: {effective.file or 'none, the defaults'}"]
    shown: tuple[str, ...] = ()
    for entry, value in _values(effective.config):
        parents = entry.path[:-1]
        for depth, name in enumerate(parents):
            if shown[: depth + 1] != parents[: depth + 1]:
                lines.append(f"{'  ' * depth}{name}:")
        shown = parents
        source = effective.source(entry.path)
        comment = "" if source == "default" else f"  # {source}"
        lines.append(f"{'  ' * len(parents)}{entry.path[-1]}: {_flow(value)}{comment}")
    return "\n".join(lines) + "\n"


def effective_data(effective: Effective) -> dict[str, Any]:
    """The same as plain data: ``file``, ``values`` by section, ``sources`` by dotted path."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for entry, value in _values(effective.config):
        here = values
        for name in entry.path[:-1]:
            here = here.setdefault(name, {})
        here[entry.path[-1]] = value
        sources[entry.dotted] = effective.source(entry.path)
    file = str(effective.file) if effective.file else None
    return {"file": file, "values": values, "sources": sources}


def _values(config: Config) -> Iterator[tuple[Entry, Any]]:
    for entry in entries(Config):
        value: Any = config
        for name in entry.path:
            value = getattr(value, name)
        yield entry, _hide(plain(value), secret=entry.hidden)


def _hide(value: Any, *, secret: bool) -> Any:
    if isinstance(value, Mapping):
        return {key: _hide(item, secret=secret) for key, item in value.items()}
    if isinstance(value, list):
        return [_hide(item, secret=secret) for item in value]
    if secret and value is not None:
        return HIDDEN
    return mask(value) if isinstance(value, str) else value


def markdown() -> str:
    """The reference page."""
    parts = [_INTRODUCTION.format(searched=_listed([f"`{path}`" for path in SEARCHED]))]
    parts.append(
        "\n".join(f"- `{name}`: {text}." for name, text in RESERVED.items())
        + "\n\nThe variable that `brain.api_key_env` names is read by the brain alone."
    )
    parts.append(_TOGETHER)
    for name, info in Config.model_fields.items():
        section = section_of(info)
        if section is not None:
            parts += _markdown_section((name,), section)
        else:
            entry = Entry(path=(name,), section=Config, info=info)
            parts += [f"## {name}", str(info.description), *_markdown_item(entry)]
    return "\n\n".join(parts) + "\n"


def _markdown_section(path: tuple[str, ...], section: type[Section]) -> Iterator[str]:
    yield f"{'#' * (len(path) + 1)} {'.'.join(path)}"
    yield _summary(section)
    yield _table(own_entries(section))
    for name, info in section.model_fields.items():
        nested = section_of(info)
        if nested is not None:
            yield from _markdown_section((*path, name), nested)


def _markdown_item(entry: Entry) -> Iterator[str]:
    item = item_section_of(entry.info)
    if item is not None:
        yield f"Allowed: {entry.allowed}. {_summary(item)}"
        yield _table(own_entries(item))


def _table(rows: Iterator[Entry]) -> str:
    lines = [
        "| field | allowed | unit | default | meaning, and why this default |",
        "| --- | --- | --- | --- | --- |",
    ]
    for entry in rows:
        default = entry.default_note or f"`{_flow(entry.default)}`"
        secret = " Never printed." if entry.hidden else ""
        cells = (
            f"`{entry.path[-1]}`",
            entry.allowed,
            entry.unit,
            default,
            f"{entry.info.description}{secret}",
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _summary(section: type[Section]) -> str:
    return (section.__doc__ or "").strip().splitlines()[0]


def _flow(value: Any) -> str:
    """``value`` as YAML on one line."""
    text = yaml.safe_dump(
        [value], default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False
    )
    return text.strip()[1:-1]


def _listed(names: list[str]) -> str:
    return ", then ".join(names)


_EXAMPLE = variable(("gateway", "port"))

_INTRODUCTION = f"""# Configuration

<!-- Written by `make docs` from modelium/config/schema.py: change it there. -->

One YAML file. Every field has a default, so no file at all is fine. The file is the one that
`--config` names, else `$MODELIUM_CONFIG`, else {{searched}}.

| command | does |
| --- | --- |
| `modelium config init [FILE]` | writes a starter file with every field and its default |
| `modelium config check [FILE]` | names each wrong field with what is allowed; exit code 2 if any |
| `modelium config show` | prints the effective values and where each comes from, secrets hidden |
| `modelium config schema` | prints the JSON Schema for editors: `docs/config.schema.json` |

For completion and checks in an editor with a YAML language server, put this on the first line:
`# yaml-language-server: $schema=docs/config.schema.json`.

Unknown keys are errors, and so is a key given twice. Relative folders count from the working
directory, `~` is the home of the user that runs Modelium. A section may be left out or empty.

## Environment variables

`MODELIUM_SECTION__FIELD` overrides the file: `{_EXAMPLE}=9000` sets `gateway.port`, two
underscores go one level down. Names of sections and fields may be in any case. Values are
YAML (`MODELIUM_ORCHESTRATION__POLICIES__ALWAYS_LOADED='[chat-model]'`), except that a field
which takes text takes the value as it stands. One key of a mapping is set by its name as it is
written (`MODELIUM_VLLM__DEFAULT_SETTINGS__dtype=float16`); where a name holds two underscores,
set the whole mapping. Unknown variables with this prefix are errors. These are no fields:"""

_TOGETHER = """## Fields that depend on each other

- `gateway.token` is required where `gateway.host` is not loopback.
- The folders for models, drops, refused drops and state all differ; nothing of the four lies
  inside the repository or the drop zone, and neither of these two inside the other.
- The ports that are listened on here differ: gateway, exporter, embedded Prefect server, first
  ports of enabled engines, endpoints of enabled runtimes on this machine. Port 0, any free one,
  never clashes."""
