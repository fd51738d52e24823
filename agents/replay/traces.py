"""Traces of requests, read from CSV files, and the devices to replay them on."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelium.errors import InputError
from modelium.models import GIB, Priority

SERVICE_S = 1.0
"""Seconds per request where neither its tokens nor its model determine them."""

PROMPT_TOKENS_PER_S = 8000.0
OUTPUT_TOKENS_PER_S = 40.0
"""Speed of one request in a batch, roughly that of a 7-13 B model on one GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayModel:
    """One model of a replay."""

    name: str
    bytes: int
    load_s: float
    service_s: float | None = None
    priority: Priority = Priority.LOW


@dataclass(frozen=True, slots=True)
class Request:
    """One request: seconds since the start of the trace, index of its model, seconds of service."""

    t_s: float
    model: int
    service_s: float = SERVICE_S


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """Requests in order of time, and the models that they are for."""

    models: tuple[ReplayModel, ...]
    requests: tuple[Request, ...]


def read_trace(trace: Path, models: Path) -> Trace:
    """Return the trace in two CSV files.

    Args:
        trace: ``t_s,model`` and optionally ``prompt_tokens,output_tokens``.
        models: ``model,footprint_gib,load_s`` and optionally ``service_s,priority``.

    Raises:
        InputError: a file cannot be read, a column is missing, a value is not a number, or a model
            is not in ``models``.
    """
    known = tuple(_model(row, models, line) for line, row in _rows(models, _MODEL_COLUMNS))
    index = {model.name: i for i, model in enumerate(known)}
    requests = []
    for line, row in _rows(trace, ("t_s", "model")):
        if row["model"] not in index:
            raise InputError(f"{trace}:{line}: model {row['model']!r} is not in {models}")
        i = index[row["model"]]
        at = _number(row, "t_s", trace, line)
        requests.append(Request(at, i, _service_s(known[i], row, trace, line)))
    requests.sort(key=lambda r: r.t_s)
    if not requests:
        raise InputError(f"{trace} holds no requests")
    return Trace(models=known, requests=tuple(requests))


_MODEL_COLUMNS = ("model", "footprint_gib", "load_s")


def _model(row: dict[str, str], path: Path, line: int) -> ReplayModel:
    priority = row.get("priority") or Priority.LOW
    if priority not in set(Priority):
        raise InputError(f"{path}:{line}: priority {priority!r}; allowed: high, medium, low")
    size = _number(row, "footprint_gib", path, line)
    load = _number(row, "load_s", path, line)
    if size <= 0 or load < 0:
        raise InputError(f"{path}:{line}: footprint_gib must be above 0 and load_s at least 0")
    return ReplayModel(
        name=row["model"],
        bytes=int(size * GIB),
        load_s=load,
        service_s=_number(row, "service_s", path, line) if row.get("service_s") else None,
        priority=Priority(priority),
    )


def _service_s(model: ReplayModel, row: dict[str, str], path: Path, line: int) -> float:
    if model.service_s is not None:
        return model.service_s
    if not row.get("prompt_tokens") and not row.get("output_tokens"):
        return SERVICE_S
    prompt = _number(row, "prompt_tokens", path, line) if row.get("prompt_tokens") else 0.0
    output = _number(row, "output_tokens", path, line) if row.get("output_tokens") else 0.0
    return prompt / PROMPT_TOKENS_PER_S + output / OUTPUT_TOKENS_PER_S


def _rows(path: Path, columns: Sequence[str]) -> Iterable[tuple[int, dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [c for c in columns if c not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{path}: no column {', '.join(missing)} in its first line")
            yield from enumerate(reader, start=2)
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise InputError(f"{path} cannot be read as CSV: {exc}") from exc


def _number(row: dict[str, str], column: str, path: Path, line: int) -> float:
    try:
        value = float(row[column])
        if not math.isfinite(value):
            raise ValueError(value)
    except (TypeError, ValueError) as exc:
        raise InputError(f"{path}:{line}: {column} {row[column]!r} is not a number") from exc
    return value


def parse_devices(text: str) -> tuple[int, ...]:
    """Return the bytes of each device in ``2x80`` or ``2x80,4x24``: count and usable GiB.

    Raises:
        InputError: ``text`` has another form.
    """
    devices: list[int] = []
    for part in text.split(","):
        count, _, size = part.strip().partition("x")
        try:
            each = int(float(size) * GIB)
            devices += [each] * int(count)
        except (ValueError, OverflowError) as exc:
            raise InputError(f"devices {text!r}: write COUNTxGIB, e.g. 2x80 or 2x80,4x24") from exc
    if not devices or min(devices) <= 0:
        raise InputError(f"devices {text!r}: write COUNTxGIB, e.g. 2x80 or 2x80,4x24")
    return tuple(devices)
