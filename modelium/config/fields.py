"""The types that fields of the configuration have, and the base class of its sections.

Validation, error messages, the starter file, the reference page and the JSON Schema all come
from these types. What JSON Schema has no keyword for is stored in three keywords of our own:
``x-allowed`` (the accepted values in words), ``x-unit`` and ``x-default`` (a default that depends
on the machine, in words). No I/O here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    Strict,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticUndefined

from modelium.models import MODEL_NAME

FieldPath = tuple[str, ...]
"""Names from the top of the file to a field, as in ``("gateway", "port")``."""


def note(*, allowed: str = "", unit: str = "", default: str = "", secret: bool = False) -> Any:
    """Annotate a type for readers.

    Args:
        allowed: the accepted values, where JSON Schema keywords do not express them.
        unit: unit of a number.
        default: a default that depends on the machine.
        secret: values are never printed.
    """
    keywords: dict[str, str | bool] = {
        "x-allowed": allowed,
        "x-unit": unit,
        "x-default": default,
        "writeOnly": secret,
    }
    return Field(json_schema_extra={name: value for name, value in keywords.items() if value})


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http:// or https:// URL")
    _ = parts.port  # raises ValueError if the port is not a number
    return value.rstrip("/")


def _host_port(value: str) -> str:
    parts = urlsplit(f"//{value}")
    if not parts.hostname or parts.port is None or parts.path:
        raise ValueError("not host:port")
    return value


_UNITS_S = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = r"^{zero}[0-9]+(\.[0-9]+)?(s|m|min|h|d)$"
_NOT_ZERO = r"(?=[0-9.]*[1-9])"


def _duration(*, unit: str, zero: bool = True) -> tuple[Any, ...]:
    """Annotate a number of ``unit`` that may also be written as ``90s``, ``30m``, ``1h``."""
    pattern = _DURATION.format(zero="" if zero else _NOT_ZERO)
    unit_s = _UNITS_S[unit[0]]

    def read(value: Any) -> Any:
        if not isinstance(value, str) or re.search(pattern, value) is None:
            return value
        number = value.rstrip("smindh")
        return float(number) * _UNITS_S[value[len(number) :]] / unit_s

    schema = {
        "anyOf": [
            {"type": "number", "minimum" if zero else "exclusiveMinimum": 0},
            {"type": "string", "pattern": pattern},
        ],
        "x-allowed": f"number {'≥' if zero else '>'} 0 or a duration (90s, 30m, 1h, 7d)",
        "x-unit": unit,
    }
    return BeforeValidator(read), WithJsonSchema(schema)


# Numbers and switches are strict: `port: true` or `enabled: 1` is a mistake, not a value.
Switch = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=0)]
PositiveCount = Annotated[int, Strict(), Field(ge=1)]


class Refused(ValueError):
    """A value that a check of its own refuses; its sentence is shown as it is."""


Share = Annotated[float, Strict(), Field(gt=0, le=1), note(unit="fraction")]
Seconds = Annotated[float, Strict(), Field(ge=0), *_duration(unit="seconds")]
Interval = Annotated[float, Strict(), Field(gt=0), *_duration(unit="seconds", zero=False)]
Days = Annotated[float, Strict(), Field(gt=0), *_duration(unit="days", zero=False)]
Port = Annotated[int, Strict(), Field(ge=0, le=65535), note(unit="TCP port (0: any free port)")]
Directory = Annotated[Path, AfterValidator(_absolute), note(allowed="directory")]
HttpUrl = Annotated[str, AfterValidator(_http_url), note(allowed="http:// or https:// URL")]
HostPort = Annotated[str, AfterValidator(_host_port), note(allowed="host:port")]
Text = Annotated[str, Field(min_length=1), note(allowed="non-empty string")]
Secret = Annotated[SecretStr, Field(min_length=1), note(allowed="non-empty string", secret=True)]
ModelName = Annotated[
    str,
    Field(pattern=MODEL_NAME),
    note(allowed="model name (up to 128 letters, digits, `.`, `_`, `-`)"),
]
NodeName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"),
    note(allowed="name of a machine (up to 63 letters, digits, `.`, `_`, `-`)"),
]
TeamName = Annotated[
    str,
    Field(pattern=MODEL_NAME),
    note(allowed="team name (up to 128 letters, digits, `.`, `_`, `-`; it is a folder's name)"),
]


def setting(
    default: Any = PydanticUndefined,
    what: str = "",
    *,
    why: str,
    factory: Callable[[], Any] | None = None,
) -> Any:
    """Define a documented field. ``why`` gives the reason for its default and is mandatory."""
    text = f"{what} {why}"
    if factory is not None:
        return Field(default_factory=factory, description=text)
    return Field(default, description=text)


class Section(BaseModel):
    """A section of the configuration file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, data: Any) -> Any:
        # `gateway:` with every field commented out parses as null.
        return {} if data is None else data
