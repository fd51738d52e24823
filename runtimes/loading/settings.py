"""Completes the settings of a load with the configured defaults (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from modelium.errors import FailureKind, LoadFailed
from modelium.models import LoadSettings
from modelium.models.runtimes import RuntimeDescriptor
from modelium.models.settings import Value, split


def complete(
    settings: LoadSettings, defaults: Mapping[str, Value], *, context_length: int | None = None
) -> LoadSettings:
    """Fill unset ``settings`` from ``defaults``; keys that Modelium does not know become ``extra``.

    A default ``max_model_len`` above ``context_length`` is lowered to it: the operator sets an
    upper bound, and engines refuse a longer context than the model's.
    """
    known, extra = split(defaults)
    found = {
        name: value
        for name, value in known.items()
        if name not in settings.model_fields_set or getattr(settings, name) is None
    }
    if context_length and "max_model_len" in found:
        found["max_model_len"] = min(int(found["max_model_len"]), context_length)
    merged = {**settings.model_dump(), **found, "extra": {**extra, **settings.extra}}
    return LoadSettings.model_validate(merged)


def allowed_arguments(
    extra: Mapping[str, Value],
    *,
    runtime: RuntimeDescriptor,
    allowed: Iterable[str],
    reserved: Set[str],
) -> dict[str, Value]:
    """Return the engine arguments in ``extra``, their names with underscores.

    Args:
        extra: arguments that the plan or the defaults set.
        runtime: the runtime, for the message.
        allowed: names that the operator allows, with dashes or underscores.
        reserved: names that the driver sets itself.

    Raises:
        LoadFailed: of kind ``bad-settings``: an argument is reserved or not allowed.
    """
    names = {_underscored(name): value for name, value in extra.items()}
    permitted = set(map(_underscored, allowed)) - reserved
    if refused := sorted(names.keys() - permitted):
        raise LoadFailed(
            f"{runtime.label} arguments {', '.join(refused)} are not allowed: add them to "
            f"{runtime.name}.allowed_extra (arguments that the driver sets itself are never "
            "allowed)",
            kind=FailureKind.BAD_SETTINGS,
        )
    return names


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


def _underscored(name: str) -> str:
    return name.replace("-", "_")
