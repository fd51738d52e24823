"""Fields of the configuration that are right alone, but not together (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Protocol
from urllib.parse import urlsplit

from modelium.config.fields import FieldPath
from modelium.config.hosts import is_loopback
from modelium.config.runtimes import LlamaCpp, RayServe, Triton, Vllm
from modelium.config.sections import Gateway, Orchestration, Prefect

Problem = tuple[FieldPath, str]
"""Path of the field to change, and what is wrong with it and allowed."""


class Sections(Protocol):
    """The sections whose fields depend on each other."""

    @property
    def orchestration(self) -> Orchestration: ...
    @property
    def gateway(self) -> Gateway: ...
    @property
    def prefect(self) -> Prefect: ...
    @property
    def triton(self) -> Triton: ...
    @property
    def vllm(self) -> Vllm: ...
    @property
    def ray_serve(self) -> RayServe: ...
    @property
    def llama_cpp(self) -> LlamaCpp: ...


class Conflicts(ValueError):
    """Fields that are right alone but not together; one problem per path."""

    def __init__(self, problems: list[Problem]) -> None:
        """Keep them all; the message joins them."""
        super().__init__("; ".join(f"{'.'.join(path)}: {text}" for path, text in problems))
        self.problems = problems


def conflicts(config: Sections) -> Iterator[Problem]:
    """All problems between fields of ``config``, as path and text."""
    yield from _open_doors(config)
    yield from _folder_clashes(config)
    yield from _port_clashes(config)
    yield from _alias_chains(config)


def _open_doors(config: Sections) -> Iterator[Problem]:
    gateway = config.gateway
    if gateway.token is None and not is_loopback(gateway.host):
        yield (
            ("gateway", "token"),
            f"missing, while gateway.host {gateway.host} is off loopback; "
            "allowed: set a token, or listen on 127.0.0.1",
        )


def _folder_clashes(config: Sections) -> Iterator[Problem]:
    """Pairs that would take each other's folders for models or drops."""
    orchestration = config.orchestration
    folders = {
        "model_repository": orchestration.model_repository,
        "incoming_directory": orchestration.incoming_directory,
        "rejected_directory": orchestration.rejected,
        "state_directory": orchestration.state,
    }
    scanned = ("model_repository", "incoming_directory")
    for (first, one), (second, other) in combinations(folders.items(), 2):
        path = ("orchestration", second)
        if one == other:
            yield path, f"{other} is {first} too; allowed: a folder of its own"
        elif first in scanned and other.is_relative_to(one):
            yield path, f"{other} lies inside {first} {one}; allowed: a folder outside of it"
        elif second in scanned and one.is_relative_to(other):
            yield path, f"{other} holds {first} {one}; allowed: a folder beside it"


def _port_clashes(config: Sections) -> Iterator[Problem]:
    taken: dict[int, str] = {}
    for path, port in _local_ports(config):
        name = ".".join(path)
        if port in taken:
            yield path, f"port {port} is {taken[port]}'s; allowed: another port, or 0 for any"
        else:
            taken[port] = name


def _alias_chains(config: Sections) -> Iterator[Problem]:
    aliases = config.gateway.aliases
    for alias, target in aliases.items():
        if target in aliases:
            yield (
                ("gateway", "aliases", alias),
                f"{target} is an alias itself; allowed: a model, or NAME:VERSION",
            )


def _local_ports(config: Sections) -> Iterator[tuple[FieldPath, int]]:
    """The ports that would be listened on here; 0, any free one, never clashes."""
    metrics, prefect = config.orchestration.metrics, config.prefect
    candidates: list[tuple[FieldPath, bool, int]] = [
        (("gateway", "port"), True, config.gateway.port),
        (
            ("orchestration", "metrics", "prometheus_port"),
            metrics.prometheus_enabled,
            metrics.prometheus_port,
        ),
        (("prefect", "port"), prefect.enabled and prefect.api_url is None, prefect.port),
        (("vllm", "base_port"), config.vllm.enabled, config.vllm.base_port),
        (("llama_cpp", "base_port"), config.llama_cpp.enabled, config.llama_cpp.base_port),
        _endpoint(("triton", "endpoint"), config.triton.enabled, config.triton.endpoint),
        _endpoint(
            ("triton", "grpc_endpoint"),
            config.triton.enabled,
            f"//{config.triton.grpc_endpoint or ''}",
        ),
        _endpoint(("ray_serve", "endpoint"), config.ray_serve.enabled, config.ray_serve.endpoint),
    ]
    yield from ((path, port) for path, used, port in candidates if used and port)


def _endpoint(path: FieldPath, enabled: bool, url: str) -> tuple[FieldPath, bool, int]:
    parts = urlsplit(url)
    return path, enabled and is_loopback(parts.hostname or ""), parts.port or 0
