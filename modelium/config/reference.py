"""The configuration as text for users and editors, generated from its JSON Schema.

Starter file, reference page, JSON Schema, and the effective values with secrets hidden.
No I/O here.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from modelium.config.changes import LIVE
from modelium.config.environment import RESERVED, variable
from modelium.config.errors import mask
from modelium.config.fields import FieldPath
from modelium.config.loading import SEARCHED, Effective
from modelium.config.lookup import (
    Entry,
    Schema,
    child,
    document,
    entries,
    is_secret,
    is_section,
    list_items,
    own_entries,
)
from modelium.config.schema import Config
from modelium.config.wording import mapping_values

HIDDEN = "********"
WIDTH = 96


def starter(config: Config) -> str:
    """Return a configuration file that sets every field to its value in ``config``, explained."""
    usual = {entry.path: value for entry, value in _values(Config())}
    values = {
        entry.path: None if entry.default_note and value == usual[entry.path] else value
        for entry, value in _values(config)
    }
    lines = [
        "# Modelium configuration: every field. Delete what you do not change.",
        "# MODELIUM_SECTION__FIELD environment variables override it. Check it with",
        "# `modelium config check FILE`.",
    ]
    for name, schema in document()["properties"].items():
        lines += ["", *_starter_part((name,), schema, values)]
    return "\n".join(lines) + "\n"


def _starter_part(
    path: FieldPath, schema: Schema, values: Mapping[FieldPath, Any]
) -> Iterator[str]:
    depth = len(path) - 1
    if not is_section(schema):
        yield from _starter_field(Entry(path=path, schema=schema), values[path], depth=depth)
        return
    yield from _comment(_summary(schema), depth=depth)
    yield f"{'  ' * depth}{path[-1]}:"
    for inner, part in schema["properties"].items():
        if is_section(part):
            yield ""
        yield from _starter_part((*path, inner), part, values)


def _starter_field(entry: Entry, value: Any, *, depth: int) -> Iterator[str]:
    unit = f" Unit: {entry.unit}." if entry.unit else ""
    yield from _comment(f"{entry.description} Allowed: {entry.allowed}.{unit}", depth=depth)
    name = entry.path[-1]
    if value is None and entry.default_note:
        yield f"{'  ' * depth}# {name}: NAME  # default: {entry.default_note}"
    else:
        yield f"{'  ' * depth}{name}: {flow(value)}"
    yield from _starter_item(name, entry.schema)


_EXAMPLES = {"models": ("model", "chat-model"), "teams": ("team", "research")}
"""Mapping → what its keys name, and such a name."""


def _starter_item(mapping: str, schema: Schema) -> Iterator[str]:
    item = mapping_values(schema)
    if item is None or not is_section(item):
        return
    what, name = _EXAMPLES[mapping]
    yield f"# For example, for a {what} named {name}:"
    yield f"#   {name}:"
    for inner in own_entries(item):
        yield f"#     # {inner.description} Allowed: {inner.allowed}."
        yield f"#     {inner.path[-1]}: {flow(inner.default)}"


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


def json_schema() -> str:
    """Return the JSON Schema of the file, for editors."""
    body: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Config.model_json_schema(),
        "title": "Modelium configuration",
    }
    for info in body["properties"].values():
        if "patternProperties" in info:
            # pydantic's schema accepts names that do not match the pattern.
            info["additionalProperties"] = False
    return json.dumps(body, indent=2, ensure_ascii=False, sort_keys=False) + "\n"


def effective_yaml(effective: Effective) -> str:
    """Return all values as YAML, secrets hidden, each with its source unless it is a default."""
    lines = [f"# file: {effective.file or 'none, the defaults'}"]
    shown: FieldPath = ()
    for entry, value in _values(effective.config):
        parents = entry.path[:-1]
        for depth, name in enumerate(parents):
            if shown[: depth + 1] != parents[: depth + 1]:
                lines.append(f"{'  ' * depth}{name}:")
        shown = parents
        source = effective.source(entry.path)
        comment = "" if source == "default" else f"  # {source}"
        lines.append(f"{'  ' * len(parents)}{entry.path[-1]}: {flow(value)}{comment}")
    return "\n".join(lines) + "\n"


def effective_data(effective: Effective) -> dict[str, Any]:
    """Return `effective_yaml` as data: ``file``, ``values`` by section, ``sources`` by path."""
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
    data = config.model_dump(mode="json")
    for entry in entries():
        value: Any = data
        for name in entry.path:
            value = value[name]
        yield entry, _shown(value, entry.schema, secret=entry.secret)


def _shown(value: Any, schema: Schema | None, *, secret: bool) -> Any:
    """Return ``value`` with secrets hidden and sets, which have no order, sorted."""
    schema = schema or {}
    secret = secret or is_secret(schema)
    if isinstance(value, Mapping):
        return {
            name: _shown(inner, child(schema, name), secret=secret) for name, inner in value.items()
        }
    if isinstance(value, list):
        items = [_shown(item, list_items(schema), secret=secret) for item in value]
        return sorted(items) if schema.get("uniqueItems") else items
    if secret and value is not None:
        return HIDDEN
    return mask(value) if isinstance(value, str) else value


def markdown() -> str:
    """Return the reference page."""
    parts = [_INTRODUCTION.format(searched=" or ".join(f"`{path}`" for path in SEARCHED))]
    parts.append(
        "\n".join(f"- `{name}`: {text}." for name, text in RESERVED.items())
        + "\n\nThe variable that `brain.api_key_env` names is reserved, too."
    )
    parts.append(_RELOAD)
    parts.append(_CONFLICTS)
    for name, schema in document()["properties"].items():
        if is_section(schema):
            parts += _markdown_section((name,), schema)
        else:
            parts += [f"## {name}", *_markdown_mapping(Entry(path=(name,), schema=schema))]
    return "\n\n".join(parts) + "\n"


def _markdown_section(path: FieldPath, schema: Schema) -> Iterator[str]:
    yield f"{'#' * (len(path) + 1)} {'.'.join(path)}"
    yield _summary(schema)
    yield _table(own_entries(schema))
    for name, inner in schema["properties"].items():
        if is_section(inner):
            yield from _markdown_section((*path, name), inner)


def _markdown_mapping(entry: Entry) -> Iterator[str]:
    yield entry.description
    item = mapping_values(entry.schema)
    if item is not None and is_section(item):
        yield f"Allowed: {entry.allowed}. {_summary(item)}"
        yield _table(own_entries(item))


def _table(rows: Iterator[Entry]) -> str:
    lines = [
        "| field | allowed | unit | default | meaning, and reason for the default |",
        "| --- | --- | --- | --- | --- |",
    ]
    for entry in rows:
        default = entry.default_note or f"`{flow(entry.default)}`"
        secret = " Never printed." if entry.secret else ""
        cells = (
            f"`{entry.path[-1]}`",
            entry.allowed,
            entry.unit,
            default,
            f"{entry.description}{secret}",
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _summary(schema: Schema) -> str:
    return str(schema["description"]).splitlines()[0]


def flow(value: Any) -> str:
    """Return ``value`` as YAML on one line."""
    text = yaml.safe_dump(
        [value], default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False
    )
    return text.strip()[1:-1]


_EXAMPLE = variable(("gateway", "port"))

_INTRODUCTION = f"""# Configuration

