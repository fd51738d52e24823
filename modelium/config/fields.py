"""What a configuration field is: its types, how they read to a person, and how to find it.

One source for the error messages, the starter file, the reference page and the JSON Schema.
No I/O here.
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Le
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    Strict,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from modelium.models import MODEL_NAME

FieldPath = tuple[str, ...]
"""Names from the top of the file to a field, as in ``("gateway", "port")``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What a type says of itself to people."""

    kind: str = ""
    """What is allowed, where the Python type says too little."""
    unit: str = ""
    default: str = ""
    """How a default that depends on the machine reads."""
    hidden: bool = False
    """Never printed: it may hold a secret."""


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http:// or https:// address")
    _ = parts.port  # raises ValueError where it is no port
    return value.rstrip("/")


def _host_port(value: str) -> str:
    parts = urlsplit(f"//{value}")
    if not parts.hostname or parts.port is None or parts.path:
        raise ValueError("not host:port")
    return value


# Numbers and switches are strict: `port: true` or `enabled: 1` is a slip, not a value.
Switch = Annotated[bool, Strict()]
Number = Annotated[float, Strict()]
Count = Annotated[int, Strict(), Field(ge=0)]
Share = Annotated[float, Strict(), Field(gt=0, le=1), Note(unit="share")]
Seconds = Annotated[float, Strict(), Field(ge=0), Note(unit="seconds")]
Interval = Annotated[float, Strict(), Field(gt=0), Note(unit="seconds")]
Days = Annotated[float, Strict(), Field(gt=0), Note(unit="days")]
Port = Annotated[int, Strict(), Field(ge=0, le=65535), Note(unit="TCP port (0: any free one)")]
Directory = Annotated[Path, AfterValidator(_absolute), Note(kind="folder")]
HttpUrl = Annotated[str, AfterValidator(_http_url), Note(kind="http:// or https:// address")]
HostPort = Annotated[str, AfterValidator(_host_port), Note(kind="host:port")]
Text = Annotated[str, Field(min_length=1), Note(kind="text (not empty)")]
Secret = Annotated[SecretStr, Field(min_length=1), Note(kind="text (not empty)", hidden=True)]
ModelName = Annotated[
    str,
    Field(pattern=MODEL_NAME),
    Note(kind="model name (up to 128 letters, digits, `.`, `_`, `-`)"),
]


def setting(
    default: Any = PydanticUndefined,
    what: str = "",
    *,
    why: str,
    factory: Callable[[], Any] | None = None,
) -> Any:
    """A documented field. ``why`` is the reason for its default, and cannot be left out."""
    text = f"{what} {why}"
    if factory is not None:
        return Field(default_factory=factory, description=text)
    return Field(default, description=text)


class Section(BaseModel):
    """A part of the configuration file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, data: Any) -> Any:
        # `gateway:` with every field commented out reads as null.
        return {} if data is None else data


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One field of the file."""

    path: FieldPath
    section: type[Section]
    info: FieldInfo

    @property
    def dotted(self) -> str:
        """Its path as people write it."""
        return ".".join(self.path)

    @property
    def allowed(self) -> str:
        """What may be given, in words."""
        return allowed(self.info)

    @property
    def unit(self) -> str:
        """Unit of its number, or nothing."""
        return next((note.unit for note in _notes(self.info) if note.unit), "")

    @property
    def hidden(self) -> bool:
        """Whether its value must not be printed."""
        return hidden(self.info)

    @property
    def default(self) -> Any:
        """Its default as plain data, ``None`` also where that depends on the machine."""
        if self.default_note:
            return None
        return plain(self.info.get_default(call_default_factory=True))

    @property
    def default_note(self) -> str:
        """How a default that depends on the machine reads."""
        return next((note.default for note in _notes(self.info) if note.default), "")


def section_of(info: FieldInfo) -> type[Section] | None:
    """The section that a field holds, if it is one."""
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def item_section_of(info: FieldInfo) -> type[Section] | None:
    """The section that a mapping's values hold, as in ``models``."""
    arguments = get_args(info.annotation)
    if get_origin(info.annotation) is not dict or len(arguments) != 2:
        return None
    item = arguments[1]
    return item if isinstance(item, type) and issubclass(item, Section) else None


def entries(section: type[Section], path: FieldPath = ()) -> Iterator[Entry]:
    """All fields below ``section`` that hold a value, in the order of the file."""
    for name, info in section.model_fields.items():
        inner = section_of(info)
        if inner is not None:
            yield from entries(inner, (*path, name))
        else:
            yield Entry(path=(*path, name), section=section, info=info)


