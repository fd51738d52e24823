"""Engines as the operating system knows them: by the token in their environment."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

VARIABLE = "MODELIUM_ENGINE"
"""Every process of an engine inherits it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineProcess:
    """One live process of an engine."""

    pid: int
    token: str
    ports: tuple[int, ...]
    """That it listens on."""
    command: str
    """Its command line."""
    folder: str
    """That it works in."""


def engines() -> list[EngineProcess]:
    """Return all live processes of engines of this user, whoever started them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            token = process.environ().get(VARIABLE)
            if token is None:
                continue
            listening = tuple(
                sorted(
                    connection.laddr.port
                    for connection in process.net_connections("inet")
                    if connection.status == psutil.CONN_LISTEN
                )
            )
            command, folder = " ".join(process.cmdline()), process.cwd()
        except psutil.Error:
            continue
        found.append(
            EngineProcess(
                pid=process.pid, token=token, ports=listening, command=command, folder=folder
            )
        )
    return found


def recorded(state: Path) -> dict[str, str]:
    """Return token → name of the engines and servers that ``state`` has records of."""
    tokens = {}
    for file in state.glob("*/*.json"):
        try:
            record = json.loads(file.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and "token" in record:
            tokens[str(record["token"])] = file.stem
    return tokens


def belonging(
    found: list[EngineProcess], *, state: Path, repository: Path, tokens: Container[str]
) -> list[EngineProcess]:
    """Return those of ``found`` that one service started, by token or by what they work on."""
    return [
        process
        for process in found
        if process.token in tokens
        or Path(process.folder).is_relative_to(state)
        or str(repository) in process.command
    ]


def orphans(
    found: list[EngineProcess], *, wanted: dict[str, str], allowed: Container[str]
) -> Iterator[str]:
    """Every process, and so every port it listens on, is that of a deployed model.

    Args:
        found: the processes of one service's engines.
        wanted: token → name, of the records of now.
        allowed: names of the deployed models in their runtimes, and of servers that stay.
    """
    for process in found:
        if wanted.get(process.token) in allowed:
            continue
        ports = f", listening on {', '.join(map(str, process.ports))}" if process.ports else ""
        about = process.command[:120]
        yield f"process {process.pid} belongs to no deployed model{ports}: {about}"


def silent(found: list[EngineProcess], ports: dict[str, int]) -> Iterator[str]:
    """Somebody of ours listens where a deployed model is said to answer.

    ``ports``: of models with a process of their own, by name.
    """
    heard = {port for process in found for port in process.ports}
    for name, port in ports.items():
        if port not in heard:
            yield f"{name} is deployed on port {port}, where no engine listens"
