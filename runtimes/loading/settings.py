"""Completes the settings of a load with the configured defaults (no I/O here)."""

from __future__ import annotations

from collections.abc import Mapping

from modelium.models import LoadSettings

ALIASES = {"max_batch_size": "max_num_seqs"}
"""The seed's word for it."""

Value = str | int | float | bool


def complete(
    settings: LoadSettings, defaults: Mapping[str, Value], *, context_length: int | None = None
) -> LoadSettings:
    """Fill what ``settings`` leaves open from ``defaults``; unknown keys become ``extra``.

    A default ``max_model_len`` beyond the model's own context is cut to it: the operator means
    "at most", and engines refuse more.
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
    """Write ``extra`` as command-line options: ``{"a_b": 1, "c": True}`` → ``--a-b 1 --c``."""
    words: list[str] = []
    for key, value in sorted(extra.items()):
        name = key.replace("_", "-").lstrip("-")
        if value is True:
            words.append(f"--{name}")
        elif value is False:
            words.append(f"--no-{name}")
        else:
            # One word, so that a value that begins with a dash stays a value.
            words.append(f"--{name}={value}")
    return words
