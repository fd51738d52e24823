"""Loading the configuration: which file, its YAML, the environment over it, and every error.

Precedence: ``MODELIUM_SECTION__FIELD`` variables, then the file, then the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from modelium.config.environment import apply
from modelium.config.errors import explain
from modelium.config.fields import FieldPath, entries
from modelium.config.schema import Config
from modelium.config.yaml import parse
from modelium.errors import ConfigError

FILE_VARIABLE = "MODELIUM_CONFIG"
SEARCHED = (Path("modelium.yaml"), Path("/etc/modelium/modelium.yaml"))
"""Where a file is looked for when none is named: the working directory, then the system."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effective:
    """A configuration and where it came from."""

    config: Config
    file: Path | None
    """``None``: no file, the defaults."""
    variables: Mapping[FieldPath, str] = field(default_factory=dict)
    """Path → the environment variable that set it."""
    given: frozenset[FieldPath] = frozenset()
    """Paths that the file sets."""

    def source(self, path: FieldPath) -> str:
        """Where the value at ``path`` comes from: a variable's name, ``file`` or ``default``."""
        for known, variable in self.variables.items():
            if known[: len(path)] == path:
                return variable
        return "file" if path in self.given else "default"


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The effective configuration; see `load_effective`."""
    return load_effective(path, environ).config


def load_effective(path: Path | None, environ: Mapping[str, str]) -> Effective:
    """Read, override and check the configuration.

    The file is ``path``, else ``$MODELIUM_CONFIG``, else the first of `SEARCHED` that is there,
    else none: the defaults.

    Raises:
        ConfigError: one line per wrong field: file, path, what was given, what is allowed.
    """
    file = _locate(path, environ)
    raw = {} if file is None else _read(file)
    given = frozenset(entry.path for entry in entries(Config) if _present(raw, entry.path))
    data, variables, problems = apply(environ, raw)
    name = str(file) if file is not None else "environment"
    try:
        config = Config.model_validate(data)
    except ValidationError as exc:
        found = explain(exc, data=data, file=name, variables=variables)
        raise ConfigError("\n".join([*found, *problems])) from exc
    if problems:
        raise ConfigError("\n".join(problems))
    return Effective(config=config, file=file, variables=variables, given=given)


def _locate(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    if path is not None:
        return path
    if named := environ.get(FILE_VARIABLE):
        return Path(named)
    return next((candidate for candidate in SEARCHED if candidate.is_file()), None)


def _read(file: Path) -> dict[str, Any]:
    try:
        raw = parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise ConfigError(
            f"{file}: no such file; write one with `modelium config init {file}`"
        ) from exc
    except OSError as exc:
        raise ConfigError(f"{file}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{file}: not text; allowed: YAML in UTF-8") from exc
    except yaml.YAMLError as exc:
        raise ConfigError(f"{file}{_where(exc)}") from exc
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{file}: holds a {type(raw).__name__}; allowed: a mapping with the sections "
            + ", ".join(Config.model_fields)
        )
    return raw


def _where(exc: yaml.YAMLError) -> str:
    """Line, column and reason, without the line itself: it may hold a secret."""
    if not isinstance(exc, yaml.MarkedYAMLError):
        return ": not YAML: it holds characters or numbers that YAML does not allow"
    mark = exc.problem_mark
    place = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
    return f"{place}: not YAML: {exc.problem or exc.context}"


def _present(raw: Any, path: FieldPath) -> bool:
    for name in path:
        if not isinstance(raw, dict) or name not in raw:
            return False
        raw = raw[name]
    return True
