"""The report of a stage as Markdown, for the artifact of its run (no I/O here)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from modelium.models import Report

PAGE = "page"
"""The detail that has lines of text, for people."""

EMPTY: tuple[object, ...] = (None, "", [], {}, ())


def artifact_of(report: Report) -> tuple[str, str]:
    """Return key and Markdown. There is one key per stage and model; its versions are the history.

    Lists of documents, such as a decision's actions and candidates, become separate tables.
    """
    key = re.sub(r"[^a-z0-9]+", "-", f"{report.stage}-{report.model or 'fleet'}".lower())
    rows = {
        "model": report.model,
        "runtime": report.runtime,
        "devices": ", ".join(report.devices),
        "decision": report.decision,
        **report.details,
    }
    lines_of_page = rows.pop(PAGE, None) or ()
    shown = {name: value for name, value in rows.items() if value not in EMPTY}
    tables = {name: value for name, value in shown.items() if _is_table(value)}
    lines = [f"# {_plain(report.stage)}: {_plain(report.outcome)}", "", _plain(report.reason), ""]
    lines += _table(("", ""), [(name, v) for name, v in shown.items() if name not in tables])
    for name, documents in tables.items():
        columns = _columns(documents)
        cells = ([document.get(column) for column in columns] for document in documents)
        lines += ["", f"## {_plain(name)}", "", *_table(columns, cells)]
    if lines_of_page:
        # An indented block shows text as it is, whatever it contains.
        lines += ["", "## The LLM's part", "", *(f"    {line}" for line in lines_of_page)]
    return key.strip("-"), "\n".join(lines)


def _is_table(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, Mapping) for one in value)


def _columns(documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys with a value in at least one document, in order of appearance."""
    keys = dict.fromkeys(key for document in documents for key in document)
    return [k for k in keys if any(d.get(k) not in EMPTY for d in documents)]


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    body = [f"| {' | '.join(_plain(_text(cell)) for cell in row)} |" for row in rows]
    if body:
        yield f"| {' | '.join(_plain(column) for column in columns)} |"
        yield f"|{' --- |' * len(columns)}"
        yield from body


def _text(value: Any) -> str:
    if value in EMPTY:
        return ""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _plain(text: str) -> str:
    """Escape Markdown: reasons may quote untrusted files."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~-])", r"\\\1", " ".join(text.split()))
