"""Load the configuration: find the file, parse it, apply the environment, report all errors.

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
from modelium.config.fields import FieldPath
from modelium.config.lookup import entries
from modelium.config.schema import Config
from modelium.config.strict_yaml import parse
from modelium.errors import ConfigError

FILE_VARIABLE = "MODELIUM_CONFIG"
SEARCHED = (Path("modelium.yaml"), Path("/etc/modelium/modelium.yaml"))
"""Searched in this order when no file is named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effective:
    """A configuration and the source of each value."""

    config: Config
    file: Path | None
    """``None`` if there is no file."""
    variables: Mapping[FieldPath, str] = field(default_factory=dict)
    """Field path → name of the environment variable that set it."""
    given: frozenset[FieldPath] = frozenset()
    """Paths of the fields that the file sets."""

    def source(self, path: FieldPath) -> str:
        """Return where ``path`` got its value: a variable's name, ``file`` or ``default``."""
        for known, variable in self.variables.items():
            if known[: len(path)] == path:
                return variable
        return "file" if path in self.given else "default"


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Return the effective configuration; see `load_effective`."""
    return load_effective(path, environ).config


def load_serving(path: Path | None, environ: Mapping[str, str]) -> Effective:
    """Return a configuration that can serve models; for the service and what checks it.

    Raises:
        ConfigError: as `load_effective`, or no runtime is enabled: says what to add.
    """
    effective = load_effective(path, environ)
    if any(rules.enabled for rules in effective.config.policy().runtimes.values()):
        return effective
    if effective.file is None:
        searched = " nor ".join(str(candidate) for candidate in SEARCHED)
        raise ConfigError(
            f"there is neither {searched}, so no runtime is enabled; "
            "create one for this machine with `modelium config init > modelium.yaml`"
        )
    problem = "no runtime is enabled" if effective.given else "the file is empty"
    raise ConfigError(
        f"{effective.file}: {problem}, so no model could be served; add `enabled: true` to the "
        "section vllm, triton, ray_serve or llama_cpp (`modelium config init` prints a "
        "configuration for this machine)"
    )


def load_effective(path: Path | None, environ: Mapping[str, str]) -> Effective:
    """Read the file, apply ``environ`` and validate the result.

    The file is ``path``, else ``$MODELIUM_CONFIG``, else the first of `SEARCHED` that exists.
    Without a file the defaults apply.

    Raises:
        ConfigError: one line per invalid field: source, path, the value, what is allowed.
    """
    file = _locate(path, environ)
    raw = {} if file is None else _read(file)
    given = frozenset(entry.path for entry in entries() if _present(raw, entry.path))
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
            f"{file}: no such file; create one with `modelium config init > {file}`"
        ) from exc
    except OSError as exc:
        raise ConfigError(f"{file}: cannot read it: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{file}: not UTF-8; save it as YAML in UTF-8") from exc
    except yaml.YAMLError as exc:
        raise ConfigError(f"{file}{_where(exc)}") from exc
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{file}: contains a {type(raw).__name__}; allowed: a mapping with the sections "
            + ", ".join(Config.model_fields)
        )
    return raw


def _where(exc: yaml.YAMLError) -> str:
    """Describe line, column and reason, without the line itself: it may contain a secret."""
    if not isinstance(exc, yaml.MarkedYAMLError):
        return ": not YAML: it contains characters or numbers that YAML does not allow"
    mark = exc.problem_mark
    place = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
    return f"{place}: not YAML: {exc.problem or exc.context}"


def _present(raw: Any, path: FieldPath) -> bool:
    for name in path:
        if not isinstance(raw, dict) or name not in raw:
            return False
        raw = raw[name]
    return True