def own_entries(section: type[Section]) -> Iterator[Entry]:
    """The fields of ``section`` itself that hold a value, without those of inner sections."""
    for name, info in section.model_fields.items():
        if section_of(info) is None:
            yield Entry(path=(name,), section=section, info=info)


def find(section: type[Section], path: FieldPath) -> type[Section] | FieldInfo | None:
    """What stands at ``path``: a section, a field, or nothing that is known.

    Below a mapping of plain values the answer is the mapping's own field.
    """
    here: type[Section] = section
    rest = list(path)
    while rest:
        info = here.model_fields.get(rest.pop(0))
        if info is None:
            return None
        inner = section_of(info)
        if inner is None and rest and (item := item_section_of(info)) is not None:
            rest.pop(0)
            inner = item
        if inner is None:
            # A mapping of plain values has keys of its own, one level of them.
            is_mapping = get_origin(info.annotation) is dict
            return info if len(rest) <= is_mapping else None
        here = inner
    return here


def hidden(info: FieldInfo) -> bool:
    """Whether the field's value must not be printed."""
    return any(note.hidden for note in _notes(info))


def takes_text(annotation: Any) -> bool:
    """Whether a value is one piece of text and nothing else (so that ``0123`` stays as it is)."""
    return all(
        kind in (str, SecretStr, Path, type(None))
        or (isinstance(kind, type) and issubclass(kind, Enum))
        for kind in _alternatives(annotation)
    )


def takes_nothing(annotation: Any) -> bool:
    """Whether a value may be null."""
    return type(None) in _alternatives(annotation)


def item_type(info: FieldInfo) -> Any:
    """The type of one item of a field that holds several: of a mapping, its values."""
    for kind in _alternatives(info.annotation):
        arguments = get_args(kind)
        if get_origin(kind) is dict:
            return arguments[1]
        if get_origin(kind) in (tuple, frozenset, list):
            return arguments[0]
    return info.annotation


def allowed(info: FieldInfo) -> str:
    """What may be given for a field, in words."""
    return _words(info.annotation, tuple(info.metadata))


def allowed_item(info: FieldInfo) -> str:
    """What may be given for one item of a field that holds several."""
    return _words(item_type(info))


def allowed_key(info: FieldInfo) -> str:
    """What may be given for a key of a mapping."""
    return _words(get_args(info.annotation)[0])


def plain(value: Any) -> Any:
    """``value`` as YAML and JSON can say it; sets are sorted."""
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (Path, SecretStr)):
        return str(value)
    return value


def _alternatives(annotation: Any) -> list[Any]:
    """The types of a union, without their Annotated."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in _alternatives(part)]
    return [annotation]


def _notes(info: FieldInfo) -> Iterator[Note]:
    """The notes of a field, and of the parts of its union."""
    yield from (item for item in info.metadata if isinstance(item, Note))
    for part in get_args(info.annotation):
        if get_origin(part) is Annotated:
            yield from (item for item in part.__metadata__ if isinstance(item, Note))


_WORDS: dict[Any, str] = {
    str: "text",
    SecretStr: "text",
    bool: "true or false",
    int: "whole number",
    float: "number",
    Path: "folder",
    type(None): "null",
}


def _words(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    flat = [part for item in metadata for part in _constraints(item)]
    kind = next((item.kind for item in flat if isinstance(item, Note) and item.kind), "")
    if kind:
        return kind
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(arguments[0], (*annotation.__metadata__, *metadata))
    if origin in (Union, types.UnionType):
        words = list(dict.fromkeys(_words(part) for part in arguments))
        if "number" in words and "whole number" in words:
            words.remove("whole number")
        return " or ".join(words)
    if origin is Literal:
        return "one of " + ", ".join(str(value) for value in arguments)
    if origin is dict:
        return f"mapping of {_words(arguments[0])} to {_words(arguments[1])}"
    if origin in (tuple, frozenset, list):
        return f"list of {_words(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "one of " + ", ".join(str(member.value) for member in annotation)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "fields " + ", ".join(annotation.model_fields)
    return _WORDS.get(annotation, "value") + _range(flat)


def _constraints(item: Any) -> list[Any]:
    """The single constraints of a metadata item; a Field holds several."""
    return list(item.metadata) if isinstance(item, FieldInfo) else [item]


def _range(constraints: list[Any]) -> str:
    bounds = []
    for item in constraints:
        if isinstance(item, Ge):
            bounds.append(f"≥ {item.ge}")
        elif isinstance(item, Gt):
            bounds.append(f"> {item.gt}")
        elif isinstance(item, Le):
            bounds.append(f"≤ {item.le}")
    return f" {' and '.join(bounds)}" if bounds else ""
