"""Completes the settings of a load with the configured defaults (no I/O here)."""

from __future__ import annotations

from collections.abc import Mapping

from modelium.models import LoadSettings

ALIASES = {"max_batch_size": "max_num_seqs"}
"""Another name for it, from the user's description of Modelium."""

Value = str | int | float | bool


def complete(
    settings: LoadSettings, defaults: Mapping[str, Value], *, context_length: int | None = None
) -> LoadSettings:
    """Fill unset ``settings`` from ``defaults``; keys that Modelium does not know become ``extra``.

    A default ``max_model_len`` above ``context_length`` is lowered to it: the operator sets an
    upper bound, and engines refuse a longer context than the model's.
    """
    found: dict[str, Value] = {}
    extra: dict[str, Value] = {}
    for key, value in defaults.items():
        name = ALIASES.get(key, key)
        if name not in LoadSettings.model_fields:
            extra[name] = value
        elif name not in settings.model_fields_set or getattr(settings, name) is None:
            found[name] = value
    if context_length and "max_model_len" in found:
        found["max_model_len"] = min(int(found["max_model_len"]), context_length)
    merged = {**settings.model_dump(), **found, "extra": {**extra, **settings.extra}}
    return LoadSettings.model_validate(merged)


def flags(extra: Mapping[str, Value]) -> list[str]:
    """Return ``extra`` as command-line options: ``{"a_b": 1, "c": True}`` → ``--a-b=1 --c``."""
    arguments: list[str] = []
    for key, value in sorted(extra.items()):
        name = key.replace("_", "-").lstrip("-")
        if value is True:
            arguments.append(f"--{name}")
        elif value is False:
            arguments.append(f"--no-{name}")
        else:
            # One argument: a value may begin with a dash.
            arguments.append(f"--{name}={value}")
    return arguments
