"""Conflicts between fields that are each valid by themselves (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from urllib.parse import urlsplit

from modelium.config.fields import FieldPath
from modelium.config.hosts import addresses, is_loopback, is_metadata
from modelium.config.sections import Sections

METADATA_PROBLEM = (
    "{host} is {found}, a link-local or metadata address, where clouds give out credentials; use "
    "another, or name the host in orchestration.allowed_link_local"
)
MIN_TOKEN = 16
"""Characters of a token off loopback: fewer can be guessed."""

GOOD_TOKEN = "`openssl rand -hex 32` makes a good one"  # noqa: S105

Problem = tuple[FieldPath, str]
"""Path of the field to change; what is wrong with it and what is allowed."""


class Conflicts(ValueError):
    """Fields conflict; `problems` has one entry per path."""

    def __init__(self, problems: list[Problem]) -> None:
        """Store ``problems``; the message joins them."""
        super().__init__("; ".join(f"{'.'.join(path)}: {text}" for path, text in problems))
        self.problems = problems


def conflicts(config: Sections) -> Iterator[Problem]:
    """Yield all conflicts between fields of ``config``."""
    yield from _missing_token(config)
    yield from _wrong_scheme(config)
    yield from _open_engines(config)
    yield from _metadata_services(config)
    yield from _overlapping_directories(config)
    yield from _shared_ports(config)
    yield from _alias_chains(config)
    yield from _shared_files(config)


def _missing_token(config: Sections) -> Iterator[Problem]:
    gateway = config.gateway
    if gateway.token is None and not is_loopback(gateway.host):
        yield (
            ("gateway", "token"),
            f"missing, but gateway.host {gateway.host} is not loopback; "
            f"set a token, or listen on 127.0.0.1; {GOOD_TOKEN}",
        )
    elif (
        gateway.token is not None
        and len(gateway.token.get_secret_value()) < MIN_TOKEN
        and not is_loopback(gateway.host)
    ):
        yield (
            ("gateway", "token"),
            f"shorter than {MIN_TOKEN} characters, but gateway.host {gateway.host} is not "
            f"loopback; {GOOD_TOKEN}",
        )


def _wrong_scheme(config: Sections) -> Iterator[Problem]:
    gateway = config.gateway
    if gateway.tls_certificate is not None and (gateway.advertise or "").startswith("http://"):
        yield (
            ("gateway", "advertise"),
            f"{gateway.advertise} is plain HTTP, but gateway.tls_certificate is set, so that the "
            "gateway speaks HTTPS; use https://",
        )


def _shared_files(config: Sections) -> Iterator[Problem]:
    url = config.store.url.get_secret_value() if config.store.url else ""
    if config.repository.shared and not url.startswith("postgresql"):
        yield (
            ("repository", "shared"),
            "needs a store that the machines share, too: set store.url to PostgreSQL's",
        )


def _open_engines(config: Sections) -> Iterator[Problem]:
    """Find engines that other machines could reach past the gateway."""
    for runtime in ("vllm", "llama_cpp"):
        section = getattr(config, runtime)
        if section.enabled and not is_loopback(section.host):
            yield (
                (runtime, "host"),
                f"{section.host} is not loopback, so that other machines would reach the engines "
                "past the gateway; use 127.0.0.1, and let clients connect to the gateway",
            )


def metadata_names(config: Sections) -> Iterator[str]:
    """Yield a sentence for each configured name that resolves to such an address. Blocks."""
    for path, host in outbound(config).items():
        if host in config.orchestration.allowed_link_local:
            continue
        for found in filter(is_metadata, addresses(host)):
            yield f"{'.'.join(path)}: {METADATA_PROBLEM.format(host=host, found=found)}"


def outbound(config: Sections) -> dict[FieldPath, str]:
    """Return the hosts that the service itself connects to, by field."""
    targets = {
        ("ingest", "s3_endpoint"): config.ingest.s3_endpoint if config.ingest.sources else None,
        ("brain", "base_url"): config.brain.base_url,
        ("prefect", "api_url"): config.prefect.api_url if config.prefect.enabled else None,
        ("triton", "endpoint"): config.triton.endpoint if config.triton.enabled else None,
        ("triton", "grpc_endpoint"): config.triton.grpc_endpoint if config.triton.enabled else None,
        ("ray_serve", "endpoint"): config.ray_serve.endpoint if config.ray_serve.enabled else None,
        ("ray_serve", "address"): config.ray_serve.address if config.ray_serve.enabled else None,
    }
    return {
        path: urlsplit(url if "//" in url else f"//{url}").hostname or ""
        for path, url in targets.items()
        if url
    }


def _metadata_services(config: Sections) -> Iterator[Problem]:
    """Find addresses at which a cloud gives out the machine's credentials."""
    for path, host in outbound(config).items():
        if is_metadata(host) and host not in config.orchestration.allowed_link_local:
            yield path, METADATA_PROBLEM.format(host=host, found=host)


def _overlapping_directories(config: Sections) -> Iterator[Problem]:
    """Find directories whose contents would be mistaken for models or drops."""
    orchestration = config.orchestration
    directories = {
        "model_repository": orchestration.model_repository,
        "incoming_directory": orchestration.incoming_directory,
        "rejected_directory": orchestration.rejected,
        "state_directory": orchestration.state,
    }
    scanned = ("model_repository", "incoming_directory")
    for (first, one), (second, other) in combinations(directories.items(), 2):
        path = ("orchestration", second)
        if one == other:
            yield path, f"{other} is also {first}; use a separate directory"
        elif first in scanned and other.is_relative_to(one):
            yield path, f"{other} is inside {first} {one}; use a directory outside it"
        elif second in scanned and one.is_relative_to(other):
            yield path, f"{other} contains {first} {one}; use a directory outside it"


def _shared_ports(config: Sections) -> Iterator[Problem]:
    taken: dict[int, str] = {}
    for path, port in _local_ports(config):
        name = ".".join(path)
        if port in taken:
            yield (
                path,
                f"port {port} is also {taken[port]}; use another, or 0 for any free port",
            )
        else:
            taken[port] = name


def _alias_chains(config: Sections) -> Iterator[Problem]:
    aliases = config.gateway.aliases
    for alias, target in aliases.items():
        if target in aliases:
            yield (
                ("gateway", "aliases", alias),
                f"{target} is also an alias; use a model name or NAME:VERSION",
            )


def _local_ports(config: Sections) -> Iterator[tuple[FieldPath, int]]:
    """Yield the ports that this configuration listens on; port 0 conflicts with nothing."""
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