<!-- Written by `make docs` from modelium/config/sections: change it there. -->

Modelium reads one YAML file: the one that `--config` or `$MODELIUM_CONFIG` names, otherwise
{{searched}}. Every field has a default, but one runtime has to be enabled.

| command | purpose |
| --- | --- |
| `modelium config init` | print a first configuration for this machine; `--all`: every field |
| `modelium config check [FILE]` | report invalid fields and what is allowed; exit code 2 if any |
| `modelium config show` | print the effective values and their sources, secrets hidden |
| `modelium config schema` | print the JSON Schema for editors (`docs/config.schema.json`) |

In editors with a YAML language server, this first line turns on completion and validation:
`# yaml-language-server: $schema=docs/config.schema.json`.

Unknown keys and duplicate keys are errors. Relative paths start at the working directory, `~` at
the home directory of the user that runs Modelium. Sections may be omitted or empty.

## Environment variables

`MODELIUM_SECTION__FIELD` overrides the file: `{_EXAMPLE}=9000` sets `gateway.port`; two
underscores separate levels. Section and field names may be in any case. Values are YAML, as in
`MODELIUM_ORCHESTRATION__POLICIES__ALWAYS_LOADED='[chat-model]'`, but string fields take the value
verbatim. A single key of a mapping is set by its case-sensitive name, as in
`MODELIUM_VLLM__DEFAULT_SETTINGS__dtype=float16`; if the name contains two underscores, set the
whole mapping. Unknown variables with this prefix are errors. These variables are not fields:"""

_RELOAD = f"""## Changing it while Modelium runs

Save the file, or run `modelium reload`, or send SIGHUP: these fields, and sections with all their
fields, take effect at once and together:

{", ".join(f"`{'.'.join(path)}`" for path in LIVE)}.

Everything else keeps its value until a restart; `modelium reload`, `modelium ls` and the status
page name such fields one by one ("gateway.port needs a restart: still 8000"). A file that is
invalid or gone changes nothing: the log, the event `config.invalid`, `modelium ls` and the status
page say what is wrong, and `modelium reload` exits with 2.

A changed file is read once it has not changed for a second. Editors that replace the file and
symbolic links (Kubernetes ConfigMaps) are fine. Environment variables are those of the start.

- A field of `models.NAME` changes the registered model when its value in the file changes. What
  `modelium pin` or a drop set in the meantime stays until then. What is taken out of the file
  falls back to what came with the drop. Changes made while Modelium is stopped apply at its start.
- Plans that are being made are made again under the new rules. What is booked is carried out.
- Requests in flight and waiting are not disturbed; new limits apply to new requests."""

_CONFLICTS = """## Fields that depend on each other

- `gateway.token` is required unless `gateway.host` is loopback.
- The directories for models, drops, rejected drops and state must differ. None of them may be
  inside the repository or the drop zone.
- All ports that are listened on must differ: gateway, exporter, embedded Prefect server, first
  ports of enabled engines, endpoints of enabled runtimes on this machine. Port 0 means any free
  port and conflicts with nothing.
- `gateway.advertise` must be an https:// address where `gateway.tls_certificate` is set.
- `gateway.aliases` must not refer to other aliases."""
